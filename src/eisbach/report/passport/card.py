"""The passport as a model card: Markdown for people, front matter for a hub. Names and captions are data, no markup."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach import __version__
from eisbach.adapters.effect import NEGLIGIBLE
from eisbach.errors import UserError, one_line
from eisbach.generation import GenerateConfig, generate
from eisbach.report.passport.facts import Facts
from eisbach.report.passport.hosts import Host
from eisbach.report.structure.analysis import analyze
from eisbach.report.wording import format_difference, format_interval, format_p, format_value

_NOT_MEASURED = "not measured"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$@:<>&-])")
_LONGEST = 200
_WHERE = {
    "sa3": "Stability's loader and interface",
    "peft": "`PeftModel.from_pretrained`, this project",
    "diffusers": "diffusers' pipelines",
    "comfyui": "ComfyUI",
}


def plain(text: str) -> str:
    """A text of somebody else's as Markdown shows it letter by letter: no markup, no HTML, on one line."""
    short = one_line(text)[:_LONGEST]
    return "".join(f"&#{ord(match)};" if _MARKUP.fullmatch(match) else match for match in short)


def nothing_done(facts: Facts) -> str:
    """The warning that comes before everything else; "" where the adapter does something or was not measured."""
    if facts.effect is None or not facts.effect.negligible:
        return ""
    return (
        f"this adapter does nothing: it changes the prediction by {facts.effect.overall:.1e} of its size, less than "
        f"{NEGLIGIBLE:.0e}; train longer, at a higher learning rate, or look whether it is the file you meant."
    )


def card_text(facts: Facts, heard: Heard | None, adapter_file: str) -> str:
    """The card, front matter included, as huggingface_hub reads and writes it."""
    from huggingface_hub import ModelCard, ModelCardData

    base = facts.base if "/" in facts.base else None
    licences = list(facts.trained_on.licences) if facts.trained_on is not None else []
    data = ModelCardData(
        library_name="peft",
        base_model=None if base is None else base.partition("@")[0],
        pipeline_tag="text-to-audio",
        tags=["eisbach", "audio", "music", facts.kind],
        model_name=one_line(facts.name)[:_LONGEST],
        training_licences=licences or None,
        recommended_noise_interval=None if facts.interval is None else [round(end, 3) for end in facts.interval],
    )
    parts = [
        f"# {plain(facts.name)}",
        _warning(facts),
        _summary(facts),
        _playing(facts, adapter_file),
        _effect(facts),
        _structure(heard),
        _players(heard),
        _training(facts, heard),
        _hosts(facts.hosts),
        _recipe(facts),
        f"Written by Eisbach {__version__}; `eisbach export --card` writes it anew.",
    ]
    text = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _warning(facts: Facts) -> str:
    said = nothing_done(facts)
    return f"> **Warning: {said}**" if said else ""


def _summary(facts: Facts) -> str:
    base = plain(facts.base) if facts.base else "a model that is not public by name"
    identity = f" (`{facts.base_identity}`)" if facts.base_identity else " (the file does not say which)"
    steps = "" if facts.steps is None else f", {facts.steps} steps{' (averaged weights)' if facts.averaged else ''}"
    return (
        f"A {facts.kind.replace('lora', 'LoRA').replace('dora', 'DoRA')} adapter of rank {facts.rank}, alpha "
        f"{facts.alpha:g}: {facts.layers} layers, {facts.parameters:,} numbers{steps}.\n\n"
        f"**Base:** {base}{identity}."
    )


def _playing(facts: Facts, adapter_file: str) -> str:
    low, high = facts.interval or (0.0, 1.0)
    where = "all noise levels" if (low, high) == (0, 1) else f"noise levels {low:.2f} to {high:.2f}"
    interval = "" if (low, high) == (0, 1) else f"@{low:.2f}-{high:.2f}"
    why = (
        "from the lowest to the highest level at which it does a tenth of its most"
        if facts.interval is not None
        else f"its effect by noise level was {_NOT_MEASURED}"
        if facts.effect is None
        else "it does nothing at any"
    )
    return (
        "## Playing it\n\n"
        f"Recommended: **strength 1**, as it was trained (others were {_NOT_MEASURED}), at **{where}** ({why}; t = 1 "
        "is noise).\n\n"
        f"```bash\neisbach generate --prompts demo --adapter {adapter_file}:1{interval}\n```"
    )


def _effect(facts: Facts) -> str:
    head = "## What it does, by noise level\n\n"
    if facts.effect is None:
        return f"{head}{_NOT_MEASURED.capitalize()}."
    rows = zip(facts.effect.levels, facts.effect.relative, strict=True)
    table = "\n".join(f"| {t:.3f} | {100 * value:.2g}% |" for t, value in rows)
    return (
        f"{head}Change of the network's prediction along eight steps of the base's sampling, as a share of it:\n\n"
        f"| t | change |\n|---|---|\n{table}\n| all | {100 * facts.effect.overall:.2g}% |"
    )


def _structure(heard: Heard | None) -> str:
    head = "## Structure, against the base\n\n"
    if heard is None or not heard.rows:
        return f"{head}{_NOT_MEASURED.capitalize()}."
    rows = "\n".join(f"| {' | '.join(row)} |" for row in heard.rows)
    return (
        f"{head}{heard.clips} clips of {heard.prompts} prompts, from the same noise as the base's. Differences with "
        "95% intervals over prompts; p after correction.\n\n"
        f"| measure | base | adapter | difference | interval | p |\n|---|---|---|---|---|---|\n{rows}"
    )


def _players(heard: Heard | None) -> str:
    heard_rows = [] if heard is None else [row for row in heard.players if row[1] and row[2]]
    if not heard_rows:
        return ""
    rows = "\n".join(f"| {plain(caption)} | {_player(base)} | {_player(made)} |" for caption, base, made in heard_rows)
    return f"## Samples\n\n| prompt | base | adapter |\n|---|---|---|\n{rows}"


def _player(path: str) -> str:
    return f'<audio controls preload="none" src="{html.escape(path, quote=True)}"></audio>'


def _training(facts: Facts, heard: Heard | None) -> str:
    head = "## Trained on\n\n"
    told = facts.trained_on
    if told is None:
        return f"{head}The file does not say."
    minutes = "" if told.minutes is None else f", {told.minutes:.0f} minutes"
    pieces = "" if told.pieces is None else f", {told.pieces} pieces"
    stated = [f"{count} × {plain(name)}" for name, count in told.licences.items()]
    licences = f"Licences: {', '.join(stated)}." if stated else "Licences: not stated in the manifest."
    near = _NOT_MEASURED if heard is None or heard.nearest is None else _near(*heard.nearest)
    return f"{head}{told.clips} clips{minutes}{pieces}. {licences}\n\nNearest training clip: {near}."


def _near(distance: float, usual: float, share: float, clips: int) -> str:
    return (
        f"by texture the adapter's clips lie {distance:.2f} (median) from the nearest of {clips} training clips, "
        f"held-out music {usual:.2f}; {100 * share:.0f}% of them are nearer than 95% of the held-out clips (5% would "
        "be chance)"
    )


def _hosts(hosts: list[Host]) -> str:
    rows = [f"| `{host.format}` | {_WHERE[host.format]} | {_names(host)} | {_shown(host)} |" for host in hosts]
    return (
        "## Hosts\n\nEach format was written once, in fp32. Its names were looked up in what the host's own code calls "
        "its layers; where the base was at hand, the file was played as the host plays it, without this project's "
        "readers, and held against this project's playing at eight noise levels.\n\n"
        "| `--to` | plays in | layers | shown |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _names(host: Host) -> str:
    if host.reason:
        return f"no: {plain(host.reason.partition(';')[0])}"
    if host.format == "peft":
        return f"all {host.layers}, by the network's own names"
    return f"{host.named} of {host.layers} are in the host's table of {plain(host.model)}"


def _shown(host: Host) -> str:
    """What is proved of a host, in words."""
    if host.reason:
        return "nothing"
    if host.trouble:
        return f"could not be played here: {plain(host.trouble)}"
    if host.proof is None:
        return "the layers' names match; not played"
    without = f", without {plain(host.left_out)}" if host.left_out else ""
    far = "equal" if host.proof.deviation == 0 else f"off by {host.proof.deviation:.0e} of the prediction"
    change = f"the adapter changes it by {host.proof.change:.0e}"
    return f"{plain(host.proof.how)} and played{without}: {far} ({change})"


def _recipe(facts: Facts) -> str:
    if not facts.recipe:
        return ""
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`+", facts.recipe)), default=0))
    known = f" (`{facts.recipe_hash[:16]}`)" if facts.recipe_hash else ""
    return f"## Recipe{known}\n\n{fence}yaml\n{facts.recipe.rstrip()}\n{fence}"


# --- what an adapter was heard to do: its clips beside the base's, from the same noise


BASE, ADAPTER = "base", "adapter"


@dataclass(frozen=True)
class Heard:
    """A measured comparison.

    Attributes
    ----------
    rows : list of (measure, base, adapter, difference, interval, p)
        As texts.
    prompts, clips : int
    players : list of (caption, base's file, adapter's file)
        Relative to the passport.
    nearest : (distance, usual distance, share with p <= .05, training clips) or None
        How near the adapter's clips lie to their nearest training clip, held-out ones to theirs; None where it was not
        measured.
    """

    rows: list[tuple[str, str, str, str, str, str]]
    prompts: int
    clips: int
    players: list[tuple[str, str, str]]
    nearest: tuple[float, float, float, int] | None = None


def play(config: GenerateConfig, folder: Path, *, quiet: bool) -> tuple[Path, Path]:
    """Plays the base and the adapter of `config` into `folder`; what is there already stays."""
    places = folder / BASE, folder / ADAPTER
    for place, adapter in zip(places, (None, config.adapter), strict=True):
        chosen = {"out": str(place), "arm": place.name, "adapter": adapter}
        generate(config.model_copy(update=chosen), quiet=quiet)
    return places


def demos_of(run: Path) -> tuple[Path, Path] | None:
    """The demos that a training made of the base and of its last step (`demos` in a recipe); None without both."""
    steps = {
        int(number): folder
        for folder in (run / "samples").glob("step-*")
        if (number := folder.name.removeprefix("step-")).isdigit() and (folder / "manifest.jsonl").is_file()
    }
    last = max(steps, default=0)
    return (steps[0], steps[last]) if 0 in steps and last > 0 else None


def compare(base: Path, adapter: Path, root: Path, *, quiet: bool = True) -> Heard:
    """The two folders' clips, measured and compared; players are named relative to `root` where they lie below it.

    Raises
    ------
    UserError
        Clips that cannot be measured.
    """
    from eisbach.data.manifest import load_manifest

    analysed = analyze([f"{BASE}={base}", f"{ADAPTER}={adapter}"], quiet=quiet, by="argument", baseline=BASE)
    results = analysed.sets.results
    if results is None:
        raise UserError(f"the clips of {base} and {adapter} are no two sets of the same prompts.")
    infos = {info.name: info for info in results.metrics if info.primary}
    rows = []
    for item in results.comparisons:
        if item.metric in infos:
            info = infos[item.metric]
            rows.append((
                info.label, format_value(info, item.baseline_mean), format_value(info, item.mean),
                format_difference(info, item.difference), format_interval(info, item.shown_interval),
                format_p(item.decisive_p),
            ))  # fmt: skip
    theirs = {row.id: row for row in load_manifest(adapter, check_files=False)}
    players = [
        (row.caption, _relative(base / row.path, root), _relative(adapter / theirs[row.id].path, root))
        for row in load_manifest(base, check_files=False)
        if row.id in theirs
    ]
    prompts = {row.labels.get("prompt_id", row.id) for row in theirs.values()}
    return Heard(rows, len(prompts), len(theirs), players)


def _relative(path: Path, root: Path) -> str:
    inside = path.resolve().is_relative_to(root.resolve())
    return path.resolve().relative_to(root.resolve()).as_posix() if inside else ""


def nearest_training(adapter: Path, rows: list[Any], *, quiet: bool = True) -> tuple[float, float, float, int] | None:
    """How near the clips of a folder lie to their nearest training clip, and held-out clips to theirs, by texture; None
    where the set is not at hand or holds fewer than two clips out."""
    from eisbach.data.manifest import load_manifest

    if not all(path.is_file() for path, _ in rows):
        return None
    told = load_manifest(adapter)
    groups: Mapping[str, list[Path]] = {
        "made": [told.audio_path(row) for row in told],
        "train": [path for path, row in rows if row.split == "train"],
        "held_out": [path for path, row in rows if row.split == "held_out"],
    }
    return _nearness(groups, quiet)


def _nearness(groups: Mapping[str, list[Path]], quiet: bool) -> tuple[float, float, float, int] | None:
    import numpy as np

    from eisbach.experiments.reference import texture_rows
    from eisbach.structure import analyze_files
    from eisbach.structure.sets.memorisation import clip_memorisation

    if not groups["train"] or len(groups["held_out"]) < 2:
        return None
    details: dict[str, str] = {}
    paths = [path for group in groups.values() for path in group]
    analyze_files(list(dict.fromkeys(paths)), quiet=quiet, details=details)
    rows = texture_rows(details)
    made, train, held = (np.stack([rows[str(path)] for path in groups[name] if str(path) in rows]) for name in groups)
    try:
        found = clip_memorisation(made, train, held)
    except UserError:  # a held-out clip that is also trained on
        return None
    return float(np.median(found.value)), float(np.median(found.held_out)), found.share.value, len(train)
