"""Every interleaving of the pool's protocol, for a caller and two or three workers.

The state machine is that of ``backends/llvm/pool.py``: each step below is one atomic access of the
native code. A wait may go to sleep after any number of spins. Searched: no state without a way on
(a lost wake-up leaves all threads asleep), every worker runs every phase exactly once and sees its
data, nobody is late for the next one. The checker itself is tested on broken protocols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

PHASES = 2


class Shared(NamedTuple):
    generation: int = 0
    phase: int = 0
    stop: bool = False
    done: int = 0
    sleepers: int = 0
    joining: int = 0
    runs: tuple[int, ...] = ()  # shares that each worker finished


class Thread(NamedTuple):
    step: str
    old: int = 0  # what a wait compares with
    phase: int = 0  # the caller's phase, or the one that a worker runs


State = tuple[Shared, tuple[Thread, ...]]  # thread 0 is the caller

BROKEN = {
    "no recheck": "sleeping without looking once more",
    "plain sleep": "a futex that does not compare the word",
    "wake first": "waking before the word changes",
    "late reset": "resetting `done` after the phase is published",
    "late data": "publishing a phase before its data",
    "wake nobody": "not waking the caller",
    "early report": "reporting before running",
}


class ViolationError(AssertionError):
    """A rule that some interleaving breaks."""


Moves = Iterator[tuple[Shared, Thread]]


def caller(shared: Shared, me: Thread, workers: int, broken: str) -> Moves:
    order = ["data", "reset", "publish", "wake"]
    if broken == "late reset":
        order = ["data", "publish", "reset", "wake"]
    if broken == "late data":
        order = ["reset", "publish", "data", "wake"]
    if broken == "wake first":
        order = ["data", "reset", "wake", "publish"]
    following = dict(zip(order, [*order[1:], "join"], strict=True))
    match me.step:
        case "begin" if me.phase == PHASES:
            yield shared._replace(stop=True), me._replace(step="stop publish")
        case "begin":
            yield shared, Thread(order[0], phase=me.phase + 1)
        case "data":
            yield shared._replace(phase=me.phase), me._replace(step=following["data"])
        case "reset":
            yield shared._replace(done=0), me._replace(step=following["reset"])
        case "publish":
            raised = shared._replace(generation=shared.generation + 1)
            yield raised, me._replace(step=following["publish"])
        case "wake":
            step = "wake all" if shared.sleepers else following["wake"]
            yield shared, me._replace(step=step)
        case "wake all":
            yield shared, me._replace(step=following["wake"])  # the search wakes the sleepers
        case "join" if shared.done >= workers:
            expected = (me.phase,) * workers
            if shared.runs != expected:
                raise ViolationError(f"joined phase {me.phase} with shares {shared.runs}")
            yield shared, Thread("begin", phase=me.phase)
        case "join":
            yield shared, me._replace(step="spin", old=shared.done)
        case "stop publish":
            yield shared._replace(generation=shared.generation + 1), me._replace(step="stop wake")
        case "stop wake":
            yield shared, me._replace(step="stop all" if shared.sleepers else "exit")
        case "stop all":
            yield shared, me._replace(step="exit")


def worker(shared: Shared, me: Thread, number: int, broken: str) -> Moves:
    match me.step:
        case "look":
            yield shared, me._replace(step="exit" if shared.stop else "read")
        case "read":
            first = "report" if broken == "early report" else "run"
            yield shared, me._replace(step=first, phase=shared.phase)
        case "run":
            runs = list(shared.runs)
            runs[number - 1] += 1
            if runs[number - 1] != me.phase:
                raise ViolationError(
                    f"worker {number} ran phase {me.phase} as its {runs[number - 1]}."
                )
            last = "wake" if broken == "early report" else "report"
            yield shared._replace(runs=tuple(runs)), me._replace(step=last)
        case "report":
            last = "run" if broken == "early report" else "wake"
            yield shared._replace(done=shared.done + 1), me._replace(step=last)
        case "wake" if broken == "wake nobody":
            yield shared, me._replace(step="spin")
        case "wake":
            yield shared, me._replace(step="wake all" if shared.joining else "spin")
        case "wake all":
            yield shared, me._replace(step="spin")


def waiting(shared: Shared, me: Thread, is_caller: bool, broken: str) -> Moves:
    """The steps of ``graphc_wait``: spin, announce, recheck, sleep, awake."""
    word, asleep = ("done", "joining") if is_caller else ("generation", "sleepers")
    value, count = getattr(shared, word), getattr(shared, asleep)
    after = "join" if is_caller else "look"
    match me.step:
        case "spin" if value != me.old:
            yield shared, me._replace(step=after, old=value)
        case "spin":
            yield shared._replace(**{asleep: count + 1}), me._replace(step="recheck")
        case "recheck" if broken == "no recheck":
            yield shared, me._replace(step="futex")
        case "recheck":
            yield shared, me._replace(step="awake" if value != me.old else "futex")
        case "futex" if broken in ("plain sleep", "no recheck"):
            yield shared, me._replace(step="asleep")
        case "futex":
            yield shared, me._replace(step="recheck" if value != me.old else "asleep")
        case "awake":
            yield shared._replace(**{asleep: count - 1}), me._replace(step=after, old=value)


def successors(state: State, workers: int, broken: str, spurious: bool) -> Iterator[State]:
    shared, threads = state
    for i, me in enumerate(threads):
        if me.step == "asleep":
            if spurious:
                yield shared, (*threads[:i], me._replace(step="recheck"), *threads[i + 1 :])
            continue
        if me.step in ("spin", "recheck", "futex", "awake"):
            moves = waiting(shared, me, i == 0, broken)
        elif i == 0:
            moves = caller(shared, me, workers, broken)
        else:
            moves = worker(shared, me, i, broken)
        for after, moved in moves:
            new = [*threads[:i], moved, *threads[i + 1 :]]
            if me.step in ("wake all", "stop all"):  # the caller wakes workers, workers the caller
                woken = range(1, len(new)) if i == 0 else (0,)
                for j in woken:
                    if new[j].step == "asleep":
                        new[j] = new[j]._replace(step="recheck")
            yield after, tuple(new)


def search(workers: int, broken: str = "", *, spurious: bool = False) -> int:
    """The number of states that can be reached; ViolationError with the state where a rule
    breaks.
    """
    start: State = (
        Shared(runs=(0,) * workers),
        (Thread("begin"), *(Thread("spin") for _ in range(workers))),
    )
    seen, stack = {start}, [start]
    while stack:
        state = stack.pop()
        moved = False
        for following in successors(state, workers, broken, spurious):
            moved = True
            if following not in seen:
                seen.add(following)
                stack.append(following)
        if not moved and any(t.step != "exit" for t in state[1]):
            raise ViolationError(f"nobody can go on: {state}")
    return len(seen)


@pytest.mark.parametrize("spurious", [False, True])
def test_two_workers(spurious: bool) -> None:
    assert search(2, spurious=spurious) > 1000


def test_three_workers() -> None:
    assert search(3) > 10_000


@pytest.mark.parametrize("broken", BROKEN)
def test_the_search_finds_broken_protocols(broken: str) -> None:
    with pytest.raises(ViolationError):
        search(2, broken)
