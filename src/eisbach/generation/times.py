"""The noise levels that a sampling configuration asks for, and what of them decides the samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Sampling(Protocol):
    """What both `SamplingConfig` and `ImageSampling` say about the levels."""

    schedule: Any
    schedule_options: dict[str, Any] | None
    num_inference_steps: int


def sampling_times(sampling: Sampling, backbone: Any) -> torch.Tensor:
    """The noise levels [shape=(n + 1,), float64] for a backbone, by its own schedule where none is named.

    Raises
    ------
    UserError
        A schedule that is not known, or options or a curve that do not fit it or the backbone's path.
    """
    from eisbach.diffusion.schedules import get_schedule

    options = sampling.schedule_options or {}
    return get_schedule(sampling.schedule or backbone.schedule, sampling.num_inference_steps, backbone.path, **options)


def curve_stamp(options: Mapping[str, Any] | None) -> dict[str, str]:
    """A hash of the curve that a schedule reads: another measurement under the same name is another schedule. Empty
    without one."""
    curve = (options or {}).get("curve")
    if curve is None:
        return {}
    return {"schedule_curve": hashlib.sha256(Path(curve).read_bytes()).hexdigest()[:16]}
