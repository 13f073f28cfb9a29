"""Arguments of a ``_target_``, read from its source without importing it, so that help and checks are fast."""

from __future__ import annotations

import ast
import collections.abc
import importlib.util
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segflow.apps._docstrings import described

LONGEST_CHAIN = 8
"""Number of imports that are followed from file to file."""

_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple)},
    "None": None, "Any": Any, "Literal": typing.Literal, "Optional": typing.Optional, "Union": typing.Union,
    "Sequence": collections.abc.Sequence, "Mapping": collections.abc.Mapping,
    "List": list, "Dict": dict, "Tuple": tuple,
}  # fmt: skip
"""Types that can be checked in annotations."""

_NOT_PLAIN = ("Tensor", "torch.Tensor", "Module", "nn.Module", "Callable")
"""Types that YAML cannot hold. In a union they do not restrict plain values."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a target.

    Attributes:
        annotation: The annotation as written, or an empty text.
        type: Type of plain values, or None if unknown.
        default: Default as a plain value; `MISSING` if it has none or it is not plain.
        meaning: Its text in the docstring.
    """

    annotation: str
    type: Any
    default: Any
    meaning: str


@dataclass(frozen=True, slots=True)
class Target:
    """A class or function.

    Attributes:
        parameters: Its arguments, in order.
        takes_any: It takes other keywords too.
        undecorated: Fields that would be arguments if the class, like its base, were a dataclass.
    """

    parameters: Mapping[str, Parameter]
    takes_any: bool
    undecorated: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Arguments with a default. The calling code or the YAML gives the others."""
        return [name for name, parameter in self.parameters.items() if parameter.default is not MISSING]


@cache
def look(target: str) -> Target | None:
    """Arguments of a target; None if its source is not found or not understood."""
    found = _find(target, LONGEST_CHAIN)
    if found is None:
        return None
    node, module = found
    if isinstance(node, ast.ClassDef):
        return _of_class(node, module, LONGEST_CHAIN)
    return _of_function(node, described(ast.get_docstring(node) or ""), bound=False)


@cache
def purpose(target: str) -> str:
    """The first paragraph of a target's docstring, as one line; empty where there is none."""
    found = _find(target, LONGEST_CHAIN)
    text = ast.get_docstring(found[0]) if found else None
    return " ".join((text or "").partition("\n\n")[0].split())


def _find(target: str, steps: int) -> tuple[ast.ClassDef | Function, str] | None:
    """The definition that a dotted name leads to, and the module that holds it."""
    module, _, name = target.rpartition(".")
    tree = _tree(module)
    if tree is None or not steps:
        return None
    found = None
    for node in _statements(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            found = (node, module)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    found = _find(f"{_absolute(node, module)}.{alias.name}", steps - 1)
    return found


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements of a module, with those under ``if`` and ``try``."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, ast.If | ast.Try):
            waiting = [*node.body, *node.orelse, *waiting]


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")
    path = _file(module)
    keep = len(package) - node.level + (path is not None and path.name == "__init__.py")
    return ".".join([*package[:keep], *([node.module] if node.module else [])])


@cache
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(file.read_bytes()) if file is not None else None
    except (OSError, SyntaxError, ValueError):
        return None


def _file(module: str) -> Path | None:
    """The source file of a module. Python looks up only its first name, since it would import parent packages."""
    first, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    if not inner:
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *inner)
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def _of_class(node: ast.ClassDef, module: str, steps: int) -> Target | None:
    texts = described(ast.get_docstring(node) or "")
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__" and not _is_overload(inner):
            return _of_function(inner, texts | described(ast.get_docstring(inner) or ""), bound=True)
    inherited = _bases(node, module, steps)
    if inherited is None:
        return None
    parameters = {name: p for above in reversed(inherited) for name, p in above.parameters.items()}
    takes_any = any(above.takes_any for above in inherited)
    fields = _fields(node, texts)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Target(parameters | fields, takes_any)
    return Target(parameters, takes_any, tuple(fields) if parameters else ())


def _bases(node: ast.ClassDef, module: str, steps: int) -> list[Target] | None:
    """What the base classes take; None where one of them is not understood."""
    inherited: list[Target] = []
    for base in node.bases:
        name = ast.unparse(base).partition("[")[0]
        found = _find(f"{module}.{name}", LONGEST_CHAIN) if steps and "." not in name else None
        above = _of_class(found[0], found[1], steps - 1) if found and isinstance(found[0], ast.ClassDef) else None
        if above is None and name not in ("object", "Protocol", "ABC", "Generic"):
            return None
        inherited += [above] if above is not None else []
    return inherited


def _fields(node: ast.ClassDef, texts: Mapping[str, str]) -> dict[str, Parameter]:
    """Annotated names of a class body, which are the arguments of a dataclass."""
    return {
        inner.target.id: _parameter(inner.annotation, inner.value, texts.get(inner.target.id, ""))
        for inner in node.body
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
        if not ast.unparse(inner.annotation).startswith(("ClassVar", "typing.ClassVar"))
    }


def _of_function(node: Function, texts: Mapping[str, str], *, bound: bool) -> Target:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = [*zip(positional, defaults, strict=True)][bound:]
    pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    parameters = {a.arg: _parameter(a.annotation, default, texts.get(a.arg, "")) for a, default in pairs}
    return Target(parameters, given.kwarg is not None)


def _parameter(annotation: ast.expr | None, default: ast.expr | None, meaning: str) -> Parameter:
    value: Any = MISSING
    if default is not None:
        try:
            value = ast.literal_eval(default)
        except ValueError:
            value = MISSING
    text = ast.unparse(annotation) if annotation is not None else ""
    return Parameter(text, _type(text), value, meaning)


def _type(annotation: str) -> Any:
    """The annotation as a type for checks of plain values, if it consists only of known types."""
    try:
        return _kind(ast.parse(annotation.strip("'\""), mode="eval").body)
    except (SyntaxError, KeyError, TypeError):
        return None


def _kind(node: ast.expr) -> Any:
    """The type that an expression of an annotation names. Raises `KeyError` if it is not in `_NAMES`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(map(_kind, node.elts))
    sides = _sides(node)
    if len(sides) > 1:
        return typing.Union[tuple(_kind(side) for side in sides if ast.unparse(side) not in _NOT_PLAIN)]  # noqa: UP007
    if isinstance(node, ast.Subscript):
        return _kind(node.value)[_kind(node.slice)]
    return _NAMES[ast.unparse(node)]


def _sides(node: ast.expr) -> list[ast.expr]:
    """The alternatives of a union, in either way of writing it; anything else alone."""
    if isinstance(node, ast.BinOp):
        return [*_sides(node.left), *_sides(node.right)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Union" and isinstance(node.slice, ast.Tuple):
        return node.slice.elts
    return [node]


def _is_overload(node: ast.FunctionDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
