"""The command ``graphc``: draw, explain and run what a Python file defines; examine the machine.

A target is ``FILE.py:NAME``: the file is imported (its ``if __name__ == "__main__"`` part does not
run) and NAME, dotted where needed, is looked up in it. Without NAME the file must define exactly
one thing that the command can work on.
"""

from __future__ import annotations

import ctypes.util
import difflib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from graphc import tree
from graphc.backends.cache import default_cache
from graphc.backends.llvm.pool import available_cores, thread_count
from graphc.backends.llvm.target import host_target
from graphc.compiling import compile as compile_graph
from graphc.draw import LEVELS, draw
from graphc.errors import BackendError, GraphcError
from graphc.executable import Executable
from graphc.graph import Graph, Value, ancestors
from graphc.nn.module import Module
from graphc.types import Dim, Size, evaluate

__all__ = ["main"]

DRAWABLE: tuple[type, ...] = (Value, Module, Graph, Executable)
RUNNABLE: tuple[type, ...] = (Value, Executable)
TARGET_HELP = "FILE.py:NAME"
_NATURAL = click.IntRange(min=0)
SIZE_HELP = "A symbolic size; the smallest one allowed where not given."


class _Commands(click.Group):
    """Errors of graphc become messages: they already name the line of the user's file."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except GraphcError as error:
            raise click.ClickException(f"{type(error).__name__}: {error}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("graphc"), prog_name="graphc")
def main() -> None:
    """Draw, explain and run block-diagram programs."""


# ---- targets


def load_file(path: Path) -> ModuleType:
    """Import a Python file as a module of its own, with its directory on the import path."""
    if not path.is_file():
        raise click.ClickException(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"graphc_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise click.ClickException(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except GraphcError:
        raise  # its message names the line
    except SystemExit as end:
        raise click.ClickException(f"{path} ends the program while imported ({end!r})") from end
    except Exception as error:
        raise click.ClickException(f"{path} cannot be imported\n{_trace(error)}") from error
    return module


def _trace(error: Exception) -> str:
    """The traceback from the file's own first line on: how it was imported is no news."""
    frame = error.__traceback__
    while frame is not None and _imports(frame.tb_frame.f_globals.get("__name__", "")):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame)).rstrip()


def _imports(module: str) -> bool:
    return module == __name__ or module.startswith("importlib.")


def find_target(target: str, kinds: tuple[type, ...]) -> tuple[str, Any]:
    """The name and the object that ``FILE.py:NAME`` means, an instance of one of ``kinds``."""
    file, _, name = target.rpartition(":") if target.count(":") else (target, "", "")
    module = load_file(Path(file))
    offered = {
        n: v for n, v in vars(module).items() if isinstance(v, kinds) and not n.startswith("_")
    }
    if not name:
        return _only_one(file, offered, kinds)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise click.ClickException(_no_such_name(file, name, part, found, offered))
        found = getattr(found, part)
    if not isinstance(found, kinds):
        raise click.ClickException(
            f"{name} is of type {type(found).__name__}; this command works on {_names(kinds)}"
        )
    return name, found


def _only_one(file: str, offered: Mapping[str, Any], kinds: tuple[type, ...]) -> tuple[str, Any]:
    if not offered:
        raise click.ClickException(f"{file} defines no {_names(kinds)} at its top level")
    if len(offered) > 1:
        choices = "\n".join(f"  {file}:{n}    {type(v).__name__}" for n, v in offered.items())
        raise click.ClickException(f"{file} defines several; say which one:\n{choices}")
    return next(iter(offered.items()))


def _no_such_name(
    file: str, name: str, part: str, owner: object, offered: Mapping[str, Any]
) -> str:
    close = difflib.get_close_matches(part, [n for n in dir(owner) if not n.startswith("_")])
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    listed = ", ".join(offered) or "nothing that this command works on"
    return f"{file} has no {name}{hint}\n  it defines {listed}"


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


# ---- draw, explain


@main.command("draw")
@click.argument("target", metavar=TARGET_HELP)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="SVG, PNG, PDF or DOT.")
@click.option("--level", type=click.Choice(list(LEVELS)), help="Which of the five levels.")
@click.option("--depth", type=_NATURAL, help="Blocks nested deeper are collapsed.")
@click.option("--parameters", is_flag=True, help="Draw parameters as inputs of their blocks.")
@click.option("--backward/--no-backward", default=None, help="With or without derivatives.")
@click.option("--size", "sizes", multiple=True, metavar="DIM=N", help=SIZE_HELP)
def draw_command(
    target: str,
    out: Path | None,
    level: str | None,
    depth: int | None,
    parameters: bool,
    backward: bool | None,
    sizes: tuple[str, ...],
) -> None:
    """Draw a Value, Module, Graph or Executable.

    The levels below the graph are of one binding of the sizes, measured in a call with zeros.
    """
    name, what = find_target(target, DRAWABLE)
    if level not in (None, *LEVELS[:2]):
        what = _executable(what)
        what.profile(*_arguments(what, sizes))
    path = out or Path(f"{name}.{level}.svg" if level else f"{name}.svg")
    written = draw(
        what, path, level=level, depth=depth, parameters=parameters, backward=backward
    )
    click.echo(f"wrote {written}")


@main.command("explain")
@click.argument("target", metavar=TARGET_HELP)
@click.option("--size", "sizes", multiple=True, metavar="DIM=N", help=SIZE_HELP)
def explain_command(target: str, sizes: tuple[str, ...]) -> None:
    """What was fused, and why the rest was not; bytes, FLOPs, memory."""
    _, what = find_target(target, RUNNABLE)
    executable = _executable(what)
    executable(*_arguments(executable, sizes))  # what is explained is one binding of the sizes
    click.echo(str(executable.explain()))


# ---- run


@main.command("run")
@click.argument("target", metavar=TARGET_HELP)
@click.option("--input", "files", multiple=True, metavar="NAME=FILE.npy", help="A value to read.")
@click.option("--size", "sizes", multiple=True, metavar="DIM=N", help=SIZE_HELP)
@click.option("--zeros", is_flag=True, help="Zeros for inputs not given, instead of random ones.")
@click.option("--seed", type=_NATURAL, default=0, show_default=True, help="Of random inputs.")
@click.option("--repeat", default=10, show_default=True, help="Timed calls after the first one.")
def run_command(
    target: str,
    files: tuple[str, ...],
    sizes: tuple[str, ...],
    zeros: bool,
    seed: int,
    repeat: int,
) -> None:
    """Call an Executable (or compile a Value) on given, random or zero inputs.

    Random floats are standard normal, random integers 0 or 1. States change in this process only.
    """
    _, what = find_target(target, RUNNABLE)
    start = time.perf_counter()
    executable = _executable(what)
    compiling = time.perf_counter() - start
    generator = None if zeros else np.random.default_rng(seed)
    arguments = _arguments(executable, sizes, files, generator)
    start = time.perf_counter()
    outputs = executable(*arguments)
    first = compiling + time.perf_counter() - start
    _print_outputs(outputs)
    included = ", compilation included" if _compiles(what) else ""
    click.echo(f"first call {_duration(first)}{included}")
    if repeat > 0:
        times = [_timed(executable, arguments) for _ in range(repeat)]
        click.echo(f"median of {repeat} more: {_duration(float(np.median(times)))}")


def _compiles(what: Any) -> bool:
    """Whether code is made here: for a Value, and for a size of an executable's; else the file
    made it.
    """
    if not isinstance(what, Executable):
        return True
    extents = [e for a in what.arguments for e in ((a,) if isinstance(a, Dim) else a.shape)]
    return any(d.specialize for e in extents if isinstance(e, Size) for d in e.dims)


def _arguments(
    executable: Executable,
    sizes: Iterable[str],
    files: Iterable[str] = (),
    generator: np.random.Generator | None = None,
) -> list[Any]:
    """What to call with: arrays read from files, else random ones, or zeros without a generator."""
    given = _read_files(executable.graph.inputs, _pairs("--input", files))
    known = _sizes_of(executable.graph.inputs, given) | _pairs("--size", sizes)
    bound = _bind_sizes(executable.arguments, known)
    arguments: list[Any] = []
    for argument in executable.arguments:
        if isinstance(argument, Dim):
            arguments.append(bound[argument])
        elif argument.name in given:
            arguments.append(given[argument.name])
        else:
            arguments.append(_draw_input(argument, bound, generator))
    return arguments


def _executable(what: Any) -> Executable:
    """``what`` itself, or the Value compiled with everything observed that it needs as inputs."""
    if isinstance(what, Executable):
        return what
    if not isinstance(what, Value):
        raise click.ClickException(
            f"that level needs an Executable or a Value, not a {type(what).__name__}"
        )
    observed = [n.outputs[0] for n in ancestors([what]) if n.op == "observed"]
    return compile_graph(observed, what)


def _pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        if name in pairs:
            raise click.BadParameter(f"{name} is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def _sizes_of(inputs: Iterable[Value], given: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """What the arrays that were read say of the Dims."""
    named = [(v.shape, given.get(str(v.name))) for v in inputs]
    shapes = [(shape, array.shape) for shape, array in named if array is not None]
    return {
        extent.name: str(size)
        for symbolic, shape in shapes
        for extent, size in zip(symbolic, shape, strict=False)  # a wrong rank is the call's error
        if isinstance(extent, Dim)
    }


def _bind_sizes(arguments: Iterable[Value | Dim], given: Mapping[str, str]) -> dict[Dim, int]:
    """A number for each Dim among arguments and shapes: given, or the smallest allowed but 0."""
    dims: dict[str, Dim] = {}
    for argument in arguments:
        extents = (argument,) if isinstance(argument, Dim) else argument.shape
        dims |= {d.name: d for e in extents if isinstance(e, Size) for d in e.dims}
    unknown = set(given) - set(dims)
    if unknown:
        raise click.BadParameter(
            f"no Dim named {', '.join(sorted(unknown))}; there is {', '.join(dims) or 'none'}",
            param_hint="--size",
        )
    bound = {}
    for name, dim in dims.items():
        text = given.get(name, "")
        if text and not (text.isascii() and text.isdecimal()):
            raise click.BadParameter(f"{name}={text}: not a number", param_hint="--size")
        step = dim.multiple_of
        bound[dim] = int(text) if text else max(-(-dim.min // step) * step, step)
    return bound


def _read_files(inputs: Iterable[Value], given: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    names = [str(v.name) for v in inputs]
    unknown = set(given) - set(names)
    if unknown:
        raise click.BadParameter(
            f"no input named {', '.join(sorted(unknown))}; there is {', '.join(names) or 'none'}",
            param_hint="--input",
        )
    return {name: _read_array(name, file) for name, file in given.items()}


def _read_array(name: str, file: str) -> NDArray[Any]:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise click.ClickException(f"--input {name}={file}: {error}") from error
    if not isinstance(array, np.ndarray):
        raise click.ClickException(f"--input {name}={file}: holds several arrays; save one as .npy")
    return array


def _draw_input(
    value: Value, sizes: Mapping[Dim, int], generator: np.random.Generator | None
) -> NDArray[Any]:
    """A random array of the value's type, or zeros without a generator."""
    shape = tuple(int(str(evaluate(extent, sizes))) for extent in value.shape)
    try:
        return _fill(shape, value, generator)
    except (MemoryError, ValueError) as error:  # NumPy's words for what is too large
        raise click.ClickException(f"input {value.name} of shape {shape}: {error}") from error


def _fill(
    shape: tuple[int, ...], value: Value, generator: np.random.Generator | None
) -> NDArray[Any]:
    if generator is None:
        return np.zeros(shape, value.dtype.numpy)
    if value.dtype.is_float:
        return generator.standard_normal(shape).astype(value.dtype.numpy)
    return generator.integers(0, 2, shape).astype(value.dtype.numpy)


def _print_outputs(outputs: Any) -> None:
    values, form = tree.flatten(outputs)
    for path, value in zip(form.paths(), values, strict=True):
        array = np.asarray(value)
        label = f"{path or 'output'}: {array.dtype}{list(array.shape)}"
        text = np.array2string(array, threshold=24, edgeitems=3, precision=5)
        click.echo(f"{label}\n{text}" if array.ndim else f"{label} {text}")


def _duration(seconds: float) -> str:
    """Three digits in a unit that fits.

    >>> _duration(0.25), _duration(4.4e-6)
    ('250 ms', '4.4 us')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _timed(executable: Executable, arguments: Iterable[Any]) -> float:
    start = time.perf_counter()
    executable(*arguments)
    return time.perf_counter() - start


# ---- doctor


@main.command("doctor")
def doctor_command() -> None:
    """What this machine offers; exit code 1 where graphc cannot run."""
    said = _versions()
    try:
        supported = _processor()
    except BackendError as error:
        said["supported"] = f"no: {error}"
        _print_table(said)
        sys.exit(1)
    said |= supported
    said["threads"] = f"{thread_count()} of {available_cores()} cores (GRAPHC_THREADS sets them)"
    directory = default_cache().directory
    said["cache"] = str(directory) if directory else "in memory only"
    dot = shutil.which("dot")
    said["dot"] = dot or "missing: pictures are written as DOT text (install Graphviz for SVG)"
    said["GPU"] = _gpu()
    _print_table(said)


def _versions() -> dict[str, str]:
    packages = ("graphc", "numpy", "llvmlite", "networkx", "ml_dtypes")
    said = {name: importlib.metadata.version(name) for name in packages}
    return {"Python": platform.python_version(), **said}


def _processor() -> dict[str, str]:
    """Raises BackendError on a platform that graphc does not support."""
    if sys.platform != "linux":
        raise BackendError(f"graphc runs on Linux; this is {platform.system()}")
    target = host_target()
    features = [f[1:] for f in target.machine.features.split(",") if f.startswith("+")]
    vector = [f for f in features if f.startswith(("sse4", "avx", "fma", "f16c", "neon", "amx"))]
    return {
        "supported": f"yes: Linux on {platform.machine()}",
        "processor": f"{target.machine.cpu}, {target.vector_bits}-bit vectors",
        "features": " ".join(vector),
    }


def _gpu() -> str:
    if ctypes.util.find_library("cuda") is None:
        return "none (no CUDA driver)"
    if importlib.util.find_spec("triton") is None:
        return "a CUDA driver is there; pip install 'graphc[gpu]' brings Triton"
    return f"CUDA driver, Triton {importlib.metadata.version('triton')}"


def _print_table(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        click.echo(f"{name:<{width}}  {text}")
