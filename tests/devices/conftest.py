"""What the commands of these tests compute with: clips, and a tiny model of digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import create_backbone
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.types import Waveform


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six stereo clips of a second and a half, one of them held out."""
    root, rng, rows = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for index in range(6):
        time = np.arange(round(1.5 * 44100)) / 44100
        tone = np.sin(2 * np.pi * 110 * (index + 2) * time) * np.linspace(0.1, 0.5, len(time))
        samples = (np.stack([tone, tone]) + 0.02 * rng.standard_normal((2, len(time)))).astype(np.float32)
        write_audio(root / f"{index}.wav", Waveform(samples, 44100))
        labels = {"flat": "true" if index % 2 else "false"}
        content, split = audio_hash(root / f"{index}.wav"), "held_out" if index == 5 else "train"
        caption = ("slow strings", "celesta")[index % 2]
        rows.append(ManifestRow(str(index), f"{index}.wav", caption, 1.5, labels, content, split))
    save_manifest(Manifest(rows, root))
    return root


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of digits."""
    values = {"latent_channels": 1, "latent_size": 8, "classes": 10, "width": 16, "depth": 1, "heads": 2}
    backbone = create_backbone(values, kind="dit")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # off its starting point, where all classes are one
        for parameter in backbone.module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("digits") / "model"
    backbone.save(folder)
    return folder
