"""What an audio file is like, found by reading it in blocks: memory stays bounded whatever its length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SILENT_PEAK = 10 ** (-80 / 20)
CLIPPED_SHARE = 1e-4
"""Share of samples at full scale from which a file counts as clipped (isolated peaks do not)."""
SHORT_SECONDS, LONG_SECONDS = 1.0, 1800.0

_BLOCK = 1 << 18


@dataclass(frozen=True)
class AudioFacts:
    """What was found.

    Attributes
    ----------
    duration : float
        Seconds.
    sample_rate, channels : int
    peak : float
        Largest absolute sample.
    clipped : float
        Share of samples at or above 0.999 of full scale that lie in runs of at least three.
    problem : str or None
        Why the file cannot be used at all; None when it can.
    """

    duration: float
    sample_rate: int
    channels: int
    peak: float
    clipped: float
    problem: str | None = None


def inspect_audio(path: str | Path) -> AudioFacts:
    """The facts of one file; a file that cannot be used has `problem` set, nothing is raised."""
    import soundfile as sf

    path = Path(path)
    frames, peak, clipped, bad = 0, 0.0, 0, 0
    rate, channels = 0, 0
    try:
        if path.stat().st_size == 0:
            return AudioFacts(0.0, 0, 0, 0.0, 0.0, "is an empty file")
        with sf.SoundFile(str(path)) as handle:
            rate, channels = int(handle.samplerate), int(handle.channels)
            for block in handle.blocks(_BLOCK, dtype="float32", always_2d=True):
                frames += len(block)
                finite = np.isfinite(block)
                bad += int(block.size - finite.sum())
                size = np.abs(np.where(finite, block, 0.0))
                peak = max(peak, float(size.max(initial=0.0)))
                full = size >= 0.999
                if len(full) > 2 and full.any():
                    clipped += int((full[:-2] & full[1:-1] & full[2:]).sum())
    except (sf.LibsndfileError, RuntimeError, OSError, EOFError) as error:
        return AudioFacts(0.0, rate, channels, 0.0, 0.0, f"cannot be read as audio ({' '.join(str(error).split())})")
    problem = None
    if frames == 0:
        problem = "holds no samples"
    elif bad:
        problem = f"holds {bad} NaN or infinite samples"
    elif peak < SILENT_PEAK:
        problem = "is silent (peak below -80 dBFS)"
    elif frames < 2:
        problem = "holds a single frame"
    share = clipped / max(1, frames * channels)
    return AudioFacts(frames / rate if rate else 0.0, rate, channels, peak, share, problem)
