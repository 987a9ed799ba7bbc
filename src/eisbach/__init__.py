"""Eisbach decides where a diffusion model's training effort goes, and measures what that did.

What people call first is here, and is imported when it is first used (``import eisbach`` itself loads nothing):

>>> import eisbach
>>> weighting = eisbach.build_weighting("recommended", latent_rate=10.77)  # in your own loop, too: docs/drop-in.md
>>> backbone = eisbach.load_model("embedded")
>>> backbone.target, backbone.latent_channels
('u', 128)
>>> [name for name, metric in eisbach.METRICS.items() if metric.family == "dynamics"]
['level_range', 'loudness_range']

`train`, `generate` and `probe` take a configuration (`TrainConfig`, `GenerateConfig`, `ProbeConfig`): what a recipe
holds. `analyze` measures files and folders of music and compares them, `compare_sets` compares what was measured,
`load_adapter` folds an adapter into a model.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` alone would take longer to import than everything here
if TYPE_CHECKING:
    from eisbach.adapters.attach import attach as load_adapter
    from eisbach.backbones import load_backbone as load_model
    from eisbach.diagnostics.probe import ProbeConfig
    from eisbach.diagnostics.probe import run_probe as probe
    from eisbach.errors import EisbachError, UserError
    from eisbach.experiments.comparing import compare_sets
    from eisbach.generation.config import GenerateConfig
    from eisbach.generation.generate import generate
    from eisbach.report.structure.analysis import analyze
    from eisbach.structure import METRICS
    from eisbach.training import TrainConfig, train
    from eisbach.weighting import Weighting, build_weighting

__version__ = "0.1.0"

_DOORS = {
    "METRICS": "eisbach.structure:METRICS",
    "EisbachError": "eisbach.errors:EisbachError",
    "GenerateConfig": "eisbach.generation:GenerateConfig",
    "ProbeConfig": "eisbach.diagnostics.probe:ProbeConfig",
    "TrainConfig": "eisbach.training:TrainConfig",
    "UserError": "eisbach.errors:UserError",
    "Weighting": "eisbach.weighting:Weighting",
    "analyze": "eisbach.report.structure.analysis:analyze",
    "build_weighting": "eisbach.weighting:build_weighting",
    "compare_sets": "eisbach.experiments.comparing:compare_sets",
    "generate": "eisbach.generation:generate",
    "load_adapter": "eisbach.adapters:attach",
    "load_model": "eisbach.backbones:load_backbone",
    "probe": "eisbach.diagnostics.probe:run_probe",
    "train": "eisbach.training:train",
}

__all__ = [
    "METRICS",
    "EisbachError",
    "GenerateConfig",
    "ProbeConfig",
    "TrainConfig",
    "UserError",
    "Weighting",
    "__version__",
    "analyze",
    "build_weighting",
    "compare_sets",
    "generate",
    "load_adapter",
    "load_model",
    "probe",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, member = _DOORS[name].partition(":")
    value = getattr(import_module(module), member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
