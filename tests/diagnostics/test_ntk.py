"""The empirical NTK against explicit Jacobians and against a layer-by-layer closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from eisbach.backbones import create_backbone, tiny
from eisbach.backbones.mlp import TimeMLP, time_embedding
from eisbach.backbones.tiny import TinyMusicBackbone, TinyMusicConfig
from eisbach.diagnostics.ntk import (
    backbone_ntk,
    effective_rank,
    eigenvalues,
    empirical_ntk,
    normalised_gram,
    select_parameters,
    trace_over_outputs,
)
from eisbach.errors import UserError

K = 5
_FOURIER = tiny._fourier


def small() -> TimeMLP:
    return TimeMLP(width=8, depth=2, embedding=6, generator=torch.Generator().manual_seed(1)).double()


def samples(count: int = K, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return x, torch.rand(count, generator=generator, dtype=torch.float64)


def explicit(module: nn.Module, inputs: tuple[Tensor, ...], names: set[str] | None = None) -> Tensor:
    """Rows of J (K, O, P) by plain backward passes over a whole batch of one."""
    chosen = [p for n, p in module.named_parameters() if names is None or n in names]
    rows = []
    for i in range(len(inputs[0])):
        out = module(*[value[i : i + 1] for value in inputs]).flatten()
        rows.append(
            torch.stack(
                [
                    torch.cat(
                        [
                            torch.zeros_like(p).flatten() if g is None else g.flatten()
                            for g, p in zip(
                                torch.autograd.grad(o, chosen, retain_graph=True, allow_unused=True),
                                chosen,
                                strict=True,
                            )
                        ]
                    )
                    for o in out
                ]
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize(("method", "vectorise"), itertools.product(["jacobian", "products"], [True, False]))
def test_kernel_equals_explicit_jacobians(method: str, vectorise: bool) -> None:
    network, inputs, others = small(), samples(), samples(3, seed=1)
    left, right = explicit(network, inputs), explicit(network, others)
    options = {"method": method, "vectorise": vectorise}
    torch.testing.assert_close(
        empirical_ntk(network, inputs, others, **options),
        torch.einsum("iap,jbp->iajb", left, right),
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(
        empirical_ntk(network, inputs, outputs="trace", **options),
        torch.einsum("iap,jap->ij", left, left),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize(("method", "vectorise"), itertools.product(["jacobian", "products"], [True, False]))
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_no_kernel_carries_a_gradient_whichever_parameters_are_chosen(
    method: str, vectorise: bool, other: bool, outputs: str
) -> None:
    network, inputs = small(), samples()
    for parameters in (None, r"layers\.1\..*", ["layers.2.weight"]):
        second = samples(3, seed=1) if other else None
        options = {"parameters": parameters, "method": method, "vectorise": vectorise, "outputs": outputs}
        kernel = empirical_ntk(network, inputs, second, **options)
        assert not kernel.requires_grad
        assert float(kernel.abs().sum()) > 0
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_float32_is_within_1e5_of_float64() -> None:
    network = TimeMLP(generator=torch.Generator().manual_seed(2))
    x, t = samples(8)
    exact = empirical_ntk(network.double(), (x, t))
    single = empirical_ntk(network.float(), (x.float(), t.float()))
    assert float((single.double() - exact).norm() / exact.norm()) < 1e-5


def test_kernel_equals_the_layer_by_layer_closed_form() -> None:
    """For an MLP, Theta = sum over layers of (h h' + 1)(delta . delta'): no Jacobian of any weight is formed."""
    network = small()
    x, t = samples()
    hidden = torch.cat([x, time_embedding(t, 6, network.time_scale)], dim=1)
    inputs, pre = [], []
    for layer in network.layers:
        inputs.append(hidden)
        z = nn.functional.linear(hidden, layer.weight, layer.bias).detach().requires_grad_()
        pre.append(z)
        hidden = nn.functional.silu(z).detach()
    deltas = [torch.eye(2, dtype=torch.float64).expand(K, 2, 2)]  # d out / d z of the readout, (K, O, units)
    for index in range(len(network.layers) - 2, -1, -1):
        z = pre[index]
        slope = torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z)))
        deltas.insert(0, (deltas[0] @ network.layers[index + 1].weight) * slope[:, None])
    theta = sum(
        (h @ h.T + 1)[:, None, :, None] * torch.einsum("iau,jbu->iajb", d, d)
        for h, d in zip(inputs, deltas, strict=True)
    )
    torch.testing.assert_close(empirical_ntk(network, (x, t)), theta.detach(), rtol=1e-10, atol=1e-12)


def test_blocks_and_subsets_are_parts_of_the_whole() -> None:
    network, inputs = small(), samples()
    whole = empirical_ntk(network, inputs)
    torch.testing.assert_close(empirical_ntk(network, inputs, samples_at_once=2), whole)
    torch.testing.assert_close(
        empirical_ntk(network, inputs, samples_at_once=2, outputs="trace"), trace_over_outputs(whole)
    )
    names = {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
    first = empirical_ntk(network, inputs, parameters=r"layers\.[01]\..*")
    jacobian = explicit(network, inputs, names)
    torch.testing.assert_close(first, torch.einsum("iap,jbp->iajb", jacobian, jacobian))
    rest = empirical_ntk(network, inputs, parameters=["layers.2.weight", "layers.2.bias"])
    torch.testing.assert_close(first + rest, whole)


def test_two_noise_levels_make_one_joint_kernel() -> None:
    network = small()
    x, _ = samples()
    low, high = torch.full((K,), 0.1).double(), torch.full((K,), 0.9).double()
    joint = empirical_ntk(network, (x.repeat(2, 1), torch.cat([low, high])))
    torch.testing.assert_close(joint[:K, :, K:], empirical_ntk(network, (x, low), (x, high)))
    assert float(eigenvalues(joint).min()) > -1e-12


def test_random_directions_estimate_the_trace() -> None:
    network, inputs = small(), samples(3)
    generator = torch.Generator().manual_seed(0)
    count = 2000
    signs = torch.randint(0, 2, (count, 2), generator=generator).double() * 2 - 1
    found = empirical_ntk(network, inputs, directions=signs / math.sqrt(count), outputs="trace")
    exact = empirical_ntk(network, inputs, outputs="trace")
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05 * float(exact.diagonal().max()))
    one = empirical_ntk(network, inputs, directions=torch.tensor([[1.0, 0.0]]).double())
    torch.testing.assert_close(one[:, 0, :, 0], empirical_ntk(network, inputs)[:, 0, :, 0])


@pytest.fixture(scope="module")
def backbone() -> Iterator[TinyMusicBackbone]:
    patch = pytest.MonkeyPatch()  # the duration's sines are float32 always; the rest of the network can be float64
    patch.setattr(tiny, "_fourier", lambda seconds, width: _FOURIER(seconds, width).double())
    config = TinyMusicConfig(
        latent_channels=2,
        width=16,
        depth=1,
        heads=2,
        memory_tokens=1,
        text_width=8,
        max_words=3,
        vocabulary=["slow", "harp"],
    )
    found = TinyMusicBackbone(config, seed=3)
    found.module.double().eval()
    with torch.no_grad():  # a fresh transformer's readout is zero, and then so is every other gradient
        for parameter in found.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)).double())
    yield found
    patch.undo()


@pytest.mark.parametrize(("method", "vectorise"), [("jacobian", True), ("jacobian", False), ("products", False)])
def test_music_backbone_with_its_conditioning(backbone: TinyMusicBackbone, method: str, vectorise: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    conditioning = backbone.condition(["slow harp", "harp", ""], [3.0, 7.0, 11.0])
    conditioning = type(conditioning)(conditioning.tokens, conditioning.global_embed.double(), conditioning.token_mask)
    chosen = r"dit\.transformer_blocks\..*self_attn.*|words.*"
    names = set(select_parameters(backbone.module, chosen))
    assert any("words" in name for name in names)
    jacobian = explicit(backbone.module, (x, t, conditioning.tokens, conditioning.global_embed), names)
    expected = torch.einsum("iap,jbp->iajb", jacobian, jacobian)
    found = backbone_ntk(backbone, x, t, conditioning, parameters=chosen, method=method, vectorise=vectorise)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))


IMAGE_NETWORKS = {
    "dit": {"width": 8, "depth": 1, "heads": 2, "patch": 2},
    "uvit": {"width": 8, "depth": 1, "heads": 2, "patch": 2},
    "unet": {"channels": 4, "multipliers": [1, 2], "blocks": 1, "attention": [2], "head_width": 4, "groups": 2},
    "edm2": {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [2],
        "channels_per_head": 8,
    },
}


@pytest.mark.parametrize("kind", IMAGE_NETWORKS)
def test_every_image_network_equals_explicit_jacobians(kind: str) -> None:
    """All parameters, among them EDM2's gains, which are single numbers, and the class embedding."""
    shape = {"latent_channels": 1, "latent_size": 4, "classes": ["a", "b"]}
    found = create_backbone({**IMAGE_NETWORKS[kind], **shape}, kind=kind)
    found.module.eval()
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in found.module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    x, t = torch.randn(2, 1, 4, 4, generator=generator), torch.tensor([0.2, 0.9])
    conditioning = found.condition(["a", ""])
    rows = []
    for index in range(2):
        out = found.predict(x[index : index + 1], t[index : index + 1], conditioning.select(torch.tensor([index])))
        grads = [
            torch.autograd.grad(
                entry, list(found.module.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for entry in out.flatten()
        ]
        rows.append(torch.stack([torch.cat([g.flatten() for g in one]) for one in grads]))
    jacobian = torch.stack(rows)
    expected = torch.einsum("iap,jbp->iajb", jacobian, jacobian)
    kernel = backbone_ntk(found, x, t, conditioning)
    torch.testing.assert_close(kernel, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_conditioning_reaches_the_kernel(backbone: TinyMusicBackbone) -> None:
    x, t = torch.ones(1, 2, 4).double(), torch.tensor([0.5]).double()

    def kernel(caption: str) -> Tensor:
        c = backbone.condition([caption], [5.0])
        c = type(c)(c.tokens, c.global_embed.double(), c.token_mask)
        return backbone_ntk(backbone, x, t, c, outputs="trace")

    assert not torch.allclose(kernel("slow"), kernel("harp"))


def test_the_network_is_left_as_it_was() -> None:
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    empirical_ntk(network, samples())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_eigenvalues_do_not_depend_on_repeating_the_samples() -> None:
    network, (x, t) = small(), samples()
    once = eigenvalues(empirical_ntk(network, (x, t)))
    twice = eigenvalues(empirical_ntk(network, (x.repeat(2, 1), t.repeat(2))))
    torch.testing.assert_close(once, twice[: len(once)], atol=1e-10, rtol=1e-8)
    assert bool((once.diff() <= 1e-12).all())


@pytest.mark.parametrize(
    ("values", "rank"), [([1.0, 0, 0], 1.0), ([2.0, 2, 2], 3.0), ([0.5, 0.25, 0.25], 2**1.5), ([1.0, 1, -1e-18], 2.0)]
)
def test_effective_rank_of_known_spectra(values: list[float], rank: float) -> None:
    assert effective_rank(torch.tensor(values)) == pytest.approx(rank)


def test_effective_rank_of_nothing_is_not_a_number() -> None:
    assert math.isnan(effective_rank(torch.zeros(3)))


def test_normalised_gram_holds_cosines() -> None:
    network, inputs = small(), samples()
    jacobian = explicit(network, inputs).flatten(1)
    expected = nn.functional.cosine_similarity(jacobian[:, None], jacobian[None], dim=2)
    torch.testing.assert_close(normalised_gram(empirical_ntk(network, inputs)), expected.detach())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters": "nothing.*"}, "no parameter of the network"),
        ({"parameters": "("}, "not a regular expression"),
        ({"parameters": ["layers.9.weight"]}, "no parameter 'layers.9.weight'"),
        ({"method": "magic"}, "methods are jacobian and products"),
        ({"outputs": "some"}, "outputs full and trace"),
        ({"samples_at_once": -1}, "1 or more"),
        ({"samples_at_once": 0}, "1 or more"),
    ],
)
def test_impossible_requests_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        empirical_ntk(small(), samples(), **options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, t = samples()
    with pytest.raises(UserError, match="one row a sample"):
        empirical_ntk(small(), (x, t[:2]))
    with pytest.raises(UserError, match="a set with itself"):
        eigenvalues(empirical_ntk(small(), (x, t), samples(3)))
