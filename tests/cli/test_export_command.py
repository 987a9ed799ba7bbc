from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eisbach.adapters import convert
from eisbach.cli.main import app
from eisbach.errors import CheckpointError, ConfigError, UserError

RUN = CliRunner()
NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
LORA, DORA = str(NATIVE / "lora.safetensors"), str(NATIVE / "dora-rows.safetensors")


def test_there_and_back_with_a_check(tmp_path: Path) -> None:
    folder, back = str(tmp_path / "folder"), str(tmp_path / "back.safetensors")
    result = RUN.invoke(app, ["export", DORA, "--to", "peft", "--out", folder, "--model", str(NATIVE), "--check"])
    assert result.exit_code == 0, result.output
    assert "dora for peft, 31 layers, 93 tensors" in result.output
    assert "off by 0.0e+00 of that change" in result.output
    assert "it changes what the model predicts by" in result.output
    result = RUN.invoke(app, ["export", folder, "--to", "sa3", "--out", back, "--json"])
    assert json.loads(result.stdout)["written"]["tensors"] == 93
    assert Path(back).read_bytes() == Path(DORA).read_bytes()


def test_a_check_alone_says_what_the_adapter_does(tmp_path: Path) -> None:
    found = RUN.invoke(app, ["export", LORA, "--check", "--model", str(NATIVE), "--json"])
    told = json.loads(found.stdout)
    assert told["written"] is None
    assert 0.01 < told["effect"]["overall"] < 1
    assert told["notes"] == []
    weak = str(tmp_path / "weak.safetensors")
    RUN.invoke(app, ["export", LORA, "--to", "sa3", "--out", weak, "--strength", "0.0001"])
    result = RUN.invoke(app, ["export", weak, "--check", "--model", str(NATIVE)])
    assert "did next to nothing" in result.output


def test_for_comfyui(tmp_path: Path) -> None:
    common = ["export", DORA, "--to", "comfyui", "--model", str(NATIVE), "--drop-conditioner", "--json"]
    sizes = {}
    for dora in ("diff", "scale"):
        out = tmp_path / f"{dora}.safetensors"
        result = RUN.invoke(app, [*common, "--out", str(out), "--dora", dora])
        assert result.exit_code == 0, result.output
        assert "duration_embedder.linear was left out" in json.loads(result.stdout)["notes"][0]
        sizes[dora] = out.stat().st_size
    assert sizes["diff"] > 5 * sizes["scale"]
    back = ["export", str(tmp_path / "diff.safetensors"), "--to", "sa3", "--out", str(tmp_path / "x.safetensors")]
    assert isinstance(RUN.invoke(app, back).exception, UserError)
    back[1] = str(tmp_path / "scale.safetensors")
    assert RUN.invoke(app, [*back, "--model", str(NATIVE)]).exit_code == 0
    assert convert.read(tmp_path / "x.safetensors").kind == "dora"


def test_merge_and_play_the_model(tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = RUN.invoke(app, ["export", LORA, "--merge", "--model", str(NATIVE), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "31 tensors changed" in result.output
    assert (out / "model_index.json").is_file()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["export", LORA, "--to", "peft", "--out", str(tmp_path / "x"), "--dry-run"])
    assert "to: peft" in result.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ([], ConfigError, "nothing to do"),
        (["--to", "peft"], ConfigError, "give --out"),
        (["--out", "x"], ConfigError, "nothing is to be written"),
        (["--merge", "--to", "peft", "--out", "x"], ConfigError, "leave one out; .*give --model"),
        (["--check"], ConfigError, "give --model"),
        (["--to", "webui", "--out", "x"], ConfigError, "webui"),
        (["--to", "peft", "--out", "x", "--strength", "9"], ConfigError, "strength"),
    ],
)
def test_options_that_do_not_fit(options: list[str], kind: type[Exception], sentence: str) -> None:
    for more in ([], ["--dry-run"]):
        error = RUN.invoke(app, ["export", LORA, *options, *more]).exception
        with pytest.raises(kind, match=sentence):
            raise error


def test_an_adapter_of_another_model(tiny_model: Path, tmp_path: Path) -> None:
    for options in (
        ["--to", "peft", "--out", str(tmp_path / "x")],
        ["--check"],
        ["--merge", "--out", str(tmp_path / "m")],
    ):
        error = RUN.invoke(app, ["export", LORA, "--model", str(tiny_model), *options]).exception
        with pytest.raises(CheckpointError, match="of another model"):
            raise error
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "m").exists()
