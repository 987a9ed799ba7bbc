"""Whatever a model's folder asks for, none of its Python runs: not with a terminal that says yes, not through a side
door."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_process import eisbach as eisbach_command

import eisbach
from eisbach import pretrained
from eisbach.backbones import load_backbone
from eisbach.backbones.pipeline_folder import copy_parts
from eisbach.errors import CheckpointError, UserError
from eisbach.structure.embeddings import load_embedding
from eisbach.tensor_files import read_weights

NATIVE = Path(__file__).parents[1] / "fixtures" / "sa3_native_tiny"
TEXT = "t5gemma-b-b-ul2"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exists as soon as evil code has run; stdin says yes to every question meanwhile."""
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    return tmp_path / "it ran"


def plant(folder: Path, marker: Path) -> None:
    """A module that transformers and diffusers could import: any class of it says that it ran."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"open({str(marker)!r}, 'w').close()", "from transformers import PretrainedConfig as EvilConfig"]
    (folder / "evil.py").write_text("\n".join([*lines, "EvilTokenizer = Evil = EvilConfig"]))


def change(file: Path, **entries: Any) -> None:
    values = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**values, **entries}))


AUTO = {
    "AutoConfig": "evil.EvilConfig",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
    "AutoModel": "evil.Evil",
    "AutoFeatureExtractor": "evil.Evil",
}

TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "an unknown model type": lambda folder: change(folder / "config.json", model_type="evil", auto_map=AUTO),
    "a known model type": lambda folder: change(folder / "config.json", model_type="t5gemma", auto_map=AUTO),
    "a tokenizer of its own": lambda folder: change(folder / "tokenizer_config.json", auto_map=AUTO),
    "one with an unknown class": lambda folder: change(
        folder / "tokenizer_config.json", auto_map=AUTO, tokenizer_class="EvilTokenizer"
    ),
    "the list of old files": lambda folder: change(
        folder / "tokenizer_config.json", auto_map=["evil.EvilTokenizer", None], tokenizer_class="EvilTokenizer"
    ),
    "another repository": lambda folder: change(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/repo--evil.EvilTokenizer", None]}
    ),
}


@pytest.mark.parametrize("how", TOKENIZERS)
def test_a_tokenizer_that_asks_for_code_is_refused_without_a_question(tmp_path: Path, marker: Path, how: str) -> None:
    shutil.copytree(NATIVE / TEXT, tmp_path / "tokenizer")
    plant(tmp_path / "tokenizer", marker)
    TOKENIZERS[how](tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="never run") as caught:
        pretrained.tokenizer(tmp_path / "tokenizer")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("how", TOKENIZERS)
@pytest.mark.whole
def test_generating_with_such_a_model_ends_in_one_sentence_whatever_stdin_says(tmp_path: Path, how: str) -> None:
    marker, model = tmp_path / "it ran", tmp_path / "model"
    shutil.copytree(NATIVE, model)
    plant(model / TEXT, marker)
    TOKENIZERS[how](model / TEXT)
    words = ["generate", "celesta", "--model", model, "--out", "x"]
    answer = eisbach_command(*words, text="yes\n" * 100, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert answer.returncode == 2, answer.stderr
    assert "never run" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "[y/N]" not in answer.stdout + answer.stderr
    assert not marker.exists()


def test_python_that_nothing_refers_to_is_ignored_with_one_sentence(tmp_path: Path, marker: Path) -> None:
    shutil.copytree(NATIVE, tmp_path / "model")
    plant(tmp_path / "model" / TEXT, marker)
    with pytest.warns(UserWarning, match=r"evil\.py: code from a model's folder is not run"):
        backbone = load_backbone(tmp_path / "model")
    assert backbone.identity() == load_backbone(NATIVE).identity()
    assert not marker.exists()


@pytest.fixture(scope="module")
def saved_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    load_backbone(NATIVE).save(folder)
    return folder


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"transformer": ["evil", "Evil"]}, "code of its own"),
        ({"text_encoder": ["evil", "Evil"]}, "code of its own"),
        ({"extra": ["os", "system"]}, "code of its own"),
        ({"extra": ["diffusers.utils", "Evil"]}, "code of its own"),
        ({"extra": ["diffusers"]}, "code of its own"),
        ({"_class_name": ["pipeline", "Evil"]}, "pipeline of its own"),
        ({"../vae": ["diffusers", "AutoencoderOobleck"]}, "not a folder beside it"),
    ],
)
def test_an_index_that_lists_code_of_its_own_is_refused(
    saved_pipeline: Path, tmp_path: Path, marker: Path, entry: dict[str, Any], said: str
) -> None:
    shutil.copytree(saved_pipeline, tmp_path / "model")
    for place in (tmp_path / "model", tmp_path / "model" / "transformer", tmp_path / "model" / "text_encoder"):
        plant(place, marker)
    change(tmp_path / "model" / "model_index.json", **entry)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_backbone(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_part_of_a_pipeline_that_asks_for_code_is_refused(
    saved_pipeline: Path, tmp_path: Path, marker: Path, part: str
) -> None:
    shutil.copytree(saved_pipeline, tmp_path / "model")
    plant(tmp_path / "model" / part, marker)
    name = "config.json" if part == "text_encoder" else "tokenizer_config.json"
    change(tmp_path / "model" / part / name, auto_map=AUTO)
    with pytest.raises(CheckpointError, match="never run"):
        load_backbone(tmp_path / "model")
    assert not marker.exists()


def test_chat_templates_are_data(tmp_path: Path, marker: Path) -> None:
    shutil.copytree(NATIVE / TEXT, tmp_path / "tokenizer")
    attack = "{{ cycler.__init__.__globals__.os.system('touch \"" + str(marker) + "\"') }}"
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(attack)
    change(tmp_path / "tokenizer" / "tokenizer_config.json", chat_template=attack)
    assert pretrained.tokenizer(tmp_path / "tokenizer")(["celesta"])["input_ids"]
    assert not marker.exists()


def test_a_scheduler_is_one_of_diffusers_or_refused(tmp_path: Path, marker: Path) -> None:
    plant(tmp_path, marker)
    for name in ("evil.Evil", "UNet2DModel", "DiffusionPipeline", "logging", None, ["evil", "Evil"]):
        with pytest.raises(CheckpointError, match="which diffusers does not have"):
            pretrained.scheduler({"_class_name": name}, tmp_path)
    for options in ({"num_train_timesteps": 10**12}, {"num_train_timesteps": "x"}, {"beta_schedule": [1]}):
        with pytest.raises(CheckpointError) as caught:
            pretrained.scheduler({"_class_name": "DDIMScheduler", **options}, tmp_path)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


# --- files that make no sense

BROKEN: dict[str, tuple[str, Any]] = {
    "empty": ("tokenizer.json", ""),
    "no JSON": ("tokenizer.json", "{"),
    "a list": ("tokenizer.json", "[]"),
    "null": ("tokenizer.json", "null"),
    "no model": ("tokenizer.json", "{}"),
    "another version": ("tokenizer.json", '{"version": "9"}'),
    "a model of no kind": ("tokenizer.json", '{"version": "1.0", "model": {"type": "Evil"}}'),
    "bytes": ("tokenizer.json", b"\xff\xfe\x00"),
    "config empty": ("tokenizer_config.json", ""),
    "config a list": ("tokenizer_config.json", "[1]"),
    "config null": ("tokenizer_config.json", "null"),
    "config bytes": ("tokenizer_config.json", b"\xff\xfe\x00"),
    "config deep": ("tokenizer_config.json", "[" * 20000),
    "length a text": ("tokenizer_config.json", {"model_max_length": "long"}),
    "length negative": ("tokenizer_config.json", {"model_max_length": -5}),
    "length nothing": ("tokenizer_config.json", {"model_max_length": 0}),
    "length a list": ("tokenizer_config.json", {"model_max_length": [1]}),
    "padding a number": ("tokenizer_config.json", {"pad_token": 3.5}),
    "padding nothing": ("tokenizer_config.json", {"pad_token": None}),
    "tokens a text": ("tokenizer_config.json", {"added_tokens_decoder": "x"}),
    "tokens a list": ("tokenizer_config.json", {"added_tokens_decoder": {"0": []}}),
    "class a number": ("tokenizer_config.json", {"tokenizer_class": 3}),
    "class a model": ("tokenizer_config.json", {"tokenizer_class": "T5EncoderModel"}),
    "config of a number": ("config.json", {"model_type": 3}),
    "config of a list": ("config.json", "[]"),
}


def sentence_of(call: Callable[[], Any]) -> tuple[str | None, Any]:
    """The one sentence that a call is refused with, or None; and what it gives."""
    try:
        value = call()
    except UserError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1000  # noqa: PT018
        return said, None
    return None, value


@pytest.mark.parametrize("how", BROKEN)
def test_a_tokenizer_that_makes_no_sense_is_one_sentence_or_still_a_tokenizer(tmp_path: Path, how: str) -> None:
    shutil.copytree(NATIVE / TEXT, tmp_path / "tokenizer")
    name, content = BROKEN[how]
    file = tmp_path / "tokenizer" / name
    if isinstance(content, dict):
        change(file, **content)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content)
    said, value = sentence_of(lambda: pretrained.tokenizer(tmp_path / "tokenizer"))
    if said is None:
        assert value(["celesta"])["input_ids"]
        assert isinstance(content, dict)  # a file that is no configuration at all is never read


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_never_ends_is_not_handed_to_a_library(tmp_path: Path, name: str, kind: str) -> None:
    shutil.copytree(NATIVE / TEXT, tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as handle:
            handle.truncate(2**40)
    said, _ = sentence_of(lambda: pretrained.tokenizer(tmp_path / "tokenizer"))
    assert said is not None
    assert name in said


HUGE = [
    ("text_encoder", "num_hidden_layers", 10**9),
    ("text_encoder", "hidden_size", 10**12),
    ("text_encoder", "hidden_size", "wide"),
    ("text_encoder", "max_position_embeddings", 10**15),
    ("transformer", "num_layers", 10**9),
    ("transformer", "num_layers", "many"),
    ("transformer", "embed_dim", 10**12),
    ("transformer", "embed_dim", -1),
    ("transformer", "embed_dim", None),
    ("transformer", "num_heads", 0),
    ("transformer", "num_heads", [1]),
    ("vae", "sample_size", 10**15),
    ("duration_embedder", "max_value", {}),
]


@pytest.mark.parametrize(("part", "option", "value"), HUGE)
def test_a_size_that_no_model_has_is_one_sentence(
    saved_pipeline: Path, tmp_path: Path, part: str, option: str, value: Any
) -> None:
    shutil.copytree(saved_pipeline, tmp_path / "model")
    file = tmp_path / "model" / part / "config.json"
    values = json.loads(file.read_text())
    if part == "text_encoder":  # its sizes stand in the part that encodes
        values["encoder"] = {**values["encoder"], option: value}
    file.write_text(json.dumps({**values, option: value}))

    def use() -> None:
        backbone = load_backbone(tmp_path / "model")
        backbone.condition(["celesta"], [1.0])
        backbone.load_codec()

    assert sentence_of(use)[0] is not None


# --- models that listen


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    folder = tmp_path_factory.mktemp("hubert")
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8], conv_stride=[5],
        conv_kernel=[10], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "entries",
    [
        {"auto_map": AUTO},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"transformers_weights": "evil.bin"},
        {"quantization_config": {"quant_method": "evil"}},
        {"custom_generate": "evil/repo"},
    ],
)
def test_an_embedding_is_the_shipped_class_whatever_its_configuration_asks_for(
    hubert: Path, tmp_path: Path, marker: Path, entries: dict[str, Any]
) -> None:
    import torch

    shutil.copytree(hubert, tmp_path / "mert")
    plant(tmp_path / "mert", marker)
    for name in ("config.json", "preprocessor_config.json"):
        change(tmp_path / "mert" / name, **entries)
    changed, plain = (load_embedding(f"mert:{folder}")._model for folder in (tmp_path / "mert", hubert))  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(changed.parameters(), plain.parameters(), strict=True))
    assert changed.config._attn_implementation == plain.config._attn_implementation
    assert not marker.exists()


@pytest.mark.parametrize("option", ["feature_size", "sampling_rate", "fft_window_size", "max_length_s"])
def test_a_feature_extractor_of_a_size_that_none_has_is_refused(tmp_path: Path, option: str) -> None:
    from transformers import ClapFeatureExtractor

    ClapFeatureExtractor().save_pretrained(tmp_path)
    assert pretrained.feature_extractor(ClapFeatureExtractor, tmp_path).sampling_rate == 48000
    for value in (10**9, 10**39, -(10**9)):
        change(tmp_path / "preprocessor_config.json", **{option: value})
        with pytest.raises(CheckpointError, match=option):
            pretrained.feature_extractor(ClapFeatureExtractor, tmp_path)


@pytest.mark.parametrize("kind", ["clap", "mert"])
def test_an_embedding_of_an_unknown_type_is_refused(hubert: Path, tmp_path: Path, marker: Path, kind: str) -> None:
    shutil.copytree(hubert, tmp_path / "model")
    plant(tmp_path / "model", marker)
    change(tmp_path / "model" / "config.json", model_type="evil", auto_map=AUTO)
    with pytest.raises(UserError, match="'evil' checkpoint"):
        load_embedding(f"{kind}:{tmp_path / 'model'}")
    assert not marker.exists()


def test_an_adapter_beside_an_embedding_sends_nobody_elsewhere(hubert: Path, tmp_path: Path) -> None:
    """transformers' loader follows adapter_config.json to the base model that it names."""
    shutil.copytree(hubert, tmp_path / "model")
    change(tmp_path / "model" / "adapter_config.json", peft_type="LORA", base_model_name_or_path="evil/repo")
    assert load_embedding(f"mert:{tmp_path / 'model'}").dim == 16


# --- links

LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a file elsewhere": lambda part, secret: (part / "note.json").symlink_to(secret),
    "a way up": lambda part, secret: (part / "note.json").symlink_to(f"../../{secret.name}"),
    "a folder elsewhere": lambda part, secret: (part / "more").symlink_to(secret.parent),
    "itself": lambda part, secret: (part / "note.json").symlink_to("note.json"),
    "the folder above": lambda part, secret: (part / "more").symlink_to(".."),
    "nothing": lambda part, secret: (part / "note.json").symlink_to("gone"),
    "a device": lambda part, secret: (part / "note.json").symlink_to("/dev/zero"),
    "a pipe": lambda part, secret: os.mkfifo(part / "note.json"),
}


@pytest.mark.parametrize("how", LINKS)
def test_saving_a_model_takes_no_file_of_somebody_else_along(tmp_path: Path, how: str) -> None:
    secret, part = tmp_path / "secret.txt", tmp_path / "model" / "scheduler"
    secret.write_text("a key")
    part.mkdir(parents=True)
    (part / "scheduler_config.json").write_text("{}")
    LINKS[how](part, secret)
    with pytest.raises(CheckpointError, match=r"link out of the model .* or no file"):
        copy_parts(tmp_path / "model", tmp_path / "copy", ["scheduler"])
    assert not (tmp_path / "copy").exists()


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    (snapshot / "scheduler").mkdir(parents=True)
    (blobs / "hash").write_text("{}")
    (snapshot / "scheduler" / "scheduler_config.json").symlink_to("../../../blobs/hash")
    copy_parts(snapshot, tmp_path / "copy", ["scheduler"])
    copied = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    assert copied.read_text() == "{}"
    assert not copied.is_symlink()


@pytest.mark.parametrize("name", ["..", "../x.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "a\0b"])
def test_an_index_of_weights_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    said, _ = sentence_of(lambda: read_weights(tmp_path))
    assert said is not None


# --- the hub


@pytest.mark.parametrize("name", ["a/b@../../x", "a/b@x/../y", "../a", "a/..", "a/b@/etc", "a/b/c", "a", "/a/b", ""])
def test_what_is_no_name_of_the_hub_is_not_looked_for(name: str) -> None:
    assert not pretrained.is_hub_id(name)
    assert pretrained.cached_folder(name) is None


@pytest.mark.parametrize("patterns", [pretrained.MODEL_FILES, pretrained.EMBEDDING_FILES])
@pytest.mark.parametrize("suffix", [".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".zip", ".sh"])
@pytest.mark.parametrize("stem", ["evil", "model", "t5gemma-b/evil", "tokenizer/evil", "text_encoder/model", "vae/a"])
def test_no_code_and_no_pickle_is_fetched(patterns: tuple[str, ...], suffix: str, stem: str) -> None:
    assert not any(fnmatch.fnmatch(stem + suffix, pattern) for pattern in patterns)


def test_a_revision_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, revision: str | None = None, **_: Any) -> str:
        asked.append((name, revision))
        return str(NATIVE)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    load_backbone("stabilityai/tiny@0123abc")
    load_backbone("stabilityai/tiny@refs/pr/3")
    load_backbone("stabilityai/tiny")
    assert asked == [("stabilityai/tiny", "0123abc"), ("stabilityai/tiny", "refs/pr/3"), ("stabilityai/tiny", None)]


# --- the whole package

LOADERS = {"from_pretrained", "from_config", "from_single_file", "snapshot_download", "hf_hub_download", "pipeline"}
MORE_LOADERS = {"load_lora_weights", "get_class_from_dynamic_module", "cached_file", "load_state_dict_from_url"}
CHOOSING = re.compile(r"Auto[A-Z]|DiffusionPipeline$")  # classes that let the folder choose


def loads_of(tree: ast.AST) -> list[tuple[str, int]]:
    """Calls of loaders, and mentions of classes that choose, with their lines."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in LOADERS | MORE_LOADERS:
                found.append((name, node.lineno))
        elif isinstance(node, ast.ImportFrom):
            found += [(item.name, node.lineno) for item in node.names if CHOOSING.match(item.name)]
        elif isinstance(node, ast.Attribute) and CHOOSING.match(node.attr):
            found.append((node.attr, node.lineno))
    return found


def test_there_is_one_door() -> None:
    package = Path(eisbach.__file__).parent
    files = [file for file in package.rglob("*.py") if file != Path(pretrained.__file__)]
    assert len(files) > 100
    outside = [
        f"{file.relative_to(package)}:{line} {name}"
        for file in files
        for name, line in loads_of(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert outside == []
    assert len(loads_of(ast.parse("import transformers as t\nt.AutoModel.from_pretrained(x)"))) == 2  # it would see one


def test_the_door_never_trusts() -> None:
    tree = ast.parse(Path(pretrained.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    loaders = [call for call in calls if call.func.attr == "from_pretrained"]  # type: ignore[union-attr]
    assert len(loaders) >= 2
    for call in loaders:
        options = {item.arg: item.value for item in call.keywords}
        for name, expected in (("trust_remote_code", False), ("local_files_only", True)):
            value = options[name]
            assert isinstance(value, ast.Constant)
            assert value.value is expected
