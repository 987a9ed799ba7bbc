"""Counts what is tested on a second device of all there is: ``python tests/devices/covered.py``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
PIPELINE_TESTS = {
    "stable_audio3:load_native": "test_stable_audio3_training.py",
    "stable_audio3:load_diffusers": "test_stable_audio3_training.py",  # the same classes, read from another layout
    "pipeline_folder:pipeline_name": "test_stable_audio_open.py",  # reads the name of what follows
    "stable_audio_open:load_stable_audio_open": "test_stable_audio_open.py",
    "stable_diffusion:load_stable_diffusion": "test_stable_diffusion.py",
    "ace_step:load_ace_step": "test_ace_step.py",
    "dit:load_dit_pipeline": "test_dit_pipeline.py",
}
"""Other people's models: the file of tests/backbones with `test_computes_on_a_second_device` for what reads them."""


CPU_ONLY = {
    "allocation": "draws formulas, of no network",
    "compare": "says what replaced it",
    "data doctor": "reads a manifest, a codec's rates and a model's words",
    "data folder": "reads files",
    "data latents": "reads files",
    "data musiccaps": "reads a table",
    "data render": "synthesises in numpy",
    "data flat": "synthesises in numpy",
    "data scores": "lists scores",
    "figure": "draws what was measured",
    "listen make": "cuts and levels audio",
    "listen score": "reads answers",
    "listen serve": "serves pages",
    "recoverability": "says what replaced it",
    "signature mixture": "is exact, in float64",
    "signature structure": "reads the rows of a probe",
    "study judge": "reads records",
    "study list": "reads results",
    "study page": "reads results",
    "study show": "reads results",
    "watch": "reads a run's files",
}
"""Commands without --device, and why."""


def leaf_commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from leaf_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def placed_commands() -> dict[str, Any]:
    """The commands that take --device."""
    import typer

    from eisbach.cli.main import app

    commands = leaf_commands(typer.main.get_command(app))
    return {name: command for name, command in commands if "--device" in options_of(command)}


def marked(function: Any) -> list[str]:
    """The cases that a test is run for, as text."""
    cases: list[Any] = [()]
    for mark in (mark for mark in function.pytestmark if mark.name == "parametrize"):
        cases = [(*case, value) for value in mark.args[1] for case in cases]
    return [" × ".join(map(str, case)) for case in cases]


def defines(file: Path, name: str) -> bool:
    """Whether a file of tests has a test of this name."""
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.parse(file.read_text()).body)


def paths() -> dict[str, tuple[list[str], list[str]]]:
    """(all there are, those that are tested) by kind, from the package's own tables."""
    import test_commands
    import test_networks as networks

    from eisbach.backbones import BACKBONES, LAYOUTS, PIPELINES
    from eisbach.codecs import CODECS, IMAGE_CODECS
    from eisbach.diffusion.noise_levels import DENSITIES
    from eisbach.diffusion.paths import PATHS
    from eisbach.diffusion.samplers import METHODS
    from eisbach.diffusion.schedules import SCHEDULES
    from eisbach.diffusion.targets import TARGETS
    from eisbach.structure.embeddings import EMBEDDINGS
    from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
    from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

    def times(first: Any, second: Any) -> list[str]:
        return [f"{a} × {b}" for b in second for a in first]

    embeddings = [kind for kind in EMBEDDINGS if kind != "texture"]
    listening = TESTS / "structure" / "test_embedding_models.py"
    read = {*LAYOUTS.values(), *PIPELINES.values()}
    name = "test_computes_on_a_second_device"
    tested = [key for key, file in PIPELINE_TESTS.items() if defines(TESTS / "backbones" / file, name)]
    return {
        "commands with --device": ([*placed_commands()], [*test_commands.COVERED]),
        "sample weighting × adapter": (
            times(SAMPLE_WEIGHTINGS, networks.ADAPTERS),
            marked(networks.test_training_with_every_sample_weighting_and_adapter),
        ),
        "noise-level weighting × adapter": (
            times(NOISE_WEIGHTINGS, networks.ADAPTERS),
            marked(networks.test_training_with_every_noise_level_weighting_and_adapter),
        ),
        "density": ([*DENSITIES], marked(networks.test_training_with_every_density)),
        "backbone": ([*BACKBONES], marked(networks.test_training_of_every_backbone)),
        "model of others": (sorted(read), sorted(tested)),
        "sampler × guidance": (
            times((*METHODS, "pingpong", "stochastic"), networks.GUIDANCE),
            marked(networks.test_sampling_with_every_sampler_and_guidance),
        ),
        "path × target": (times(TARGETS, PATHS), marked(networks.test_sampling_on_every_path_to_every_target)),
        "schedule": ([*SCHEDULES], marked(networks.test_sampling_with_every_schedule)),
        "codec": ([*CODECS, "same", "oobleck"], marked(networks.test_every_codec_encodes_and_decodes)),
        "image codec": ([*IMAGE_CODECS, "autoencoder-kl"], marked(networks.test_every_image_codec_encodes_and_decodes)),
        "embedding with a network": (
            embeddings,
            [kind for kind in embeddings if defines(listening, f"test_{kind}_on_a_second_device")],
        ),
    }


def table() -> str:
    """The counts in Markdown."""
    counts = {kind: (len(set(every) & set(tested)), len(every)) for kind, (every, tested) in paths().items()}
    lines = ["| path | tested | of |", "|---|---|---|"]
    lines += [f"| {kind} | {tested} | {every} |" for kind, (tested, every) in counts.items()]
    total = tuple(map(sum, zip(*counts.values(), strict=True)))
    return "\n".join([*lines, f"| all | {total[0]} | {total[1]} |"])


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS / "devices")]
    print(table())
