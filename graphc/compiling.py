"""compile(): what a person asks for, checked, becomes a closed graph and its executable.

::

    step = compile([x, y], loss, optim.SGD(lr=0.1).minimize(loss))
    step(images, labels)        # one call into native code: outputs come back, states have moved
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc import tree
from graphc.closing import close, depends_on_mode
from graphc.errors import BackendError, BindError, GraphcError, ModeError
from graphc.executable import Executable
from graphc.graph import SOURCES, STATES, Graph, Value, ancestors
from graphc.memory import collection_paused
from graphc.ops.lifting import constant
from graphc.types import Dim, Size, TensorType, int64
from graphc.updates import Updates, writes_parameters

__all__ = ["compile"]


def compile(  # noqa: A001 - the verb that everybody expects
    inputs: Sequence[Value | Dim] | Value | Dim,
    outputs: Any = (),
    updates: Mapping[Value, Any] | None = None,
    *,
    mode: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    donate: Sequence[Value] = (),
    mesh: object = None,
    shard: object = None,
    check: str | None = None,
    memory_budget: int | None = None,
    target: str | None = None,
    precision: str = "ieee",
    tune: str | None = None,
    tolerance: float | None = None,
    unused: str = "error",
    name: str | None = None,
) -> Executable:
    """The program that computes ``outputs`` from ``inputs`` and then writes ``updates``.

    ``inputs`` are observed values, or dims (given as ints at the call); ``outputs`` any structure
    of values; ``updates`` maps states to new values. Without ``mode`` it is "eval" without updates,
    "train" where an optimizer made the updates or a parameter is written. ``check="nan"`` names the
    first node that makes a NaN. ``memory_budget`` in bytes bounds the intermediate results: where
    they do not fit, some are computed again in the backward pass (``explain()`` says which); where
    that does not suffice a BackendError says how much is needed.
    ``unused="ignore"`` allows inputs that nothing needs. ``donate`` names inputs whose memory a
    call may take for outputs and intermediate results of their size (``memory.reused`` says which).
    A donated array is as the program wants it (element type, C-contiguous, writable), in memory
    that no other argument lies in, and is not to be used after the call, nor is any view of it: it
    may hold anything, or be what the call returned. Donating it again is an error; so is ``out=``.
    A call that refuses its arguments takes nothing, one that fails later does. On GPUs results lie
    in donated arrays of the device (by DLPack); of NumPy's, the copy on the device is used.

    ``backend`` ("llvm", "triton") or ``device`` ("cpu", "cuda") say where it runs; without them it
    is a GPU that can be used, else the CPU. Programs of both share their states.

    ``tune`` measures a few tilings of each kernel on the GPU, once: "same" those that give the same
    bits, "free" all. Without it, and on CPUs, the choice is a cost model's.

    ``target`` ("sm_80", "sm_90", "sm_100", "gfx942") compiles for a GPU that need not be here: the
    executable can be looked at and saved (``save``), not called.

    Raises BindError for inputs that are missing, given twice or not needed, ModeError where the
    mode must be said.

    >>> import graphc as gc, numpy as np
    >>> x = gc.observed("x", (3,))
    >>> gc.compile([x], {"double": x * 2.0})(np.float32([1, 2, 3]))
    {'double': array([2., 4., 6.], dtype=float32)}
    """
    _refuse(mesh=mesh, shard=shard)
    _check_options(check, precision, tune, unused)
    _check_numbers(memory_budget=memory_budget, tolerance=tolerance)
    del tolerance  # permission to round differently, which no kernel makes use of yet
    given = [inputs] if isinstance(inputs, Value | Dim) else list(inputs)
    leaves, form = tree.flatten(outputs)
    values = [_as_output(v) for v in leaves]
    checked = updates if isinstance(updates, Updates) else Updates(updates)
    arguments = [_as_input(v) for v in given]
    chosen = _mode_of(mode, values, checked)
    observed = tuple(v for v in arguments if isinstance(v, Value))
    needed = close(values, checked, mode=chosen)
    _check_inputs(arguments, needed, unused)
    graph = Graph(observed, needed.outputs, needed.updates)
    if not isinstance(name, str | None):
        raise BindError(f"compile(name={name!r}): a name is a string")
    label = name or _name(values, checked)
    with collection_paused():  # the backend is imported here, too
        return Executable(
            graph,
            tuple(arguments),
            form,
            name=label,
            mode=chosen or "eval",
            backend=_backend_of(backend, device),
            check_nan=check == "nan",
            memory_budget=memory_budget,
            precision=precision,
            donated=_donated(arguments, donate),
            target=target,
            tune=tune,
        )


# ---- what compile was given


def _refuse(**options: object) -> None:
    """Options whose parts this version does not have: an error, never a silent difference."""
    for option, value in options.items():
        if value is None or value == ():
            continue
        raise BackendError(f"compile({option}={value!r}): this version has no such backend part")


_DEVICES = {"cpu": "llvm", "cuda": "triton"}


def _backend_of(backend: str | None, device: str | None) -> str | None:
    """The backend of a device, where one is named."""
    if device is None:
        return backend
    if device not in _DEVICES:
        raise BackendError(f"compile(device={device!r}): it is 'cpu' or 'cuda'")
    if backend not in (None, _DEVICES[device]):
        raise BackendError(f"compile(device={device!r}): backend {backend!r} does not run there")
    return _DEVICES[device]


def _check_options(check: str | None, precision: str, tune: str | None, unused: str) -> None:
    allowed: list[tuple[str, object, tuple[object, ...]]] = [
        ("check", check, (None, "nan")),
        ("precision", precision, ("ieee", "tf32")),
        ("tune", tune, (None, "same", "free")),
        ("unused", unused, ("error", "ignore")),
    ]
    for option, value, choices in allowed:
        if value not in choices:
            listed = " or ".join(map(repr, choices))
            raise BindError(f"compile({option}={value!r}): it is {listed}")


def _check_numbers(**options: object) -> None:
    for option, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if value is not None and not number:
            raise BindError(f"compile({option}={value!r}): it is a number, not negative")


def _as_output(value: object) -> Value:
    if isinstance(value, Value):
        return value
    if isinstance(value, Size):
        return constant(1, int64) * value
    try:
        return constant(value)
    except GraphcError as error:
        raise BindError(f"compile: an output is a Value or a number, not {value!r}") from error


def _as_input(value: object) -> Value | Dim:
    if isinstance(value, Dim):
        return value
    if not isinstance(value, Value):
        raise BindError(f"compile: an input is an observed value or a Dim, not {value!r}")
    if value.node.op in STATES:
        raise BindError(f"{value!r} is a state: it is read and written in place, not an input")
    if value.node.op not in SOURCES:
        raise BindError(
            f"{value!r} is computed, not observed; to give it at the call, "
            "gc.substitute it by an observed value",
            value.node.source,
        )
    if value.node.op != "observed":
        raise BindError(f"{value!r} is no observed value", value.node.source)
    return value


def _mode_of(mode: str | None, values: Sequence[Value], updates: Updates) -> str | None:
    if mode is not None:
        if mode not in ("train", "eval"):
            raise ModeError(f"mode is 'train' or 'eval', not {mode!r}")
        return mode
    if not updates:
        return "eval"
    if updates.trains or writes_parameters(updates):
        return "train"
    if depends_on_mode([*values, *updates.values()]):
        raise ModeError(
            "the program depends on the mode, and updates that write no parameter do not tell it: "
            "say compile(..., mode='train') or mode='eval'"
        )
    return None


def _check_inputs(arguments: Sequence[Value | Dim], graph: Graph, unused: str) -> None:
    """Every observed value that the graph needs is given, each once, and all that is given is
    needed.
    """
    given = [v for v in arguments if isinstance(v, Value)]
    names = [v.name for v in arguments]
    for n, argument in enumerate(arguments):
        if any(argument is other for other in arguments[:n]):
            raise BindError(f"compile: {argument!r} is given twice as an input")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise BindError(f"compile: two inputs are named {twice!r}; give them names of their own")
    found = {id(v) for v in given}
    missing = [v for v in graph.inputs if id(v) not in found]
    if missing:
        lines = "; ".join(f"{v!r}" for v in missing)
        raise BindError(
            f"compile: the outputs or updates need {lines}: add to the inputs",
            missing[0].node.source,
        )
    needed = {id(v) for v in graph.inputs}
    dims = {d for v in _types(graph) for e in v.shape if isinstance(e, Size) for d in e.dims}
    idle = [v for v in given if id(v) not in needed and not _binds(v, dims, given)]
    if idle and unused == "error":
        raise BindError(
            f"compile: {idle[0]!r} is not needed by any output or update; drop it from the inputs, "
            "or say unused='ignore'",
            idle[0].node.source,
        )
    by_name = {d.name: d for d in dims if not d.specialize}
    rival = next((d for d in dims if not d.specialize and by_name[d.name] != d), None)
    if rival is not None:
        raise BindError(
            f"compile: two run-time dims are named {rival} and have other constraints; "
            "use one, or give them names of their own"
        )
    bound = {d for v in given for e in v.shape if isinstance(e, Dim) for d in e.dims}
    bound |= {d for d in arguments if isinstance(d, Dim)}
    free = sorted((d for d in dims if d not in bound), key=lambda d: d.name)
    if free:
        raise BindError(f"compile: no input binds {free[0]}; add the Dim itself to the inputs")


def _types(graph: Graph) -> list[TensorType]:
    return [t for n in ancestors((*graph.inputs, *graph.results)) for t in n.types]


def _binds(value: Value, dims: set[Dim], given: Sequence[Value]) -> bool:
    """Whether a value that nothing computes with is needed for its shape."""
    own = {e for e in value.shape if isinstance(e, Dim)} & dims
    others = {e for v in given if v is not value for e in v.shape if isinstance(e, Dim)}
    return bool(own - others)


def _donated(arguments: Sequence[Value | Dim], donate: Sequence[Value]) -> tuple[int, ...]:
    """Which arguments a call may take the memory of."""
    given = [donate] if isinstance(donate, Value) else list(donate)
    for value in given:
        if not any(value is a for a in arguments) or not isinstance(value, Value):
            raise BindError(f"compile: donate={value!r} is no input; name observed inputs")
    return tuple(n for n, a in enumerate(arguments) if any(a is value for value in given))


def _name(values: Sequence[Value], updates: Mapping[Value, Any]) -> str:
    named = next((v.name for v in values if v.name and v.name.isidentifier()), None)
    return named or ("step" if updates else "program")
