"""What `place` decides, for machines that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from second_device import NAME, second_device

from eisbach.config import StrictModel, build_config
from eisbach.devices import DeviceName, Placement, place
from eisbach.errors import ConfigError, UserError
from eisbach.training.config import TrainConfig
from eisbach.training.devices import build_accelerator


@contextmanager
def machine(kind: str, *, count: int = 1, capability: tuple[int, int] = (9, 0), macos: int = 15) -> Iterator[None]:
    """Torch as it answers on a machine with such devices."""
    with pytest.MonkeyPatch.context() as patch:
        module = SimpleNamespace(is_available=lambda: True, device_count=lambda: count)
        patch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device(kind))
        patch.setattr(torch, "get_device_module", lambda device=None: module)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "Test GPU")
        patch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: macos >= major)
        yield


@pytest.mark.parametrize(
    ("kind", "capability", "name", "precision", "device", "bf16"),
    [
        ("cuda", (9, 0), "auto", "auto", "cuda", True),
        ("cuda", (8, 0), "cuda:1", "auto", "cuda:1", True),
        ("cuda", (7, 5), "auto", "auto", "cuda", False),
        ("cuda", (9, 0), "auto", "fp32", "cuda", False),
        ("cuda", (9, 0), "cpu", "auto", "cpu", False),
        ("cuda", (9, 0), "cpu:0", "bf16", "cpu", True),
        ("mps", (0, 0), "auto", "auto", "mps", False),
        ("mps", (0, 0), "mps", "bf16", "mps", True),
        ("xpu", (0, 0), "auto", "auto", "xpu", False),
    ],
)
def test_decides(kind: str, capability: tuple[int, int], name: str, precision: str, device: str, bf16: bool) -> None:
    with machine(kind, count=2, capability=capability):
        assert place(name, precision) == Placement(torch.device(device), bf16)


def test_without_an_accelerator_it_is_the_cpu_in_fp32() -> None:
    if torch.accelerator.is_available():
        pytest.fail("run this suite where no accelerator is seen (CUDA_VISIBLE_DEVICES='')")
    assert place() == place("cpu", "fp32") == Placement(torch.device("cpu"), False)
    assert place("cpu", "bf16").bf16


@pytest.mark.parametrize(
    ("kind", "options", "name", "precision", "said"),
    [
        ("cuda", {}, "mps", "auto", "the device 'mps' is not on this machine; choose cpu or cuda, or auto."),
        ("cuda", {"count": 2}, "cuda:2", "auto", "whose last one is cuda:1; choose cuda:1 or less."),
        ("mps", {}, "mps:1", "auto", "whose last one is mps:0"),
        ("cuda", {}, "cpu:1", "auto", "whose last one is cpu:0"),
        ("cuda", {"capability": (7, 5)}, "cuda", "bf16", r"cuda \(Test GPU\) does not compute in it; choose fp32"),
        ("mps", {"macos": 13}, "auto", "bf16", "mps does not compute in it"),
        ("cuda", {}, "auto", "fp16", "the precision 'fp16' is not one; choose auto, fp32, bf16"),
        ("cuda", {}, "", "auto", "choose auto, cpu, cuda, cuda:1 or mps"),
        ("cuda", {}, "cuda:-1", "auto", "choose auto, cpu, cuda, cuda:1 or mps"),
        ("cuda", {}, "CUDA", "auto", "choose auto, cpu, cuda, cuda:1 or mps"),
        ("cuda", {}, "cuda:x", "auto", "choose auto, cpu, cuda, cuda:1 or mps"),
    ],
)  # fmt: skip
def test_refuses_in_a_sentence(kind: str, options: dict, name: str, precision: str, said: str) -> None:
    with machine(kind, **options), pytest.raises(UserError, match=said) as refused:
        place(name, precision)
    assert str(refused.value).endswith(".")


def test_a_pytorch_without_cuda_is_named() -> None:
    if torch.backends.cuda.is_built():
        pytest.fail("run this suite with a PyTorch of the CPU")
    with pytest.raises(UserError, match=r"this PyTorch, .*, is built without CUDA\); choose cpu, or auto"):
        place("cuda")


def test_says_what_it_chose() -> None:
    with machine("cuda", count=2):
        assert place("cuda:1").sentence() == "computing on cuda:1 (Test GPU) in bf16"
        assert place("cuda:1").stamp() == {"precision": "bf16"}
    assert place("cpu").sentence() == "computing on the CPU in fp32"
    assert place("cpu").stamp() == {}


def test_a_configuration_reads_names_of_devices() -> None:
    class Config(StrictModel):
        device: DeviceName = "auto"

    assert build_config(Config, {"device": "cuda:1"}).device == "cuda:1"
    for wrong in ("gpu 0", "cuda:", 1, "CPU"):
        with pytest.raises(ConfigError, match="device"):
            build_config(Config, {"device": wrong})


def test_what_a_network_returns_has_its_inputs_dtype() -> None:
    asked = place("cpu", "bf16").predict(torch.nn.Linear(3, 3))
    assert asked(torch.zeros(2, 3)).dtype == torch.float32
    network = torch.nn.Linear(3, 3)
    assert place("cpu").predict(network) is network


def _recipe(**values: str) -> TrainConfig:
    return build_config(TrainConfig, {"data": {"manifest": "m"}, "compile": False, **values})


def test_accelerate_trains_where_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with second_device():
        assert build_accelerator(_recipe(device=f"{NAME}:1")).device == torch.device(NAME, 1)
        assert build_accelerator(_recipe(device="cpu")).device == torch.device("cpu")
        assert build_accelerator(_recipe(device=NAME)).device == torch.device(NAME)
    assert build_accelerator(_recipe()).device == torch.device("cpu")
    bf16 = build_accelerator(_recipe(precision="bf16"))
    assert (bf16.device.type, bf16.mixed_precision) == ("cpu", "bf16")
    assert build_accelerator(_recipe()).mixed_precision == "no"


def test_a_launch_that_contradicts_the_recipe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with second_device():
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        with pytest.raises(ConfigError, match="launched for the CPU and device is phantom"):
            build_accelerator(_recipe(device=NAME))
        monkeypatch.delenv("ACCELERATE_USE_CPU")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="launched with 2 processes"):
            build_accelerator(_recipe(device=f"{NAME}:1"))
