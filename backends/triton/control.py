"""How loops and branches run on a device: in one graph with what surrounds them, or by the host.

A loop of known length is unrolled into the graph around it, up to ``MOST_NODES`` nodes. Branches
are decided by the device, and so are the turns of a ``while`` loop (``gates.py``): a graph has
several of them, those past the loop's end do nothing, and the host looks at one word to know
whether to launch the graph again. Where what is inside does not fit in a graph the host drives it::

    Loop    whole: turns x body in the graph          else: a graph of one turn, launched for each
    While   whole: all turns of max_steps             else: ``turns`` in a graph, then a look
    If      whole: both sides, guarded                else: a look, then one side's graph

``choices`` decides before anything is built; ``described`` says the same to people.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.errors import BackendError
from graphc.records import dataclass
from graphc.schedule import Body, If, Loop, Schedule, While, walk

__all__ = ["Choice", "choices", "described", "known"]

#: nodes of one graph beyond which a loop is driven by the host
MOST_NODES = 4096
#: turns of a ``while`` loop in one graph, and the nodes that they may have together
MOST_TURNS, MOST_TURN_NODES = 16, 256
#: nodes of a branch beyond which the host asks which side to launch
MOST_SKIPPED = 64


@dataclass(frozen=True)
class Choice:
    """How a loop or branch runs: whether all of it is in the graph around it, and how many turns a
    graph has.
    """

    whole: bool
    turns: int = 1


def choices(schedule: Schedule) -> Mapping[int, Choice]:
    """The choice for each loop and branch of a schedule with known sizes, by its identity."""
    found: dict[int, Choice] = {}
    _place(schedule.body, 0, found)
    return found


def described(schedule: Schedule) -> tuple[str, ...]:
    """A line for each loop and branch: who decides it, and what that costs.

    >>> body = Loop("i", 3, ()), While("p", (), max_steps=1), While("q", ()), If("r", ())
    >>> for line in described(Schedule("s", (), body=body)):
    ...     print(line)
    loop i: its 3 turns are in one graph
    while p: the device decides; its only turn is in one graph, nothing is done past the end
    while q: the device decides; 16 turns a launch, nothing is done past the end, then a look
    if r: the device decides; both sides are launched, one does nothing
    """
    controls = [s for s in walk(schedule.body) if isinstance(s, Loop | While | If)]
    if schedule.sizes and controls:
        return ("loops and branches: chosen for the sizes of a call",)
    chosen = choices(schedule)
    lines = (_line(s, chosen[id(s)]) for s in controls)
    return tuple(dict.fromkeys(lines))


def _line(statement: Loop | While | If, choice: Choice) -> str:
    turns = f"{choice.turns:,} turns" if choice.turns != 1 else "1 turn"
    whole = f"its {turns} are" if choice.turns != 1 else "its only turn is"
    nothing = "nothing is done past the end"
    match statement, choice.whole:
        case Loop(counter), True:
            return f"loop {counter}: {whole} in one graph"
        case Loop(counter), False:
            return f"loop {counter}: the host launches one graph for each of its {turns}"
        case While(predicate), True:
            return f"while {predicate}: the device decides; {whole} in one graph, {nothing}"
        case While(predicate), False:
            how = f"{turns} a launch, {nothing}, then a look"
            return f"while {predicate}: the device decides; {how}"
        case If(predicate), True:
            return f"if {predicate}: the device decides; both sides are launched, one does nothing"
        case If(predicate), False:
            how = "the host looks and launches one side"
            return f"if {predicate}: the device decides; {how}"
    raise AssertionError(statement)


def _place(body: Body, before: int, found: dict[int, Choice]) -> int:
    """Choose for a body in a graph that has some nodes; the nodes after it."""
    for statement in body:
        match statement:
            case Loop():
                length, nodes = max(0, known(statement.length)), _nodes_of(statement.body)
                whole = nodes is not None and before + length * nodes <= MOST_NODES
                choice, bodies = Choice(whole, length), [statement.body]
            case While():
                choice, bodies = _turns(statement), [statement.body]
            case If():
                choice = Choice(_nodes_of((statement,)) is not None)
                bodies = [statement.then, statement.otherwise]
            case _:
                before += 2
                continue
        found[id(statement)] = choice
        for inner in bodies:
            _place(inner, before if choice.whole else 0, found)
        before = before + (_nodes_of((statement,)) or 0) if choice.whole else 0
    return before


def _nodes_of(body: Body) -> int | None:
    """About how many nodes a body has, or None where the host must look at a word meanwhile."""
    total = 2
    for statement in body:
        inner: int | None
        match statement:
            case Loop():
                times, inner = max(0, known(statement.length)), _nodes_of(statement.body)
            case While():
                choice = _turns(statement)
                times, inner = choice.turns, _nodes_of(statement.body) if choice.whole else None
            case If():
                sides = _nodes_of(statement.then), _nodes_of(statement.otherwise)
                times, inner = 1, None if None in sides else sum(n for n in sides if n is not None)
                if inner is not None and inner > MOST_SKIPPED:
                    inner = None
            case _:
                times, inner = 1, 2
        if inner is None:
            return None
        total += times * inner
    return total if total <= MOST_NODES else None


def _turns(loop: While) -> Choice:
    """How many turns a graph has, and whether the loop has no more than these."""
    nodes = _nodes_of(loop.body)
    if nodes is None:
        return Choice(False)
    most = max(1, min(MOST_TURNS, MOST_TURN_NODES // (nodes + 1)))
    limit = None if loop.max_steps is None else max(0, known(loop.max_steps))
    return Choice(False, most) if limit is None or limit > most else Choice(True, limit)


def known(extent: object) -> int:
    """A size that is a number; BackendError where it is not bound yet."""
    if not isinstance(extent, int):
        raise BackendError(f"the size {extent} is not bound")
    return extent
