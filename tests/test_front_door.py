"""`import eisbach`: what it offers, what it loads, and the examples of every docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eisbach
from eisbach.audio import audio_hash, write_audio
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.types import Waveform

_PACKAGE = Path(eisbach.__file__).parent
_OFFERED = {
    "METRICS", "Weighting", "analyze", "build_weighting", "compare_sets", "generate", "load_adapter", "load_model",
    "probe",
    "train",
}  # fmt: skip


def _modules_with_examples() -> list[str]:
    """Modules of the package whose text holds an example, found without importing any."""
    files = sorted(file for file in _PACKAGE.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8"))
    names = [".".join(file.relative_to(_PACKAGE.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def _new_modules(code: str) -> set[str]:
    """The modules that running `code` in a fresh interpreter loads beyond those that starting it does."""
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing() -> None:
    """Counted in modules and not in seconds: no clock is read, and any import that is added shows by name."""
    assert _new_modules("import eisbach") <= {"eisbach", "__future__"}


def test_what_is_offered_is_listed_and_loads_by_itself() -> None:
    assert set(dir(eisbach)) >= _OFFERED
    assert set(eisbach.__all__) == set(dir(eisbach))
    for name in eisbach.__all__:
        assert getattr(eisbach, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'build_weigthing'"):
        eisbach.build_weigthing  # type: ignore[attr-defined]  # noqa: B018
    # The weighting library needs only torch, so the front door must not bring the rest of the package with it.
    loaded = _new_modules("import eisbach; eisbach.build_weighting('entropy_barrier', 'min_snr')")
    rooms = {name.split(".")[1] for name in loaded if name.startswith("eisbach.")}
    assert rooms <= {"weighting", "diffusion", "errors", "types", "files"}


def test_type_checkers_see_what_is_offered() -> None:
    """The lines for type checkers name the same objects as the lazy table."""
    source = (_PACKAGE / "__init__.py").read_text(encoding="utf-8")
    block = source[source.index("if TYPE_CHECKING:") : source.index("__version__ =")]
    seen: dict[str, object] = {}
    exec(block.replace("if TYPE_CHECKING:", "if True:"), seen)
    for name in set(eisbach.__all__) - {"__version__"}:
        assert seen[name] is getattr(eisbach, name)


@pytest.mark.parametrize("name", sorted(_OFFERED - {"METRICS"}))
def test_everything_offered_has_an_example(name: str) -> None:
    assert ">>> " in str(inspect.getdoc(getattr(eisbach, name)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are typed: a folder `music` with a manifest, an empty `takes`, and a trained `run`."""
    root = tmp_path_factory.mktemp("examples")
    time = np.arange(5 * 22050) / 22050
    for name in ("music", "takes"):
        rows = []
        for number in range(4):
            sound = 0.2 * np.sin(2 * np.pi * 220 * 2 ** (number / 12) * time) * (1 + np.sign(np.sin(2 * np.pi * time)))
            path = root / name / f"clip{number}.wav"
            path.parent.mkdir(exist_ok=True)
            write_audio(path, Waveform(sound[None].astype(np.float32), 22050))
            rows.append(ManifestRow(f"clip{number}", path.name, "a calm cello", 5.0, {}, audio_hash(path), "train"))
        if name == "music":
            save_manifest(Manifest(rows, root / name))
    recipe = {"data": {"manifest": str(root / "music"), "crop_seconds": 4}, "batch_size": 2, "steps": 2}
    eisbach.train(eisbach.TrainConfig(**recipe, out=str(root / "run")), quiet=True)
    return root


@pytest.mark.parametrize("module", _modules_with_examples())
def test_examples_in_docstrings_run(module: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("music", "takes", "run"):
        (tmp_path / name).symlink_to(folder / name)
    if module == "eisbach.training.loop":
        (tmp_path / "run").unlink()
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0
