"""Schedules: order, commit, and which states are written in place."""

from __future__ import annotations

import numpy as np
import pytest

import graphc as gc
from graphc import ops, optim
from graphc.passes.pipeline import Compiled
from graphc.schedule import Barrier, Commit, Copy, Launch, reads_and_writes
from graphc.schedule_text import parse_schedule, print_schedule
from tests.passes.levels import check_levels, kernel_count


def _names(compiled: Compiled) -> list[str]:
    """The top-level statements: kernel names, copies, commit."""
    found = []
    for statement in compiled.scheduled.schedule.body:
        match statement:
            case Launch():
                found.append(statement.kernel)
            case Copy():
                found.append(f"{statement.source}->{statement.target}")
            case Commit():
                found.append("commit")
            case _:
                pass
    return found


def test_an_elementwise_update_is_in_place() -> None:
    x, s = gc.observed("x", (4,)), gc.state(np.float32([1, 2, 3, 4])).named("s")
    compiled = check_levels([x], [], {s: s * 0.5 + x})
    (launch,) = [s for s in compiled.scheduled.schedule.body if isinstance(s, Launch)]
    assert "s" in launch.inputs
    assert launch.outputs == ("s",)


def test_an_update_that_moves_elements_is_copied() -> None:
    s = gc.state(np.float32([1, 2, 3, 4])).named("s")
    compiled = check_levels([], [], {s: ops.flip(s)})
    assert any(name.endswith("->s") for name in _names(compiled))


def test_an_update_from_a_reduction_of_itself_is_copied_or_later() -> None:
    s = gc.state(np.float32([[1, 2], [3, 4]])).named("s")
    check_levels([], [s.sum()], {s: s - s.max(axis=1, keepdims=True)})


def test_swapped_states_do_not_run_over_each_other() -> None:
    a, b = gc.state(np.float32([1, 2])).named("a"), gc.state(np.float32([3, 4])).named("b")
    check_levels([], [a * 1.0], {a: b * 1.0, b: a + b})


def test_readers_of_a_state_run_before_it_is_written() -> None:
    x, w = gc.observed("x", (8, 4)), gc.parameter(np.float32(np.eye(4))).named("w")
    h = ops.tanh(x @ w)
    loss = (ops.tanh(h @ w) ** 2.0).sum()
    compiled = check_levels([x], [loss], optim.SGD(lr=0.1).minimize(loss), rtol=1e-3)
    written = False
    for statement in compiled.scheduled.schedule.body:
        reads, writes = reads_and_writes(statement)
        assert not (written and "w" in reads)
        written = written or "w" in writes
    assert written


def test_what_can_fail_runs_before_commit_and_all_writes_after() -> None:
    table, i = gc.parameter((10, 4)).named("table"), gc.observed("i", (6,), gc.int64)
    rows = ops.take(table, i, axis=0)
    loss = (rows * rows).sum()
    compiled = check_levels([i], [loss], optim.SGD(lr=0.1).minimize(loss))
    names = _names(compiled)
    at = names.index("commit")
    kernels = compiled.scheduled.schedule.kernel
    assert any(kernels[n].checks for n in names[:at] if n in kernels)
    assert not any(kernels[n].checks for n in names[at:] if n in kernels)


def test_without_updates_there_is_no_commit() -> None:
    x = gc.observed("x", (4,))
    assert "commit" not in _names(check_levels([x], [x * 2.0]))


def test_independent_kernels_share_a_group() -> None:
    x, w = gc.observed("x", (64, 32)), gc.observed("w", (32, 32))
    v = gc.observed("v", (32, 32))
    compiled = check_levels([x, w, v], [x @ w, x @ v, (x @ w) @ v])
    assert kernel_count(compiled) == 3
    barriers = sum(isinstance(s, Barrier) for s in compiled.scheduled.schedule.body)
    assert barriers == 1


def test_equal_kernels_are_one() -> None:
    x = gc.observed("x", (16, 32))
    ws = [gc.parameter((32, 32)).named(f"layer{n}.weight") for n in range(6)]
    h = x
    for w in ws:
        h = ops.tanh(h @ w)
    compiled = check_levels([x], [h])
    assert kernel_count(compiled) == 6
    assert len(compiled.scheduled.schedule.kernels) == 1


@pytest.mark.parametrize("twice", [True, False])
def test_an_output_given_twice_is_copied(twice: bool) -> None:
    x = gc.observed("x", (4,))
    y = ops.exp(x)
    compiled = check_levels([x], [y, y] if twice else [y])
    assert sum(isinstance(s, Copy) for s in compiled.scheduled.schedule.body) == twice


def test_every_launch_knows_its_line() -> None:
    x = gc.observed("x", (4, 8))
    compiled = check_levels([x], [ops.exp(x).sum(axis=0)])
    for statement in compiled.scheduled.schedule.body:
        if isinstance(statement, Launch):
            assert statement.source is not None
            assert statement.source.file.endswith("test_schedule.py")


def test_names_in_any_alphabet_print_as_text_that_parses_back() -> None:
    """Kernels' texts and assemblers are ASCII; a person's σ is spelled."""
    sigma, cafe = gc.observed("σ", (3,)), gc.observed("café", (3,))
    run = gc.compile([sigma, cafe], (sigma * cafe).sum().named("höhe"), name="maß")
    assert run(np.float32([1, 2, 3]), np.float32([1, 1, 1])) == 6.0
    text = print_schedule(run.schedule)
    assert print_schedule(parse_schedule(text)) == text
    assert all(name in text for name in ("kernel hohe", "in sigma f32[3], cafe f32[3]"))
