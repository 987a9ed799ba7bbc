"""What sampling starts from: noise that is a pure function of a prompt's id and its seed, and the noise levels that a
configuration asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

_BLOCK = 16  # frames; torch fills normals in blocks, and only whole blocks make a longer draw begin like a shorter one
_CLOSE = 1e-6  # of two noise levels: no step is shorter
_LONGEST = 32  # times as many steps as are asked for are looked through for those below a level


def noise_seed(prompt_id: str, seed: int, step: int = 0) -> int:
    """A 63-bit seed from all of them, by SHA-256, so that neighbouring seeds, prompts and steps give unrelated
    noise."""
    text = f"{seed}/{prompt_id}" if step == 0 else f"{seed}/{prompt_id}/step {step}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def starting_noise(prompt_id: str, seed: int, channels: int, frames: int, step: int = 0) -> torch.Tensor:
    """Standard normal noise for one generation, on CPU.

    It depends on the prompt's id, the seed and the shape, on nothing else: not on the arm, the words of the prompt,
    the batch or the device. Every arm of a comparison therefore starts from the same noise, prompts are independent
    of one another (they are the units of inference), and a longer generation begins with the noise of a shorter one.
    Steps from 1 on are what a stochastic sampler adds after them, each its own draw.

    Returns
    -------
    torch.Tensor [shape=(C, T), float32]
    """
    import torch

    generator = torch.Generator().manual_seed(noise_seed(prompt_id, seed, step))
    padded = -(-frames // _BLOCK) * _BLOCK
    return torch.randn((padded, channels), generator=generator)[:frames].T.contiguous()


class Sampling(Protocol):
    """What both `SamplingConfig` and `ImageSampling` say about the levels."""

    schedule: Any
    schedule_options: dict[str, Any] | None
    num_inference_steps: int


def sampling_times(sampling: Sampling, backbone: Any, start: float = 1.0) -> torch.Tensor:
    """The noise levels [shape=(n + 1,), float64] for a backbone, by its own schedule where none is named.

    Below t = 1 they are the start and the n levels under it of the longest schedule that has so many: as many steps,
    spaced as the schedule spaces them there; evenly, where it has next to none.

    Raises
    ------
    UserError
        A schedule that is not known, or options or a curve that do not fit it or the backbone's path.
    """
    import torch

    from eisbach.diffusion.schedules import get_schedule

    steps = sampling.num_inference_steps

    def levels(count: int) -> torch.Tensor:
        options = sampling.schedule_options or {}
        return get_schedule(sampling.schedule or backbone.schedule, count, backbone.path, **options)

    whole = levels(steps)
    if start >= float(whole[0]):
        return whole

    def below(count: int) -> torch.Tensor:
        times = levels(count)
        return times[times < start - _CLOSE]

    low, high = steps, 2 * steps
    while len(below(high)) <= steps and high <= _LONGEST * steps:
        low, high = high, 2 * high
    while low < high:  # the shortest schedule with a level too many
        middle = (low + high) // 2
        low, high = (middle + 1, high) if len(below(middle)) <= steps else (low, middle)
    rest = below(low - 1)
    if len(rest) != steps:  # the schedule ends in one long step, as sa3's does from t = 0.12
        return start * torch.linspace(1, 0, steps + 1, dtype=whole.dtype)
    return torch.cat([torch.tensor([start], dtype=whole.dtype), rest])


def curve_stamp(options: Mapping[str, Any] | None) -> dict[str, str]:
    """A hash of the curve that a schedule reads: another measurement under the same name is another schedule. Empty
    without one."""
    curve = (options or {}).get("curve")
    if curve is None:
        return {}
    return {"schedule_curve": hashlib.sha256(Path(curve).read_bytes()).hexdigest()[:16]}
