"""A passport written: the card beside an adapter, its texts in the header, its samples below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eisbach.adapters.attach import attach, detach
from eisbach.adapters.effect import Effect, measure
from eisbach.config import read_yaml
from eisbach.devices import place
from eisbach.errors import EisbachError, UserError
from eisbach.files import read_text, write_text
from eisbach.generation import GenerateConfig
from eisbach.report.passport.card import card_text, nothing_done
from eisbach.report.passport.facts import Facts, gather, training_rows
from eisbach.report.passport.header import has_header, write_header
from eisbach.report.passport.heard import ADAPTER, Heard, compare, demos_of, nearest_training, play

CARD = "README.md"
_OURS = "- eisbach"
SAMPLES = "samples"


@dataclass(frozen=True)
class WrittenPassport:
    """What was written.

    Attributes
    ----------
    card : Path
    warning : str
        That the adapter does nothing; "" where it does something or was not measured.
    facts : Facts
    heard : Heard or None
    """

    card: Path
    warning: str
    facts: Facts
    heard: Heard | None


def write_passport(
    adapter: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    any_base: bool = False,
    play_config: GenerateConfig | None = None,
    quiet: bool = True,
    notify: Callable[[str], object] = lambda sentence: None,
) -> WrittenPassport:
    """Writes the passport of an adapter: `README.md` in its folder (`NAME.md` beside a file) and the file's header.

    Parameters
    ----------
    adapter : str or Path
        A folder or file as `adapters.convert` reads it; in a run, the run's recipe, set and demos are told too.
    model : str or None
        The base: measures the effect by noise level. None takes a run's own.
    play_config : GenerateConfig or None
        Plays base and adapter into `samples/` and compares them; None takes the demos of the training, where it made
        some.
    notify : callable
        Is told the warning first, and where it computes.

    Raises
    ------
    UserError
        The adapter cannot be read or is of another base, or a card is there that was not written here.
    StorageError
        The folder cannot be written.
    """
    path = Path(adapter)
    card = path / CARD if path.is_dir() else path.with_suffix(".md")
    if card.is_file() and _OURS not in read_text(card, "card").partition("\n---")[0]:
        raise UserError(f"{card} was not written here; move it elsewhere, and run the same command again.")
    facts = gather(path)
    run = _run_of(path)
    model = model or (None if run is None else _model_of(run))
    if model is not None:
        facts = replace(facts, effect=_effect(path, model, device, any_base, notify))
    warning = nothing_done(facts)
    if warning:
        notify(warning)
    if play_config is not None and model is not None:
        play_config = play_config.model_copy(update={"model": model})
    heard = _heard(path, run, play_config, quiet)
    write_text(card, card_text(facts, heard, path.name if path.is_file() else "THIS_FOLDER"))
    for file in _files(path):
        write_header(file, facts)
    return WrittenPassport(card, warning, facts, heard)


def after_training(run: Path, device: str, notify: Callable[[str], object]) -> None:
    """The passport of a finished run's adapter; what goes wrong is said, since the training is worth more."""
    adapter = run / "adapter"
    files = _files(adapter) if adapter.is_dir() else []
    try:
        if files and not (all(has_header(file) for file in files) and (adapter / CARD).is_file()):
            write_passport(adapter, device=device, notify=notify)
    except EisbachError as error:
        notify(f"the adapter's passport was not written: {error}")


def _run_of(path: Path) -> Path | None:
    run = path.resolve().parent
    return run if path.is_dir() and path.name == "adapter" and (run / "config.yaml").is_file() else None


def _model_of(run: Path) -> str | None:
    model = read_yaml(run / "config.yaml", "configuration of the run").get("model", "embedded")
    return model if isinstance(model, str) else None


def _effect(path: Path, model: str, device: str, any_base: bool, notify: Callable[[str], object]) -> Effect:
    from eisbach.backbones import load_backbone

    placement = place(device, "fp32")
    notify(f"{placement.sentence()}.")
    backbone: Any = load_backbone(model)
    attach(backbone, path, any_base=any_base)
    try:
        backbone.module.to(placement.device)
        return measure(backbone)
    finally:
        backbone.module.to("cpu")
        detach(backbone)


def _heard(path: Path, run: Path | None, play_config: GenerateConfig | None, quiet: bool) -> Heard | None:
    if play_config is None:
        made = None if run is None else demos_of(run)
        return None if made is None else compare(*made, path, quiet=quiet)
    root = path if path.is_dir() else path.parent
    base, adapter = play(play_config.model_copy(update={"adapter": str(path)}), root / SAMPLES, quiet=quiet)
    heard = compare(base, adapter, root, quiet=quiet)
    rows = [] if run is None else training_rows(read_yaml(run / "config.yaml"), run)
    return replace(heard, nearest=nearest_training(root / SAMPLES / ADAPTER, rows, quiet=quiet) if rows else None)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    names = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
    places = [path, *(config.parent for config in sorted(path.glob("*/adapter_config.json")))]
    return [place / name for place in places for name in names if (place / name).is_file()]
