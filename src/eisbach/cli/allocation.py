"""`eisbach allocation`: where training effort goes over noise levels, before anything is trained."""

from __future__ import annotations

import contextlib
import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import AsJson, DryRun, print_json
from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.weighting.allocation import Allocation

_MOST = 12
_NAME_WIDTH = 24


def allocation(
    noise_level: Annotated[
        list[str] | None,
        typer.Option(
            help="Weighting, or NAME:KEY=VALUE,...; repeat to compare. 'none' is the unweighted loss.",
            show_default="none",
        ),
    ] = None,
    density: Annotated[
        list[str] | None,
        typer.Option(help="Density of noise levels, or NAME:KEY=VALUE,...; repeat to compare.", show_default="uniform"),
    ] = None,
    path: Annotated[
        str, typer.Option(help="Noising path, or NAME:KEY=VALUE,...: linear, vp, gvp, cosine or edm.")
    ] = "linear",
    target: Annotated[str, typer.Option(help="What the network predicts: eps, x0, v or u.")] = "u",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE for every weighting and density that has the option; weight.KEY, density.KEY or path.KEY "
            "for one kind.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Latent frames of a sample, for densities that shift by length.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for allocation.json, allocation.csv and allocation.png.")
    ] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Show what a model is trained on: noise-level weight x density of draws, as numbers, a table and a picture.

    Examples: --noise-level min_snr --noise-level soft_min_snr --set gamma=5 --density logit_normal
    or --noise-level min_snr:gamma=1 --noise-level min_snr:gamma=20 --density edm --path edm --target x0
    """
    plan = _make_plan(noise_level or ["none"], density or ["uniform"], path, target, overrides or [], frames)
    if dry_run:
        print_json({**plan.describe(), "out": out and str(out)})
        return
    done = plan.run()
    result = {**plan.facts(), "allocations": [{"label": arm.label, **allocated.summary()} for arm, allocated in done]}
    if out is not None:
        _write(out, result, done)
    if as_json:
        print_json(result)
        return
    typer.echo(table([(arm.weight_label, allocated) for arm, allocated in done]))
    if out is not None:
        typer.echo(f"\nallocation.json, allocation.csv and allocation.png are in {out}")


@dataclass(frozen=True)
class Arm:
    """One weighting under one density, built, with what was asked for."""

    label: str
    weight_label: str
    weighting: Any
    density: Any
    asked: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """All arms on one path and target."""

    arms: tuple[Arm, ...]
    path: Any
    target: str
    frames: int | None

    def facts(self) -> dict[str, Any]:
        """What the arms share."""
        options = {key: value for key, value in vars(self.path).items() if not key.startswith("_")}
        return {"path": self.path.name, "path_options": options, "target": self.target, "frames": self.frames}

    def describe(self) -> dict[str, Any]:
        """The resolved plan in plain values."""
        return {**self.facts(), "compare": [arm.asked for arm in self.arms]}

    def run(self) -> list[tuple[Arm, Allocation]]:
        """Every arm's allocation, all on one grid."""
        from eisbach.weighting.allocation import allocation as allocate
        from eisbach.weighting.allocation import common_grid

        def each(log_snr: Any) -> list[Allocation]:
            return [
                allocate(arm.weighting, arm.density, self.path, self.target, log_snr=log_snr, num_frames=self.frames)
                for arm in self.arms
            ]

        first = each(None)
        allocations = first if len(first) == 1 else each(common_grid(first))
        return list(zip(self.arms, allocations, strict=True))


def _make_plan(
    noise_levels: Sequence[str],
    densities: Sequence[str],
    path: str,
    target: str,
    overrides: Sequence[str],
    frames: int | None,
) -> Plan:
    """Builds every weighting, density and the path, so that all mistakes in names and options are found at once.

    Raises
    ------
    UserError
        Unknown names or options, an option that could be meant for both kinds, or more arms than a picture holds.
    """
    from eisbach.diffusion.noise_levels import density_options, get_density
    from eisbach.diffusion.paths import get_path
    from eisbach.diffusion.targets import check_target

    check_target(target)
    weights, chosen = [_named(text) for text in noise_levels], [_named(text) for text in densities]
    path_name, path_options = _named(path)
    if len(weights) * len(chosen) > _MOST:
        raise UserError(
            f"{len(weights)} weightings x {len(chosen)} densities make {len(weights) * len(chosen)} arms; one table "
            f"holds {_MOST}: name fewer."
        )
    known_weight = {name: _weight_options(name) for name, _ in weights}
    known_density = {name: set(density_options(name)) for name, _ in chosen}
    shared = _sort_overrides(overrides, known_weight, known_density)
    level = get_path(path_name, **{**shared["path"], **path_options})
    arms, reads_length = [], []
    for density_name, given in chosen:
        options = {key: value for key, value in shared["density"].items() if key in known_density[density_name]} | given
        law = get_density(density_name, path=level, **options)
        reads_length.append(_reads_length(law))
        if reads_length[-1] and frames is None:
            raise UserError(
                f"the {law.name} density depends on the length of a sample; add --frames N, its latent frames (a "
                "minute of Stable Audio 3 has 646), or --set shift_by_length=false."
            )
        for name, own in weights:
            mine = {key: value for key, value in shared["weight"].items() if key in known_weight[name]} | own
            weighting = _build(name, mine, level, law)
            weight_label = _label(name, mine)
            named = [weight_label] if len(weights) > 1 or len(chosen) == 1 else []
            label = " x ".join([*named, *([_label(density_name, options)] if len(chosen) > 1 else [])])
            asked = {"label": label, "noise_level": name, "weight_options": mine} | {
                "density": density_name, "density_options": options,
            }  # fmt: skip
            arms.append(Arm(label, weight_label, weighting, law, asked))
    if frames is not None and not any(reads_length):
        raise UserError(f"--frames is {frames}, but no density named here depends on length; leave it out.")
    return Plan(tuple(arms), level, target, frames)


def _build(name: str, options: dict[str, Any], path: Any, density: Any) -> Any:
    """The weighting, or None for "none"."""
    import inspect

    from eisbach.weighting.build import build_weighting
    from eisbach.weighting.noise_level import NOISE_WEIGHTINGS

    if name != "none":
        parameters = inspect.signature(NOISE_WEIGHTINGS[name]).parameters.values()
        missing = [item.name for item in parameters if item.default is item.empty and item.name not in options]
        if missing:
            raise UserError(f"the {name} weighting needs {', '.join(missing)}; write {name}:{missing[0]}=VALUE.")
    try:
        return build_weighting("none", name, path=path, density=density, **options).noise_level
    except TypeError as error:
        raise UserError(
            f"the {name} weighting cannot be built with {options} ({error}); change these options."
        ) from error


def _weight_options(name: str) -> set[str]:
    """Options of a weighting that a person may set: not the path and the density, which come from elsewhere."""
    import inspect

    from eisbach.weighting.noise_level import NOISE_WEIGHTINGS

    if name == "none":
        return set()
    if name not in NOISE_WEIGHTINGS:
        raise UserError(
            f"the noise-level weighting {name!r} is not known; choose one of {', '.join(['none', *NOISE_WEIGHTINGS])}."
        )
    return set(inspect.signature(NOISE_WEIGHTINGS[name]).parameters) - {"path", "density", "latent_rate"}


def _sort_overrides(
    overrides: Sequence[str], weights: dict[str, set[str]], densities: dict[str, set[str]]
) -> dict[str, dict[str, Any]]:
    """Each --set to the kind that it is for; an option that nothing has, or that two kinds have, is refused."""
    sorted_out: dict[str, dict[str, Any]] = {"weight": {}, "density": {}, "path": {}}
    having = {"weight": set().union(*weights.values()), "density": set().union(*densities.values())}
    for text in overrides:
        key, value = _pair(text, "--set")
        prefix, dot, rest = key.partition(".")
        if dot:
            if prefix not in sorted_out or not rest:
                raise UserError(f"--set {text} names '{prefix}'; write weight.KEY, density.KEY or path.KEY.")
            kinds, key = [prefix], rest
        else:
            kinds = [kind for kind, options in having.items() if key in options]
            if len(kinds) > 1:
                raise UserError(
                    f"--set {text} could be meant for a weighting or for a density; write weight.{key} or "
                    f"density.{key}."
                )
        if not kinds or (kinds[0] != "path" and key not in having[kinds[0]]):
            lists = "; ".join(
                f"{name} has {', '.join(sorted(options)) or 'no options'}"
                for name, options in (*weights.items(), *densities.items())
            )
            raise UserError(f"--set {text}: nothing named here has the option '{key}'; {lists}.")
        sorted_out[kinds[0]][key] = value
    return sorted_out


def _named(text: str) -> tuple[str, dict[str, Any]]:
    """NAME or NAME:KEY=VALUE,KEY=VALUE; commas inside brackets belong to a value."""
    name, _, rest = text.partition(":")
    parts, depth = [""], 0
    for character in rest:
        depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return name.strip(), dict(_pair(part, text) for part in parts if part.strip())


def _pair(text: str, source: str) -> tuple[str, Any]:
    import yaml

    from eisbach.yaml_text import parse_yaml

    key, separator, value = text.partition("=")
    if not separator or not key.strip() or not value.strip():
        raise UserError(f"'{text}' in {source} must look like KEY=VALUE, for example gamma=5.")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError as error:
        raise UserError(
            f"the value of '{text}' in {source} cannot be read; write a number, true, false or a list."
        ) from error
    if isinstance(parsed, str):
        with contextlib.suppress(ValueError):
            parsed = float(parsed)  # YAML takes 1e-3 for a word
    return key.strip(), parsed


def _label(name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _reads_length(density: Any) -> bool:
    """Whether a density cannot say its quantiles without a length."""
    import torch

    try:
        density.quantile(torch.tensor([0.5], dtype=torch.float64))
    except UserError:
        return True
    return False


def table(arms: Sequence[tuple[str, Allocation]]) -> str:
    """The comparison in at most 100 columns: scale, effective share, range and bands of the effort, then notes."""
    first = arms[0][1]
    groups: dict[str, list[tuple[str, Allocation]]] = {}
    for label, arm in arms:
        groups.setdefault(arm.density_label, []).append((label, arm))
    bands = "".join(f"{band.low:g}-{band.high:g}".rjust(8) for band in first.bands)
    lines = [
        f"{first.path} path, target {first.target}",
        "",
        f"{'':{_NAME_WIDTH}}{'mean':>8}{'effective':>11}{'log-SNR':>16}   share by noise level t",
        f"{'':{_NAME_WIDTH}}{'weight':>8}{'share':>11}{'middle 90%':>16}{bands}",
    ]
    for density, members in groups.items():
        arm = members[0][1]
        lines += [
            f"density {density}",
            _row("  draws", "", "", arm.draws_log_snr_quantiles, [b.draws for b in arm.bands]),
        ]
        for label, arm in members:
            effort = [band.effort for band in arm.bands]
            mean, share = f"{arm.mean_weight:.4g}", f"{arm.effective_share:.1%}"
            lines.append(_row(f"  {label}", mean, share, arm.log_snr_quantiles, effort))
    for note in dict.fromkeys(f"{label}: {note}" for label, arm in arms for note in arm.notes):
        lines += ["", *textwrap.wrap(note, 100)]
    legend = (
        "mean weight: what the loss is multiplied by, on average over the draws; effective share: how many of the "
        "draws count, if all counted the same. The shares of a weighting are of the effort: weight x density. log-SNR "
        "is ln(alpha^2/sigma^2); t = 1 is noise."
    )
    return "\n".join([*lines, "", *textwrap.wrap(legend, 100)])


def _row(name: str, mean: str, share: str, quantiles: dict[float, float], bands: Sequence[float]) -> str:
    """One line; a name that is too long for its column gets a line of its own."""
    head = f"{name:{_NAME_WIDTH}}" if len(name) < _NAME_WIDTH else f"{name}\n{'':{_NAME_WIDTH}}"
    middle = f"{quantiles[0.05]:.1f} to {quantiles[0.95]:.1f}"
    return f"{head}{mean:>8}{share:>11}{middle:>16}" + "".join(f"{band:8.1%}" for band in bands)


def _write(out: Path, result: dict[str, Any], done: Sequence[tuple[Arm, Allocation]]) -> None:
    from eisbach.files import write_json, write_text
    from eisbach.report.allocation_figure import allocation_picture

    write_json(out / "allocation.json", result)
    text = io.StringIO()
    columns = ["label", "noise_level", "density", "log_snr", "t", "draws", "weight", "x0_weight", "effort"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for arm, allocated in done:
        shared = {"label": arm.label, "noise_level": allocated.noise_level, "density": allocated.density}
        writer.writerows({**shared, **{key: f"{value:.9g}" for key, value in row.items()}} for row in allocated.rows())
    write_text(out / "allocation.csv", text.getvalue())
    allocation_picture([allocated for _, allocated in done], [arm.label for arm, _ in done], out=out / "allocation.png")
