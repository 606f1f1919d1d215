"""Run a program at every level and compare: graph interpreter = kernels = schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc.backends.llvm import windows
from graphc.backends.llvm.target import host_target
from graphc.closing import bind_dims, bind_graph, close
from graphc.interpret import interpret
from graphc.kernel.interpret import interpret as interpret_kernel
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify
from graphc.nest import build_nest
from graphc.passes.compose import ControlCall, KernelCall, RoutineCall
from graphc.passes.memory import plan_memory
from graphc.passes.pipeline import Compiled, compile_graph
from graphc.routines import run_routine
from graphc.schedule import bind_sizes, evaluate_extent, evaluate_type, place_buffers
from graphc.schedule_interpret import interpret_schedule
from graphc.schedule_verify import verify_in_place, verify_schedule

Array = NDArray[Any]
TARGET = host_target()


def draw(values: Sequence[gc.Value], rng: np.random.Generator) -> list[Array]:
    """An array for each observed value: normal floats, small integers, fair bools."""
    arrays: list[Array] = []
    for value in values:
        shape = tuple(int(e) for e in value.shape)  # type: ignore[call-overload]
        if value.dtype.is_float:
            arrays.append(rng.standard_normal(shape).astype(value.dtype.numpy))
        elif value.dtype.is_integer:
            arrays.append(rng.integers(0, 4, shape).astype(value.dtype.numpy))
        else:
            arrays.append(rng.integers(0, 2, shape).astype(bool))
    return arrays


def lowered(
    inputs: Sequence[gc.Value],
    outputs: Sequence[gc.Value],
    updates: Mapping[gc.Value, gc.Value] | None = None,
    mode: str = "train",
) -> Compiled:
    """What the passes make of a program."""
    graph = close(outputs, updates or {}, inputs, mode=mode)
    return compile_graph(graph, "program")


def check_levels(
    inputs: Sequence[gc.Value],
    outputs: Sequence[gc.Value],
    updates: Mapping[gc.Value, gc.Value] | None = None,
    *,
    seed: int = 0,
    arrays: Sequence[Array] | None = None,
    mode: str = "train",
    rtol: float = 2e-4,
) -> Compiled:
    """Assert that kernels and schedule give what the graph interpreter gives."""
    closed = close(outputs, updates or {}, inputs, mode=mode)
    if arrays is None:
        arrays = draw(inputs, np.random.default_rng(seed))
    sizes = bind_dims([v.type for v in inputs], [a.shape for a in arrays])
    fixed = {d: n for d, n in sizes.items() if d.specialize}
    run_time = {d.name: n for d, n in sizes.items() if not d.specialize}
    with np.errstate(all="ignore"):
        wanted, new = interpret(closed, arrays)
    compiled = compile_graph(bind_graph(closed, fixed)[0], "program")
    kernels = [call.kernel for call in compiled.calls if isinstance(call, KernelCall)]
    about = f"seed {seed}\n" + "\n".join(map(print_kernel, kernels))
    for kernel in kernels:
        verify(kernel)
    states = [new[state] for state, _ in closed.updates]
    if not any(isinstance(call, ControlCall) for call in compiled.block.calls):
        results = _run_kernels(compiled, arrays, run_time)
        _compare(results, [*wanted, *states], rtol, "kernels, " + about)
    got = _run_schedule(compiled, arrays, run_time)
    _compare(got, [*wanted, *states], rtol, "schedule, " + about)
    return compiled


def _compare(got: Sequence[Array], wanted: Sequence[Array], rtol: float, about: str) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype, about
        assert a.shape == b.shape, about
        if b.dtype.kind == "f":
            finite = b[np.isfinite(b)]
            scale = float(np.abs(finite).max(initial=1.0))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=about)
        else:
            np.testing.assert_array_equal(a, b, err_msg=about)


def _run_kernels(
    compiled: Compiled, arrays: Sequence[Array], sizes: Mapping[str, int]
) -> list[Array]:
    memory: dict[str, Array] = {}
    program = compiled.program
    for slot, array in zip(program.arguments, arrays, strict=True):
        memory[slot.key] = array
    for slot in program.slots.values():
        if slot.data is not None:
            memory[slot.key] = slot.data
        if slot.kind == "state" and slot.origin is not None:
            memory[slot.key] = slot.origin.attrs["state"].numpy()
    for call in compiled.calls:
        if isinstance(call, RoutineCall):
            _run_routine(call, memory, sizes)
            continue
        kernel = call.kernel
        pairs = zip(kernel.inputs, call.inputs, strict=True)
        needed = {d.name: sizes[d.name] for d in call.sizes}
        out = interpret_kernel(kernel, {t.name: memory[s.key] for t, s in pairs}, needed)
        for tensor, slot in zip(kernel.outputs, call.outputs, strict=True):
            memory[slot.key] = out[tensor.name]
    wanted = [*program.outputs, *(new for _, new in program.updates)]
    return [memory[slot.key] for slot in wanted]


def _run_routine(call: RoutineCall, memory: dict[str, Array], sizes: Mapping[str, int]) -> None:
    routine = call.routine
    extents = [evaluate_extent(e, sizes) for e in call.control.sizes]
    own = {s.name: e for s, e in zip(routine.sizes, extents, strict=True)}
    results = run_routine(routine, [memory[s.key] for s in call.inputs], own)
    for slot, array in zip(call.outputs, results, strict=True):
        memory[slot.key] = array.reshape(evaluate_type(slot.type, sizes).shape)  # type: ignore[arg-type]


def _run_schedule(
    compiled: Compiled, arrays: Sequence[Array], sizes: Mapping[str, int]
) -> list[Array]:
    scheduled = compiled.scheduled
    bound = bind_sizes(scheduled.schedule, sizes)
    plan = plan_memory(bound)
    assert plan.bound <= plan.peak <= 1.15 * plan.bound
    schedule = place_buffers(bound, plan.offsets)
    verify_schedule(schedule)
    verify_in_place(schedule, lambda kernel: build_nest(kernel, windows.choose(kernel, TARGET)))
    given: dict[str, Array] = dict(scheduled.constants)
    given |= {name: cell.numpy() for name, cell in scheduled.cells.items()}
    given |= {b.name: a for b, a in zip(schedule.arguments, arrays, strict=True)}
    out = interpret_schedule(scheduled.schedule, given, sizes)
    results = [out[b.name] for b in schedule.outputs]
    program = compiled.program
    return [*results, *(out[scheduled.buffers[state.key]] for state, _ in program.updates)]


def kernel_count(compiled: Compiled) -> int:
    """How many kernels a call launches."""
    return len(compiled.calls)
