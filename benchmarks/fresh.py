"""What is measured in fresh processes: import time, compile time cold and warm, peak memory.

``python -m benchmarks.fresh WHAT`` is one such process; it prints one line of JSON.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.settings import MLP_SIZES

__all__ = ["FRESH", "Fresh", "measure_fresh"]

ROOT = Path(__file__).resolve().parent.parent
STEPS_FOR_MEMORY = 20
BATCH = 128


@dataclass(frozen=True)
class Fresh:
    """One row: ``what`` is run by ``peer`` in processes of its own.

    ``warm``: all share a disk cache that one before them filled.
    """

    title: str
    peer: str
    what: str
    unit: str
    goal: str = ""
    warm: bool = False


FRESH: tuple[Fresh, ...] = (
    Fresh("import graphc, CPU", "graphc", "import", "s", "<= 0.3 s"),
    Fresh("MLP train step, cold compile, CPU", "graphc", "compile", "s", "<= 1.0 s"),
    Fresh("the same from a warm disk cache", "graphc", "compile", "s", "<= 0.3 s", warm=True),
    Fresh("MLP train step, cold compile, CPU", "jax", "compile", "s"),
    Fresh("MLP train step, cold compile, CPU", "torch.compile", "compile", "s"),
    Fresh("the same from a warm disk cache", "torch.compile", "compile", "s", warm=True),
    Fresh("MLP train step, peak memory", "graphc", "memory", "MB", "<= 150 MB"),
    Fresh("MLP train step, peak memory", "torch", "memory", "MB"),
    Fresh("MLP train step, peak memory", "jax", "memory", "MB"),
)


def measure_fresh(row: Fresh, python: str, threads: int, repeats: int) -> list[float] | str:
    """One number a process, or why there is none. Every cold process has an empty cache.

    A first process is not counted: it leaves Python's bytecode, as an installed package has it, and
    where ``row.warm`` the cache.
    """
    numbers: list[float] = []
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as bytecode:
        for attempt in range(1 + repeats):
            with tempfile.TemporaryDirectory() as empty:
                got = _run(row, python, threads, kept if row.warm else empty, bytecode)
            if isinstance(got, str):
                return got
            if attempt:
                numbers.append(got)
    return numbers


def _run(row: Fresh, python: str, threads: int, cache: str, bytecode: str) -> float | str:
    environment = os.environ | PEERS[row.peer].environment(threads)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": bytecode,
        "XDG_CACHE_HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache,
    }
    done = subprocess.run(
        [python, "-m", "benchmarks.fresh", row.what, row.peer],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return said[-1] if said else f"ended with code {done.returncode}"
    return float(json.loads(done.stdout.splitlines()[-1])["value"])


def summary(numbers: list[float], unit: str) -> str:
    """Median and range.

    >>> summary([0.5, 0.25, 1.0], "s")
    '0.50 s (0.25 to 1.00)'
    """
    digits = 2 if unit == "s" else 0
    low, middle, high = (
        f"{v:.{digits}f}" for v in (min(numbers), statistics.median(numbers), max(numbers))
    )
    return f"{middle} {unit} ({low} to {high})"


# ---- inside the fresh process


def _cpu(body: Callable[[], Any]) -> float:
    """CPU seconds of ``body``, those of processes that it started and waited for included."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.process_time()
    body()
    own = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + after.ru_utime - children.ru_utime + after.ru_stime - children.ru_stime


def _import() -> float:
    return _cpu(lambda: __import__("graphc"))


def _first_step(peer: str) -> Callable[[], Any]:
    """Imports and inputs first; the returned call traces, compiles and runs one step."""
    workloads = importlib.import_module("benchmarks.workloads")
    module = importlib.import_module(f"benchmarks.peers.{PEERS[peer].module}")
    inputs = workloads.WORKLOADS[f"mlp-train-{BATCH}"].draw()
    threads = int(os.environ["OMP_NUM_THREADS"])
    return lambda: module.BUILDERS["mlp_train"](inputs, threads).run()


def _memory(peer: str) -> float:
    """Peak resident set in MB of a lean process: no SciPy, no reference."""
    numpy = importlib.import_module("numpy")
    module = importlib.import_module(f"benchmarks.peers.{PEERS[peer].module}")
    generator = numpy.random.default_rng(0)
    inputs = {
        "x": generator.random((BATCH, 784), dtype="float32"),
        "y": generator.integers(0, 10, BATCH),
    }
    for i, (inner, outer) in enumerate(itertools.pairwise(MLP_SIZES)):
        inputs[f"w{i}"] = generator.standard_normal((outer, inner), dtype="float32") * 0.05
        inputs[f"b{i}"] = numpy.zeros(outer, "float32")
    call = module.BUILDERS["mlp_train"](inputs, int(os.environ["OMP_NUM_THREADS"]))
    for _ in range(STEPS_FOR_MEMORY):
        call.run()
    # not ru_maxrss: that one remembers the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    what, peer = sys.argv[1:3]
    if what == "import":
        value = _import()
    elif what == "compile":
        value = _cpu(_first_step(peer))
    else:
        value = _memory(peer)
    print(json.dumps({"value": value}))


if __name__ == "__main__":
    main()
