"""What stands in a diagram, and how it is joined."""

from __future__ import annotations

import pytest

import graphc as gc
from graphc import nn
from graphc.drawing.diagram import diagram
from graphc.drawing.dot import dot_text, lay_out
from graphc.drawing.graph import graph_picture
from graphc.drawing.modules import module_picture
from graphc.drawing.picture import Edge, Item, Picture
from tests.draw.conftest import needs_dot
from tests.draw.programs import Running, closed, mlp, mlp_step, noisy_step, recurrent, tower


def named(picture: Picture, text: str) -> list[Item]:
    """The items that show ``text``."""
    return [i for i in picture.items if any(line.text == text for line in i.lines)]


def between(picture: Picture, tail: Item, head: Item) -> list[Edge]:
    return [e for e in picture.edges if (e.tail, e.head) == (tail.key, head.key)]


def shapes(picture: Picture) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in picture.items:
        found[item.shape] = found.get(item.shape, 0) + 1
    return found


def test_shapes_of_lecun() -> None:
    picture = diagram(closed(mlp()[1]))
    assert shapes(picture) == {"bullet": 3, "cost": 1, "observed": 2, "computed": 3}


def test_edges_carry_types() -> None:
    picture = diagram(closed(mlp()[1]))
    labels = [e.label for e in picture.edges if e.label]
    assert sorted(labels) == sorted(["f32[B,8]", "f32[B,16]", "f32[B,16]", "f32[B,4]", "f32[B,4]"])


def test_implicit_parameters_are_named_or_drawn() -> None:
    graph = closed(mlp()[1])
    inside = diagram(graph)
    assert len(named(inside, "weight, bias")) == 2
    assert "parameter" not in shapes(inside)
    drawn = diagram(graph, parameters=True)
    assert not named(drawn, "weight, bias")
    assert shapes(drawn)["parameter"] == 4


def test_tied_parameters_are_marked() -> None:
    graph = closed(tower(3))
    assert len(named(diagram(graph), "weight (tied), bias")) == 3
    (tied,) = (i for i in diagram(graph, parameters=True).items if "tied" in str(i.lines))
    assert tied.shape == "parameter"


def test_a_collapsed_picture_keeps_every_crossing_edge() -> None:
    """x enters a block twice: along the skip and through the norm; collapsed it enters once."""
    graph = closed(tower(2))
    for depth in (0, 1, 2, 3):
        picture = diagram(graph, depth=depth)
        reached = {e.head for e in picture.edges} | {e.tail for e in picture.edges}
        assert reached == {i.key for i in picture.items}, f"depth {depth}: something hangs loose"
        (x,), (scores,) = named(picture, "x"), named(picture, "scores")
        assert any(e.tail == x.key for e in picture.edges)
        assert any(e.head == scores.key for e in picture.edges)
    bullets = [shapes(diagram(graph, depth=d))["bullet"] for d in (0, 1, 2)]
    assert bullets == [1, 3, 7]


def test_clusters_are_the_opened_modules() -> None:
    picture = diagram(closed(tower(2)))
    labels = {c.label for c in picture.clusters} - {""}
    assert labels == {"Tower", "blocks.0", "blocks.1"}


def test_a_large_network_is_collapsed_to_a_screen() -> None:
    graph = closed(tower(60))
    assert len(diagram(graph).items) <= 150
    assert len(diagram(graph, depth=3).items) > 300


def test_backward_faces_forward_and_is_joined_by_what_is_saved() -> None:
    net, loss = mlp()
    picture = diagram(closed(loss, *gc.grad(loss, net.parameters())))
    by_key = {i.key: i for i in picture.items}
    facing = {i.key: i.faces for i in picture.items if i.faces}
    assert len(facing) == 4
    for derivative, primal in facing.items():
        assert by_key[derivative].phase == "backward"
        assert by_key[derivative].upwards
        assert by_key[primal].phase == "forward"
        assert by_key[derivative].shape == by_key[primal].shape
    saved = [e for e in picture.edges if e.style == "saved"]
    assert {(e.tail, e.head) for e in saved} == {(p, d) for d, p in facing.items()}
    names = [line.text for i in picture.items if i.phase == "backward" for line in i.lines]
    assert names.count("∂weight") == 2
    assert "∂prediction" in names


def test_a_gradient_alone_is_drawn_with_its_cost() -> None:
    net, loss = mlp()
    picture = diagram(closed(*gc.grad(loss, net.parameters())))
    assert all(i.faces for i in picture.items if i.phase == "backward" and i.shape != "computed")


def test_backward_false_leaves_derivatives_out() -> None:
    picture = diagram(mlp_step(), backward=False)
    assert {i.phase for i in picture.items} == {"forward"}


def test_an_optimizer_is_one_function_that_writes_back() -> None:
    picture = diagram(mlp_step())
    (update,) = (i for i in picture.items if i.phase == "update")
    assert named(picture, "writes 13 states") == [update]
    gradients = [e for e in picture.edges if e.head == update.key]
    assert sorted(e.tip for e in gradients) == ["∂bias, ∂weight", "∂bias, ∂weight"]
    written = [e for e in picture.edges if e.style == "update"]
    assert {e.tail for e in written} == {update.key}
    assert len(written) == 2


def test_forward_mode_runs_along_with_the_forward_graph() -> None:
    x, v = gc.observed("x", (3,)), gc.observed("v", (3,))
    y = gc.ops.exp(gc.ops.tanh(x))
    picture = diagram(closed(y, gc.jvp(y, x, v)))
    derived = [i for i in picture.items if i.faces]
    assert derived
    assert not any(i.upwards for i in derived)


def test_stop_gradient_is_a_bar() -> None:
    x = gc.observed("x", (3,))
    picture = diagram(closed((x - gc.stop_gradient(x)).named("y")))
    (x_item,), (minus,) = named(picture, "x"), named(picture, "−")
    assert sorted(e.bar for e in between(picture, x_item, minus)) == [False, True]


def test_modes_meet_in_a_switch_and_updates_go_back() -> None:
    y = Running(4)(gc.observed("x", (2, 4))).named("y")
    picture = diagram(closed(y), depth=2)
    (switch,) = (i for i in picture.items if i.shape == "switch")
    assert switch.inputs == ("train", "eval")
    (state,) = (i for i in picture.items if i.shape == "state")
    assert [e.style for e in picture.edges if e.head == state.key] == ["update"]


def test_resolved_modes_leave_no_second_forward_pass() -> None:
    """Derivatives through a by_mode belong to the chosen branch; what a module attached is its
    own, and nothing flows from the optimizer back into the forward pass.
    """
    picture = diagram(noisy_step())
    forward = [i for i in picture.items if i.phase == "forward" and i.shape == "bullet"]
    out_of = [sum(e.tail == i.key and e.style == "flow" for e in picture.edges) for i in forward]
    assert out_of == [1] * len(forward)  # one circle each
    assert len(named(picture, "num_batches_tracked")) == 1
    (update,) = (i for i in picture.items if i.phase == "update")
    assert {e.style for e in picture.edges if e.tail == update.key} == {"update"}


def test_a_weighted_sum_of_costs_joins_squares() -> None:
    x = gc.observed("x", (3,))
    total = ((x * x).mean() + (x - 1.0).sum()).named("total")
    picture = diagram(closed(total))
    (plus,) = named(picture, "+")
    assert plus.shape == "bullet"
    by_key = {i.key: i for i in picture.items}
    assert [by_key[e.tail].shape for e in picture.edges if e.head == plus.key] == ["cost", "cost"]


def test_several_inputs_enter_at_places_of_their_own() -> None:
    a, b = gc.observed("a", (3,)), gc.observed("b", (3,))
    picture = diagram(closed((b / a).named("y")))
    (quotient,), (a_item,), (b_item,) = (named(picture, n) for n in ("÷", "a", "b"))
    (from_a,), (from_b,) = between(picture, a_item, quotient), between(picture, b_item, quotient)
    assert (from_b.head_port, from_a.head_port) == (0, 1)


def test_a_scan_is_drawn_once_with_its_delay() -> None:
    picture = diagram(closed(recurrent()))
    (delay,) = (i for i in picture.items if i.shape == "delay")
    (into_delay,) = (e for e in picture.edges if e.head == delay.key)
    assert into_delay.style == "carry"
    assert any(c.label == "scan × 20" for c in picture.clusters)
    assert sum(i.stacked for i in picture.items) == 2
    assert len(named(picture, "linear")) == 2
    assert all(i.cluster == delay.cluster for i in picture.items if i.stacked)


def test_gradients_of_a_scan() -> None:
    states = recurrent()
    cost = (states * states).mean()
    wrt = [n.outputs[0] for n in closed(cost).nodes if n.op == "parameter"]
    picture = diagram(closed(cost, *gc.grad(cost, wrt)))
    assert named(picture, "∂scan")
    keys = {i.key for i in picture.items}
    assert all({e.tail, e.head} <= keys for e in picture.edges)


@pytest.mark.parametrize("draw", [diagram, graph_picture])
def test_the_same_program_gives_the_same_text(draw: object) -> None:
    assert callable(draw)
    first, second = (dot_text(draw(mlp_step())) for _ in range(2))
    assert first.replace(":", "") == second.replace(":", "")


def test_every_primitive_stands_in_the_graph() -> None:
    x = gc.observed("x", (3, 4))
    y = nn.Softmax(dim=1)(x).named("y")
    picture = graph_picture(closed(y))
    text = dot_text(picture)
    for name in ("max", "exp", "sum", "÷", "softmax"):
        assert name in text
    assert {c.label for c in picture.clusters} >= {"Softmax"}


@needs_dot
def test_modules_stand_in_the_order_of_their_registration() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = nn.Linear(8, 4), nn.ReLU() >> nn.Linear(4, 4)
            self.third, self.fourth = nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x: gc.Value) -> gc.Value:
            return x

    picture = module_picture(Net())
    places = lay_out(picture).items
    shown = {i.lines[1].text: places[i.key][1] for i in picture.items if len(i.lines) > 1}
    assert shown["first"] < shown["third"] < shown["fourth"]
