"""What an op is: one record with every rule of it, and the registry that passes read.

::

    type       (input types, attrs) -> result types           raises ShapeError, DTypeError
    reference  (input arrays, attrs, result types) -> arrays   NumPy, slow and plain: the oracle
    vjp        (node, cotangents, transform) -> cotangents of the inputs
               builds graph; None: no derivative
    jvp        (node, tangents, transform) -> tangents of the results
               builds graph; None: no derivative
    batch      (node, inputs, lanes) -> results
               the op on many lanes at once, axis 0 of the inputs that have it and of every result
    lower      (ctx, node, inputs, index, output) -> Term
               the element of a result at an index, in Kernel IR
    routine    (node) -> a Routine and its sizes         for what no kernel computes: sorting
    expand     (node, inputs) -> values of other ops that mean the same and run better, or None

A cotangent or tangent that is None is zero. ``transform`` is autodiff itself, which rules of ops
with bodies (loop, cond) apply to those bodies; ``lanes`` batches bodies likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from graphc.errors import GraphcError, VerifyError
from graphc.graph import COMPOSITES, TYPE_RULES, Graph, Node, TypeRule, Value, apply, block
from graphc.kernel.terms import Term
from graphc.operators import register_function
from graphc.records import dataclass
from graphc.routines import Routine
from graphc.types import DType, Extent, Shape, TensorType, float32

__all__ = [
    "OPS",
    "Access",
    "Array",
    "Cotangents",
    "ErrorSample",
    "Index",
    "Inputs",
    "Lanes",
    "LowerContext",
    "Op",
    "Sample",
    "Transform",
    "composite",
    "function",
    "int_shape",
    "op_of",
    "register",
    "run_nodes",
    "single",
    "tensor",
]

Array = np.ndarray[Any, Any]
#: the Kernel IR value of a node's input at index terms
Access = Callable[[tuple[Term, ...]], Term]
Inputs = Sequence[Access]
Index = tuple[Term, ...]
Cotangents = Sequence["Value | None"]


class LowerContext(Protocol):
    """What a lowering rule may ask of the pass that lowers a group of nodes into one kernel."""

    def axis(self, extent: Extent, hint: str = "k") -> Term:
        """The index (an AxisIndex, int64) of a fresh axis, for a reduction to bind."""

    def check(self, pred: Term, message: str) -> None:
        """Make the kernel fail with ``message`` where ``pred`` is false; later accesses obey it."""

    def scalar(self, value: bool | int | float | Extent, dtype: DType | None = None) -> Term:
        """A constant, or a run-time size as an int64 term."""

    def masked(self, access: Access, index: tuple[Term, ...], pred: Term, fill: Term) -> Term:
        """``access(index)`` where ``pred``, else ``fill``; nothing is loaded where ``pred`` is
        false.
        """


class Transform(Protocol):
    """Autodiff as the rules of structured ops see it; a derivative that does not exist is zero."""

    def vjp(
        self, outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Cotangents
    ) -> tuple[Value, ...]:
        """Cotangents of ``wrt``."""

    def jvp(
        self, outputs: Sequence[Value], wrt: Sequence[Value], tangents: Cotangents
    ) -> tuple[Value, ...]:
        """Tangents of ``outputs``."""


BatchBody = Callable[[Graph, Sequence[bool], Sequence[bool]], tuple[Graph, tuple[bool, ...]]]


@dataclass(frozen=True)
class Lanes:
    """What a batching rule knows: how many lanes there are, and which inputs have them (axis 0).

    ``body(graph, batched inputs, wanted outputs)`` is a body on all lanes, and which of its results
    have them: those that depend on a lane, and those wanted.
    """

    size: Extent
    batched: tuple[bool, ...]
    body: BatchBody

    def spread(self, value: Value) -> Value:
        """The same in every lane: [...] -> [size, ...]."""
        axes = tuple(range(1, value.ndim + 1))
        return apply("broadcast", value, shape=(self.size, *value.shape), axes=axes)

    def all(self, inputs: Sequence[Value]) -> list[Value]:
        """The inputs, those that have no lanes spread over them."""
        pairs = zip(inputs, self.batched, strict=True)
        return [v if has else self.spread(v) for v, has in pairs]


@dataclass(frozen=True)
class Sample:
    """Inputs that an op must handle: types (with int shapes) and attrs.

    ``low`` and ``high`` bound the random elements; ``special`` mixes in infinities, NaN and signed
    zeros; ``arrays`` gives an input's elements outright (by slot); ``differentiable=False`` leaves
    out the derivative check.
    """

    types: tuple[TensorType, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    special: bool = False
    arrays: Mapping[int, Any] = field(default_factory=dict)
    differentiable: bool = True


@dataclass(frozen=True)
class ErrorSample:
    """Inputs that an op's type rule must refuse with ``error`` whose message contains ``match``."""

    types: tuple[TensorType, ...]
    attrs: Mapping[str, Any]
    error: type[GraphcError]
    match: str


Reference = Callable[[Sequence[Array], Mapping[str, Any], tuple[TensorType, ...]], Sequence[Array]]
Vjp = Callable[[Node, Cotangents, Transform], Cotangents]
Jvp = Callable[[Node, Cotangents, Transform], Cotangents]
Batch = Callable[[Node, Sequence[Value], Lanes], Sequence[Value]]
Lower = Callable[[LowerContext, Node, Inputs, Index, int], Term]
RoutineOf = Callable[[Node], tuple[Routine, tuple[Extent, ...]]]
Expand = Callable[[Node, tuple[Value, ...]], "Sequence[Value] | None"]


@dataclass(frozen=True)
class Op:
    """An op. ``vjp`` and ``jvp`` None: nothing flows through it; where floats go in and come out,
    ``cuts`` says why.

    ``batch`` is None for ops without inputs: they are the same in every lane.

    ``lower`` is None for ops that no kernel computes elementwise: sources, those whose body is a
    schedule's loop or branch, and routines; ``kind`` says which: "map", "source", "region",
    "routine" or "graph" (resolved before lowering).
    """

    name: str
    doc: str
    type: TypeRule
    reference: Reference | None
    vjp: Vjp | None = None
    jvp: Jvp | None = None
    lower: Lower | None = None
    samples: tuple[Sample, ...] = ()
    error_samples: tuple[ErrorSample, ...] = ()
    kind: str = "map"
    batch: Batch | None = None
    routine: RoutineOf | None = None
    expand: Expand | None = None
    cuts: str = ""


def single(rule: Callable[[LowerContext, Node, Inputs, Index], Term]) -> Lower:
    """The lowering rule of an op with one result."""

    def lower(ctx: LowerContext, node: Node, inputs: Inputs, index: Index, output: int = 0) -> Term:
        return rule(ctx, node, inputs, index)

    return lower


#: every primitive op by name
OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Enter ``op`` into the registry, and its type rule into the graph's table."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is registered twice")
    OPS[op.name] = op
    TYPE_RULES[op.name] = op.type
    return op


def op_of(node: Node) -> Op:
    """The record of ``node``'s op."""
    return OPS[node.op]


def run_nodes(
    nodes: Sequence[Node], known: Mapping[Value, Array], wanted: Sequence[Value]
) -> list[Array]:
    """The arrays of ``wanted``, running ``nodes`` in order through their references; ``known`` is
    given.
    """
    found = dict(known)
    for node in nodes:
        if all(v in found for v in node.outputs):
            continue
        op = OPS.get(node.op)
        if op is None or op.reference is None:
            raise VerifyError(f"{node.op}: has no value here: bind it or resolve it", node.source)
        results = op.reference([found[v] for v in node.inputs], node.attrs, node.types)
        for value, result in zip(node.outputs, results, strict=True):
            array = np.asarray(result)
            if array.dtype != value.dtype.numpy or array.shape != value.shape:
                got = f"{array.dtype}{list(array.shape)}"
                raise VerifyError(
                    f"{node.op}: its reference gave {got}, not {value.type}", node.source
                )
            found[value] = array
    return [found[v] for v in wanted]


P = ParamSpec("P")
R = TypeVar("R")


def function(f: Callable[P, R]) -> Callable[P, R]:
    """Enter a public function of graphc.ops under its name for operators, methods and NumPy's
    protocols.
    """
    register_function(f.__name__.rstrip("_"), f)
    return f


def composite(f: Callable[P, R]) -> Callable[P, R]:
    """A function made of ops that is also a named block: drawn, folded and matched as a whole."""
    name = f.__name__.strip("_")
    COMPOSITES.add(name)

    @wraps(f)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with block(name):
            return f(*args, **kwargs)

    return wrapped


def int_shape(type: TensorType) -> tuple[int, ...]:
    """The shape where all dims are bound, as references see it; VerifyError where one is not."""
    found = tuple(extent for extent in type.shape if isinstance(extent, int))
    if len(found) < len(type.shape):
        raise VerifyError(f"{type} has unbound dims: bind them before running")
    return found


def tensor(shape: Shape | int = (), dtype: DType = float32) -> TensorType:
    """Shorthand for samples: ``tensor((2, 3))`` is f32[2,3]."""
    return TensorType(dtype, (shape,) if not isinstance(shape, tuple) else shape)
