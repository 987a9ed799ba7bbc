"""What a probe found, in memory and on disk: tidy rows, simulated batches and the comparison of gradients.

`ProbeResult.rows` holds one row a clip x noise level x draw, with the columns `ROW_COLUMNS`, then
``structure.<metric>`` for each metric of the crop's audio and ``label.<key>`` for each label of the manifest. A value
that does not exist or is not finite is None.

`ProbeResult.batches` holds one row a simulated global training batch, with the columns `BATCH_COLUMNS`.

`ProbeResult.gain` holds the experiment on loudness: rows ``{clip, t, gain_db, sample_weight}`` of clips turned up and
down (`gain.measure_gain`); empty where there was none.

`ProbeResult.gradients` is {} when none were compared, else

- ``trained`` ("dora", "lora" or "all"), ``scalars`` (number of trained parameters), ``batches``, ``batch_size``
  (global), ``condition_dropout``, ``betas``, ``eps``, ``max_grad_norm``, ``skipped_batches`` (whose gradients were not
  finite), ``perturbation_steps``;
- ``points``: ``{"start": point}``, and with an adapter also ``"moved"``: a few plain steps on, because a fresh
  adapter's B is zero and A has no gradient there. A *point* has

  - ``cosine``, ``angle`` (degrees) between the plain gradient g_p and the weighted g_w of a batch, ``norm_ratio``
    |g_w|/|g_p|, ``plain_norm``, ``weighted_norm``, and for scale ``between_batches_angle`` (plain gradients of
    successive, independent batches);
  - ``plain_clipped``, ``weighted_clipped`` (share of the batches that training would clip), ``clipped_norm_ratio``;
  - ``update_norm_ratio``, ``update_angle`` (degrees) between AdamW's normalised updates u_p and u_w, clipped as the
    recipe clips, in the order of training and with unmoved weights, over the last third of the batches;
  - ``per_batch``: the numbers of each batch.

  Every number over batches is a *summary* ``{mean, sd, low, high, n}``, where low and high bound the 95% interval of
  the mean (a bootstrap over batches); its values are None where n is 0, and sd, low and high also where n is 1.
- ``levels``: rows ``{t, plain_norm, weighted_norm, norm_ratio, cosine, batches, weighted_norms}`` of batches at one
  noise level, at the last of the points (prediction 1 of the barrier paper): means, and the norm of every batch, the
  same clips and noise in the same place at every level. Under normalisation "mean1" the weights are divided by
  their mean over the training batches and not by that of their own level, which would leave 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model, field_validator

from eisbach.config import StrictModel, check_values
from eisbach.errors import UserError
from eisbach.files import atomic_write, read_jsonl, read_object, write_json, write_jsonl
from eisbach.training.config import TrainConfig
from eisbach.types import Record

RESULT, ROWS, ROWS_PARQUET = "probe.json", "rows.jsonl", "rows.parquet"

ROW_COLUMNS: dict[str, str] = {
    "clip": "id in the manifest",
    "t": "noise level",
    "log_snr": "ln(alpha^2 / sigma^2) at t",
    "draw": "number of the noise draw, from 0; the same noise at every level",
    "belief": "belief of the sample weighting, 1 = structureless; None without one",
    "sample_weight": "sample weight before strength, gate and level means; 1 without a sample weighting",
    "noise_weight": "noise-level weight; 1 without one",
    "weight": "product of all weights with strength, gate and level means, before normalisation; with reduction "
    "'batch' "
    "that of a batch of this sample alone",
    "loss": "unweighted mean squared error of the target",
    "x0_loss": "mean squared error of the estimate of x0",
    "output_energy_db": "mean square of the output, dB",
    "x0_energy_db": "mean square of the estimate of x0, dB",
    "latent_db": "mean square of the clean latents, dB",
    "loudness_db": "RMS level of the crop's audio, dBFS",
}
"""What is measured for each row."""

BATCH_COLUMNS: dict[str, str] = {
    "batch": "number of the simulated step, from 0",
    "samples": "samples of the global batch",
    "cv": "coefficient of variation of the final weights within the batch",
    "ess_share": "effective sample size over the number of samples, in (0, 1]",
    "mean_weight": "mean of the final weights before normalisation 'mean1'",
    "mean_sample_weight": "mean of the sample weights",
    "cv_sample_weight": "coefficient of variation of the sample weights",
    "mean_belief": "mean belief; None without one",
    "mean_t": "mean noise level",
    "loss": "unweighted mean loss",
    "weighted_loss": "loss as training would see it",
}
"""What is measured for each simulated batch."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found (see the module's description).

    Attributes
    ----------
    setup : dict
        ``model, model_identity, path, target, density, weighting, weighting_options, reduction, normalisation,
        strength, sample, noise_level, trained_adapter, adapter, split, clips, clips_available, levels, draws,
        crop_seconds, batch_size, accumulation, seed, precision, device, versions, skipped (list of {item, reason}),
        non_finite_rows, batches_from, seconds`` (each stage's and the total).
    rows : list of Record
    batches : list of Record
    gradients : dict
    level_means : list of [t, mean sample weight]
        In ascending t; the mean is None where no weight was finite.
    gain : list of Record
    """

    setup: dict[str, Any]
    rows: list[Record]
    batches: list[Record]
    gradients: dict[str, Any]
    level_means: list[list[float | None]]
    gain: list[Record] = field(default_factory=list)

    def save(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes `probe.json`, `rows.jsonl` and `rows.parquet` into `folder` and returns the folder.

        Parameters
        ----------
        extra : mapping or None
            Further top-level keys of `probe.json`, such as ``explanation`` and ``verdict``.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        folder = Path(folder)
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "rows"}
        clash = sorted(set(values) & set(extra or {}))
        if clash:
            raise ValueError(f"extra may not replace {clash}")
        rows = [plain(row) for row in self.rows]
        write_jsonl(folder / ROWS, rows)
        _write_parquet(rows, folder / ROWS_PARQUET)
        write_json(folder / RESULT, plain({**values, **(extra or {})}))
        return folder


_Number = float | None
_Setup: Any = create_model(  # type: ignore[call-overload]
    "_Setup",
    **dict.fromkeys(("sample", "noise_level", "reduction", "normalisation"), (str, "")),
    **dict.fromkeys(("strength", "crop_seconds"), (_Number, None)),
    **dict.fromkeys(("draws", "batch_size", "accumulation"), (int | None, None)),
    weighting_options=(dict[str, Any] | None, None),
    skipped=(list[dict[Literal["item", "reason"], str]] | None, None),
)
_Summary: Any = create_model("_Summary", mean=(_Number, ...), low=(_Number, None), high=(_Number, None))
_Point: Any = create_model(  # type: ignore[call-overload]
    "_Point",
    **dict.fromkeys(
        ("angle", "norm_ratio", "between_batches_angle", "update_angle", "update_norm_ratio"), (_Summary, ...)
    ),
)
_Points: Any = dict[Literal["start", "moved"], _Point] | None
_Gradients: Any = create_model(
    "_Gradients",
    batches=(int, 0),
    points=(_Points, None),
    levels=(list[dict[str, float | list[_Number] | None]] | None, None),
)
_Row: Any = create_model(  # type: ignore[call-overload]
    "_Row", clip=(str, ...), t=(float, ...), **dict.fromkeys(list(ROW_COLUMNS)[2:], (_Number, None))
)
_KINDS = {
    "setup": _Setup, "gradients": _Gradients, "batches": list[dict[str, _Number]],
    "level_means": list[tuple[float, _Number]],
}  # fmt: skip
"""What verdict and page read of each part of a result."""


def load_result(folder: str | Path) -> ProbeResult:
    """The result that `ProbeResult.save` wrote into a folder.

    Raises
    ------
    UserError
        A file is missing, malformed or not a probe's.
    """
    folder = Path(folder)
    values = read_object(folder / RESULT, "probe result")
    names = [item.name for item in fields(ProbeResult) if item.name != "rows"]
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(
            f"{folder / RESULT} is not a probe's result: it lacks {', '.join(missing)}; run the probe again."
        )
    for name, kind in _KINDS.items():
        check_values(kind, values[name], f"'{name}' in {folder / RESULT}")
    rows = read_jsonl(folder / ROWS, "probe's rows")
    check_values(list[_Row], rows, f"the probe's rows in {folder / ROWS}")
    return check_values(
        ProbeResult, {"rows": rows, **{name: values[name] for name in names}}, f"the result in {folder}"
    )


def plain(value: Any) -> Any:
    """A copy of nested mappings, sequences and numbers that JSON can hold: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        return plain(value.tolist())
    number = float(value)
    return number if math.isfinite(number) else None


def _write_parquet(rows: Iterable[Record], path: Path) -> None:
    """One column a key of any row; a key that a row lacks is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    atomic_write(path, lambda partial: pq.write_table(table, partial))


# --- what a probe measures: the very recipe that training reads, and how closely to look


_DEFAULT_LEVELS = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class ProbeConfig(StrictModel):
    """One probe.

    Attributes
    ----------
    train : TrainConfig
        The recipe of the training that is asked about. Model, data, adapter, weighting, noise levels, optimiser, batch
        size, accumulation, clipping, condition dropout, precision and seed are read; nothing is trained.
    clips : int
        Clips whose weights are measured at every level; fewer clips than that are all measured.
    levels : list of float
        Values of t in (0, 1); t = 1 is noise.
    draws : int
        Draws of noise for each clip and level.
    gradient_batches : int
        Global batches whose gradients are compared; 0 compares none.
    gain_clips : int
        Clips that are turned up and down by 6 dB to see what that does to their weights; 0 turns none.
    adapter : str or None
        Folder of a trained adapter (or of fully trained weights): the probe looks at that model instead of the base.
    structure : bool
        Whether the structure metrics of the crops' audio are measured.
    split : "train", "held_out" or "all"
        Which clips are looked at; "train" are those that the recipe trains on (all of them with its `data.split`
        "all"). `data.select` applies to each.
    out : str or None
        Folder for the result; None writes nothing.
    """

    train: TrainConfig
    clips: int = Field(default=64, ge=1)
    levels: list[float] = Field(default=_DEFAULT_LEVELS, min_length=1)
    draws: int = Field(default=1, ge=1)
    gradient_batches: int = Field(default=12, ge=0)
    gain_clips: int = Field(default=16, ge=0)
    adapter: str | None = None
    structure: bool = True
    split: Literal["train", "held_out", "all"] = "train"
    out: str | None = None

    @field_validator("levels")
    @classmethod
    def _levels_in_range(cls, levels: list[float]) -> list[float]:
        if not all(0 < level < 1 for level in levels):
            raise ValueError("every noise level must lie in (0, 1); t = 1 is noise")
        if len(set(levels)) != len(levels):
            raise ValueError("each noise level may be listed once; use draws for more noise")
        return sorted(levels)
