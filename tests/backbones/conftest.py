"""Tiny randomly initialised parts of diffusers' pipelines, and clips to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import write_clips


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., Any]:
    """`tiny_tokenizer(model_max_length, padding_side)`: a tokenizer of a few words, each caption ended by a mark."""

    def make(model_max_length: int, padding_side: str = "right") -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = (
            "<pad> </s> <unk> slow strings and bassoon celesta # Instruction Caption Metas Lyric en duration seconds "
            "1 2"
        )
        vocabulary = {word: index for index, word in enumerate(words.split())}
        tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=model_max_length,
            padding_side=padding_side,
        )

    return make


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Folder with the manifest of four stereo clips of two seconds at 160 Hz."""
    return write_clips(tmp_path / "clips", 2.0, 8000)


def oobleck(channels: int, seed: int = 0) -> Any:
    """A stereo autoencoder at 160 Hz with 8 samples a frame, so that the 30 s that are the least to generate are 600
    frames."""
    import torch
    from diffusers import AutoencoderOobleck

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderOobleck(
            encoder_hidden_size=2 * channels,
            downsampling_ratios=[2, 4],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=channels,
            audio_channels=2,
            sampling_rate=160,
        )
        for name, parameter in model.named_parameters():
            if "alpha" in name or "beta" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_oobleck() -> Callable[..., Any]:
    """`tiny_oobleck(channels, seed=0)`."""
    return oobleck
