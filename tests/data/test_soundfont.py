"""The sampler against what is known of each note: its pitch, its decay, its length."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eisbach.data.performance import in_room
from eisbach.data.render import RenderSpec, developing_clip
from eisbach.data.soundfont import Envelope, SoundFont
from eisbach.data.synth import (
    ENSEMBLES,
    INSTRUMENTS,
    Track,
    dies_away,
    ensembles_for,
    fit_octave,
    fold_into,
    get_font,
    sound_font,
    synthesise,
)
from eisbach.errors import UserError
from eisbach.types import SkipReport, Waveform

RATE = 44100


def partial_near(samples: np.ndarray, frequency: float) -> float:
    """Frequency of the strongest partial within a semitone and a half of `frequency` (parabolic peak)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17))
    bins = np.arange(len(spectrum)) * RATE / (1 << 17)
    near = np.flatnonzero((bins > frequency * 0.92) & (bins < frequency * 1.09))
    peak = near[np.argmax(spectrum[near])]
    assert spectrum[peak] > 0.05 * spectrum.max()
    return float(bins[peak])


@pytest.mark.parametrize("name", list(INSTRUMENTS))
def test_every_instrument_sounds_in_tune(name: str) -> None:
    instrument = INSTRUMENTS[name]
    for pitch in ((2 * instrument.low + instrument.high) // 3, (instrument.low + 2 * instrument.high) // 3):
        frequency = 440.0 * 2 ** ((pitch - 69) / 12)
        samples = get_font().note(instrument.program, pitch, 0.9, RATE)[2000:]
        # half a semitone at most; the font's own strings and bells are up to 20 cents off
        assert abs(12 * np.log2(partial_near(samples, frequency) / frequency)) < 0.5


def test_a_note_follows_its_envelope() -> None:
    envelope = Envelope(attack=0.1, hold=0.1, decay=20.0, sustain=30.0, release=0.5)
    level = 20 * np.log10(np.maximum(envelope.level(4000, 1000), 1e-9))
    assert level[50] == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert level[150] == pytest.approx(0.0, abs=1e-3)
    assert level[700] == pytest.approx(-10.0, abs=0.1)
    assert level[3999] == pytest.approx(-30.0, abs=1e-3)
    assert envelope.audible(10.0) == pytest.approx(0.7)
    assert envelope.audible(31.0) == float("inf")


def test_plucked_sounds_die_away_and_bowed_ones_last() -> None:
    for name, dies in (("celesta", True), ("pizzicato strings", True), ("violin", False), ("church organ", False)):
        pitch = INSTRUMENTS[name].low + 6
        assert dies_away(get_font().envelope(INSTRUMENTS[name].program, pitch)) is dies
        track = Track(name, np.zeros(1), np.array([7.0]), np.array([pitch]), np.array([100.0]))
        samples = synthesise([track], 8.0, 22050).samples[0].reshape(8, -1)
        loudness = np.sqrt(np.square(samples).mean(axis=1))
        assert bool(loudness[6] < 0.02 * loudness[0]) is dies
        assert loudness[6] > 0.3 * loudness[0] or dies  # also beyond the length that is kept of a note


def test_velocity_pan_and_addition() -> None:
    def one(velocity: float, pan: float = 0.0, at: float = 0.0) -> Track:
        return Track("flute", np.array([at]), np.array([0.5]), np.array([76]), np.array([velocity]), pan)

    loud, soft = (synthesise([one(v)], 1.0, 22050).samples for v in (120.0, 60.0))
    assert np.abs(loud).max() / np.abs(soft).max() == pytest.approx(2**1.7, rel=1e-3)
    both = synthesise([one(120.0), one(60.0)], 1.0, 22050).samples
    np.testing.assert_allclose(both, loud + soft, atol=1e-6)
    left = synthesise([one(100.0, pan=-1.0)], 1.0, 22050, stereo=True).samples
    assert np.abs(left[1]).max() < 1e-6 < np.abs(left[0]).max()
    late = synthesise([one(120.0, at=0.4)], 1.0, 22050).samples
    shift = round(0.4 * 22050)
    assert not late[0, :shift].any()
    np.testing.assert_allclose(late[0, shift : shift + 9000], loud[0, :9000], atol=1e-6)


def test_foreign_files_and_programs_are_refused(tmp_path: object) -> None:
    path = sound_font().parent / "__init__.py"
    with pytest.raises(UserError, match="not a SoundFont file"):
        SoundFont(path)
    with pytest.raises(UserError, match="no sound for program 200;"):
        get_font().note(200, 60, 1.0, RATE)


def test_notes_are_brought_into_the_range_by_octaves() -> None:
    pitch = np.array([20, 60, 64, 67, 120])
    for instrument in INSTRUMENTS.values():
        folded = fold_into(pitch + fit_octave(pitch, instrument), instrument)
        assert (folded >= instrument.low).all()
        assert (folded <= instrument.high).all()
        assert ((folded - pitch) % 12 == 0).all()


def test_ensembles_name_real_instruments_and_families_have_several() -> None:
    for ensemble in ENSEMBLES.values():
        assert [member.name for member in ensemble.members()] == list(ensemble.instruments)
    for family in ("quartet", "tune", "rag"):
        assert len(ensembles_for(family)) > 20
    with pytest.raises(UserError, match="no ensemble 'kazoo'"):
        ensembles_for("tune", ("kazoo",))


def test_a_damaged_font_is_one_sentence(tmp_path: Path) -> None:
    """Cut off anywhere, or with bytes of its tables changed, it plays or is refused."""
    content = sound_font().read_bytes()
    tables = content.rfind(b"pdta")
    draw = random.Random(0)
    refused: list[str] = []
    for number in range(16):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: draw.randrange(tables // 2, len(damaged))]
        else:
            start = draw.randrange(tables, len(damaged) - 64)
            damaged[start : start + 64] = draw.randbytes(64)
        path = tmp_path / "damaged.sf2"
        path.write_bytes(damaged)
        try:
            font = SoundFont(path)
            for program in (0, 40, 73):
                assert np.isfinite(font.note(program, 72, 0.2, RATE)).all()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) >= 8  # all that are cut off
    assert all("\n" not in sentence for sentence in refused)


def _font(path: Path, tone: np.ndarray, keys: tuple[int, int], *, compressed: bool) -> Path:
    """A font of one looped tone at middle A, over a range of keys, as version 2 or 3 of the format."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    def named(name: bytes, values: bytes) -> bytes:
        return name.ljust(20, b"\0") + values

    sound = (tone * 32767).astype("<i2").tobytes()
    end = len(tone)
    if compressed:
        stream = io.BytesIO()
        soundfile.write(stream, tone, RATE, format="OGG", subtype="VORBIS")
        sound, end = stream.getvalue(), len(stream.getvalue())
    generators = struct.pack("<HHHHHH", 43, keys[0] | keys[1] << 8, 54, 1, 53, 0)  # keys, looped, sample 0
    header = named(b"tone", struct.pack("<IIIIIBbHH", 0, end, 4410, 8820, RATE, 69, 0, 0, 0x11 if compressed else 1))
    tables = [
        (b"phdr", b"".join(named(n, struct.pack("<HHHIII", 0, 0, i, 0, 0, 0)) for i, n in enumerate((b"a", b"EOP")))),
        (b"pbag", struct.pack("<HHHH", 0, 0, 1, 0)),
        (b"pmod", b"\0" * 10),
        (b"pgen", struct.pack("<HHHH", 41, 0, 0, 0)),
        (b"inst", named(b"a", struct.pack("<H", 0)) + named(b"EOI", struct.pack("<H", 1))),
        (b"ibag", struct.pack("<HHHH", 0, 0, 3, 0)),
        (b"imod", b"\0" * 10),
        (b"igen", generators + b"\0" * 4),
        (b"shdr", header + b"\0" * 46),
    ]
    lists = [(b"sdta", chunk(b"smpl", sound)), (b"pdta", b"".join(chunk(*table) for table in tables))]
    body = b"sfbk" + b"".join(chunk(b"LIST", kind + content) for kind, content in lists)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def test_a_compressed_font_sounds_as_the_plain_one(tmp_path: Path) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)
    plain = SoundFont(_font(tmp_path / "a.sf2", tone, (60, 72), compressed=False))
    ogg = SoundFont(_font(tmp_path / "a.sf3", tone, (60, 72), compressed=True))
    for pitch in (60, 69, 80, 48, 30, 100):  # all but two beyond the font's keys: its nearest one, retuned
        frequency = 440.0 * 2 ** ((pitch - 69) / 12)
        before, after = (font.note(0, pitch, 0.9, RATE) for font in (plain, ogg))
        assert abs(12 * np.log2(partial_near(after[2000:], frequency) / frequency)) < 0.1
        assert np.abs(before - after).max() < 0.05
    assert np.isfinite(plain.note(0, 127, 0.1, RATE)).all()
    assert plain.envelope(0, 127) == plain.envelope(0, 72)
    with pytest.raises(UserError, match="no sound for program 43; give a font of all General MIDI programs"):
        plain.note(43, 60, 0.1, RATE)
    broken = (tmp_path / "a.sf3").read_bytes().replace(b"vorbis", b"nobody")
    (tmp_path / "b.sf3").write_bytes(broken)
    with pytest.raises(UserError, match="no Ogg Vorbis"):
        SoundFont(tmp_path / "b.sf3").note(0, 69, 0.1, RATE)


def test_a_clip_sounds_in_its_own_room_and_font(tmp_path: Path) -> None:
    """Font and room change the sound and nothing that is played; the same spec gives the same bytes."""
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)
    font = str(_font(tmp_path / "a.sf2", tone, (0, 127), compressed=False))
    common = {"seed": 3, "seconds": (2.0,), "pieces": ("bach/bwv66.6",), "channels": 2, "styles": ("piano",)}
    cache, report = tmp_path / "scores", SkipReport()
    specs = [RenderSpec(**common), RenderSpec(**common, room=True), RenderSpec(**common, fonts=(font,))]
    clips = [[developing_clip(spec, index, cache, report) for index in range(6)] for spec in specs]
    assert {clip.caption for clip in clips[0]} == {clip.caption for clip in clips[1]}
    again = developing_clip(specs[1], 2, cache, report)
    assert np.array_equal(again.waveform.samples, clips[1][2].waveform.samples)
    roomy = [not np.allclose(a.waveform.samples, b.waveform.samples) for a, b in zip(clips[0], clips[1], strict=True)]
    assert 1 <= sum(roomy) <= 6
    with pytest.raises(UserError, match=r"there is no sound font .*missing.sf2"):
        RenderSpec(fonts=(str(tmp_path / "missing.sf2"),))
    with pytest.raises(UserError, match="flat material is made with the packaged sound font"):
        RenderSpec(kind="flat-drone", room=True)


def test_a_room_keeps_length_and_prolongs_sound() -> None:
    click = np.zeros((2, 16000), np.float32)
    click[:, 1000] = 1.0
    rooms = [in_room(Waveform(click, 16000), np.random.default_rng(seed)) for seed in range(12)]
    assert all(room.samples.shape == click.shape for room in rooms)
    dry = [np.array_equal(room.samples, click) for room in rooms]
    assert 0 < sum(dry) < 12
    for room, is_dry in zip(rooms, dry, strict=True):
        assert np.abs(room.samples[:, :1000]).max() < 1e-6  # nothing sounds before its cause
        assert is_dry or np.square(room.samples[:, 3000:]).sum() > 0
        assert is_dry or abs(np.corrcoef(room.samples[:, 1200:])[0, 1]) < 0.5  # channels have tails of their own
