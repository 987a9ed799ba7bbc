"""A package that is not installed is one sentence with the line that installs it, at every command."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from eisbach.cli.main import missing_package

ROOT = Path(__file__).parents[2]
MAIN_JOB = ("scipy", "soundfile", "matplotlib", "jinja2", "diffusers", "peft", "accelerate", "music21", "pretty_midi")


def test_the_main_job_needs_no_extra() -> None:
    plain = [line for line in metadata.requires("eisbach") or [] if "extra ==" not in line]
    for package in MAIN_JOB:
        assert any(line.startswith(package) for line in plain), f"{package} would need an extra"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scipy.signal", "pip install scipy"),
        ("sklearn.datasets", "pip install 'eisbach[images]'"),
        ("PIL", "pip install 'eisbach[images]'"),
        ("mir_eval", "pip install mir_eval"),
        ("mir-eval", "pip install mir-eval"),
    ],
)
def test_the_sentence_names_the_line(module: str, line: str) -> None:
    assert line in (missing_package(module) or "")


@pytest.mark.parametrize("module", ["eisbach.nothing", "not_ours", "", None])
def test_what_is_no_requirement_stays_a_defect(module: str | None) -> None:
    assert missing_package(module) is None


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("scipy", ["analyze", "SOUND"]),
        ("matplotlib", ["figure", "ssm", "SOUND", "--out", "ssm.png"]),
        ("soundfile", ["analyze", "SOUND"]),
        pytest.param("jinja2", ["analyze", "SOUND"], marks=pytest.mark.slow),
        pytest.param("music21", ["demo", "--quick"], marks=pytest.mark.slow),
        ("diffusers", ["demo", "--quick"]),
    ],
)
@pytest.mark.whole
def test_commands_without_a_package(package: str, words: list[str], tmp_path: Path) -> None:
    import numpy as np
    import soundfile as sf

    sf.write(tmp_path / "sound.wav", 0.1 * np.random.default_rng(0).standard_normal(4 * 8000), 8000)
    hide = f"import sys; sys.modules[{package!r}] = None; from eisbach.cli.main import main; main()"
    given = [str(tmp_path / "sound.wav") if word == "SOUND" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-c", hide, *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"pip install {package}" in done.stderr


def test_the_judges_extra_has_its_first_name_too() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(line.startswith("onnxruntime") for line in extras["judges"])
    assert extras["notes"] == ["eisbach[judges]"]
