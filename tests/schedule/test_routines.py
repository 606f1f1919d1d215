"""Routines as data: text, rules, what they compute by NumPy, and how they are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc import ops
from graphc.drawing.kernels import kernels_picture
from graphc.drawing.notes import notes_of
from graphc.errors import ParseError, VerifyError
from graphc.graph import apply
from graphc.routines import ROUTINES, group, run_routine, sort, top_k
from graphc.schedule_interpret import interpret_schedule
from graphc.schedule_text import parse_schedule, print_schedule
from graphc.schedule_verify import verify_schedule
from graphc.types import bfloat16, float32
from tests.passes.levels import check_levels

TEXT = """schedule step
  size B 1..
  argument x f32[2,B]
  output order i64[2,B]
  output best i64[2,1,3]
  routine argsort[rows, length] = sort(x f32[rows,length] -> order i64[rows,length], descending 1)
  routine largest[rows, length, count] = top_k(x f32[rows,length] -> order i64[rows,count])
run {
  launch argsort(x -> order) sizes(2, B) flops 8*B
  launch largest(x -> best) sizes(2, B, 3)
}"""


def test_text_round_trip() -> None:
    schedule = parse_schedule(TEXT)
    assert print_schedule(schedule) == TEXT
    verify_schedule(schedule)
    assert schedule.launched("argsort") == schedule.routines[0]


def test_interpreter() -> None:
    x = np.float32([[1, np.nan, 3, 1], [0.0, -0.0, 2, np.inf]])
    found = interpret_schedule(parse_schedule(TEXT), {"x": x}, {"B": 4})
    np.testing.assert_array_equal(found["order"], [[2, 0, 3, 1], [3, 2, 0, 1]])
    np.testing.assert_array_equal(found["best"], [[[2, 0, 3]], [[3, 2, 0]]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sizes(2, B) flops", "sizes(2, 3) flops", r"x wants f32\[2,3\], 'x' is f32\[2,B\]"),
        ("sizes(2, B, 3)", "sizes(2, B)", "3 sizes wanted, 2 given"),
        ("order i64[2,B]", "order i32[2,B]", r"order wants i64\[2,B\], 'order' is i32\[2,B\]"),
        ("= sort(", "= shuffle(", "no routine 'shuffle'"),
        (", descending 1)", ", ascending 1)", "not what 'sort' takes"),
        ("-> order i64[rows,count]", "-> order i64[rows,length]", "it must be routine top_k"),
        ("routine largest", "routine argsort", "'argsort' is declared twice"),
        ("launch largest", "launch smallest", "no kernel or routine 'smallest'"),
    ],
)
def test_rules(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(VerifyError, match=message):
        verify_schedule(parse_schedule(TEXT.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[rows, length] =", "[rows] =", "a size"),
        ("x f32[rows,length] -> order i64[rows,count]", "x f32[rows,length]", "found"),
        ("descending 1", "descending", "element type"),
    ],
)
def test_text_that_does_not_parse(old: str, new: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_schedule(TEXT.replace(old, new, 1))


def test_groups_keep_their_order_and_leave_strangers_out() -> None:
    ids = np.array([[2, 0, 2, -1, 0], [3, 1, 1, 1, 7]])
    start, order = run_routine(group(), [ids], {"rows": 2, "length": 5, "groups": 3})
    np.testing.assert_array_equal(start, [[0, 2, 2, 4], [0, 0, 3, 3]])
    np.testing.assert_array_equal(order, [[1, 4, 0, 2, 3], [1, 2, 3, 0, 4]])


def test_every_rule_says_what_it_is() -> None:
    for name, rule in ROUTINES.items():
        made = rule.make(group().inputs[0].type.dtype)
        assert rule.doc
        assert made.rule == name
        sizes = {s.name: 7 for s in made.sizes}
        assert int(str(rule.work(made, sizes))) > 0
    assert sort(float32) == sort(float32, descending=0) != sort(bfloat16)
    assert top_k(float32).outputs[0].type.dtype == gc.int64


def test_programs_with_routines_are_explained_and_drawn(tmp_path: Path) -> None:
    x = gc.observed("x", (4, 9))
    program = gc.compile([x], ops.sort(x * 2.0).sum(1) + ops.top_k(x, 2)[0].sum(1))
    text = str(program.explain())
    assert "sort: 1 values -> argsort; 4 points in parallel" in text
    assert "routine is no part of a kernel" in text
    gc.draw(program, tmp_path / "schedule.svg", level="schedule")
    drawn = (tmp_path / "schedule.svg").read_text()
    assert "sort" in drawn
    assert "top_k" in drawn
    items = kernels_picture(program.schedule, notes_of(program)).items
    lines = [[line.text for line in item.lines] for item in items]
    assert ["sort", "rows:4 length:9", "routine sort"] in [text[:3] for text in lines]
    assert program.resources("sort")["bytes_read"] == 4 * 9 * 4
    assert "define void @routine_" in program.source("sort")
    profile = program.profile(np.ones((4, 9), np.float32))
    assert "sort" in profile.by_kernel()


def test_every_level_agrees() -> None:
    x = gc.observed("x", (3, 8, 2))
    values, places = ops.top_k(x, 3, axis=1)
    outputs = [ops.sort(x, 1), ops.argsort(-x, 0), values, places]
    compiled = check_levels([x], outputs)
    assert {r.rule for r in compiled.scheduled.schedule.routines} == {"sort", "top_k"}


def test_sorting_cannot_fail() -> None:
    """An order is in range by itself, so that states may be written beside it."""
    x = gc.observed("x", (3, 8))
    assert not check_levels([x], [ops.sort(x), ops.sort(x, 0)]).scheduled.schedule.checks
    places = apply("argsort", x, descending=False)
    other = gc.observed("other", (3, 5))
    elsewhere = apply("gather", other, places, axis=1, batch_dims=1)
    assert gc.compile([x, other], elsewhere).schedule.checks


def test_equal_routines_are_declared_once_and_equal_sorts_made_once() -> None:
    x, y = gc.observed("x", (3, 8)), gc.observed("y", (5,))
    orders = [ops.argsort(x), ops.argsort(x), ops.argsort(y), ops.argsort(y, descending=True)]
    schedule = check_levels([x, y], orders).scheduled.schedule
    assert [r.name for r in schedule.routines] == ["sort", "sort_2"]
    launches = [s.kernel for s in schedule.body if hasattr(s, "kernel")]
    assert launches.count("sort") == 2
    assert launches.count("sort_2") == 1


def test_routines_in_loops_and_branches() -> None:
    x, flag = gc.observed("x", (6,)), gc.observed("flag", (), gc.bool)

    def body(carry: gc.Value, _: object) -> tuple[gc.Value, gc.Value]:
        after = ops.flip(ops.sort(carry), 0) * 1.5
        return after, ops.argsort(carry)

    carry, orders = gc.scan(body, x, length=3)
    chosen = gc.cond(flag, lambda v: ops.argsort(v), lambda v: ops.argsort(-v), x)
    for value in (True, False):
        check_levels([x, flag], [carry, orders, chosen], arrays=[_SHUFFLED, np.asarray(value)])
    program = gc.compile([x, flag], (carry, orders, chosen))
    down = np.sort(_SHUFFLED)[::-1]
    got = program(_SHUFFLED, True)
    np.testing.assert_allclose(got[0], down * 1.5**3)
    np.testing.assert_array_equal(got[1][1:], [[5, 4, 3, 2, 1, 0]] * 2)
    np.testing.assert_array_equal(got[2], np.argsort(_SHUFFLED))
    np.testing.assert_array_equal(program(_SHUFFLED, False)[2], np.argsort(-_SHUFFLED))


_SHUFFLED = np.float32([3, -1, 4, 1.5, -9, 2])


def test_derivatives_follow_the_elements() -> None:
    x = gc.observed("x", (2, 5), gc.float64)
    array = np.array([[3.0, 1, 2, 5, 4], [1, 2, 3, 4, 0.5]])
    weight = np.arange(10.0).reshape(2, 5)
    gradient = gc.grad((ops.sort(x) * weight).sum() + ops.top_k(x, 2)[0].sum(), x)
    tangent = gc.jvp(ops.sort(x), x, x * 2.0)
    got, pushed = gc.compile([x], (gradient, tangent))(array)
    wanted = np.zeros_like(array)
    np.put_along_axis(wanted, np.argsort(array, 1), weight, 1)
    np.put_along_axis(
        wanted,
        np.argsort(-array, 1)[:, :2],
        np.take_along_axis(wanted, np.argsort(-array, 1)[:, :2], 1) + 1.0,
        1,
    )
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(pushed, 2 * np.sort(array, 1))
