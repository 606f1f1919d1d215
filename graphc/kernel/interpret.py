"""Runs a kernel in NumPy, slow and plain: the oracle that every backend is compared with.

A value is an array with one dimension per kernel axis, of size 1 where it does not depend on the
axis. Everything is computed in the declared dtypes. Nothing outside a tensor is read or written;
all checks are made before any store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphc.errors import BindError, KernelError, RuntimeCheckError
from graphc.kernel.build import result_dtypes, size_dim
from graphc.kernel.monoids import MONOIDS, Number, fitted
from graphc.kernel.scalar_ops import evaluate
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Const,
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Result,
    ScalarValue,
    Scan,
    SizeValue,
    Store,
    Term,
)
from graphc.types import Dim, DType, Extent, dtype_of
from graphc.types import evaluate as evaluate_extent

__all__ = ["interpret"]

Array = NDArray[Any]
States = tuple[Array, ...]


def interpret(
    kernel: Kernel,
    inputs: Mapping[str, Any],
    sizes: Mapping[Any, int] | None = None,
    scalars: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """The outputs of ``kernel``, by name, for arrays of its inputs.

    ``sizes`` (by name or Dim) and ``scalars`` (by name) are the run-time ones. BindError where
    arguments do not fit, RuntimeCheckError with the message of the first check that fails.

    >>> from graphc.kernel.text import parse_kernel
    >>> text = "kernel cumsum; axes i:4; in x f32[4]; out y f32[4]; a = load x[i]; "
    >>> text += "s = scan sum a over i; store y[i] = s"
    >>> interpret(parse_kernel(text.replace("; ", chr(10))), {"x": np.float32([1, 2, 3, 4])})["y"]
    array([ 1.,  3.,  6., 10.], dtype=float32)
    """
    run = _Run(kernel, inputs, sizes or {}, scalars or {})
    with np.errstate(all="ignore"):
        for check in kernel.checks:
            if not run.value(check.pred).all():
                raise RuntimeCheckError(check.message)
        prepared = [run.prepared(store) for store in kernel.stores]
        if run.left:
            raise KernelError(f"{kernel.name}: loads leave {', '.join(sorted(run.left))}")
        for store, (index, value) in zip(kernel.stores, prepared, strict=True):
            _write(run.outputs[store.tensor], index, value, store.add)
    return run.outputs


def _write(target: Array, index: tuple[Array, ...], value: Array, add: bool) -> None:
    if not index:
        for element in value.reshape(-1):
            target[()] = target[()] + element if add else element
    elif add:
        np.add.at(target, index, value)
    else:
        target[index] = value


class _Run:
    """The values of one call, memoized by term."""

    def __init__(
        self,
        kernel: Kernel,
        inputs: Mapping[str, Any],
        sizes: Mapping[Any, int],
        scalars: Mapping[str, Any],
    ) -> None:
        self.kernel = kernel
        self.dims = _bind_sizes(kernel, sizes)
        self.position = {name: n for n, (name, _) in enumerate(kernel.axes)}
        self.extents = [self.extent(e) for _, e in kernel.axes]
        self.scalars = self.bind_scalars(scalars)
        self.inputs = {t.name: self.bind(t, inputs) for t in kernel.inputs}
        self.outputs = {t.name: self.initial(t) for t in kernel.outputs}
        self.known: dict[Term, Array | States] = {}
        self.left: set[str] = set()  # tensors that an unguarded load left

    def extent(self, extent: Extent) -> int:
        value = evaluate_extent(extent, self.dims)
        if not isinstance(value, int):
            raise BindError(f"{self.kernel.name}: the size {value} is not given")
        return value

    def bind_scalars(self, scalars: Mapping[str, Any]) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        for scalar in self.kernel.scalars:
            name = scalar.name
            if name not in scalars:
                raise BindError(f"{self.kernel.name}: the scalar {name!r} is not given")
            value = np.asarray(scalars[name]).astype(scalar.dtype.numpy).reshape(())
            low = scalar.min is not None and value < scalar.min
            high = scalar.max is not None and value > self.extent(scalar.max)
            if low or high:
                raise BindError(f"{self.kernel.name}: {name} = {value} breaks its bounds")
            bound[name] = value
        return bound

    def shape(self, tensor: KernelTensor) -> tuple[int, ...]:
        return tuple(self.extent(e) for e in tensor.type.shape)

    def bind(self, tensor: KernelTensor, inputs: Mapping[str, Any]) -> Array:
        if tensor.name not in inputs:
            raise BindError(f"{self.kernel.name}: the input {tensor.name!r} is not given")
        array = np.asarray(inputs[tensor.name])
        shape, dtype = self.shape(tensor), tensor.type.dtype
        if array.shape != shape or array.dtype != dtype.numpy:
            got = f"{array.dtype}{list(array.shape)}"
            raise BindError(
                f"{self.kernel.name}: {tensor.name} is {dtype.numpy}{list(shape)}, got {got}"
            )
        return array

    def initial(self, tensor: KernelTensor) -> Array:
        start = 0 if tensor.init is None else tensor.init
        return np.full(self.shape(tensor), start, tensor.type.dtype.numpy)

    # ---- values

    def value(self, term: Term) -> Array:
        """The array of ``term``; its operands are computed first, without recursion."""
        stack = [term]
        while stack:
            top = stack[-1]
            missing = [t for t in top.operands if t not in self.known]
            if top in self.known or not missing:
                stack.pop()
                if top not in self.known:
                    self.known[top] = self.compute(top)
            else:
                stack.extend(missing)
        return cast(Array, self.known[term])

    def of(self, term: Term) -> Array:
        return cast(Array, self.known[term])

    def compute(self, term: Term) -> Array | States:
        if isinstance(term, Apply):
            return evaluate(term.op, *(self.of(a) for a in term.args))
        if isinstance(term, Result):
            return cast(States, self.known[term.of])[term.index]
        if isinstance(term, Load):
            return self.load(term)
        if isinstance(term, Reduction):
            return self.reduction(term)
        if isinstance(term, Contract):
            return self.contraction(term)
        if isinstance(term, Scan):
            return self.scan(term)
        return self.leaf(term)

    def leaf(self, term: Term) -> Array:
        if isinstance(term, AxisIndex):
            n = self.position[term.axis]
            shape = [1] * len(self.extents)
            shape[n] = self.extents[n]
            return np.arange(self.extents[n], dtype=np.int64).reshape(shape)
        if isinstance(term, Const):
            value: Any = term.value
        elif isinstance(term, SizeValue):
            value = self.extent(term.extent)
        elif isinstance(term, ScalarValue):
            value = self.scalars[term.name]
        else:
            raise KernelError(f"{self.kernel.name}: no value for a {type(term).__name__}")
        return np.full((1,) * len(self.extents), value, term.dtype.numpy)

    def load(self, term: Load) -> Array:
        source = self.inputs[term.tensor]
        index = [self.of(i) for i in term.index]
        inside = np.ones((1,) * len(self.extents), np.bool_)
        for i, extent in zip(index, source.shape, strict=True):
            inside = inside & (i >= 0) & (i < extent)
        if term.pred is None and term.fill is None and not inside.all():
            self.left.add(term.tensor)
        wanted = inside if term.pred is None else inside & self.of(term.pred)
        fill = np.zeros((), source.dtype) if term.fill is None else self.of(term.fill)
        if 0 in source.shape:
            return np.broadcast_to(fill, np.broadcast_shapes(wanted.shape, fill.shape))
        safe = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, source.shape, strict=True))
        taken = source[safe] if safe else source.reshape((1,) * len(self.extents))
        return np.where(wanted, taken, fill)

    def spread(self, array: Array, axes: tuple[str, ...]) -> Array:
        """``array`` with its full extent along ``axes``."""
        numbers = {self.position[a] for a in axes}
        shape = [e if n in numbers else array.shape[n] for n, e in enumerate(self.extents)]
        return np.broadcast_to(array, shape)

    def reduction(self, term: Reduction) -> States:
        monoid = MONOIDS[term.monoid]
        args = tuple(self.spread(self.of(a), term.over) for a in term.args)
        valid = None if term.where is None else self.spread(self.of(term.where), term.over)
        tile = NumpyTile(tuple(self.position[a] for a in term.over), valid)
        dtypes = result_dtypes(term.monoid, term.args, term.merge)
        identity = monoid.identity(dtypes)
        if term.merge:
            return tile.rtree(lambda a, b: monoid.merge(tile, a, b), args, identity)
        return monoid.fold(tile, self.start(identity, dtypes), args)

    def start(self, identity: Sequence[Number], dtypes: Sequence[DType]) -> States:
        ones = (1,) * len(self.extents)
        return tuple(
            np.full(ones, fitted(v, d), d.numpy) for v, d in zip(identity, dtypes, strict=True)
        )

    def contraction(self, term: Contract) -> Array:
        kind = term.dtype.numpy
        a, b = (self.of(t).astype(kind) for t in (term.a, term.b))
        inner = tuple(self.position[x] for x in term.over)
        if term.where is not None:
            kept = np.where(self.of(term.where), a * b, np.zeros((), kind))
            summed = self.spread(kept, term.over).sum(axis=inner, keepdims=True, dtype=kind)
            return np.asarray(summed)
        a = self.spread(a, tuple(x for x in term.over if x not in term.b.axes))
        full_a, labels_a = self.squeezed(a)
        full_b, labels_b = self.squeezed(b)
        kept_axes = sorted({*labels_a, *labels_b} - set(inner))
        product = np.einsum(full_a, labels_a, full_b, labels_b, kept_axes, dtype=kind)
        shape = [e if n in kept_axes else 1 for n, e in enumerate(self.extents)]
        return np.asarray(product).reshape(shape)

    def squeezed(self, array: Array) -> tuple[Array, list[int]]:
        """``array`` without the axes it does not depend on, and the numbers of those it does."""
        labels = [n for n, e in enumerate(self.extents) if array.shape[n] == e]
        return array.reshape([array.shape[n] for n in labels]), labels

    def scan(self, term: Scan) -> States:
        monoid = MONOIDS[term.monoid]
        n = self.position[term.over]
        args = [self.spread(self.of(a), (term.over,)) for a in term.args]
        dtypes = result_dtypes(term.monoid, term.args, False)
        state = self.start(monoid.identity(dtypes), dtypes)
        tile = NumpyTile((n,), None)
        rows: list[States] = []
        order = range(self.extents[n])
        for p in reversed(order) if term.reverse else order:
            after = monoid.step(tile, state, tuple(a.take([p], n) for a in args))
            rows.append(state if term.exclusive else after)
            state = after
        if term.reverse:
            rows.reverse()
        whole = np.broadcast_shapes(*(s.shape for s in state))
        return tuple(
            np.concatenate([np.broadcast_to(row[i], whole) for row in rows], n)
            if rows
            else state[i].take([], n)
            for i in range(len(state))
        )

    # ---- stores

    def prepared(self, store: Store) -> tuple[tuple[Array, ...], Array]:
        """Index and value of each element that ``store`` writes, as flat arrays."""
        shape = [e if name in store.axes else 1 for (name, _), e in self.numbered()]
        index = [np.broadcast_to(self.value(i), shape) for i in store.index]
        value = np.broadcast_to(self.value(store.value), shape)
        keep = np.ones(shape, np.bool_)
        if store.pred is not None:
            keep = np.broadcast_to(self.value(store.pred), shape)
        target = self.outputs[store.tensor]
        chosen = [i[keep] for i in index]
        for i, extent in zip(chosen, target.shape, strict=True):
            if ((i < 0) | (i >= extent)).any():
                raise KernelError(f"{self.kernel.name}: store {store.tensor} leaves the tensor")
        return tuple(chosen), value[keep]

    def numbered(self) -> list[tuple[tuple[str, Extent], int]]:
        return list(zip(self.kernel.axes, self.extents, strict=True))


class NumpyTile:
    """The tile operations of monoids on NumPy arrays; ``valid`` None means no element is masked."""

    def __init__(self, axes: tuple[int, ...], valid: Array | None) -> None:
        self.axes = axes
        self.valid = valid

    def op(self, name: str, *values: Array) -> Array:
        return evaluate(name, *values)

    def const(self, value: Number, like: Array) -> Array:
        return np.full_like(like, fitted(value, dtype_of(like.dtype)))

    def mask(self, value: Array, identity: Number) -> Array:
        if self.valid is None:
            return value
        neutral = np.asarray(fitted(identity, dtype_of(value.dtype))).astype(value.dtype)
        return np.where(self.valid, value, neutral)

    def rsum(self, value: Array) -> Array:
        return np.asarray(value.sum(axis=self.axes, keepdims=True, dtype=value.dtype))

    def rprod(self, value: Array) -> Array:
        return np.asarray(value.prod(axis=self.axes, keepdims=True, dtype=value.dtype))

    def rmax(self, value: Array) -> Array:
        lowest = fitted(-np.inf, dtype_of(value.dtype))
        return np.asarray(np.max(value, axis=self.axes, keepdims=True, initial=lowest))

    def rmin(self, value: Array) -> Array:
        highest = fitted(np.inf, dtype_of(value.dtype))
        return np.asarray(np.min(value, axis=self.axes, keepdims=True, initial=highest))

    def rdot(self, weights: Array, value: Array) -> Array:
        return self.rsum(self.mask(weights * value, 0.0))

    def rtree(
        self,
        merge: Callable[[States, States], States],
        states: States,
        identity: tuple[Number, ...],
    ) -> States:
        """One after the other, the first axis slowest."""
        masked = [self.mask(s, v) for s, v in zip(states, identity, strict=True)]
        spread = [s.shape[n] for s in masked for n in self.axes]
        total = tuple(
            np.full((1,) * s.ndim, fitted(v, dtype_of(s.dtype)), s.dtype)
            for s, v in zip(masked, identity, strict=True)
        )
        for point in np.ndindex(*spread[: len(self.axes)]):
            total = merge(total, tuple(self.element(s, point) for s in masked))
        return total

    def element(self, array: Array, point: tuple[int, ...]) -> Array:
        for n, p in zip(self.axes, point, strict=True):
            array = array.take([p], n)
        return array


def _bind_sizes(kernel: Kernel, sizes: Mapping[Any, int]) -> dict[Dim, int]:
    by_name = {k.name if isinstance(k, Dim) else str(k): int(v) for k, v in sizes.items()}
    dims: dict[Dim, int] = {}
    for symbol in kernel.sizes:
        if symbol.name not in by_name:
            raise BindError(f"{kernel.name}: the size {symbol.name} is not given")
        value = by_name[symbol.name]
        too_large = symbol.max is not None and value > symbol.max
        if value < symbol.min or too_large or value % symbol.multiple_of:
            raise BindError(f"{kernel.name}: {symbol.name} = {value} breaks its declaration")
        dims[size_dim(symbol)] = value
    return dims
