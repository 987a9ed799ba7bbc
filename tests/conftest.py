"""Models small enough for tests, saved in the formats that the package loads."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: what fails for one fails for all, and nothing is kept in a folder that workers share.
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.load_profile("suite")

# Where the suite was started with signals ignored (nohup, a shell's background), programs of the suite must still hear
# them.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(_number, _usual)


def _set_aside() -> None:
    """Takes what lives now out of Python's search for garbage: thousands of tests and all imported libraries, which a
    worker would go through again in each full search, for two seconds each time."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    _set_aside()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is None or nextitem.path != item.path:
        _set_aside()


WORDS = [
    "a",
    "and",
    "bright",
    "calm",
    "celesta",
    "cello",
    "dark",
    "fast",
    "for",
    "high",
    "low",
    "music",
    "of",
    "piano",
    "quartet",
    "slow",
    "string",
    "the",
    "with",
]


def save_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """A randomly initialised backbone of width 32 and a codec with a random orthonormal basis of 8 channels."""
    import torch

    from eisbach.backbones import create_backbone
    from eisbach.codecs.bands import BandCodec, SpectrumConfig, band_filters

    generator = torch.Generator().manual_seed(7)
    config = SpectrumConfig(sample_rate=8000, n_fft=512, hop=256, n_bands=16, low_hz=80.0, high_hz=3600.0)
    stack = 16
    width = stack * config.n_bands
    basis = torch.linalg.qr(torch.randn(width, 8, generator=generator)).Q.T.contiguous()
    filters = band_filters(config)
    synthesis = filters.T / filters.sum(dim=1).clamp_min(1e-6)
    codec = BandCodec(torch.full((width,), -40.0), basis, torch.full((8,), 40.0), synthesis, stack=stack, config=config)
    codec_path = folder / "codec.safetensors"
    codec.save(codec_path)
    values = {
        "latent_channels": 8,
        "latent_rate": codec.latent_rate,
        "codec": str(codec_path),
        "width": 32,
        "depth": 1,
        "heads": 2,
        "memory_tokens": 2,
        "text_width": 16,
        "max_words": 12,
        "vocabulary": WORDS,
    }
    create_backbone(values, seed=seed).save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random backbone whose codec lies beside it."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Path]:
    """`save_tiny_model(folder, seed=0)`, for tests that need another model."""
    return save_tiny_model


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """`free_port()`: a port that nobody listens at, nor anybody takes before it is used.

    A port that the system picks is one that it may give to another process in the next moment. These lie below the ones
    that it gives, and every worker of the suite looks among its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = iter(range(20_000 + 100 * (worker % 100), 20_100 + 100 * (worker % 100)))

    def find() -> int:
        for port in ports:
            with socket.socket() as candidate, contextlib.suppress(OSError):
                candidate.bind(("127.0.0.1", port))
                return port
        raise RuntimeError("no port is free")

    return find


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Sums round differently from one number of threads to another, and spectrogram inversion makes that audible: what
    is compared byte for byte across processes must be made with the same number. Workers of the suite share the cores
    anyway.
    """
    import torch

    torch.set_num_threads(1)
