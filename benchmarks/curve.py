"""How compiling grows with the graph: ``python -m benchmarks compile-curve``.

Each row is a process of its own with an empty cache. Times are its CPU seconds: of tracing, of all
passes from the closed graph to the schedule, of the whole ``compile``, machine code included. The
arena stands beside the bytes that are alive at once, the least that any plan needs.

``python -m benchmarks.curve PROGRAM NODES`` is one such process; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import graphc as gc
from graphc import executable, nn, ops, optim

__all__ = ["NODES", "PROGRAMS", "curve_table", "measure_curve"]

ROOT = Path(__file__).resolve().parent.parent
NODES = (1000, 5000, 20000)

Program = tuple[list[gc.Value], list[gc.Value], Any]


def deep_mlp(nodes: int) -> Program:
    """A training step with Adam: layers of one size, so that kernels repeat."""
    x, y = gc.observed("x", (32, 64)), gc.observed("y", (32,), gc.int64)
    layers = [m for _ in range(nodes // 77) for m in (nn.Linear(64, 64), nn.ReLU())]
    loss = nn.CrossEntropyLoss()(nn.Sequential(*layers, nn.Linear(64, 10))(x), y)
    return [x, y], [loss], optim.Adam().minimize(loss)


def chain(nodes: int) -> Program:
    """Elementwise functions of one value, every third link a mean."""
    x = value = gc.observed("x", (64, 64))
    for link in range(nodes * 3 // 15):
        value = ops.tanh(value * 1.01 + 0.1) if link % 3 else value - value.mean(0)
    return [x], [value], {}


def mixed(nodes: int) -> Program:
    """Products, reductions, movement and maps of values before, at random: few kernels repeat."""
    draw = random.Random(0)
    x = gc.observed("x", (32, 32))
    pool = [x]
    for _ in range(nodes * 10 // 46):
        a, b = pool[-1], pool[max(0, len(pool) - 1 - draw.randrange(1, 40))]
        links: list[Callable[[gc.Value, gc.Value], gc.Value]] = [
            lambda a, b: ops.tanh(a + b),
            lambda a, b: ops.softmax(a, -1) + b,
            lambda a, b: ops.tanh(a @ b * 0.1),
            lambda a, b: a.T * 0.5 + b,
            lambda a, b: ops.concat([a[:16], b[16:]], 0),
            lambda a, b: a - b.mean(0),
        ]
        pool.append(draw.choice(links)(a, b))
    return [x], [sum(pool[-20:-1], pool[-1])], {}


PROGRAMS: dict[str, Callable[[int], Program]] = {
    "deep MLP, train step": deep_mlp,
    "chain": chain,
    "mixed graph": mixed,
}


def measure_curve(name: str, nodes: int) -> dict[str, float]:
    """What compiling a program of about so many nodes takes, in this process."""
    passes: list[float] = []
    compile_graph = executable.compile_graph

    def timed(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        compiled = compile_graph(*args, **options)
        passes.append(time.process_time() - start)
        return compiled

    start = time.process_time()
    inputs, outputs, updates = PROGRAMS[name](nodes)
    traced = time.process_time()
    executable.compile_graph = timed  # type: ignore[attr-defined]
    try:
        program = gc.compile(inputs, outputs, updates)
    finally:
        executable.compile_graph = compile_graph  # type: ignore[attr-defined]
    done = time.process_time()
    status = Path("/proc/self/status").read_text()
    return {
        "nodes": len(program.graph.nodes),
        "launches": len(program.explain().kernels),
        "kernels": len(program.schedule.kernels),
        "trace": traced - start,
        "passes": sum(passes),
        "compile": done - traced,
        "rss": int(status.partition("VmHWM:")[2].split()[0]) / 1024,
        "arena": program.memory.peak,
        "bound": program.memory.bound,
    }


def curve_table(names: Sequence[str] = tuple(PROGRAMS), nodes: Sequence[int] = NODES) -> str:
    """A row for each program and size, in Markdown."""
    lines = [
        "| program | nodes | launches of kernels | tracing | passes | compile | passes a node "
        "| peak RSS | arena | alive at once |",
        "|" + " --- |" * 10,
    ]
    for name in names:
        lines += [_row(name, _in_new_process(name, count)) for count in nodes]
    return "\n".join(lines)


def _in_new_process(name: str, nodes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.curve", name, str(nodes)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": empty},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _row(name: str, of: Mapping[str, float]) -> str:
    cells = [
        name,
        f"{of['nodes']:,.0f}",
        f"{of['launches']:,.0f} of {of['kernels']:,.0f}",
        *(f"{of[part]:.2f} s" for part in ("trace", "passes", "compile")),
        f"{of['passes'] / of['nodes'] * 1e6:,.0f} µs",
        f"{of['rss']:,.0f} MB",
        *(f"{of[part] / 1024:,.0f} KB" for part in ("arena", "bound")),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(json.dumps(measure_curve(sys.argv[1], int(sys.argv[2]))))
