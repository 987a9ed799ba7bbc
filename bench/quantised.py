"""What frozen weights in few bits change: ``python bench/quantised.py --model embedded --model FOLDER``.

For each model and each way to store the frozen weights, under bf16 training on the CPU:

- output: the norm of the difference of the network's output from fp32's, over fp32's norm, over eight noise levels;
- training: a DoRA trained for a few steps on the same batches and noise; the held-out loss at the end, and the cosine
  between its update (adapter after less before, all tensors) and that of the run with frozen weights in bf16.

Each model's rows are written as they end, and kept by the next run of the same number of steps.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.files import read_json, write_json
from eisbach.tensor_files import read_tensors
from eisbach.training import train
from eisbach.training.assembly import inject_adapter
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

RESULTS = Path(__file__).parent / "results" / "quantised.json"
FORMS = ("fp32", "bf16", "int8", "fp8", "nf4")
CAPTIONS = ("a calm cello", "a bright celesta", "slow dark string music", "fast high piano")


def clips(root: Path, seconds: float = 6.0, count: int = 12) -> Path:
    """Tones that swell and fade, ten that train and two held out."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * 22050)) / 22050
    rows = []
    for index in range(count):
        level = np.interp(time, [0, 1, 3, seconds], rng.uniform(0.05, 0.5, 4))
        samples = np.sin(2 * np.pi * 110 * (index + 2) * time) * level + 0.01 * rng.standard_normal(time.size)
        file = root / f"clip{index}.wav"
        write_audio(file, Waveform(samples[None].astype(np.float32), 22050))
        split = "held_out" if index >= count - 2 else "train"
        caption = CAPTIONS[index % len(CAPTIONS)]
        rows.append(ManifestRow(file.stem, file.name, caption, seconds, audio_hash=audio_hash(file), split=split))
    save_manifest(Manifest(rows, root))
    return root


def recipe(model: str, material: Path, out: Path, form: str, steps: int) -> TrainConfig:
    """The run of one way to store the frozen weights; fp32 computes in fp32 too."""
    values: dict[str, Any] = {
        "model": model,
        "data": {"manifest": str(material), "crop_seconds": 4},
        "adapter": {"type": "dora", "rank": 8},
        "optimiser": {"lr": 1e-3},
        "steps": steps,
        "batch_size": 4,
        "precision": "fp32" if form == "fp32" else "bf16",
        "frozen": form,
        "held_out": {"every": steps, "batches": 1},
        "checkpoint": {"every": steps},
        "tensorboard": False,
        "out": str(out),
    }
    return build_config(TrainConfig, values)


@torch.no_grad()
def output(config: TrainConfig) -> torch.Tensor:
    """The network's output at eight noise levels, before training."""
    backbone = load_backbone(str(config.model))
    bf16 = config.precision == "bf16"
    form = config.frozen if config.frozen in ("int8", "fp8", "nf4") else None
    inject_adapter(config, backbone, torch.bfloat16 if bf16 else None, form)
    noise = torch.Generator().manual_seed(3)
    x_t = torch.randn(8, backbone.latent_channels, 43, generator=noise)
    conditioning = backbone.condition([*CAPTIONS, *CAPTIONS], [4.0] * 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return backbone.predict(x_t, torch.linspace(0.1, 0.95, 8), conditioning).float()


def update(folder: Path, config: TrainConfig) -> torch.Tensor:
    """What a run added to its adapter, as one vector."""
    backbone = load_backbone(str(config.model))
    inject_adapter(config, backbone)
    from eisbach.adapters.formats import peft as peft_format

    before = peft_format.adapter_tensors(backbone.module)
    after = read_tensors(folder / "adapter" / peft_format.WEIGHTS)
    return torch.cat([(after[name] - before[name]).flatten() for name in sorted(after)])


def compare(model: str, steps: int, work: Path | None) -> list[dict[str, Any]]:
    """A row for each way to store the frozen weights; runs that are in `work` already go on."""
    rows, outputs, updates = [], {}, {}
    with tempfile.TemporaryDirectory() if work is None else nullcontext(work) as folder_of_runs:
        root = Path(folder_of_runs) / f"{Path(model).name}-{steps}"
        (root / "clips").mkdir(parents=True, exist_ok=True)
        material = clips(root / "clips")
        for form in FORMS:
            config = recipe(model, material, root / form, form, steps)
            outputs[form] = output(config)
            folder = train(config, quiet=True)
            updates[form] = update(folder, recipe(model, material, root / form, "fp32", steps))
            loss = read_json(folder / "result.json", "result")["held_out_loss"]
            rows.append({"model": Path(model).name, "frozen": form, "steps": steps, "held_out_loss": loss})
    for row in rows:
        form, reference = row["frozen"], outputs["fp32"]
        row["output_difference"] = float((outputs[form] - reference).norm() / reference.norm())
        row["update_cosine"] = float(torch.cosine_similarity(updates[form], updates["bf16"], dim=0))
        row["held_out_loss_over_bf16"] = row["held_out_loss"] / rows[FORMS.index("bf16")]["held_out_loss"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help='"embedded" or a folder; repeat')
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--work", type=Path, default=None, help="keep the runs here: the same command goes on with them"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: bench/results/quantised.json")
    args = parser.parse_args()
    before = read_json(args.out, "benchmark results") if args.out.is_file() else {}
    rows = before.get("rows", []) if before.get("torch") == torch.__version__ else []
    for model in args.model or ["embedded"]:
        if not any((row["model"], row["steps"]) == (Path(model).name, args.steps) for row in rows):
            rows = [row for row in rows if row["model"] != Path(model).name] + compare(model, args.steps, args.work)
            write_json(args.out, {"torch": torch.__version__, "rows": rows})
    print("| model | frozen | output from fp32 | held-out loss | over bf16 | cosine of the update with bf16's |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        numbers = f"{row['output_difference']:.2%} | {row['held_out_loss']:.5f} | {row['held_out_loss_over_bf16']:.4f}"
        print(f"| {row['model']} | {row['frozen']} | {numbers} | {row['update_cosine']:.4f} |")
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
