"""A small classifier of digits: its penultimate layer is the feature space in which generated digits are judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eisbach.config import check_values
from eisbach.data.images import ImageSet, to_unit_range
from eisbach.errors import UserError
from eisbach.files import read_json, write_json
from eisbach.tensor_files import copy_named, read_tensors, write_tensors

_FEATURES = 32
_EPOCHS, _BATCH, _RATE = 20, 64, 2e-3
_WEIGHTS, _FACTS = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class _Facts:
    """What is read of `classifier.json`."""

    classes: tuple[str, ...]
    accuracy: float


class DigitNet(nn.Module):
    """Two convolutions, a hidden layer of `_FEATURES`, and the classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.hidden, self.head = nn.Linear(32 * 16, _FEATURES), nn.Linear(_FEATURES, classes)

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden layer [shape=(B, _FEATURES)] before its nonlinearity, spatial features [shape=(B, 7 * 16)]) of images
        [shape=(B, 1, 8, 8)].

        The spatial ones are 7 channels at 4x4, as sFID takes 7 channels at 17x17 of Inception.
        """
        x = torch.relu(self.second(torch.relu(self.first(images))))
        x = nn.functional.max_pool2d(x, 2)
        return self.hidden(x.flatten(1)), x[:, :7].flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [shape=(B, classes)]."""
        return self.head(torch.relu(self.features(images)[0]))


@dataclass(frozen=True)
class DigitClassifier:
    """`FeatureNetwork` of digits.

    Attributes
    ----------
    net : DigitNet
    classes : tuple of str
    accuracy : float in [0, 1]
        On held-out digits, which it was not trained on.
    """

    net: DigitNet
    classes: tuple[str, ...]
    accuracy: float
    name: str = "digits"

    def identity(self) -> str:
        """The name and 16 digits of a hash of the weights: statistics of another network are refused by it."""
        digest = hashlib.sha256()
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features, spatial features and logits of images [shape=(B, 8, 8, 1), uint8].

        Raises
        ------
        UserError
            Images of another size.
        """
        if images.shape[1:] != (8, 8, 1):
            raise UserError(
                f"the digits classifier reads grey images of 8x8 pixels; {images.shape[2]}x{images.shape[1]} in "
                f"{images.shape[3]} channels arrived: use the features inception for other images."
            )
        values = torch.from_numpy(to_unit_range(images)).to(self.net.head.weight.device)
        pooled, spatial = self.net.features(values)
        logits = self.net.head(torch.relu(pooled))
        parts = (("pooled", pooled), ("spatial", spatial), ("logits", logits))
        return {key: part.cpu().numpy() for key, part in parts}

    def save(self, folder: str | Path) -> None:
        """Writes `classifier.safetensors` and `classifier.json`."""
        write_tensors(Path(folder) / _WEIGHTS, self.net.state_dict())
        facts = {"classes": list(self.classes), "accuracy": self.accuracy, "identity": self.identity()}
        write_json(Path(folder) / _FACTS, facts)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> DigitClassifier:
        """The classifier saved in `folder`, on a device; `CheckpointError` where the files do not fit."""
        file = Path(folder) / _FACTS
        facts = check_values(
            _Facts, read_json(file, "classifier's description"), f"the classifier's description {file}"
        )
        net = DigitNet(len(facts.classes))
        copy_named(net.state_dict(), read_tensors(Path(folder) / _WEIGHTS), Path(folder) / _WEIGHTS)
        return cls(net.to(device).eval(), facts.classes, facts.accuracy)


def pixels_and_labels(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """(pixels [shape=(N, 8, 8, 1), uint8], class numbers [shape=(N,)])."""
    pixels = np.stack([item.read(None, 1, "none") for item in images.items])
    return pixels, np.array([images.classes.index(item.label) for item in images.items])


def train_classifier(train: ImageSet, held_out: ImageSet, seed: int = 0) -> DigitClassifier:
    """A classifier trained on `train` for a fixed number of epochs; its accuracy is on `held_out`. A few seconds.

    Raises
    ------
    UserError
        Fewer than two classes.
    """
    if len(train.classes) < 2:
        raise UserError("a classifier needs at least two classes; the images have fewer.")
    pixels, labels = pixels_and_labels(train)
    values, wanted = torch.from_numpy(to_unit_range(pixels)), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitNet(len(train.classes))
    optimiser = torch.optim.Adam(net.parameters(), lr=_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(values), generator=generator).split(_BATCH):
            loss = nn.functional.cross_entropy(net(values[chosen]), wanted[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()
    pixels, labels = pixels_and_labels(held_out)
    with torch.no_grad():
        predicted = net(torch.from_numpy(to_unit_range(pixels))).argmax(1).numpy()
    return DigitClassifier(net, train.classes, float((predicted == labels).mean()))
