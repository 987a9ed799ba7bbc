"""The passport of an adapter: what it says, what it must not say, and where it goes."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors.torch import load_file
from typer.testing import CliRunner

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.formats import peft as peft_format
from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import CheckpointError, ConfigError, UserError
from eisbach.files import write_text
from eisbach.generation import GenerateConfig, Prompt
from eisbach.output_folder import weights_identity
from eisbach.report.passport import after_training, write_passport
from eisbach.report.passport.card import plain
from eisbach.report.passport.facts import without_paths
from eisbach.report.passport.write import push
from eisbach.tensor_files import read_header
from eisbach.types import Waveform

RUN = CliRunner()
NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
HOSTILE = "x|<img src=x onerror=alert(1)> [a](javascript:1) `b` # c"


def save_run(model: Path, root: Path, size: float = 0.3, kind: str = "dora") -> Path:
    """A run's folder with an adapter and the set that it was trained on; returns `adapter/`."""
    backbone = load_backbone(model)
    stamp = {"base_identity": backbone.identity(), "steps": 40, "clips": 5, "recipe_hash": "ab" * 32}
    config = adapters.adapter_config(backbone, kind=kind, rank=2, alpha=2.0)
    parameters = adapters.inject(backbone, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    peft_format.save(root / "adapter", backbone.module, config, stamp)
    music, rows, rng = root / "music", [], np.random.default_rng(0)
    for number in range(8):
        file = music / f"secret-{number}.flac"
        samples = 0.2 * np.sin(np.arange(40000) / (3 + number)) + 0.05 * rng.standard_normal(40000)
        write_audio(file, Waveform(samples.astype(np.float32)[None], 8000))
        labels = {"piece": f"p{number // 2}", "licence": "CC0 <script>" if number % 2 else "CC BY 4.0"}
        split = "train" if number < 5 else "held_out"
        rows.append(ManifestRow(f"c{number}", file.name, HOSTILE, 5.0, labels, audio_hash(file), split))
    save_manifest(Manifest(rows, music))
    values = {"model": str(model), "out": str(root), "data": {"manifest": [str(music / "manifest.jsonl")]}, "steps": 40}
    write_text(root / "config.yaml", yaml.safe_dump(values))
    return root / "adapter"


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    return save_run(tiny_model, tmp_path / "my run")


def test_a_run_s_passport_counts_what_it_was_trained_on_and_names_no_path(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    written = write_passport(adapter)
    text = (adapter / "README.md").read_text()
    assert "5 clips, 0 minutes, 3 pieces. Licences: 3 × CC BY 4.0, 2 × CC0" in text
    assert load_backbone(tiny_model).identity() in text
    assert "DoRA adapter of rank 2" in text
    assert "40 steps" in text
    for secret in (str(tmp_path), str(tiny_model), "secret-", "manifest.jsonl"):
        assert secret not in text
        assert secret not in json.dumps(read_header(adapter / "adapter_model.safetensors").metadata)
    assert written.facts.effect is not None
    assert f"| all | {100 * written.facts.effect.overall:.2g}% |" in text
    assert "## Structure, against the base\n\nNot measured." in text
    assert "Nearest training clip: not measured" in text
    assert "loaded by peft" in text
    assert "| nothing |" in text  # the embedded model has no other host
    card = ModelCard.load(adapter / "README.md")
    assert card.data.tags[-1] == "dora"
    assert card.data.to_dict()["training_licences"] == ["CC BY 4.0", "CC0 <script>"]


def test_names_and_captions_are_shown_letter_by_letter(tiny_model: Path, tmp_path: Path) -> None:
    import html

    name = "a<script>alert(1)<b>|`x`\n---\nlicense: mit"
    path = save_run(tiny_model, tmp_path / name)
    write_passport(path)
    card = ModelCard.load(path / "README.md")
    assert "license" not in card.data.to_dict()
    body = card.text
    assert "<script>" not in body
    assert body.count("\n# ") + body.startswith("# ") == 1
    title = next(line for line in body.splitlines() if line.startswith("# "))
    assert html.unescape(title[2:]) == "a<script>alert(1)<b>|`x` --- license: mit"
    metadata = read_header(path / "adapter_model.safetensors").metadata
    assert all("\n" not in value for key, value in metadata.items() if key.startswith("modelspec."))
    assert html.unescape(plain(HOSTILE)) == HOSTILE
    assert not set(plain(HOSTILE)) & set("<>|`[]()*_\\")


def test_an_adapter_that_does_nothing_is_said_to_first(tiny_model: Path, tmp_path: Path) -> None:
    path = save_run(tiny_model, tmp_path / "run", size=0.0)
    told: list[str] = []
    written = write_passport(path, notify=told.append)
    assert written.warning.startswith("this adapter does nothing")
    assert written.warning in told
    lines = [line for line in ModelCard.load(path / "README.md").text.splitlines() if line]
    assert lines[1].startswith("> **Warning: this adapter does nothing")
    hint = read_header(path / "adapter_model.safetensors").metadata["modelspec.usage_hint"]
    assert hint.startswith("this adapter does nothing")


def test_the_header_says_what_the_file_is_and_its_weights_stay(adapter: Path, tiny_model: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    before, identity, metadata = load_file(file), weights_identity(adapter), read_header(file).metadata
    write_passport(adapter)
    after = read_header(file).metadata
    assert metadata.items() <= after.items()
    assert after["modelspec.sai_model_spec"] == "1.0.0"
    assert after["modelspec.title"] == "my run"
    assert after["modelspec.license"] == "CC BY 4.0, CC0 <script>"
    assert json.loads(after["lora_adapter_metadata"])["transformer.r"] == 2
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert after["modelspec.hash_sha256"] == f"0x{hashlib.sha256(data[8 + length :]).hexdigest()}"
    assert weights_identity(adapter) == identity
    assert all(torch.equal(value, before[name]) for name, value in load_file(file).items())
    adapters.attach(load_backbone(tiny_model), adapter)
    card = (adapter / "README.md").read_bytes()
    write_passport(adapter)
    assert (file.read_bytes(), (adapter / "README.md").read_bytes()) == (data, card)


def test_base_and_adapter_are_played_measured_and_heard(tiny_model: Path, adapter: Path) -> None:
    config = GenerateConfig(
        out="unused", prompts=(Prompt(id="a", text=HOSTILE), Prompt(id="b", text="slow cello")),
        num_inference_steps=2, duration=9.0,
    )  # fmt: skip
    written = write_passport(adapter, play_config=config)
    text = (adapter / "README.md").read_text()
    assert written.heard is not None
    assert written.heard.clips == 2
    assert "2 clips of 2 prompts, from the same noise" in text
    assert "| measure | base | adapter | difference | interval | p |" in text
    assert text.count("<audio controls") == 4
    assert "onerror=alert(1)>" not in text
    for _, base, made in written.heard.players:
        assert (adapter / base).is_file()
        assert (adapter / made).is_file()
        assert f'src="{made}"' in text
    assert "of 5 training clips, held-out music" in text


def test_the_demos_of_a_training_are_what_was_heard(tiny_model: Path, adapter: Path) -> None:
    from eisbach.generation import generate

    for step, played in ((0, None), (40, str(adapter))):
        config = GenerateConfig(
            out=str(adapter.parent / "samples" / f"step-{step}"), prompts=(Prompt(id="a", text="slow cello"),),
            model=str(tiny_model), adapter=played, arm=f"step-{step}", num_inference_steps=2, duration=9.0,
        )  # fmt: skip
        generate(config, quiet=True)
    after_training(adapter.parent, "cpu", lambda sentence: None)
    text = (adapter / "README.md").read_text()
    assert "1 clips of 1 prompts" in text
    assert "<audio" not in text  # they lie outside of what is passed on


def test_a_finished_run_s_passport_is_written_once_and_anew_when_it_went_on(
    tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_training(adapter.parent, "cpu", print)
    monkeypatch.setattr("eisbach.report.passport.write.write_passport", lambda *_, **__: pytest.fail("written again"))
    after_training(adapter.parent, "cpu", print)
    monkeypatch.undo()
    save_run(tiny_model, adapter.parent, size=0.5)
    (card,) = [(adapter / "README.md").read_bytes()]
    after_training(adapter.parent, "cpu", print)
    assert (adapter / "README.md").read_bytes() != card
    write_text(adapter / "README.md", "my own words\n")
    save_run(tiny_model, adapter.parent)
    told: list[str] = []
    after_training(adapter.parent, "cpu", told.append)
    assert "passport was not written" in told[0]
    assert "was not written here" in told[0]
    assert (adapter / "README.md").read_text() == "my own words\n"


def test_files_of_stability_have_one_beside_them(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    command = ["export", str(NATIVE / "lora.safetensors"), "--to", "sa3", "--out", str(out), "--card"]
    result = RUN.invoke(app, [*command, "--model", str(NATIVE), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["card"] == str(tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    assert "are in the host's table of Stable Audio 3" in text
    hosts = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `") and "`--to`" not in line}
    assert set(hosts) == set(convert.FORMATS)
    for host, line in hosts.items():
        assert " and played" in line, line
        if host != "comfyui":  # without the duration embedder
            assert re.search(r"equal|off by \de-(0[6-9]|1\d) of the prediction", line), line
    assert "without duration" in hosts["comfyui"]
    copied = tmp_path / "alone.safetensors"
    copied.write_bytes(out.read_bytes())
    assert "the layers' names match; not played" in write_passport(copied).card.read_text()
    assert "The file does not say" in text
    assert "--adapter x.safetensors:1" in text
    assert "modelspec.title" in read_header(out).metadata
    adapters.attach(load_backbone(NATIVE), out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--card", "--merge", "--model", "m", "--out", "o"], "leave --card or --merge out"),
        (["--prompts", "demo", "--check", "--model", "m"], "add --card"),
        (["--card", "--public"], "--push-to-hub"),
        ([], "there is nothing to do"),
    ],
)
def test_options_that_contradict_one_another(options: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RUN.invoke(app, ["export", str(NATIVE / "lora.safetensors"), *options], catch_exceptions=False)


def test_an_adapter_of_another_base_gets_none(
    adapter: Path, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match="trained on the base model"):
        write_passport(adapter, model=str(other))
    assert not (adapter / "README.md").exists()


def test_what_names_a_place_is_left_out_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    values = {
        "out": "runs/x", "model": "stabilityai/stable-audio-3-medium-base", "steps": 3,
        "data": {"manifest": ["music", "more"], "cache": None, "select": {"flat": "false"}},
        "demos": {"prompts": str(tmp_path / "voices"), "more": ["C:\\Users\\me\\a", "~/x", "words / more words"]},
    }  # fmt: skip
    assert without_paths(values) == {
        "model": "stabilityai/stable-audio-3-medium-base",
        "steps": 3,
        "data": {"manifest": ["(a local path)"] * 2, "cache": None, "select": {"flat": "false"}},
        "demos": {"prompts": "(a local path)", "more": ["(a local path)", "(a local path)", "words / more words"]},
    }


_CLIENT = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
_REFUSED = _CLIENT.Response(403, request=_CLIENT.Request("POST", "https://huggingface.co/api/repos/create"))


class _Hub:
    """Stands in for huggingface_hub's client."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def create_repo(self, repository: str, **options: Any) -> str:
        if _Hub.error is not None:
            raise _Hub.error
        _Hub.calls.append(("create_repo", {"repo_id": repository, **options}))
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, **options: Any) -> None:
        _Hub.calls.append(("upload_folder", options))

    def upload_file(self, **options: Any) -> None:
        _Hub.calls.append(("upload_file", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[_Hub]:
    _Hub.calls, _Hub.error = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", _Hub)
    return _Hub


def test_a_push_takes_the_adapter_with_its_card_and_nothing_else(adapter: Path, hub: type[_Hub]) -> None:
    result = RUN.invoke(app, ["export", str(adapter), "--push-to-hub", "me/form"])
    assert result.exit_code == 0, result.output
    assert "hub: https://huggingface.co/me/form" in result.output
    (_, created), (_, sent) = hub.calls
    assert (created["repo_id"], created["private"]) == ("me/form", True)
    assert sent["folder_path"] == adapter
    write_text(adapter / "notes.txt", "private")
    from huggingface_hub.utils import filter_repo_objects

    names = [path.relative_to(adapter).as_posix() for path in adapter.rglob("*") if path.is_file()]
    taken = set(filter_repo_objects(names, allow_patterns=sent["allow_patterns"]))
    assert taken == {"README.md", "adapter_config.json", "adapter_model.safetensors", "eisbach.json"}


def test_a_file_is_pushed_with_its_card_as_the_readme(tmp_path: Path, hub: type[_Hub]) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes((NATIVE / "lora.safetensors").read_bytes())
    card = write_passport(file).card
    push(file, card, "me/form", public=True)
    assert hub.calls[0][1]["private"] is False
    assert [(call["path_or_fileobj"], call["path_in_repo"]) for _, call in hub.calls[1:]] == [
        (file, "x.safetensors"),
        (card, "README.md"),
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (HfHubHTTPError("403 Forbidden: no rights\nfor me", response=_REFUSED), "did not take .* no rights"),
        (LocalTokenNotFoundError("no token"), "nobody is logged in"),
        (OSError("unreachable"), "unreachable"),
    ],
)
def test_a_hub_that_refuses_is_one_sentence(adapter: Path, hub: type[_Hub], error: Exception, told: str) -> None:
    hub.error = error
    with pytest.raises(UserError, match=told) as refused:
        push(adapter, adapter / "README.md", "me/form")
    assert "\n" not in str(refused.value)


def test_a_hub_that_cannot_be_reached_is_one_sentence(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By huggingface_hub's own client, whichever HTTP library it is made of."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(UserError, match="the hub did not take the adapter for 'me/form'") as refused:
        push(adapter, adapter / "README.md", "me/form")
    assert "\n" not in str(refused.value)


def test_a_name_that_no_repository_can_have_is_said(adapter: Path) -> None:
    with pytest.raises(UserError, match="is no name of a repository"):
        push(adapter, adapter / "README.md", "a/b/c")
