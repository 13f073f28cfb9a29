"""Whoever calls a function with an array reads in its docstring which axes the array has, and in which unit it lies."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import segflow

ARRAY = re.compile(r"\b(ndarray|Tensor)\b")
NO_ARRAYS = re.compile(r"\b(?:Mapping|dict)\[str, (?:torch\.)?Tensor\]|\bfloat \| Tensor\b")
"""Weights of a network, each in the shape that the network gives it; and numbers."""
WITHOUT_AXES = re.compile(r"any shape|(?:same|this|of) shape|\(\*\w+\)|[Ss]calar|one number")
SPACINGS = {"spacing", "new_spacing", "target_spacing"}


def functions_of(module: Any) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Public functions and methods that the module defines: name, function, and the text that tells of them."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(item):
            yield f"{module.__name__}.{name}", item, inspect.getdoc(item) or ""
        elif inspect.isclass(item):
            of_class = "\n".join(base.__doc__ or "" for base in item.__mro__ if base.__module__.startswith("segflow."))
            for key, member in vars(item).items():
                if key.startswith("_") and key not in ("__init__", "__call__"):
                    continue
                member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if inspect.isfunction(member):
                    text = inspect.getdoc(getattr(item, key)) or ""  # of the base class where the method has none
                    yield f"{module.__name__}.{name}.{key}", member, f"{text}\n{of_class}"


@cache
def every_function() -> tuple[tuple[str, Callable[..., Any], str], ...]:
    names = [info.name for info in pkgutil.walk_packages(segflow.__path__, "segflow.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return tuple(entry for module in modules for entry in functions_of(module))


def handles_arrays(function: Callable[..., Any]) -> bool:
    return any(ARRAY.search(NO_ARRAYS.sub("", str(note))) for note in function.__annotations__.values())


def names_axes(text: str) -> bool:
    """Whether it holds something like (C, Z, Y, X), (B, *patch) or (3,), says that any shape will do, or refers on."""
    lists = [found.split(",") for found in re.findall(r"\((?!recipe|docs)([^()]+)\)", text) if "," in found]
    if WITHOUT_AXES.search(text) or any(all(len(entry.split()) <= 4 for entry in one) for one in lists):
        return True
    others = re.findall(r"\b(?:[Ss]ee|[Ll]ike|[Aa]s) `([\w.]+)`", text)
    return any(
        f".{name}".endswith(f".{other}") and names_axes(t) for name, _, t in every_function() for other in others
    )


def test_every_public_array_function_says_which_axes_its_arrays_have() -> None:
    functions = [(name, text) for name, function, text in every_function() if handles_arrays(function)]
    assert len(functions) > 100
    assert not [name for name, text in functions if not names_axes(text)]


def test_every_public_function_with_a_spacing_says_its_unit() -> None:
    functions = [(name, text) for name, function, text in every_function() if SPACINGS & set(function.__annotations__)]
    assert len(functions) > 10
    assert not [name for name, text in functions if not re.search(r"\bmm\b|[Mm]illimet", text)]
