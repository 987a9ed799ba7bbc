"""The objective of Stability's trainer, written out frame by frame, against one step of ours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach.backbones import load_backbone
from eisbach.config import build_config
from eisbach.diffusion.noise_levels import get_density
from eisbach.diffusion.paths import get_path
from eisbach.errors import ConfigError
from eisbach.training.assembly import build_objective
from eisbach.training.config import TrainConfig
from eisbach.training.noising import (
    InpaintingMasks,
    extend_into_silence,
    pad_with_silence,
    step_generator,
    valid_frames,
)
from eisbach.training.step import Objective, micro_step, predict_batch
from eisbach.types import Conditioning, LatentBatch
from eisbach.weighting import build_weighting

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
RATE, CHANNELS, LENGTH = 8.0, 3, 12


def null(conditioning: Conditioning) -> Conditioning:
    return Conditioning(torch.zeros_like(conditioning.tokens), conditioning.global_embed)


def objective(**changes: Any) -> Objective:
    values: dict[str, Any] = {
        "path": get_path("linear"),
        "target": "u",
        "density": get_density("trunc_logit_normal"),
        "weighting": build_weighting("none"),
        "condition_dropout": 0.5,
        "null_condition": null,
        "latent_rate": RATE,
    }
    return Objective(**{**values, **changes})


def batch(frames: list[int], length: int = LENGTH) -> tuple[LatentBatch, Conditioning]:
    count = len(frames)
    latents = torch.randn(count, CHANNELS, length, generator=torch.Generator().manual_seed(5))
    mask = torch.arange(length) < torch.tensor(frames)[:, None]
    made = LatentBatch(
        latents,
        [str(index) for index in range(count)],
        ["x"] * count,
        torch.tensor(frames).float() / RATE,
        None if bool(mask.all()) else mask,
    )
    return made, Conditioning(torch.ones(count, 2, 4), torch.arange(float(count))[:, None])


class Recording:
    """A fixed function of its input that keeps what it was given."""

    def __init__(self) -> None:
        self.x_t = self.t = self.tokens = torch.empty(0)
        self.inpainting: torch.Tensor | None = None

    def __call__(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *inpainting: torch.Tensor
    ) -> Any:
        self.x_t, self.t, self.tokens = x_t, t, conditioning.tokens
        self.inpainting = inpainting[0] if inpainting else None
        return 0.3 * x_t


def run(made: tuple[LatentBatch, Conditioning], seed: int = 3, **changes: Any) -> tuple[Recording, Any]:
    predict = Recording()
    return predict, predict_batch(predict, objective(**changes), *made, step_generator(seed))


def test_the_loss_is_that_over_what_is_made_plus_that_over_what_is_shown() -> None:
    made = batch([12, 7, 12, 9, 12, 4])
    masks = InpaintingMasks(0.4, 0.2, 0.4, context_weight=0.5)
    predict, prediction = run(made, inpainting=masks)
    condition = predict.inpainting
    assert condition is not None
    x0, mask = made[0].latents, made[0].mask
    assert mask is not None
    kinds = set()
    for row in range(6):
        error = (0.3 * predict.x_t[row] - (prediction.sample.noise[row] - x0[row])).square()
        sums = {True: [0.0, 0], False: [0.0, 0]}  # known or not: sum, number
        for frame in range(LENGTH):
            known = bool(condition[row, 0, frame])
            shown = x0[row, :, frame] if known else torch.zeros(CHANNELS)
            assert torch.equal(condition[row, 1:, frame], shown)
            if mask[row, frame]:
                sums[known][0] += float(error[:, frame].sum())
                sums[known][1] += CHANNELS
            else:
                assert not known  # padding is never given as context
        kinds.add((sums[True][1] > 0, sums[False][1] > 0))
        expected = sums[False][0] / max(1, sums[False][1]) + 0.5 * sums[True][0] / max(1, sums[True][1])
        assert float(prediction.losses[row].detach()) == pytest.approx(expected, rel=1e-5)
    assert kinds >= {(False, True), (True, True)}  # plain rows and shown rows were both met


@pytest.mark.parametrize(
    "option",
    [
        {"inpainting": InpaintingMasks()},
        {"silence_extension": 4.0},
        {"inpainting": InpaintingMasks(0.5, 0, 0.5), "silence_extension": 4.0},
        {"weighting": build_weighting("entropy_barrier")},
    ],
)
def test_an_option_leaves_noise_levels_noise_and_dropped_captions_alone(option: dict[str, Any]) -> None:
    plain, _ = run(batch([12, 7, 12, 9]))
    changed, _ = run(batch([12, 7, 12, 9]), **option)
    for name in ("x_t", "t", "tokens"):
        assert torch.equal(getattr(plain, name), getattr(changed, name)), name


def test_plain_objectives_are_given_no_inpainting_condition() -> None:
    predict, _ = run(batch([12, 12]))
    assert predict.inpainting is None


def test_transport_exchanges_the_noise_of_a_batch_and_nothing_else() -> None:
    plain, before = run(batch([12, 12, 12, 12]))
    paired, after = run(batch([12, 12, 12, 12]), pairing="optimal_transport")
    assert torch.equal(plain.t, paired.t)
    assert torch.equal(plain.tokens, paired.tokens)
    first, second = (sorted(p.sample.noise.flatten(1).tolist()) for p in (before, after))
    assert first == second
    distance = [float((p.sample.noise - p.sample.x0).square().sum()) for p in (before, after)]
    assert distance[1] < distance[0]
    one = [run(batch([12]), pairing=pairing)[0].x_t for pairing in ("independent", "optimal_transport")]
    assert torch.equal(*one)


def test_noise_levels_are_shifted_by_each_row_s_own_length() -> None:
    """t' = a t / (1 + (a - 1) t) with a of the valid frames, as Stability's trainer takes it from seconds_total."""
    long, short = run(batch([2000, 2000], 2000))[0].t, run(batch([2000, 400], 2000))[0].t

    def factor(frames: int) -> float:
        return math.exp(0.5 + 0.65 * (frames - 256) / 3840)

    assert torch.equal(long[0], short[0])
    plain = long[1] / (factor(2000) - (factor(2000) - 1) * long[1])
    expected = factor(400) * plain / (1 + (factor(400) - 1) * plain)
    assert float(short[1]) == pytest.approx(float(expected), rel=1e-5)


def test_lengths_come_from_durations_or_from_the_mask() -> None:
    made, _ = batch([12, 7, 1, 9])
    assert valid_frames(made, RATE).tolist() == valid_frames(made, None).tolist() == [12, 7, 1, 9]
    assert valid_frames(batch([12, 12])[0], RATE).tolist() == [12, 12]


def test_silence_counts_for_an_exponential_while() -> None:
    generator = torch.Generator().manual_seed(0)
    extra = extend_into_silence(torch.full((20000,), 5), 10**6, 8.0, generator) - 5
    assert int(extra.min()) == 0
    # floor of an exponential is geometric: mean 1 / (e^(1/8) - 1)
    assert float(extra.double().mean()) == pytest.approx(1 / math.expm1(1 / 8), abs=0.3)
    assert int(extend_into_silence(torch.tensor([5, 9]), 9, 1e9, generator).max()) == 9


def test_the_extension_is_in_the_loss_and_not_in_the_belief() -> None:
    made = batch([12, 4, 6, 5])
    weighting = build_weighting("entropy_barrier", strength=1.0, latent_rate=RATE)
    steps = [
        micro_step(Recording(), objective(weighting=weighting, silence_extension=mean), *made, step_generator(3))
        for mean in (0.0, 1e9)
    ]
    terms = [step.partial.terms for step in steps]
    assert torch.equal(terms[0].belief, terms[1].belief)
    assert terms[0].per_sample[0] == terms[1].per_sample[0]
    assert (terms[0].per_sample[1:] != terms[1].per_sample[1:]).all()
    predict, prediction = run(made, silence_extension=1e9)
    error = (0.3 * predict.x_t - prediction.sample.target).square().mean(dim=(1, 2))
    assert torch.allclose(terms[1].per_sample, error)


class Sink:
    """A stand-in for a dataset: what `pad_with_silence` reads and writes."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache


def test_padding_becomes_the_codec_s_silence() -> None:
    from eisbach.backbones import load_codec_of
    from eisbach.data.latents import LatentCache
    from eisbach.types import SkipReport

    codec = load_codec_of(load_backbone(NATIVE))
    cache = LatentCache((), codec.channels, codec.latent_rate, SkipReport())
    given = Sink(cache)
    pad_with_silence([given], codec)  # type: ignore[list-item]
    silence = given.cache.silence
    assert silence.shape[0] == codec.channels
    assert silence.shape[1] == 256
    (loud,) = codec.decode(silence)
    assert loud.samples.shape[-1] == 256 * codec.samples_per_frame
    kept = Sink(given.cache)
    pad_with_silence([kept], codec)  # type: ignore[list-item]
    assert kept.cache is given.cache


def configuration(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, {"model": str(NATIVE), "data": {"manifest": "m"}, **changes}, "test")


def test_the_model_s_own_density_and_the_options_reach_the_objective() -> None:
    config = configuration(
        objective={"inpainting": True, "pairing": "optimal_transport", "silence_extension": 4}, condition_dropout=0.2
    )
    built = build_objective(config, load_backbone(NATIVE))
    assert type(built.density) is type(get_density("trunc_logit_normal"))
    assert (built.inpainting, built.pairing) == (InpaintingMasks(), "optimal_transport")
    assert built.silence_extension == pytest.approx(4 * 44100 / 256)
    assert built.condition_dropout == 0.2
    assert build_objective(configuration(), load_backbone(NATIVE)).inpainting is None


def test_the_network_reads_the_condition_and_dropout_keeps_the_duration() -> None:
    backbone = load_backbone(NATIVE)
    config = configuration(objective={"inpainting": {"segments": 0, "full": 0, "causal": 1}}, condition_dropout=1.0)
    latents = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(0))
    seconds = torch.full((2,), 20 * 256 / 44100)
    made = LatentBatch(latents, ["a", "b"], ["celesta", "slow strings"], seconds)
    conditioning = backbone.condition(made.captions, seconds.tolist())
    seen: list[tuple[Any, ...]] = []

    def predict(*args: Any) -> torch.Tensor:
        seen.append(args)
        return backbone.predict(*args)

    with torch.no_grad():
        shown = predict_batch(predict, build_objective(config, backbone), made, conditioning, step_generator(0))
        x_t, t, dropped, condition = seen[0]
        plain = backbone.predict(x_t, t, dropped)
    assert condition[:, 0].any()
    assert float((shown.output - plain).abs().max()) > 1e-3
    assert torch.equal(dropped.global_embed[:, 0], seconds)  # the global duration stays
    assert not dropped.global_embed[:, 1].any()
    assert not dropped.tokens.any()


def test_mistakes_are_named(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"segments, full and causal must sum to 1; they sum to 1\.1"):
        configuration(objective={"inpainting": {"segments": 0.2}})
    with pytest.raises(ConfigError, match=r"objective\.pairing"):
        configuration(objective={"pairing": "sinkhorn"})
    config = configuration(model=str(tiny_model), objective={"inpainting": True})
    with pytest.raises(ConfigError, match=r"objective\.inpainting is set and the model .* has no inpainting condition"):
        build_objective(config, load_backbone(tiny_model))
    assert configuration(objective={"inpainting": False}).objective.inpainting is None
