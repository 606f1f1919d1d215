"""``dataclass`` for records, cheap to define.

The standard one compiles three functions for every class, six for a frozen one, half a millisecond
or more each time; with a hundred classes that was half of ``import graphc``, and a quarter of
compiling from a warm cache. Here only ``__init__`` is compiled, and the rest are closures over the
fields' names. What comes out is a dataclass all the same (``fields``, ``replace``, ``match``), and
type checkers see the standard one.
"""

from __future__ import annotations

import dataclasses
import reprlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True, kw_only=False):
        """``dataclasses.dataclass`` with these three options.

        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: int
        ...     y: int = 0
        >>> Point(3), Point(3) == Point(3, 0), hash(Point(1)) == hash(Point(1))
        (Point(x=3, y=0), True, True)
        """
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, eq=eq, kw_only=kw_only)
        return _made(cls, frozen, eq, kw_only)


def _made(cls: type, frozen: bool, eq: bool, kw_only: bool) -> type:
    own = dict(vars(cls))
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # else the standard one writes the signature there: dear
    made: Any = dataclasses.dataclass(cls, init=False, repr=False, eq=False, kw_only=kw_only)
    members: dict[str, Any] = {"__repr__": _repr}
    if frozen:
        members |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
    if eq:
        members |= _comparison(dataclasses.fields(made), frozen)
    if own.get("__hash__") is None:
        own.pop("__hash__", None)  # a class that defines __eq__ alone has the hash None
    for name, member in members.items():
        if name not in own:
            setattr(made, name, member)
    made.__init__ = _initializer(made, frozen)
    return cls


def _comparison(fields: tuple[dataclasses.Field[Any], ...], frozen: bool) -> dict[str, Any]:
    """``__eq__`` of the same class by the fields that compare, and ``__hash__`` by the same; what
    may change has no hash.
    """
    key = _getter([f.name for f in fields if f.compare])
    hashed = _getter([f.name for f in fields if (f.compare if f.hash is None else f.hash)])

    def equal(self: object, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return key(self) == key(other)

    return {"__eq__": equal, "__hash__": (lambda self: hash(hashed(self))) if frozen else None}


def _getter(names: list[str]) -> Any:
    """The values of some attributes, as one object to compare and hash."""
    return attrgetter(*names) if names else lambda record: ()


class _Factory:
    """Stands for a default that is made anew for every record."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _initializer(made: Any, frozen: bool) -> Any:
    """``__init__(self, a, b=default, *, c)``: sets every field, then calls ``__post_init__``."""
    scope: dict[str, Any] = {"set_field": object.__setattr__, "FACTORY": _FACTORY}
    plain: list[str] = ["self"]
    named: list[str] = []
    body: list[str] = []
    for field in dataclasses.fields(made):
        name, value, parameter = field.name, field.name, field.name
        if field.default is not dataclasses.MISSING:
            scope[f"default_{name}"] = field.default
            parameter = f"{name}=default_{name}"
        elif field.default_factory is not dataclasses.MISSING:
            scope[f"make_{name}"] = field.default_factory
            parameter = f"{name}=FACTORY"
            value = f"make_{name}() if {name} is FACTORY else {name}"
        if field.init:
            (named if field.kw_only else plain).append(parameter)
        elif field.default_factory is not dataclasses.MISSING:
            value = f"make_{name}()"
        else:
            continue  # its default is an attribute of the class, or __post_init__ sets it
        body.append(f"set_field(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if named:
        plain += ["*", *named]
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    lines = "\n ".join(body or ["pass"])
    exec(f"def __init__({', '.join(plain)}):\n {lines}", scope)
    scope["__init__"].__qualname__ = f"{made.__qualname__}.__init__"
    return scope["__init__"]


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse_set(self: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
