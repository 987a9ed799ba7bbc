"""Rows and simulated batches against the formulas, written out again in numpy float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from eisbach.audio import read_audio
from eisbach.diagnostics.probe import rows as rows_module
from eisbach.diagnostics.probe.result import BATCH_COLUMNS, ROW_COLUMNS
from eisbach.diagnostics.probe.rows import level_means, loudness_db, measure_rows, simulate_batch, simulate_batches
from eisbach.diagnostics.probe.subject import Subject
from eisbach.training.noising import step_generator
from eisbach.training.step import micro_step
from eisbach.types import Record, Waveform
from eisbach.weighting import effective_sample_size

Load = Callable[..., Subject]


def ignore(count: int) -> None:
    """No progress."""


def answer(subject: Subject, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Subject:
    """The subject with another network: `function(x_t, t)`."""
    subject.predict = lambda x_t, t, conditioning: function(x_t, t)  # type: ignore[method-assign]
    return subject


def by_key(rows: list[Record]) -> dict[tuple[str, float], Record]:
    return {(str(row["clip"]), float(row["t"])): row for row in rows}  # type: ignore[arg-type]


def test_every_column_follows_its_formula(load: Load) -> None:
    subject = answer(load(), lambda x_t, t: 0.7 * x_t)
    found = by_key(measure_rows(subject, ignore))
    crops = subject.crops()
    assert len(found) == len(crops) * 3
    short = 0
    for crop in crops:
        frames = slice(None) if crop.batch.mask is None else crop.batch.mask[0].numpy()
        short += crop.batch.mask is not None
        x0 = crop.batch.latents[0].double().numpy()
        generator = step_generator(subject.config.train.seed, crop.number, 0, rows_module._STREAM)
        noise = torch.randn(crop.batch.latents.shape[1:], generator=generator).double().numpy()
        for t in (0.1, 0.5, 0.9):
            row = found[crop.row.id, t]
            x_t = (1 - t) * x0 + t * noise
            output, estimate = 0.7 * x_t, x_t - t * 0.7 * x_t  # linear path, target u = noise - x0
            energy = np.square(output[:, frames]).mean(axis=0)
            share = np.exp(energy - energy.max()) / np.exp(energy - energy.max()).sum()
            belief = -(share * np.log(share)).sum() / np.log(len(share))  # Eqs. 1-3 of the barrier paper
            weight = 1 / (1 - np.log(1 - belief))
            expected = {
                "log_snr": 2 * math.log((1 - t) / t),
                "belief": belief,
                "sample_weight": weight,
                "noise_weight": 1.0,
                "weight": weight,
                "loss": np.square(output - (noise - x0))[:, frames].mean(),
                "x0_loss": np.square(estimate - x0)[:, frames].mean(),
                "output_energy_db": 10 * np.log10(np.square(output)[:, frames].mean()),
                "x0_energy_db": 10 * np.log10(np.square(estimate)[:, frames].mean()),
                "latent_db": 10 * np.log10(np.square(x0)[:, frames].mean()),
            }
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=2e-4, abs=2e-5), (name, t)
            assert row["label.flat"] == crop.row.labels["flat"]
            assert ROW_COLUMNS.keys() <= row.keys()
    assert 0 < short < len(crops)  # both kinds were seen


def test_rows_carry_the_factor_of_the_sample_alone_whatever_the_reduction(load: Load) -> None:
    options = {"sample": "entropy_barrier", "strength": 0.3}
    plain = measure_rows(load(weighting=options), ignore)
    batch = measure_rows(load(weighting={**options, "reduction": "batch"}), ignore)
    mean1 = measure_rows(load(weighting={**options, "normalisation": "mean1"}), ignore)
    for row, other, third in zip(plain, batch, mean1, strict=True):
        assert row["weight"] == pytest.approx(0.7 + 0.3 * row["sample_weight"], rel=1e-6)  # type: ignore[operator]
        assert row == other == third


def test_a_gate_and_a_noise_level_weighting_show_in_the_weight(load: Load) -> None:
    weighting = {"sample": "entropy_barrier", "strength": 1.0, "noise_level": "min_snr",
                 "options": {"gate_below": 0.3, "gamma": 5.0}}  # fmt: skip
    found = measure_rows(load(weighting=weighting), ignore)
    for row in found:
        t = float(row["t"])  # type: ignore[arg-type]
        noise = min((1 - t) ** 2, 5 * t**2)  # the u form on the linear path
        assert row["noise_weight"] == pytest.approx(noise, rel=1e-5)
        sample = float(row["sample_weight"]) if t < 0.3 else 1.0  # type: ignore[arg-type]
        assert row["weight"] == pytest.approx(noise * sample, rel=1e-5)
        assert row["sample_weight"] != 1.0  # as measured, before the gate


def test_the_noise_of_a_clip_is_the_same_at_every_level_and_differs_between_clips_and_draws(load: Load) -> None:
    subject = answer(load({"draws": 2}), lambda x_t, t: torch.zeros_like(x_t))
    losses: dict[str, dict[int, set[float]]] = {}
    for row in measure_rows(subject, ignore):  # a silent network's loss is |noise - x0|^2 at any t
        losses.setdefault(str(row["clip"]), {}).setdefault(int(row["draw"]), set()).add(row["loss"])  # type: ignore
    for draws in losses.values():
        assert len(draws) == 2
        for values in draws.values():
            assert max(values) - min(values) < 1e-6
        assert draws[0] != draws[1]
    assert len({frozenset(draws[0]) for draws in losses.values()}) == len(losses)


def test_how_clips_are_grouped_changes_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_rows(load(), ignore)
    monkeypatch.setattr(rows_module, "_CPU_ELEMENTS", 1)
    single = measure_rows(load(), ignore)
    for row, other in zip(whole, single, strict=True):
        assert row["clip"] == other["clip"]
        for name in ("belief", "weight", "loss", "x0_loss", "latent_db"):
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)


def test_rows_without_a_sample_weighting_have_no_belief(load: Load) -> None:
    for weighting in ({}, {"noise_level": "min_snr"}):
        found = measure_rows(load(weighting=weighting), ignore)
        assert all(row["belief"] is None and row["sample_weight"] == 1.0 for row in found)
        assert (len({row["weight"] for row in found}) > 1) == bool(weighting)


@pytest.mark.parametrize("sample", ["entropy_barrier", "recurrence_barrier"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_output_gives_null_and_leaves_the_other_clips_alone(load: Load, sample: str, value: float) -> None:
    weighting = {"sample": sample, "strength": 1.0}
    whole = measure_rows(load(weighting=weighting), ignore)
    subject = load(weighting=weighting)
    honest = subject.predict

    def broken(x_t: torch.Tensor, t: torch.Tensor, conditioning: object) -> torch.Tensor:
        output = honest(x_t, t, conditioning).clone()  # type: ignore[arg-type]
        if t[0] < 0.3:
            output[1, 0, 0] = value
        return output

    subject.predict = broken  # type: ignore[method-assign]
    found = measure_rows(subject, ignore)
    bad = [row for row in found if row["loss"] is None]
    assert len(bad) == 1
    assert bad[0]["t"] == 0.1
    for name in ("belief", "sample_weight", "weight", "x0_loss", "output_energy_db"):
        assert bad[0][name] is None
    assert bad[0]["latent_db"] is not None
    assert [row for row in found if row["loss"] is not None] == [
        row for row, other in zip(whole, found, strict=True) if other["loss"] is not None
    ]


def test_the_audio_measured_is_the_section_that_the_latents_stand_for(load: Load) -> None:
    subject = load(data={**load().config.train.data.model_dump(), "crop_seconds": 3})
    moved = 0
    for crop in subject.crops():
        waveform = read_audio(subject.manifest.audio_path(crop.row), start=crop.start, duration=crop.seconds)
        row = rows_module.audio_columns(subject, crop)
        expected = 10 * np.log10(np.square(waveform.samples.astype(np.float64)).mean())
        assert row["loudness_db"] == pytest.approx(expected, abs=1e-6)
        entry = next(item for item in subject.dataset.cache.entries if item.row.id == crop.row.id)
        whole = rows_module_latents(entry.path)
        first = round(crop.start * subject.backbone.latent_rate)
        frames = min(crop.batch.latents.shape[-1], whole.shape[1] - first)
        assert torch.equal(crop.batch.latents[0, :, :frames], whole[:, first : first + frames])
        moved += first > 0
    assert moved > 0


def rows_module_latents(path: object) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(str(path))["section-0"]


def test_structure_metrics_stand_beside_each_clip(load: Load) -> None:
    found = measure_rows(load({"structure": True, "clips": 2, "levels": [0.5]}), ignore)
    columns = {name for name in found[0] if name.startswith("structure.")}
    assert {"structure.level_range", "structure.flat_probability", "structure.noise_floor_db"} <= columns
    assert any(isinstance(row["structure.level_range"], float) for row in found)
    assert all(
        value is None or math.isfinite(value) for row in found for value in row.values() if not isinstance(value, str)
    )


def test_an_audio_file_that_went_away_is_reported(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = load({"clips": 2})
    monkeypatch.setattr(type(subject.manifest), "audio_path", lambda self, row: "/nowhere.wav")
    found = measure_rows(subject, ignore)
    assert {row["loudness_db"] for row in found} == {None}
    assert len(subject.skips.skipped) == 2
    assert "nowhere.wav" in subject.skips.skipped[0].reason


def test_loudness_of_known_signals() -> None:
    tone = np.sin(2 * np.pi * 50 * np.arange(8000) / 8000).astype(np.float32)
    assert loudness_db(Waveform(tone[None], 8000)) == pytest.approx(-3.0103, abs=1e-3)
    assert loudness_db(Waveform(np.ones((2, 100), np.float32), 8000)) == pytest.approx(0.0)
    assert math.isnan(loudness_db(Waveform(np.zeros((1, 100), np.float32), 8000)))


def test_level_means_leave_out_what_has_no_value_or_was_not_judged() -> None:
    rows: list[Record] = [
        {"t": 0.9, "sample_weight": 0.5, "belief": 0.1},
        {"t": 0.1, "sample_weight": 0.2, "belief": 0.1},
        {"t": 0.1, "sample_weight": 0.4, "belief": 0.1},
        {"t": 0.1, "sample_weight": 1.0, "belief": None},  # too short to be judged
        {"t": 0.1, "sample_weight": None, "belief": None},
        {"t": 0.5, "sample_weight": None, "belief": None},
    ]
    assert level_means(rows, judged=True) == [[0.1, pytest.approx(0.3)], [0.5, None], [0.9, 0.5]]
    assert level_means(rows, judged=False)[0][1] == pytest.approx(1.6 / 3)


def training_batch(subject: Subject, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(stats, weighted loss, mean plain loss) of a step, by training's own function."""
    stats, unscaled, losses = torch.zeros(4), torch.zeros(()), []
    for micro in range(subject.accumulation):
        batch, index = subject.micro_batch(step, micro)
        generator = step_generator(subject.config.train.seed, index)
        with torch.no_grad():
            made = micro_step(subject.predict, subject.objective, batch, subject.conditioning(batch), generator)
        stats, unscaled = stats + made.partial.stats, unscaled + made.partial.unscaled
        losses.append(made.partial.terms.per_sample)
    return stats, unscaled * subject.objective.weighting.gradient_factor(stats), torch.cat(losses).mean()


@pytest.mark.parametrize("reduction", ["sample", "batch"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_simulated_batch_is_the_step_that_training_takes(load: Load, reduction: str, accumulation: int) -> None:
    weighting = {"sample": "entropy_barrier", "strength": 0.6, "noise_level": "min_snr", "reduction": reduction}
    subject = load(weighting=weighting, accumulation=accumulation)
    row = simulate_batch(subject, 1)
    stats, weighted, plain = training_batch(subject, 1)
    count = 3 * accumulation
    assert row.keys() == BATCH_COLUMNS.keys()
    assert row["samples"] == count
    assert row["loss"] == pytest.approx(float(plain), rel=1e-5)
    assert row["weighted_loss"] == pytest.approx(float(weighted), rel=1e-5)
    assert row["ess_share"] == pytest.approx(float(effective_sample_size(stats)) / count, rel=1e-5)
    share = float(row["ess_share"])  # type: ignore[arg-type]
    assert row["cv"] == pytest.approx(math.sqrt(1 / share - 1), rel=1e-4)  # of equal definition: ESS/B = 1/(1 + cv^2)
    expected = float(stats[1] / count) * (0.4 + 0.6 * float(stats[3]) / count if reduction == "batch" else 1.0)
    assert row["mean_weight"] == pytest.approx(expected, rel=1e-5)


def test_batches_of_equal_weights_have_no_spread(load: Load) -> None:
    for weighting in ({}, {"sample": "entropy_barrier", "reduction": "batch"}):
        for row in simulate_batches(load(weighting=weighting), ignore):
            assert row["cv"] == pytest.approx(0.0, abs=1e-6)
            assert row["ess_share"] == pytest.approx(1.0, abs=1e-6)
    plain = simulate_batches(load(weighting={}), ignore)
    assert all(row["mean_weight"] == 1.0 and row["mean_belief"] is None for row in plain)


def test_mean_one_is_not_hidden_in_the_mean_weight(load: Load) -> None:
    options = {"sample": "entropy_barrier", "strength": 1.0}
    plain = simulate_batches(load(weighting=options), ignore)
    normalised = simulate_batches(load(weighting={**options, "normalisation": "mean1"}), ignore)
    for row, other in zip(plain, normalised, strict=True):
        assert row["mean_weight"] == pytest.approx(other["mean_weight"], rel=1e-6)
        assert row["cv"] == pytest.approx(other["cv"], rel=1e-6)
        assert row["weighted_loss"] != pytest.approx(other["weighted_loss"], rel=1e-2)


def test_a_broken_batch_is_null(load: Load) -> None:
    subject = answer(load(weighting={"sample": "recurrence_barrier"}), lambda x_t, t: x_t / 0)
    row = simulate_batch(subject, 0)
    assert row["batch"] == 0
    assert all(row[name] is None for name in BATCH_COLUMNS if name not in ("batch", "samples"))
