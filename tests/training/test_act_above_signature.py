"""`act_above` from a measured signature: our writer's file, curves drawn by hand, resumption, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eisbach import build_weighting
from eisbach.diagnostics.signature.statistic import statistic_signature
from eisbach.diffusion.paths import get_path
from eisbach.errors import ConfigError, UserError
from eisbach.training import loop

LOG_2 = 0.6931471805599453


def signature(file: Path, entropy: list[float], t: list[float], path: str = "linear") -> Path:
    """A signature of two equal classes; `entropy` as a share of the prior's."""
    content = {
        "format": "eisbach-signature-curve", "version": 1, "path": path, "prior_entropy": LOG_2, "t": t,
        "entropy": [LOG_2 * share for share in entropy],
    }  # fmt: skip
    file.write_text(json.dumps(content))
    return file


def weighting(act_above) -> dict:
    return {"sample": "entropy_barrier", "strength": 1.0, "memory": {"below": 0.7}, "act_above": act_above}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.75), (0.25, 0.875), (0.9, 0.36), (None, 0.75)])
def test_the_level_is_where_the_share_of_the_entropy_is_gone(tmp_path, configure, share, expected):
    """Entropy 1 at t = 1, half at .75, a tenth at .36: straight lines between."""
    file = signature(tmp_path / "flat.json", [1.0, 0.5, 0.1, 0.0], [1.0, 0.75, 0.36, 0.0])
    asked = {"curve": str(file)} | ({} if share is None else {"share": share})
    written = configure("run", weighting=weighting(asked)).weighting.options["act_above"]
    assert written["t"] == pytest.approx(expected)
    assert (written["curve"], written["share"]) == (str(file), share or 0.5)
    assert written["log_snr"] == pytest.approx(2 * math.log((1 - expected) / expected))
    built = build_weighting("entropy_barrier", memory={"below": 0.7}, act_above=asked, path="linear")
    by_hand = build_weighting("entropy_barrier", memory={"below": 0.7}, act_above=expected)
    levels = torch.linspace(0.01, 0.99, 99)
    assert torch.equal(built.gate(levels), by_hand.gate(levels))


def test_a_curve_of_our_own_writer_gives_its_half_time(tmp_path, configure):
    """Beliefs tell the label below t = .6 and are noise above."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for clip, level in itertools.product(range(40), (0.2, 0.4, 0.5, 0.7, 0.9)):
        signal = (6.0 * (clip % 2) - 3) * (level < 0.6)
        belief = float(torch.sigmoid(signal + torch.randn((), generator=generator)))
        rows.append({"clip": f"clip {clip}", "t": level, "label.flat": str(clip % 2), "belief": belief})
    curve = statistic_signature(rows)
    curve.save(tmp_path / "flat.json")
    written = configure("run", weighting=weighting({"curve": str(tmp_path / "flat.json")})).weighting
    assert written.options["act_above"]["t"] == pytest.approx(curve.half.t)
    assert 0.5 < curve.half.t < 0.7


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_goes_on_at_the_level_it_was_started_with(tmp_path, configure, elsewhere):
    """The file is gone when a run is continued from its own configuration, or lies elsewhere; another level is another
    weighting."""
    file = signature(tmp_path / "flat.json", [1.0, 0.5, 0.0], [1.0, 0.6, 0.0])

    def run(out: str, act_above):
        return configure(out, weighting=weighting(act_above), checkpoint={"every": 3, "keep": 9})

    from_file, by_hand = run("file", {"curve": str(file)}), run("hand", 0.6)
    folders = [loop.train(config, quiet=True) for config in (from_file, by_hand)]
    adapters = [load_file(folder / "checkpoints" / "step-000006" / "adapter_model.safetensors") for folder in folders]
    assert all(torch.equal(value, adapters[1][key]) for key, value in adapters[0].items())
    shutil.rmtree(folders[0] / "checkpoints" / "step-000006")
    (folders[0] / "result.json").unlink()
    signature(file, [1.0, 0.5, 0.0], [1.0, 0.3, 0.0])
    with pytest.raises(ConfigError, match=r"act_above"):
        loop.train(run("file", {"curve": str(file)}), quiet=True)
    moved = signature(tmp_path / "moved.json", [1.0, 0.5, 0.0], [1.0, 0.6, 0.0])
    file.unlink()
    loop.train(run("file", {"curve": str(moved)}) if elsewhere else from_file, quiet=True)
    resumed = load_file(folders[0] / "checkpoints" / "step-000006" / "adapter_model.safetensors")
    assert all(torch.equal(value, adapters[0][key]) for key, value in resumed.items())


def test_what_is_no_level_and_no_signature_is_refused(tmp_path, configure):
    half = signature(tmp_path / "half.json", [1.0, 0.6], [1.0, 0.1])
    (tmp_path / "other.json").write_text('{"format": "eisbach-entropic-curve", "version": 1}')
    for wrong, said in (
        ({"curve": str(half)}, "never falls to the 50%"),
        ({"curve": str(half), "share": 1}, "share must be a number above 0 and below 1"),
        ({"curve": str(half), "part": 0.5}, "must be a noise level t in"),
        ({"curve": str(tmp_path / "other.json")}, "is no measured signature"),
        ({"curve": str(tmp_path / "absent.json")}, "absent.json"),
        ({"curve": str(half), "t": 2.0}, r"act_above must be a noise level t in \[0, 1\]; got 2.0"),
        ({"curve": str(half), "t": 0.5, "log_snr": "low"}, "log_snr must be a number"),
        (2, r"act_above must be a noise level t in \[0, 1\]; got 2"),
        ("0.7", r"act_above must be a noise level t in \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=said):
            configure("run", weighting=weighting(wrong))
    vp = signature(tmp_path / "vp.json", [1.0, 0.4], [1.0, 0.1], path="vp")
    said = r"measured on another path: its t = 0\.25 is a log-SNR"
    for path in ("linear", get_path("vp", beta_max=12.0)):
        with pytest.raises(UserError, match=said):
            build_weighting("entropy_barrier", memory={"below": 0.7}, act_above={"curve": str(vp)}, path=path)
    build_weighting("entropy_barrier", memory={"below": 0.7}, act_above={"curve": str(vp)}, path="vp")
    with pytest.raises(UserError, match=said):
        loop.train(configure("run", weighting=weighting({"curve": str(vp)})), quiet=True)
