import re

import pytest
import torch

from eisbach.weighting import build_weighting


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("plain_pytorch")


def test_it_runs_as_it_stands(run_example):
    printed = run_example("plain_pytorch", "--steps", "12", "--batch-size", "8")
    assert len(re.findall(r"^step +\d+ +weighted loss \d", printed, re.M)) == 2
    share, of = map(int, re.search(r"effort on developing clips: (\d+)% \(they are (\d+)%", printed).groups())
    assert of == 50
    assert share > 60  # what develops got more than its share, and nobody told the weighting which it was


def test_without_a_weighting_every_clip_counts_alike(example, capsys):
    _, history = example.train(example.parse(["--steps", "2", "--sample", "none", "--noise-level", "none"]))
    assert all(float(entry["ess"]) == 16 for entry in history)
    assert "effort on developing clips: 50%" in capsys.readouterr().out


def gradients_of_one_step(example, weighting, parts):
    """Parameters' gradients after `step`, taken before the optimiser moves anything, and what was drawn."""
    torch.manual_seed(3)
    network = example.Network().double()
    x0, mask, _ = example.make_clips(8, torch.Generator().manual_seed(1))
    x0 = x0.double()
    seen = {}

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            seen["gradients"] = [p.grad.clone() for p in network.parameters()]

    micro = list(zip(x0.split(parts), mask.split(parts), strict=True))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    t = torch.rand(len(x0), generator=generator, dtype=torch.float64)
    place = [0]  # the same noise and levels however the batch is cut

    def randn(shape, generator=None):
        return noise[place[0] : place[0] + shape[0]]

    def rand(count, generator=None):
        first, place[0] = place[0], place[0] + count
        return t[first : first + count]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example.torch, "randn", randn)
        patch.setattr(example.torch, "rand", rand)
        patch.setattr(example.nn.utils, "clip_grad_norm_", lambda *_: None)
        result = example.step(network, weighting, Recorder(network.parameters(), lr=1.0), micro, generator)
    assert place == [8]
    return network, seen["gradients"], result, (x0, mask, noise, t)


def by_hand(network, drawn, strength, weighted=True):
    """Loss and gradients written out: mean over the batch of n(t) ((1 - s) + s w) times the masked squared error."""
    x0, mask, noise, t = drawn
    x_t = x0 * (1 - t[:, None, None]) + noise * t[:, None, None]
    output = network(x_t, t)
    valid = mask[:, None].double()
    losses = ((output - (noise - x0)) ** 2 * valid).sum((1, 2)) / (mask.sum(1) * output.shape[1])
    w = build_weighting("development_barrier", window_frames=16).sample(
        output, x_t=x_t, t=t, path="linear", target="u", mask=mask
    )
    min_snr = torch.minimum((1 - t) ** 2, 5 * t**2)  # Min-SNR-5 on the linear path's u
    factors = min_snr * ((1 - strength) + strength * w.weight.double()) if weighted else torch.ones_like(t)
    loss = (factors.detach() * losses).mean()
    return loss.detach(), torch.autograd.grad(loss, list(network.parameters()))


@pytest.mark.parametrize("parts", [8, 4, 3])
def test_accumulated_gradients_are_those_of_one_batch_written_by_hand(example, parts):
    weighting = build_weighting("development_barrier", "min_snr", strength=0.7, window_frames=16)
    network, gradients, result, drawn = gradients_of_one_step(example, weighting, parts)
    loss, expected = by_hand(network, drawn, 0.7)
    torch.testing.assert_close(result["loss"].double(), loss, rtol=1e-6, atol=0)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)
    _, plain = by_hand(network, drawn, 0.7, weighted=False)
    a, b = (torch.cat([g.flatten() for g in many]) for many in (gradients, plain))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.999  # the direction itself is another
