"""Every primitive op, on every sample of its own record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc.ops
from graphc import autodiff
from graphc.graph import Graph, Value, differentiating, source_value
from graphc.interpret import interpret
from graphc.op import OPS, ErrorSample, Op, Sample
from graphc.text import constants_of
from graphc.text_parser import parse_graph
from graphc.verify import verify
from tests.ops.sampling import OneKernel, arrays_of, assert_close, cases, graph_of, in_float64

STEP = 1e-6


class Autodiff:
    """The transform that rules of loops and branches take."""

    def vjp(self, outputs: Any, wrt: Any, cotangents: Any) -> Any:
        return autodiff.vjp(tuple(outputs), tuple(wrt), tuple(cotangents))

    def jvp(self, outputs: Any, wrt: Any, tangents: Any) -> Any:
        return autodiff.jvp(tuple(outputs), tuple(wrt), tuple(tangents))


def has_value(op: Op, sample: Sample) -> bool:
    return op.reference is not None and op.kind != "source" and op.name not in ("read", "attach")


def differentiable(op: Op, sample: Sample) -> bool:
    if not has_value(op, sample) or op.vjp is None or not sample.differentiable:
        return False
    results = op.type(sample.types, sample.attrs)
    return all(any(t.dtype.is_float for t in types) for types in (sample.types, results))


def lowered(op: Op, sample: Sample) -> bool:
    return op.lower is not None


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_record_is_complete(op: Op) -> None:
    assert op.doc
    assert op.kind in ("map", "source", "region", "routine", "graph")
    if op.kind == "source":
        return
    assert op.samples, "an op without samples is tested by nothing"
    assert (op.lower is None) == (op.kind in ("region", "routine", "graph"))
    assert (op.routine is None) == (op.kind != "routine")
    assert (op.vjp is None) == (op.jvp is None)
    assert op.reference is not None or op.name in ("by_mode", "site")


def test_what_cuts_derivatives_says_why() -> None:
    """Floats in, floats out and no derivative: for a reason."""
    silent = set()
    for op in OPS.values():
        for sample in op.samples:
            results = op.type(sample.types, sample.attrs)
            through = all(any(t.dtype.is_float for t in ts) for ts in (sample.types, results))
            if through and op.vjp is None and not op.cuts:
                silent.add(op.name)
    assert not silent


def test_every_module_registers() -> None:
    assert {module.__name__.split(".")[-1] for module in graphc.ops.PRIMITIVES} == {
        *("branch", "contract", "curves", "custom", "cut", "dynamic", "elementwise", "extend"),
        *("index", "loop", "random", "reduce", "scatter", "shape", "sorting", "source"),
        "handwritten",
        "rematerialize",
    }


@pytest.mark.parametrize(("op", "sample"), cases(has_value))
def test_reference_has_the_type_of_the_rule(op: Op, sample: Sample) -> None:
    graph = verify(graph_of(op, sample))
    with np.errstate(all="ignore"):
        results, _ = interpret(graph, arrays_of(sample, sample.types))
    for array, value in zip(results, graph.outputs, strict=True):
        assert array.shape == value.shape
        assert array.dtype == value.dtype.numpy


@pytest.mark.parametrize(("op", "sample"), cases(lambda op, sample: op.kind != "source"))
def test_text_parses_back(op: Op, sample: Sample) -> None:
    graph = graph_of(op, sample)
    text = graph.text()
    assert parse_graph(text, constants=constants_of(graph)).text() == text


@pytest.mark.parametrize(("op", "sample"), cases(lowered))
def test_lowering_agrees_with_reference(op: Op, sample: Sample) -> None:
    graph = graph_of(op, sample)
    arrays = arrays_of(sample, sample.types)
    with np.errstate(all="ignore"):
        expected, _ = interpret(graph, arrays)
        for value, wanted in zip(graph.outputs, expected, strict=True):
            got = OneKernel(value.node).run(arrays, value)
            assert_close(got, wanted, value.dtype)


def _flows(graph: Graph) -> tuple[Any, Any, list[Value], list[Value]]:
    node, transform = graph.outputs[0].node, Autodiff()
    smooth = [v for v in graph.outputs if v.dtype.is_float]
    cotangents = {v: source_value("observed", v.type, "ct") for v in smooth}
    tangents = {v: source_value("observed", v.type, "t") for v in graph.inputs if v.dtype.is_float}
    op = OPS[node.op]
    assert op.vjp is not None
    assert op.jvp is not None
    with differentiating(node):
        back = op.vjp(node, [cotangents.get(v) for v in graph.outputs], transform)
        forth = op.jvp(node, [tangents.get(v) for v in graph.inputs], transform)
    return back, forth, list(cotangents.values()), list(tangents.values())


@pytest.mark.parametrize(("op", "sample"), cases(differentiable))
def test_derivatives_agree_with_differences(op: Op, sample: Sample) -> None:
    """<ct, J t> from the differences, from vjp and from jvp, along one random direction."""
    types = sample.types if op.kind == "region" else in_float64(sample.types)
    graph = graph_of(op, sample, types)
    smooth = [i for i, v in enumerate(graph.outputs) if v.dtype.is_float]
    back, forth, cotangents, tangents = _flows(graph)
    generator = np.random.default_rng(3)
    arrays = arrays_of(sample, types)
    ct = [generator.normal(size=v.shape) for v in cotangents]
    moving = [i for i, v in enumerate(graph.inputs) if v.dtype.is_float]
    t = {i: generator.normal(size=graph.inputs[i].shape) for i in moving}

    def shifted(step: float) -> list[Any]:
        moved = [a + step * t[i] if i in t else a for i, a in enumerate(arrays)]
        return [interpret(graph, moved)[0][i] for i in smooth]

    pairs = zip(shifted(STEP), shifted(-STEP), strict=True)
    slopes = [(high - low) / (2 * STEP) for high, low in pairs]
    kept = [i for i, flow in enumerate(back) if flow is not None]
    for i in kept:
        assert back[i].type == graph.inputs[i].type
    pulled, _ = interpret(
        Graph((*graph.inputs, *cotangents), tuple(back[i] for i in kept)), [*arrays, *ct]
    )
    pushed_values = tuple(forth[i] for i in smooth)
    pushed, _ = interpret(Graph((*graph.inputs, *tangents), pushed_values), [*arrays, *t.values()])
    wanted = sum(float((s * c).sum()) for s, c in zip(slopes, ct, strict=True))
    got = sum(float((p * t[i]).sum()) for p, i in zip(pulled, kept, strict=True))
    assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    for push, slope in zip(pushed, slopes, strict=True):
        np.testing.assert_allclose(push, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "bad"),
    [
        pytest.param(op, bad, id=f"{op.name}-{number}")
        for op in OPS.values()
        for number, bad in enumerate(op.error_samples)
    ],
)
def test_error_samples_are_refused(op: Op, bad: ErrorSample) -> None:
    with pytest.raises(bad.error, match=bad.match):
        op.type(bad.types, bad.attrs)


def test_ops_without_error_samples_accept_everything() -> None:
    """Only ops that take any type of any shape, and sources, may have none."""
    free = {op.name for op in OPS.values() if not op.error_samples and op.kind != "source"}
    unary = {name for name in free if len(OPS[name].samples[0].types) <= 1}
    assert free - unary <= {"attach"}, sorted(free - unary)
