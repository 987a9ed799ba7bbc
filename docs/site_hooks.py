"""What the site shows beside the pages of docs/: the README as its front page, each study's README, and the changes.

Links that lead out of docs/ go to the site's copy where there is one; a link to code becomes its path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def _pages() -> dict[str, str]:
    """Place in the site by place in the repository."""
    pages = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}
    for page in sorted((ROOT / "src/eisbach/studies").glob("*/README.md")):
        pages[page.relative_to(ROOT).as_posix()] = f"studies/{page.parent.name}.md"
    for page in sorted((ROOT / "recipes").rglob("README.md")):
        pages[page.relative_to(ROOT).as_posix()] = f"recipes-{page.parent.name}.md"
    return pages


PAGES = _pages()
SOURCES = {site: source for source, site in PAGES.items()}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for source, site in PAGES.items():
        files.append(File.generated(config, site, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links that leave docs/."""
    site = page.file.src_uri
    source = SOURCES.get(site, f"docs/{site}")

    def turn(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        goal = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if goal is None:
            return f"{text} (`{place}`)"
        return f"{mark}[{text}]({posixpath.relpath(goal, posixpath.dirname(site) or '.')}{hash_}{anchor})"

    return _LINK.sub(turn, markdown)
