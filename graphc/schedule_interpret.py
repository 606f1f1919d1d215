"""Run a schedule with the kernel interpreter: slow, plain, and the oracle of every backend.

Arena buffers are arrays of their own here, so that a wrong memory plan shows as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import BindError, RuntimeCheckError
from graphc.kernel.interpret import interpret
from graphc.kernel.terms import Kernel
from graphc.routines import Routine, run_routine
from graphc.schedule import (
    Barrier,
    Body,
    Commit,
    Copy,
    If,
    Launch,
    Loop,
    Renew,
    Schedule,
    While,
    bind_sizes,
    evaluate_extent,
)

__all__ = ["interpret_schedule"]

Array = NDArray[Any]


def interpret_schedule(
    schedule: Schedule, arrays: Mapping[str, Array], sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """The outputs and written states by name, for ``arrays`` of arguments, states and constants.

    ``sizes`` are the run-time ones by name. Nothing that is passed in changes. RuntimeCheckError
    with the message and source of the first check that fails, in program order.

    >>> from graphc.schedule_text import parse_schedule
    >>> text = "schedule same argument x f32[2] output y f32[2] run { copy x -> y }"
    >>> interpret_schedule(parse_schedule(text), {"x": np.float32([1, 2])})
    {'y': array([1., 2.], dtype=float32)}
    """
    run = _Run(bind_sizes(schedule, sizes or {}), arrays)
    run.body(run.schedule.body)
    wanted = [*(b.name for b in schedule.outputs), *sorted(schedule.written_states)]
    return {name: run.memory[name] for name in wanted}


class _Run:
    """The arrays of all buffers while the statements run."""

    def __init__(self, schedule: Schedule, arrays: Mapping[str, Array]) -> None:
        self.schedule = schedule
        self.memory: dict[str, Array] = {}
        for buffer in schedule.buffers:
            shape = tuple(evaluate_extent(e, {}) for e in buffer.type.shape)
            dtype = buffer.type.dtype.numpy
            if buffer.kind not in ("argument", "state", "constant"):
                self.memory[buffer.name] = np.zeros(shape, dtype)
                continue
            given = arrays.get(buffer.name)
            if given is None:
                raise BindError(f"{schedule.name}: no array for {buffer.kind} {buffer.name!r}")
            if given.shape != shape or given.dtype != dtype:
                got = f"{given.dtype}{list(given.shape)}"
                raise BindError(f"{schedule.name}: {buffer.name!r} is {buffer.type}, got {got}")
            self.memory[buffer.name] = given.copy()

    def body(self, body: Body) -> None:
        for statement in body:
            match statement:
                case Launch():
                    self.launch(statement)
                case Copy(source, target):
                    self.memory[target][...] = self.memory[source]
                case Loop(counter, length, inner):
                    for i in range(evaluate_extent(length, {})):
                        self.memory[counter][...] = i
                        self.body(inner)
                    self.memory[counter][...] = max(evaluate_extent(length, {}), 0)
                case While():
                    self.while_(statement)
                case If(predicate, then, otherwise):
                    self.body(then if self.memory[predicate] else otherwise)
                case Renew():  # nothing is kept from one run to the next
                    self.body(statement.body)
                case Barrier() | Commit():
                    pass  # checks raise at once here, and nobody sees the states of a failed run

    def while_(self, statement: While) -> None:
        count, limit = 0, statement.max_steps
        while limit is None or count < evaluate_extent(limit, {}):
            if statement.counter is not None:
                self.memory[statement.counter][...] = count
            if not self.memory[statement.predicate]:
                return
            self.body(statement.body)
            count += 1
        if statement.counter is not None:
            self.memory[statement.counter][...] = count

    def launch(self, launch: Launch) -> None:
        kernel = self.schedule.launched(launch.kernel)
        if isinstance(kernel, Routine):
            self.routine(kernel, launch)
            return
        inputs = {
            tensor.name: self.memory[name]
            for tensor, name in zip(kernel.inputs, launch.inputs, strict=True)
        }
        sizes = {
            size.name: evaluate_extent(e, {})
            for size, e in zip(kernel.sizes, launch.sizes, strict=True)
        }
        scalars = {
            scalar.name: self.memory[name][()]
            for scalar, name in zip(kernel.scalars, launch.scalars, strict=True)
        }
        try:
            results = _stored(kernel, inputs, sizes, scalars)
        except RuntimeCheckError as error:
            raise self.located(kernel, launch, error) from error
        for tensor, name in zip(kernel.outputs, launch.outputs, strict=True):
            values, stored = results[tensor.name]
            np.copyto(self.memory[name], values, where=stored)

    def routine(self, routine: Routine, launch: Launch) -> None:
        sizes = {
            size.name: evaluate_extent(e, {})
            for size, e in zip(routine.sizes, launch.sizes, strict=True)
        }
        results = run_routine(routine, [self.memory[name] for name in launch.inputs], sizes)
        for name, array in zip(launch.outputs, results, strict=True):
            self.memory[name][...] = array.reshape(self.memory[name].shape)

    def located(
        self, kernel: Kernel, launch: Launch, error: RuntimeCheckError
    ) -> RuntimeCheckError:
        """The schedule's words for a failed check."""
        for n, check in enumerate(kernel.checks):
            if check.message == error.message:
                info = self.schedule.checks[launch.check_base + n]
                return RuntimeCheckError(info.message, info.source)
        return error


def _stored(
    kernel: Kernel,
    inputs: Mapping[str, Array],
    sizes: Mapping[str, int],
    scalars: Mapping[str, Any],
) -> dict[str, tuple[Array, Array]]:
    """Each output's values, and where the kernel stored them: elsewhere a buffer keeps what it has.

    The interpreter fills outputs before it stores into them; what it did not store shows the
    filling. So it runs twice with different ones, unless the kernel says what to fill with.
    """
    partial = [t.name for t in kernel.outputs if t.init is None]
    first = interpret(kernel, inputs, sizes, scalars)
    everywhere = {name: np.ones(a.shape, np.bool_) for name, a in first.items()}
    if partial:
        second = interpret(_filled_with_one(kernel), inputs, sizes, scalars)
        for name in partial:
            same = first[name] == second[name]
            everywhere[name] = same | (
                (first[name] != first[name]) & (second[name] != second[name])
            )
    return {name: (first[name], everywhere[name]) for name in first}


def _filled_with_one(kernel: Kernel) -> Kernel:
    outputs = tuple(replace(t, init=1) if t.init is None else t for t in kernel.outputs)
    return replace(kernel, outputs=outputs)
