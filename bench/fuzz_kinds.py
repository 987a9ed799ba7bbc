"""The kinds of file that the program reads: how good ones are made, which of them are damaged, and what reads them."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "diagnostics")]

WORDS = ["a", "slow", "cello", "calm", "piano", "fast", "quartet"]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes
    ----------
    name : str
    share : int
        How often it is drawn, in relation to the others.
    make : function of a folder
        Writes good files into it.
    files : tuple of str
        Patterns of those that are damaged, one a time.
    read : function of a folder, the damaged file in it, and a source of chance
        Reads them as the program does.
    """

    name: str
    share: int
    make: Callable[[Path], Any]
    files: tuple[str, ...]
    read: Callable[[Path, Path, random.Random], Any]


def _copy(*sources: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for source in sources:
            place = ROOT / source
            (shutil.copytree if place.is_dir() else shutil.copy)(place, folder / place.name)

    return make


def _clips(folder: Path) -> None:
    """Four clips of one second in four formats, one with a caption in JSON."""
    from eisbach.audio import write_audio
    from eisbach.types import Waveform

    rng = np.random.default_rng(0)
    time = np.arange(8000) / 8000
    for number, suffix in enumerate((".wav", ".flac", ".ogg")):
        tone = 0.3 * np.sin(2 * np.pi * 220 * (number + 1) * time) + 0.01 * rng.standard_normal(8000)
        write_audio(folder / f"{number}{suffix}", Waveform(np.stack([tone, tone]).astype(np.float32), 8000))
        if suffix != ".ogg":
            (folder / f"{number}.txt").write_text("slow cello, calm\n")
    (folder / "2.json").write_text(json.dumps({"caption": "calm piano", "tempo": 90}))


def _mp3(folder: Path) -> None:
    import soundfile

    soundfile.write(folder / "clip.mp3", 0.3 * np.sin(np.arange(22050) / 20), 22050, format="MP3")


def _read_audio(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.audio import audio_hash, read_audio
    from eisbach.structure.sources import FileSource
    from eisbach.structure.survey import survey

    audio_hash(target)
    _either(lambda: read_audio(target))
    survey(FileSource(target), 60.0)


def _either(read: Callable[[], Any]) -> None:
    """Both readers of a file are tried: a sentence of the first does not save the second."""
    from eisbach.errors import UserError

    try:
        read()
    except UserError as error:
        check_sentence(str(error))


def check_sentence(text: str) -> None:
    """`AssertionError` unless a message is one line that says something."""
    assert text.strip(), "the message is empty"
    assert text.isprintable(), f"the message is not one printable line: {text!r}"


def _read_folder(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.audio_folder import read_folder

    read_folder(folder, save=False, jobs=1, quiet=True)


def _model(folder: Path) -> None:
    from conftest import save_tiny_model

    save_tiny_model(folder)


def _read_model(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.backbones import load_backbone, load_codec_of

    backbone = load_backbone(folder / "model")
    backbone.condition(["slow cello"], [1.0])
    load_codec_of(backbone)


def _read_native(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.backbones import load_backbone

    backbone = load_backbone(folder / "sa3_native_tiny")
    backbone.condition(["slow cello"], [1.0])


def _read_tokenizer(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach import pretrained

    place = next(path.parent for path in (folder / "sa3_native_tiny").rglob("tokenizer.json"))
    pretrained.tokenizer(place)


_NATIVE: list[Any] = []


def _native() -> Any:
    from eisbach.backbones.stable_audio3 import load_native

    if not _NATIVE:
        _NATIVE.append(load_native(ROOT / "tests/fixtures/sa3_native_tiny"))
    return _NATIVE[0]


def _adapters(folder: Path) -> None:
    """An adapter in every format that is read."""
    from eisbach import adapters
    from eisbach.adapters import convert
    from eisbach.adapters.formats import peft

    model = _native()
    for kind in ("lora", "dora"):
        config = adapters.adapter_config(model, kind=kind, rank=2, alpha=2.0)
        identity = model.identity()
        adapters.inject(model, config, seed=1)
        peft.save(folder / f"{kind}-peft", model.module, config, {"base_identity": identity, "seed": 1})
        adapters.remove_layers(model.module)
        adapter = convert.read(folder / f"{kind}-peft")
        for to in ("sa3", "comfyui", "diffusers"):
            place = folder / (f"{kind}-{to}" if to == "diffusers" else f"{kind}-{to}.safetensors")
            try:
                convert.write(adapter, to, place, module=model.module, drop_conditioner=True, precision="fp32")
            except ValueError:  # a format that has no name for what this model has
                continue


def _read_adapters(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach import adapters

    model = _native()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    adapter = folder / target.relative_to(folder).parts[0]

    def attach() -> None:
        adapters.attach(model, adapter)
        adapters.detach(model)

    _either(attach)
    changed = [name for name, value in model.module.state_dict().items() if not value.equal(before[name])]
    assert not changed, f"the model is left changed: {changed[0]}"


def _checkpoint(folder: Path) -> None:
    import torch

    from eisbach.training.checkpoint import write_checkpoint

    for step in (5, 10):
        write_checkpoint(
            folder, step, {"model.safetensors": {"w": torch.zeros(3)}}, {"a.json": {"b": 1}}, {"origin": "x"}, 2
        )
    (folder / "result.json").write_text('{"steps": 5, "kind": "adapter"}')
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": null}\n')
    (folder / "speeds.json").write_text('{"train": 0.5, "encode": 0.1}')


def _read_checkpoint(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.experiments.stages import SpeedBook
    from eisbach.training.checkpoint import newest_checkpoint
    from eisbach.training.logging import MetricsFile
    from eisbach.training.run_folder import RunFolder

    SpeedBook(folder / "speeds.json")
    MetricsFile(folder / "metrics.jsonl").truncate_after(1)
    _either(lambda: RunFolder(folder).finished())
    newest_checkpoint(folder)


def _read_recipe(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.config import apply_overrides, build_config, read_recipe
    from eisbach.training.config import TrainConfig

    values = apply_overrides(read_recipe(target), [draw.choice(OVERRIDES)] if draw.random() < 0.5 else [])
    build_config(TrainConfig, values, str(target))


OVERRIDES = (
    "steps=10", "steps=null", "data=5", "weighting=null", "weighting.sample=[a]", "a.b.c=1", "=1", "x",
    "optimiser.lr=.nan", "steps=1e99",
    "data.manifest=&a [*a]", "seed=" + "9" * 5000, "out=\udcff", 'out="\\0"', "[=]",
    "weighting.options={a: {b: {c: 1}}}", "schedule=[[[",
)  # fmt: skip


def _read_experiment(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.experiments.recipes import load_spec
    from eisbach.experiments.spec import check_spec

    check_spec(load_spec(target, quick=draw.random() < 0.3))


def _read_prompts(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.diagnostics.signature.config import read_prompts
    from eisbach.generation.prompts import load_prompts

    _either(lambda: load_prompts(target))
    read_prompts(target)


def _rows(folder: Path) -> None:
    _clips(folder)
    from eisbach.data.audio_folder import read_folder

    read_folder(folder, jobs=1, quiet=True)


def _read_manifest(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.manifest import load_manifest

    load_manifest(folder)


def _curves(folder: Path) -> None:
    for path in (ROOT / "src/eisbach/studies").rglob("*.json"):
        text = path.read_text()
        if '"format": "eisbach' in text[:200] and len(text) < 200_000:
            shutil.copy(path, folder)
    assert list(folder.glob("*.json")), "there are no curves to damage"


def _read_curves(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.diagnostics.signature.curve import load_curve
    from eisbach.diffusion.rate_curve import read_rate_curve

    _either(lambda: load_curve(target))
    read_rate_curve(target)


def _records(folder: Path) -> None:
    from eisbach.statistics.records import save_records

    rows = [
        {"arm": arm, "prompt_id": f"p{n}", "seed": seed, "path": f"{arm}/{n}-{seed}.flac", "train_seed": 0,
        "closure": 0.5 * n, "n": n, "flat": n > 1}
        for arm in ("plain", "gated") for n in range(3) for seed in (0, 1)
    ]  # fmt: skip
    save_records(rows, folder)


def _read_records(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.statistics.records import load_records

    load_records(target)


def _probe(folder: Path) -> None:
    from probe_cases import make_result

    make_result(clips=6).save(folder)


def _read_probe(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.diagnostics.probe.explain import explain
    from eisbach.diagnostics.probe.result import load_result
    from eisbach.diagnostics.probe.verdict import verdict

    verdict(explain(load_result(folder), resamples=5))


def _generated(folder: Path) -> None:
    stamp = {"model": "embedded", "steps": 5, "seeds": [0, 1], "prompts": {"a": "slow"}}
    (folder / "generation.json").write_text(json.dumps(stamp))
    (folder / "samples.json").write_text(json.dumps({"steps": 5}))
    (folder / "a.flac").touch()


def _read_generated(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.generation.takes import check_stamp, merge_stamp
    from eisbach.output_folder import claim

    stamp = {"model": "embedded", "steps": 5, "seeds": [2], "prompts": {"a": "slow"}}
    _either(lambda: claim(folder, "samples.json", "images", {"steps": 5}))
    check_stamp(folder / "generation.json", stamp)
    merge_stamp(folder / "generation.json", stamp)


def _rendered(folder: Path) -> None:
    from eisbach.data.manifest import ManifestRow
    from eisbach.data.render import RenderSpec, _claim

    (folder / "clips").mkdir()
    (folder / "clips/0.flac").write_bytes(b"abc")
    _claim(folder, RenderSpec())
    row = ManifestRow("s-0", "clips/0.flac", "slow", 1.0, {"kind": "x"}, "0" * 64, "train")
    entry = {"index": 0, "row": vars(row), "bytes": 3, "skipped": [["a", "b"]]}
    (folder / "journal.jsonl").write_text("\n".join(json.dumps({**entry, "index": index}) for index in range(3)) + "\n")


def _read_rendered(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data import render

    if (folder / "journal.jsonl").exists():
        (folder / "journal.jsonl").replace(folder / render._JOURNAL)
    render._read_journal(folder, 3)
    render._claim(folder, render.RenderSpec())


def _scores(folder: Path) -> None:
    from eisbach.data.score_parsing import NoteTable, write_table

    notes = np.arange(4)
    table = NoteTable(
        "a",
        notes.astype("i2"),
        notes * 1.0,
        notes + 1.0,
        notes.astype("i2") + 60,
        notes.astype("i2"),
        np.zeros((0, 2)),
        "none",
        "ß",
    )
    write_table(folder / "a.npz", table, "0")


def _read_scores(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.score_parsing import read_table

    table = read_table(folder / "a.npz", "a", "0")
    assert table is None or table.length >= -1e300
    assert table is None or table.parts >= -(2**31)


def _statistics(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        folder / "a.npz",
        mu=np.zeros(4),
        sigma=np.eye(4),
        features=rng.random((9, 4)),
        logits=rng.random((9, 3)),
        count=np.array(9),
        network=np.array("x"),
    )
    np.savez(
        folder / "b.npz", arr_0=rng.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8), mu=np.zeros(2), sigma=np.eye(2)
    )


def _read_statistics(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.image_quality.quality import read_statistics

    read_statistics(target, None)


def _latents(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "0000000000.npy", rng.random((8, 20), dtype=np.float32))
    (folder / "0000000000.json").write_text(
        json.dumps({"prompt": "slow", "padding_mask": [1] * 15 + [0] * 5, "sample_rate": 8000})
    )
    np.save(folder / "silence.npy", rng.random((1, 8, 20), dtype=np.float32))


def _read_latents(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.pre_encoded import read_pre_encoded, read_silence

    _either(lambda: read_silence(folder / "silence.npy", 8))
    (folder / "silence.npy").unlink(missing_ok=True)
    read_pre_encoded(folder, jobs=1)


def _table(folder: Path) -> None:
    rows = [
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
    ]
    rows += [
        f"abcdefghij{n},{10 * n},{10 * n + 10},/m/1,\"['slow', 'cello']\",A slow cello.,{n},False,True"
        for n in range(4)
    ]
    (folder / "musiccaps.csv").write_text("\n".join(rows) + "\n")


def _read_table(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.musiccaps_table import read_rows

    for strict in (False, True):
        _either(lambda: read_rows(folder / "musiccaps.csv", strict=strict))  # noqa: B023


def _images(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp", "gif"):
        image.save(folder / f"a.{suffix}")


def _read_images(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.data.images import read_image

    read_image(target, 8)


def _analysis(folder: Path) -> None:
    from eisbach.structure.batch import Clip, analyze_files

    _clips(folder)
    analyze_files([Clip(folder / "0.wav")], out=folder / "out", quiet=True)


def _read_analysis(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.structure.analyze import RECORD_COLUMNS, analysis_version
    from eisbach.structure.record_files import FILE_COLUMNS, measured_clips, read_details

    out = folder / "out"
    measured_clips(out, [str(folder / "0.wav")], (*FILE_COLUMNS, *RECORD_COLUMNS), analysis_version())
    read_details(out)


def _codec(folder: Path) -> None:
    from eisbach.codecs.bands import BandCodec

    BandCodec.from_package().save(folder / "codec.safetensors")


def _read_codec(folder: Path, target: Path, draw: random.Random) -> None:
    from eisbach.codecs import load_codec

    load_codec(str(folder / "codec.safetensors"))


def _commands(folder: Path) -> None:
    _copy("recipes/paper.yaml", "recipes/demo.yaml", "src/eisbach/assets/prompts/demo.yaml")(folder)
    (folder / "demo.yaml").rename(folder / "prompts.yaml")
    shutil.copy(ROOT / "recipes/demo.yaml", folder / "demo.yaml")
    (folder / "set").mkdir()
    _rows(folder / "set")


def _run_command(folder: Path, target: Path, draw: random.Random) -> None:
    """The command line, as a person calls it: exit code 0 or 2, and one sentence with the latter."""
    import contextlib
    import io

    from eisbach.cli.main import _run

    command = draw.choice((
        ["train", "paper.yaml", "--dry-run", "--out", "run"], ["experiment", "run", "demo.yaml", "--dry-run"],
        ["generate", "--prompts", "prompts.yaml", "--dry-run"], ["data", "doctor", "set", "--jobs", "1", "--json"],
        ["data", "folder", "set", "--jobs", "1"], ["analyze", "set/manifest.jsonl", "--dry-run"],
        ["train", "paper.yaml", "--dry-run", "--data", "set", "--set", draw.choice(OVERRIDES)],
    ))  # fmt: skip
    arguments = [
        str(folder / part)
        if part.partition("/")[0] in ("paper.yaml", "demo.yaml", "prompts.yaml", "set", "run")
        else part
        for part in command
    ]
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["eisbach", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _run()
    finally:
        sys.argv = before
    said = [line for line in err.getvalue().splitlines() if line.startswith("eisbach: ")]
    assert code in (0, 2), f"exit code {code}"
    assert "Traceback" not in err.getvalue()
    assert code == 0 or len(said) == 1 or "Usage" in err.getvalue(), err.getvalue()[:500]


KINDS = (
    Kind("training recipes", 10, _copy("recipes/paper.yaml", "recipes/sa3-medium-paper.yaml"), ("*.yaml",),
    _read_recipe),
    Kind("experiment recipes", 4, _copy("recipes/demo.yaml", "recipes/gated.yaml"), ("*.yaml",), _read_experiment),
    Kind("prompts", 6, _copy("src/eisbach/assets/prompts/demo.yaml"), ("*.yaml",), _read_prompts),
    Kind("manifests", 8, _rows, ("manifest.jsonl",), _read_manifest),
    Kind("captions and audio folders", 6, _clips, ("*.txt", "*.json", "*.wav", "*.flac", "*.ogg"), _read_folder),
    Kind("audio", 12, _clips, ("*.wav", "*.flac", "*.ogg"), _read_audio),
    Kind("mp3", 3, _mp3, ("*.mp3",), _read_audio),
    Kind("curves", 6, _curves, ("*.json",), _read_curves),
    Kind("records", 6, _records, ("*",), _read_records),
    Kind("probe results", 4, _probe, ("*.json", "*.jsonl"), _read_probe),
    Kind("analysis folders", 4, _analysis, ("out/*.jsonl",), _read_analysis),
    Kind("checkpoints and run folders", 10, _checkpoint, ("step-*/*", "*.json", "*.jsonl"), _read_checkpoint),
    Kind("generation stamps", 4, _generated, ("*.json",), _read_generated),
    Kind("render folders", 4, _rendered, ("*.json", "*.jsonl"), _read_rendered),
    Kind("score caches", 5, _scores, ("*.npz",), _read_scores),
    Kind("image statistics", 5, _statistics, ("*.npz",), _read_statistics),
    Kind("latents", 6, _latents, ("*.npy", "*.json"), _read_latents),
    Kind("MusicCaps tables", 5, _table, ("*.csv",), _read_table),
    Kind("images", 5, _images, ("*",), _read_images),
    Kind("adapters", 6, _adapters, ("*.safetensors", "*/*", "*/*/*"), _read_adapters),
    Kind("codec files", 3, _codec, ("*.safetensors",), _read_codec),
    Kind("tiny models", 5, _model, ("model/*", "codec.safetensors"), _read_model),
    Kind("native models", 4, _copy("tests/fixtures/sa3_native_tiny"), ("sa3_native_tiny/model*", "sa3_native_tiny/*/*"),
    _read_native),
    Kind("tokenizers", 4, _copy("tests/fixtures/sa3_native_tiny"), ("sa3_native_tiny/*/*token*",), _read_tokenizer),
    Kind("command line", 2, _commands, ("*.yaml", "set/*"), _run_command),
)  # fmt: skip
