"""Which clips go into which figure, under names that tell them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from eisbach.audio import write_audio
from eisbach.experiments.sets import collect_clips
from eisbach.report.structure.figure_set import draw, one_figure, paper_set, write_captions
from eisbach.structure import Clip
from eisbach.studies.ground_truth import synthetic


def clip(path, group="", name=None):
    return Clip(Path(path), {"id": name or Path(path).stem, "group": group})


@pytest.mark.parametrize(
    ("paths", "titles"),
    [
        (["x/a.wav", "x/b.wav"], ["a", "b"]),
        (["x/take.wav", "y/take.wav"], ["x: take", "y: take"]),
    ],
)
def test_clips_of_one_name_are_told_apart_by_their_group(paths, titles):
    drawing = one_figure("mel", [clip(path, Path(path).parent.name) for path in paths], Path("out.png"))
    assert [pictured.label for pictured in drawing.clips] == titles


@pytest.mark.parametrize("kind", ["mel", "spectrum", "blocks"])
@pytest.mark.parametrize(
    "paths",
    [
        ["x/1/take.wav", "x/2/take.wav", "x/2/other.wav"],
        ["x/take.wav", "x/take.flac"],
        ["1/take.wav", "x/1/take.wav"],
        ["a/b/take.wav", "b/take.wav", "c/a/b/take.wav"],
    ],
)
def test_clips_of_one_name_in_one_group_are_told_apart_by_their_place(kind, paths):
    drawing = one_figure(kind, [clip(path, "set") for path in paths], Path("out.png"))
    labels = [pictured.label for pictured in drawing.clips]
    assert len(set(labels)) == len(paths)
    if kind != "mel":  # and clips that are pooled by name are not pooled by accident
        assert len({pictured.group for pictured in drawing.clips}) == len(paths)


@pytest.mark.parametrize(
    "groups",
    [
        ["a b", "a_b", "a/b"],
        ["A", "a"],
        ["x" * 90, "x" * 91],
        ["音" * 90, "音" * 91],
        ["a", "a-2", "a?"],
        ["…", "?", "\udcff"],
    ],
)
def test_no_figure_of_a_set_overwrites_another(groups, tmp_path):
    clips = [clip(f"{index}/take.wav", group, f"take{index}") for index, group in enumerate(["plain", *groups])]
    files = [drawing.out for drawing in paper_set(clips, tmp_path, baseline="plain")]
    assert len({str(file).casefold() for file in files}) == len(files)
    assert all(len(file.name.encode()) <= 120 for file in files)
    pairs = [drawing for drawing in paper_set(clips, tmp_path, baseline="plain") if drawing.kind == "baseline"]
    assert len(pairs) == len(groups)
    assert "**baseline-" in write_captions(pairs, tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["$x_1^$", "a=b", "%s{x}", "esc\x1b[31m", "new\nline", "zero\u200bwidth", "e\u0301", "音", "-d"]
)
@pytest.mark.parametrize("form", [*(pytest.param(form, marks=pytest.mark.slow) for form in ("png", "pdf")), "svg"])
@pytest.mark.whole
def test_files_with_odd_names_are_drawn(name, form, tmp_path, recwarn):
    path = tmp_path / f"{name}.wav"
    write_audio(path, synthetic.form("AB", 5.0, 1))
    done = draw([one_figure("mel", collect_clips([path]), tmp_path / f"out.{form}")])
    assert done.written == [tmp_path / f"out.{form}"]
