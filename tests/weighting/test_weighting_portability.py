"""What a stranger's training loop relies on: compiled alike, no wait for the device, nothing imported beside torch."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import eisbach
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
@pytest.mark.whole
def test_torch_compile_captures_the_whole_graph(name):
    check_compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default backend needs a C++ compiler")
@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_generates_code_with_the_same_numbers(name):
    check_compiled(name, "inductor")


BARE = """
import sys

class Block:
    # Refuses every package beside torch, its own dependencies and the standard library.

    names = {"numpy", "pydantic", "typer", "yaml", "safetensors", "scipy", "diffusers", "transformers", "peft",
             "accelerate", "matplotlib", "pandas", "soundfile", "soxr", "tqdm", "rich"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
import torch  # does without numpy, with a warning
before = set(sys.modules)
"""


PARTS = {
    "imports": """
from eisbach.weighting import Weighting, build_weighting
new = {name.split('.')[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {'torch'}))  # torch loads parts of itself late
""",
    "names": """
import eisbach, eisbach.weighting as w
from eisbach import Weighting, build_weighting
print(Weighting is w.Weighting, build_weighting is w.build_weighting, 'Weighting' in dir(eisbach))
""",
    "weightings": """
from eisbach.diffusion.noise_levels import get_density
from eisbach.weighting import NOISE_WEIGHTINGS, SAMPLE_WEIGHTINGS, build_weighting, per_sample_mse

options = {"entropy_barrier": {}, "tabulated": {"points": [[0.1, 1], [0.9, 2]]}, "sigma_sqrt": {}, "cosmap": {},
           "erd": {"correct_density": True, "density": get_density("logit_normal")}}
torch.manual_seed(0)
y, x_t = torch.randn(3, 4, 24, requires_grad=True), torch.randn(3, 4, 24)
t = torch.tensor([0.2, 0.5, 0.9])
made = 0
for table, axis in ((SAMPLE_WEIGHTINGS, 0), (NOISE_WEIGHTINGS, 1)):
    for name in table:
        given = {"window_frames": 4} if name in ("recurrence_barrier", "development_barrier") else options.get(name, {})
        names = (name, "none") if axis == 0 else ("none", name)
        weighting = build_weighting(*names, path="linear", **given)
        terms = weighting(per_sample_mse(y, x_t), y, x_t=x_t, t=t, path="linear", target="u")
        (gradient,) = torch.autograd.grad(terms.loss, y)
        assert terms.loss.isfinite() and gradient.abs().sum() > 0, name
        made += 1
print(made == len(SAMPLE_WEIGHTINGS) + len(NOISE_WEIGHTINGS), "numpy" in sys.modules)
""",
}
"""What is run one after the other in one bare process; each prints a line."""


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    code = BARE + "".join(PARTS.values())
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(zip(PARTS, result.stdout.strip().splitlines(), strict=True))


def test_imports_nothing_beyond_torch_and_the_standard_library(printed):
    assert printed["imports"] == "['eisbach']"


def test_the_top_level_names_are_the_same_objects_and_come_without_torch_until_asked_for(printed):
    assert printed["names"] == "True True True"
    code = "import sys, eisbach; print('torch' in sys.modules)"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert alone.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'Wieghting'"):
        eisbach.Wieghting  # noqa: B018


def test_every_weighting_works_where_torch_is_all_there_is(printed):
    """Each name on each axis gives a loss and a gradient; the densities that a correction needs are there as well."""
    assert printed["weightings"] == "True False"
