"""Intermediate results that several metrics of a clip share are computed once and live as long as its features."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from eisbach.structure.features import Features

T = TypeVar("T")
_results: dict[int, dict[str, Any]] = {}


def once_per_clip(function: Callable[[Features], T]) -> Callable[[Features], T]:
    """A function of features that is evaluated once for each `Features` object; its results must not be changed."""
    name = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def cached(features: Features) -> T:
        key = id(features)
        if key not in _results:
            _results[key] = {}
            weakref.finalize(features, _results.pop, key, None)
        stored = _results[key]
        if name not in stored:
            stored[name] = function(features)
        result: T = stored[name]
        return result

    return cached
