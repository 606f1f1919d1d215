"""Schedules as data: text, rules, interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import BindError, ParseError, RuntimeCheckError, VerifyError
from graphc.schedule import Launch, Loop, bind_sizes, walk
from graphc.schedule_interpret import interpret_schedule
from graphc.schedule_text import parse_schedule, print_schedule
from graphc.schedule_verify import verify_schedule
from graphc.types import SourceLoc

KERNELS = """
kernel step
  size n 1..4096 by 2
  scalar t i64 0..99
  axes i:n
  in x f32[n], h f32[n]
  out y f32[n]
  a = load x[i]
  b = load h[i]
  store y[i] = a + b * f32(t)

kernel less
  axes i:1
  in a f32[]
  out p bool[]
  v = load a[]
  store p[] = v < 10.0

kernel grow
  axes i:1
  in a f32[]
  out b f32[]
  v = load a[]
  store b[] = v * 2.0

kernel positive
  size n 1..
  axes i:n
  in x f32[n]
  out z f32[n]
  a = load x[i]
  ok = a > 0.0
  check ok "positive"
  store z[i] = a

kernel row
  size n 1..
  scalar t i64 0..3
  axes i:n
  in x f32[n]
  out ys f32[4,n]
  a = load x[i]
  store ys[t, i] = a
"""

STEP = f"""schedule step
  size B 2..64 by 2
  argument x f32[B]
  argument start f32[]
  output y f32[B]
  output ys f32[4,B]
  output total f32[]
  state w f32[B] align 64
  arena h f32[B] at 0
  arena g f32[B] at 256
  arena a f32[] at 512
  arena b f32[] at 576
  cell i i64[]
  cell go bool[]
  cell count i64[]
  check 0 "x must be positive" source "model.py":7 "forward"
{KERNELS}
run {{
  launch positive(x -> h) sizes(B)
  copy start -> a
  barrier
  loop i < 4 {{
    launch step(x, h -> g) sizes(B) scalars(i) flops 2*B block "net/0" source "model.py":8 "forward"
    barrier
    copy g -> h
    launch row(g -> ys) sizes(B) scalars(i)
  }}
  launch less(a -> go)
  while go counter count max 8 {{
    launch grow(a -> b)
    barrier
    copy b -> a
    barrier
    launch less(a -> go)
  }}
  if go {{
    copy start -> total
  }} else {{
    copy a -> total
  }}
  commit
  copy h -> y
  copy h -> w
}}
"""


def test_text_round_trip() -> None:
    schedule = parse_schedule(STEP)
    text = print_schedule(schedule)
    again = parse_schedule(text)
    assert print_schedule(again) == text
    for part in ("name", "buffers", "body", "checks", "sizes"):
        assert getattr(again, part) == getattr(schedule, part), part
    launch = next(s for s in walk(schedule.body) if isinstance(s, Launch) and s.block)
    assert launch.source == SourceLoc("model.py", 8, "forward")
    assert str(launch.flops) == "2*B"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule s run {", "line 1, column 17: expected a statement"),
        ("schedule s\n  argument x f33[4] run {}", "line 2, column 14: expected an element type"),
        ("schedule s\n  argument x f32[B] run {}", "column 18: expected an int or a size"),
        ("schedule s run { launch }", "expected a name"),
        ("schedule s run { copy a > b }", "column 25: cannot read '>'"),
        ('schedule s check 1 "m" run {}', "expected check number 0"),
        ("schedule s\nkernel k\n  axes i:4\n  nonsense\nrun {}", "begins at line 2"),
    ],
)
def test_parse_errors_name_the_place(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message.replace("(", r"\(")):
        parse_schedule(text)


def test_it_verifies() -> None:
    schedule = parse_schedule(STEP)
    verify_schedule(schedule)
    verify_schedule(bind_sizes(schedule, {"B": 8}))


def broken(old: str, new: str) -> str:
    assert old in STEP
    return STEP.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  copy h -> w\n", "  copy g -> w\n  launch positive(x -> g) sizes(B)\n", "after commit"),
        ("  commit\n", "  copy h -> w\n  commit\n", "state 'w' before commit"),
        ("  commit\n", "  commit\n  commit\n", "second commit"),
        ("    barrier\n    copy g -> h", "    copy g -> h", "written since the last barrier"),
        ("  copy start -> a\n", "", "reads 'a', which holds no value"),
        ("copy h -> y", "copy h -> x", "writes the argument 'x'"),
        ("  copy h -> y\n", "", "nothing writes the output 'y'"),
        ("copy h -> y", "copy a -> y", "different types"),
        ("launch less(a -> go)", "launch less(h -> go)", "a wants"),
        ("launch less(a -> go)", "launch more(a -> go)", "no kernel or routine 'more'"),
        ("sizes(B) scalars(i) flops", "sizes(B) scalars(go) flops", "scalar t wants i64"),
        ("sizes(B) scalars(i) flops", "scalars(i) flops", "1 sizes wanted, 0 given"),
        ("while go counter", "while a counter", "predicate 'a'"),
        ("loop i < 4 {", "loop a < 4 {", "counter 'a' is no i64 cell"),
        (
            "launch positive(x -> h) sizes(B)",
            "launch positive(x -> h) sizes(B) checks 1",
            "check 1",
        ),
        ("argument x f32[B]", "argument x f32[B]\n  argument x f32[B]", "declared twice"),
        ("arena h f32[B] at 0", "arena h f32[B] at 4", "a wrong offset"),
        ("{\n    copy start -> total\n  }", "{\n    commit\n  }", "commit inside"),
    ],
)
def test_rules(old: str, new: str, message: str) -> None:
    schedule = parse_schedule(broken(old, new))
    with pytest.raises(VerifyError, match=message):
        verify_schedule(schedule)


def test_overlapping_buffers_destroy_each_other() -> None:
    text = """schedule s
      argument x f32[32]
      output y f32[32]
      arena a f32[32] at 0
      arena b f32[32] at {offset}
      run {{ copy x -> a barrier copy x -> b barrier copy a -> y }}"""
    verify_schedule(parse_schedule(text.format(offset=128)))
    with pytest.raises(VerifyError, match="reads 'a', which holds no value"):
        verify_schedule(parse_schedule(text.format(offset=64)))


def test_a_loop_may_not_destroy_what_its_next_pass_reads() -> None:
    text = """schedule s
      argument x f32[32]
      output y f32[32]
      arena a f32[32] at 0
      arena b f32[32] at 0
      cell i i64[]
      run { copy x -> a loop i < 3 { copy a -> y barrier copy x -> b } }"""
    with pytest.raises(VerifyError, match="reads 'a'"):
        verify_schedule(parse_schedule(text))


def test_in_place_needs_exactly_the_same_bytes() -> None:
    text = f"""schedule s
      argument x f32[]
      output y f32[]
      arena a f32[] at 0
      arena b f32[] at 0
{KERNELS}
run {{ copy x -> a barrier launch grow(a -> b) barrier copy b -> y }}"""
    verify_schedule(parse_schedule(text))


def test_interpreter_runs_loops_branches_and_partial_stores() -> None:
    x = np.array([1, 2, 3, 4], np.float32)
    w = np.zeros(4, np.float32)
    arrays = {"x": x, "start": np.array(3, np.float32), "w": w}
    out = interpret_schedule(parse_schedule(STEP), arrays, {"B": 4})
    h, rows = x, []
    for t in range(4):
        h = x + h * np.float32(t)
        rows.append(h)
    np.testing.assert_array_equal(out["y"], h)
    np.testing.assert_array_equal(out["w"], h)
    np.testing.assert_array_equal(out["ys"], rows)
    assert out["total"] == 12  # 3, 6, 12
    assert not w.any()


def test_interpreter_reports_checks_with_their_source() -> None:
    x = np.array([1, -2], np.float32)
    arrays = {"x": x, "start": np.zeros((), np.float32), "w": np.zeros(2, np.float32)}
    with pytest.raises(RuntimeCheckError, match=r"x must be positive\n  defined at model.py:7"):
        interpret_schedule(parse_schedule(STEP), arrays, {"B": 2})
    with pytest.raises(BindError, match="no array for argument 'start'"):
        interpret_schedule(parse_schedule(STEP), {"x": x}, {"B": 2})


def test_bound_sizes_reach_nested_bodies() -> None:
    text = """schedule s size B 1.. argument x f32[B] cell i i64[]
    run { loop i < B { loop i < 2*B {} } }"""
    bound = bind_sizes(parse_schedule(text), {"B": 5})
    lengths = [s.length for s in walk(bound.body) if isinstance(s, Loop)]
    assert lengths == [5, 10]
