"""Finished pieces of a run in a JSONL file, so that a killed study continues where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eisbach.files import read_jsonl


class Finished:
    """Pieces of a run by their key; each is computed once and written as soon as it is there.

    Parameters
    ----------
    file : Path
        One JSON row a piece; a row that a killed process left half-written is computed again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_row()
        self.rows: dict[str, Any] = {row["key"]: row["value"] for row in read_jsonl(file)} if file.is_file() else {}

    def _drop_torn_row(self) -> None:
        if self.file.is_file():
            text = self.file.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if whole != text:
                self.file.write_bytes(whole)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The piece of this key: as it was written, or computed now and written. A value is what JSON can hold."""
        if key not in self.rows:
            self.add(key, compute())
        return self.rows[key]

    def add(self, key: str, value: Any) -> None:
        """Writes a piece, at once."""
        self.rows[key] = json.loads(json.dumps(value))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
