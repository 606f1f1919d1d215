"""What Python and NumPy syntax means on a Value: every operator and method is a named function of
``graphc.ops``.

``FUNCTIONS`` is the table of those functions. ``graphc.ops`` fills it when imported, so this
module, below the ops, imports none of them. What cannot work on a graph (``if x:``, ``float(x)``)
raises a ``UsageError`` with the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

from graphc.errors import GraphcError
from graphc.source import here

if TYPE_CHECKING:
    from graphc.graph import Value

__all__ = ["FUNCTIONS", "At", "Operators", "UsageError", "call", "register_function"]

FUNCTIONS: dict[str, Callable[..., Any]] = {}

#: NumPy's names for functions that graphc.ops names as the array API does
_NUMPY_NAMES = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "around": "round",
    "concatenate": "concat",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "moveaxis": "moveaxis",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "true_divide": "divide",
    "transpose": "permute_dims",
}


class UsageError(GraphcError, TypeError):
    """A Value was used where Python needs a number now; the message says what to write instead."""


def register_function(name: str, function: Callable[..., Any]) -> None:
    """Make ``function`` what ``call(name, ...)``, hence an operator or method of Value, means."""
    if name in FUNCTIONS:
        raise ValueError(f"function {name!r} is registered twice")
    FUNCTIONS[name] = function


def call(name: str, *args: Any, **kwargs: Any) -> Value:
    """The function ``name`` of graphc.ops on ``args``: it promotes, broadcasts and builds nodes."""
    return cast("Value", FUNCTIONS[name](*args, **kwargs))


def _refuse(message: str) -> NoReturn:
    raise UsageError(message, here())


class At:
    """``v.at[i].set(w)``: a copy of ``v`` with the indexed elements replaced, added to, or
    bounded.
    """

    __slots__ = ("_index", "_value")

    def __init__(self, value: Value, index: object = None) -> None:
        self._value, self._index = value, index

    def __getitem__(self, index: object) -> At:
        return At(self._value, index)

    def set(self, new: object) -> Value:
        return call("put", self._value, self._index, new, mode="set")

    def add(self, new: object) -> Value:
        return call("put", self._value, self._index, new, mode="add")

    def max(self, new: object) -> Value:
        return call("put", self._value, self._index, new, mode="max")

    def min(self, new: object) -> Value:
        return call("put", self._value, self._index, new, mode="min")


class Operators:
    """The operators and methods of a Value. ``==`` is elementwise; the hash is by identity."""

    __slots__ = ()

    # ---- arithmetic

    def __add__(self, other: object) -> Value:
        return call("add", self, other)

    def __radd__(self, other: object) -> Value:
        return call("add", other, self)

    def __sub__(self, other: object) -> Value:
        return call("subtract", self, other)

    def __rsub__(self, other: object) -> Value:
        return call("subtract", other, self)

    def __mul__(self, other: object) -> Value:
        return call("multiply", self, other)

    def __rmul__(self, other: object) -> Value:
        return call("multiply", other, self)

    def __truediv__(self, other: object) -> Value:
        return call("divide", self, other)

    def __rtruediv__(self, other: object) -> Value:
        return call("divide", other, self)

    def __floordiv__(self, other: object) -> Value:
        return call("floor_divide", self, other)

    def __rfloordiv__(self, other: object) -> Value:
        return call("floor_divide", other, self)

    def __mod__(self, other: object) -> Value:
        return call("remainder", self, other)

    def __rmod__(self, other: object) -> Value:
        return call("remainder", other, self)

    def __pow__(self, other: object) -> Value:
        return call("pow", self, other)

    def __rpow__(self, other: object) -> Value:
        return call("pow", other, self)

    def __matmul__(self, other: object) -> Value:
        return call("matmul", self, other)

    def __rmatmul__(self, other: object) -> Value:
        return call("matmul", other, self)

    def __neg__(self) -> Value:
        return call("negative", self)

    def __pos__(self) -> Value:
        return cast("Value", self)

    def __abs__(self) -> Value:
        return call("abs", self)

    def __invert__(self) -> Value:
        return call("bitwise_invert", self)

    def __and__(self, other: object) -> Value:
        return call("bitwise_and", self, other)

    def __rand__(self, other: object) -> Value:
        return call("bitwise_and", other, self)

    def __or__(self, other: object) -> Value:
        return call("bitwise_or", self, other)

    def __ror__(self, other: object) -> Value:
        return call("bitwise_or", other, self)

    def __xor__(self, other: object) -> Value:
        return call("bitwise_xor", self, other)

    def __rxor__(self, other: object) -> Value:
        return call("bitwise_xor", other, self)

    def __lshift__(self, other: object) -> Value:
        return call("bitwise_left_shift", self, other)

    def __rlshift__(self, other: object) -> Value:
        return call("bitwise_left_shift", other, self)

    def __rshift__(self, other: object) -> Value:
        if not isinstance(other, (int, Operators)) and callable(other):
            return cast("Value", other(self))  # `value >> module` wires; a shift is between ints
        return call("bitwise_right_shift", self, other)

    def __rrshift__(self, other: object) -> Value:
        return call("bitwise_right_shift", other, self)

    # ---- comparison

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return call("equal", self, other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return call("not_equal", self, other)

    def __lt__(self, other: object) -> Value:
        return call("less", self, other)

    def __le__(self, other: object) -> Value:
        return call("less_equal", self, other)

    def __gt__(self, other: object) -> Value:
        return call("greater", self, other)

    def __ge__(self, other: object) -> Value:
        return call("greater_equal", self, other)

    __hash__ = object.__hash__

    # ---- indexing

    def __getitem__(self, index: object) -> Value:
        return call("getitem", self, index)

    def __setitem__(self, index: object, new: object) -> NoReturn:
        _refuse(f"{self!r} is immutable: write v = v.at[i].set(w)")

    @property
    def at(self) -> At:
        return At(cast("Value", self))

    # ---- methods, named and meant as NumPy's

    def sum(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("sum", self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("prod", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("mean", self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, keepdims: bool = False, ddof: float = 0) -> Value:
        return call("var", self, axis=axis, keepdims=keepdims, correction=ddof)

    def std(self, axis: Any = None, keepdims: bool = False, ddof: float = 0) -> Value:
        return call("std", self, axis=axis, keepdims=keepdims, correction=ddof)

    def max(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("min", self, axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("any", self, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("all", self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Value:
        return call("argmax", self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Value:
        return call("argmin", self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int = 0) -> Value:
        return call("cumulative_sum", self, axis=axis)

    def reshape(self, *shape: Any) -> Value:
        return call("reshape", self, _one_tuple(shape))

    def transpose(self, *axes: Any) -> Value:
        return call("permute_dims", self, _one_tuple(axes) if axes else None)

    def permute(self, *axes: Any) -> Value:
        return call("permute_dims", self, _one_tuple(axes))

    def swapaxes(self, first: int, second: int) -> Value:
        return call("swapaxes", self, first, second)

    def squeeze(self, axis: Any = None) -> Value:
        return call("squeeze", self, axis)

    def flatten(self) -> Value:
        return call("reshape", self, (-1,))

    def ravel(self) -> Value:
        return call("reshape", self, (-1,))

    def clip(self, min: Any = None, max: Any = None) -> Value:
        return call("clip", self, min, max)

    def round(self) -> Value:
        return call("round", self)

    def dot(self, other: object) -> Value:
        return call("matmul", self, other)

    def astype(self, dtype: object) -> Value:
        return call("astype", self, dtype)

    @property
    def T(self) -> Value:  # noqa: N802 - NumPy's name
        return call("permute_dims", self, None)

    # ---- where Python wants a number now

    def __bool__(self) -> bool:
        _refuse(
            f"{self!r} has no truth value while the graph is built: "
            "use gc.ops.where or gc.cond to choose, & | ~ instead of and, or, not; "
            "a < b < c and `v in list` call bool too"
        )

    def __float__(self) -> float:
        _refuse(f"{self!r} is no number yet: compile it and call it")

    def __int__(self) -> int:
        _refuse(f"{self!r} is no number yet: compile it and call it")

    def __index__(self) -> int:
        _refuse(
            f"{self!r} is no number yet: shapes and Python indices must be ints or Dims; "
            "index with x[v] or gc.ops.take, loop with gc.scan or gc.while_loop"
        )

    def __complex__(self) -> complex:
        _refuse(f"{self!r} is no number yet: compile it and call it")

    def __round__(self, digits: int | None = None) -> NoReturn:
        _refuse(f"{self!r} is no number yet: in a formula write gc.ops.round(v)")

    def __format__(self, form: str) -> str:
        if form:
            _refuse(f"{self!r} is no number yet to show as {form!r}: compile it and call it")
        return str(self)

    def item(self) -> NoReturn:
        _refuse(f"{self!r} is no number yet: compile it and call it")

    def numpy(self) -> Any:
        _refuse(f"{self!r} has no data yet: compile it and call it")

    def tolist(self) -> Any:
        _refuse(f"{self!r} has no data yet: compile it and call it")

    def __array__(self, dtype: object = None, copy: object = None) -> Any:
        _refuse(f"{self!r} is no array yet: compile it and call it; in a formula use gc.ops")

    def __contains__(self, item: object) -> bool:
        _refuse(f"`in` needs a truth value now: write (v == x).any() for {self!r}")

    def __len__(self) -> int:
        extent = cast("Value", self).shape[:1]
        if extent and isinstance(extent[0], int):
            return extent[0]
        _refuse(f"{self!r} has no length: " + ("use v.shape[0]" if extent else "it is a scalar"))

    def __iter__(self) -> Iterator[Value]:
        extent = cast("Value", self).shape[:1]
        if not extent or not isinstance(extent[0], int):
            _refuse(
                f"cannot iterate over {self!r}: "
                + ("its length is a Dim; use gc.scan or gc.vmap" if extent else "it is a scalar")
            )
        return (self[i] for i in range(extent[0]))

    # ---- NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = _NUMPY_NAMES.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or kwargs or name not in FUNCTIONS:
            what = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
            options = f" with {', '.join(kwargs)}" if kwargs else ""
            _refuse(f"np.{what}{options} does not work on {self!r}: use the functions of gc.ops")
        return call(name, *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = _NUMPY_NAMES.get(function.__name__, function.__name__)
        if name not in FUNCTIONS:
            _refuse(
                f"np.{function.__name__} does not work on graph values: use the functions of gc.ops"
            )
        return call(name, *args, **kwargs)


def _one_tuple(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    if len(items) == 1 and isinstance(items[0], (tuple, list)):
        return tuple(items[0])
    return items
