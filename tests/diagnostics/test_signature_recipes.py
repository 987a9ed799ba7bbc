"""The prompt files of recipes/signature: the same classes in other words, all of them words that the embedded model
knows."""

from pathlib import Path

import pytest

from eisbach.backbones import load_backbone
from eisbach.diagnostics.signature.config import SignatureConfig, read_prompts

FOLDER = Path(__file__).parents[2] / "recipes" / "signature"
FILES = sorted(FOLDER.glob("music*.yaml"))


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def test_there_are_several_wordings():
    texts = [{one.name: one.text for one in read_prompts(file).classes} for file in FILES]
    assert len(texts) >= 4
    for name in texts[0]:
        assert len({one[name] for one in texts}) == len(texts), f"{name} is said twice in the same words"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_wording_says_the_same_classes_in_known_words(file, embedded):
    classes = read_prompts(file).classes
    first = read_prompts(FOLDER / "music.yaml").classes
    assert [(one.name, one.labels) for one in classes] == [(one.name, one.labels) for one in first]
    assert len({one.text for one in classes}) == len(classes)
    assert [word for one in classes for word in embedded.unknown_words(one.text)] == []
    assert set(SignatureConfig(classes=classes).class_set().partition_names) == {
        "classes", "register", "instrument", "tempo"
    }  # fmt: skip
