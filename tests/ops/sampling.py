"""Arrays for op samples, and one node of an op as a kernel: what the generated tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.graph import Graph, Node, Value, apply_all, source_value
from graphc.kernel import build
from graphc.kernel.interpret import interpret as interpret_kernel
from graphc.kernel.terms import Check, KernelTensor, Term
from graphc.kernel.verify import verify
from graphc.op import OPS, Access, Op, Sample
from graphc.types import DType, Extent, Size, TensorType, float64

Array = NDArray[Any]
SEED = 20240711

#: relative and absolute tolerance by dtype name
TOLERANCE = {"f64": (1e-10, 1e-12), "f32": (3e-5, 1e-5), "f16": (2e-2, 2e-2), "bf16": (4e-2, 4e-2)}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5]


def cases(chosen: Callable[[Op, Sample], bool]) -> list[Any]:
    """(op, number of the sample) for every sample that ``chosen`` takes, with readable ids."""
    import pytest

    return [
        pytest.param(op, sample, id=f"{op.name}-{number}")
        for op in OPS.values()
        for number, sample in enumerate(op.samples)
        if chosen(op, sample)
    ]


def arrays_of(
    sample: Sample, types: tuple[TensorType, ...], version: int = 0
) -> list[Array]:
    """The sample's inputs: given ones, else random within its bounds, others for each version."""
    generator = np.random.default_rng(SEED + version)
    found = []
    for slot, type in enumerate(types):
        if slot in sample.arrays:
            array = np.asarray(sample.arrays[slot])
        elif type.dtype.kind == "b":
            array = generator.random(type.shape) < 0.5
        else:
            array = generator.uniform(sample.low, sample.high, type.shape)
            if sample.special and type.dtype.is_float:
                places = generator.integers(0, len(SPECIAL), type.shape)
                array = np.where(
                    generator.random(type.shape) < 0.7, np.choose(places, SPECIAL), array
                )
        if type.dtype.kind == "u" and slot not in sample.arrays:
            array = np.abs(array)
        found.append(np.asarray(array).astype(type.dtype.numpy))
    return found


def in_float64(types: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
    """The same shapes with floats in float64."""
    return tuple(TensorType(float64, t.shape) if t.dtype.is_float else t for t in types)


def graph_of(op: Op, sample: Sample, types: tuple[TensorType, ...] | None = None) -> Graph:
    """One node of ``op`` on observed inputs."""
    chosen = sample.types if types is None else types
    inputs = [source_value("observed", t, f"x{i}") for i, t in enumerate(chosen)]
    return Graph(tuple(inputs), apply_all(op.name, *inputs, **sample.attrs))


def assert_close(got: Array, wanted: Array, dtype: DType) -> None:
    """Equal for exact types, else within the table's tolerance; NaN equals NaN."""
    relative, absolute = TOLERANCE.get(dtype.short, (0.0, 0.0))
    if dtype.is_float:
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(wanted, np.float64), relative, absolute
        )
    else:
        np.testing.assert_array_equal(got, wanted)


class OneKernel:
    """A LowerContext that makes one kernel of one node; every input is a tensor."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.axes: list[tuple[str, Extent]] = []
        self.checks: list[Check] = []
        self.preds: list[Term] = []
        self.tensors = [KernelTensor(f"x{i}", v.type) for i, v in enumerate(node.inputs)]

    def axis(self, extent: Extent, hint: str = "k") -> Term:
        name = f"{hint}_{len(self.axes)}"
        self.axes.append((name, extent))
        return build.axis(name)

    def check(self, pred: Term, message: str) -> None:
        self.checks.append(build.check(pred, message))

    def scalar(self, value: Any, dtype: DType | None = None) -> Term:
        return build.size(value) if isinstance(value, Size) else build.const(value, dtype)

    def masked(self, access: Access, index: tuple[Term, ...], pred: Term, fill: Term) -> Term:
        self.preds.append(pred)
        value = access(index)
        self.preds.pop()
        return build.apply("where", pred, value, fill)

    def access(self, tensor: KernelTensor) -> Access:
        return lambda index: build.load(tensor, index, build.conjunction(*self.preds))

    def run(self, arrays: list[Array], value: Value) -> Array:
        """Lower, interpret: the array of ``value``."""
        lower = OPS[self.node.op].lower
        assert lower is not None
        index = tuple(self.axis(e, "o") for e in value.shape)
        inputs = [self.access(t) for t in self.tensors]
        term = lower(self, self.node, inputs, index, value.index)
        out = KernelTensor("out", value.type)
        statements = [*self.checks, build.store(out, index, term)]
        kernel = verify(build.kernel("one", self.axes, self.tensors, [out], statements))
        given = {t.name: a for t, a in zip(self.tensors, arrays, strict=True)}
        return interpret_kernel(kernel, given)["out"]
