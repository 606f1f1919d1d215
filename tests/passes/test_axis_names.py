"""Axes of a program have names of their own, whatever digits their hints end with."""

from __future__ import annotations

from graphc.closing import close
from graphc.dsl import observed
from graphc.passes.lower_control import lower_control
from graphc.passes.lowering import Lowering, Space


def test_no_two_fresh_axes_are_one() -> None:
    """i1 the 2nd and i the 12th once were: the later extent was that of both."""
    graph = close([observed("x", (2,)) + 1.0], ())
    space = Space(lower_control)
    work = Lowering(graph, space)
    hints = ["i1"] * 9 + ["i"] * 20
    made = [work.fresh_axis(extent, hint) for extent, hint in enumerate(hints, 1)]
    assert len({axis.axis for axis in made}) == len(made)
    assert [space.table.extents[axis.axis] for axis in made] == list(range(1, len(made) + 1))
