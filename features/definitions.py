"""The identity of a feature's definition: it changes when what the feature computes may.

Followed are the function itself and everything of this package that it calls, kernels included,
with their constants; comments, names of variables and places in a file do not count.
"""

from __future__ import annotations

import hashlib
import platform
import types
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from features.panel import Panel
from features.spec import Feature

_OURS = "features."
_KEPT = "_definition_hash"


def definition_hash(feature: Feature) -> str:
    """Return 16 hexadecimal digits that stand for what a feature computes and from what.

    Examples
    --------
    >>> from features.registry import find_feature
    >>> len(definition_hash(find_feature("body")))
    16
    """
    kept = feature.__dict__.get(_KEPT)
    if kept is None:
        declared = (
            feature.name,
            feature.inputs,
            (feature.lookback, feature.lookback_sessions, feature.session_minutes),
            feature.stage,
            feature.memory,
        )
        # Another interpreter compiles to other instructions, and another NumPy may round otherwise.
        machine = (".".join(platform.python_version_tuple()[:2]), np.__version__)
        text = repr((declared, machine)) + "".join(_parts(feature.compute, set()))
        kept = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Features are equal where their declarations are, so nothing but the feature can keep it.
        feature.__dict__[_KEPT] = kept
    return kept


def definitions_hash(features: Sequence[Feature]) -> str:
    """Return a digest of several features' definitions: it changes when one of them does."""
    text = "".join(definition_hash(f) for f in features)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def definition_hashes(features: Sequence[Feature]) -> dict[str, str]:
    """Return name to :func:`definition_hash`."""
    return {f.name: definition_hash(f) for f in features}


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield texts that together identify a function or a constant."""
    if hasattr(value, "cache_info"):  # A table that is made once and kept.
        yield from _parts(value.__wrapped__, seen)
    elif isinstance(value, partial):
        yield from _parts(value.func, seen)
        yield from _parts(value.args, seen)
        yield from _parts(sorted(value.keywords.items()), seen)
    elif hasattr(value, "py_func"):  # A compiled kernel.
        yield from _parts(value.py_func, seen)
    elif isinstance(value, types.FunctionType):
        if id(value) not in seen:
            seen.add(id(value))
            yield from _function(value, seen)
    elif isinstance(value, types.CodeType):
        yield from _code(value, seen)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, frozenset | set):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, property):
        yield from _parts(value.fget, seen)
    elif isinstance(value, types.ModuleType | type):
        yield value.__name__
    else:
        yield repr(value)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield from _parts(wrapped, seen)
        return
    yield str(function.__dict__.get("definition", ""))
    yield from _parts(function.__code__, seen)
    yield from _parts(function.__defaults__ or (), seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        if value is None:
            # A method of the panel, or a function of one of our modules.
            value = Panel.__dict__.get(name) or _of_module(function, name)
        if value is not None and _is_ours(value):
            yield from _parts(value, seen)


def _names(code: types.CodeType) -> set[str]:
    inner = {n for c in code.co_consts if isinstance(c, types.CodeType) for n in _names(c)}
    return {*code.co_names, *inner}


def _of_module(function: types.FunctionType, name: str) -> Any:
    for other in sorted(_names(function.__code__)):
        module = function.__globals__.get(other)
        if isinstance(module, types.ModuleType) and module.__name__.startswith(_OURS):
            found = getattr(module, name, None)
            if found is not None:
                return found
    return None


def _is_ours(value: Any) -> bool:
    if hasattr(value, "cache_info"):
        return value.__module__.startswith(_OURS)
    if isinstance(value, types.FunctionType | partial) or hasattr(value, "py_func"):
        inner = getattr(value, "py_func", value)
        inner = inner.func if isinstance(inner, partial) else inner
        return getattr(inner, "__module__", "").startswith(_OURS)
    if isinstance(value, property):
        return True
    # Constants, but no modules and classes: those are known by their name.
    return isinstance(value, int | float | str | bytes | tuple | frozenset)


def _code(code: types.CodeType, seen: set[int]) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    # The first constant of a function is its docstring, or nothing; a comprehension has none.
    first = 0 if code.co_name.startswith("<") and code.co_name != "<lambda>" else 1
    for constant in code.co_consts[first:]:
        yield from _parts(constant, seen)
