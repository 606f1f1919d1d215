"""``kernel``: a kernel written by hand in the Kernel IR, as an op like any other.

Its terms are read where the op is lowered: loads become the op's inputs, the axes of a store the
place of the result's element. So it fuses with what stands around it and runs on every backend::

    store y[i, j] = e / s          y at (p, q)  ->  e / s with p for i and q for j
    store y[4*b + k] = v           y at p       ->  v with p // 4 for b and p % 4 for k

A reduction gets axes of its own. What is said of stores is checked when the text is read
(``parsed``): each output is written once, in whole, at an index that gives back the axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np

from graphc.errors import DTypeError, GradError, KernelError, ShapeError
from graphc.graph import Node
from graphc.kernel import build
from graphc.kernel.build import size_dim
from graphc.kernel.interpret import interpret
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Const,
    Contract,
    Kernel,
    Load,
    Reduction,
    Result,
    ScalarValue,
    Scan,
    SizeValue,
    Store,
    Term,
    postorder,
)
from graphc.kernel.text import parse_kernel
from graphc.kernel.verify import verify
from graphc.op import (
    Access,
    Array,
    Cotangents,
    ErrorSample,
    Index,
    Inputs,
    LowerContext,
    Op,
    Sample,
    Transform,
    register,
    tensor,
)
from graphc.ops.loop import lane_by_lane
from graphc.types import Dim, Extent, TensorType, evaluate, int64

__all__ = ["Declared", "parsed"]

Types = tuple[TensorType, ...]
Attrs = Mapping[str, Any]
Sizes = Mapping[Dim, Extent]
#: an axis and its stride in one dimension of a store, the largest stride first
Digits = tuple[tuple[str, int], ...]


class Declared:
    """A kernel that can be an op, and for each output the store that writes it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.names = (*(t.name for t in kernel.inputs), *(s.name for s in kernel.scalars))
        self.inputs = (*(t.type for t in kernel.inputs), *_scalar_types(kernel))
        self.stores = tuple(_store_of(kernel, t.name) for t in kernel.outputs)
        self.digits = tuple(_digits_of(kernel, store) for store in self.stores)
        self.sizes = {size_dim(s): s for s in kernel.sizes}
        _check_sizes(self)
        _check_checks(self)


@lru_cache(maxsize=256)
def parsed(text: str) -> Declared:
    """The kernel of a text, verified, its stores understood; ParseError, VerifyError or KernelError
    say what is wrong.
    """
    return Declared(verify(parse_kernel(text)))


# ---- what can be an op


def _scalar_types(kernel: Kernel) -> Types:
    return tuple(TensorType(s.dtype, ()) for s in kernel.scalars)


def _refuse(kernel: Kernel, what: str) -> KernelError:
    return KernelError(f"kernel {kernel.name}: {what}")


def _store_of(kernel: Kernel, name: str) -> Store:
    stores = [s for s in kernel.stores if s.tensor == name]
    if len(stores) != 1:
        raise _refuse(kernel, f"output {name} is stored {len(stores)} times; an op stores it once")
    (store,) = stores
    if store.add:
        raise _refuse(
            kernel,
            f"`store add {name}`: an op's element is computed in one place: reduce over what is "
            "added (`reduce sum v over j where ...`), or use gc.ops.segment_sum",
        )
    if store.pred is not None:
        raise _refuse(kernel, f"{name} is stored under a condition; say where(pred, value, other)")
    return store


def _digits_of(kernel: Kernel, store: Store) -> tuple[Digits, ...]:
    """For each dimension of a store the axes that its index is made of."""
    shape = kernel.tensors[store.tensor].type.shape
    found: list[Digits] = []
    for number, (term, extent) in enumerate(zip(store.index, shape, strict=True)):
        digits = _digits(kernel, term)
        if digits is None or not _covers(kernel, digits, extent):
            raise _refuse(
                kernel,
                f"dimension {number} of {store.tensor} is stored at an index that does not count "
                "through it: plain axes do, and blocks of one (16*b + k)",
            )
        found.append(digits)
    axes = [axis for digits in found for axis, _ in digits]
    if len(set(axes)) < len(axes):
        raise _refuse(kernel, f"an axis stands twice in the index that stores {store.tensor}")
    loose = store.axes - set(axes)
    if loose:
        raise _refuse(kernel, f"{store.tensor} depends on axis {min(loose)}, which its index lacks")
    return tuple(found)


def _digits(kernel: Kernel, term: Term) -> Digits | None:
    """``16*b + k`` as ((b, 16), (k, 1)); None for anything else."""
    found: list[tuple[str, int]] = []
    stack = [(term, 1)]
    while stack:
        part, factor = stack.pop()
        match part:
            case AxisIndex(axis=axis):
                found.append((axis, factor))
            case Const(value=0):
                continue
            case Apply(op="+", args=(left, right)):
                stack += [(left, factor), (right, factor)]
            case (
                Apply(op="*", args=(Const(value=int(scale)), inner))
                | Apply(op="*", args=(inner, Const(value=int(scale))))
            ):
                stack.append((inner, factor * scale))
            case _:
                return None
    # an axis of extent 1 counts nothing, so it comes after one of its stride
    return tuple(sorted(found, key=lambda digit: (-digit[1], kernel.extents[digit[0]] == 1)))


def _covers(kernel: Kernel, digits: Digits, extent: Extent) -> bool:
    """Whether the digits count through 0..extent-1, each number once."""
    stride: Extent = 1
    for axis, factor in reversed(digits):
        if stride != factor:
            return False
        stride = stride * kernel.extents[axis]
    return bool(stride == extent)


def _check_sizes(declared: Declared) -> None:
    known = {e for t in declared.inputs for e in t.shape if isinstance(e, Dim)}
    for dim in declared.sizes:
        if dim not in known:
            raise _refuse(
                declared.kernel, f"size {dim} is no input's extent, so nothing says what it is"
            )


def _check_checks(declared: Declared) -> None:
    """Each check must speak of axes that some output has: it is made where that is computed."""
    for check in declared.kernel.checks:
        if not any(check.axes <= _reach(store) for store in declared.stores):
            raise _refuse(declared.kernel, f"no output has the axes of check {check.message!r}")


def _reach(store: Store) -> frozenset[str]:
    """The axes that a store has or binds."""
    found = set(store.axes)
    for term in postorder(store.operands):
        if isinstance(term, Reduction | Contract):
            found.update(term.over)
        elif isinstance(term, Scan):
            found.add(term.over)
    return frozenset(found)


# ---- type


def _kernel_type(types: Types, attrs: Attrs) -> Types:
    declared = parsed(attrs["text"])
    sizes = _sizes_of(declared, types)
    return tuple(
        TensorType(t.type.dtype, tuple(_bound(e, sizes) for e in t.type.shape))
        for t in declared.kernel.outputs
    )


def _sizes_of(declared: Declared, types: Types) -> Sizes:
    """The sizes that make the declared inputs the given ones; an error where none do."""
    name, wanted = declared.kernel.name, declared.inputs
    if len(types) != len(wanted):
        listed = ", ".join(f"{n} {t}" for n, t in zip(declared.names, wanted, strict=True))
        raise ShapeError(
            f"kernel {name} takes {len(wanted)} inputs ({listed}), it is given {len(types)}"
        )
    sizes: dict[Dim, Extent] = {}
    for label, want, got in zip(declared.names, wanted, types, strict=True):
        if want.dtype != got.dtype:
            raise DTypeError(f"kernel {name}: {label} is {want}, it is given {got}; cast it")
        if want.ndim != got.ndim:
            raise ShapeError(f"kernel {name}: {label} is {want}, it is given {got}")
        for extent, size in zip(want.shape, got.shape, strict=True):
            if isinstance(extent, Dim):
                sizes.setdefault(extent, size)
    for label, want, got in zip(declared.names, wanted, types, strict=True):
        shape = tuple(_bound(e, sizes) for e in want.shape)
        if shape != got.shape:
            raise ShapeError(
                f"kernel {name}: {label} is {want}, it is given {got}"
                + "".join(f"; {n} is {e}" for n, e in sizes.items())
            )
    for dim, extent in sizes.items():
        _check_limits(declared, dim, extent)
    return sizes


def _check_limits(declared: Declared, dim: Dim, extent: Extent) -> None:
    symbol = declared.sizes[dim]
    if not isinstance(extent, int):
        return
    high = symbol.max is not None and extent > symbol.max
    if extent < symbol.min or high or extent % symbol.multiple_of:
        raise ShapeError(
            f"kernel {declared.kernel.name}: size {dim} is {extent}, outside of what it declares"
        )


def _bound(extent: Extent, sizes: Sizes) -> Extent:
    """``extent`` with the kernel's sizes replaced by those of the call."""
    return evaluate(extent, cast("Mapping[Dim, int]", sizes))


def _kernel_reference(arrays: Sequence[Array], attrs: Attrs, types: Types) -> Sequence[Array]:
    declared = parsed(attrs["text"])
    given = dict(zip(declared.names, arrays, strict=True))
    tensors = {t.name: given[t.name] for t in declared.kernel.inputs}
    scalars = {s.name: given[s.name].item() for s in declared.kernel.scalars}
    pairs = zip(declared.inputs, arrays, strict=True)
    actual = tuple(TensorType(t.dtype, a.shape) for t, a in pairs)
    sizes = {d: e for d, e in _sizes_of(declared, actual).items() if isinstance(e, int)}
    found = interpret(declared.kernel, tensors, sizes, scalars)
    return [np.asarray(found[t.name]) for t in declared.kernel.outputs]


# ---- lowering


class _Reading:
    """The terms of a kernel as those of one element of an output."""

    def __init__(self, ctx: LowerContext, node: Node, inputs: Inputs) -> None:
        self.ctx = ctx
        self.declared = parsed(node.attrs["text"])
        self.kernel = self.declared.kernel
        self.sizes = _sizes_of(self.declared, tuple(v.type for v in node.inputs))
        self.access: dict[str, Access] = dict(zip(self.declared.names, inputs, strict=True))
        self.bound: dict[str, Term] = {}
        self._made: dict[tuple[int, tuple[int, ...]], Term] = {}
        self._states: dict[tuple[int, tuple[int, ...]], Mapping[int, Term]] = {}

    def element(self, output: int, index: Index) -> Term:
        """The element of an output at ``index``, its checks made."""
        store = self.declared.stores[output]
        places = self.places(output, index)
        reach = _reach(store)
        for check in self.kernel.checks:
            if check.axes <= reach:
                around = {a: places.get(a) or self.fresh(a) for a in check.axes}
                self.ctx.check(self.term(check.pred, around), check.message)
        self._limit_scalars()
        return self.term(store.value, places)

    def places(self, output: int, index: Index) -> dict[str, Term]:
        """Each axis of a store from the element's index."""
        found: dict[str, Term] = {}
        for term, digits in zip(index, self.declared.digits[output], strict=True):
            for position, (axis, stride) in enumerate(digits):
                place = term if stride == 1 else build.apply("//", term, build.const(stride))
                if position:
                    place = build.apply("%", place, build.size(self.extent(axis)))
                found[axis] = place
        return found

    def extent(self, axis: str) -> Extent:
        return _bound(self.kernel.extents[axis], self.sizes)

    def fresh(self, axis: str) -> Term:
        """The axis that reductions over ``axis`` bind."""
        if axis not in self.bound:
            self.bound[axis] = self.ctx.axis(self.extent(axis), axis)
        return self.bound[axis]

    def _limit_scalars(self) -> None:
        """A scalar's declared bounds prove indices, so they are checked."""
        for scalar in self.kernel.scalars:
            value = self.access[scalar.name](())
            for op, limit in ((">=", scalar.min), ("<=", scalar.max)):
                if limit is not None:
                    wide = build.cast(value, int64)  # a size may be beyond its type
                    pred = build.apply(op, wide, build.size(_bound(limit, self.sizes)))
                    self.ctx.check(pred, f"{scalar.name} is outside of its declared range")

    def term(self, term: Term, places: Mapping[str, Term]) -> Term:
        """``term`` with ``places`` for its axes."""
        key = id(term), tuple(id(places[a]) for a in sorted(term.axes))
        if key not in self._made:
            self._made[key] = self._term(term, places)
        return self._made[key]

    def _term(self, term: Term, places: Mapping[str, Term]) -> Term:
        match term:
            case AxisIndex(axis=axis):
                return places[axis]
            case Apply(op=op, args=args):
                return build.apply(op, *(self.term(a, places) for a in args))
            case Load():
                return self._load(term, places)
            case Result(of=of, index=index):
                return self._states_of(of, places)[index]
            case Contract(a=a, b=b, over=over, where=where, dtype=dtype):
                inside, axes = self._binding(over, places)
                pred = None if where is None else self.term(where, inside)
                return build.contract(
                    self.term(a, inside), self.term(b, inside), axes, pred, dtype
                )
            case SizeValue(extent=extent):
                return build.size(_bound(extent, self.sizes))
            case Const():
                return term
            case _:  # a run-time scalar
                assert isinstance(term, ScalarValue)
                return self.access[term.name](())

    def _binding(
        self, over: Sequence[str], places: Mapping[str, Term]
    ) -> tuple[dict[str, Term], list[str]]:
        inside = {**places, **{a: self.fresh(a) for a in over}}
        axes = [t.axis for t in (inside[a] for a in over) if isinstance(t, AxisIndex)]
        return inside, axes

    def _states_of(
        self, of: Reduction | Scan, places: Mapping[str, Term]
    ) -> Mapping[int, Term]:
        axes = of.axes.union(*(a.axes for a in of.args)) & places.keys()
        key = id(of), tuple(id(places[a]) for a in sorted(axes))
        if key not in self._states:
            self._states[key] = self._reduced(of, places)
        return self._states[key]

    def _reduced(self, of: Reduction | Scan, places: Mapping[str, Term]) -> Mapping[int, Term]:
        """The states by number; without those of axes that this element does not have."""
        if isinstance(of, Scan):
            along = places.get(of.over) or self.fresh(of.over)
            if not isinstance(along, AxisIndex):
                raise _refuse(self.kernel, f"the scanned axis {of.over} is no plain axis here")
            args = [self.term(a, {**places, of.over: along}) for a in of.args]
            made = build.scan(of.monoid, args, along.axis, of.reverse, of.exclusive)
            return dict(enumerate(made))
        inside, axes = self._binding(of.over, places)
        kept = [n for n, a in enumerate(of.args) if a.axes <= inside.keys()]
        pred = None if of.where is None else self.term(of.where, inside)
        args = [self.term(of.args[n], inside) for n in kept]
        made = build.reduce(of.monoid, args, axes, pred, of.merge)
        if len(kept) == len(of.args):
            return dict(enumerate(made))
        return dict(zip(kept, made, strict=True))

    def _load(self, load: Load, places: Mapping[str, Term]) -> Term:
        index = tuple(self.term(i, places) for i in load.index)
        dtype = load.dtype
        pred = None if load.pred is None else self.term(load.pred, places)
        if load.fill is not None:
            pred = build.conjunction(pred, *self._inside(load, index))
        access = self.access[load.tensor]
        if pred is None:
            return access(index)
        fill = build.const(0, dtype) if load.fill is None else self.term(load.fill, places)
        return self.ctx.masked(access, index, pred, fill)

    def _inside(self, load: Load, index: Index) -> list[Term]:
        """What makes an index lie inside its tensor, where it is no plain axis of its extent."""
        shape = self.kernel.tensors[load.tensor].type.shape
        found = []
        for old, term, extent in zip(load.index, index, shape, strict=True):
            plain = isinstance(old, AxisIndex) and self.kernel.extents[old.axis] == extent
            if not plain:
                place = build.cast(term, int64)
                size = build.size(_bound(extent, self.sizes))
                found += [build.apply(">=", place, build.const(0)), build.apply("<", place, size)]
        return found


def _kernel_lower(
    ctx: LowerContext, node: Node, inputs: Inputs, index: Index, output: int = 0
) -> Term:
    return _Reading(ctx, node, inputs).element(output, index)


# ---- derivatives


def _no_derivative(node: Node, flowing: Cotangents, transform: Transform) -> Cotangents:
    name = parsed(node.attrs["text"]).kernel.name
    raise GradError(
        f"kernel {name} has no derivative: call it inside a gc.custom_gradient function, whose "
        "backward says it, or say gc.stop_gradient of its inputs",
        node.source,
    )


_SOFTMAX = """kernel softmax
  size n 1..
  axes i:n j:5
  in x f32[n,5]
  out y f32[n,5], m f32[n]
  a = load x[i, j]
  top = reduce max a over j
  e = exp(a - top)
  s = reduce sum e over j
  store y[i, j] = e / s
  store m[i] = top
"""
_BLOCKS = """kernel blocks
  axes b:3 k:4 d:2
  in x f32[12,2], t i64[12]
  scalar pos i64 0..11
  out y f32[12,2]
  label = load t[4*b + k]
  check label >= 0 and label < 12 "a label is out of range"
  a = load x[4*b + k - 1, d] else 0.5
  c = load x[label, d]
  p = load x[pos, d]
  store y[4*b + k, d] = a + c * p
"""

register(
    Op(
        "kernel",
        "The outputs of a kernel written by hand; attrs['text'] is its text.",
        _kernel_type,
        _kernel_reference,
        _no_derivative,
        _no_derivative,
        _kernel_lower,
        samples=(
            Sample((tensor((3, 5)),), {"text": _SOFTMAX}, differentiable=False),
            Sample(
                (tensor((12, 2)), tensor((12,), int64), tensor((), int64)),
                {"text": _BLOCKS},
                arrays={1: np.arange(12)[::-1].copy(), 2: np.asarray(3)},
                differentiable=False,
            ),
        ),
        error_samples=(
            ErrorSample((tensor((3, 4)),), {"text": _SOFTMAX}, ShapeError, "x is f32.n,5."),
            ErrorSample((tensor((3, 5), int64),), {"text": _SOFTMAX}, DTypeError, "cast it"),
            ErrorSample((), {"text": _SOFTMAX}, ShapeError, "takes 1 inputs"),
        ),
        batch=lane_by_lane,
    )
)
