"""Packages that a command needs and that are not installed: one sentence with the line that installs them."""

from __future__ import annotations

import re
from importlib import metadata

_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Packages whose import name is not the name that pip knows."""


def missing_package(module: str | None) -> str | None:
    """What to install for a module that could not be imported.

    Parameters
    ----------
    module : str or None
        `ModuleNotFoundError.name`.

    Returns
    -------
    str or None
        One sentence; None where the module is no requirement of this package, so that its absence is a defect.
    """
    top = (module or "").partition(".")[0]
    package = _DISTRIBUTIONS.get(top, top)
    if top in ("", "eisbach"):
        return None
    for requirement in _requirements():
        if _normal(re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]) != _normal(package):
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if extra is None:
            return f"the package {package} is not installed, though Eisbach needs it; run: pip install {package}"
        return f"this needs the package {package}; run: pip install 'eisbach[{extra[1]}]'"
    return None


def _requirements() -> list[str]:
    try:
        return metadata.requires("eisbach") or []
    except metadata.PackageNotFoundError:
        return []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
