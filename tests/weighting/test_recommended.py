"""One recommended weighting: the library's constant, and whatever else names one."""

import re
from pathlib import Path

import pytest
import torch

from eisbach.config import build_config, read_yaml
from eisbach.errors import UserError
from eisbach.experiments.recipes import demo_spec
from eisbach.experiments.spec import arm_training
from eisbach.training.config import TrainConfig
from eisbach.weighting import RECOMMENDED_WEIGHTING, SAMPLE_WEIGHTINGS, build_weighting

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_no_name_builds_the_constant():
    options = RECOMMENDED_WEIGHTING["options"]
    weighting = build_weighting(latent_rate=10.77)
    assert isinstance(weighting.sample, SAMPLE_WEIGHTINGS[RECOMMENDED_WEIGHTING["sample"]])
    assert (weighting.reduction, weighting.normalisation, weighting.strength) == tuple(
        RECOMMENDED_WEIGHTING[key] for key in ("reduction", "normalisation", "strength")
    )
    assert (weighting.sample.form, weighting.sample.sharpness) == (options["form"], options["sharpness"])
    assert weighting.memory is None
    assert weighting.gate is None
    assert repr(weighting) == repr(build_weighting("recommended", latent_rate=10.77))


def test_what_is_given_wins_and_a_noise_level_alone_stays_alone():
    weighting = build_weighting("recommended", strength=0.5, gate_below=0.6, sharpness=2.0, latent_rate=10.77)
    assert (weighting.strength, weighting.sample.sharpness, weighting.normalisation) == (0.5, 2.0, "mean1")
    assert weighting.gate is not None
    assert build_weighting(noise_level="min_snr").sample is None


def test_it_needs_no_ids_and_a_memory_beside_it_does():
    losses, output, t = torch.ones(4), torch.randn(4, 8, 64), torch.rand(4)
    build_weighting(latent_rate=10.77)(losses, output, x_t=output, t=t, path="linear", target="u")
    remembers = build_weighting(memory={"below": 0.6}, latent_rate=10.77)
    with pytest.raises(UserError, match="takes a weighting without a memory, such as recommended"):
        remembers(losses, output, x_t=output, t=t, path="linear", target="u")
    remembers(losses, output, x_t=output, t=t, path="linear", target="u", ids=list("abcd"))


def test_a_configuration_writes_it_out():
    config = build_config(TrainConfig, {"data": {"manifest": "m"}, "weighting": {"sample": "recommended"}}, "a test")
    assert config.weighting.model_dump(exclude={"noise_level"}) == RECOMMENDED_WEIGHTING


@pytest.mark.parametrize(
    "recipe",
    [
        *sorted((ROOT / "recipes").glob("sa3-*.yaml")),
        ROOT / "recipes" / "own-music.yaml",
        ROOT / "recipes" / "paper.yaml",
    ],
)
def test_recipes_name_it_or_are_called_replications(recipe):
    weighting = read_yaml(recipe)["weighting"]
    replication = recipe.read_text(encoding="utf-8").startswith("# A replication")
    assert replication or weighting == {"sample": "recommended"}, recipe.name
    assert not replication or weighting["sample"] == "entropy_barrier"


def test_the_demo_trains_it():
    spec = demo_spec()
    trained = [
        arm_training(spec, arm, 0, out="run", manifest="m", cache=None).weighting.model_dump(exclude={"noise_level"})
        for arm in spec.arms
    ]
    assert RECOMMENDED_WEIGHTING in trained


def test_pages_recommend_no_other():
    named = {page.name: re.findall(r'build_weighting\(\s*"(\w+)"', page.read_text(encoding="utf-8")) for page in PAGES}
    assert named["README.md"] == ["recommended"]
    assert named["weighting.md"][0] == "recommended"
    assert named["drop-in.md"][0] == "recommended"
    said = (ROOT / "docs" / "weighting.md").read_text(encoding="utf-8")
    section = said.split("## The recommended weighting")[1].split("\n## ")[0]
    options = RECOMMENDED_WEIGHTING["options"]
    assert RECOMMENDED_WEIGHTING["sample"].replace("_", " ") in section
    assert f"`form: {options['form']}` with sharpness {options['sharpness']:g}" in section
    assert f"normalisation: {RECOMMENDED_WEIGHTING['normalisation']}" in " ".join(section.split())
