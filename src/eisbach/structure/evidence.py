"""What the judge of flatness reads: how a sound differs from itself a moment, a few seconds and a cycle later.

Everything is read at one *level*: the clip's slow level (over 2 s) is taken off its mel frames first, and ends more
than `_LIFT_DB` below the rest are left out, so that neither a fade nor any other automation of volume passes for
development. What lies more than `_DEPTH_DB` below the level of its moment is silence: neither hiss nor an empty treble
is music.

Five questions, each asked of sound (mels) and, where it makes sense, of harmony (chroma), in frames of a quarter of a
second:

- *Distance*: how far apart are moments of the same clip, and how much nearer are those a quarter of a second to 8 s
  apart (the structure function of the clip)? A held chord is nowhere far, a texture is far at once and then no farther,
  pieces in random order are far from the length of a piece on, music goes on departing.
- *Travel*: the same distances after averages over 2 and 5 s: whatever only flutters stays where it is. That of the
  harmony is what lets a tune over a steady band count.
- *Cycle*: at which lag (1 to 20 s) does the clip differ least from itself, on average and in its worst tenth? Loops do
  not differ at all, and nowhere.
- *Order*: how far does the clip's own past foretell what comes (see `metrics.order`)?
- *Grain*: how the bands flutter about their half-second mean (noise has a spread, skewness and evenness of its own),
  and how many bands rise and fall at once where most of them do: notes rise together and die away, cuts also fall.

No entropy of frame energies and no spectrum of a Gram matrix is among them: a weighting that optimises those (the
entropy log-barrier, the recurrence barrier) cannot win by optimising its judge. The development barrier computes the
like of *Distance* and *Cycle* from latents: of its gains a second judge is asked (`studies/barrier_heard`).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, Features
from eisbach.structure.metrics.form import foretold

MIN_SECONDS = 8.0
"""A shorter stretch of sound says nothing."""
_STRETCH_SECONDS = 60.0
"""Longer clips are read in equal stretches of at most this, give or take a tenth."""
_LIFT_DB, _DEPTH_DB, _CEILING_DB = 40.0, 50.0, 20.0
_ENVELOPE = (51, 101)  # mel frames: means over 1 s of power, then over 2 s of dB
_POOL, _CYCLE_POOL = 12, 5  # mel frames: 4.17 and 10 a second
_AFTER = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # seconds
_FAR = 4.0  # seconds from which moments count as far apart
_TRAVEL = (2, 5)  # seconds
_SHORTEST_CYCLE, _LONGEST_CYCLE, _CYCLE_SHARE = 1.0, 20.0, 0.6  # seconds, seconds, of the stretch
_SOUND_UNIT, _TONE_UNIT = 0.1, 0.01  # what logarithms take for nothing: dB, and of a unit vector's length
_APART = 4.0  # seconds between a moment and its analogues
_STEP_FRAMES = 2  # half a second
_QUICK = 3  # mel frames: 60 ms
_STEP_DB, _AUDIBLE_DB = 8.0, -35.0
_STEP_SECONDS, _STEP_APART = 4.0, 25  # one step is looked at every 4 s, and none nearer to another than half a second


def stretches(features: Features) -> list[tuple[np.ndarray, np.ndarray]]:
    """Levelled mels [shape=(frames, 64)] and chroma [shape=(chroma frames, 12)] of equal stretches of a clip; none of
    less than `MIN_SECONDS` of sound."""
    if len(features.steady_db) < MIN_SECONDS * FRAME_RATE:
        return []
    mel, chroma = _levelled(features.steady_db, features.chroma)
    count = max(1, int(np.ceil(len(mel) / FRAME_RATE / (1.1 * _STRETCH_SECONDS))))
    parts = zip(np.array_split(mel, count), np.array_split(chroma, count), strict=True)
    return [(sound, tones) for sound, tones in parts if len(sound) >= MIN_SECONDS * FRAME_RATE]


def _levelled(mel_db: np.ndarray, chroma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    power = np.exp(mel_db * np.float32(np.log(10.0) / 10.0)).mean(axis=1, dtype=np.float64)
    level = 10.0 * np.log10(np.maximum(uniform_filter1d(power, min(len(power), _ENVELOPE[0]), mode="nearest"), 1e-9))
    level = uniform_filter1d(level, min(len(level), _ENVELOPE[1]), mode="nearest")
    lowest = np.percentile(level, 95.0) - _LIFT_DB
    heard = np.flatnonzero(level > lowest)
    first, last = int(heard[0]), int(heard[-1]) + 1
    level = np.maximum(level, lowest)[first:last].astype(np.float32)
    sound = np.clip(mel_db[first:last] - level[:, None], -_DEPTH_DB, _CEILING_DB)
    ratio = CHROMA_RATE / FRAME_RATE
    return sound, chroma[int(first * ratio) : max(1, int(last * ratio))]


def evidence(sound: np.ndarray, chroma: np.ndarray) -> dict[str, float]:
    """The judge's measures of one stretch; NaN where one is undefined.

    Parameters
    ----------
    sound : np.ndarray [shape=(frames, 64)]
        Mels, dB about the level of their moment, 50 a second, at least `MIN_SECONDS` of them.
    chroma : np.ndarray [shape=(chroma frames, 12)]
        Non-negative, 4 a second.
    """
    frames = _pooled(sound, _POOL)
    measures = {"log_seconds": float(np.log(len(sound) / FRAME_RATE))}
    measures |= _departures(frames, FRAME_RATE / _POOL, _SOUND_UNIT, "sound")
    directions, measures_of_tone = _tones(chroma)
    measures |= measures_of_tone
    measures |= _departures(directions, CHROMA_RATE, _TONE_UNIT, "tone")
    measures |= _jumps(frames, directions)
    measures |= _cycle(_pooled(sound, _CYCLE_POOL), FRAME_RATE / _CYCLE_POOL, 1.0, _SOUND_UNIT, "sound")
    measures |= _cycle(directions, CHROMA_RATE, 2.0, _TONE_UNIT, "tone")
    rate = FRAME_RATE / _POOL
    for name, past, future in (("short", 1.0, 1.0), ("even", 2.0, 2.0), ("long", 1.0, 4.0)):
        measures[f"order_{name}"] = foretold(frames, round(past * rate), round(future * rate), round(_APART * rate))
    shares = np.sqrt(chroma / np.maximum(chroma.sum(axis=1, keepdims=True), 1e-6))
    measures["order_tones"] = foretold(shares, 4, 4, round(_APART * CHROMA_RATE))
    return measures | _grain(sound) | _steps(sound)


def _pooled(frames: np.ndarray, size: int) -> np.ndarray:
    whole = len(frames) // size
    return frames[: whole * size].reshape(whole, size, -1).mean(axis=1, dtype=np.float64)


def _distances(frames: np.ndarray) -> np.ndarray:
    """Root mean square difference of every pair of rows, [shape=(n, n)]."""
    frames = frames - frames.mean(axis=0)
    square = np.einsum("ij,ij->i", frames, frames)
    return np.sqrt(np.maximum(square[:, None] + square[None, :] - 2.0 * frames @ frames.T, 0.0) / frames.shape[1])


def _by_lag(distances: np.ndarray) -> np.ndarray:
    """The upper triangle laid out by lag and row, [shape=(n, n)]: of row k the first n - k places hold lag k."""
    count = len(distances)
    padded = np.zeros((count, 2 * count))
    padded[:, :count] = distances
    size = padded.strides
    return np.lib.stride_tricks.as_strided(padded, (count, count), (size[0] + size[1], size[1]), writeable=False).T


def _mean_from(distances: np.ndarray, lag: int, share: float = 1.0) -> float:
    """Mean over the lags from `lag` to `share` of the clip, each counting the same; NaN where there is none."""
    count = len(distances)
    lags = np.arange(lag, int(share * count))
    if not len(lags):
        return float("nan")
    return float((_by_lag(distances)[lags[0] : lags[-1] + 1].sum(axis=1) / (count - lags)).mean())


def _departures(frames: np.ndarray, rate: float, unit: float, name: str) -> dict[str, float]:
    """How far apart moments lie, how much nearer at short lags, and how far apart 2 s and 5 s means are."""
    distances = _distances(frames)
    far = _mean_from(distances, round(_FAR * rate), 0.75)
    measures = {f"{name}_far": np.log(far + unit)}
    for seconds in _AFTER:
        lag = max(1, round(seconds * rate))
        near = np.diagonal(distances, lag).mean() if lag < len(distances) else np.nan
        measures[f"{name}_after_{seconds:g}"] = np.log((near + unit) / (far + unit))
    for length in _TRAVEL:
        size = int(length * rate)
        means = uniform_filter1d(frames, size, axis=0)[size // 2 : len(frames) - size // 2]
        travelled = _mean_from(_distances(means), size) if len(means) > size + 1 else np.nan
        measures[f"{name}_travel_{length}"] = np.log(travelled + unit)
    return measures


def _jumps(frames: np.ndarray, directions: np.ndarray) -> dict[str, float]:
    """How far the farthest steps over half a second go, as a share of the distance of any two moments: in sound, in
    harmony, and where both step at once (a joint of strangers)."""
    count = min(len(frames), len(directions))
    shares = []
    for part in (frames[:count], directions[:count]):
        far = _mean_from(_distances(part), round(_FAR * CHROMA_RATE), 0.75)
        step = np.sqrt(np.square(part[_STEP_FRAMES:] - part[:-_STEP_FRAMES]).mean(axis=1))
        shares.append(step / max(far, 1e-6))
    together = np.sqrt(shares[0] * shares[1])
    return {
        f"{name}_step_{quantile}": float(np.percentile(share, quantile))
        for name, share in (("sound", shares[0]), ("tone", shares[1]), ("joint", together))
        for quantile in (75, 90, 97)
    }


def _tones(chroma: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Directions of the chroma about its mean [shape=(chroma frames, 12), unit], how pronounced they are, and how far
    they turn within 4 s."""
    chroma = chroma.astype(np.float64)
    mean = chroma.mean(axis=1, keepdims=True)
    centred = chroma - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = centred / np.maximum(length, 1e-6)
    heard = mean[:, 0] > 0.02 * np.percentile(mean, 95.0)
    pronounced = (length / np.maximum(mean, 1e-6))[heard, 0] if heard.any() else np.zeros(1)
    size = round(_FAR * CHROMA_RATE)
    sums = np.cumsum(np.vstack([np.zeros(12), directions]), axis=0)
    turned = 1.0 - np.square((sums[size:] - sums[:-size]) / size).sum(axis=1)
    return directions, {
        "tonality": float(np.log(pronounced.mean() + 0.05)),
        "tonality_spread": float(pronounced.std()),
        "turning": float(turned.mean()) if len(turned) else float("nan"),
    }


def _cycle(frames: np.ndarray, rate: float, smooth: float, unit: float, name: str) -> dict[str, float]:
    """The lag at which a clip differs least from itself, on average and in the worst tenth of its time (over `smooth`
    seconds), absolute and against the usual lag; and how far the average falls again after having risen."""
    by_lag, count = _by_lag(_distances(frames)), len(frames)
    first, last = round(_SHORTEST_CYCLE * rate), int(min(_LONGEST_CYCLE * rate, _CYCLE_SHARE * count))
    size = max(1, round(smooth * rate))
    means = np.array([by_lag[lag, : count - lag].mean() for lag in range(1, last + 1)])
    worst = np.array([_upper_tenth(by_lag[lag, : count - lag], size) for lag in range(first, last + 1)])
    later = means[first - 1 :]
    return {
        f"{name}_cycle": float(np.log(later.min() + unit)),
        f"{name}_cycle_share": float(np.log((later.min() + unit) / (np.median(later) + unit))),
        f"{name}_cycle_worst": float(np.log(worst.min() + unit)),
        f"{name}_cycle_worst_share": float(np.log((worst.min() + unit) / (np.median(worst) + unit))),
        f"{name}_cycle_fall": float(np.log((np.maximum.accumulate(means) - means).max() + unit)),
    }


def _upper_tenth(values: np.ndarray, size: int) -> float:
    """Where the highest tenth of the running means begins."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means = sums[size:] - sums[:-size]
    place = int(0.9 * (len(means) - 1))
    return float(np.partition(means, place)[place]) / size


def _grain(sound: np.ndarray) -> dict[str, float]:
    """Spread, skewness and kurtosis of the bands about their half-second means, and how evenly change is spread."""
    around = sound - uniform_filter1d(sound, 25, axis=0)
    square = around * around
    variance = square.mean(axis=0, dtype=np.float64) + 1e-6
    spread = np.sqrt(variance)
    skewness = (square * around).mean(axis=0, dtype=np.float64) / spread**3
    kurtosis = (square * square).mean(axis=0, dtype=np.float64) / variance**2
    audible = sound.mean(axis=0) > -_LIFT_DB
    if audible.sum() < 5:
        audible[:] = True
    change = np.sort(np.abs(np.diff(sound, axis=0)).mean(axis=1, dtype=np.float64))
    count = len(change)
    gini = 2.0 * np.sum(np.arange(1, count + 1) * change) / (count * change.sum() + 1e-9) - (count + 1) / count
    return {
        "grain": float(np.log(np.median(spread[audible]) + 1e-3)),
        "grain_high": float(np.log(np.percentile(spread[audible], 90.0) + 1e-3)),
        "grain_skewness": float(np.median(skewness[audible])),
        "grain_kurtosis": float(np.log(np.median(kurtosis[audible]) + 1e-3)),
        "unrest": float(np.log(change.mean() + 0.01)),
        "unrest_gini": float(gini),
    }


def _steps(sound: np.ndarray) -> dict[str, float]:
    """Shares of the bands that rise, and that fall, by 8 dB within 60 ms: where most do, and usually."""
    change = sound[_QUICK:] - sound[:-_QUICK]
    audible = np.maximum(sound[_QUICK:], sound[:-_QUICK]) > _AUDIBLE_DB
    rises, falls = (((sign * change > _STEP_DB) & audible).mean(axis=1) for sign in (1.0, -1.0))
    count = max(2, int(len(sound) / FRAME_RATE / _STEP_SECONDS))
    rise, fall = (_highest(share, count) for share in (rises, falls))
    rising = np.maximum(change, 0.0).mean(axis=1)
    return {
        "falls": float(fall.mean()),
        "falls_median": float(np.median(fall)),
        "rises": float(rise.mean()),
        "falls_share": float(np.log((fall.mean() + 0.02) / (rise.mean() + 0.02))),
        "falls_usual": float(np.percentile(falls, 90.0)),
        "rises_usual": float(np.percentile(rises, 90.0)),
        "pulse": float(np.log((np.percentile(rising, 99.0) + 0.1) / (np.median(rising) + 0.1))),
    }


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest values at least half a second apart."""
    values, highest = values.copy(), []
    for _ in range(count):
        place = int(values.argmax())
        highest.append(values[place])
        values[max(0, place - _STEP_APART) : place + _STEP_APART] = -1.0
    return np.maximum(highest, 0.0)
