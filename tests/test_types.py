from __future__ import annotations

import numpy as np
import pytest
import torch

from eisbach.types import Conditioning, Skipped, SkipReport, Waveform


def test_waveform_length_and_channels() -> None:
    wave = Waveform(np.zeros((6, 4800), np.float32), 192000)
    assert (wave.duration, wave.channels) == (0.025, 6)


@pytest.mark.parametrize("with_mask", [True, False])
def test_conditioning_of_float_tokens(with_mask: bool) -> None:
    mask = torch.tensor([[True, False], [True, True]]) if with_mask else None
    mine = Conditioning(torch.ones(2, 2, 3), torch.ones(2, 4), mask)
    other = Conditioning(torch.zeros(2, 2, 3), torch.zeros(2, 4), None if mask is None else ~mask)
    mixed = mine.replace_rows(torch.tensor([True, False]), other)
    assert mixed.tokens.sum(dim=(1, 2)).tolist() == [0.0, 6.0]
    assert mixed.global_embed.sum(dim=1).tolist() == [0.0, 4.0]
    half = mixed.to(dtype=torch.float16)
    assert half.tokens.dtype == half.global_embed.dtype == torch.float16
    if mask is None:
        assert mixed.token_mask is None
        assert half.select(slice(1)).token_mask is None
    else:
        assert mixed.token_mask is not None
        assert mixed.token_mask.tolist() == [[False, True], [True, True]]


def test_skips_are_collected_in_order() -> None:
    report = SkipReport()
    report.add("a.wav", "is silent")
    report.add("b.wav", "is silent")
    assert report.skipped == [Skipped("a.wav", "is silent"), Skipped("b.wav", "is silent")]
    assert SkipReport().skipped == []
