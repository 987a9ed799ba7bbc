"""Claims of the paper on made-up arrays whose truth is known: each can come out either way."""

from __future__ import annotations

import torch

from eisbach.studies.erd_toy.claims import Claim, judge_claims

TARGETS = ["eps", "x0", "v", "u"]


def arrays(good: bool) -> dict[str, torch.Tensor]:
    """What the paper describes (good), or the opposite of everything."""
    t = torch.linspace(0.05, 0.95, 10)
    rising, falling = 10 ** (3 * t), 10 ** (-3 * t)
    floor = torch.stack([1 - t, t, t, t])
    excess = 0.01 / (0.05 + floor) if good else floor.clone() + 0.1
    if good:
        excess[0, -1] = 5.0
    fall = 1000 * falling
    top = torch.stack([1 + 40 * (t - 0.5).square(), fall, fall, fall]) if good else rising.expand(4, -1)
    if good:  # every mode of eps also falls somewhere by more than a tenth
        top[0] = 0.1 + 40 * (t - 0.5).square()
    signal = torch.stack([t, 1 - t, torch.ones_like(t), torch.ones_like(t)]) + 0.01
    noise = torch.stack([1 - t, t, torch.ones_like(t), torch.ones_like(t)])
    steady = torch.ones(4, 4)
    shrink = torch.tensor([1.0, 0.7, 0.4, 0.1]).expand(4, 4)
    return {
        "global/t": t, "global/floor": floor, "global/excess": excess,
        "piecewise/excess": excess * (0.2 if good else 2.0),
        "phase/signal": signal if good else noise, "phase/noise": noise if good else signal * torch.tensor([[1.0], [1],
        [9], [9]]) ** t,
        "features/spread": shrink if good else steady, "features/separation": shrink if good else steady,
        "ntk/t": t, "ntk/top": top[..., None].expand(-1, -1, 3),
        "ntk/rank": (10 * falling + 1).expand(4, -1) if good else rising.expand(4, -1),
        "ntk_untrained/rank": torch.ones(1, 10),
        "ntk/contrast": torch.tensor([[0.8, 0.05]] * 4) if good else torch.tensor([[0.1, 0.5]] * 4),
        # at t = 0.95 (second) all samples alike, or each alone with a diagonal of ones that must not count
        "ntk/gram": torch.ones(4, 2, 3, 3) if good else torch.eye(3).expand(4, 2, 3, 3),
        "ntk/joint": torch.ones(4, 10, 10) * (0.5 if good else 0.01),
    }  # fmt: skip


def judged(good: bool) -> dict[str, Claim]:
    return {claim.text: claim for claim in judge_claims({"linear": arrays(good)}, TARGETS)}


def test_every_claim_holds_where_the_paper_is_right() -> None:
    assert {text: claim.verdict for text, claim in judged(True).items()} == dict.fromkeys(judged(True), "holds")


def test_no_claim_holds_where_it_is_wrong() -> None:
    wrong = {text: claim.verdict for text, claim in judged(False).items()}
    assert wrong == dict.fromkeys(wrong, "does not hold")


def test_mixed_results_are_counted() -> None:
    claims = judge_claims({"linear": arrays(True), "vp": arrays(False)}, TARGETS)
    piecewise = next(claim for claim in claims if "Piecewise" in claim.text)
    assert (piecewise.holds, piecewise.judged, piecewise.verdict) == (4, 8, "holds in 4 of 8")
    assert set(piecewise.cells) == {f"{path} {target}" for path in ("linear", "vp") for target in TARGETS}
    assert piecewise.to_json()["verdict"] == "holds in 4 of 8"


def test_claims_about_absent_targets_are_left_out() -> None:
    one = {key: value[:1] if value.dim() > 1 and value.shape[0] == 4 else value for key, value in arrays(True).items()}
    claims = judge_claims({"linear": one}, ["eps"])
    assert not any("x0 and u" in claim.text for claim in claims)
    assert any("U-shaped" in claim.text for claim in claims)
