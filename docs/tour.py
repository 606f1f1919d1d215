"""Fills TOUR.md with what graphc prints for ``classifier.py`` at each level.

A block of the page belongs to the comment above it, ``<!-- tour: NAME -->``; its text comes from
the function of that name in ``BLOCKS``. Code is made for one named machine, so that every machine
prints the same page. A test compares; ``python docs/tour.py`` writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from classifier import loss, step, x, y

import graphc as gc
from graphc.backends.llvm.emit import emit_nest
from graphc.backends.llvm.pack import pack_operands
from graphc.backends.llvm.target import named_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.terms import Kernel
from graphc.kernel.text import print_kernel
from graphc.nest import Nest, build_nest, print_nest
from graphc.passes.explain import explain
from graphc.passes.memory import plan_memory
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.schedule_text import print_schedule

PAGE = Path(__file__).with_name("TOUR.md")
PROGRAM = Path(__file__).with_name("classifier.py")
TARGET = named_target("avx2")

_BLOCK = re.compile(r"(<!-- tour: ([\w-]+) -->\n```\w*\n)(.*?)(```\n)", re.DOTALL)


def compiled() -> Compiled:
    """The step as the passes leave it, for the tour's machine instead of this one."""
    return compile_graph(
        step.graph, "step", rewrite=lambda kernel, lasting: pack_operands(kernel, TARGET, lasting)
    )


def kernel(name: str) -> Kernel:
    """The kernel that computes ``name``."""
    return next(c.kernel for c in compiled().calls if c.kernel.name == name)


def nest(name: str) -> Nest:
    """A kernel's loops, with the tiling that the tour's machine gets."""
    return build_nest(kernel(name), choose_tiling(kernel(name), TARGET))


def explanation() -> str:
    """What ``step.explain()`` says."""
    made = compiled()
    return str(explain(made, plan_memory(made.scheduled.schedule)))


def lines(text: str, first: str, last: str) -> str:
    """From the line that begins with ``first`` to the next one that begins with ``last``."""
    kept: list[str] = []
    for line in text.splitlines():
        if kept or line.strip().startswith(first):
            kept.append(line)
        if kept and line.strip().startswith(last):
            return "\n".join(kept)
    raise ValueError(f"no lines from {first!r} to {last!r}")


def schedule_part(first: str, last: str) -> str:
    """Some lines of the schedule, its memory planned."""
    schedule = compiled().scheduled.schedule
    offsets = plan_memory(schedule).offsets
    buffers = tuple(replace(b, offset=offsets.get(b.name)) for b in schedule.buffers)
    return lines(print_schedule(replace(schedule, buffers=buffers)), first, last)


ROWS = "where_d_cross_entropy"

BLOCKS: dict[str, Callable[[], str]] = {
    "program": lambda: PROGRAM.read_text(encoding="utf-8"),
    "folded": lambda: gc.Graph((x, y), (loss,)).text(folded=True),
    "graph-forward": lambda: lines(step.graph.text(), "%0:", "%12:"),
    "graph-backward": lambda: lines(step.graph.text(), "%43:", "%49:"),
    "graph-updates": lambda: lines(step.graph.text(), "%52:", "return"),
    "kernel": lambda: print_kernel(kernel(ROWS)),
    "kernel-product": lambda: print_kernel(kernel("new_weight")),
    "explain": explanation,
    "nest": lambda: print_nest(nest(ROWS)),
    "buffers": lambda: schedule_part("schedule", "check"),
    "run": lambda: schedule_part("run", "}"),
    "ir": lambda: lines(emit_nest(nest("new_bias"), TARGET, "new_bias"), "define", "ret void"),
}


def filled(page: str) -> str:
    """``page`` with every block's text as it is printed now; KeyError for a name without text."""

    def renew(match: re.Match[str]) -> str:
        head, name, _, end = match.groups()
        return f"{head}{BLOCKS[name]().rstrip()}\n{end}"

    return _BLOCK.sub(renew, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
