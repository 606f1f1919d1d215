"""Builds terms and kernels: derives dtypes and axes, checks types, names what the text must name.

Python numbers are weak operands: ``apply("*", a, 2.0)`` takes the dtype of ``a``.

>>> from graphc.types import TensorType, float32
>>> x = KernelTensor("x", TensorType(float32, (64, 200)))
>>> y = KernelTensor("y", TensorType(float32, (64, 200)))
>>> i, j = axis("i"), axis("j")
>>> a = load(x, (i, j))
>>> (m,) = reduce("max", [a], ["j"])
>>> doubled = apply("*", apply("-", a, m), 2.0)
>>> k = kernel("example", [("i", 64), ("j", 200)], [x], [y], [store(y, (i, j), doubled)])
>>> [name for name, _ in k.definitions], k.parallel
(['x', 'm'], ('i',))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graphc.errors import DTypeError, KernelError
from graphc.kernel.monoids import MONOIDS, Number, accumulator, state_dtypes
from graphc.kernel.scalar_ops import (
    SCALAR_OPS,
    default_dtype,
    evaluate,
    literal_dtype,
    result_dtype,
)
from graphc.kernel.terms import (
    Apply,
    AxisIndex,
    Check,
    Const,
    Contract,
    Kernel,
    KernelTensor,
    Load,
    Reduction,
    Result,
    Scalar,
    ScalarValue,
    Scan,
    SizeSymbol,
    SizeValue,
    Statement,
    Store,
    Term,
    postorder,
)
from graphc.types import (
    DTYPES,
    Dim,
    DType,
    Extent,
    Size,
    bool_,
    dtype_of,
    float32,
    float64,
    int32,
    int64,
)

__all__ = [
    "apply",
    "axis",
    "cast",
    "check",
    "conjunction",
    "const",
    "contract",
    "kernel",
    "load",
    "reduce",
    "scalar",
    "scan",
    "size",
    "size_dim",
    "store",
]

Operand = Term | Number
_NO_AXES: frozenset[str] = frozenset()

# ---- leaves


def const(value: Number, dtype: object = None) -> Const:
    """A constant, rounded to its dtype; bool, i64 or f32 by its value unless given. It must fit.

    >>> const(0.1).value, const(3, "f64").value
    (0.10000000149011612, 3.0)
    """
    kind = default_dtype(value) if dtype is None else dtype_of(dtype)
    return Const(dtype=kind, axes=_NO_AXES, value=_represented(value, kind))


def _represented(value: Number, dtype: DType) -> Number:
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return float(np.asarray(float(value)).astype(dtype.numpy))
    if dtype.kind == "b":
        if value not in (0, 1):
            raise DTypeError(f"{value!r} is not a bool")
        return bool(value)
    if not math.isfinite(value) or int(value) != value:
        raise DTypeError(f"{value!r} is not an integer; {dtype} needs one")
    limits = np.iinfo(dtype.numpy)
    if not limits.min <= value <= limits.max:
        raise DTypeError(f"{value!r} does not fit {dtype} ({limits.min}..{limits.max})")
    return int(value)


def axis(name: str) -> AxisIndex:
    """The index along an axis, i64."""
    return AxisIndex(dtype=int64, axes=frozenset((name,)), axis=name)


def size(extent: Extent) -> Term:
    """A size as a value, i64: a constant, or the value of a symbolic size at run time."""
    if isinstance(extent, Size):
        return SizeValue(dtype=int64, axes=_NO_AXES, extent=extent)
    return const(int(extent))


def size_dim(symbol: SizeSymbol) -> Dim:
    """The dim that a ``size`` line declares: one code for all its values."""
    return Dim(
        symbol.name,
        min=symbol.min,
        max=symbol.max,
        multiple_of=symbol.multiple_of,
        specialize=False,
    )


def scalar(declared: Scalar) -> ScalarValue:
    """The value of a declared run-time scalar."""
    return ScalarValue(dtype=declared.dtype, axes=_NO_AXES, name=declared.name)


# ---- operations


def _axes(terms: Iterable[Term]) -> frozenset[str]:
    return _NO_AXES.union(*(t.axes for t in terms))


def apply(op: str, *operands: Operand) -> Term:
    """A scalar op on terms and weak numbers.

    Casts and signs of constants fold; a cast of a term to its own dtype is the term.
    Raises DTypeError where the op does not take the operands.
    """
    if op not in SCALAR_OPS:
        raise KernelError(f"no scalar op named {op!r}")
    if SCALAR_OPS[op].cast and len(operands) == 1 and not isinstance(operands[0], Term):
        return _literal_cast(operands[0], DTYPES[op])
    known = [t.dtype if isinstance(t, Term) else None for t in operands]
    terms = tuple(
        t if isinstance(t, Term) else const(t, literal_dtype(op, n, t, known))
        for n, t in enumerate(operands)
    )
    dtype = result_dtype(op, [t.dtype for t in terms])
    first = terms[0]
    if SCALAR_OPS[op].cast and first.dtype == dtype:
        return first
    if isinstance(first, Const) and (SCALAR_OPS[op].cast or op == "neg"):
        return const(evaluate(op, np.asarray(first.value, first.dtype.numpy)).item(), dtype)
    return Apply(dtype=dtype, axes=_axes(terms), op=op, args=terms)


def _literal_cast(value: Number, dtype: DType) -> Const:
    """``f64(0.1)`` is the f64 nearest to 0.1; what does not fit is converted as a value would
    be.
    """
    if dtype.is_float:
        return const(value, dtype)
    return const(evaluate(dtype.short, np.asarray(value)).item(), dtype)


def cast(term: Operand, dtype: DType) -> Term:
    """``term`` converted to ``dtype``."""
    return apply(dtype.short, term)


def conjunction(*preds: Term | None) -> Term | None:
    """All of ``preds`` that are there, joined by ``and``; None when there are none."""
    joined: Term | None = None
    for pred in preds:
        if pred is not None:
            joined = pred if joined is None else apply("and", joined, pred)
    return joined


def _pred(pred: Operand | None, role: str) -> Term | None:
    if pred is None:
        return None
    term = pred if isinstance(pred, Term) else const(pred)
    if term.dtype != bool_:
        raise DTypeError(f"{role}: the predicate is {term.dtype}, it must be bool")
    return term


def _index(tensor: KernelTensor, index: Sequence[Operand]) -> tuple[Term, ...]:
    if len(index) != tensor.type.ndim:
        wanted = tensor.type.ndim
        raise KernelError(f"{tensor.name} has {wanted} dimensions, the index has {len(index)}")
    terms = tuple(t if isinstance(t, Term) else const(t) for t in index)
    for position, term in enumerate(terms):
        if not term.dtype.is_integer:
            raise DTypeError(f"{tensor.name}: index {position} is {term.dtype}, not an integer")
    return terms


def load(
    tensor: KernelTensor,
    index: Sequence[Operand],
    pred: Operand | None = None,
    fill: Operand | None = None,
) -> Load:
    """``load tensor[index] [if pred] [else fill]``; see ``Load`` for what happens outside."""
    terms = _index(tensor, index)
    condition = _pred(pred, f"load {tensor.name}")
    dtype = tensor.type.dtype
    other = fill if fill is None or isinstance(fill, Term) else _adopted(fill, dtype, "fill")
    if other is not None and other.dtype != dtype:
        raise DTypeError(f"load {tensor.name}: the fill is {other.dtype}, the tensor {dtype}")
    parts = [*terms, *(t for t in (condition, other) if t is not None)]
    return Load(
        dtype=dtype,
        axes=_axes(parts),
        tensor=tensor.name,
        index=terms,
        pred=condition,
        fill=other,
    )


def _adopted(value: Number, dtype: DType, role: str) -> Const:
    natural = default_dtype(value)
    if natural.kind != dtype.kind and not (natural.is_integer and dtype.is_integer):
        raise DTypeError(f"{role}: {value!r} is not a literal of {dtype}")
    return const(value, dtype)


def reduce(
    monoid: str,
    args: Sequence[Operand],
    over: Sequence[str],
    where: Operand | None = None,
    merge: bool = False,
) -> tuple[Result, ...]:
    """``reduce MONOID args over axes [where pred]``; ``merge`` takes partial states as args.

    Arguments of sums, products and moments are cast to the accumulator dtype
    (``monoids.accumulator``). The states of expsum each have their own axes, (a | where | w) -
    over; those of the other monoids have the union's.
    """
    if not over:
        raise KernelError(f"reduce {monoid}: name at least one axis to reduce over")
    condition = _pred(where, f"reduce {monoid}")
    terms = _monoid_args(monoid, args, merge)
    dtypes = result_dtypes(monoid, terms, merge)
    masked = _NO_AXES if condition is None else condition.axes
    bound = frozenset(over)
    whole = masked.union(*(t.axes for t in terms)) - bound
    key = (terms[0].axes | masked) - bound if monoid == "expsum" else whole
    reduction = Reduction(
        dtype=dtypes[0],
        axes=key,
        monoid=monoid,
        args=terms,
        over=tuple(over),
        where=condition,
        merge=merge,
    )
    axes = [
        key | (terms[n].axes - bound) if monoid == "expsum" else whole for n in range(len(dtypes))
    ]
    return tuple(
        Result(dtype=d, axes=a, of=reduction, index=n)
        for n, (d, a) in enumerate(zip(dtypes, axes, strict=True))
    )


def scan(
    monoid: str,
    args: Sequence[Operand],
    over: str,
    reverse: bool = False,
    exclusive: bool = False,
) -> tuple[Result, ...]:
    """``scan MONOID args over axis [reverse] [exclusive]``: the states after (before) each
    element.
    """
    terms = _monoid_args(monoid, args, merge=False)
    dtypes = result_dtypes(monoid, terms, merge=False)
    axes = _axes(terms) | {over}
    scanned = Scan(
        dtype=dtypes[0],
        axes=axes,
        monoid=monoid,
        args=terms,
        over=over,
        reverse=reverse,
        exclusive=exclusive,
    )
    return tuple(Result(dtype=d, axes=axes, of=scanned, index=n) for n, d in enumerate(dtypes))


def _monoid_args(monoid: str, args: Sequence[Operand], merge: bool) -> tuple[Term, ...]:
    if monoid not in MONOIDS:
        raise KernelError(f"no monoid named {monoid!r}; one of {', '.join(MONOIDS)}")
    accumulates = MONOIDS[monoid].accumulates and not merge
    known = [t.dtype for t in args if isinstance(t, Term)]
    terms = []
    for arg in args:
        term = arg if isinstance(arg, Term) else const(arg, argument_dtype(monoid, arg, known))
        terms.append(cast(term, accumulator(term.dtype)) if accumulates else term)
    return tuple(terms)


def argument_dtype(monoid: str, value: Number, known: Sequence[DType]) -> DType:
    """The dtype of a literal argument of a reduction: that of the first float argument of
    moments.
    """
    default = default_dtype(value)
    joins = known and MONOIDS[monoid].accumulates and default.is_float and known[0].is_float
    return known[0] if joins else default


def result_dtypes(monoid: str, terms: Sequence[Term], merge: bool) -> tuple[DType, ...]:
    dtypes = [t.dtype for t in terms]
    if not merge:
        return state_dtypes(monoid, dtypes)
    states = state_dtypes(monoid, dtypes[:1] if monoid == "welford" else dtypes)
    if list(states) != dtypes:
        listed = ", ".join(map(str, dtypes))
        raise DTypeError(f"reduce merge {monoid}: takes {len(states)} states, got {listed}")
    return states


def contract(
    a: Operand,
    b: Operand,
    over: Sequence[str],
    where: Operand | None = None,
    dtype: object = None,
) -> Contract:
    """``contract a, b over axes [where pred] [in dtype]``: the sum of a*b.

    It accumulates in f32 (f64 for f64 operands, i64 for i64, i32 for the other integers) unless
    ``dtype`` is given, and that is its dtype.
    """
    known = [t.dtype for t in (a, b) if isinstance(t, Term)]
    left, right = (
        t if isinstance(t, Term) else _adopted(t, known[0], "contract") if known else const(t)
        for t in (a, b)
    )
    if left.dtype != right.dtype:
        raise DTypeError(f"contract of {left.dtype} and {right.dtype}: cast one of them")
    if left.dtype == bool_:
        raise DTypeError("contract takes numbers, not bool; cast them")
    if not over:
        raise KernelError("contract: name at least one axis to sum over")
    accumulates = contract_dtype(left.dtype) if dtype is None else dtype_of(dtype)
    if accumulates.kind == "b" or accumulates.is_float < left.dtype.is_float:
        raise DTypeError(f"contract of {left.dtype} cannot accumulate in {accumulates}")
    condition = _pred(where, "contract")
    parts = [left, right, *([] if condition is None else [condition])]
    return Contract(
        dtype=accumulates,
        axes=_axes(parts) - frozenset(over),
        a=left,
        b=right,
        over=tuple(over),
        where=condition,
    )


def contract_dtype(operand: DType) -> DType:
    """What a contraction of ``operand`` accumulates in unless it says otherwise."""
    if operand.is_float:
        return float64 if operand == float64 else float32
    return int64 if operand == int64 else int32


# ---- statements


def store(
    tensor: KernelTensor,
    index: Sequence[Operand],
    value: Operand,
    pred: Operand | None = None,
    add: bool = False,
) -> Store:
    """``store [add] tensor[index] = value [if pred]``."""
    terms = _index(tensor, index)
    dtype = tensor.type.dtype
    stored = value if isinstance(value, Term) else _adopted(value, dtype, f"store {tensor.name}")
    if stored.dtype != dtype:
        raise DTypeError(f"store {tensor.name}: the value is {stored.dtype}, the tensor {dtype}")
    return Store(tensor.name, terms, stored, _pred(pred, f"store {tensor.name}"), add)


def check(pred: Term, message: str) -> Check:
    """``check pred "message"``."""
    condition = _pred(pred, "check")
    assert condition is not None
    return Check(condition, message)


# ---- kernels

#: words of the text that cannot name a value, an axis, a size or a scalar
RESERVED = frozenset(
    [
        *("and", "or", "not", "if", "else", "over", "where", "in", "inf", "nan", "true", "false"),
        *("load", "reduce", "contract", "scan", "store", "check"),
    ]
)

#: an expression of more operations than this is cut by a definition of its own
LONGEST_EXPRESSION = 16

_HINTS = {"sum": "s", "prod": "p", "max": "m", "min": "m", "any": "any_", "all": "all_"}
_STATE_HINTS = {
    "argmax": ("m", "at"),
    "argmin": ("m", "at"),
    "welford": ("n", "mu", "m2"),
    "expsum": ("m", "l"),
    "linear": ("decay", "h"),
}


def kernel(
    name: str,
    axes: Iterable[tuple[str, Extent]],
    inputs: Iterable[KernelTensor],
    outputs: Iterable[KernelTensor],
    statements: Iterable[Statement],
    names: Mapping[Term, str] | None = None,
    sizes: Iterable[SizeSymbol] = (),
    scalars: Iterable[Scalar] = (),
) -> Kernel:
    """A kernel with its definitions in text order.

    What has a name in ``names`` keeps it if free, and ``names`` gives the order; loads, reductions,
    scans, contractions, shared terms and long expressions get one. A name given to one result of a
    reduction names the term ``Result``.
    """
    bare = Kernel(
        name=name,
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        statements=tuple(statements),
        sizes=tuple(sizes),
        scalars=tuple(scalars),
    )
    definitions = _definitions(bare, dict(names or {}))
    return Kernel(
        name=bare.name,
        axes=bare.axes,
        inputs=bare.inputs,
        outputs=bare.outputs,
        statements=bare.statements,
        definitions=definitions,
        sizes=bare.sizes,
        scalars=bare.scalars,
    )


def _definitions(bare: Kernel, names: dict[Term, str]) -> tuple[tuple[str, Term], ...]:
    taken = {a for a, _ in bare.axes} | {s.name for s in bare.sizes}
    taken |= RESERVED | {s.name for s in bare.scalars}
    chosen: dict[Term | tuple[Term, int], str] = {}
    for term, wanted in names.items():
        if not wanted.isidentifier():
            raise KernelError(f"{wanted!r} cannot name a value")
        if wanted not in taken and _key(term) not in chosen:
            taken.add(wanted)
            chosen[_key(term)] = wanted
    found: list[tuple[str, Term]] = []
    tried: dict[str, int] = {}
    for term in _named_terms(bare, chosen, names):
        label = chosen.get(_key(term))
        if label is None:
            label = _fresh(_hint(term), taken, tried)
            chosen[_key(term)] = label
        found.append((label, term))
    return tuple(found)


def _key(term: Term) -> Term | tuple[Term, int]:
    """Results of one reduction are the same value when their index is."""
    return (term.of, term.index) if isinstance(term, Result) else term


def _named_terms(
    bare: Kernel, chosen: Mapping[Term | tuple[Term, int], str], names: Iterable[Term]
) -> list[Term]:
    """The live terms that the text gives a line, operands first; each result of a reduction
    once.
    """
    uses = Counter(o for t in (*bare.terms, *bare.statements) for o in t.operands)
    results: dict[Term, dict[int, Result]] = {}
    for term in bare.terms:
        if isinstance(term, Result):
            results.setdefault(term.of, {})[term.index] = term
    live = frozenset(bare.terms)
    wanted_first = [t for t in names if t in live]
    weight: dict[Term, int] = {}
    named: list[Term] = []
    seen: set[Term | tuple[Term, int]] = set()
    for term in postorder((*wanted_first, *bare.terms)):
        if isinstance(term, (Reduction, Scan)):
            named.extend(_completed(term, results.get(term, {})))
            continue
        if isinstance(term, (Result, AxisIndex, SizeValue, ScalarValue)):
            continue
        weight[term] = isinstance(term, Apply) + sum(weight.get(o, 0) for o in term.operands)
        wanted = _key(term) in chosen or isinstance(term, (Load, Contract))
        shared = isinstance(term, Apply) and uses[term] > 1 and not _plain_index(term)
        if (wanted or shared or weight[term] > LONGEST_EXPRESSION) and term not in seen:
            seen.add(term)
            named.append(term)
            weight[term] = 0
    return named


_PLAIN_OPS = {"+", "-", "*", "<", "<=", ">", ">=", "==", "!="}


def _plain_index(term: Term, depth: int = 3) -> bool:
    """Whether a term is so small an expression of axes that the text may repeat it."""
    if not isinstance(term, Apply):
        return isinstance(term, (AxisIndex, SizeValue, ScalarValue, Const))
    plain = depth > 0 and term.op in _PLAIN_OPS and term.args[0].dtype == int64
    return plain and all(_plain_index(a, depth - 1) for a in term.args)


def _completed(of: Reduction | Scan, found: Mapping[int, Result]) -> list[Term]:
    """All the results of ``of``: the text names also those that nothing uses."""
    if isinstance(of, Scan):
        made = scan(of.monoid, of.args, of.over, of.reverse, of.exclusive)
    else:
        made = reduce(of.monoid, of.args, of.over, of.where, of.merge)
    return [
        found.get(n) or Result(dtype=r.dtype, axes=r.axes, of=of, index=n)
        for n, r in enumerate(made)
    ]


def _hint(term: Term) -> str:
    """A readable name for a value that has none."""
    if isinstance(term, Load):
        return term.tensor
    if isinstance(term, Contract):
        return "dot"
    if isinstance(term, Result):
        monoid = term.of.monoid
        if monoid in _STATE_HINTS:
            hints = _STATE_HINTS[monoid]
            return hints[term.index] if term.index < len(hints) else "o"
        return _HINTS[monoid]
    return "v"


def _fresh(hint: str, taken: set[str], tried: dict[str, int]) -> str:
    """``hint``, or with the first number that makes it free; ``tried`` remembers the numbers."""
    label, n = hint, tried.get(hint, 0)
    while label in taken or (n and label == hint):
        n += 1
        label = f"{hint}{n}"
    tried[hint] = n
    taken.add(label)
    return label
