"""What the original basic-pitch 0.4.0 hears in a made phrase: python recipes/judges/golden_basic_pitch.py --package DIR
--out FILE.

Needs onnxruntime, librosa, mir_eval, pretty_midi, resampy and the unpacked wheel; no TensorFlow, since the package runs
its own ONNX file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from eisbach.files import write_json

RATE, SECONDS = 22050, 9.3
PHRASE = (
    *((0.2, 60, 0.5), (0.7, 64, 0.5), (1.2, 67, 0.5), (1.2, 48, 1.4), (1.7, 72, 0.9), (2.6, 71, 0.4), (3.0, 69, 0.4)),
    *((3.4, 67, 1.2), (3.4, 52, 1.2), (3.4, 55, 1.2), (4.7, 62, 0.25), (4.95, 64, 0.25), (5.2, 65, 0.25)),
    *((5.45, 62, 0.25), (5.7, 60, 1.0), (6.8, 76, 0.6), (7.4, 74, 0.6), (8.0, 72, 1.0)),
)
"""Onset (s), MIDI pitch and length (s) of the notes; chords and runs, so that every part of the decoding is used."""


def phrase() -> np.ndarray:
    """The sound of it, [shape=(samples,), float32]; the test makes the same one."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    sound = 1e-3 * np.random.default_rng(3).standard_normal(len(time))
    for onset, pitch, length in PHRASE:
        inside = (time >= onset) & (time < onset + length)
        since = time[inside] - onset
        envelope = np.exp(-2 * since) * np.minimum(1, since / 0.01) * np.minimum(1, (length - since) / 0.02)
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        sound[inside] += envelope * sum(np.sin(2 * np.pi * hertz * k * since) / k**1.5 for k in range(1, 7))
    return (0.1 * sound).astype(np.float32)


def main() -> None:
    """Asks the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the folder that holds basic_pitch/")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(options.package))
    from basic_pitch.inference import run_inference
    from basic_pitch.note_creation import model_frames_to_time, output_to_notes_polyphonic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phrase.wav"
        soundfile.write(path, phrase(), RATE, subtype="FLOAT")
        heard = run_inference(path, options.package / "basic_pitch/saved_models/icassp_2022/nmp.onnx")
    notes = output_to_notes_polyphonic(
        heard["note"].copy(), heard["onset"].copy(), onset_thresh=0.5, frame_thresh=0.3, min_note_len=11,
        infer_onsets=True, max_freq=None, min_freq=None,
    )  # fmt: skip
    frames = np.arange(0, len(heard["note"]), 40)
    write_json(
        options.out,
        {
            "notes": sorted(
                ([int(first), int(end), int(pitch), round(float(loud), 5)] for first, end, pitch, loud in notes),
                key=lambda note: (note[0], note[2]),
            ),
            "frames": frames.tolist(),
            "sounding": heard["note"][frames].astype(float).round(4).tolist(),
            "beginning": heard["onset"][frames].astype(float).round(4).tolist(),
            "times": model_frames_to_time(len(heard["note"]))[frames].round(4).tolist(),
        },
    )


if __name__ == "__main__":
    main()
