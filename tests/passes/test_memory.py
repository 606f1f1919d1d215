"""Memory plans: no two live buffers share bytes, and the arena is as small as it should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.kernel.text import parse_kernel
from graphc.passes.memory import plan_memory
from graphc.passes.schedule import may_share
from graphc.schedule import Schedule, bind_sizes, place_buffers
from graphc.schedule_text import parse_schedule
from graphc.schedule_verify import verify_schedule
from tests.passes.levels import lowered
from tests.passes.networks import NETWORKS
from tests.passes.programs import needed, program

#: how much larger than the bytes alive at once an arena may be
WASTE = 1.15

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
    verify_schedule(place_buffers(schedule, plan.offsets))


def test_an_elementwise_chain_needs_one() -> None:
    schedule = parse_schedule(CHAIN.replace("p[999 - i]", "p[i]"))
    plan = plan_memory(schedule)
    assert plan.peak == 4032
    verify_schedule(place_buffers(schedule, plan.offsets))


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
    verify_schedule(place_buffers(schedule, plan.offsets))


@pytest.mark.parametrize("depth", [2, 6])
def test_training_steps_are_planned_without_overlap(depth: int) -> None:
    x, y = gc.observed("x", (32, 16)), gc.observed("y", (32,), gc.int64)
    layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU())]
    loss = nn.CrossEntropyLoss()(nn.Sequential(*layers, nn.Linear(16, 4))(x), y)
    compiled = lowered([x, y], [loss], optim.Adam().minimize(loss))
    schedule = compiled.scheduled.schedule
    plan = plan_memory(schedule)
    verify_schedule(place_buffers(schedule, plan.offsets))
    total = sum(int(np.prod(b.type.shape or (1,))) * 4 for b in schedule.of_kind("arena"))
    assert plan.peak < total
    assert sum(plan.at_peak.values()) <= plan.peak
    assert plan.by_source(schedule)


def test_run_time_sizes_are_planned_for_each() -> None:
    b = gc.Dim("B", specialize=False)
    x, w = gc.observed("x", (b, 16)), gc.observed("w", (16, 16))
    compiled = lowered([x, w], [ops.exp(ops.exp(x @ w) @ w)])
    schedule = compiled.scheduled.schedule
    small, large = (plan_memory(bind_sizes(schedule, {"B": n})).peak for n in (4, 64))
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


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_planned_near_the_bound(name: str) -> None:
    inputs, outputs, updates = NETWORKS[name]()
    schedule = lowered(inputs, outputs, updates).scheduled.schedule
    plan = plan_memory(schedule)
    verify_schedule(place_buffers(schedule, plan.offsets))
    assert 0 < plan.bound <= plan.peak <= WASTE * plan.bound


@pytest.mark.slow
def test_random_programs_are_planned_near_the_bound() -> None:
    for seed in range(150):
        inputs, outputs = program(seed)
        _check_bound(seed, lowered(inputs, outputs).scheduled.schedule)
    for seed in range(1000, 1150):
        inputs, outputs = program(seed, 3, 10)
        cost = ops.tanh(outputs[0]).sum() + ops.tanh(outputs[1]).sum()
        results = [cost, *gc.grad(cost, inputs, unused="zero")] if inputs else [cost]
        _check_bound(seed, lowered(needed(results), results).scheduled.schedule)


def _check_bound(seed: int, schedule: Schedule) -> None:
    plan = plan_memory(schedule)
    assert plan.bound <= plan.peak <= WASTE * plan.bound, seed


def _lifetimes(seed: int, count: int) -> tuple[Schedule, list[tuple[int, int, int]]]:
    """A schedule of buffers that are filled in one step and read in a later one; first and last
    step and padded bytes of each.
    """
    generator = np.random.default_rng(seed)
    steps = [list[str]() for _ in range(count + 1)]
    kernels, buffers, spans = dict[int, str](), list[str](), list[tuple[int, int, int]]()
    for number in range(count):
        size = int(generator.choice([16, 100, 256, 300, 1000, 1024, 4000]))
        first = int(generator.integers(0, count))
        last = min(count, first + 1 + int(generator.geometric(0.3)))
        buffers.append(f"  arena b{number} f32[{size}]")
        steps[first].append(f"  launch fill{size}( -> b{number})")
        steps[last].append(f"  launch read{size}(b{number} -> y{number})")
        buffers.append(f"  output y{number} f32[]")
        kernels[size] = FILL_AND_READ.format(n=size)
        spans.append((first, last, -(-4 * size // 64) * 64))
    run = "\n  barrier\n".join("\n".join(step) for step in steps if step)
    taken = [n for n, step in enumerate(steps) if step]
    spans = [(taken.index(first), taken.index(last), size) for first, last, size in spans]
    text = ["schedule lives", *buffers, *kernels.values(), "run {", run, "}"]
    return parse_schedule("\n".join(text) + "\n"), spans


FILL_AND_READ = """kernel fill{n}
  axes i:{n}
  out q f32[{n}]
  store q[i] = 1.0
kernel read{n}
  axes i:{n}
  in p f32[{n}]
  out y f32[]
  v = load p[i]
  s = reduce sum v over i
  store y[] = s"""


@pytest.mark.parametrize("seed", range(20))
def test_random_lifetimes_are_planned_near_the_bound(seed: int) -> None:
    schedule, spans = _lifetimes(seed, 3 + 2 * seed)
    plan = plan_memory(schedule)
    verify_schedule(place_buffers(schedule, plan.offsets))
    steps = range(1 + max(last for _, last, _ in spans))
    alive = [sum(b for first, last, b in spans if first <= step <= last) for step in steps]
    assert plan.bound == max(alive)
    assert plan.peak <= WASTE * plan.bound


def test_many_buffers_are_planned_without_comparing_all() -> None:
    schedule, _ = _lifetimes(1, 700)
    plan = plan_memory(schedule)
    verify_schedule(place_buffers(schedule, plan.offsets))
    assert plan.bound <= plan.peak <= 1.3 * plan.bound


def test_explain_says_what_is_alive_at_once() -> None:
    x = gc.observed("x", (8, 100))
    program = gc.compile([x], x - x.mean())
    assert program.memory.bound == program.memory.peak == program.explain().bound
    assert "at the peak" in str(program.explain())
    wasted = replace(program.explain(), peak=4096, bound=2048)
    assert "intermediate results: 4.0 KB at the peak, 2.0 KB alive at once" in str(wasted)


TWO_PRODUCTS = """kernel two_products
  axes i:12 j:4
  parallel i j
  in d f64[12,4], e f64[12]
  out first f64[12,4], second f64[12,4]
  d = load d[i, j]
  e = load e[i]
  store first[i, j] = d * e
  store second[i, j] = d * (e + 1.0)
"""
#: the same by rows: a loop over j writes ``first``, another one ``second``
BY_ROWS = """kernel by_rows
  axes i:12 j:4
  parallel i
  in d f64[12,4], e f64[12]
  out first f64[12,4], sums f64[12], second f64[12,4]
  d = load d[i, j]
  e = load e[i]
  store first[i, j] = d * e
  store sums[i] = e + 1.0
  store second[i, j] = d * (e + 1.0)
"""


def test_a_row_that_a_second_loop_reads_again_is_not_overwritten() -> None:
    assert may_share(parse_kernel(TWO_PRODUCTS), "d", "first")
    assert not may_share(parse_kernel(BY_ROWS), "d", "first")
    assert may_share(parse_kernel(BY_ROWS), "d", "second")  # nothing reads it after that
