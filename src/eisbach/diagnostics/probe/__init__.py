"""Probe: what a weighting would do on a model and a manifest, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eisbach.diagnostics.probe.result import ProbeConfig, ProbeResult, load_result

if TYPE_CHECKING:
    from eisbach.diagnostics.probe.run import run_probe

__all__ = ["ProbeConfig", "ProbeResult", "load_result", "run_probe"]


def __getattr__(name: str) -> Any:
    # The measurement needs torch; checking a recipe and reading a result do not.
    if name == "run_probe":
        from eisbach.diagnostics.probe.run import run_probe

        return run_probe
    raise AttributeError(f"module 'eisbach.diagnostics.probe' has no attribute '{name}'")
