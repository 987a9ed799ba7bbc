"""What the barrier's weight does on the embedded base with labelled clips, before anything is trained: a probe a
weighting."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field

from eisbach.config import build_config
from eisbach.diagnostics.probe import run_probe
from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.result import ProbeConfig
from eisbach.experiments.material import build_material, plan_material
from eisbach.experiments.recipes import load_spec
from eisbach.studies.contract import PlacedSettings
from eisbach.training.config import TrainConfig

_WEIGHTINGS: dict[str, dict[str, Any]] = {
    "eq5": {"sample": "entropy_barrier", "reduction": "batch"},
    "entropy": {"sample": "entropy_barrier", "strength": 1.0, "normalisation": "mean1"},
    "recurrence": {
        "sample": "recurrence_barrier", "strength": 1.0, "normalisation": "mean1",
        "options": {"form": "power", "sharpness": 4.0},
    },
    "development": {"sample": "development_barrier", "strength": 1.0, "normalisation": "mean1"},
    "min-snr": {"noise_level": "min_snr"},
}  # fmt: skip
"""Name of the record to weighting."""


class Settings(PlacedSettings):
    """Which clips are looked at, and how closely.

    Attributes
    ----------
    data : str
        Manifest of clips labelled developing and flat; "" makes the material of the study `curation` here.
    material_clips : int
        Clips of that material.
    clips, gradient_batches : int
        Clips at every noise level, and batches whose gradients are compared.
    """

    data: str = ""
    material_clips: int = Field(240, ge=10)
    clips: int = Field(64, ge=8)
    gradient_batches: int = Field(12, ge=1)
    gain_clips: int = Field(16, ge=0)
    weightings: list[str] = Field(default=list(_WEIGHTINGS), min_length=1)


QUICK: dict[str, Any] = {
    "material_clips": 20, "clips": 16, "gradient_batches": 2, "gain_clips": 2, "weightings": ["eq5"]
}  # fmt: skip


def _labelled_clips(settings: Settings, out: Path) -> str:
    """The manifest of labelled clips, made now where none is named."""
    if settings.data:
        return settings.data
    root = out / "material"
    spec = load_spec("curation", [f"out={root}", f"material.clips={settings.material_clips}"])
    build_material(spec, root, lambda key: nullcontext())
    manifest, _ = plan_material(spec, root, spec.train_seeds[0])
    return str(manifest)


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes a folder a weighting with its `probe.json`; one that is there is kept."""
    manifest = _labelled_clips(settings, out)
    for name in settings.weightings:
        if (out / name / "probe.json").is_file():
            continue
        train = build_config(TrainConfig, {
            "data": {"manifest": [manifest]}, "weighting": _WEIGHTINGS[name], "device": settings.device,
            "precision": "fp32",
        })  # fmt: skip
        config = build_config(
            ProbeConfig,
            {
                "train": train.model_dump(mode="json"),
                "clips": settings.clips,
                "gradient_batches": settings.gradient_batches,
                "gain_clips": settings.gain_clips,
            },
        )
        result = run_probe(config, quiet=quiet)
        result.save(out / name, {"explanation": explain(result).to_json()})
