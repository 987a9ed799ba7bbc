"""The fine-tuning set of an experiment: performances of scores and flat material in one manifest, or a person's own audio."""

from __future__ import annotations

from pathlib import Path

from eisbach.experiments.spec import ExperimentSpec


def plan_material(spec: ExperimentSpec, root: Path) -> tuple[Path | None, Path | None]:
    """Where the manifest and the latent cache of the experiment's own material go; None twice without material."""
    if spec.material is None:
        return None, None
    data = root / "data"
    return data / "manifest.jsonl", data / "latents"
