"""`eisbach export`: an adapter to where it is played."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eisbach.cli.common import PROMPT_SETS, AsJson, Device, DryRun, print_json, print_note
from eisbach.errors import ConfigError

if TYPE_CHECKING:
    from eisbach.adapters.export import ExportConfig, Exported


_Adapter = Annotated[
    str,
    typer.Argument(help="A run's adapter/ folder, a peft folder, or a native or ComfyUI file.", show_default=False),
]
_To = Annotated[
    str | None,
    typer.Option(help="sa3 (Stability's file), peft or diffusers (a folder), or comfyui (a file).", show_default=False),
]
_Out = Annotated[str | None, typer.Option(help="The file or folder to write.", show_default=False)]
_Model = Annotated[
    str | None,
    typer.Option(help="The base model: checks that the adapter fits; --merge, --check and DoRA for ComfyUI need it."),
]
_Strength = Annotated[float, typer.Option(help="1 writes the adapter as it was trained.")]
_Merge = Annotated[
    bool, typer.Option("--merge", help="Write a whole model with the adapter folded in, instead of an adapter.")
]
_Check = Annotated[
    bool,
    typer.Option("--check", help="Play it: what the adapter changes, and how far the written file is from it."),
]
_Dora = Annotated[
    str, typer.Option(help="DoRA for ComfyUI: diff (large, always right) or scale (small, right in fp32).")
]
_Precision = Annotated[
    str,
    typer.Option(
        help="fp16, fp32, or auto: fp16 where it loses under 1% of a LoRA or nothing of a DoRA (sa3, comfyui)."
    ),
]
_BakeNorms = Annotated[
    bool,
    typer.Option("--bake-norms", help="Write the norms of DoRA's rows beside it, for Stability's newest players."),
]
_DropConditioner = Annotated[
    bool, typer.Option("--drop-conditioner", help="Leave out the duration embedder, which ComfyUI cannot load.")
]
_AnyBase = Annotated[
    bool, typer.Option("--any-base", help="Convert for another model than the adapter was trained on.")
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the adapter at --out; other files beside it stay.")
]
_Card = Annotated[
    bool,
    typer.Option(
        "--card",
        help="Write the adapter's passport: README.md beside it (a model card), and the header of its file.",
    ),
]
_Prompts = Annotated[
    str | None,
    typer.Option(help=f"With --card: also play base and adapter on this set, and compare: {PROMPT_SETS} or a file."),
]
_Push = Annotated[str | None, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload it with its passport.")]
_Public = Annotated[bool, typer.Option("--public", help="With --push-to-hub: a new repository is public.")]


def export(
    adapter: _Adapter,
    to: _To = None,
    out: _Out = None,
    model: _Model = None,
    strength: _Strength = 1.0,
    merge: _Merge = False,
    check: _Check = False,
    dora: _Dora = "diff",
    precision: _Precision = "auto",
    bake_norms: _BakeNorms = False,
    drop_conditioner: _DropConditioner = False,
    any_base: _AnyBase = False,
    overwrite: _Overwrite = False,
    card: _Card = False,
    prompts: _Prompts = None,
    push_to_hub: _Push = None,
    public: _Public = False,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Convert an adapter between Stability's file, peft and diffusers folders and ComfyUI's file, merge it, or check
    what it does.

    The adapter's own format is recognised. Every name and shape is counted; what a format cannot express is refused.
    """
    from eisbach.adapters.convert import detect
    from eisbach.adapters.export import ExportConfig, Exported, check_together
    from eisbach.adapters.export import export as run
    from eisbach.config import build_config, dump_yaml

    values = {
        "adapter": adapter,
        "to": to,
        "out": out,
        "model": model,
        "strength": strength,
        "merge": merge,
        "check": check,
        "dora": dora,
        "precision": precision,
        "bake_norms": bake_norms,
        "drop_conditioner": drop_conditioner,
        "any_base": any_base,
        "overwrite": overwrite,
        "device": device,
    }
    config = build_config(ExportConfig, values, "the command")
    passport = card or push_to_hub is not None
    _check_passport(config, passport, prompts, public and push_to_hub is None)
    if not passport or to is not None or merge or check:
        check_together(config)
    if dry_run:
        if not merge:
            detect(adapter)
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.backbones import load_backbone

    done = Exported()
    if to is not None or merge or check:
        done = run(config, load_backbone, print_note)
    written = _passport(config, prompts, push_to_hub, public) if passport else {}
    if as_json:
        print_json(done.summary() | written)
        return
    for sentence in done.notes:
        print_note(sentence)
    for line in (*_lines(done, out), *(f"{name}: {place}" for name, place in written.items())):
        typer.echo(line)


def _check_passport(config: ExportConfig, passport: bool, prompts: str | None, lonely: bool) -> None:
    """Refuses options of a passport that do not fit the others."""
    if passport and config.merge:
        raise ConfigError("a passport is an adapter's, and --merge writes a whole model; leave --card or --merge out.")
    if prompts is not None and not passport:
        raise ConfigError("--prompts is for the passport; add --card.")
    if lonely:
        raise ConfigError("--public says how --push-to-hub makes a repository; add it.")


def _passport(config: ExportConfig, prompts: str | None, repository: str | None, public: bool) -> dict[str, str]:
    """Writes the passport of what was written, or of the adapter itself; the places, by what they are."""
    from pathlib import Path

    from eisbach.report.passport import write_passport

    place = config.out if config.to is not None and config.out is not None else config.adapter
    play = None
    if prompts is not None:
        from eisbach.generation import GenerateConfig, load_prompts

        play = GenerateConfig(out=place, prompts=load_prompts(prompts), any_base=config.any_base, device=config.device)
    done = write_passport(
        place, model=config.model, device=config.device, any_base=config.any_base, play_config=play, notify=print_note
    )
    if repository is None:
        return {"card": str(done.card)}
    from eisbach.report.passport.write import push

    return {"card": str(done.card), "hub": push(Path(place), done.card, repository, public=public)}


def _lines(done: Exported, out: str | None) -> list[str]:
    lines = []
    if done.written is not None:
        item = done.written
        lines.append(
            f"{item.path}: {item.kind} for {item.format}, {item.layers} layers, {item.tensors} tensors, "
            f"{item.bytes / 2**20:.1f} MiB in {item.precision}"
        )
    if done.merged is not None:
        lines.append(
            f"{out}: the model with {done.merged['tensors_changed']} tensors changed, {done.merged['merged_identity']}"
        )
    if done.effect is not None:
        lines.append("t      change of the prediction")
        lines += [f"{t:.3f}  {value:.2e}" for t, value in zip(done.effect.levels, done.effect.relative, strict=True)]
        lines.append(f"all    {done.effect.overall:.2e}")
        if not done.effect.negligible:
            lines.append(f"it changes what the model predicts by {done.effect.overall:.1%}: it does something")
    if done.host_layers is not None and done.written is not None:
        model, named, count = done.host_layers
        lines.append(f"{named} of {count} layers have a name in {done.written.format}'s table of {model}")
    if done.comparison is not None:
        lines.append(f"the written file is off by {done.comparison.deviation:.1e} of that change")
    return lines
