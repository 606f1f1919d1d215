"""Loops and branches as functions of functions: ``scan``, ``while_loop``, ``cond``.

The function given is called once, on symbols; what it computes becomes the body, and what it uses
from outside becomes an explicit input of the node. Carries, slices and results are structures
(tuples, lists, dicts, NamedTuples, dataclasses) of Values.

An update that is attached inside goes through the loop: each iteration sees what the one before
wrote, and whoever needs a result of the loop does all of its updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from graphc import tree
from graphc.carried import Carried, carry_states, either, updated_states, written
from graphc.errors import DTypeError, ShapeError, StateError
from graphc.graph import Graph, Value, ancestors, apply_all, block, source_value
from graphc.ops.lifting import constant
from graphc.ops.loop import close_body, read_once, with_history
from graphc.source import here
from graphc.types import Extent, Size, TensorType, bool_, int64

__all__ = ["LANE", "LOOP", "cond", "inside", "places", "scan", "while_loop"]

#: the iterations of loops and the lanes of vmaps whose functions are being traced, outermost first,
#: each with its kind: random draws depend on them
places: ContextVar[tuple[tuple[Value, int], ...]] = ContextVar("graphc_places", default=())
#: the kinds, as they enter the keys of draws
LOOP, LANE = 1, 2

_INDEX = TensorType(int64, ())


@contextmanager
def inside(index: Value, kind: int = LOOP) -> Iterator[None]:
    """What is traced inside belongs to iteration (or lane) ``index``."""
    token = places.set((*places.get(), (index, kind)))
    try:
        yield
    finally:
        places.reset(token)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    *,
    length: Extent | None = None,
    reverse: bool = False,
    name: str | None = None,
) -> tuple[Any, Any]:
    """Call ``f(carry, x) -> (carry, y)`` for each element of ``xs`` along axis 0: (carry, ys).

    The carry starts as ``init`` and keeps its type; the y of all steps are stacked along a new
    axis 0, in the order of xs also when ``reverse`` runs from the end. Without ``xs`` the number
    of steps is ``length`` (an int or a Dim) and f's x is None.

    >>> import graphc as gc
    >>> x = gc.observed("x", (5, 3))
    >>> total, partial = gc.scan(lambda s, v: (s + v, s), gc.ops.zeros(3), x)
    >>> total.type, partial.type
    (f32[3], f32[5,3])
    """
    starts, carry_form = _values(init)
    scanned, xs_form = _values(xs)
    steps = _length(scanned, xs_form, length)
    with block(name or "scan"):
        index = _argument(_INDEX, "i")
        carries = [_argument(v.type, v.name) for v in starts]
        slices = [_argument(TensorType(v.dtype, v.shape[1:]), v.name) for v in scanned]
        with inside(index):
            made = f(carry_form.build(carries), xs_form.build(slices))
        if not isinstance(made, tuple) or len(made) != 2:
            raise ShapeError(f"scan: the body returns (carry, y), got {made!r}", here())
        after = _carried("scan", made[0], carry_form, carries)
        elements, ys_form = _values(made[1])
        arguments, results = (index, *carries, *slices), [*after, *elements]
        held = updated_states(results, arguments, index.node.serial)
        body_of = carry_states(results, held, index.node.serial)
        results = [*body_of.outputs[: len(starts)], *body_of.after, *body_of.outputs[len(starts) :]]
        body, captures = close_body(results, (index, *carries, *held.values(), *slices))
        out = apply_all(
            "loop",
            *starts,
            *map(read_once, held),
            *scanned,
            *captures,
            body=with_history(body, len(starts) + len(held)),
            carries=len(starts) + len(held),
            scanned=len(scanned),
            length=steps,
            reverse=reverse,
        )
    count, more = len(starts), len(starts) + len(held)
    ys = out[more : more + len(elements)]  # the history comes last
    found = _written([*out[:count], *ys], held, out[count:more], body_of)
    return carry_form.build(found[:count]), ys_form.build(found[count:])


def while_loop(
    pred: Callable[[Any], Value],
    body: Callable[[Any], Any],
    init: Any,
    *,
    max_steps: int | None = None,
    name: str | None = None,
) -> Any:
    """Call ``carry = body(carry)`` as long as ``pred(carry)``, a bool scalar, holds.

    With ``max_steps`` it makes at most so many, and has a reverse derivative, which keeps the
    carries of all steps.

    >>> import graphc as gc
    >>> x = gc.observed("x", ())
    >>> gc.while_loop(lambda v: v < 100.0, lambda v: v * 2.0, x).type
    f32[]
    """
    if max_steps is not None:
        return _bounded_while(pred, body, init, max_steps, name or "while_loop")
    starts, form = _values(init)
    with block(name or "while_loop"):
        index = _argument(_INDEX, "i")
        carries = [_argument(v.type, v.name) for v in starts]
        with inside(index):
            go = _predicate("while_loop", pred(form.build(carries)))
            after = _carried("while_loop", body(form.build(carries)), form, carries)
        _refuse_updates("while_loop's predicate", go, carries, index.node.serial)
        held = updated_states(after, (index, *carries), index.node.serial)
        body_of = carry_states([*after, go], held, index.node.serial)
        *after, go = body_of.outputs
        starts, carries = [*starts, *map(read_once, held)], [*carries, *held.values()]
        after += body_of.after
        if any(node is index.node for node in ancestors([*after, go])):  # something is drawn
            starts, carries = [*starts, constant(0)], [*carries, index]
            after = [*after, index + 1]
        both, captures = close_body([*after, go], carries)
        out = apply_all(
            "while",
            *starts,
            *captures,
            pred=Graph(both.inputs, both.outputs[-1:]),
            body=Graph(both.inputs, both.outputs[:-1]),
            carries=len(starts),
        )
    count, more = form.count, form.count + len(held)
    return form.build(_written(out[:count], held, out[count:more], body_of))


def _bounded_while(
    pred: Callable[[Any], Value], body: Callable[[Any], Any], init: Any, steps: int, name: str
) -> Any:
    """``steps`` iterations that do nothing once the predicate is false."""

    def iteration(carry: Any, _: None) -> tuple[Any, None]:
        return cond(pred(carry), body, lambda unchanged: unchanged, carry), None

    return scan(iteration, init, length=steps, name=name)[0]


def cond(
    p: Any, f: Callable[..., Any], g: Callable[..., Any], *args: Any, name: str | None = None
) -> Any:
    """``f(*args)`` where the bool scalar ``p`` holds, else ``g(*args)``: only one of them runs.

    Both return structures of the same types. What neither computes from ``args`` is computed in
    any case, but for a ``while_loop``, which might not end: pass as arguments what a branch should
    compute with.

    >>> import graphc as gc
    >>> x = gc.observed("x", (3,))
    >>> gc.cond(x.sum() > 0.0, lambda v: v * 2.0, lambda v: -v, x).type
    f32[3]
    """
    choice = _predicate("cond", p)
    given, form = _values(args)
    with block(name or "cond"):
        arguments = [_argument(v.type, v.name) for v in given]
        start = _argument(_INDEX, None).node.serial  # the first branch is what is made from here on
        first, first_form = _values(f(*form.build(arguments)))
        middle = _argument(_INDEX, None).node.serial
        made = g(*form.build(arguments))
        leaves = tree.matching_leaves(made, first_form, "cond: the second branch")
        second = [read_once(v if isinstance(v, Value) else constant(v)) for v in leaves]
        for path, a, b in zip(first_form.paths("result"), first, second, strict=True):
            if a.type != b.type:
                raise _differs(f"cond: {path}", a, b, "in the first branch", "in the second")
        held = updated_states(first, arguments, start)
        held = updated_states(second, arguments, middle) | held
        branches = [carry_states(first, held, start), carry_states(second, held, middle)]
        results = [[*b.outputs, *b.after] for b in branches]
        both, captures = close_body(
            [*results[0], *results[1]], [*arguments, *held.values()], begin=start
        )
        out = apply_all(
            "cond",
            choice,
            *given,
            *map(read_once, held),
            *captures,
            then=Graph(both.inputs, both.outputs[: len(results[0])]),
            otherwise=Graph(both.inputs, both.outputs[len(results[0]) :]),
        )
    count = len(first)
    modes = either(branches[0].modes, branches[1].modes)
    return first_form.build(written(out[:count], list(held), out[count:], modes))


# ---- pieces


def _written(
    values: Sequence[Value], held: dict[Value, Value], new: Sequence[Value], body: Carried
) -> list[Value]:
    """The results of a loop, which write what its body made of states."""
    return written(values, list(held), new, body.modes)


def _refuse_updates(who: str, value: Value, arguments: Sequence[Value], start: int) -> None:
    for state in updated_states([value], arguments, start):
        raise StateError(f"{who} updates {state!r}: update it in the body", here())


def _values(structure: Any) -> tuple[list[Value], tree.Structure]:
    """Leaves as Values: Python numbers take their own type once (0 is int64, 0.0 float32)."""
    leaves, form = tree.flatten(structure)
    return [read_once(leaf if isinstance(leaf, Value) else constant(leaf)) for leaf in leaves], form


def _argument(type: TensorType, name: str | None) -> Value:
    return source_value("argument", type, name)


def _length(scanned: Sequence[Value], form: tree.Structure, length: Extent | None) -> Extent:
    if length is not None and not isinstance(length, (int, Size)):
        raise ShapeError(f"scan: length is an int or a Dim, got {length!r}", here())
    found = length
    for value, path in zip(scanned, form.paths("xs"), strict=True):
        if not value.shape:
            raise ShapeError(f"scan: {path} is a scalar, {value!r}: it has no axis 0", here())
        if found is None:
            found = value.shape[0]
        elif value.shape[0] != found:
            raise ShapeError(
                f"scan: {path} is {value.type}, its axis 0 should be {found} as the others'", here()
            )
    if found is None:
        raise ShapeError("scan: give xs, or length=", here())
    return found


def _predicate(who: str, value: Any) -> Value:
    given = value if isinstance(value, Value) else constant(value)
    if given.shape != () or given.dtype != bool_:
        raise DTypeError(f"{who}: the predicate is {given.type}, it must be a bool scalar", here())
    return read_once(given)


def _carried(who: str, made: Any, form: tree.Structure, carries: Sequence[Value]) -> list[Value]:
    """The carry after an iteration, its types checked against those before it."""
    leaves = tree.matching_leaves(made, form, f"{who}: the carry after an iteration")
    after: list[Value] = []
    for leaf, before, path in zip(leaves, carries, form.paths("carry"), strict=True):
        value = leaf if isinstance(leaf, Value) else constant(leaf, before.dtype)
        if value.type != before.type:
            raise _differs(f"{who}: {path}", before, value, "before an iteration", "after it")
        after.append(read_once(value))
    return after


def _differs(what: str, a: Value, b: Value, first: str, second: str) -> DTypeError | ShapeError:
    kind = DTypeError if a.shape == b.shape else ShapeError
    hint = f"; say .astype(gc.{a.dtype.name})" if kind is DTypeError else ""
    return kind(f"{what} is {a.type} {first} and {b.type} {second}{hint}", here())
