from __future__ import annotations

from pathlib import Path

import pytest

from eisbach.cli.common import PROMPT_SETS
from eisbach.errors import ConfigError, UserError
from eisbach.generation.config import PlayConfig
from eisbach.generation.prompts import BUILT_IN_PROMPTS, load_prompts, prompts_from_texts


def test_the_four_characters_of_the_paper() -> None:
    prompts = load_prompts("characters")
    assert [prompt.character for prompt in prompts] == [
        "Little Piglet Prince",
        "Raccoon Mathematician",
        "Professor Pallas Cat",
        "Seal Lawyer",
    ]
    text = {prompt.character: prompt.text for prompt in prompts}
    assert all(word in text["Little Piglet Prince"] for word in ("celesta", "pizzicato"))
    assert all(word in text["Professor Pallas Cat"] for word in ("bassoon", "contrabassoon", "cello"))
    assert "two distinct halves" in text["Seal Lawyer"]


def test_eight_demo_prompts_with_distinct_words() -> None:
    prompts = load_prompts("demo")
    assert len(prompts) == 8
    assert len({prompt.text for prompt in prompts}) == 8


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- id: a\n  text: slow  low\n    cello\n- {id: b, text: celesta, character: Mouse}\n")
    first, second = load_prompts(path)
    assert first.text == "slow low cello"
    assert second.character == "Mouse"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- {id: a}", "'prompts.0.text' is required"),
        ("- {id: a, text: '  '}", "a prompt needs words"),
        ("- {id: A b, text: x}", "lower-case letters"),
        ("- {id: ../a, text: x}", "lower-case letters"),
        ("- {id: a, text: x}\n- {id: a, text: y}", "a came more than once"),
        ("- {id: a, text: x, tempo: 3}", "unknown key 'prompts.0.tempo'"),
        ("[]", "at least one prompt"),
        ("a: b", "must be a YAML list"),
        ("", "must be a YAML list"),
        ("- {id: a", "not valid YAML"),
    ],
)
def test_faulty_files_are_refused_in_one_sentence(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_prompts(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_the_built_in_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="characters or demo"):
        load_prompts(tmp_path / "nothing.yaml")


def test_plain_texts_are_prompts_in_a_list_and_in_lines(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- slow cello\n- {id: bells, text: high bells}\n- fast flute\n")
    (tmp_path / "lines.txt").write_text("slow cello\n\n  fast flute \n")
    read = {
        name: [(item.id, item.text) for item in load_prompts(tmp_path / name)] for name in ("list.yaml", "lines.txt")
    }
    assert read["list.yaml"] == [("prompt-1", "slow cello"), ("bells", "high bells"), ("prompt-3", "fast flute")]
    assert read["lines.txt"] == [("prompt-1", "slow cello"), ("prompt-2", "fast flute")]
    assert [item.id for item in PlayConfig(prompts=["slow cello"]).resolve_prompts()] == ["prompt-1"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="at least one prompt"):
        load_prompts(tmp_path / "empty.txt")


def test_a_text_is_a_line_and_comments_are_none(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("# the slow ones\r\nslow\u2028cello\r\n  # and\rfast\x85flute\n".encode())
    assert [(item.id, item.text) for item in load_prompts(path)] == [
        ("prompt-1", "slow cello"),
        ("prompt-2", "fast flute"),
    ]


def test_texts_take_no_id_that_is_given_and_numbers_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_text("- {id: prompt-2, text: bells}\n- 1812\n- slow cello\n- {id: prompt-5, text: drums}\n")
    assert [(item.id, item.text) for item in load_prompts(path)] == [
        ("prompt-2", "bells"),
        ("prompt-6", "1812"),
        ("prompt-3", "slow cello"),
        ("prompt-5", "drums"),
    ]


def test_words_in_a_files_place_are_told_how_they_are_played() -> None:
    with pytest.raises(UserError, match=r"played without --prompts: eisbach generate 'slow strings'\.$"):
        load_prompts("slow strings")


def test_help_and_messages_name_every_set() -> None:
    assert PROMPT_SETS == ", ".join(BUILT_IN_PROMPTS) == "characters, demo, plain"


def test_texts_get_ids_by_position() -> None:
    assert [prompt.id for prompt in prompts_from_texts(["a", "b"])] == ["prompt-1", "prompt-2"]
    with pytest.raises(ConfigError, match="needs words"):
        prompts_from_texts(["a", " "])


def test_demo_prompts_use_only_words_of_the_captions() -> None:
    from eisbach.backbones.tiny import words_of
    from eisbach.data.captions import vocabulary

    known = {part for word in vocabulary() for part in words_of(word)}
    for prompt in load_prompts("demo"):
        assert [word for word in words_of(prompt.text) if word not in known] == []
