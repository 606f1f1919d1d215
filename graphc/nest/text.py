"""Nests as text, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphc.kernel.terms import Reduction, Term
from graphc.nest.steps import (
    Accumulate,
    Begin,
    End,
    Fill,
    Keep,
    Let,
    Loop,
    Nest,
    Recall,
    Step,
    Update,
    UpdateHeld,
    Verify,
    Write,
)

__all__ = ["print_nest"]


def print_nest(nest: Nest) -> str:
    """The nest as text, for people."""
    names = {term: name for name, term in nest.kernel.definitions}
    lines = [f"nest {nest.kernel.name}  # {nest.tiling}"]
    for title, steps in (
        ("prologue", nest.prologue),
        (f"block {' '.join(nest.grid)}".rstrip(), nest.body),
    ):
        lines.append(f"  {title}")
        _print_steps(steps, names, lines, "    ")
    return "\n".join(lines) + "\n"


def _print_steps(
    steps: Iterable[Step], names: Mapping[Term, str], lines: list[str], indent: str
) -> None:
    def name(term: Term) -> str:
        return names.get(term, type(term).__name__.lower())

    for step in steps:
        match step:
            case Let(term=term) if term in names:
                lines.append(f"{indent}{names[term]}")
            case Let():
                pass
            case Loop():
                kind = f"{'lanes' if step.vector else 'points'} x{step.tile}"
                place = " in block" if step.blocked else ""
                lines.append(
                    f"{indent}for {step.axis} ({kind}{place}{', down' if step.reverse else ''})"
                )
                _print_steps(step.body, names, lines, indent + "  ")
            case Begin(of=trip):
                kinds = ", ".join(
                    m.monoid if isinstance(m, Reduction) else "contract" for m in trip.members
                )
                lines.append(f"{indent}begin {kinds} over {' '.join(trip.over)}")
            case Update():
                lines.append(f"{indent}update")
            case UpdateHeld(buffer=buffer):
                lines.append(f"{indent}update {buffer.name}")
            case End():
                lines.append(f"{indent}end")
            case Accumulate(scan=scan):
                lines.append(f"{indent}accumulate {scan.monoid}")
            case Keep(term=term, buffer=buffer) | Recall(term=term, buffer=buffer):
                verb = "keep" if isinstance(step, Keep) else "recall"
                lines.append(f"{indent}{verb} {name(term)} in {buffer.name}")
            case Fill(tensor=tensor):
                lines.append(f"{indent}fill {tensor}")
            case Write(store=store):
                lines.append(f"{indent}store{' add' if store.add else ''} {store.tensor}")
            case Verify(check=check):
                lines.append(f'{indent}check "{check.message}"')
