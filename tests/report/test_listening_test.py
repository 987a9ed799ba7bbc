"""A listening test from two folders to a score: what listeners get, what they cannot learn, and whose votes count."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from eisbach.audio import read_audio, write_audio
from eisbach.errors import UserError
from eisbach.report.listen.page import listening_app, score_lines, write_score
from eisbach.report.listen.trials import ListeningPlan, TestKey, make_test
from eisbach.report.listen.votes import load_key, score_votes
from eisbach.structure.loudness_meter import LoudnessMeter, integrated_loudness
from eisbach.types import Waveform

RATE = 22_050


def _clip(seed: int, *, gain: float, channels: int) -> Waveform:
    """Six seconds of tones that move on every half second."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    notes = [np.sin(2 * np.pi * rng.uniform(200, 900) * time) * np.hanning(len(time)) for _ in range(12)]
    return Waveform(np.tile(gain * np.concatenate(notes), (channels, 1)).astype(np.float32), RATE)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, TestKey]:
    root = tmp_path_factory.mktemp("listening")
    for index in range(5):
        write_audio(root / "secret-plain" / f"p{index}.flac", _clip(index, gain=0.05, channels=1))
        write_audio(root / "secret-barrier" / f"p{index}.wav", _clip(50 + index, gain=0.6, channels=2))
    plan = ListeningPlan(
        [root / "secret-plain", root / "secret-barrier"], root / "test", seconds=5.0, repeats=2, anchors=2
    )
    key, skips = make_test(plan)
    assert not skips.skipped
    return root / "test", key


def _ballot(key: TestKey, listener: str, choose, *, heard: float = 4.0) -> dict:
    """What the page saves; `choose(question, trial)` gives the chosen sound or None."""
    rng = np.random.default_rng(len(listener) + ord(listener[-1]))
    pairs = []
    for trial in key.trials:
        sides = [trial.first, trial.second]
        rng.shuffle(sides)
        answers = {}
        for question in key.questions:
            token = choose(question, trial)
            answers[question] = "none" if token is None else "AB"[sides.index(token)]
        pairs.append(
            {"trial": trial.id, "A": sides[0], "B": sides[1], "answers": answers, "heard": {"A": heard, "B": heard},
             "seconds": 20.0}
        )  # fmt: skip
    return {"format": "eisbach-votes", "version": 1, "test": key.test, "listener": listener, "pairs": pairs}


def _for_barrier(key: TestKey):
    def choose(question, trial):
        if trial.answers:
            return trial.answers.get(question)
        arms = {key.clips[token].arm: token for token in (trial.first, trial.second)}
        return arms["secret-barrier"]

    return choose


def _save(folder: Path, *ballots: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for ballot in ballots:
        (folder / f"{ballot['listener']}.json").write_text(json.dumps(ballot))
    return folder


@pytest.mark.whole
def test_what_listeners_get_says_nothing_about_arms_or_files(made):
    folder, key = made
    page = folder / "page"
    text = (page / "index.html").read_text()
    names = [str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()]
    for secret in ("secret", "plain", "barrier", "anchor", "p0", "p1"):
        assert secret not in re.sub(r"[0-9a-f]{8}", "", text.split('id="data">')[1].split("</script>")[0])
        assert not any(secret in name for name in names)
    sizes = {path.stat().st_size for path in (page / "sounds").iterdir()}
    assert len(sizes) <= 2  # mono and stereo; the arms' levels do not show
    assert sorted({clip.arm for clip in key.clips.values()}) == ["", "secret-barrier", "secret-plain"]


def test_all_sounds_are_equally_loud(made):
    folder, key = made
    loudness = []
    for token in key.clips:
        waveform = read_audio(next((folder / "page" / "sounds").glob(f"{token}.*")))
        meter = LoudnessMeter(waveform.sample_rate, waveform.channels)
        meter.push(waveform.samples)
        loudness.append(integrated_loudness(meter.finish()))
        assert float(np.abs(waveform.samples).max()) <= 1.0
    assert max(loudness) - min(loudness) < 0.7


@pytest.mark.whole
def test_the_same_command_makes_the_same_test_and_another_is_refused(made):
    folder, key = made
    root = folder.parent
    sets = [root / "secret-plain", root / "secret-barrier"]
    again, _ = make_test(ListeningPlan(sets, folder, seconds=5.0, repeats=2, anchors=2))
    assert again == key
    with pytest.raises(UserError, match=r"seconds was 5\.0 and is now 4\.5"):
        make_test(ListeningPlan(sets, folder, seconds=4.5, repeats=2, anchors=2))


def test_votes_for_an_arm_are_found_and_measures_that_agree_are_named(made, tmp_path):
    folder, key = made
    votes = _save(tmp_path / "votes", *(_ballot(key, f"listener{i}", _for_barrier(key)) for i in range(4)))
    score = score_votes(folder, [votes])
    assert [listener.attentive for listener in score.listeners] == [True] * 4
    (preferred,) = score.preferences["prefer"]
    assert (preferred.arm, preferred.baseline, preferred.votes) == ("secret-barrier", "secret-plain", 20)
    assert preferred.share > 0.9
    assert preferred.decided
    assert all(agreement.votes <= 20 for agreement in score.agreements)
    page = write_score(score, tmp_path / "out").read_text()
    assert "secret-barrier is chosen over secret-plain" in page
    assert json.loads((tmp_path / "out" / "score.json").read_text())["preferences"]["prefer"][0]["decided"] is True


def test_listeners_who_do_not_listen_do_not_count(made, tmp_path):
    folder, key = made
    honest = [_ballot(key, f"honest{i}", _for_barrier(key)) for i in range(3)]
    careless = _ballot(key, "careless", lambda question, trial: trial.first if question == "repeats" else trial.second)
    deaf = _ballot(key, "deaf", _for_barrier(key), heard=0.2)
    score = score_votes(folder, [_save(tmp_path, *honest, careless, deaf)])
    by_name = {listener.name: listener for listener in score.listeners}
    assert not by_name["careless.json"].attentive
    assert by_name["deaf.json"].answered == 0
    assert score.preferences["develops"][0].votes == 15
    assert any("careless" in skip.item and "0 of 4" in skip.reason for skip in score.skips.skipped)
    assert score_lines(score)[-1].startswith("4 of 5 listeners were attentive; asked again with sides changed")


def _change(ballot: dict, how: str) -> dict:
    ballot = json.loads(json.dumps(ballot))
    pair = ballot["pairs"][0]
    if how == "another test":
        ballot["test"] = "0" * 16
    elif how == "answered twice":
        ballot["pairs"].append(pair)
    elif how == "none of the test's":
        pair["A"] = pair["B"]
    elif how == "is not as it was written":
        pair["answers"]["prefer"] = "secret-barrier"
    elif how == "was not written":
        ballot["pairs"][0]["heard"] = {"A": "long", "B": 1}
    return ballot


@pytest.mark.parametrize("how", ["another test", "answered twice", "none of the test's", "is not as it was written"])
def test_a_forged_file_is_named_and_the_others_count(made, tmp_path, how):
    folder, key = made
    good = _ballot(key, "good", _for_barrier(key))
    forged = _change(_ballot(key, "forged", _for_barrier(key)), how)
    score = score_votes(folder, [_save(tmp_path, good, forged)])
    assert [listener.name for listener in score.listeners] == ["good.json"]
    (skip,) = score.skips.skipped
    assert "forged.json" in skip.item
    assert how in skip.reason
    with pytest.raises(UserError, match="no file holds votes on this test"):
        score_votes(folder, [tmp_path / "forged.json"])


def test_a_listener_counts_once(made, tmp_path):
    folder, key = made
    ballot = _ballot(key, "twice", _for_barrier(key))
    part = {**ballot, "pairs": ballot["pairs"][:2]}
    votes = _save(tmp_path, ballot)
    (votes / "earlier.json").write_text(json.dumps(part))
    (votes / "broken.json").write_text("{")
    score = score_votes(folder, [votes])
    assert len(score.listeners) == 1
    assert score.listeners[0].answered == 5
    assert sorted(Path(skip.item).name for skip in score.skips.skipped) == ["broken.json", "earlier.json"]


def test_a_folder_without_a_test_is_told_how_one_is_made(tmp_path):
    with pytest.raises(UserError, match=r"no listening test in .*; make one \(eisbach listen A/ B/ --out .*\), or"):
        score_votes(tmp_path / "listening-test", [tmp_path])


def test_a_key_that_lost_a_sound_is_refused(made, tmp_path):
    folder, _ = made
    values = json.loads((folder / "key.json").read_text())
    values["clips"].pop(next(iter(values["clips"])))
    (tmp_path / "key.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="names a sound that it does not describe"):
        load_key(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"questions": ("louder",)}, "--questions must name some of develops, repeats, prefer"),
        ({"seconds": 1.0}, "lasts at least 4 s"),
        ({"seconds": float("nan")}, "lasts at least 4 s"),
        ({"baseline": "nobody"}, "there is no set 'nobody'"),
    ],
)
def test_plans_that_cannot_be_are_one_sentence(made, tmp_path, options, sentence):
    root = made[0].parent
    with pytest.raises(UserError, match=re.escape(sentence)):
        make_test(ListeningPlan([root / "secret-plain", root / "secret-barrier"], tmp_path / "t", **options))


def test_sets_that_share_nothing_are_refused(made, tmp_path):
    root = made[0].parent
    shutil.copytree(root / "secret-barrier", tmp_path / "other")
    for index, path in enumerate(sorted((tmp_path / "other").iterdir())):
        path.rename(path.with_stem(f"q{index}"))
    with pytest.raises(UserError, match="match none of"):
        make_test(ListeningPlan([root / "secret-plain", tmp_path / "other"], tmp_path / "t"))


def test_a_served_test_takes_votes_on_itself_alone(made):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    folder, key = made
    client = TestClient(listening_app(folder))
    assert 'data-post="votes"' in client.get("/").text
    sound = next((folder / "page" / "sounds").iterdir()).name
    assert client.get(f"/sounds/{sound}").status_code == 200
    for path in ("/key.json", "/sounds/../../key.json", "/sounds/%2e%2e/%2e%2e/key.json", "/../key.json"):
        assert client.get(path).status_code == 404
    ballot = _ballot(key, "../../evil", _for_barrier(key))
    assert client.post("/votes", json=ballot).status_code == 201
    assert [path.name for path in (folder / "votes").iterdir()] == ["votes-evil.json"]
    assert client.post("/votes", json={**ballot, "test": "x"}).status_code == 400
    assert client.post("/votes", content=b"\xff{").status_code == 400
    assert client.post("/votes", content=b"[" * 5000).status_code == 400
    assert client.post("/votes", content=b" " * (3 << 20)).status_code == 413
    assert len(list((folder / "votes").iterdir())) == 1
