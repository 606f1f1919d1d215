"""Records are dataclasses in all that the standard ones do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import field
from functools import cached_property
from typing import Any

import pytest

from graphc.records import dataclass


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list, compare=False)

    @cached_property
    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


@dataclass(frozen=True, eq=False, kw_only=True)
class Base:
    kind: str


@dataclass(frozen=True, eq=False)
class Derived(Base):
    value: int
    twice: int = field(init=False, repr=False)
    seen: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.value)


@dataclass(frozen=True)
class Named:
    name: str
    size: int

    def __hash__(self) -> int:
        return 7

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True)
class Empty:
    pass


@dataclass
class Count:
    done: int
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.done += 1


@dataclass(frozen=True)
class Loop:
    inside: list[Any]


def test_fields_defaults_and_signature() -> None:
    one, other = Point(3), Point(3)
    assert (one.x, one.y, one.tags) == (3, 0, [])
    assert one.tags is not other.tags
    assert list(inspect.signature(Point).parameters) == ["x", "y", "tags"]
    assert dataclasses.replace(one, y=5) == Point(3, 5)
    assert dataclasses.asdict(one) == {"x": 3, "y": 0, "tags": []}
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]


def test_equal_by_the_fields_that_compare_and_by_class() -> None:
    assert Point(1, 2, ["a"]) == Point(1, 2, ["b"])
    assert hash(Point(1, 2, ["a"])) == hash(Point(1, 2, ["b"]))
    assert Point(1, 2) != Point(2, 1)
    assert Point(1, 2).__eq__((1, 2, [])) is NotImplemented
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())


def test_without_eq_records_are_themselves_only() -> None:
    one, other = Derived(1, kind="a"), Derived(1, kind="a")
    assert one != other
    assert len({one, other}) == 2


def test_nothing_can_be_set_or_deleted() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    assert point.norm == 1  # a cached property is still kept


def test_inherited_keywords_and_fields_that_init_does_not_take() -> None:
    made = Derived(4, kind="k")
    assert (made.kind, made.value, made.twice, made.seen) == ("k", 4, 8, [])
    assert repr(made) == "Derived(kind='k', value=4, seen=[])"
    with pytest.raises(TypeError):
        Derived("k", 4)  # type: ignore[call-arg, arg-type]
    match made:
        case Derived(value):
            assert value == 4


def test_methods_of_the_class_stay() -> None:
    assert hash(Named("n", 1)) == 7
    assert repr(Named("n", 1)) == "<n>"
    assert Named("n", 1) == Named("n", 1)


def test_records_that_change_have_no_hash() -> None:
    count, other = Count(0), Count(0, names=[])
    assert count == other
    assert count.names is not other.names
    count.done += 1
    del other.names
    assert repr(count) == "Count(done=2, names=[])"
    assert count != Count(0)
    with pytest.raises(TypeError, match="unhashable"):
        hash(count)
    assert [f.name for f in dataclasses.fields(Count)] == ["done", "names"]
    with pytest.raises(AttributeError):
        _ = other.names


def test_copies_pickles_and_records_that_hold_themselves() -> None:
    assert copy.deepcopy(Point(1, 2, ["a"])).tags == ["a"]
    assert pickle.loads(pickle.dumps(Point(1, 2))) == Point(1, 2)
    loop = Loop([])
    loop.inside.append(loop)
    assert repr(loop) == "Loop(inside=[...])"
