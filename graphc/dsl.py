"""What a person writes besides operators: sources, states, modes, marks and substitution.

Values are the whole tracing state: nothing here registers anything anywhere. A program is what its
outputs need, computed by ``compile``, ``draw`` and the transforms when they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphc import tree
from graphc.errors import DTypeError, ModeError, ShapeError, StateError
from graphc.graph import (
    STATES,
    Node,
    Value,
    ancestors,
    apply,
    make_node,
    source_value,
)
from graphc.ops.lifting import constant
from graphc.source import here
from graphc.state import Initializer, StateCell
from graphc.types import DType, Extent, Shape, Size, TensorType, dtype_of, float32
from graphc.updates import Updates

__all__ = [
    "StateValue",
    "attach_updates",
    "by_mode",
    "chosen_mode",
    "constant",
    "mark",
    "marked",
    "observed",
    "parameter",
    "pinned_mode",
    "rewritten",
    "state",
    "stop_gradient",
    "substitute",
]


# ---- sources


def observed(name: str, shape: int | Size | Sequence[Extent], dtype: object = float32) -> Value:
    """An observed variable: what a call is given. Sizes are ints or Dims.

    >>> from graphc.types import Dim
    >>> observed("x", (Dim("B"), 64)).type
    f32[B,64]
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ShapeError(f"observed: the name {name!r} is not an identifier", here())
    type = TensorType(_dtype("observed", name, dtype), _shape("observed", name, shape))
    return source_value("observed", type, name)


def parameter(
    shape_or_array: object,
    dtype: object = None,
    *,
    init: Initializer | None = None,
    batch_axes: Sequence[int] = (),
) -> StateValue:
    """A trainable tensor that outlives calls, given by its shape or by its first value.

    A shape is an int or a tuple of ints, and starts at zeros, or at ``init(shape, dtype, key)``,
    drawn at first use (loading a checkpoint first draws nothing). Leading ``batch_axes`` hold
    independent tensors, one per expert, say: ``init`` sees the shape without them. ``dtype`` is
    float32, or an array's own unless that is float64.

    >>> weight = parameter((2,)); weight.set([1, 2]); weight.numpy()
    array([1., 2.], dtype=float32)
    """
    value = _state_value("parameter", shape_or_array, dtype, init, tuple(batch_axes), saved=True)
    if not value.dtype.is_float:
        raise DTypeError(
            f"parameter: {value.dtype.name} has no derivative; use gc.state for integers", here()
        )
    return value


def state(
    shape_or_array: object,
    dtype: object = None,
    *,
    init: Initializer | None = None,
    saved: bool = True,
) -> StateValue:
    """A buffer that outlives calls: a constant to ``grad`` unless named in ``wrt``.

    Given by its shape (starts at zeros) or its first value; ``saved=False`` keeps it out of
    ``state_dict``.

    >>> h = state((2, 3)); h.type
    f32[2,3]
    """
    return _state_value("state", shape_or_array, dtype, init, (), saved=saved)


class StateValue(Value):
    """The value of a parameter or state at the start of a call, and the handle on its cell."""

    __slots__ = ()

    @property
    def cell(self) -> StateCell:
        """The memory behind it, shared by every executable that uses it."""
        cell: StateCell = self.node.attrs["state"]
        return cell

    @property
    def device(self) -> str:
        """Where it lives."""
        return self.cell.device

    def numpy(self) -> NDArray[Any]:
        """A copy of what it holds now."""
        return self.cell.numpy()

    def set(self, value: ArrayLike) -> None:
        """Overwrite what it holds; every executable sees it."""
        self.cell.set(value)

    def reset(self) -> None:
        """Back to its first value."""
        self.cell.reset()

    def named(self, name: str) -> StateValue:
        """Name the cell too: texts, drawings and errors show it."""
        self.name = self.cell.name = name
        return self


def _state_value(
    op: str,
    shape_or_array: object,
    dtype: object,
    init: Initializer | None,
    batch_axes: tuple[int, ...],
    *,
    saved: bool,
) -> StateValue:
    initial: NDArray[Any] | Initializer | None
    if _is_shape(shape_or_array):
        shape = _shape(op, None, shape_or_array)
        type = TensorType(_dtype(op, None, float32 if dtype is None else dtype), shape)
        initial = init
    elif init is not None:
        raise StateError(f"{op}: give a shape with init=, or an array, not both", here())
    else:
        initial = _first_array(op, shape_or_array, dtype)
        type = TensorType(dtype_of(initial.dtype), initial.shape)
    if any(not 0 <= axis < len(type.shape) for axis in batch_axes):
        raise ShapeError(f"{op}: batch_axes {batch_axes} do not fit shape {type.shape}", here())
    cell = StateCell(
        "",
        type,
        initial,
        trainable=op == "parameter",
        saved=saved,
        batch_axes=batch_axes,
        source=here(),
    )
    return state_value_of(cell)


def state_value_of(cell: StateCell) -> StateValue:
    """A new source node that reads ``cell``."""
    node = make_node(cell.kind, (), {"state": cell}, (cell.type,))
    value = StateValue(node, 0, cell.name or None)
    # the node's own result is the handle, so that walking the graph meets the same object
    object.__setattr__(node, "outputs", (value,))
    return value


def _is_shape(given: object) -> bool:
    if isinstance(given, (int, np.integer, Size)) and not isinstance(given, bool):
        return True
    return isinstance(given, tuple) and all(
        isinstance(n, (int, np.integer, Size)) and not isinstance(n, bool) for n in given
    )


def _first_array(op: str, given: Any, dtype: object) -> NDArray[Any]:
    if isinstance(given, Value):
        raise StateError(
            f"{op}: {given!r} is computed in the graph and has no data yet; give a shape or array",
            here(),
        )
    array = np.array(given)  # a copy: the caller may go on writing to theirs
    if dtype is not None:
        return array.astype(_dtype(op, None, dtype).numpy)
    if array.dtype == np.float64:
        return array.astype(np.float32)
    _dtype(op, None, array.dtype)
    return array


def _dtype(what: str, name: str | None, dtype: object) -> DType:
    try:
        return dtype_of(dtype)
    except TypeError as error:
        raise DTypeError(f"{what} {name or ''}: {error}", here()) from None


def _shape(what: str, name: str | None, shape: Any) -> Shape:
    given = (shape,) if isinstance(shape, (int, np.integer, Size)) else tuple(shape)
    for extent in given:
        integral = isinstance(extent, (int, np.integer, Size)) and not isinstance(extent, bool)
        if not integral or (not isinstance(extent, Size) and extent < 0):
            raise ShapeError(
                f"{what} {name or ''}: {extent!r} is no extent; a shape holds ints >= 0 and Dims",
                here(),
            )
    return tuple(e if isinstance(e, Size) else int(e) for e in given)


# ---- derivatives, modes and attached updates


def stop_gradient(v: Any) -> Any:
    """``v`` (a Value or a structure), a constant to every derivative."""
    return tree.map(lambda leaf: apply("stop_gradient", _as_value(leaf)), v)


_mode: ContextVar[str | None] = ContextVar("graphc_mode", default=None)


@contextmanager
def pinned_mode(mode: str) -> Iterator[None]:
    """``by_mode`` inside takes the branch of ``mode`` at once; ``Module.with_mode`` uses it."""
    if mode not in ("train", "eval"):
        raise ModeError(f"mode is 'train' or 'eval', not {mode!r}", here())
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def chosen_mode() -> str | None:
    """The mode that ``pinned_mode`` says; None where ``compile`` is to choose."""
    return _mode.get()


def by_mode(*, train: Any, eval: Any) -> Any:
    """``train`` or ``eval``, chosen by ``compile``: the only node that depends on the mode.

    Both are Values of one type, or structures of such. The graph keeps both branches, through
    differentiation too, until ``compile(mode=)`` or its default folds them.
    """
    if _mode.get() is not None:
        return train if _mode.get() == "train" else eval
    return tree.map(lambda a, b: _by_mode(_as_value(a), _as_value(b)), train, eval)


def _by_mode(train: Value, eval: Value) -> Value:
    if train is eval:
        return train
    if train.shape != eval.shape:
        raise ShapeError(
            f"by_mode: train is {train.type} and eval is {eval.type}; one shape is needed", here()
        )
    if train.dtype != eval.dtype:
        raise DTypeError(
            f"by_mode: train is {train.type} and eval is {eval.type}; say .astype(...)", here()
        )
    return apply("by_mode", train, eval)


def attach_updates(v: Value, updates: Mapping[Value, object]) -> Value:
    """``v`` itself; every executable that needs it, once the mode is resolved, writes ``updates``.

    Several attached updates of one state compose in program order: the later one sees the value
    that the earlier one wrote, as BatchNorm called twice in a step does in PyTorch.
    """
    checked = Updates(updates)
    if not checked:
        return v
    new = [_read(value) for value in checked.values()]
    return apply("attach", _read(_as_value(v)), *checked.keys(), *new)


def _read(v: Value) -> Value:
    return apply("read", v) if v.node.op in STATES else v


def _as_value(v: Any) -> Value:
    return v if isinstance(v, Value) else constant(v)


# ---- marks


def mark(v: Value, tag: str, value: Value | None = None) -> Value:
    """``v`` itself, tagged, so that ``marked`` finds it however deep inside it was computed.

    With ``value`` it is that which is found: an auxiliary loss that ``v`` does not depend on.
    """
    probe = () if value is None else (_as_value(value),)
    return apply("mark", _as_value(v), *probe, tag=tag)


def marked(structure: Any, tag: str) -> list[Value]:
    """What ``mark`` tagged with ``tag`` among all that ``structure`` is computed from, in order."""
    nodes = ancestors(tree.leaves(structure))
    return [n.inputs[-1] for n in nodes if n.op == "mark" and n.attrs["tag"] == tag]


# ---- substitution


def substitute(structure: Any, replacements: Mapping[Value, Any]) -> Any:
    """The same program with values replaced: a structure like ``structure``.

    A key is any Value, parameter or state; what replaces it has its type. The new program shares
    modules and states with the old one, and its random draws are the same numbers.

    >>> import graphc as gc
    >>> x, y = gc.observed("x", ()), gc.observed("y", ())
    >>> gc.substitute({"out": x + 1.0}, {x: y})["out"].node.inputs[0] is y
    True
    """
    mapping = {old: _replacement(old, new) for old, new in replacements.items()}
    return rewritten(structure, mapping, lambda node: node.attrs)


Attrs = Mapping[str, Any]


def rewritten(
    structure: Any, mapping: Mapping[Value, Value], attrs_of: Callable[[Node], Attrs]
) -> Any:
    """The same program with values replaced and each node's attrs those that ``attrs_of`` gives.

    A node where nothing changes is the very same.
    """
    values, form = tree.flatten(structure)
    replaced: dict[Value, Value] = {}
    for node in _program(values):
        copied = _copied(node, attrs_of(node), replaced, mapping)
        for old, new in zip(node.outputs, copied, strict=True):
            if old is not new:
                replaced[old] = new
    return form.build([replaced.get(v, v) for v in values])


def _program(values: Sequence[Value]) -> list[Node]:
    """All that the values need in program order, the forward nodes of their derivatives too."""
    seen: set[Node] = set()
    stack = [v.node for v in values]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(v.node for v in node.inputs)
            if node.primal is not None:
                stack.append(node.primal)
    return sorted(seen, key=lambda n: n.serial)


def _copied(
    node: Node, attrs: Attrs, replaced: Mapping[Value, Value], mapping: Mapping[Value, Value]
) -> Sequence[Value]:
    """What stands for the results of ``node``: the very same where nothing changed."""
    inputs = tuple(replaced.get(v, v) for v in node.inputs)
    if node.op == "attach":  # what it writes are the states themselves
        count = len(inputs) // 2
        inputs = (inputs[0], *node.inputs[1 : 1 + count], *inputs[1 + count :])
    if node.op == "read" and inputs[0].node.op not in STATES:
        return inputs
    primal = _copied_primal(node, replaced, mapping)
    same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
    rest = node.outputs
    if not (same and primal is node.primal and attrs is node.attrs):
        place = node.block, node.source
        again = node.again
        copied = Node(node.op, inputs, attrs, node.types, *place, primal=primal, again=again)
        rest = copied.outputs
    for old, new in zip(node.outputs, rest, strict=True):
        new.name = old.name
    return [mapping.get(old, new) for old, new in zip(node.outputs, rest, strict=True)]


def _copied_primal(
    node: Node, replaced: Mapping[Value, Value], mapping: Mapping[Value, Value]
) -> Node | None:
    """The forward node that the copy of a backward node belongs to; None where it was replaced."""
    if node.primal is None or any(v in mapping for v in node.primal.outputs):
        return None
    stands = replaced.get(node.primal.outputs[0])
    return node.primal if stands is None else stands.node


def _replacement(old: object, new: object) -> Value:
    if not isinstance(old, Value):
        raise StateError(f"substitute: the key {old!r} is a {type(old).__name__}, no Value", here())
    value = new if isinstance(new, Value) else constant(new, old.dtype)
    if value.type != old.type:
        raise ShapeError(
            f"substitute: {old!r} is replaced by {value.type}; it must stay {old.type}", here()
        )
    return value if old.node.op in STATES else _read(value)
