"""What the original musicnn 0.1.0 says of three made sounds: python recipes/judges/golden_musicnn.py --package DIR
--out FILE.

Needs TensorFlow, tf_keras (with TF_USE_LEGACY_KERAS=1), librosa and the package's folder. Each sound is one window
long, since the package repeats the first window's penultimate layer for all later ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

RATE, SAMPLES = 16_000, 186 * 256


def sounds() -> np.ndarray:
    """Plucked tones, a chord under noise and a rising tone, [shape=(3, samples), float32]; the test makes the same
    ones."""
    t = np.arange(SAMPLES) / RATE
    noise = np.random.default_rng(5).standard_normal((3, SAMPLES))
    plucked = sum(np.sin(2 * np.pi * hertz * t) * np.exp(-3 * ((t * rate) % 1)) for hertz, rate in ((220, 2), (331, 3)))
    chord = sum(np.sin(2 * np.pi * hertz * t) for hertz in (110, 138.6, 164.8)) + 0.5 * noise[1]
    rising = np.sin(2 * np.pi * (200 * t + 300 * t**2))
    return np.stack([0.02 * plucked + 0.0005 * noise[0], 0.01 * chord, 0.03 * rising]).astype(np.float32)


def main() -> None:
    """Asks the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="the folder that holds musicnn/")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(options.package))
    from musicnn.extractor import extractor

    tags, penultimate = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, sound in enumerate(sounds()):
            path = Path(folder) / f"{number}.wav"
            soundfile.write(path, sound, RATE, subtype="FLOAT")
            taggram, _, features = extractor(str(path), model="MTT_musicnn", input_length=3, extract_features=True)
            tags.append(taggram[0])
            penultimate.append(features["penultimate"][0])
    save_file({"tags": np.stack(tags), "penultimate": np.stack(penultimate)}, options.out)


if __name__ == "__main__":
    main()
