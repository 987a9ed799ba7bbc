"""What a run publishes replaces what it published before, and nothing that somebody else put there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eisbach.errors import StorageError
from eisbach.training.publish import replace_folder


def writer(**contents: str) -> Callable[[Path], None]:
    """Writes one file a keyword; `__` in a name stands for a folder."""

    def write(folder: Path) -> None:
        for name, text in contents.items():
            place = folder / name.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    return write


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_first_time_there_is_only_what_was_written(tmp_path: Path) -> None:
    replace_folder(tmp_path / "run" / "adapter", writer(weights="1", deep__er="2"))
    assert files_of(tmp_path) == {"run/adapter/weights": "1", "run/adapter/deep/er": "2"}


def test_other_peoples_files_stay_at_any_depth_and_ours_are_new(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    replace_folder(target, writer(weights="old", deep__er="old"))
    (target / "notes.md").write_text("my notes")
    (target / "mine" / "below").mkdir(parents=True)
    (target / "mine" / "below" / "take.wav").write_text("a take")
    (target / "deep" / "note").write_text("beside ours")
    (target / "link").symlink_to("notes.md")
    for version in ("new", "newer"):
        replace_folder(target, writer(weights=version, deep__er=version))
        assert files_of(tmp_path) == {
            "adapter/weights": version,
            "adapter/deep/er": version,
            "adapter/notes.md": "my notes",
            "adapter/mine/below/take.wav": "a take",
            "adapter/deep/note": "beside ours",
            "adapter/link": "my notes",
        }
        assert (target / "link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]  # nothing of the way is left


def test_a_note_where_a_new_folder_begins_or_ends_is_not_lost(tmp_path: Path) -> None:
    """A file of somebody else under the name of a folder of ours, and the other way round."""
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "deep").write_text("a file called deep")
    (target / "weights").mkdir()
    (target / "weights" / "note").write_text("in a folder called weights")
    with pytest.raises(StorageError):
        replace_folder(target, writer(weights="1", deep__er="2"))
    assert files_of(target) == {"deep": "a file called deep", "weights/note": "in a folder called weights"}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path, fault: type[BaseException]) -> None:
    target = tmp_path / "adapter"
    replace_folder(target, writer(weights="old"))
    (target / "notes.md").write_text("my notes")

    def broken(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise fault

    with pytest.raises(fault):
        replace_folder(target, broken)
    assert files_of(tmp_path) == {"adapter/weights": "old", "adapter/notes.md": "my notes"}


def test_a_process_that_died_in_between_loses_nobodys_files(tmp_path: Path) -> None:
    """Killed between the two renames, or before the files of others came back: they are in the folder that was put
    aside."""
    for renamed in (False, True):
        target, old = tmp_path / f"{renamed}" / "adapter", tmp_path / f"{renamed}" / ".adapter.old"
        replace_folder(target, writer(weights="old"))
        (target / "notes.md").write_text("my notes")
        target.rename(old)
        if renamed:
            writer(weights="new")(target)
        replace_folder(target, writer(weights="newest"))
        assert files_of(target) == {"weights": "newest", "notes.md": "my notes"}
        assert not old.exists()
