"""Small audio for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf


def tone(seconds: float = 1.0, rate: int = 16000, channels: int = 1, frequency: float = 220.0) -> np.ndarray:
    """(n, channels): a tone that grows, so that its beginning differs from its end."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.1 * (0.5 + time / max(seconds, 1e-9)) * np.sin(2 * np.pi * frequency * time)
    return np.repeat(wave[:, None], channels, axis=1)


def write(path: Path, samples: np.ndarray, rate: int = 16000, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(str(path), samples, rate, subtype=subtype)
    return path
