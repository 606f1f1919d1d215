"""Every interleaving of the pool's protocol, for a caller and two or three workers.

The state machine is that of ``backends/llvm/pool_code.py``: each step below is one atomic access of
the native code. A wait may go to sleep after any number of spins, a wake of some wakes any of them,
and the caller may or may not think that a phase is worth waking sleepers for; so workers come
early, late, between phases, or never. Searched: no state without a way on (a lost wake-up leaves
all threads asleep), every chunk of a phase runs exactly once before the caller goes on, and nobody
reads a phase that is over: the caller may have rewritten it. The checker itself is tested on broken
protocols. Workers are alike, so states that differ in their order count once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Shared(NamedTuple):
    generation: int = 0
    open: bool = False  # with `inside`, the gate
    inside: int = 0
    phase: int = 0
    front: int = 0  # with `back`, the claims
    back: int = 0
    stop: bool = False
    sleepers: int = 0
    joining: int = 0
    valid: int = 0  # the phase that may be read now; 0 while the caller may rewrite it
    done: frozenset[int] = frozenset()  # chunks that have run


NOTHING = (0, 0)


class Thread(NamedTuple):
    step: str
    old: int = 0  # what a wait compares with
    phase: int = 0  # the caller's phase, or the one that a worker read
    chunk: int = 0
    seen: tuple[int, int] = NOTHING  # the gate before entering; the claims before a torn store


class Setting(NamedTuple):
    workers: int
    phases: tuple[int, ...]  # their numbers of chunks
    broken: str = ""
    spurious: bool = False  # futexes wake up for no reason

    def chunks(self, phase: int) -> int:
        return self.phases[phase - 1]


State = tuple[Shared, tuple[Thread, ...]]  # thread 0 is the caller

BROKEN = {
    "no recheck": "sleeping without looking once more",
    "plain sleep": "a futex that does not compare the word",
    "wake first": "waking those who must stop before the word changes",
    "late reset": "resetting the claims after the gate is open",
    "late data": "opening the gate before the phase is written",
    "no close": "joining while workers can still enter",
    "no join": "going on while workers are inside",
    "wake nobody": "not waking the caller",
    "early leave": "leaving before running",
    "blind entry": "entering without looking whether the gate is still open",
    "early read": "reading what to run before entering",
    "torn claim": "claiming by a load and a store",
    "same side": "workers counted at the back, but given chunks from the front",
}


class ViolationError(AssertionError):
    """A rule that some interleaving breaks."""


Moves = Iterator[tuple[Shared, Thread]]


def order_of(broken: str) -> list[str]:
    order = ["data", "reset", "open", "raise", "call", "claim"]
    if broken == "late reset":
        order = ["data", "open", "reset", "raise", "call", "claim"]
    if broken == "late data":
        order = ["reset", "open", "data", "raise", "call", "claim"]
    return order


def caller(shared: Shared, me: Thread, setting: Setting) -> Moves:
    order = order_of(setting.broken)
    following = dict(itertools.pairwise(order))
    match me.step:
        case "begin" if me.phase == len(setting.phases):
            first = "stop wake" if setting.broken == "wake first" else "stop raise"
            yield shared._replace(stop=True), me._replace(step=first)
        case "begin":
            yield shared, Thread(order[0], phase=me.phase + 1)
        case "data":
            written = shared._replace(phase=me.phase, valid=me.phase, done=frozenset())
            yield written, me._replace(step=following["data"])
        case "reset":
            yield shared._replace(front=0, back=0), me._replace(step=following["reset"])
        case "open":
            yield shared._replace(open=True, inside=0), me._replace(step=following["open"])
        case "raise":
            raised = shared._replace(generation=shared.generation + 1)
            yield raised, me._replace(step=following["raise"])
        case "call":
            yield shared, me._replace(step="claim")
            if shared.sleepers:
                yield shared, me._replace(step="wake some")
        case "wake some":
            yield shared, me._replace(step="claim")  # the search wakes sleepers
        case "claim" | "store" | "run":
            yield from running(shared, me, setting, is_caller=True)
        case "close":
            closed = shared if setting.broken == "no close" else shared._replace(open=False)
            yield closed, me._replace(step="join", old=shared.inside)
        case "join" if me.old == 0 or setting.broken == "no join":
            if len(shared.done) != setting.chunks(me.phase):
                raise ViolationError(f"joined phase {me.phase} with chunks {set(shared.done)}")
            yield shared._replace(valid=0), Thread("begin", phase=me.phase)
        case "join":
            yield shared, me._replace(step="spin")
        case "stop raise":
            last = "exit" if setting.broken == "wake first" else "stop wake"
            yield shared._replace(generation=shared.generation + 1), me._replace(step=last)
        case "stop wake":
            last = "stop raise" if setting.broken == "wake first" else "exit"
            yield shared, me._replace(step="wake all" if shared.sleepers else last)
        case "wake all":
            last = "stop raise" if setting.broken == "wake first" else "exit"
            yield shared, me._replace(step=last)


def running(shared: Shared, me: Thread, setting: Setting, *, is_caller: bool) -> Moves:
    """The steps of ``graphc_claim``: they read the phase, and run chunks of it."""
    if shared.valid != me.phase:
        raise ViolationError(f"phase {me.phase} is read when {shared.valid} is what may be read")
    past = "close" if is_caller else "leave"
    count = setting.chunks(me.phase)
    match me.step:
        case "claim" | "store":
            front, back = (shared.front, shared.back) if me.step == "claim" else me.seen
            chunk = front
            if not is_caller and setting.broken != "same side":
                chunk = count - 1 - back
            claimed = shared._replace(front=front + is_caller, back=back + (not is_caller))
            if setting.broken == "torn claim" and me.step == "claim":
                yield shared, me._replace(step="store", seen=(front, back))
            elif front + back < count:
                left = setting.broken == "early leave" and not is_caller
                step = "leave" if left else "run"
                yield claimed, me._replace(step=step, chunk=chunk, seen=(int(left), 0))
            else:
                yield claimed, me._replace(step=past, seen=NOTHING)
        case "run":
            if me.chunk in shared.done:
                raise ViolationError(f"chunk {me.chunk} of phase {me.phase} ran twice")
            step = "spin" if setting.broken == "early leave" and not is_caller else "claim"
            yield shared._replace(done=shared.done | {me.chunk}), me._replace(step=step, chunk=0)


def worker(shared: Shared, me: Thread, setting: Setting) -> Moves:
    broken = setting.broken
    gate = int(shared.open), shared.inside
    match me.step:
        case "look":
            yield shared, me._replace(step="exit" if shared.stop else "arrive")
        case "arrive" if shared.open:
            phase = shared.phase if broken == "early read" else 0
            yield shared, me._replace(step="enter", seen=gate, phase=phase)
        case "arrive":
            yield shared, me._replace(step="spin")
        case "enter" if gate == me.seen or broken == "blind entry":
            step = "claim" if broken == "early read" else "read"
            entered = shared._replace(inside=shared.inside + 1)
            yield entered, me._replace(step=step, seen=NOTHING)
        case "enter":
            step = "enter" if shared.open else "spin"
            yield shared, me._replace(step=step, seen=gate if shared.open else NOTHING)
        case "read":
            if shared.valid != shared.phase:
                raise ViolationError(f"phase {shared.phase} is read, {shared.valid} may be")
            yield shared, me._replace(step="claim", phase=shared.phase)
            yield shared, me._replace(step="leave")  # the program has no memory for this worker
        case "claim" | "store" | "run":
            yield from running(shared, me, setting, is_caller=False)
        case "leave":
            left = shared._replace(inside=shared.inside - 1)
            last = shared.inside == 1 and not shared.open and broken != "wake nobody"
            after = "run" if me.seen[0] else "spin"
            yield left, me._replace(step="wake" if last else after, seen=NOTHING)
        case "wake":
            step = "wake caller" if shared.joining else "spin"
            yield shared, Thread(step, old=me.old)
        case "wake caller":
            yield shared, me._replace(step="spin")


def waiting(shared: Shared, me: Thread, broken: str, *, is_caller: bool) -> Moves:
    """The steps of ``graphc_wait``: spin, announce, recheck, sleep, awake."""
    asleep = "joining" if is_caller else "sleepers"
    # `old` of the caller is the number inside: while it waits, that is all of the gate that changes
    value = shared.inside if is_caller else shared.generation
    count = getattr(shared, asleep)
    after = "join" if is_caller else "look"
    match me.step:
        case "spin" if value != me.old:
            yield shared, Thread(after, old=value, phase=me.phase if is_caller else 0)
        case "spin":
            announced = shared._replace(**{asleep: count + 1})
            yield announced, Thread("recheck", old=me.old, phase=me.phase if is_caller else 0)
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


def woken(step: str, threads: list[Thread], setting: Setting) -> Iterator[list[Thread]]:
    """What a thread that is at a waking step may do to the others."""
    asleep = [i for i, t in enumerate(threads) if i and t.step == "asleep"]
    if step == "wake caller":
        asleep = [0] if threads[0].step == "asleep" else []
    number = len(asleep)
    if step == "wake some":
        number = min(setting.chunks(threads[0].phase) - 1, number)
    for chosen in itertools.combinations(asleep, number):
        yield [t._replace(step="recheck") if i in chosen else t for i, t in enumerate(threads)]


def successors(state: State, setting: Setting) -> Iterator[State]:
    shared, threads = state
    for i, me in enumerate(threads):
        if me.step == "asleep":
            if setting.spurious:
                new = [*threads[:i], me._replace(step="recheck"), *threads[i + 1 :]]
                yield shared, (new[0], *sorted(new[1:]))
            continue
        if me.step in ("spin", "recheck", "futex", "awake"):
            moves = waiting(shared, me, setting.broken, is_caller=i == 0)
        elif i == 0:
            moves = caller(shared, me, setting)
        else:
            moves = worker(shared, me, setting)
        for after, moved in moves:
            new = [*threads[:i], moved, *threads[i + 1 :]]
            if me.step in ("wake some", "wake all", "wake caller"):
                for threads_after in woken(me.step, new, setting):
                    yield after, (threads_after[0], *sorted(threads_after[1:]))
            else:
                yield after, (new[0], *sorted(new[1:]))


def search(setting: Setting) -> int:
    """The number of states that can be reached; ViolationError with the state where a rule
    breaks.
    """
    start: State = (Shared(), (Thread("begin"), *(Thread("spin"),) * setting.workers))
    seen, stack = {start}, [start]
    while stack:
        state = stack.pop()
        moved = False
        for following in successors(state, setting):
            moved = True
            if following not in seen:
                seen.add(following)
                stack.append(following)
        if not moved and any(t.step != "exit" for t in state[1]):
            raise ViolationError(f"nobody can go on: {state}")
    return len(seen)


@pytest.mark.parametrize("spurious", [False, True])
def test_two_workers(spurious: bool) -> None:
    assert search(Setting(2, (2, 4), spurious=spurious)) > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("phases", [(2, 2, 2), (5, 3)])
def test_two_workers_for_longer(phases: tuple[int, ...]) -> None:
    assert search(Setting(2, phases)) > 50_000


def test_three_workers() -> None:
    assert search(Setting(3, (2,))) > 10_000


@pytest.mark.slow
def test_three_workers_and_two_phases() -> None:
    assert search(Setting(3, (2, 2))) > 100_000


@pytest.mark.parametrize("broken", BROKEN)
def test_the_search_finds_broken_protocols(broken: str) -> None:
    with pytest.raises(ViolationError):
        search(Setting(2, (1, 3), broken))
