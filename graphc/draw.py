"""``draw``: any level of a program as SVG, PNG, PDF or DOT.

::

    what                          level         picture
    value(s), Module, Graph       diagram       blocks in LeCun's notation
    value(s), Graph, Executable   graph         every primitive with its type
    Executable, Schedule          kernels       what was fused, and why the rest was not
    Executable, Schedule          schedule      what runs after what; the memory map
    Executable, Profile           executable    measured times by worker; links to IR and assembly

Graphviz's ``dot`` places the first three levels. Where it is missing they are written as DOT text,
and a warning says what to install; the charts need it for PNG and PDF only.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from graphc import tree
from graphc.autodiff import grad
from graphc.closing import prune_loops
from graphc.drawing.diagram import diagram
from graphc.drawing.dot import INSTALL_HINT, dot_text, has_dot
from graphc.drawing.executable import executable_scene
from graphc.drawing.graph import graph_picture
from graphc.drawing.kernels import KernelNotes, kernels_picture
from graphc.drawing.modules import module_picture
from graphc.drawing.notes import notes_of
from graphc.drawing.picture import Picture
from graphc.drawing.raster import raster
from graphc.drawing.render import render
from graphc.drawing.routes import place
from graphc.drawing.scene import Scene
from graphc.drawing.schedule import schedule_scene
from graphc.drawing.svg import svg_text
from graphc.errors import BackendError, BindError, GraphcError
from graphc.executable import Executable
from graphc.graph import HOOKS, Graph, Value, ancestors
from graphc.nn.module import Module
from graphc.profile import Profile
from graphc.schedule import Schedule

__all__ = ["FORMATS", "LEVELS", "DrawError", "draw", "svg"]

LEVELS = ("diagram", "graph", "kernels", "schedule", "executable")
FORMATS = (".svg", ".png", ".pdf", ".dot", ".gv")


class DrawError(GraphcError, ValueError):
    """What was given has no such picture, or the file cannot be written."""


def draw(
    what: Any,
    path: str | os.PathLike[str],
    *,
    level: str | None = None,
    depth: int | None = None,
    parameters: bool = False,
    backward: bool | None = None,
) -> Path:
    """Draw ``what`` into the file ``path``, whose ending chooses SVG, PNG, PDF or DOT; its path.

    ``what`` is a Value or a structure of them, a Module (its tree), a Graph, an Executable, a
    Schedule or a Profile; ``level`` one of ``LEVELS``, by default the diagram, of a Schedule the
    schedule and of a Profile the executable. ``depth`` is how many levels of modules are opened
    (default: all, fewer where the picture would not fit a screen); ``parameters`` draws parameters
    as inputs of their blocks. ``backward=True`` adds the gradient of a cost, ``False`` leaves
    derivatives out, None draws those that are there.

    Without Graphviz the diagram, graph and kernels become DOT text beside ``path`` with a warning;
    the path of what was written is returned. Raises DrawError for a level that ``what`` does not
    have and for other formats.

    >>> import graphc as gc, tempfile, pathlib
    >>> x = gc.observed("x", (3,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = gc.draw((x * x).sum(), pathlib.Path(folder) / "cost.dot")
    ...     "invhouse" in file.read_text(encoding="utf-8")
    True
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in FORMATS:
        raise DrawError(f"draw: {target.name!r} ends in none of {', '.join(FORMATS)}")
    level = _level(what, level)
    if level in ("diagram", "graph", "kernels"):
        picture = _picture(what, level, depth, parameters, backward)
        return _write_picture(picture, target, ending)
    if ending in (".dot", ".gv"):
        raise DrawError(f"draw: the {level} is a chart, which DOT does not express; use .svg")
    return _write_scene(_chart(what, level, target), target, ending)


def svg(what: Any) -> str | None:
    """The default picture of ``what`` as SVG text; None where ``dot`` is missing to place it."""
    level = _level(what, None)
    if isinstance(what, Executable) and not has_dot():
        level = "schedule"
    if level in ("schedule", "executable"):
        return svg_text(_chart(what, level, None))
    if not has_dot():
        return None
    picture = _picture(what, level, None, False, None)
    return svg_text(render(picture, place(picture)))


def _level(what: Any, level: str | None) -> str:
    if level is not None and level not in LEVELS:
        raise DrawError(f"draw: level {level!r} is none of {', '.join(LEVELS)}")
    allowed: tuple[str, ...]
    if isinstance(what, Profile):
        allowed = ("executable",)
    elif isinstance(what, Schedule):
        allowed = ("schedule", "kernels")
    elif isinstance(what, Executable):
        allowed = LEVELS
    elif isinstance(what, Module):
        allowed = ("diagram",)
    else:
        allowed = ("diagram", "graph")
    if level is None:
        return allowed[0]
    if level not in allowed:
        hint = "compile it first: gc.draw(gc.compile(...), ...)"
        if isinstance(what, Module):
            hint = "draw what it computes: gc.draw(module(x), ...)"
        elif "graph" not in allowed:
            hint = f"it has {' and '.join(allowed)}"
        raise DrawError(f"draw: a {type(what).__name__} has no level {level!r}; {hint}")
    return level


# ---- what -> picture or scene


def _picture(
    what: Any, level: str, depth: int | None, parameters: bool, backward: bool | None
) -> Picture:
    if isinstance(what, Module):
        return module_picture(what, depth=depth, title=what._own_name)
    if level == "kernels":
        schedule, notes = _scheduled(what)
        return kernels_picture(schedule, notes, title=schedule.name)
    graph, title = _graph(what, backward)
    if level == "graph":
        return graph_picture(graph, depth=depth, backward=backward, title=title)
    return diagram(graph, depth=depth, parameters=parameters, backward=backward, title=title)


def _scheduled(what: Any) -> tuple[Schedule, KernelNotes]:
    if isinstance(what, Schedule):
        return what, KernelNotes()
    return what.schedule, notes_of(what)


def _graph(what: Any, backward: bool | None) -> tuple[Graph, str]:
    """The graph that ``what`` stands for, and a title."""
    if isinstance(what, Executable):
        return what.graph, what.name
    if isinstance(what, Graph):
        return what, ", ".join(v.name for v in what.outputs if v.name)
    values = tree.leaves(what)
    if not values or not all(isinstance(v, Value) for v in values):
        raise DrawError(
            f"draw: {type(what).__name__} is no Value, Module, Graph, Executable, Schedule or "
            "Profile, nor a structure of Values"
        )
    title = ", ".join(v.name for v in values if v.name)
    if backward:
        values = [*values, *_gradients(values)]
    nodes = ancestors(values)
    observed = tuple(n.outputs[0] for n in nodes if n.op == "observed")
    return prune_loops(Graph(observed, tuple(values))), title


def _gradients(values: list[Value]) -> list[Value]:
    """Of the costs among ``values`` by their parameters, or else by what they observe."""
    costs = [v for v in values if v.shape == () and v.dtype.is_float]
    if not costs:
        raise DrawError("draw(backward=True): no value is a scalar cost; draw its gradient itself")
    found: list[Value] = []
    for cost in costs:
        sources = [n for n in ancestors([cost]) if n.types and n.types[0].dtype.is_float]
        wrt = [n.outputs[0] for n in sources if n.op == "parameter"]
        wrt = wrt or [n.outputs[0] for n in sources if n.op == "observed"]
        found += grad(cost, wrt, unused="zero")
    return found


def _chart(what: Any, level: str, target: Path | None) -> Scene:
    if isinstance(what, Profile):
        if what.schedule is None:
            raise DrawError("draw: this profile does not hold the schedule that it measured")
        return executable_scene(what.schedule, what, title=what.name)
    schedule, notes = _scheduled(what)
    if level == "schedule":
        return schedule_scene(schedule, _memory(what), notes, title=schedule.name)
    profile = what.last_profile
    if profile is None:
        raise DrawError(
            f"draw: {what.name} has not been measured; call {what.name}.profile(*arguments) first"
        )
    links = {} if target is None or target.suffix.lower() != ".svg" else _write_code(what, target)
    return executable_scene(schedule, profile, links=links, title=what.name)


def _memory(what: Any) -> Any:
    if isinstance(what, Schedule):
        return None
    try:
        return what.memory
    except BindError:  # planned anew for each size
        return None


# ---- files


def _write_picture(picture: Picture, target: Path, ending: str) -> Path:
    if ending in (".dot", ".gv"):
        return _write(target, dot_text(picture).encode())
    if not has_dot():
        instead = target.with_suffix(".dot")
        warnings.warn(f"wrote {instead} instead of {target.name}: {INSTALL_HINT}", stacklevel=3)
        return _write(instead, dot_text(picture).encode())
    return _write_scene(render(picture, place(picture)), target, ending)


def _write_scene(scene: Scene, target: Path, ending: str) -> Path:
    if ending == ".svg":
        return _write(target, svg_text(scene).encode())
    if not has_dot():
        instead = target.with_suffix(".svg")
        warnings.warn(f"wrote {instead} instead of {target.name}: {INSTALL_HINT}", stacklevel=3)
        return _write(instead, svg_text(scene).encode())
    return _write(target, raster(scene, ending.removeprefix(".")))


def _write_code(executable: Executable, target: Path) -> dict[str, list[tuple[str, str]]]:
    """Every kernel's IR and assembly, in a folder beside the picture: links by kernel."""
    folder = target.with_suffix("")
    folder = folder.with_name(folder.name + "_code")
    folder.mkdir(parents=True, exist_ok=True)
    links: dict[str, list[tuple[str, str]]] = {}
    for kernel in executable.schedule.kernels:
        for label, kind, ending in (("IR", "ir", "ll"), ("asm", "asm", "s")):
            file = folder / f"{kernel.name}.{ending}"
            file.write_text(executable.asm(kernel.name, kind), encoding="utf-8")
            links.setdefault(kernel.name, []).append((label, f"{folder.name}/{file.name}"))
    return links


def _write(target: Path, data: bytes) -> Path:
    try:
        target.write_bytes(data)
    except OSError as error:
        raise DrawError(f"draw: cannot write {target}: {error.strerror}") from error
    return target


def _representation(what: Any) -> str | None:
    """For notebooks: a picture, or nothing where one cannot be made."""
    try:
        return svg(what)
    except (BackendError, BindError):
        return None


HOOKS["svg"] = _representation


class _DrawModule(ModuleType):
    """``graphc.draw`` names this module and the function: once something has imported the module,
    Python binds the module to that name, so it must be callable as well.
    """

    __call__ = staticmethod(draw)


sys.modules[__name__].__class__ = _DrawModule
