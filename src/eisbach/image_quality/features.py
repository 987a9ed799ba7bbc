"""Feature networks: what turns images into the vectors that quality is measured on. One function and one line in a
table each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eisbach.errors import UserError

if TYPE_CHECKING:
    import torch

_BATCH = 50  # ADM's


class FeatureNetwork(Protocol):
    """Images to vectors, deterministic."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def identity(self) -> str:
        """The name and a hash of the weights: only features of one network can be compared."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """For images [shape=(B, H, W, 1 or 3), uint8]: `pooled` (B, d) for FID, precision and recall, `spatial` (B, e)
        for sFID, and `logits` (B, classes) for IS; a network may lack the last two.
        """
        ...


class InceptionFeatures:
    """FID's Inception (Szegedy et al. 2016, TensorFlow's graph of 2015-12-05) through torch-fidelity, with weights from
    a file.

    `pooled` are the 2048 pooled features, `spatial` the first 7 channels of the first branch of the 17x17 block
    "mixed_6" in the order (row, column, channel), `logits` those without bias: as in ADM's evaluation. Nothing is
    downloaded and nothing is unpickled.

    Parameters
    ----------
    weights : path
        A safetensors file with the tensors of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.
    device : torch.device

    Raises
    ------
    UserError
        torch-fidelity is not installed, or the file is missing or does not fit.
    """

    name = "inception"

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self._identity = f"{self.name}-{_file_hash(weights)}"
        self._device = device
        self._net: Any = _inception(weights).to(device)
        self._spatial: list[torch.Tensor] = []
        self._net.Mixed_6d.branch1x1.register_forward_hook(
            lambda _module, _inputs, output: self._spatial.append(output)
        )

    def identity(self) -> str:
        """The name and 16 digits of the weight file's hash."""
        return self._identity

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of images of any size [shape=(B, H, W, 1 or 3), uint8]; grey is repeated into three channels."""
        import torch

        colour = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
        parts: dict[str, list[np.ndarray]] = {"pooled": [], "spatial": [], "logits": []}
        with torch.no_grad():
            for start in range(0, len(colour), _BATCH):
                self._spatial.clear()
                batch = torch.from_numpy(np.ascontiguousarray(colour[start : start + _BATCH])).permute(0, 3, 1, 2)
                pooled, logits = self._net(batch.to(self._device))
                parts["pooled"].append(pooled.cpu().numpy())
                parts["logits"].append(logits.cpu().numpy())
                parts["spatial"].append(self._spatial[0][:, :7].permute(0, 2, 3, 1).flatten(1).cpu().numpy())
        return {key: np.concatenate(value) for key, value in parts.items()}


def _file_hash(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(
            f"the Inception weights {path} cannot be read ({error.strerror or error}); they are not downloaded: fetch "
            "torch-fidelity's weights-inception-2015-12-05-6726825d.pth once and save its tensors as safetensors "
            "(docs/image-quality.md)."
        ) from error


def _inception(weights: str | Path) -> Any:
    from eisbach.tensor_files import read_tensors

    try:
        import torch_fidelity.feature_extractor_inceptionv3 as library
    except ImportError as error:
        raise UserError(
            "the features inception need torch-fidelity, which is not installed: pip install torch-fidelity "
            "torchvision."
        ) from error
    tensors = read_tensors(Path(weights))
    # The class knows two sources of weights only, a download and a pickle; it is given the tensors in the place of the
    # first.
    original = library.load_state_dict_from_url
    library.load_state_dict_from_url = lambda *_args, **_options: tensors
    try:
        return library.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"])
    except RuntimeError as error:  # torch names the keys that do not fit
        raise UserError(
            f"{weights} does not hold Inception's weights ({' '.join(str(error).split())[:120]}…)."
        ) from error
    finally:
        library.load_state_dict_from_url = original


def _load_inception(weights: str | Path | None, device: torch.device | str) -> FeatureNetwork:
    if weights is None:
        raise UserError(
            "the features inception need their weights: name a safetensors file of them with --weights "
            "(docs/image-quality.md says where they come from)."
        )
    return InceptionFeatures(weights, device)


def _load_digits(weights: str | Path | None, device: torch.device | str) -> FeatureNetwork:
    from eisbach.image_quality.digits_classifier import DigitClassifier

    if weights is None:
        raise UserError(
            "the features digits need a classifier; name its folder with --weights, such as the one that "
            "`eisbach study run erd_digits` saves."
        )
    return DigitClassifier.load(weights, device)


FEATURE_NETWORKS: dict[str, Callable[[str | Path | None, torch.device | str], FeatureNetwork]] = {
    "inception": _load_inception,
    "digits": _load_digits,
}
"""Name to what loads it from its weights."""


def load_features(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """A feature network by name, on a device.

    Raises
    ------
    UserError
        Unknown name, or weights that are missing or do not fit.
    """
    if name not in FEATURE_NETWORKS:
        raise UserError(f"the features {name!r} are not known; choose one of {', '.join(FEATURE_NETWORKS)}.")
    return FEATURE_NETWORKS[name](weights, device)
