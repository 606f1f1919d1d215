"""Results that may lie over operands, told from the loops that a backend runs."""

from __future__ import annotations

import pytest

from graphc.backends.llvm import windows
from graphc.backends.llvm.target import host_target
from graphc.errors import VerifyError
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.nest import Nest, Tiling, build_nest, why_not_in_place
from graphc.schedule import Schedule
from graphc.schedule_text import parse_schedule
from graphc.schedule_verify import verify_in_place, verify_schedule

ONE_LOOP = """kernel one_loop
  axes i:12 j:40
  in d f64[12,40], e f64[12]
  out first f64[12,40], second f64[12,40]
  d = load d[i, j]
  e = load e[i]
  store first[i, j] = d * e
  store second[i, j] = d * (e + 1.0)"""
#: the sums make it a kernel by rows: a loop over j writes ``first``, another one ``second``
BY_ROWS = ONE_LOOP.replace("out first f64[12,40],", "out first f64[12,40], sums f64[12],").replace(
    "  store second", "  store sums[i] = e + 1.0\n  store second"
)
SECOND_LOOP = "a later loop reads again what was written to first"
TILINGS = [
    Tiling(),
    Tiling({"i": 5}, {"j": 2}, frozenset({"j"}), ("i", "j")),
    Tiling({}, {"i": 4}, frozenset({"j"}), ("j", "i")),
]


def _nest(text: str, tiling: Tiling = TILINGS[0]) -> Nest:
    return build_nest(parse_kernel(text), tiling)


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_each_point_is_read_before_it_is_written(tiling: Tiling) -> None:
    nest = _nest(ONE_LOOP, tiling)
    assert why_not_in_place(nest, "d", "first") is None
    assert why_not_in_place(nest, "d", "second") is None


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_a_second_loop_over_a_row_reads_it_again(tiling: Tiling) -> None:
    nest = _nest(BY_ROWS, tiling)
    assert why_not_in_place(nest, "d", "first") == SECOND_LOOP
    assert why_not_in_place(nest, "d", "second") is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("load d[i, j]", "load d[11 - i, j]", "d is read at another index than first is written"),
        ("first f64[12,40]", "first f64[12,40] init 0.0", "first is filled before d is read"),
    ],
    ids=["another index", "an initial value"],
)
def test_what_may_not_lie_there(old: str, new: str, reason: str) -> None:
    text = ONE_LOOP.replace(old, new)
    assert reason in str(why_not_in_place(_nest(text), "d", "first"))


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_a_row_that_is_summed_before_it_is_written(tiling: Tiling) -> None:
    text = ONE_LOOP.replace("e = load e[i]", "e = reduce sum d over j")
    assert why_not_in_place(_nest(text, tiling), "d", "first") is None
    text = BY_ROWS.replace("e = load e[i]", "e = reduce sum d over j")
    assert why_not_in_place(_nest(text, tiling), "d", "first") == SECOND_LOOP


def test_what_a_loop_around_the_store_reads_again() -> None:
    """With k outside, the second trip of k would read what the first one wrote."""
    text = """kernel again
  axes k:3 i:8
  in x f32[8], w f32[3,8]
  out y f32[8]
  x = load x[i]
  w = load w[k, i]
  store y[i] = x * w if k < 1"""
    assert why_not_in_place(_nest(text, Tiling(order=("i", "k"))), "x", "y") is None
    reason = "a loop over k reads again what it wrote to y"
    assert why_not_in_place(_nest(text, Tiling(order=("k", "i"))), "x", "y") == reason


@pytest.mark.parametrize(("extent", "fits"), [(4, True), (5, False)])
def test_digits_of_an_index_with_a_predicate(extent: int, fits: bool) -> None:
    """With five steps in four places, a point that stores nothing reads the next one's element."""
    text = f"""kernel digits
  axes o:4 n:{extent}
  in x f32[20]
  out y f32[20]
  x = load x[4*o + n]
  store y[4*o + n] = x * 2.0 if n < 4"""
    assert (why_not_in_place(_nest(text), "x", "y") is None) == fits


SCHEDULE = f"""schedule both
  argument x f64[12,40]
  argument e f64[12]
  output sums f64[12]
  output second f64[12,40]
  arena d f64[12,40] at 0
  arena first f64[12,40] at OFFSET
{BY_ROWS}
kernel copied
  axes i:12 j:40
  in x f64[12,40]
  out d f64[12,40]
  x = load x[i, j]
  store d[i, j] = x
run {{
  launch copied(x -> d)
  barrier
  launch one_loop(d, e -> first, sums, second)
}}
"""


def _loops(kernel: Kernel) -> Nest:
    return build_nest(kernel, windows.choose(kernel, host_target()))


def _schedule(text: str) -> Schedule:
    schedule = parse_schedule(text)
    verify_schedule(schedule)
    return schedule


def test_a_plan_is_compared_with_the_loops() -> None:
    verify_in_place(_schedule(SCHEDULE.replace("OFFSET", "3840")), _loops)
    with pytest.raises(VerifyError, match="writes 'first' in place, but a later loop reads again"):
        verify_in_place(_schedule(SCHEDULE.replace("OFFSET", "0")), _loops)


LOOPED = """schedule looped
  argument x f64[4]
  output y f64[4]
  cell n i64[]
  arena a f64[4] at 0
  arena b f64[4] at 0
kernel step
  axes i:4
  in p f64[4]
  out q f64[4]
  v = load p[i]
  store q[i] = v + 1.0
run {
  launch step(x -> a)
  barrier
  loop n < TURNS {
    launch step(a -> b)
  }
  launch step(b -> y)
}
"""


def test_a_later_turn_of_a_loop_reads_again() -> None:
    """Over what a loop reads it may write in its only turn."""
    verify_in_place(_schedule(LOOPED.replace("TURNS", "1")), _loops)
    with pytest.raises(VerifyError, match="reads 'a', which holds no value here"):
        _schedule(LOOPED.replace("TURNS", "2"))
