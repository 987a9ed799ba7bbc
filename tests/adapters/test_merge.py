from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach import adapters
from eisbach.adapters.export import RECORD, save_merged
from eisbach.backbones import load_backbone
from eisbach.errors import UserError


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_merged_stable_audio_3_plays_as_the_adapter_does(
    native: Path, sa3: Any, play: Any, tmp_path: Path, strength: float
) -> None:
    adapters.attach(sa3, native / "dora-rows.safetensors", strength)
    played = play(sa3)
    adapters.detach(sa3)
    record = save_merged(load_backbone(native), native / "dora-rows.safetensors", tmp_path / "model", strength)
    merged = load_backbone(tmp_path / "model")
    torch.testing.assert_close(play(merged), played, rtol=0, atol=2e-6)
    told = json.loads((tmp_path / "model" / RECORD).read_text())
    assert told == record
    assert told["base_identity"] == sa3.identity()
    assert told["tensors_changed"] == 31
    assert told["merged_identity"] == merged.identity()


def test_the_merged_model_can_be_adapted_again_and_nothing_is_replaced(tiny_model: Path, tmp_path: Path) -> None:
    from eisbach.adapters.formats import peft as peft_format

    model = load_backbone(str(tiny_model))
    stamp = {"base_identity": model.identity()}
    config = adapters.adapter_config(model, kind="lora", rank=1, alpha=1.0)
    for parameter in adapters.inject(model, config).values():
        parameter.data += 0.1
    peft_format.save(tmp_path / "adapter", model.module, config, stamp)
    adapters.remove_layers(model.module)
    record = save_merged(model, tmp_path / "adapter", tmp_path / "merged")
    assert record["stamp"] == stamp
    adapters.inject(model, adapters.adapter_config(model, kind="dora", rank=1, alpha=1.0))
    with pytest.raises(UserError, match="exists already"):
        save_merged(load_backbone(str(tiny_model)), tmp_path / "adapter", tmp_path / "merged")
