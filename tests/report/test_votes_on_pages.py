"""A listening test's votes on the pages of an analysis and an experiment: what listeners chose stands beside what was
measured, and votes about other sets are refused before any work."""

from __future__ import annotations

import json

import pytest
from test_experiment_page import Page, make, page_of
from test_listening_test import _ballot, _clip, _for_barrier, _save
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli.main import app
from eisbach.errors import UserError
from eisbach.report.comparison.page import render_comparison_page
from eisbach.report.listen.trials import ListeningPlan, make_test
from eisbach.report.listen.votes import votes_about


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """Two folders, a blind test between them, and three listeners who choose the second."""
    root = tmp_path_factory.mktemp("voted")
    sets = [root / "secret-plain", root / "secret-barrier"]
    for place, folder in enumerate(sets):
        for index in range(2):
            write_audio(folder / f"p{index}.wav", _clip(50 * place + index, gain=0.2, channels=1))
    key, _ = make_test(ListeningPlan(sets, root / "test", seconds=5.0, repeats=0, anchors=0))
    _save(root / "test" / "votes", *(_ballot(key, f"listener{i}", _for_barrier(key)) for i in range(3)))
    return root, sets


def test_an_analysis_says_what_listeners_chose(voted, tmp_path):
    root, sets = voted
    words = [
        *map(str, sets),
        "--votes",
        str(root / "test"),
        "--out",
        str(tmp_path),
        "--no-pictures",
        "--listen",
        "0",
        "-q",
    ]
    done = CliRunner().invoke(app, ["analyze", *words])
    assert done.exit_code == 0, done.output
    said = "secret-barrier is chosen over secret-plain"
    assert said in done.stdout
    text = Page((tmp_path / "index.html").read_text()).text
    assert text.index("The verdict") < text.index("What listeners heard") < text.index(said)
    shown = json.loads(CliRunner().invoke(app, ["analyze", *words, "--json"]).stdout)
    assert shown["votes"]["preferences"]["prefer"][0]["arm"] == "secret-barrier"


def test_the_arms_of_an_experiment_have_their_votes(voted, tmp_path):
    score = votes_about(voted[0] / "test", ["secret-plain", "secret-barrier", "oracle"])
    rows = make(tmp_path, prompts=1, seeds=(1,), audio=False)
    page = page_of(tmp_path, rows, votes=score, pictures=False)
    parsed = Page(render_comparison_page(page))
    assert "What listeners heard" in parsed.text
    assert "3 of 3 listeners were attentive" in parsed.text
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "What listeners heard" not in Page(render_comparison_page(page_of(tmp_path, rows, pictures=False))).text


def test_votes_about_other_sets_or_of_nobody_are_refused_before_the_work(voted, tmp_path):
    root, sets = voted
    renamed = [f"a={sets[0]}", f"b={sets[1]}"]
    for command in (
        ["analyze", *renamed, "--votes", str(root / "test"), "--out", str(tmp_path / "out")],
        ["experiment", "run", "demo", "--votes", str(root / "test"), "--out", str(tmp_path / "out")],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, UserError)
        assert "compared secret-plain, secret-barrier, and the page is about" in str(done.exception)
    assert not (tmp_path / "out").exists()
    make_test(ListeningPlan(sets, tmp_path / "young", seconds=5.0, repeats=0, anchors=0))
    with pytest.raises(UserError, match="nobody has voted yet"):
        votes_about(tmp_path / "young", ["secret-plain", "secret-barrier"])
    with pytest.raises(UserError):
        votes_about(sets[0], ["secret-plain"])
