"""What the model says of each clip at each noise level, and what the weighting makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from eisbach.audio import read_audio
from eisbach.backbones import load_codec_of
from eisbach.codecs.base import place_codec
from eisbach.diagnostics.probe.result import plain
from eisbach.diagnostics.probe.subject import Crop, Subject
from eisbach.diffusion.targets import make_sample, to_x0
from eisbach.errors import AudioError
from eisbach.training.noising import step_generator
from eisbach.training.step import Prediction, predict_batch, weigh
from eisbach.types import Conditioning, LatentBatch, LossTerms, Record, RecordValue, Waveform
from eisbach.weighting import Weighting, per_sample_mse

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.types import Waveform


CONDITIONS = ("noise_floor_db", "bandwidth_hz", "share_below_200", "share_above_2000")
"""Circumstances of the audio that stand beside the structure metrics: a weighting may follow them instead."""

_STREAM = 11  # keeps the noise of the rows apart from training's
_CPU_ELEMENTS = 130_000  # latent values in one forward pass, where a CPU's caches gain nothing from more
_ELEMENTS = 4_000_000

Advance = Callable[[int], None]


def measure_rows(subject: Subject, advance: Advance) -> list[Record]:
    """One row a clip x noise level x draw, clips outside, draws inside (`result.ROW_COLUMNS`, structure and labels).

    Captions are kept. The noise of a clip's draw is the same at every level, so that a row differs from its neighbour
    in the noise level only. `advance` is told how many rows are done.
    """
    crops, levels, draws = subject.crops(), subject.config.levels, subject.config.draws
    measured: dict[tuple[int, float, int], Record] = {}
    elements = _CPU_ELEMENTS if subject.device.type == "cpu" else _ELEMENTS
    size = max(1, elements // crops[0].batch.latents.numel())
    for start in range(0, len(crops), size):
        chunk = crops[start : start + size]
        batch = subject.to_device(_stack_crops(chunk))
        conditioning = subject.conditioning(batch)
        for draw in range(draws):
            noise = torch.stack([_clip_noise(subject, crop, draw) for crop in chunk]).to(subject.device)
            for level in levels:
                columns = measure_level(subject, batch, conditioning, noise, level)
                for place in range(len(chunk)):
                    row: Record = {name: values[place] for name, values in columns.items()}
                    measured[start + place, level, draw] = row
                advance(len(chunk))
    rows = []
    for number, crop in enumerate(crops):
        audio, labels = audio_columns(subject, crop), {f"label.{key}": text for key, text in crop.row.labels.items()}
        advance(1)
        for level in levels:
            log_snr = float(subject.objective.path.log_snr(torch.tensor(level, dtype=torch.float64)))
            for draw in range(draws):
                keys: Record = {"clip": crop.row.id, "t": level, "log_snr": log_snr, "draw": draw}
                rows.append(plain(keys | measured[number, level, draw] | audio | labels))
    return rows


def row_units(subject: Subject) -> int:
    """What `measure_rows` advances by in all."""
    clips = min(subject.config.clips, len(subject.dataset))
    return clips * (len(subject.config.levels) * subject.config.draws + 1)


def _stack_crops(crops: Sequence[Crop]) -> LatentBatch:
    """One batch of several crops, with a mask where any of them is short."""
    batches = [crop.batch for crop in crops]
    latents = torch.cat([batch.latents for batch in batches])
    mask = None
    if any(batch.mask is not None for batch in batches):
        full = torch.ones(1, latents.shape[-1], dtype=torch.bool)
        mask = torch.cat([full if batch.mask is None else batch.mask for batch in batches])
    return LatentBatch(
        latents=latents,
        ids=[crop.row.id for crop in crops],
        captions=[crop.row.caption for crop in crops],
        durations=torch.cat([batch.durations for batch in batches]),
        mask=mask,
    )


@torch.inference_mode()
def measure_level(
    subject: Subject, batch: LatentBatch, conditioning: Conditioning, noise: torch.Tensor, level: float
) -> dict[str, list[float]]:
    """The measured columns of clips at one noise level; NaN in every column of the model where its output is not
    finite."""
    objective, x0, mask = subject.objective, batch.latents, batch.mask
    t = torch.full((x0.shape[0],), level, device=x0.device)
    sample = make_sample(objective.path, objective.target, x0, noise, t)
    output = subject.predict(sample.x_t, t, conditioning)
    finite = output.flatten(1).isfinite().all(dim=1)
    # A broken sample must not break its neighbours, nor an eigenvalue routine: it is weighed as zeros, and the result
    # dropped.
    output = torch.where(finite.view(-1, 1, 1), output, torch.zeros_like(output))
    losses = per_sample_mse(output, sample.target, mask)
    estimate = to_x0(objective.path, objective.target, output, sample.x_t, t)
    terms = _unnormalised(objective.weighting)(
        losses, output, x_t=sample.x_t, t=t, path=objective.path, target=objective.target, mask=mask
    )
    columns = {
        "belief": terms.belief,
        "sample_weight": terms.sample_weight,
        "noise_weight": terms.noise_weight,
        "weight": terms.weight,
        "loss": losses,
        "x0_loss": per_sample_mse(estimate, x0, mask),
        "output_energy_db": _mean_square_db(output, mask),
        "x0_energy_db": _mean_square_db(estimate, mask),
    }
    broken = torch.full_like(losses, torch.nan)
    measured = {name: torch.where(finite, values, broken).tolist() for name, values in columns.items()}
    return measured | {"latent_db": _mean_square_db(x0, mask).tolist()}


def _unnormalised(weighting: Weighting) -> Weighting:
    """The weighting with a factor for each sample that does not depend on who else is in the batch."""
    return replace(weighting, reduction="sample", normalisation="none")


def level_means(rows: Sequence[Record], judged: bool) -> list[list[float | None]]:
    """[t, mean sample weight] in ascending t, over the rows whose weight exists.

    With `judged`, rows without a belief are left out: a sample too short to be judged keeps weight 1 and is not divided
    by the level's mean (`Weighting.level_means`).
    """
    sums: dict[float, list[float]] = {}
    for row in rows:
        weights, weight = sums.setdefault(_number(row["t"]), []), row["sample_weight"]
        if weight is not None and not (judged and row["belief"] is None):
            weights.append(_number(weight))
    return [[t, math.fsum(weights) / len(weights) if weights else None] for t, weights in sorted(sums.items())]


def audio_columns(subject: Subject, crop: Crop) -> Record:
    """Loudness and structure metrics of the audio that a crop stands for; None where undefined or unreadable."""
    path = subject.manifest.audio_path(crop.row)
    try:
        waveform = read_audio(path, start=crop.start, duration=crop.seconds, allow_silent=True)
    except AudioError as error:
        subject.skips.add(crop.row.id, f"its audio was not measured: {error}")
        return {"loudness_db": None}
    columns: Record = {"loudness_db": loudness_db(waveform)}
    if subject.config.structure:
        from eisbach.structure import analyze

        analysis = analyze(waveform)
        measures = {**analysis.metrics, "flat_probability": analysis.flat_probability}
        measures |= {name: analysis.conditions[name] for name in CONDITIONS}
        columns |= {f"structure.{name}": value for name, value in measures.items()}
    return columns


def loudness_db(waveform: Waveform) -> float:
    """RMS level over all channels, dBFS (0 is a full-scale square wave); NaN for digital silence."""
    power = float(np.mean(np.square(waveform.samples, dtype=np.float64)))
    return 10.0 * math.log10(power) if power > 0 else math.nan


def _clip_noise(subject: Subject, crop: Crop, draw: int) -> torch.Tensor:
    """The noise of a crop's draw [shape=(C, T)], the same in every measurement of a probe."""
    generator = step_generator(subject.config.train.seed, crop.number, draw, _STREAM)
    return torch.randn(crop.batch.latents.shape[1:], generator=generator)


def _mean_square_db(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return 10.0 * per_sample_mse(values, torch.zeros_like(values), mask).log10()


def _number(value: RecordValue) -> float:
    return math.nan if value is None or isinstance(value, str) else float(value)


# --- the same clips turned up and down


_GAINS_DB = (-6.0, 0.0, 6.0)
"""Gains; one that would drive the samples past full scale is left out for that clip, as a file could not hold it."""
_GAIN_LEVELS = 4
"""Noise levels of the experiment: the ends of the probe's and two between."""
_LEAST_GAINS = 2


def measure_gain(subject: Subject, advance: Callable[[int], None]) -> list[Record]:
    """Rows ``{clip, t, gain_db, sample_weight}`` of up to `gain_clips` clips, evenly chosen; [] without a sample
    weighting.

    Clips whose audio cannot be read, or is silent, take no part. The noise of a clip is the same at every gain.
    """
    if gain_units(subject) == 0:
        return []
    codec = load_codec_of(subject.backbone)
    place_codec(codec, subject.device)
    rows: list[Record] = []
    for crop in _chosen_crops(subject):
        variants = _turned(subject, crop, codec)
        advance(1)
        if len(variants) < _LEAST_GAINS:
            continue
        gains = [gain for gain, _ in variants]
        batch = subject.to_device(_stack_crops([replace(crop, batch=latents) for _, latents in variants]))
        conditioning = subject.conditioning(batch)
        noise = _clip_noise(subject, crop, 0).to(subject.device).expand_as(batch.latents)
        for level in _gain_levels(subject):
            weights = measure_level(subject, batch, conditioning, noise, level)["sample_weight"]
            for gain, weight in zip(gains, weights, strict=True):
                rows.append(plain({"clip": crop.row.id, "t": level, "gain_db": gain, "sample_weight": weight}))
    return rows


def gain_units(subject: Subject) -> int:
    """What `measure_gain` advances by in all."""
    if subject.objective.weighting.sample is None:
        return 0
    return min(subject.config.gain_clips, subject.config.clips, len(subject.dataset))


def _chosen_crops(subject: Subject) -> list[Crop]:
    """Crops evenly spread over those of the rows."""
    crops = subject.crops()
    places = np.linspace(0, len(crops) - 1, gain_units(subject)).round().astype(int)
    return [crops[place] for place in places]


def _gain_levels(subject: Subject) -> list[float]:
    """Up to `_GAIN_LEVELS` of the probe's noise levels, evenly spread."""
    every = subject.config.levels
    places = np.linspace(0, len(every) - 1, min(_GAIN_LEVELS, len(every))).round().astype(int)
    return [every[place] for place in dict.fromkeys(places.tolist())]


def _turned(subject: Subject, crop: Crop, codec: Codec) -> list[tuple[float, LatentBatch]]:
    """(gain, the crop's batch at that gain), encoded anew from the same stretch of audio at every gain, 0 dB
    included."""
    path = subject.manifest.audio_path(crop.row)
    try:
        waveform = read_audio(path, start=crop.start, duration=crop.seconds)
    except AudioError:  # the rows have reported it
        return []
    peak, frames = float(np.abs(waveform.samples).max()), crop.batch.latents.shape[-1]
    variants = []
    for gain in _GAINS_DB:
        factor = 10 ** (gain / 20)
        if gain > 0 and peak * factor > 1:
            continue
        encoded = codec.encode(Waveform(waveform.samples * np.float32(factor), waveform.sample_rate))
        held = encoded[:, :frames]
        padded = torch.nn.functional.pad(held, (0, frames - held.shape[-1]))
        mask = None if held.shape[-1] == frames else (torch.arange(frames) < held.shape[-1])[None]
        variants.append((gain, replace(crop.batch, latents=padded[None].float(), mask=mask)))
    return variants


# --- training batches, drawn as training draws them, without any training


def simulate_batches(subject: Subject, advance: Callable[[int], None]) -> list[Record]:
    """One row a global batch of one process (`result.BATCH_COLUMNS`); `advance` is told how many samples are done."""
    rows = []
    for step in range(subject.simulated_batches):
        rows.append(simulate_batch(subject, step))
        advance(batch_units(subject) // subject.simulated_batches)
    return rows


def batch_units(subject: Subject) -> int:
    """What `simulate_batches` advances by in all: its samples."""
    return subject.simulated_batches * subject.config.train.batch_size * subject.accumulation


@torch.inference_mode()
def simulate_batch(subject: Subject, step: int) -> Record:
    """The weights of one global batch: its samples, noise levels, noise and dropped captions are training's own."""
    objective, seed = subject.objective, subject.config.train.seed
    weighting = objective.weighting
    t, losses, weights, samples, beliefs = [], [], [], [], []
    stats, unscaled = torch.zeros((), device=subject.device), torch.zeros((), device=subject.device)
    for micro in range(subject.accumulation):
        batch, index = subject.micro_batch(step, micro)
        generator = step_generator(seed, index)
        prediction = predict_batch(subject.predict, objective, batch, subject.conditioning(batch), generator)
        if not bool(prediction.output.isfinite().all()):
            return _broken(step, subject)
        partial = weigh(objective, prediction, batch)
        stats, unscaled = stats + partial.stats, unscaled + partial.unscaled
        terms = _alone(subject, prediction, batch)
        t.append(prediction.sample.t)
        losses.append(partial.terms.per_sample)
        samples.append(terms.sample_weight)
        beliefs.append(terms.belief)
        # Under Eq. 5 the sample weights make one factor of the step and leave only the noise levels' weights to differ.
        weights.append(terms.noise_weight if weighting.reduction == "batch" else terms.weight)
    factor = weighting.gradient_factor(stats)
    own = torch.cat(weights).double()
    final = own * factor * len(own)
    total, squares = float(final.sum()), float(final.square().sum())
    return plain({
        "batch": step,
        "samples": len(own),
        "cv": _variation(final),
        "ess_share": total**2 / squares / len(own) if squares > 0 else math.nan,
        "mean_weight": (own if weighting.normalisation == "mean1" else final).mean(),
        "mean_sample_weight": torch.cat(samples).mean(),
        "cv_sample_weight": _variation(torch.cat(samples).double()),
        "mean_belief": torch.cat(beliefs).nanmean(),
        "mean_t": torch.cat(t).mean(),
        "loss": torch.cat(losses).mean(),
        "weighted_loss": unscaled * factor,
    })  # fmt: skip


def _alone(subject: Subject, prediction: Prediction, batch: LatentBatch) -> LossTerms:
    objective = subject.objective
    return _unnormalised(objective.weighting)(
        prediction.losses,
        prediction.output,
        x_t=prediction.sample.x_t,
        t=prediction.sample.t,
        path=objective.path,
        target=objective.target,
        mask=batch.mask,
    )


def _variation(weights: torch.Tensor) -> float:
    """Standard deviation over mean, of the population: 0 for equal weights, and for a batch of one."""
    mean = float(weights.mean())
    return float(weights.std(correction=0)) / mean if mean > 0 else math.nan


def _broken(step: int, subject: Subject) -> Record:
    from eisbach.diagnostics.probe.result import BATCH_COLUMNS

    row: Record = dict.fromkeys(BATCH_COLUMNS)
    return row | {"batch": step, "samples": subject.config.train.batch_size * subject.accumulation}
