"""Memory plans: no two live buffers share bytes, and the arena is as small as it should be."""

from __future__ import annotations

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.passes.memory import plan_memory
from graphc.schedule import bind_sizes
from graphc.schedule_text import parse_schedule
from graphc.schedule_verify import verify_schedule
from tests.passes.levels import lowered

CHAIN = """
schedule chain
  argument x f32[1000]
  output y f32[1000]
  arena a f32[1000]
  arena b f32[1000]
  arena c f32[1000]
kernel step
  axes i:1000
  in p f32[1000]
  out q f32[1000]
  v = load p[999 - i]
  store q[i] = v
run {
  launch step(x -> a)
  barrier
  launch step(a -> b)
  barrier
  launch step(b -> c)
  barrier
  launch step(c -> y)
}
"""


def test_a_chain_needs_two_buffers() -> None:
    schedule = parse_schedule(CHAIN)
    plan = plan_memory(schedule)
    assert plan.peak == 2 * 4032
    assert plan.offsets["a"] == plan.offsets["c"] != plan.offsets["b"]
    verify_schedule(bind_sizes(schedule, {}, plan.offsets))


def test_an_elementwise_chain_needs_one() -> None:
    schedule = parse_schedule(CHAIN.replace("p[999 - i]", "p[i]"))
    plan = plan_memory(schedule)
    assert plan.peak == 4032
    verify_schedule(bind_sizes(schedule, {}, plan.offsets))


def test_what_a_loop_carries_lives_through_it() -> None:
    schedule = parse_schedule(
        """
schedule turns
  argument x f32[1000]
  output y f32[1000]
  cell n i64[]
  arena carry f32[1000]
  arena next f32[1000]
  arena late f32[1000]
kernel step
  axes i:1000
  in p f32[1000]
  out q f32[1000]
  v = load p[999 - i]
  store q[i] = v
run {
  copy x -> carry
  barrier
  loop n < 3 {
    launch step(carry -> next)
    barrier
    copy next -> carry
  }
  launch step(carry -> late)
  barrier
  launch step(late -> y)
}
"""
    )
    plan = plan_memory(schedule)
    assert len({plan.offsets["carry"], plan.offsets["next"]}) == 2
    verify_schedule(bind_sizes(schedule, {}, plan.offsets))


@pytest.mark.parametrize("depth", [2, 6])
def test_training_steps_are_planned_without_overlap(depth: int) -> None:
    x, y = gc.observed("x", (32, 16)), gc.observed("y", (32,), gc.int64)
    layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU())]
    loss = nn.CrossEntropyLoss()(nn.Sequential(*layers, nn.Linear(16, 4))(x), y)
    compiled = lowered([x, y], [loss], optim.Adam().minimize(loss))
    schedule = compiled.scheduled.schedule
    plan = plan_memory(schedule)
    verify_schedule(bind_sizes(schedule, {}, plan.offsets))
    total = sum(int(np.prod(b.type.shape or (1,))) * 4 for b in schedule.of_kind("arena"))
    assert plan.peak < total
    assert sum(plan.at_peak.values()) <= plan.peak
    assert plan.by_source(schedule)


def test_run_time_sizes_are_planned_for_each() -> None:
    b = gc.Dim("B", specialize=False)
    x, w = gc.observed("x", (b, 16)), gc.observed("w", (16, 16))
    compiled = lowered([x, w], [ops.exp(ops.exp(x @ w) @ w)])
    schedule = compiled.scheduled.schedule
    small, large = (plan_memory(schedule, {"B": n}).peak for n in (4, 64))
    assert large == 16 * small


def test_what_a_loop_stacks_shares_nothing_with_its_body() -> None:
    """The stack is filled a slice at a time: written at the end of a body, it is alive in all."""
    schedule = parse_schedule(
        """
schedule stacks
  argument x f32[1000]
  output y f32[3,10]
  cell n i64[]
  arena carry f32[1000]
  arena temporary f32[1000]
  arena next f32[1000]
  arena stack f32[3,10]
kernel step
  axes i:1000
  in p f32[1000]
  out q f32[1000]
  v = load p[999 - i]
  store q[i] = v
kernel push
  scalar at i64 0..2
  axes i:10
  in p f32[1000]
  out q f32[3,10]
  v = load p[i]
  store q[at, i] = v
run {
  copy x -> carry
  barrier
  loop n < 3 {
    launch step(carry -> temporary)
    barrier
    launch step(temporary -> next)
    barrier
    launch push(next -> stack) scalars(n)
    copy next -> carry
  }
  copy stack -> y
}
"""
    )
    offsets = plan_memory(schedule).offsets
    for name in ("carry", "temporary", "next"):
        assert not offsets[name] <= offsets["stack"] < offsets[name] + 4000
