"""What a stranger's training loop relies on: compiled alike, no wait for the device, nothing imported beside torch."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eisbach.weighting import SAMPLE_WEIGHTINGS, build_weighting

NAMES = list(SAMPLE_WEIGHTINGS)


def build(name: str, **options):
    if name in ("recurrence_barrier", "development_barrier"):
        options["window_frames"] = 4
    return build_weighting(name, "soft_min_snr", **options)


def data():
    generator = torch.Generator().manual_seed(0)
    y, x_t = torch.randn(3, 4, 24, generator=generator), torch.randn(3, 4, 24, generator=generator)
    mask = torch.arange(24)[None] < torch.tensor([24, 20, 12])[:, None]
    return torch.rand(3, generator=generator), y, {"x_t": x_t, "t": torch.tensor([0.2, 0.5, 0.9]), "mask": mask}


class NoHostReads(TorchDispatchMode):
    """Fails on the operators by which a value leaves the device, as a synchronisation would need."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal.default")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not any(word in name for word in self.FORBIDDEN), f"{name} reads values on the host"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_read_on_the_host(name):
    losses, y, rest = data()
    with NoHostReads():
        partial = build(name, normalisation="mean1").partial(losses, y, path="linear", target="u", **rest)
        build(name, normalisation="mean1").gradient_factor(partial.stats)
    with pytest.raises(AssertionError, match="reads values"), NoHostReads():
        losses.sum().item()


def check_compiled(name: str, backend: str) -> None:
    weighting, (losses, y, rest) = build(name), data()

    def step(losses, y, rest):
        return weighting(losses, y, path="linear", target="u", **rest).loss

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(losses, y, rest), step(losses, y, rest), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_captures_the_whole_graph(name):
    check_compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default backend needs a C++ compiler")
@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_generates_code_with_the_same_numbers(name):
    check_compiled(name, "inductor")


def test_imports_nothing_but_torch():
    code = (
        "import sys, eisbach.weighting; "
        "heavy = {'diffusers', 'transformers', 'peft', 'scipy', 'pydantic', 'matplotlib', 'soundfile', 'yaml'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
