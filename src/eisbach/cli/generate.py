"""`eisbach generate`: prompts × seeds → FLAC files and a manifest."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import PROMPT_SETS, Device, Precision, print_note
from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.generation.config import GenerateConfig
    from eisbach.generation.prompts import Prompt


_Prompt = Annotated[list[str] | None, typer.Argument(help="What should be heard; several are allowed.")]
_Prompts = Annotated[
    str | None,
    typer.Option(help=f"A set of ours ({PROMPT_SETS}), a YAML list of texts or of {{id, text}}, or a .txt of lines."),
]
_Seeds = Annotated[str, typer.Option(help="Comma-separated; one clip a prompt and seed.")]
_Out = Annotated[str, typer.Option(help="Folder for the audio and its manifest.")]
_Model = Annotated[
    str | None, typer.Option(help='"embedded" or a model folder.', show_default="embedded, or the run's own")
]
_Checkpoints = Annotated[
    Path | None,
    typer.Option(
        "--compare-checkpoints",
        metavar="RUN",
        help="Play every checkpoint of a training beside its base, on one page: OUT/index.html.",
    ),
]
_Adapter = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]FILE[:STRENGTH][@LOW-HIGH]",
        help="An adapter: a run, its adapter/ folder, a peft folder, a native or ComfyUI file; repeat for several. "
        "runs/x:0.8@0.3-1.0 plays it at 0.8, at noise levels from 0.3 to 1 (noise).",
    ),
]
_Strength = Annotated[float, typer.Option(help="Of adapters that name none: 1 is as trained, 0 the base.")]
_Init = Annotated[str | None, typer.Option(help="Audio to start from; the clip is as long, unless --duration says.")]
_Noise = Annotated[
    float | None,
    typer.Option(help="With --init: where sampling starts; 1 is noise, lower stays nearer. 0.6, or 1 with --keep."),
]
_Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="START-END", help="With --init: seconds of it that stay, for models that inpaint; repeat."),
]
_AnyBase = Annotated[bool, typer.Option("--any-base", help="Play the adapter on another model than it was trained on.")]
_Arm = Annotated[str | None, typer.Option(help="Label in the manifest; the adapter's name unless given.")]
_Duration = Annotated[
    float | None,
    typer.Option(help="Seconds, from 1 to the model's limit: 120, or 380 for Stable Audio 3 Medium.  [default: 30]"),
]
_Headroom = Annotated[
    float | None,
    typer.Option(help="Seconds sampled beyond the end and cut off; 6 for Stable Audio 3, else 0, unless given."),
]
_Apg = Annotated[
    float, typer.Option(help="Adaptive projected guidance: 0 is plain guidance, 1 what Stability's interface has.")
]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps; 100, or 8 for a distilled model.")]
_Guidance = Annotated[
    float | None, typer.Option(help="Classifier-free guidance; 3, or 1 (none) for a distilled model.")
]
_Sampler = Annotated[
    str | None, typer.Option(help="euler, heun or pingpong; euler, or pingpong for a distilled model.")
]
_Schedule = Annotated[
    str | None,
    typer.Option(help="uniform, sa3, karras, log_snr or rescaled_entropic; the model's own unless given."),
]
_ScheduleOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Option of the schedule, as curve=FILE of rescaled_entropic; repeat."),
]
_BatchSize = Annotated[int, typer.Option(help="Clips sampled together.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest's rows as JSON lines.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def generate(
    prompt: _Prompt = None,
    prompts: _Prompts = None,
    seeds: _Seeds = "0",
    out: _Out = "generated",
    model: _Model = None,
    adapter: _Adapter = None,
    strength: _Strength = 1.0,
    any_base: _AnyBase = False,
    compare_checkpoints: _Checkpoints = None,
    arm: _Arm = None,
    init: _Init = None,
    noise: _Noise = None,
    keep: _Keep = None,
    duration: _Duration = None,
    headroom: _Headroom = None,
    steps: _Steps = None,
    guidance: _Guidance = None,
    apg: _Apg = 0.0,
    sampler: _Sampler = None,
    schedule: _Schedule = None,
    schedule_option: _ScheduleOption = None,
    batch_size: _BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: _DryRun = False,
    as_json: _AsJson = False,
    quiet: _Quiet = False,
) -> None:
    """Generate music from prompts. The noise of a prompt and seed is the same whatever model or adapter plays it."""
    from eisbach.config import apply_overrides, build_config
    from eisbach.generation.config import GenerateConfig

    values: dict[str, Any] = {
        "out": out,
        "prompts": [item.model_dump() for item in _prompts(prompt or [], prompts)],
        "seeds": _parse_seeds(seeds),
        "adapters": _adapters(adapter or [], strength),
        "any_base": any_base,
        "init": init,
        "noise": noise,
        "keep": [_seconds(part) for part in keep or []],
        "headroom": headroom,
        "apg": apg,
        "schedule": schedule,
        "schedule_options": apply_overrides({}, schedule_option) if schedule_option else None,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
    }
    # What is not said is left to the configuration, which takes a distilled model's own for it.
    said = {"num_inference_steps": steps, "guidance_scale": guidance, "sampler": sampler, "duration": duration}
    said |= {"model": model}
    values |= {key: value for key, value in said.items() if value is not None}
    config = build_config(GenerateConfig, values, "the command", OPTIONS)
    played = " + ".join(item.name for item in config.adapters)
    config = config.model_copy(update={"arm": arm or _earlier_arm(out) or played or "base"})
    if compare_checkpoints is not None:
        _check_alone(adapter, arm, as_json)
    if dry_run:
        _show(config, compare_checkpoints)
    elif compare_checkpoints is not None:
        _compare(compare_checkpoints, config, quiet)
    else:
        _play(config, as_json, quiet)


def _show(config: GenerateConfig, run: Path | None) -> None:
    """The settings, after everything in them was looked for."""
    from eisbach.backbones import check_model
    from eisbach.config import dump_yaml
    from eisbach.devices import place
    from eisbach.generation.playing import settle_adapters
    from eisbach.output_folder import check_writable

    if run is not None and "model" not in config.model_fields_set:
        from eisbach.report.checkpoints import read_settings

        config = config.model_copy(update={"model": read_settings(run)["model"]})
    place(config.device, config.precision)
    check_model(config.model)
    check_writable(config.out)
    typer.echo(dump_yaml(settle_adapters(config)), nl=False)


def _play(config: GenerateConfig, as_json: bool, quiet: bool) -> None:
    from eisbach.generation import generate as run

    manifest = run(config, quiet=quiet, notify=print_note)
    if as_json:
        from eisbach.data.manifest import row_values

        for row in manifest:
            typer.echo(json.dumps(row_values(row), ensure_ascii=False))
    else:
        clips = f"{len(manifest)} clip{'' if len(manifest) == 1 else 's'}"
        longest = max(row.duration for row in manifest)
        typer.echo(f"{clips} of {longest:.3g} s in {Path(config.out)} (manifest.jsonl lists them)")


def _check_alone(adapter: list[str] | None, arm: str | None, as_json: bool) -> None:
    """Refuses what has no meaning beside --compare-checkpoints."""
    given = {"--adapter": adapter, "--arm": arm, "--json": as_json}
    said = [name for name, value in given.items() if value]
    if said:
        raise UserError(
            f"--compare-checkpoints plays the checkpoints of a run, each under its own name; leave out {said[0]}."
        )


def _compare(run: Path, config: GenerateConfig, quiet: bool) -> None:
    from eisbach.report.checkpoints import compare_checkpoints

    typed = shlex.join(["eisbach", *sys.argv[1:]]) if "--compare-checkpoints" in sys.argv else ""
    done = compare_checkpoints(run, config, quiet=quiet, notify=print_note, command=typed)
    for sentence in done.left_out:
        print_note(sentence)
    for name, (flat, clips) in done.flat.items():
        typer.echo(f"{name:<12} {f'{flat} of {clips} clips are flat' if clips else 'too short to be judged'}")
    typer.echo(f"page: {done.page}")


OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "adapters": "--adapter",
    "schedule_options": "--schedule-option",
    "prompts": "--prompts",
    **{
        key: f"--{key.replace('_', '-')}"
        for key in (
            *("seeds", "duration", "headroom", "apg", "sampler", "schedule", "batch_size", "arm", "out"),
            *("init", "noise", "keep"),
            *("device", "precision"),
        )
    },
}
"""What the command calls the keys of its configuration."""


def _parse_seeds(text: str) -> list[int]:
    """Whole numbers from `0,1,2`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds is '{text}'; give whole numbers separated by commas, for example 0,1,2.") from error


def _prompts(texts: list[str], source: str | None) -> tuple[Prompt, ...]:
    from eisbach.generation.prompts import load_prompts, prompts_from_texts

    if texts and source:
        raise UserError("prompts came both as arguments and with --prompts; use one of the two.")
    if source:
        return load_prompts(source)
    if not texts:
        raise UserError(
            f"there is nothing to generate; write a prompt in quotes, or choose a set with --prompts ({PROMPT_SETS}, "
            "or a file)."
        )
    return prompts_from_texts(texts)


def _earlier_arm(out: str) -> str | None:
    """The label of what the folder holds: an adapter that was moved since goes on under it."""
    from eisbach.files import read_json
    from eisbach.generation.takes import STAMP

    path = Path(out) / STAMP
    stamp = read_json(path, "record of earlier generations") if path.is_file() else None
    arm = stamp.get("arm") if isinstance(stamp, dict) and any(Path(out).glob("*.flac")) else None
    return arm if isinstance(arm, str) and arm else None


def _adapters(texts: list[str], strength: float) -> list[dict[str, Any]]:
    """The keys of each adapter, at the common strength unless it names its own."""
    from eisbach.generation.config import parse_adapter

    adapters = []
    for text in texts:
        try:
            adapters.append({"strength": strength} | parse_adapter(text))
        except ValueError as error:
            raise UserError(f"--adapter is '{text}': {error}.") from error
    return adapters


def _seconds(text: str) -> list[float]:
    """Two times in seconds from `0-20`."""
    try:
        start, end = (float(part) for part in text.split("-"))
    except ValueError as error:
        raise UserError(f"--keep is '{text}'; give two times in seconds, for example 0-20.") from error
    return [start, end]
