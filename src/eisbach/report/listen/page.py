"""The page of a listening test's score, and the same in sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eisbach
from eisbach.errors import UserError
from eisbach.files import parse_object, read_text, write_json, write_text
from eisbach.report.charts import arms_chart
from eisbach.report.listen.trials import QUESTIONS, Question
from eisbach.report.listen.votes import Agreement, ListeningScore, check_votes, load_key
from eisbach.report.page import NumberTable, render_page
from eisbach.statistics.preferences import Preference
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import ArmSummary

_AGREEMENTS_SHOWN = 12


def score_lines(score: ListeningScore) -> list[str]:
    """Who was chosen over the baseline, how sure that is, and what would decide; one sentence each."""
    lines = []
    for question, found in score.preferences.items():
        lines.append(QUESTIONS[question])
        lines += [f"  {_sentence(preference)}" for preference in found]
    return [*lines, _attention(score)]


def write_score(score: ListeningScore, folder: Path) -> Path:
    """Writes `score.json` and `score.html`, and returns the page.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    write_json(folder / "score.json", score.to_json())
    page = folder / "score.html"
    votes = sum(listener.answered for listener in score.listeners if listener.attentive)
    html = render_page(
        "score.html.j2",
        title="What listeners heard",
        question=None,
        facts=[("listeners", str(len(score.listeners))), ("pairs judged", str(votes))],
        version=eisbach.__version__,
        votes=votes_section(score),
    )
    write_text(page, html)
    return page


def votes_section(score: ListeningScore) -> dict[str, Any]:
    """What `votes.html.j2` shows of a score."""
    return {
        "sections": [_section(question, found) for question, found in score.preferences.items()],
        "attention": _attention(score),
        "listeners": _listeners(score),
        "agreements": _agreements(score.agreements),
        "skipped": [(Path(skip.item).name, skip.reason) for skip in score.skips.skipped],
    }


def _sentence(found: Preference) -> str:
    text = f"{found.arm} is chosen over {found.baseline} in {found.share:.0%} of votes"
    if found.low is None or found.high is None:
        return f"{text}; one listener or one prompt says nothing about others."
    text += f" (95%: {found.low:.0%} to {found.high:.0%}; {found.listeners} listeners, {found.prompts} prompts)"
    if found.decided:
        return f"{text}: {'more often' if found.share > 0.5 else 'less often'} than not."
    if found.more_listeners is None:
        return f"{text}: undecided, and more listeners of these prompts would not settle it; take more prompts."
    people = "listener" if found.more_listeners == 1 else "listeners"
    return f"{text}: undecided; about {found.more_listeners} more {people} would settle a difference of this size."


def _attention(score: ListeningScore) -> str:
    attentive = sum(listener.attentive for listener in score.listeners)
    equal = sum(listener.repeats_equal for listener in score.listeners if listener.attentive)
    repeats = sum(listener.repeats for listener in score.listeners if listener.attentive)
    text = f"{attentive} of {len(score.listeners)} listeners were attentive"
    if repeats:
        text += f"; asked again with sides changed, they gave the same answer {equal} of {repeats} times"
    return f"{text}."


def _section(question: Question, found: Sequence[Preference]) -> dict[str, object]:
    info = MetricInfo(question, QUESTIONS[question].rstrip("?"), share=True)
    summaries = [
        ArmSummary(
            preference.arm,
            question,
            preference.share,
            None if preference.low is None or preference.high is None else (preference.low, preference.high),
            {},
            preference.votes,
        )
        for preference in found
    ]
    labels = {preference.arm: f"{preference.arm} over {preference.baseline}" for preference in found}
    rows = [
        [
            f"{preference.arm} over {preference.baseline}",
            f"{preference.share:.0%}",
            "" if preference.low is None else f"{preference.low:.0%} to {preference.high:.0%}",
            str(preference.votes),
            str(preference.no_difference),
            {True: "yes", False: "no"}[preference.decided],
        ]
        for preference in found
    ]
    head = ["pair of arms", "chosen", "95%", "votes", "called equal", "decided"]
    note = "‘No difference’ counts half for each side; half of the votes is no preference."
    return {
        "name": question,
        "title": QUESTIONS[question],
        "sentences": [_sentence(preference) for preference in found],
        "chart": arms_chart(info, summaries, labels) if summaries else "",
        "table": NumberTable("In numbers", note, head, rows),
    }


def _listeners(score: ListeningScore) -> NumberTable:
    rows = [
        [
            listener.name,
            str(listener.answered),
            f"{listener.anchors_right} of {listener.anchors}",
            f"{listener.repeats_equal} of {listener.repeats}",
            "yes" if listener.attentive else "no",
        ]
        for listener in score.listeners
    ]
    note = "An anchor sets a clip against a loop of itself; three quarters must be told apart for votes to count."
    return NumberTable("Listeners", note, ["file", "pairs", "anchors right", "same answer again", "counts"], rows)


def _agreements(agreements: Sequence[Agreement]) -> list[NumberTable]:
    tables = []
    for question in dict.fromkeys(agreement.question for agreement in agreements):
        found = [agreement for agreement in agreements if agreement.question == question]
        found.sort(key=lambda agreement: -abs(agreement.share - 0.5))
        rows = [
            [
                agreement.metric.replace("_", " "),
                f"{agreement.share:.0%}",
                "" if agreement.low is None else f"{agreement.low:.0%} to {agreement.high:.0%}",
                str(agreement.votes),
            ]
            for agreement in found[:_AGREEMENTS_SHOWN]
        ]
        note = "Share of decided votes for the clip where the measure is higher; 50% is no relation. Exploratory."
        tables.append(NumberTable(QUESTIONS[question], note, ["measure", "agrees", "95%", "votes"], rows))  # type: ignore[index]
    return tables


# --- the test in the browsers of a network: the page, its sounds, and a place for the votes


_MOST_BYTES = 2 << 20  # of one listener's votes


def listening_app(test: str | Path) -> Any:
    """An ASGI application that serves `test/page` and writes what is sent to it into `test/votes`.

    Only votes on this very test are taken, each listener's into a file of its own, whole or not at all; nothing else in
    the test's folder can be reached.

    Raises
    ------
    UserError
        The folder holds no listening test.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    test = Path(test)
    key = load_key(test)
    page = test / "page"
    html = read_text(page / "index.html", "page of the test")
    html = html.replace('id="program"', 'id="program" data-post="votes"', 1)

    async def index(_: Request) -> Response:
        return HTMLResponse(html)

    async def take(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return PlainTextResponse("too long", 413)
        try:
            values = parse_object(body.decode("utf-8"), "the votes")
            votes = check_votes(values, "what was sent", key)
        except (UserError, UnicodeDecodeError) as error:
            return PlainTextResponse(str(error), 400)
        name = re.sub(r"[^0-9A-Za-z]", "", votes.listener)[:32] or "listener"
        write_text(test / "votes" / f"votes-{name}.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        return PlainTextResponse("thank you", 201)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/votes", take, methods=["POST"]),
            Mount("/sounds", StaticFiles(directory=page / "sounds")),
        ]
    )
