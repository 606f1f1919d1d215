"""Graph passes: what each rewrites, what it must leave, and that results keep every bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.closing import close
from graphc.graph import Graph, apply
from graphc.interpret import interpret
from graphc.passes.canonicalize import canonicalize
from graphc.passes.fold import fold_constants
from graphc.passes.pipeline import GRAPH_PASSES, optimize
from graphc.passes.share import share
from graphc.passes.simplify import simplify
from graphc.verify import verify
from tests.passes.levels import draw
from tests.passes.programs import program

SPECIAL = np.float32([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan])
Rule = Callable[[gc.Value], gc.Value]


def _graph(*outputs: gc.Value) -> Graph:
    return close(list(outputs))


def _ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op not in ("observed", "full")]


UNCHANGED: dict[str, Rule] = {
    "times one": lambda x: x * 1.0,
    "one times": lambda x: 1.0 * x,
    "over one": lambda x: x / 1.0,
    "minus zero": lambda x: x - 0.0,
    "plus negative zero": lambda x: x + -0.0,
    "to the first": lambda x: x**1.0,
    "twice negated": lambda x: ops.negative(ops.negative(x)),
    "chosen by true": lambda x: ops.where(gc.constant(True), x, x * 2.0),
    "chosen from equals": lambda x: ops.where(x > 0.0, x, x),
    "reshaped there and back": lambda x: x.reshape(7, 1).reshape(7),
    "sliced whole": lambda x: x[:],
    "widened and back": lambda x: x.astype(gc.float64).astype(gc.float32),
    "stopped gradient": gc.stop_gradient,
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_changes_nothing_is_gone(name: str) -> None:
    x = gc.observed("x", (7,))
    graph = simplify(fold_constants(canonicalize(_graph(UNCHANGED[name](x)))))
    assert graph.outputs[0] is x


CHANGED: dict[str, Rule] = {
    "plus zero": lambda x: x + 0.0,  # -0.0 becomes 0.0
    "times zero": lambda x: x * 0.0,  # NaN and infinities stay NaN
    "zero minus": lambda x: 0.0 - x,  # 0.0 - 0.0 is 0.0, -0.0 would be wrong
    "minus itself": lambda x: x - x,
    "over itself": lambda x: x / x,
    "narrowed and back": lambda x: x.astype(gc.float16).astype(gc.float32),
    "truncated and back": lambda x: x.astype(gc.int32).astype(gc.float32),
    "exp of log": lambda x: ops.exp(ops.log(x)),
    "minus negative zero": lambda x: x - (-0.0),
}


@pytest.mark.parametrize("name", [*UNCHANGED, *CHANGED])
def test_every_bit_stays(name: str) -> None:
    x = gc.observed("x", (7,))
    graph = _graph((UNCHANGED | CHANGED)[name](x))
    with np.errstate(all="ignore"):
        (before,), _ = interpret(graph, [SPECIAL])
        (after,), _ = interpret(optimize(graph), [SPECIAL])
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(np.signbit(after), np.signbit(before))


@pytest.mark.parametrize("name", CHANGED)
def test_unsafe_algebra_is_not_done(name: str) -> None:
    x = gc.observed("x", (7,))
    assert _ops(simplify(fold_constants(canonicalize(_graph(CHANGED[name](x))))))


def test_integers_have_true_zeros() -> None:
    i = gc.observed("i", (3,), gc.int64)
    graph = simplify(fold_constants(canonicalize(_graph(i + 0, i * 0, 0 + i, i * 1))))
    assert [v is i for v in graph.outputs] == [True, False, True, True]
    assert graph.outputs[1].node.op == "full"


def test_movement_composes() -> None:
    x = gc.observed("x", (2, 3, 4))
    y = ops.permute_dims(ops.permute_dims(x, (2, 0, 1)), (1, 2, 0))
    assert simplify(_graph(y)).outputs[0] is x
    z = x.reshape(6, 4).reshape(3, 8)
    assert _ops(simplify(_graph(z))) == ["reshape"]
    row = gc.observed("row", (4,))
    spread = apply("broadcast", row, shape=(3, 4), axes=(1,))
    spread = apply("broadcast", spread, shape=(2, 3, 4), axes=(1, 2))
    (node,) = [n for n in simplify(_graph(spread)).nodes if n.op == "broadcast"]
    assert node.attrs["axes"] == (2,)


def test_comparisons_turn_one_way() -> None:
    x, y = gc.observed("x", (3,)), gc.observed("y", (3,))
    graph = share(canonicalize(_graph(x > y, y < x, x >= y, y <= x)))
    assert sorted(_ops(graph)) == ["<", "<="]


def test_uniform_values_fold_at_any_size() -> None:
    x = gc.observed("x", (1000, 1000))
    y = x * ((ops.ones((1000, 1000)) * 3.0 + 1.0) / 2.0)
    graph = fold_constants(_graph(y))
    (node,) = [n for n in graph.nodes if n.op == "*"]
    assert node.inputs[1].node.attrs["value"] == 2.0


def test_constants_fold_up_to_a_size() -> None:
    table = gc.constant(np.arange(6.0).reshape(2, 3), gc.float32)
    graph = fold_constants(_graph(ops.exp(table).T[1:]))
    assert graph.outputs[0].node.op == "constant"
    np.testing.assert_allclose(
        graph.outputs[0].node.attrs["data"].array, np.exp(np.arange(6.0)).reshape(2, 3).T[1:]
    )
    large = gc.constant(np.zeros((300, 300)), gc.float32)
    assert fold_constants(_graph(ops.exp(large))).outputs[0].node.op == "exp"


def test_equal_nodes_are_one_and_unequal_ones_are_not() -> None:
    x = gc.observed("x", (3,))
    graph = share(_graph(ops.exp(x) + 1.0, ops.exp(x) + 1.0, ops.exp(x) + 2.0))
    assert graph.outputs[0] is graph.outputs[1]
    assert graph.outputs[0] is not graph.outputs[2]
    assert _ops(graph).count("exp") == 1


def test_zeros_of_both_signs_are_two_constants() -> None:
    x = gc.observed("x", (3,))
    graph = share(_graph(ops.copysign(x, gc.constant(0.0)), ops.copysign(x, gc.constant(-0.0))))
    assert graph.outputs[0] is not graph.outputs[1]


def test_two_draws_are_never_one() -> None:
    a, b = gc.random.normal((4,)), gc.random.normal((4,))
    graph = optimize(close([a, b]))
    assert graph.outputs[0] is not graph.outputs[1]
    (first, second), _ = interpret(graph, [])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", [n for n, _ in GRAPH_PASSES])
@pytest.mark.parametrize("seed", range(300, 330))
def test_each_pass_alone_keeps_the_results(name: str, seed: int) -> None:
    inputs, outputs = program(seed)
    graph = close(outputs, {}, inputs)
    rewritten = dict(GRAPH_PASSES)[name](graph)
    verify(rewritten)
    arrays = draw(inputs, np.random.default_rng(seed))
    with np.errstate(all="ignore"):
        before, _ = interpret(graph, arrays)
        after, _ = interpret(rewritten, arrays)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"{name}, seed {seed}")
