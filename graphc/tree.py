"""Structures of values: tuples, lists, dicts, NamedTuples and dataclasses, nested; all else is a
leaf.

``None`` is a structure without leaves. Other types join by ``register`` (a Module is a dict of its
parameters by name). Dicts keep their own order, and two dicts match when their keys do.

>>> leaves({"a": 1, "b": (2, [3])})
[1, 2, 3]
>>> map(lambda a, b: a + b, (1, [2]), (10, [20]))
(11, [22])
"""

from __future__ import annotations

import builtins
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from graphc.errors import GraphcError
from graphc.operators import call

__all__ = [
    "Structure",
    "StructureError",
    "children",
    "flatten",
    "leaves",
    "map",
    "ravel",
    "register",
]


class StructureError(GraphcError, TypeError):
    """Two structures that should have the same form differ."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """The form of a structure without its leaves: ``build`` puts leaves back.

    ``keys`` label the children (indices, dict keys, field names); ``make`` rebuilds the container
    from its children; a leaf has kind None.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()
    make: Callable[[list[Any]], Any] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def count(self) -> int:
        """How many leaves it has."""
        return 1 if self.kind is None else sum(child.count for child in self.children)

    def build(self, values: Iterable[Any]) -> Any:
        """The structure with ``values`` as its leaves, in order."""
        given = list(values)
        if len(given) != self.count:
            raise StructureError(f"the structure has {self.count} leaves, got {len(given)} values")
        return self._build(iter(given))

    def _build(self, values: Any) -> Any:
        if self.kind is None:
            return next(values)
        if self.make is None:
            return None
        return self.make([child._build(values) for child in self.children])

    def paths(self, prefix: str = "") -> list[str]:
        """A readable path to every leaf, ``[0].weight``; "" for a structure that is a leaf."""
        if self.kind is None:
            return [prefix]
        found: list[str] = []
        for key, child in zip(self.keys, self.children, strict=True):
            named = isinstance(key, str) and key.isidentifier() and self.kind is not dict
            found += child.paths(f"{prefix}.{key}" if named else f"{prefix}[{key!r}]")
        return found


_LEAF = Structure(None)
_NONE = Structure(type(None))
_registered: dict[type, Callable[[Any], Mapping[str, Any]]] = {}


def register(kind: type, to_dict: Callable[[Any], Mapping[str, Any]]) -> None:
    """Instances of ``kind`` are structures: the dict that ``to_dict`` gives, rebuilt as a dict."""
    _registered[kind] = to_dict


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Its leaves in order, and its form."""
    found: list[Any] = []
    return found, _structure(tree, found)


def _structure(tree: Any, found: list[Any]) -> Structure:
    if tree is None:
        return _NONE
    opened = _open(tree)
    if opened is None:
        found.append(tree)
        return _LEAF
    kind, keys, children, make = opened
    return Structure(kind, keys, tuple(_structure(child, found) for child in children), make)


_Opened = tuple[type, tuple[Any, ...], list[Any], Callable[[list[Any]], Any]]


def _open(tree: Any) -> _Opened | None:
    """(kind, keys, children, constructor) of a container; None for a leaf."""
    kind = type(tree)
    if isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return kind, kind._fields, list(tree), lambda items: kind(*items)
    if kind is tuple or kind is list:
        return kind, tuple(range(len(tree))), list(tree), kind
    if kind is dict:
        return _open_dict(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = tuple(f.name for f in dataclasses.fields(tree) if f.init)
        children = [getattr(tree, name) for name in names]
        return kind, names, children, lambda items: kind(**dict(zip(names, items, strict=True)))
    for registered, to_dict in _registered.items():
        if isinstance(tree, registered):
            return _open_dict(to_dict(tree))
    return None


def _open_dict(tree: Mapping[Any, Any]) -> _Opened:
    keys = tuple(tree)
    return dict, keys, list(tree.values()), lambda items: dict(zip(keys, items, strict=True))


def children(tree: Any) -> list[tuple[Any, Any]] | None:
    """(key, child) pairs one level down: indices, dict keys, field names; None for a leaf.

    >>> children({"a": [1, 2]}), children(None), children(3)
    ([('a', [1, 2])], [], None)
    """
    if tree is None:
        return []
    opened = _open(tree)
    return None if opened is None else list(zip(opened[1], opened[2], strict=True))


def leaves(tree: Any) -> list[Any]:
    """Its leaves in order."""
    return flatten(tree)[0]


def matching_leaves(tree: Any, like: Structure, what: str) -> list[Any]:
    """The leaves of ``tree`` in the order of ``like``; dicts match by key. ``what`` names it."""
    found: list[Any] = []
    _match(tree, like, what, found)
    return found


def _match(tree: Any, like: Structure, where: str, found: list[Any]) -> None:
    if like.kind is None:
        found.append(tree)
        return
    opened = _NONE_OPENED if tree is None else _open(tree)
    same = opened is not None and (
        set(opened[1]) == set(like.keys)
        if opened[0] is dict and like.kind is dict
        else opened[0] is like.kind and opened[1] == like.keys
    )
    if opened is None or not same:
        raise StructureError(
            f"{where}: expected {_describe(like.kind, like.keys)}, got "
            + (type(tree).__name__ if opened is None else _describe(opened[0], opened[1]))
        )
    by_key = dict(zip(opened[1], opened[2], strict=True))
    for key, child in zip(like.keys, like.children, strict=True):
        _match(by_key[key], child, f"{where}[{key!r}]", found)


_NONE_OPENED: _Opened = (type(None), (), [], lambda items: None)


def _describe(kind: type, keys: tuple[Any, ...]) -> str:
    if kind is dict:
        return f"a dict with keys {', '.join(builtins.map(repr, keys)) or '(none)'}"
    return f"a {kind.__name__} of {len(keys)}"


def map(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``f`` on corresponding leaves, in a structure like ``tree``."""
    values, form = flatten(tree)
    columns = [
        matching_leaves(other, form, f"tree.map: structure {i}")
        for i, other in enumerate(others, 2)
    ]
    return form.build([f(*row) for row in zip(values, *columns, strict=True)])


def ravel(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """All leaves as one vector ``[n]``, and the function that takes such a vector apart again."""
    values, form = flatten(tree)
    if not values:
        raise StructureError("tree.ravel: the structure has no leaves")
    shapes = [tuple(v.shape) for v in values]
    sizes = [math.prod(shape) for shape in shapes]
    flat = call("concat", [call("reshape", v, (-1,)) for v in values], axis=0)

    def unravel(vector: Any) -> Any:
        parts: list[Any] = []
        start: Any = 0
        for shape, size in zip(shapes, sizes, strict=True):
            parts.append(call("reshape", vector[start : start + size], shape))
            start = start + size
        return form.build(parts)

    return flat, unravel
