"""An experiment on loudness: the same clips turned up and down, through the codec and the model, and what becomes of
their weights.

What goes with loudness in a set of clips may go with much else as well; turning a clip up changes nothing but its
level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from eisbach.audio import read_audio
from eisbach.backbones import load_codec_of
from eisbach.diagnostics.probe.result import plain
from eisbach.diagnostics.probe.rows import clip_noise, measure_level, stack_crops
from eisbach.diagnostics.probe.subject import Crop, Subject
from eisbach.errors import AudioError
from eisbach.types import LatentBatch, Record, Waveform

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec

_GAINS_DB = (-6.0, 0.0, 6.0)
"""Gains; one that would drive the samples past full scale is left out for that clip, as a file could not hold it."""
LEVELS = 4
"""Noise levels of the experiment: the ends of the probe's and two between."""
_LEAST_GAINS = 2


def measure_gain(subject: Subject, advance: Callable[[int], None]) -> list[Record]:
    """Rows ``{clip, t, gain_db, sample_weight}`` of up to `gain_clips` clips, evenly chosen; [] without a sample
    weighting.

    Clips whose audio cannot be read, or is silent, take no part. The noise of a clip is the same at every gain.
    """
    if units(subject) == 0:
        return []
    codec = load_codec_of(subject.backbone)
    found: list[Record] = []
    for crop in _chosen_crops(subject):
        variants = _turned(subject, crop, codec)
        advance(1)
        if len(variants) < _LEAST_GAINS:
            continue
        gains = [gain for gain, _ in variants]
        batch = subject.to_device(stack_crops([replace(crop, batch=latents) for _, latents in variants]))
        conditioning = subject.conditioning(batch)
        noise = clip_noise(subject, crop, 0).to(subject.device).expand_as(batch.latents)
        for level in levels(subject):
            weights = measure_level(subject, batch, conditioning, noise, level)["sample_weight"]
            for gain, weight in zip(gains, weights, strict=True):
                found.append(plain({"clip": crop.row.id, "t": level, "gain_db": gain, "sample_weight": weight}))
    return found


def units(subject: Subject) -> int:
    """What `measure_gain` advances by in all."""
    if subject.objective.weighting.sample is None:
        return 0
    return min(subject.config.gain_clips, subject.config.clips, len(subject.dataset))


def _chosen_crops(subject: Subject) -> list[Crop]:
    """Crops evenly spread over those of the rows."""
    crops = subject.crops()
    places = np.linspace(0, len(crops) - 1, units(subject)).round().astype(int)
    return [crops[place] for place in places]


def levels(subject: Subject) -> list[float]:
    """Up to `LEVELS` of the probe's noise levels, evenly spread."""
    every = subject.config.levels
    places = np.linspace(0, len(every) - 1, min(LEVELS, len(every))).round().astype(int)
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
