"""DOT texts of every kind of picture, kept; look at a picture before its golden is written anew."""

from __future__ import annotations

import graphc as gc
from graphc.drawing.diagram import diagram
from graphc.drawing.dot import dot_text
from graphc.drawing.graph import graph_picture
from graphc.drawing.kernels import KernelNotes, kernels_picture
from graphc.drawing.modules import module_picture
from tests.draw.conftest import Golden
from tests.draw.programs import (
    Running,
    closed,
    mlp,
    mlp_step,
    primitive,
    recurrent,
    schedule,
    tower,
)


def test_diagram(golden: Golden) -> None:
    golden("mlp", dot_text(diagram(closed(mlp()[1]), title="loss")))


def test_diagram_with_parameters(golden: Golden) -> None:
    golden("mlp_parameters", dot_text(diagram(closed(mlp()[1]), parameters=True)))


def test_diagram_of_a_step(golden: Golden) -> None:
    golden("mlp_step", dot_text(diagram(mlp_step(), title="step")))


def test_diagram_with_gradients(golden: Golden) -> None:
    net, loss = mlp()
    gradients = gc.grad(loss, net.parameters())
    golden("mlp_gradients", dot_text(diagram(closed(loss, *gradients))))


def test_diagram_opened_and_collapsed(golden: Golden) -> None:
    for depth in (0, 1, 2):
        golden(f"tower_{depth}", dot_text(diagram(closed(tower()), depth=depth)))


def test_diagram_of_modes_and_states(golden: Golden) -> None:
    y = Running(4)(gc.observed("x", (2, 4))).named("y")
    golden("running", dot_text(diagram(closed(y), depth=2)))


def test_diagram_of_a_scan(golden: Golden) -> None:
    golden("scan", dot_text(diagram(closed(recurrent()))))


def test_diagram_of_branches_and_while(golden: Golden) -> None:
    z = gc.observed("z", ())
    grown = gc.while_loop(lambda v: v < 100.0, lambda v: v * 2.0, z).named("grown")
    chosen = gc.cond(z > 0.0, lambda a: gc.ops.exp(a), lambda a: -a, z).named("chosen")
    golden("branches", dot_text(diagram(closed(grown, chosen))))


def test_graph(golden: Golden) -> None:
    cost = primitive()
    gradient = gc.grad(cost, cost.node.inputs[0].node.inputs[0])
    golden("graph", dot_text(graph_picture(closed(cost, gradient), title="cost")))


def test_kernels(golden: Golden) -> None:
    notes = KernelNotes(
        phases=("forward", "backward", "forward"),
        members=(("scaled", "shifted"), ("again",), ("total",)),
        refusals={("b", "total"): "would recompute `b` 9×"},
    )
    golden("kernels", dot_text(kernels_picture(schedule()[0], notes, title="kernels")))


def test_module(golden: Golden) -> None:
    golden("module", dot_text(module_picture(mlp()[0])))
