"""Everything that only a GPU can tell, in the minutes that there are: ``python bench/gpu.py --minutes 8``.

1. Does every kind of network compute there what it computes on the CPU (sampling, training, the probe, codecs, images,
   embeddings, structure)?
2. How fast is a training step at Stable Audio 3 Medium's true size (random weights), for LoRA, DoRA with its norm
   detached and full, DoRA's weight rebuilt at every step, and peft's DoRA; how much memory does it take, and how much
   of it is waiting for the host?
3. How fast are sampling, encoding and decoding, embeddings and the analysis of audio?

The most important comes first; a part that would not end in time is left out and named. Each part is written as it
ends, into ``bench/results/gpu_DEVICE.json`` with the device's name: the same command again goes on with what is
missing.
``--device cpu --quick`` runs the same code on tiny shapes.
"""

from __future__ import annotations

import argparse
import gc
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_step
from torch import nn

from eisbach import __version__
from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import create_backbone, load_backbone
from eisbach.codecs.base import place_codec
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.devices import Placement, device_label, place
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.files import read_json, write_json
from eisbach.tensor_files import read_tensors
from eisbach.types import Waveform

RESULTS = Path(__file__).parent / "results"
FORMS = ("lora", "ours, detached", "ours, full", "rebuilt", "peft")
SECONDS = {108: "10 s", 323: "30 s", 1292: "120 s", 16: "tiny"}
"""What a number of latent frames is of audio."""
STEPS = ((108, 4), (323, 1), (1292, 1), (323, 4), (108, 1), (108, 8), (323, 8), (1292, 4), (1292, 8))
"""(frames, batch) of the training step, the most telling first."""
_TOLERANCE = 2e-2  # of the largest value: convolutions on a GPU round to TF32


@dataclass(frozen=True)
class Bench:
    """Where and how large: what every part is given."""

    placement: Placement
    quick: bool
    repeats: int

    @property
    def device(self) -> torch.device:
        """Where it is measured."""
        return self.placement.device

    def clock(self) -> float:
        """Seconds, when the device has done what it was given."""
        train_step.synchronise(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Part:
    """A piece of the whole that is measured and written by itself.

    Attributes
    ----------
    name : str
    measure : function of a `Bench`
        Gives plain values.
    seconds : float
        About how long it takes on a GPU.
    """

    name: str
    measure: Callable[[Bench], dict[str, Any]]
    seconds: float


# --- the same numbers as on the CPU


def tones(seconds: float, rate: int, channels: int, seed: int = 0) -> Waveform:
    """A tone that rises in level, and some noise."""
    time_axis = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 110 * (seed + 2) * time_axis) * np.linspace(0.1, 0.5, len(time_axis))
    noise = 0.02 * np.random.default_rng(seed).standard_normal((channels, len(time_axis)))
    return Waveform((tone + noise).astype(np.float32), rate)


def write_clips(folder: Path) -> Path:
    """Six clips of 6 s with their manifest."""
    rows = []
    for index in range(6):
        file = folder / f"{index}.wav"
        write_audio(file, tones(6.0, 22050, 1, index))
        labels = {"flat": "true" if index % 2 else "false"}
        caption = ("slow strings", "celesta")[index % 2]
        rows.append(ManifestRow(str(index), file.name, caption, 6.0, labels, audio_hash(file), "train"))
    save_manifest(Manifest(rows, folder))
    return folder


def compared(bench: Bench, compute: Callable[[Placement], torch.Tensor]) -> dict[str, Any]:
    """How far what is computed in fp32 on the device lies from the CPU's, in parts of its largest value."""
    expected = compute(Placement(torch.device("cpu"), False)).double()
    start = bench.clock()
    made = compute(Placement(bench.device, False)).double()
    seconds = bench.clock() - start
    apart = float((made - expected).abs().max() / expected.abs().max())
    return {"apart": apart, "same": apart <= _TOLERANCE, "seconds_on_device": seconds}


def latents_of(placement: Placement, steps: int = 4) -> torch.Tensor:
    """The embedded model's latents of two captions, on the host."""
    backbone: Any = load_backbone("embedded")
    backbone.module.to(placement.device).eval()
    conditioning = backbone.condition(["slow strings", "a bright celesta"], [30.0] * 2).to(placement.device)
    predict = guided(placement.predict(backbone.predict), conditioning, backbone.null_condition(conditioning), 3.0)
    noise = torch.randn(2, backbone.latent_channels, 81, generator=torch.Generator().manual_seed(0))
    times = get_schedule(backbone.schedule, steps, backbone.path)
    shared: dict[str, Any] = {"path": backbone.path, "target": backbone.target, "times": times}
    return sample_ode(predict, noise=noise.to(placement.device), **shared).float().cpu()


def smoke_sampling(bench: Bench) -> dict[str, Any]:
    """Sampling with guidance in fp32, and what bf16 changes."""
    found = compared(bench, latents_of)
    if bench.placement.bf16:
        expected = latents_of(Placement(torch.device("cpu"), False))
        found["bf16_apart"] = float((latents_of(bench.placement) - expected).abs().max() / expected.abs().max())
    return found


def smoke_training(bench: Bench) -> dict[str, Any]:
    """Three steps of a DoRA from audio to the adapter's file, and the same steps in the device's own precision."""
    from eisbach.training import train
    from eisbach.training.config import TrainConfig

    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder))

        def adapter(placement: Placement) -> torch.Tensor:
            values = {
                "data": {"manifest": [str(clips)], "crop_seconds": 4, "cache": f"{folder}/cache"},
                "adapter": {"type": "dora", "rank": 4}, "weighting": {"sample": "entropy_barrier"}, "steps": 3,
                "batch_size": 2, "held_out": {"every": 0}, "tensorboard": False,
                "precision": "bf16" if placement.bf16 else "fp32", "device": str(placement.device),
                "out": f"{folder}/run-{placement.device.type}-{placement.bf16}",
            }  # fmt: skip
            run = train(build_config(TrainConfig, values), quiet=True)
            tensors = read_tensors(run / "adapter" / "adapter_model.safetensors")
            return torch.cat([value.float().flatten() for name, value in sorted(tensors.items()) if "lora_B" in name])

        found = compared(bench, adapter)
        # Adam's first steps are the sign of the gradient: where that is nearly nothing, rounding decides it.
        found["same"] = found["apart"] <= 1.0
        if bench.placement.bf16:
            found["bf16_finite"] = bool(adapter(bench.placement).isfinite().all())
        return found


def smoke_probe(bench: Bench) -> dict[str, Any]:
    """The losses of a probe's rows."""
    from eisbach.diagnostics.probe import run_probe
    from eisbach.diagnostics.probe.result import ProbeConfig

    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder))

        def losses(placement: Placement) -> torch.Tensor:
            recipe = {
                "data": {"manifest": [str(clips)], "crop_seconds": 4, "cache": f"{folder}/cache"}, "batch_size": 2,
                "weighting": {"sample": "entropy_barrier"}, "device": str(placement.device), "precision": "fp32",
            }  # fmt: skip
            values = {"train": recipe, "clips": 4, "levels": [0.3, 0.7], "gradient_batches": 2, "structure": False}
            result = run_probe(build_config(ProbeConfig, values), quiet=True)
            return torch.tensor([float(row["loss"]) for row in result.rows])  # type: ignore[arg-type]

        return compared(bench, losses)


def smoke_images(bench: Bench) -> dict[str, Any]:
    """A tiny diffusion transformer of images."""
    from eisbach.generation.images import ImageSampling, sample_images

    values = {"latent_channels": 1, "latent_size": 8, "classes": ["a", "b"], "width": 32, "depth": 2, "heads": 2}
    sampling = ImageSampling(num_inference_steps=4, guidance_scale=2.0)

    def images(placement: Placement) -> torch.Tensor:
        return sample_images(create_backbone(values, kind="dit"), ["a", "b", ""], sampling, placement=placement)

    return compared(bench, images)


def smoke_codec(bench: Bench) -> dict[str, Any]:
    """A small SAME: encoding and decoding."""

    def coded(placement: Placement) -> torch.Tensor:
        codec = _small_same()
        place_codec(codec, placement.device)
        latents = codec.encode(tones(1.0, codec.sample_rate, 2))
        return torch.cat([latents.flatten(), torch.from_numpy(codec.decode(latents)[0].samples).flatten()])

    return compared(bench, coded)


def smoke_listening(bench: Bench) -> dict[str, Any]:
    """musicnn's embedding, and the spectra of the structure metrics."""
    from eisbach.structure.embeddings import load_embedding
    from eisbach.structure.features import extract_features

    clip = tones(8.0, 22050, 1)

    def embedding(placement: Placement) -> torch.Tensor:
        return torch.from_numpy(load_embedding("musicnn", device=str(placement.device)).embed([clip]))

    def mels(placement: Placement) -> torch.Tensor:
        return torch.from_numpy(extract_features(clip, device=str(placement.device)).mel_db)

    first, second = compared(bench, embedding), compared(bench, mels)
    return {**first, "spectra_apart": second["apart"], "same": first["same"] and second["same"]}


def _small_same() -> Any:
    from eisbach.codecs.same import SameCodec

    return SameCodec.load(Path(__file__).parent.parent / "tests" / "fixtures" / "sa3_native_tiny")


# --- a training step at the true size


def training_step(frames: int, batch: int, checkpointing: bool = False) -> Callable[[Bench], dict[str, Any]]:
    """The five forms at one size."""

    def measure(bench: Bench) -> dict[str, Any]:
        bf16 = "bf16" if bench.placement.bf16 else "fp32"
        setting = train_step.Setting(
            "tiny" if bench.quick else "medium", frames, batch, bf16, bf16, 4 if bench.quick else 16, checkpointing,
            compile=False,
        )  # fmt: skip
        base = train_step.build_transformer(setting.preset, setting.frozen, bench.device)
        try:
            forms = [form for form in FORMS if form != "peft" or bf16 == setting.frozen]
            seconds, apart = train_step.time_cases(base, list(forms), setting, bench.repeats, bench.device)
            rows = {form: _form(base, form, setting, seconds, bench) for form in forms}
        except torch.OutOfMemoryError as error:
            return {"frames": frames, "batch": batch, "error": f"out of memory: {str(error).splitlines()[0]}"}
        return {
            "frames": frames,
            "batch": batch,
            "precision": bf16,
            "checkpointing": checkpointing,
            "parameters": sum(value.numel() for value in base.parameters()),
            "forms": rows,
            "outputs_apart_from_rebuilt": apart,
        }

    return measure


def _form(
    base: nn.Module, form: str, setting: train_step.Setting, seconds: dict[str, list[float]], bench: Bench
) -> dict[str, Any]:
    """One form's row: speed, memory, ratios within a repetition, and how much of a step its kernels take."""

    def over(other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[form], seconds[other], strict=True))

    median = statistics.median(seconds[form])
    row: dict[str, Any] = {
        "steps_per_second": 1 / median,
        "over_rebuilt": over("rebuilt"),
        "over_lora": over("lora"),
        "peak_bytes": None,
        **dict.fromkeys(("kernels", "launch_share")),
    }
    if bench.device.type == "cuda":
        row["peak_bytes"] = train_step.peak_on_cuda(base, form, setting, bench.device)
        row |= _profile(train_step.make_step(train_step.share_weights(base), form, setting, bench.device), median)
    return row


def _profile(step: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Kernels a step, and the share of an unprofiled step in which none of them ran: the wait for the host."""
    from torch.profiler import ProfilerActivity, profile

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        step()
        torch.cuda.synchronize()
    events = [event for event in record.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in events) / 1e6
    return {"kernels": len(events), "launch_share": max(0.0, 1 - busy / seconds)}


# --- throughput


def sampling(frames: int, batch: int) -> Callable[[Bench], dict[str, Any]]:
    """Steps of guided sampling (both branches in one batch) at the true size, and clips of 50 steps."""

    def measure(bench: Bench) -> dict[str, Any]:
        setting = "tiny" if bench.quick else "medium"
        network = train_step.build_transformer(setting, "bf16" if bench.placement.bf16 else "fp32", bench.device).eval()
        config: Any = network.config
        rows = 2 * batch
        x_t = torch.randn(rows, config.io_channels, frames, device=bench.device)
        inputs = {
            "timestep": torch.full((rows,), 0.5, device=bench.device),
            "encoder_hidden_states": torch.randn(rows, train_step.TOKENS, config.cond_token_dim, device=bench.device),
            "global_hidden_states": torch.randn(rows, config.global_cond_dim, device=bench.device),
            "local_add_cond": torch.zeros(rows, config.local_add_cond_dim, frames, device=bench.device),
            "return_dict": False,
        }

        def evaluate() -> None:
            with torch.no_grad(), bench.placement.autocast():
                network(x_t, **inputs)

        evaluate()
        evaluate()
        seconds = []
        for _ in range(bench.repeats):
            start = bench.clock()
            evaluate()
            seconds.append(bench.clock() - start)
        median = statistics.median(seconds)
        return {
            "frames": frames,
            "batch": batch,
            "steps_per_second": 1 / median,
            "clips_per_second": batch / 50 / median,
        }

    return measure


def coding(bench: Bench) -> dict[str, Any]:
    """Seconds of stereo audio that SAME encodes and decodes in a second, at diffusers' own size (random weights)."""
    from diffusers import AutoencoderSAME

    from eisbach.codecs.same import SameCodec

    if bench.quick:
        codec: Any = _small_same()
    else:
        model: Any = AutoencoderSAME()
        codec = SameCodec(model, dict(model.config))
    place_codec(codec, bench.device)
    clip = tones(2.0 if bench.quick else 30.0, codec.sample_rate, 2)
    latents = codec.encode(clip)
    codec.decode(latents)
    start = bench.clock()
    codec.encode(clip)
    middle = bench.clock()
    codec.decode(latents)
    end = bench.clock()
    return {
        "encoded_per_second": clip.duration / (middle - start),
        "decoded_per_second": clip.duration / (end - middle),
    }


def listening(bench: Bench) -> dict[str, Any]:
    """Seconds of audio that are embedded and analysed in a second, the analysis with its spectra here and in numpy."""
    from eisbach.structure import analyze
    from eisbach.structure.embeddings import load_embedding

    clips = [tones(8.0 if bench.quick else 30.0, 22050, 1, seed) for seed in range(2 if bench.quick else 8)]
    embedding = load_embedding("musicnn", device=str(bench.device), batch_size=64)
    total = sum(clip.duration for clip in clips)

    def rate(compute: Callable[[Waveform], object]) -> float:
        compute(clips[0])
        start = bench.clock()
        for clip in clips:
            compute(clip)
        return total / (bench.clock() - start)

    return {
        "embedded_per_second": rate(lambda clip: embedding.embed([clip])),
        "analysed_per_second": rate(lambda clip: analyze(clip, device=str(bench.device))),
        "analysed_per_second_in_numpy": rate(analyze),
    }


# --- the plan


def parts_of(quick: bool) -> list[Part]:
    """Everything, the most important first."""
    smoke: dict[str, Callable[[Bench], dict[str, Any]]] = {
        "sampling": smoke_sampling, "training": smoke_training, "probe": smoke_probe, "codec": smoke_codec,
        "images": smoke_images, "embeddings and structure": smoke_listening,
    }  # fmt: skip
    parts = [Part(f"same as on the CPU: {name}", measure, 15) for name, measure in smoke.items()]
    sizes = ((16, 2),) if quick else STEPS
    steps = [
        Part(f"step, {SECONDS[frames]} at batch {batch}", training_step(frames, batch), 20 + frames * batch / 40)
        for frames, batch in sizes
    ]
    others = [
        Part(f"sampling, {SECONDS[frames]} at batch {batch}", sampling(frames, batch), 15)
        for frames, batch in (((16, 2),) if quick else ((323, 1), (323, 4), (1292, 1)))
    ]
    others += [Part("encoding and decoding", coding, 15), Part("embeddings and analysis", listening, 30)]
    frames, batch = (16, 2) if quick else (323, 4)
    checkpointed = Part(
        f"step, {SECONDS[frames]} at batch {batch}, checkpointing", training_step(frames, batch, True), 60
    )
    return [*parts, *steps[:3], *others, *steps[3:], checkpointed]


def measure_all(bench: Bench, parts: list[Part], file: Path, deadline: float, done: dict[str, Any]) -> dict[str, Any]:
    """Measures what is missing while there is time, writing after each part; gives what the file says."""
    facts = {
        "device": device_label(bench.device) if bench.device.type != "cpu" else platform.processor() or "CPU",
        "versions": {"eisbach": __version__, "torch": torch.__version__, "cuda": torch.version.cuda},
        "precision": "bf16" if bench.placement.bf16 else "fp32",
        "quick": bench.quick,
    }
    pace = 1.0  # how this device's parts compare with what was expected of them
    content: dict[str, Any] = {**facts, "parts": done, "left_out": {}}
    for part in parts:
        if part.name in done:
            print(f"{part.name}: kept")
            continue
        wanted, left = part.seconds * pace, deadline - time.monotonic()
        if wanted > left:
            content["left_out"][part.name] = f"it takes about {wanted:.0f} s and {max(0, left):.0f} s were left"
            print(f"{part.name}: left out, {content['left_out'][part.name]}")
        else:
            start = time.monotonic()
            try:
                found = part.measure(bench)
            except Exception as error:  # one part that fails is a result, and the others are still wanted
                found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            took = time.monotonic() - start
            pace = 0.5 * pace + 0.5 * took / part.seconds
            content["parts"][part.name] = {**found, "seconds": round(took, 2)}
            print(f"{part.name}: {took:.1f} s{' FAILED ' + found['failed'] if 'failed' in found else ''}", flush=True)
            gc.collect()
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
        write_json(file, content)
    return content


def table(content: dict[str, Any]) -> str:
    """The result in Markdown."""
    parts = content["parts"]
    lines = [f"{content['device']}, torch {content['versions']['torch']}, {content['precision']}", ""]
    lines += ["| same as on the CPU | largest difference | |", "|---|---|---|"]
    for name, found in parts.items():
        if name.startswith("same as"):
            said = found.get("failed") or ("yes" if found["same"] else "NO")
            lines.append(f"| {name.partition(': ')[2]} | {_number(found.get('apart'))} | {said} |")
    lines += ["", "| step | form | steps/s | GiB | time over rebuilt | over LoRA | kernels | waits for the host |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, found in parts.items():
        for form, row in found.get("forms", {}).items():
            peak = None if row["peak_bytes"] is None else row["peak_bytes"] / 2**30
            values = (row["steps_per_second"], peak, row["over_rebuilt"], row["over_lora"], row["kernels"])
            share = "" if row["launch_share"] is None else f"{row['launch_share']:.0%}"
            lines.append(f"| {name[6:]} | {form} | {' | '.join(map(_number, values))} | {share} |")
        if name.startswith("step") and "forms" not in found:
            lines.append(f"| {name[6:]} | {found.get('error') or found.get('failed')} | | | | | | |")
    lines += ["", "| throughput | |", "|---|---|"]
    for name, found in parts.items():
        for key, value in found.items():
            if key.endswith(("_per_second", "_numpy")) and isinstance(value, float):
                lines.append(f"| {name}: {key.replace('_', ' ')} | {_number(value)} |")
    lines += [f"\nleft out: {name} ({why})" for name, why in content["left_out"].items()]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="how long it may take (default 8)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: shows that everything runs")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--output", type=Path, default=None, help="default: bench/results/gpu_DEVICE.json")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error("--minutes must be above 0")
    return args


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, writes and prints; gives what was written."""
    args = parse(arguments)
    deadline = time.monotonic() + 60 * args.minutes
    placement = place(args.device)
    if placement.device.type == "cpu" and not args.quick:
        raise SystemExit("there is no GPU here: add --quick, which runs the same code on tiny shapes.")
    name = re.sub(r"[^a-z0-9]+", "_", device_label(placement.device).lower()).strip("_")
    file = args.output or RESULTS / f"gpu_{name}{'_quick' if args.quick else ''}.json"
    before = {} if args.fresh or not file.is_file() else read_json(file, "benchmark results")
    same = before.get("versions", {}).get("torch") == torch.__version__ and before.get("quick") == args.quick
    done = {part: found for part, found in before.get("parts", {}).items() if same and "failed" not in found}
    bench = Bench(placement, args.quick, repeats=2 if args.quick else 10)
    print(f"{placement.sentence()}; {len(done)} parts are measured already")
    content = measure_all(bench, parts_of(args.quick), file, deadline, done)
    print(f"\n{table(content)}\n\nwritten to {file}")
    return content


if __name__ == "__main__":
    main()
