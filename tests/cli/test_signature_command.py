"""`eisbach signature` on a tiny model: files, continuing, and a user's mistakes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from eisbach.backbones import create_backbone
from eisbach.cli.main import app
from eisbach.diagnostics.signature import load_curve
from eisbach.diagnostics.signature.config import SignatureConfig
from eisbach.diagnostics.signature.run import run_signature
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.rate_curve import save_entropic_curve
from eisbach.errors import UserError

runner = CliRunner()
PROMPTS = """
classes:
  - {name: low-slow, text: low slow, labels: {register: low, tempo: slow}}
  - {name: low-fast, text: low fast, labels: {register: low, tempo: fast}}
  - {name: high-slow, text: high slow, labels: {register: high, tempo: slow}}
  - {name: high-fast, text: high fast, labels: {register: high, tempo: fast}}
"""


@pytest.fixture
def model(tmp_path):
    backbone = create_backbone(
        {
            "latent_channels": 4,
            "width": 16,
            "depth": 1,
            "heads": 2,
            "text_width": 8,
            "vocabulary": ["low", "high", "slow"],
        }
    )
    backbone.save(tmp_path / "model")
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return tmp_path


def call(model, *words):
    base = ["signature", "run", "--model", str(model / "model"), "--prompts", str(model / "prompts.yaml")]
    return runner.invoke(
        app,
        [*base, "--out", str(model / "out"), "--steps", "8", "--trajectories", "2", "--duration", "3", "-q", *words],
    )


def write_curve(file, power):
    levels = [0.95, 0.75, 0.5, 0.25, 0.05]
    errors = [t**power for t in levels]
    save_entropic_curve(
        file, path=get_path("linear"), t=levels, mse=errors, mse_lo=errors, mse_hi=errors, dims=4, meta={}
    )


@pytest.mark.parametrize(
    ("schedule", "source"),
    [
        *((name, "forward") for name in ("karras", "log_snr", "rescaled_entropic")),
        *((name, "reverse") for name in ("uniform", "rescaled_entropic")),
        *(pytest.param(name, "reverse", marks=pytest.mark.slow) for name in ("karras", "sa3", "log_snr")),
        *(pytest.param(name, "forward", marks=pytest.mark.slow) for name in ("uniform", "sa3")),
    ],
)
@pytest.mark.whole
def test_every_schedule_serves_every_source(model, schedule, source):
    words = ["--source", source, "--set", f"schedule={schedule}", "--set", "sample_steps=8", "--json"]
    if schedule == "rescaled_entropic":
        curve = model / "curve.json"
        write_curve(curve, 1.0)
        words += ["--set", f"schedule_options={{curve: {curve}}}"]
    done = call(model, *words)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert set(result["arms"]) == {source}
    if schedule == "rescaled_entropic":
        assert len(result["meta"]["schedule_curve"]) == 16
        write_curve(curve, 2.0)  # another measurement under the same name
        assert "schedule_curve was" in str(call(model, *words).exception)


@pytest.mark.whole
def test_run_writes_curves_page_and_pictures_and_continues(model):
    first = call(
        model,
        "--source",
        "reverse",
        "--source",
        "forward",
        "--guidance",
        "3:0.2:0.8",
        "--json",
        "--set",
        "sample_steps=4",
    )
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    assert set(result["arms"]) == {"reverse", "forward", "guided-3-0.2-0.8"}
    assert {one["quantity"] for one in result["arms"]["guided-3-0.2-0.8"]} == {"cross-entropy"}
    assert {one["partition"] for one in result["arms"]["reverse"]} == {"classes", "register", "tempo"}
    assert {row["partition"] for row in result["shifts"]} == {"classes", "register", "tempo"}
    curve = load_curve(model / "out" / "curves" / "reverse-register-chain.json")
    assert curve.groups == ["low", "high"]
    assert curve.meta["model_identity"].startswith("tiny-music-")
    page = (model / "out" / "index.html").read_text()
    assert "cross-entropy" in page
    assert "data:image/png;base64" in page
    pieces = sorted((model / "out" / "pieces").iterdir())
    stamps = [piece.stat().st_mtime_ns for piece in pieces]
    again = call(
        model,
        "--source",
        "reverse",
        "--source",
        "forward",
        "--guidance",
        "3:0.2:0.8",
        "--json",
        "--set",
        "sample_steps=4",
    )
    assert [piece.stat().st_mtime_ns for piece in pieces] == stamps
    one, two = json.loads(again.stdout), result
    assert one["arms"]["reverse"][0]["entropy"] == two["arms"]["reverse"][0]["entropy"]
    other = call(model, "--seed", "5")
    assert isinstance(other.exception, UserError)
    assert "; seed was 0 and is now 5;" in str(other.exception)


def test_pieces_do_not_change_the_answer(model):
    values = {
        "model": str(model / "model"),
        "classes": [{"name": "low"}, {"name": "high"}],
        "duration": 3,
        "steps": 8,
        "trajectories": 3,
    }
    whole = run_signature(SignatureConfig.model_validate(values), quiet=True)
    small = run_signature(SignatureConfig.model_validate({**values, "batch_rows": 3}), quiet=True)
    a, b = whole.arms["reverse"][0], small.arms["reverse"][0]
    assert a.entropy == pytest.approx(b.entropy, abs=1e-5)


@pytest.mark.whole
def test_data_of_a_file(model):
    latents = torch.randn(8, 4, 8, generator=torch.Generator().manual_seed(0))
    save_file({"latents": latents, "labels": torch.arange(4).repeat_interleave(2)}, str(model / "data.safetensors"))
    done = call(model, "--source", "forward", "--data", str(model / "data.safetensors"), "--json")
    assert done.exit_code == 0, done.output
    save_file({"latents": latents, "labels": torch.zeros(8, dtype=torch.int64)}, str(model / "data.safetensors"))
    refused = call(model, "--source", "forward", "--data", str(model / "data.safetensors"), "--out", str(model / "two"))
    assert "each at least twice" in str(refused.exception)


def test_classes_that_the_model_cannot_tell_apart_are_refused(model):
    """`--classes 0..9` on a model of music would measure the prior for hours."""
    done = runner.invoke(
        app, ["signature", "run", "--model", str(model / "model"), "--classes", "0..3", "--out", str(model / "out")]
    )
    assert isinstance(done.exception, UserError)
    assert "hears no difference between the 4 classes ('0' to '3')" in str(done.exception)
    assert not (model / "out").exists()


def test_image_classes_and_dry_run(tmp_path):
    words = ["signature", "run", "--model", "nowhere", "--classes", "0..3", "--partition", "p=a:0,1/b:2,3", "--dry-run"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "name: '3'" in done.output
    assert "partitions:" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "eta=0"], "deterministic sampler"),
        (["--steps", "4"], "at least 8"),
        (["--partition", "p=a:low-slow/b:"], "empty group 'b'"),
        (["--partition", "nonsense"], "must look like NAME="),
        (["--prior", "0.5,0.5,0.5,0.5"], "sum to 2 and not to 1"),
        (["--prior", "0.5,0.5"], "give one each"),
        (["--guidance", "1:2"], "must look like SCALE"),
        (["--set", "coupling=optimal_transport"], "optimal transport"),
        (["--data", "x"], "only read by the source 'forward'"),
        (["--set", "unknown=1"], "unknown key 'unknown'"),
    ],
)
def test_mistakes_are_one_sentence(model, words, said):
    done = call(model, *words)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)


def test_one_class_and_no_classes(model):
    one = runner.invoke(app, ["signature", "run", "--classes", "1"])
    assert "at least 2 classes" in str(one.exception)
    assert "say what Z is" in str(runner.invoke(app, ["signature", "run"]).exception)
    assert "lower number first" in str(runner.invoke(app, ["signature", "run", "--classes", "9..0"]).exception)


def test_a_run_folder_that_paired_by_transport_is_refused(model):
    (model / "config.yaml").write_text("objective: {pairing: optimal_transport}\n")
    assert "optimal transport" in str(call(model).exception)


def test_mixture_command(tmp_path):
    words = ["signature", "mixture", "--dims", "4,16,64", "--path", "edm", "--levels", "16", "--out", str(tmp_path)]
    done = runner.invoke(app, [*words, "--json", "-q"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["vp_time_over_half_ln_d"]["slope"] == pytest.approx(1, abs=0.05)
    assert (tmp_path / "mixture.png").stat().st_size > 10_000
    dry = runner.invoke(app, [*words, "--dry-run"])
    assert json.loads(dry.stdout)["path"] == "edm"
    bad = runner.invoke(app, ["signature", "mixture", "--weights", "0.5,0.6"])
    assert "sum to 1.1" in str(bad.exception)


def test_a_mixture_that_never_decides_is_said_as_such(tmp_path):
    words = ["--dims", "4", "--separation", "1e-4", "--samples", "64", "--levels", "8", "--out", str(tmp_path), "-q"]
    done = runner.invoke(app, ["signature", "mixture", *words])
    assert done.exit_code == 0, done.output
    assert "d = 4: half of the classes' entropy stays open at every noise level" in done.stdout
    assert "legend" not in done.stderr


@pytest.mark.parametrize("dims", ["4.7,9", "nan", "inf", "four"])
def test_dimensions_are_whole_numbers_and_nothing_is_cut_off(dims, tmp_path):
    done = runner.invoke(app, ["signature", "mixture", "--dims", dims, "--out", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "must be whole numbers" in str(done.exception)
    assert not list(tmp_path.iterdir())
