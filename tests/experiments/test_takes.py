"""What takes share, and whether prompts are followed, as columns: against the measures of whole sets and cases whose
truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.config import build_config
from eisbach.errors import ConfigError
from eisbach.experiments import hearing, prompt_words
from eisbach.experiments.measures import check_measures, known_metrics
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import ExperimentSpec
from eisbach.generation.prompts import Prompt
from eisbach.structure.embeddings.musicnn import TAGS
from eisbach.structure.embeddings.notes import Notes
from eisbach.structure.sets.alignment import boundary_alignment
from eisbach.structure.sets.differentiation import distance_icc
from eisbach.structure.sets.onset_details import OnsetEvents, detail_diversity, pack_attacks, unpack_events
from eisbach.types import Record

PROMPTS, SEEDS = ("a", "b", "c"), (0, 1, 2)
MODELS = (("plain", 100), ("plain", 101), ("barrier", 100), ("base", None))


@pytest.fixture
def clips() -> tuple[list[Record], dict[str, str], Path]:
    """Records of four models, three prompts, three takes; each clip has boundaries, onsets and a texture."""
    root, rng = Path("/exp"), np.random.default_rng(0)
    records: list[Record] = []
    details = {}
    for arm, draw in MODELS:
        for prompt in PROMPTS:
            for seed in SEEDS:
                path = f"{arm}-{draw}-{prompt}-{seed}.flac"
                times = np.sort(rng.uniform(0, 30, 40)).round(2)
                events = OnsetEvents(times, rng.uniform(0, 1, (40, 32)))
                details[str(root / path)] = json.dumps({
                    "embedding": rng.normal(PROMPTS.index(prompt), 1, 64).tolist(),
                    "sections": {"boundaries": np.sort(rng.uniform(2, 28, 4)).round(2).tolist()},
                    "onsets": times.tolist(), "attacks": pack_attacks(events),
                })  # fmt: skip
                records.append({"arm": arm, "train_seed": draw, "prompt_id": prompt, "seed": seed, "path": path,
                                "audio_hash": path, "duration": 30.0})  # fmt: skip
    return records, details, root


def test_a_models_mean_over_clips_is_the_measure_of_its_clips_as_a_set(
    clips: tuple[list[Record], dict[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, details, root = clips
    rng = np.random.default_rng(1)
    heard = {str(row["path"]): rng.normal(size=200) for row in records}
    monkeypatch.setattr(hearing, "musicnn_rows", lambda records, cache, root: heard)
    made = hearing.take_columns(records, details, ["boundaries", "details", "prompts"], root, tmp_path)
    assert [{k: v for k, v in row.items() if k in records[0]} for row in made] == records
    for model in MODELS:
        own = [row for row in made if (row["arm"], row["train_seed"]) == model]
        lines = [json.loads(details[str(root / str(row["path"]))]) for row in own]
        prompts = [row["prompt_id"] for row in own]
        boundaries = [np.array(line["sections"]["boundaries"]) for line in lines]
        events = [unpack_events(line["onsets"], line["attacks"]) for line in lines]
        textures = np.array([line["embedding"] for line in lines])
        expected = {
            "boundary_alignment": boundary_alignment(boundaries, [30.0] * 9, prompts).value,
            "boundary_alignment_prompts": boundary_alignment(boundaries, [30.0] * 9, prompts, chance="prompts").value,
            "detail_diversity": detail_diversity(events, prompts).value,
            "texture_icc": distance_icc(textures, prompts).value,
            "musicnn_icc": distance_icc(np.stack([heard[str(row["path"])] for row in own]), prompts).value,
        }
        for name, value in expected.items():
            assert np.mean([row[name] for row in own]) == pytest.approx(value), name
    assert made[0]["texture_icc"] > 0.3  # prompts were drawn apart
    names = {info.name for info in known_metrics(made)}
    assert {"boundary_alignment", "texture_icc"} <= names


def test_notes_of_takes_that_are_equal_are_not_diverse(
    clips: tuple[list[Record], dict[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, details, root = clips
    rng = np.random.default_rng(2)

    def notes(key: str) -> Notes:
        own = np.random.default_rng(0) if "-a-" in key else rng  # the takes of prompt a are one tune
        onset = np.sort(own.uniform(0, 30, 30))
        return Notes(onset, np.full(30, 0.3), own.integers(50, 80, 30), np.ones(30))

    monkeypatch.setattr(hearing, "heard_notes", lambda records, root, cache: {
        str(row["audio_hash"]): notes(str(row["path"])) for row in records if row["prompt_id"] != "c"
    })  # fmt: skip
    made = hearing.take_columns(records, details, ["notes"], root, tmp_path)
    values = {row["prompt_id"]: row["note_diversity"] for row in made}
    assert values["a"] == pytest.approx(0, abs=1e-9)
    assert values["b"] > 0.5
    assert values["c"] is None  # silence in every take


def test_takes_without_anything_to_compare_are_undefined(tmp_path: Path) -> None:
    root = Path("/exp")
    records: list[Record] = [
        {"arm": "plain", "train_seed": 0, "prompt_id": prompt, "seed": seed, "path": f"{prompt}{seed}",
         "audio_hash": f"{prompt}{seed}", "duration": 30.0}
        for prompt in "ab" for seed in (0, 1)
    ]  # fmt: skip
    silent = {"embedding": None, "sections": {"boundaries": []}, "onsets": [], "attacks": ""}
    still = silent | {"embedding": [0.0] * 64}
    details = {
        str(root / str(row["path"])): json.dumps(still if row["prompt_id"] == "a" else silent) for row in records
    }
    rows = hearing.take_columns(records, details, ["boundaries", "details"], root, tmp_path)
    assert all(row[name] is None for row in rows for name in ("boundary_alignment", "detail_diversity") if name in row)
    with pytest.raises(ConfigError, match=r"between_takes compares takes of one prompt; give generation\.seeds two"):
        load_spec("barrier_seeds", ["generation.seeds=[3]"])
    with pytest.raises(ConfigError, match="between_takes"):
        load_spec("barrier_seeds", ["between_takes=[boundary]"])


def test_what_is_heard_is_kept_clip_by_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eisbach.audio import write_audio
    from eisbach.types import Waveform

    rng = np.random.default_rng(3)
    records: list[Record] = []
    for name, level in (("loud", 0.1), ("silent", 0.0), ("late", 0.2)):
        write_audio(
            tmp_path / f"{name}.wav", Waveform((level * rng.standard_normal((1, 16000))).astype(np.float32), 16000)
        )
        records.append({"path": f"{name}.wav", "audio_hash": name})
    calls: list[int] = []
    stopped: list[bool] = []

    def transcribe(waveform: Waveform) -> Notes:
        calls.append(waveform.samples.shape[-1])
        if np.abs(waveform.samples).max() > 0.55 and not stopped:  # the late one
            stopped.append(True)
            raise KeyboardInterrupt
        return Notes(np.array([0.1234]), np.array([0.5]), np.array([60]), np.array([0.9]))

    monkeypatch.setattr(hearing, "transcribe", transcribe)
    monkeypatch.setattr(hearing, "check_notes", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        hearing.heard_notes(records, tmp_path, tmp_path / "kept")
    heard = hearing.heard_notes(records, tmp_path, tmp_path / "kept")
    assert set(heard) == {"loud", "late"}  # silence is kept as such and heard no more
    assert heard["loud"].onset.tolist() == [0.123]
    assert len(calls) == 3
    hearing.heard_notes(records, tmp_path, tmp_path / "kept")
    assert len(calls) == 3


def test_clips_are_heard_side_by_side_and_kept_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    together = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(hearing, "listeners", lambda own=1: 2)
    monkeypatch.setattr(hearing, "check_notes", lambda: None)
    monkeypatch.setattr(hearing, "read_audio", lambda path, duration: path.name)

    def transcribe(name: str) -> Notes:
        together.wait()  # passes only where another clip is being heard
        return Notes(np.array([float(name)]), np.array([0.5]), np.array([60]), np.array([0.9]))

    monkeypatch.setattr(hearing, "transcribe", transcribe)
    records: list[Record] = [{"path": str(number), "audio_hash": f"h{number}"} for number in range(6)]
    heard = hearing.heard_notes(records, tmp_path, tmp_path / "kept")
    assert [(key, notes.onset.tolist()) for key, notes in heard.items()] == [(f"h{n}", [float(n)]) for n in range(6)]
    kept = (tmp_path / "kept/notes-2.jsonl").read_text().splitlines()
    assert [line.split('"')[3] for line in kept] == [f"h{number}" for number in range(6)]


# --- prompts that are followed


@pytest.mark.parametrize(
    ("text", "tags", "register"),
    [
        ("Slow brooding chamber music for cello, low strings and contrabass, in the low register",
         {"slow", "strings", "cello"}, "low"),
        ("Playful dance, fast, celesta and pizzicato strings, bright and high, major key", {"dance", "fast", "strings"},
         "high"),
        ("Lively folk dance without words, no vocals, in the middle register", {"dance", "fast", "no vocals"},
         "middle"),
        ("Classical chamber music, played by string quartet", {"classical", "strings"}, None),
        ("Mysterious, heavy bassoon, slow, deep", {"slow"}, "low"),
        ("Choir and harpsichord, hushed", {"choir", "choral", "harpsichord", "quiet"}, None),
        ("From the low register to the high register", set(), None),
        ("A harpist breakfasts", set(), None),
        ("Solo piano, no drums, without vocals", {"solo", "piano", "no vocals"}, None),
        ("Choirs without singing or any loud beats, fast", {"choir", "choral", "no vocals", "fast"}, None),
        ("Two cellos and harps, not fast but loud", {"cello", "harp", "loud"}, None),
        ("No male voices: women singing softly with guitars", {"woman", "singing", "soft", "guitar"}, None),
        ("Deep house, not slow", set(), None),
        ("Symphony no. 5 for strings, and no 6 for piano", {"strings", "piano"}, None),
        ("A no-frills piano piece with violin", {"piano", "violin"}, None),
        ("Not only piano but strings", {"piano", "strings"}, None),
        ("Without a doubt a piano piece", {"piano"}, None),
        ("No vocals! Fast guitar", {"no vocals", "fast", "guitar"}, None),
        ("Instruments: piano\nno vocals\nfast guitar", {"piano", "no vocals", "fast", "guitar"}, None),
        ("no drums | guitar | slow", {"guitar", "slow"}, None),
        ("piano (no drums) violin solo", {"piano", "violin", "solo"}, None),
        ("no vocals - just guitar", {"no vocals", "guitar"}, None),
    ],
)  # fmt: skip
def test_what_a_prompt_asks_for(text: str, tags: set[str], register: str | None) -> None:
    assert set(prompt_words.tags_of(text)) == tags
    assert prompt_words.register_of(text) == register


def test_every_prompt_of_the_study_names_a_tag() -> None:
    prompts = load_spec("barrier_adherence").generation.resolve_prompts()
    assert all(prompt_words.tags_of(prompt.text) for prompt in prompts)
    registers = [prompt_words.register_of(prompt.text) for prompt in prompts]
    assert {name: registers.count(name) for name in ("low", "middle", "high")} == {"low": 3, "middle": 4, "high": 2}


def test_ranks_are_shares_of_the_other_tags() -> None:
    probabilities = np.array([0.9, 0.1, 0.5, 0.5])
    assert hearing.ranks_of(probabilities) == pytest.approx([1, 0, 0.5, 0.5])


def test_a_model_that_always_plays_the_harp_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt(id="harp", text="Harp, in the high register"), Prompt(id="piano", text="Piano, low register"),
               Prompt(id="other", text="Something else")]  # fmt: skip
    plays = {"follows": ("harp", "piano"), "harpist": ("harp", "harp")}
    records: list[Record] = []
    tags, notes = {}, {}
    for arm, played in plays.items():
        for prompt, tag in zip(prompts, (*played, "guitar"), strict=True):
            key = f"{arm}-{prompt.id}"
            records.append({"arm": arm, "train_seed": 1, "prompt_id": prompt.id, "audio_hash": key, "path": key})
            tags[key] = np.where(np.array(TAGS) == tag, 0.9, 0.1)
            # a short high note and a long one: the long one is the median
            notes[key] = Notes(np.array([0.0, 1.0]), np.array([0.1, 2.0]), np.array([90, 60]), np.ones(2))
    notes["harpist-piano"] = Notes(*(np.zeros(0),) * 4)
    monkeypatch.setattr(hearing, "heard_tags", lambda *args: tags)
    monkeypatch.setattr(hearing, "heard_notes", lambda *args: notes)
    rows = {str(row["path"]): row for row in hearing.adherence_columns(records, prompts, tmp_path, tmp_path)}
    assert rows["follows-harp"]["tag_rank"] == 1
    assert rows["harpist-harp"]["tag_rank"] == 1
    assert rows["harpist-piano"]["tag_rank"] == pytest.approx(24 / 49)  # among 48 that are as improbable, and the harp
    assert rows["follows-harp"]["tag_lift"] == pytest.approx(1 - 24 / 49)
    assert rows["harpist-harp"]["tag_lift"] == pytest.approx(1 - (1 + 24 / 49) / 2)
    assert rows["follows-other"]["tag_rank"] is None
    assert rows["follows-harp"]["register_distance"] == pytest.approx(71 - 60)
    assert rows["follows-piano"]["register_distance"] == pytest.approx(60 - 53)
    assert rows["harpist-piano"]["register_distance"] is None
    assert rows["follows-other"]["register_distance"] is None


def test_a_second_judge_hears_change_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eisbach.audio import write_audio
    from eisbach.types import Waveform

    time = np.arange(96_000) / 16_000
    sounds = {
        "moves": np.concatenate([np.sin(440 * 2**k * np.pi * time[:48_000]) for k in (0, 2)]),
        "held": np.sin(440 * np.pi * time),
        "silent": np.zeros(96_000),
        "short": np.sin(440 * np.pi * time[:32_000]),
    }
    records: list[Record] = []
    for name, sound in sounds.items():
        write_audio(tmp_path / f"{name}.wav", Waveform((0.2 * sound)[None].astype(np.float32), 16_000))
        records.append({"arm": "a", "train_seed": 1, "prompt_id": name, "audio_hash": name, "path": f"{name}.wav"})
    rows = {str(row["prompt_id"]): row[hearing.CHANGE] for row in hearing.change_column(records, tmp_path, tmp_path)}
    assert isinstance(rows["moves"], float)
    assert isinstance(rows["held"], float)
    assert rows["moves"] > 3 * rows["held"]
    assert rows["silent"] is None
    assert rows["short"] is None
    monkeypatch.setattr(hearing.MusicnnEmbedding, "change", lambda *args: pytest.fail("heard twice"))
    again = hearing.change_column(records, tmp_path, tmp_path)
    assert [row[hearing.CHANGE] for row in again] == list(rows.values())


def test_columns_of_experiments_are_no_metrics_of_audio() -> None:
    with pytest.raises(Exception, match="there is no metric named 'tag_rank'"):
        check_measures(["tag_rank"])


# --- arms made of two others


def swapped(**changes: Any) -> ExperimentSpec:
    values = load_spec("barrier_dora", quick=True).model_dump() | changes
    return build_config(ExperimentSpec, values)


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ({"swap": {"direction": "nobody", "magnitude": "plain"}}, "swaps with 'nobody'; name one that trains: plain"),
        ({"swap": {"direction": "direction-recurrence", "magnitude": "plain"}}, "swaps with 'direction-recurrence'"),
        ({"swap": {"direction": "plain", "magnitude": "plain"}, "overrides": {"steps": 3}}, "neither overrides nor"),
    ],
)
def test_a_swap_is_made_of_two_arms_that_train(arm: dict[str, Any], sentence: str) -> None:
    arms = swapped().model_dump()["arms"] | {"mine": {"label": "mine", **arm}}
    with pytest.raises(ConfigError, match=sentence):
        swapped(arms=arms)


def test_a_swap_needs_dora() -> None:
    from eisbach.experiments.spec import check_spec

    arms = swapped().model_dump()["arms"]
    arms["direction-recurrence"]["swap"] = {"direction": "lora-plain", "magnitude": "plain"}
    with pytest.raises(ConfigError, match="arm 'lora-plain' trains lora, and a swap is made of two DoRA adapters"):
        check_spec(swapped(arms=arms))
    assert "direction-recurrence" in swapped().apart  # no candidate for the verdict
