"""What generation leaves in a folder: a FLAC file a take, their manifest, and the stamp that says what made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from eisbach.audio import audio_hash
from eisbach.config import check_values
from eisbach.errors import AudioError, UserError
from eisbach.files import read_json
from eisbach.generation.config import GenerateConfig
from eisbach.generation.playing import adapter_records
from eisbach.generation.prompts import Prompt
from eisbach.output_folder import curve_stamp, refuse_other_settings, weights_identity
from eisbach.progress import in_threads

if TYPE_CHECKING:
    import torch

    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.data.manifest import Manifest, ManifestRow
    from eisbach.types import Waveform


STAMP = "generation.json"
"""File beside the manifest that says which model and settings made the audio."""


@dataclass(frozen=True)
class Take:
    """One clip to make: a prompt, a seed, and where its file goes."""

    prompt: Prompt
    seed: int
    path: Path

    @property
    def id(self) -> str:
        """Name of the clip, unique in its folder."""
        return self.path.stem


def plan_takes(config: GenerateConfig) -> list[Take]:
    """Every clip that the configuration asks for, prompts outside, seeds inside."""
    out = Path(config.out)
    return [
        Take(prompt, seed, out / f"{prompt.id}_seed-{seed}.flac") for prompt in config.prompts for seed in config.seeds
    ]


def short_by(seconds: float) -> float:
    """Seconds that a finished clip may lack: a codec's last frame may end before its length."""
    return min(1.0, 0.1 * seconds)


def write_take(take: Take, waveform: Waveform, duration: float) -> float:
    """Writes at most `duration` seconds, and says how many: a codec's last frame may reach beyond them, or end just
    before."""
    from eisbach.audio import write_audio
    from eisbach.types import Waveform as Wave

    count = round(duration * waveform.sample_rate)
    samples = waveform.samples[:, :count]
    write_audio(take.path, Wave(samples, waveform.sample_rate))
    return samples.shape[1] / waveform.sample_rate


def finished_seconds(path: Path, duration: float) -> float | None:
    """How long a finished file is: it is there, can be decoded, and as long as asked (within a second, or a tenth of
    it); None for every other."""
    from eisbach.audio_file import AudioFile

    if not path.is_file():
        return None
    try:
        seconds = AudioFile(path).seconds()
    except AudioError:
        return None
    return seconds if abs(seconds - duration) < short_by(duration) else None


def save_manifest(config: GenerateConfig, takes: list[Take], seconds: Mapping[str, float]) -> Manifest:
    """Writes the manifest of everything in the folder and returns the rows that `config` asks for; `seconds` are the
    takes' lengths by id, which whoever wrote or checked the files knows."""
    from eisbach.data.manifest import MANIFEST_NAME, Manifest, load_manifest, save_manifest

    root = Path(config.out)
    with in_threads(
        takes, lambda take: _row(config, take, seconds[take.id]), jobs=4, title="hash", quiet=True
    ) as results:
        rows = [row for _, row in results]
    asked = {row.id for row in rows}
    others = []
    if (root / MANIFEST_NAME).is_file():
        earlier = load_manifest(root, check_files=False)
        others = [row for row in earlier if row.id not in asked and earlier.audio_path(row).is_file()]
    save_manifest(Manifest([*rows, *others], root))
    return Manifest(rows, root)


def _row(config: GenerateConfig, take: Take, seconds: float) -> ManifestRow:
    from eisbach.data.manifest import ManifestRow

    labels = {"arm": config.arm, "prompt_id": take.prompt.id, "seed": str(take.seed)}
    if config.adapters:
        labels["adapters"] = " + ".join(item.text() for item in config.adapters)
    return ManifestRow(
        id=take.id,
        path=take.path.name,
        caption=take.prompt.text,
        duration=round(seconds, 6),
        labels=labels,
        audio_hash=audio_hash(take.path),
        split="held_out",  # generated audio must not slip into a training set unnoticed
    )


def generation_stamp(config: GenerateConfig, backbone: Backbone, codec: Codec) -> dict[str, Any]:
    """What decides the audio: the weights and settings, and the words of each prompt. Batching is left out."""
    left_out = {"out", "prompts", "seeds", "batch_size", "model", "adapter", "any_base", "device", "precision"}
    left_out |= {"adapters", "init", "noise", "keep"}
    settings = config.model_dump(mode="json", exclude=left_out)
    settings["headroom"] = backbone.headroom if config.headroom is None else config.headroom
    for key in ("headroom", "apg"):
        if not settings[key]:  # as before there were any: a folder of then goes on
            del settings[key]
    if config.adapters:
        settings["adapters"] = adapter_records(config.adapters)
        settings["adapter_files"] = [item.file for item in config.adapters]
        del settings["adapter_strength"]
    if config.init is not None:
        settings |= {"init": config.init, "init_audio": audio_hash(config.init), "noise": config.start}
        settings |= {"keep": [list(part) for part in config.keep]} if config.keep else {}
    return {
        "model": config.model,
        "model_identity": backbone.identity(),
        "codec_identity": codec.identity(),
        "adapter": config.adapter,
        "adapter_identity": None if config.adapter is None else weights_identity(config.adapter),
        **settings,
        **curve_stamp(config.schedule_options),
        "seeds": list(config.seeds),
        "prompts": {prompt.id: prompt.text for prompt in config.prompts},
    }


_FREE = ("model", "adapter", "adapter_files", "init", "seeds", "prompts", "schedule_options.curve")
"""Paths may move, since what they lead to stands beside them; prompts and seeds may be added."""


class _Stamp(BaseModel, extra="allow"):
    """What a later generation into the same folder reads of `generation.json`."""

    seeds: list[int]
    prompts: dict[str, str]


def _read_stamp(path: Path) -> dict[str, Any]:
    what = "record of earlier generations"
    return check_values(_Stamp, read_json(path, what), f"the {what} {path}").model_dump()


def check_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Refuses a folder whose audio came from another model or from other settings; without audio there is nothing to
    mix."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return
    old = _read_stamp(path)
    refuse_other_settings(path.parent, "generations", old, stamp, free=_FREE)
    for name, text in stamp["prompts"].items():
        before = old["prompts"].get(name, text)
        if before != text:
            raise UserError(
                f"{path.parent} holds generations for the prompt '{name}' with other words; "
                "give the new prompt another id, or choose another output folder."
            )


def merge_stamp(path: Path, stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of everything in the folder: earlier prompts and seeds stay listed."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return stamp
    old = _read_stamp(path)
    seeds = [*old["seeds"], *(seed for seed in stamp["seeds"] if seed not in old["seeds"])]
    return stamp | {"seeds": seeds, "prompts": old["prompts"] | stamp["prompts"]}


# --- what sampling starts from: noise as a function of a prompt's id and its seed, and the noise levels


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
