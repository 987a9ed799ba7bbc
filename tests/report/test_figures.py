from __future__ import annotations

import struct

import numpy as np
import pytest

from eisbach.audio import read_audio, write_audio
from eisbach.errors import UserError
from eisbach.report import figures
from eisbach.report.figures import project, trajectory_limit
from eisbach.structure import analyze
from eisbach.structure.features import extract_features
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

PIECE = synthetic.form("ABC", 4.0, 2)


def size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize(
    "picture", [figures.mel_picture, figures.similarity_picture, figures.trajectory_picture, figures.clip_picture]
)
def test_pictures_are_png_bytes_and_files(picture, tmp_path):
    out = tmp_path / "deep" / "picture.png"
    png = picture(PIECE, out=out, title="50% of $x_ {")
    assert out.read_bytes() == png
    width, height = size(png)
    assert 500 < width < 2500
    assert 300 < height < 1500


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    path = tmp_path / "piece.wav"
    write_audio(path, PIECE)
    from_file = read_audio(path)
    expected = figures.mel_picture(from_file)
    for source in (path, str(path), extract_features(from_file), analyze(from_file)):
        assert figures.mel_picture(source) == expected


@pytest.mark.whole
def test_a_grid_has_a_row_a_clip():
    one = size(figures.grid_picture([("plain", PIECE)]))
    three = size(figures.grid_picture([("plain", PIECE)] * 3))
    assert one[0] == three[0]
    assert three[1] > 2.5 * one[1]
    with pytest.raises(UserError, match="1 to 24"):
        figures.grid_picture([])


@pytest.mark.parametrize("samples", [np.zeros(5000), 0.1 * np.ones(1), np.sin(np.arange(22050 * 2) / 9)])
def test_silent_and_short_clips_are_drawn_as_such(samples):
    size(figures.clip_picture(Waveform(samples.astype(np.float32)[None], 22050)))


def test_titles_in_any_script_are_quiet(recwarn):
    figures.mel_picture(PIECE, title="三つの曲 – Тема – לחן")
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []


def test_no_global_figure_state():
    import matplotlib.pyplot as plt

    figures.clip_picture(PIECE)
    assert plt.get_fignums() == []


def test_projection_keeps_distances_in_rms_db():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((30, 2)) @ np.linalg.qr(rng.standard_normal((32, 2)))[0].T * 9.0
    path, explained = project(plane)
    assert explained.sum() == pytest.approx(1.0)
    for i, j in ((0, 5), (3, 20)):
        assert np.linalg.norm(path[i] - path[j]) == pytest.approx(np.sqrt(np.mean((plane[i] - plane[j]) ** 2)))


def test_still_clips_have_a_path_of_no_length():
    path, explained = project(np.full((10, 32), -20.0))
    assert np.abs(path).max() == 0.0
    assert explained.sum() == 0.0
    assert trajectory_limit([extract_features(synthetic.noise(1, 6.0))]) == 2.0
