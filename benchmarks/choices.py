"""What passes gain, and what those would that graphc lacks: ``python -m benchmarks choices``.

::

    products   x@wq, x@wk, x@wv      beside x@w with the three weights given as one, and joined by
                                     a concat in the graph (what a pass would have to write)
    updates    Adam on n parameters  beside Adam on one parameter of the same size
    loops      two directions        one after the other, and as one loop (what ``merge`` does)
    order      a whole training step how long its workers wait at barriers: no other order, by
                                     critical path or otherwise, can gain more than that
    kept       a forward pass  that packs its weights at each call, and what ``keep`` does, also
                     where somebody writes the weights between calls

Medians of blocks in turn, in this process, on all threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import graphc as gc
from benchmarks.gpu_static import PROGRAMS
from graphc import nn, ops, optim
from graphc.passes import merge

__all__ = ["choices_table"]

Call = Callable[[], Any]
#: blocks of each alternative
ROUNDS = 10
PRODUCTS = ((8, 64), (32, 256), (128, 256), (512, 768))
UPDATES = ((12, 64), (48, 64), (48, 1024), (200, 1024))
LOOPS = ((8, 32), (32, 64), (8, 128), (32, 256))
KEPT = ((64, 768), (256, 768))


def choices_table(seconds: float = 0.25) -> str:
    """The tables; each row takes about ``seconds`` in its blocks."""
    tables = (table(seconds) for table in (_products, _updates, _loops, _order, _kept))
    return "\n\n".join("\n".join(lines) for lines in tables)


def _drawn(values: Sequence[gc.Value]) -> list[Any]:
    generator = np.random.default_rng(0)
    arrays = []
    for value in values:
        shape = tuple(int(e) for e in value.shape)  # type: ignore[call-overload]
        drawn = generator.normal(size=shape) if value.dtype.is_float else np.zeros(shape)
        arrays.append(drawn.astype(value.dtype.numpy))
    return arrays


def _call(inputs: Sequence[gc.Value], outputs: Any, updates: Any = None) -> Call:
    program = gc.compile(inputs, outputs, updates)
    arrays = _drawn(inputs)
    return lambda: program(*arrays)


def _medians(calls: Sequence[Call], seconds: float) -> list[float]:
    """Seconds of each call, in blocks in turn."""
    counts = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        counts.append(max(1, int(seconds / len(calls) / ROUNDS / max(once, 1e-6))))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, count, found in zip(calls, counts, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            found.append((time.perf_counter() - start) / count)
    return [statistics.median(found) for found in times]


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|" + " --- |" * len(cells)]


def _times(*seconds: float) -> list[str]:
    """Microseconds, and how much slower each is than the first."""
    first = seconds[0]
    rest = [f"{s * 1e6:,.1f} µs ({s / first:.2f})" for s in seconds[1:]]
    return [f"{first * 1e6:,.1f} µs", *rest]


def _products(seconds: float) -> list[str]:
    lines = _head("three products", "apart", "weights given as one", "weights joined by a concat")
    for rows, width in PRODUCTS:
        x = gc.observed("x", (rows, width))
        weights = [gc.observed(f"w{n}", (width, width)) for n in "qkv"]
        given = gc.observed("w", (3 * width, width))
        flows = [gc.observed(f"d{n}", (rows, width)) for n in "qkv"]
        flow = gc.observed("d", (rows, 3 * width))
        apart = [x @ w.T for w in weights]
        one, joined = x @ given.T, x @ ops.concat(weights, 0).T
        calls = [_call([x, *weights], apart), _call([x, given], one), _call([x, *weights], joined)]
        lines.append(_row(f"forward, {rows}x{width}", *_times(*_medians(calls, seconds))))
        back = [
            ([x, *weights, *flows], gc.vjp(apart, [x, *weights], flows)),
            ([x, given, flow], gc.vjp([one], [x, given], [flow])),
            ([x, *weights, *flows], gc.vjp([joined], [x, *weights], [ops.concat(flows, 1)])),
        ]
        calls = [_call(inputs, list(found)) for inputs, found in back]
        lines.append(_row(f"derivatives, {rows}x{width}", *_times(*_medians(calls, seconds))))
    return lines


def _updates(seconds: float) -> list[str]:
    lines = _head("Adam", "a kernel each", "one parameter of the same size", "a launch")
    for count, size in UPDATES:
        calls = []
        for parameters, each in ((count, size), (1, count * size)):
            states = [gc.parameter(np.zeros(each, np.float32)) for _ in range(parameters)]
            flow = gc.observed("d", (each,))
            flows = [flow * float(n + 1) for n in range(parameters)]
            calls.append(_call([flow], [], optim.Adam().updates(states, flows)))
        many, one = _medians(calls, seconds)
        launch = f"{(many - one) / count * 1e6:.2f} µs"
        lines.append(_row(f"{count} parameters of {size}", *_times(many, one), launch))
    return lines


def _loops(seconds: float) -> list[str]:
    lines = _head("LSTM in two directions, 32 steps", "one after the other", "as one loop")
    for rows, width in LOOPS:
        for train in (False, True):
            calls = [_merging(limit, rows, width, train=train) for limit in (0, 1 << 60)]
            title = f"{'train step' if train else 'forward'}, batch {rows}, width {width}"
            lines.append(_row(title, *_times(*_medians(calls, seconds))))
    return lines


def _merging(limit: int, rows: int, width: int, *, train: bool) -> Call:
    """An LSTM in two directions, its loops merged up to a limit of their own."""
    usual, merge.SHORT_ITERATION = merge.SHORT_ITERATION, limit
    try:
        inputs, loss, updates = _two_directions(32, rows, width)
        return _call(inputs, loss, updates if train else None)
    finally:
        merge.SHORT_ITERATION = usual


def _two_directions(steps: int, rows: int, width: int) -> tuple[Any, ...]:
    gc.manual_seed(0)
    x, y = gc.observed("x", (steps, rows, width)), gc.observed("y", (rows,), gc.int64)

    def direction(reverse: bool) -> gc.Value:
        into, back = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width)

        def cell(carry: Any, given: gc.Value) -> Any:
            h, c = carry
            i, f, g, o = ops.split(into(given) + back(h), 4, axis=-1)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            return (h, c), h

        zero = ops.zeros((rows, width))
        return gc.scan(cell, (zero, zero), x, reverse=reverse)[1]

    hidden = ops.concat([direction(False), direction(True)], -1).mean(0)
    loss = nn.CrossEntropyLoss()(nn.Linear(2 * width, 10)(hidden), y)
    return [x, y], loss, optim.Adam().minimize(loss)


def _order(seconds: float) -> list[str]:
    lines = _head("training step", "a call", "busy, all workers", "waiting")
    for name, make in PROGRAMS.items():
        gc.manual_seed(0)
        inputs, loss, updates = make()
        program = gc.compile(inputs, loss, updates)
        arrays = _drawn(inputs)
        profiles = [program.profile(*arrays) for _ in range(3)]
        for _ in range(int(seconds * 4 / max(profiles[-1].seconds, 1e-6))):
            profiles.append(program.profile(*arrays))
        best = min(profiles, key=lambda p: p.seconds)
        busy, workers = sum(t.seconds for t in best.launches), len(best.workers)
        waiting = f"{1 - busy / best.seconds / workers:.1%}"
        lines.append(
            _row(name, f"{best.seconds * 1e6:,.0f} µs", f"{busy * 1e6:,.0f} µs", waiting)
        )
    return lines


def _kept(seconds: float) -> list[str]:
    lines = _head("two linear layers, forward", "packed at each call", "kept", "written each time")
    for rows, width in KEPT:
        x = gc.observed("x", (rows, width))
        net = nn.Linear(width, 4 * width) >> nn.GELU() >> nn.Linear(4 * width, width)
        each = gc.compile([x], net(x), memory_budget=1 << 40)  # which keeps nothing
        kept = gc.compile([x], net(x))
        (given,) = _drawn([x])
        calls = [partial(each, given), partial(kept, given), partial(_rewritten, kept, given)]
        lines.append(_row(f"{rows}x{width}", *_times(*_medians(calls, seconds))))
    return lines


def _rewritten(program: gc.Executable, given: Any) -> None:
    for cell in program.states:
        with cell.buffer.writing():
            pass
    program(given)
