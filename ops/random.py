"""Counter-based random numbers: a pure function of a key and of an element's place (Philox4x32-10).

A key is an int64 (two 32-bit words). ``derive`` (elementwise) makes new keys from it;
``random_bits`` the words. So fusion, order, threads and recomputation change no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.graph import Node, Value, apply
from graphc.kernel import build, scalar_ops
from graphc.kernel.terms import Term
from graphc.op import (
    Array,
    ErrorSample,
    Index,
    Inputs,
    Lanes,
    LowerContext,
    Op,
    Sample,
    int_shape,
    register,
    single,
    tensor,
)
from graphc.ops.lifting import lift_one, who
from graphc.ops.shape import flat_index
from graphc.types import DType, Extent, Shape, Size, TensorType, float32, int64, uint32

__all__ = ["bits_to_uniform", "derive_key", "normal_from", "random_bits", "uniform_from"]

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]


def _bits_type(types: Types, attrs: Attrs) -> Types:
    (key,) = types
    if key.dtype != int64:
        raise DTypeError(f"{who('random_bits')}: the key is {key}, it must be int64")
    shape = attrs["shape"]
    if not isinstance(shape, tuple) or not all(isinstance(e, (int, Size)) for e in shape):
        raise ShapeError(
            f"{who('random_bits')}: a shape is a tuple of ints and Dims, got {shape!r}"
        )
    return (TensorType(uint32, (*key.shape, *shape)),)


def _bits_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    key, shape = arrays[0], attrs["shape"]
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    spread = np.broadcast_to(key.reshape(key.shape + (1,) * len(shape)), int_shape(types[0]))
    return (scalar_ops.evaluate("bits", spread, np.broadcast_to(numbers, spread.shape)),)


def _bits_lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index) -> Term:
    lanes = node.inputs[0].ndim
    number = flat_index(index[lanes:], node.attrs["shape"])
    return build.apply("bits", inputs[0](index[:lanes]), number)


def _bits_batch(node: Node, inputs: Sequence[Value], lanes: Lanes) -> Sequence[Value]:
    """Keys lead: a lane is one more axis of keys."""
    return (apply("random_bits", *inputs, **node.attrs),)



register(
    Op(
        "random_bits",
        "uint32 words of Philox4x32-10: for every key (its axes lead) a tensor of ``shape``, "
        "word n for the n-th element in row-major order.",
        _bits_type,
        _bits_reference,
        lower=single(_bits_lower),
        samples=(
            Sample((tensor((), int64),), {"shape": (3, 5)}),
            Sample((tensor((2,), int64),), {"shape": (7,)}),
            Sample((tensor((), int64),), {"shape": ()}),
            Sample((tensor((), int64),), {"shape": (0,)}),
        ),
        error_samples=(
            ErrorSample((tensor(()),), {"shape": (2,)}, DTypeError, "must be int64"),
            ErrorSample((tensor((), int64),), {"shape": [2]}, ShapeError, "tuple"),
        ),
        batch=_bits_batch,
    )
)


def _site_type(types: Types, attrs: Attrs) -> Types:
    return (TensorType(int64, ()),)


register(
    Op(
        "site",
        "The number of the place of a draw in the program: closing makes it from the block path.",
        _site_type,
        None,
        kind="graph",
        samples=(Sample(()),),
    )
)


def random_bits(key: Value, shape: Sequence[Extent]) -> Value:
    """uint32 words: key.shape + shape."""
    return apply("random_bits", key, shape=tuple(shape))


def derive_key(key: Value, a: object, b: object = 0) -> Value:
    """A new key from ``key`` and a counter of two int64 scalars."""
    values = [lift_one("derive_key", x) for x in (a, b)]
    wide = [v if v.dtype == int64 else apply("cast", v, dtype=int64) for v in values]
    return apply("derive", key, *wide)


def bits_to_uniform(bits: Value, dtype: DType = float32) -> Value:
    """(bits >> 8) * 2^-24: in [0, 1), the same numbers on every machine."""
    whole = apply("cast", bits >> 8, dtype=float32)
    number = whole * 2.0**-24
    return number if dtype == float32 else apply("cast", number, dtype=dtype)


def uniform_from(key: Value, shape: Shape, dtype: DType = float32) -> Value:
    """Uniform numbers in [0, 1)."""
    return bits_to_uniform(random_bits(key, shape), dtype)


def normal_from(key: Value, shape: Shape, dtype: DType = float32) -> Value:
    """Standard normal numbers: Box-Muller on the words 2n and 2n + 1."""
    pair = bits_to_uniform(random_bits(key, (*shape, 2)))
    radius = apply("sqrt", apply("log1p", -pair[..., 0]) * -2.0)
    number = radius * apply("cos", pair[..., 1] * (2.0 * math.pi))
    return number if dtype == float32 else apply("cast", number, dtype=dtype)
