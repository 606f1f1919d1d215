"""The border between a caller's objects and typed buffers: every backend converts and explains
here.

Compiled entries check exactly matching arrays themselves; whatever else comes ends up in
``bind_arguments``, which gives dense arrays of the declared element types and the sizes of the
run-time dims, or says what is wrong:

- a Python or NumPy scalar, 0-d array or nested list of Python numbers is weak: it takes the
declared element type as
  long as it keeps its kind (int to float is fine, float to int is not);
- an array keeps its element type; only integers widen (and only to a type that holds every value);
- an array in another memory layout or misaligned is copied; a CPU tensor of another library comes
in by DLPack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import BindError, DTypeError, ShapeError
from graphc.records import dataclass
from graphc.types import Dim, DType, Extent, SourceLoc, TensorType, dtype_of

__all__ = ["Parameter", "bind_arguments", "bind_shape", "convert", "order_arguments"]

_KINDS = "biuf"  # from narrow to wide


@dataclass(frozen=True)
class Parameter:
    """What an executable expects as one argument."""

    name: str
    type: TensorType
    source: SourceLoc | None = None


def bind_arguments(
    parameters: Sequence[Parameter],
    args: Sequence[object],
    by_name: Mapping[str, object] | None = None,
    *,
    who: str = "call",
    on_device: Callable[[object], TensorType | None] = lambda value: None,
) -> tuple[list[Any], dict[Dim, int]]:
    """Arrays in the parameters' order, and the sizes of their dims.

    ``on_device`` gives the type of a value that already lies where the program runs: it stays as it
    is, and must fit.

    >>> from graphc.types import float32
    >>> b = Dim("B", specialize=False)
    >>> x = Parameter("x", TensorType(float32, (b, 2)))
    >>> arrays, sizes = bind_arguments([x], [np.ones((3, 2), np.float32)])
    >>> sizes
    {B: 3}
    """
    values = order_arguments(parameters, args, by_name or {}, who=who)
    arrays: list[Any] = []
    shapes: list[Sequence[int]] = []
    for parameter, value in zip(parameters, values, strict=True):
        type_ = on_device(value)
        arrays.append(convert(parameter, value) if type_ is None else value)
        shapes.append(arrays[-1].shape if type_ is None else _resident(parameter, type_))
    sizes: dict[Dim, int] = {}
    first: dict[Dim, str] = {}
    for parameter, shape in zip(parameters, shapes, strict=True):
        bind_shape(parameter, shape, sizes, first)
    for parameter, shape in zip(parameters, shapes, strict=True):
        _check_derived(parameter, shape, sizes)
    return arrays, sizes


def _resident(parameter: Parameter, type_: TensorType) -> tuple[int, ...]:
    """The shape of an array on the device, whose element type must be right already."""
    if type_.dtype != parameter.type.dtype:
        raise DTypeError(
            f"{parameter.name!r}: expected {parameter.type}, got {type_} on the device; convert it "
            "there",
            parameter.source,
        )
    return tuple(e for e in type_.shape if isinstance(e, int))


def order_arguments(
    parameters: Sequence[Parameter],
    args: Sequence[object],
    by_name: Mapping[str, object],
    *,
    who: str = "call",
) -> list[object]:
    """Positional and named arguments in the parameters' order; BindError for a wrong number or
    name.
    """
    names = [p.name for p in parameters]
    expected = f"{who} takes {len(names)} arguments ({', '.join(names)})"
    if len(args) > len(names):
        raise BindError(f"{expected}, got {len(args)}")
    values = dict(zip(names, args, strict=False))
    for name, value in by_name.items():
        if name not in names:
            raise BindError(f"{expected}, got an unexpected {name!r}")
        if name in values:
            raise BindError(f"{who}: {name!r} is given twice, by position and by name")
        values[name] = value
    missing = [name for name in names if name not in values]
    if missing:
        raise BindError(f"{expected}; missing: {', '.join(missing)}")
    return [values[name] for name in names]


def convert(parameter: Parameter, value: object) -> NDArray[Any]:
    """A dense, aligned ndarray of the parameter's element type, copied only where it must be."""
    target = parameter.type.dtype
    array, weak = _as_array(parameter, value)
    if array.dtype != target.numpy:
        array = _retyped(parameter, array, weak)
    dense = np.require(array, target.numpy, ("C", "A"))
    if type(dense) is not np.ndarray or dense.dtype is not target.numpy:
        dense = dense.view(np.ndarray).view(target.numpy)
    return dense


def _as_array(parameter: Parameter, value: object) -> tuple[NDArray[Any], bool]:
    """The value as an array, and whether its element type is weak."""
    if isinstance(value, np.ndarray):
        return value, value.ndim == 0
    if isinstance(value, (bool, int, float, np.generic)):
        return np.asarray(value), True
    if isinstance(value, (list, tuple)):
        return _from_list(parameter, value), True
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value), False
        except (BufferError, RuntimeError, TypeError) as error:
            raise BindError(
                f"{parameter.name!r}: {type(value).__name__} is no CPU array ({error}); "
                "pass a NumPy array (for a tensor: .detach().cpu().numpy())",
                parameter.source,
            ) from error
    raise BindError(
        f"{parameter.name!r}: expected an array of {parameter.type}, got "
        f"{type(value).__name__}; convert it with np.asarray",
        parameter.source,
    )


def _from_list(parameter: Parameter, value: object) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        message = f"{parameter.name!r}: the nested list is ragged"
        raise ShapeError(message, parameter.source) from error
    if array.dtype.kind not in _KINDS and array.size:
        raise DTypeError(
            f"{parameter.name!r}: a list of {array.dtype} is not {parameter.type}", parameter.source
        )
    return array if array.size else array.astype(parameter.type.dtype.numpy)


def _retyped(parameter: Parameter, array: NDArray[Any], weak: bool) -> NDArray[Any]:
    target = parameter.type.dtype
    try:
        source = dtype_of(array.dtype)
    except TypeError:
        source = None
    if source is None and array.dtype.newbyteorder("=") == target.numpy:
        return array.astype(target.numpy)  # only the byte order differs
    if weak and _keeps_kind(array.dtype.kind, target):
        return _weakly(parameter, array)
    if source is not None and _widens(source, target):
        return array.astype(target.numpy)
    got = str(array.dtype) if source is None else str(source)
    module = "ml_dtypes" if target.name == "bfloat16" else "np"
    remedy = f"write {parameter.name}.astype({module}.{target.name})"
    if array.dtype.kind == "O":
        remedy = "an array of Python objects holds no numbers"
    shape = ",".join(map(str, array.shape))
    raise DTypeError(
        f"{parameter.name!r}: expected {parameter.type}, got {got}[{shape}]; {remedy}",
        parameter.source,
    )


def _keeps_kind(kind: str, target: DType) -> bool:
    if kind == "b" or target.kind == "b":
        return kind == target.kind
    return kind in "iu" or (kind == "f" and target.is_float)


def _widens(source: DType, target: DType) -> bool:
    """Whether every value of an integer type is one of another."""
    if not (source.is_integer and target.is_integer):
        return False
    if source.kind == target.kind:
        return source.itemsize <= target.itemsize
    return source.kind == "u" and source.itemsize < target.itemsize


def _weakly(parameter: Parameter, array: NDArray[Any]) -> NDArray[Any]:
    target = parameter.type.dtype
    if target.is_integer and array.size:
        limits = np.iinfo(target.numpy)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            odd = low if low < limits.min else high
            raise DTypeError(f"{parameter.name!r}: {odd} does not fit {target}", parameter.source)
    return array.astype(target.numpy)


def bind_shape(
    parameter: Parameter, shape: Sequence[int], sizes: dict[Dim, int], first: dict[Dim, str]
) -> None:
    """Match a shape against the parameter's, and bind its plain dims into ``sizes``.

    ``first`` says which parameter bound a dim. ShapeError for a wrong rank or extent, or a dim
    bound to two sizes.
    """
    declared = parameter.type.shape
    if len(shape) != len(declared):
        raise ShapeError(
            f"{parameter.name!r}: expected {parameter.type} ({len(declared)} axes), got shape "
            f"{tuple(shape)} ({len(shape)} axes)",
            parameter.source,
        )
    for axis, (extent, got) in enumerate(zip(declared, shape, strict=True)):
        if isinstance(extent, int) and extent != got:
            raise _extent_error(parameter, shape, axis, str(extent), got)
        if isinstance(extent, Dim):
            _bind_dim(parameter, shape, axis, extent, sizes, first)


def _bind_dim(
    parameter: Parameter,
    shape: Sequence[int],
    axis: int,
    dim: Dim,
    sizes: dict[Dim, int],
    first: dict[Dim, str],
) -> None:
    got = shape[axis]
    if sizes.setdefault(dim, got) != got:
        raise ShapeError(
            f"{dim} is {sizes[dim]} in {first[dim]!r} but {got} in {parameter.name!r} "
            f"(axis {axis} of shape {tuple(shape)})",
            parameter.source,
        )
    first.setdefault(dim, parameter.name)
    too_large = dim.max is not None and got > dim.max
    if got < dim.min or too_large or got % dim.multiple_of:
        upper = "" if dim.max is None else str(dim.max)
        multiple = "" if dim.multiple_of == 1 else f", a multiple of {dim.multiple_of}"
        limits = f"{dim} in {dim.min}..{upper}{multiple}"
        raise _extent_error(parameter, shape, axis, limits, got)


def _check_derived(parameter: Parameter, shape: Sequence[int], sizes: Mapping[Dim, int]) -> None:
    """Extents such as ``2*B+1``, once every plain dim is bound."""
    for axis, (extent, got) in enumerate(zip(parameter.type.shape, shape, strict=True)):
        if isinstance(extent, (int, Dim)):
            continue
        value: Extent = extent.evaluate(sizes)
        if not isinstance(value, int):
            raise ShapeError(
                f"{parameter.name!r}: axis {axis} is {extent}, and no argument has an axis that is "
                f"{value} alone to bind it",
                parameter.source,
            )
        if value != got:
            raise _extent_error(parameter, shape, axis, f"{extent} = {value}", got)


def _extent_error(
    parameter: Parameter, shape: Sequence[int], axis: int, expected: str, got: int
) -> ShapeError:
    return ShapeError(
        f"{parameter.name!r}: expected {parameter.type}, got shape {tuple(shape)}: axis {axis} "
        f"is {got}, not {expected}",
        parameter.source,
    )
