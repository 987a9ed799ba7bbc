"""`run_probe`: from a configuration to a result, with the model left as it was."""

from __future__ import annotations

import time
from typing import Any

from eisbach.diagnostics.probe import gradients, rows
from eisbach.diagnostics.probe.result import ProbeConfig, ProbeResult, plain
from eisbach.diagnostics.probe.subject import Subject, load_subject, trained_weights
from eisbach.progress import Progress


def run_probe(config: ProbeConfig, *, quiet: bool = False) -> ProbeResult:
    """What the recipe's weighting would do on its model and its data.

    The same configuration on the same machine gives the same numbers. The model is loaded for the probe alone and
    nothing that was trained stays. Writes the result into `config.out` where one is given.

    Parameters
    ----------
    config : ProbeConfig
    quiet : bool
        No progress bar and no notes.

    Raises
    ------
    ConfigError, UserError, ManifestError, AudioError, CheckpointError
        What training would refuse too: a name or an option that does not exist, too few clips, a model or an adapter
        that does not fit.
    StorageError
        `config.out` cannot be written.

    Examples
    --------
    With a folder ``music`` that holds audio and its manifest.jsonl:

    >>> from eisbach import ProbeConfig, probe
    >>> recipe = {"data": {"manifest": "music", "crop_seconds": 4}, "batch_size": 2,
    ...           "weighting": {"sample": "entropy_barrier"}}
    >>> result = probe(ProbeConfig(train=recipe, clips=4, levels=[0.3, 0.7], gradient_batches=0), quiet=True)
    >>> len(result.rows), sorted(row["t"] for row in result.rows)[0]
    (8, 0.3)
    >>> from eisbach.diagnostics.probe.explain import explain
    >>> from eisbach.diagnostics.probe.verdict import verdict
    >>> verdict(explain(result)).codes[0]
    'few_clips'
    """
    started = time.monotonic()
    subject = load_subject(config, quiet)
    took = {"load": time.monotonic() - started}
    total = rows.row_units(subject) + rows.gain_units(subject) + rows.batch_units(subject) + gradients.units(subject)
    with Progress(total, "probe", quiet=quiet) as bar:

        def timed(name: str, measure: Any) -> Any:
            since = time.monotonic()
            value = measure(subject, lambda count: bar.advance(count, name))
            took[name] = time.monotonic() - since
            return value

        with trained_weights(subject):
            measured = timed("rows", rows.measure_rows)
            turned = timed("gain", rows.measure_gain)
            simulated = timed("batches", rows.simulate_batches)
        compared = timed("gradients", gradients.measure_gradients)
    took["total"] = time.monotonic() - started
    result = ProbeResult(
        setup=plain(describe(subject, took) | {"non_finite_rows": sum(row["loss"] is None for row in measured)}),
        rows=measured,
        batches=simulated,
        gradients=plain(compared),
        level_means=rows.level_means(measured, judged=subject.objective.weighting.sample is not None),
        gain=turned,
    )
    if config.out is not None:
        result.save(config.out)
    return result


def describe(subject: Subject, seconds: dict[str, float]) -> dict[str, Any]:
    """`ProbeResult.setup`, but for what the measurements add."""
    from eisbach.training.run_folder import versions

    config, train, objective = subject.config, subject.config.train, subject.objective
    chosen = train.weighting
    return {
        "model": train.model if isinstance(train.model, str) else "created",
        "model_identity": subject.identity,
        "path": objective.path.name,
        "target": objective.target,
        "density": objective.density.name,
        "density_options": train.noise_levels.options,
        "weighting": repr(objective.weighting),
        "sample": chosen.sample,
        "noise_level": chosen.noise_level,
        "reduction": chosen.reduction,
        "normalisation": chosen.normalisation,
        "strength": chosen.strength,
        "weighting_options": chosen.options,
        "trained_adapter": config.adapter,
        "adapter": train.adapter.model_dump(mode="json"),
        "manifest": train.data.manifest,
        "split": config.split,
        "clips": min(config.clips, len(subject.dataset)),
        "clips_available": subject.available,
        "batches_from": subject.data.clips,
        "levels": config.levels,
        "draws": config.draws,
        "crop_seconds": subject.crop_seconds,
        "batch_size": train.batch_size,
        "accumulation": train.accumulation,
        "seed": train.seed,
        "precision": "bf16" if subject.bf16 else "fp32",
        "device": str(subject.device),
        "versions": versions(),
        "skipped": [{"item": item.item, "reason": item.reason} for item in subject.skips.skipped],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
