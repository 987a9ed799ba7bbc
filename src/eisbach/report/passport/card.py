"""The passport as a model card: Markdown for people, front matter for a hub. Names and captions are data, no markup."""

from __future__ import annotations

import html
import re

from eisbach import __version__
from eisbach.adapters.effect import NEGLIGIBLE
from eisbach.errors import one_line
from eisbach.report.passport.facts import Facts, Host
from eisbach.report.passport.heard import Heard

NOT_MEASURED = "not measured"
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
        else f"its effect by noise level was {NOT_MEASURED}"
        if facts.effect is None
        else "it does nothing at any"
    )
    return (
        "## Playing it\n\n"
        f"Recommended: **strength 1**, as it was trained (others were {NOT_MEASURED}), at **{where}** ({why}; t = 1 is "
        "noise).\n\n"
        f"```bash\neisbach generate --prompts demo --adapter {adapter_file}:1{interval}\n```"
    )


def _effect(facts: Facts) -> str:
    head = "## What it does, by noise level\n\n"
    if facts.effect is None:
        return f"{head}{NOT_MEASURED.capitalize()}."
    rows = zip(facts.effect.levels, facts.effect.relative, strict=True)
    table = "\n".join(f"| {t:.3f} | {100 * value:.2g}% |" for t, value in rows)
    return (
        f"{head}Change of the network's prediction along eight steps of the base's sampling, as a share of it:\n\n"
        f"| t | change |\n|---|---|\n{table}\n| all | {100 * facts.effect.overall:.2g}% |"
    )


def _structure(heard: Heard | None) -> str:
    head = "## Structure, against the base\n\n"
    if heard is None or not heard.rows:
        return f"{head}{NOT_MEASURED.capitalize()}."
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
    near = NOT_MEASURED if heard is None or heard.nearest is None else _near(*heard.nearest)
    return f"{head}{told.clips} clips{minutes}{pieces}. {licences}\n\nNearest training clip: {near}."


def _near(distance: float, usual: float, share: float, clips: int) -> str:
    return (
        f"by texture the adapter's clips lie {distance:.2f} (median) from the nearest of {clips} training clips, "
        f"held-out music {usual:.2f}; {100 * share:.0f}% of them are nearer than 95% of the held-out clips (5% would "
        "be chance)"
    )


def _hosts(hosts: list[Host]) -> str:
    rows = []
    for host in hosts:
        if host.reason:
            said = f"no: {plain(host.reason.partition(';')[0])}"
        elif host.format == "peft":
            said = f"all {host.layers} layers, by the network's own names"
        else:
            said = f"{host.named} of {host.layers} layers are in the host's table of {plain(host.model)}"
        rows.append(f"| `{host.format}` | {_WHERE[host.format]} | {said} |")
    return (
        "## Hosts\n\nEach format was written once and its names looked up in what the host's own code calls its "
        "layers.\n\n| `--to` | plays in | |\n|---|---|---|\n" + "\n".join(rows)
    )


def _recipe(facts: Facts) -> str:
    if not facts.recipe:
        return ""
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`+", facts.recipe)), default=0))
    known = f" (`{facts.recipe_hash[:16]}`)" if facts.recipe_hash else ""
    return f"## Recipe{known}\n\n{fence}yaml\n{facts.recipe.rstrip()}\n{fence}"
