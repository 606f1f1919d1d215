"""Interleaved blocks of pinned processes, and the ratio of their times with its interval.

One round runs every peer's block forth and back, ``A B C C B A``, so that a drift of the machine
falls on all alike. A round gives one paired ratio for each peer; the table shows the median of the
rounds with a 95% bootstrap interval.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS

__all__ = ["MissingError", "Plan", "Process", "Ratio", "Times", "measure", "ratio"]

ROOT = Path(__file__).resolve().parent.parent


class MissingError(Exception):
    """A peer that cannot run a workload here; the message says why."""


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int = 15
    seconds: float = 0.2  # of a block
    threads: int = 2
    #: share of a core that the machine may be busy with before a block, and how many seconds all
    #: blocks of a workload together wait for it
    idle: float = 0.1
    patience: float = 30.0


class Process:
    """A peer's worker process."""

    def __init__(self, peer: str, threads: int, python: str = sys.executable) -> None:
        self.peer = peer
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in stop)
        environment = os.environ | PEERS[peer].environment(threads) | {"PYTHONPATH": str(ROOT)}
        arguments = [peer, str(threads), str(commands), str(answers)]
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", *arguments],
            pass_fds=(commands, answers),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=ROOT,
        )
        os.close(commands)
        os.close(answers)
        self._reader = os.fdopen(self._answers)
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except MissingError:
            self.stop()
            raise

    def _answer(self) -> dict[str, Any]:
        line = self._reader.readline()
        if not line:
            self._log.seek(0)
            said = [text for text in self._log.read().splitlines() if text.strip()]
            raise MissingError(said[-1] if said else f"ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise MissingError(answer["missing"])
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; MissingError when the peer cannot."""
        with suppress(BrokenPipeError):  # it ended: what it said is in the log
            os.write(self._commands, (json.dumps(command) + "\n").encode())
        return self._answer()

    def cpu_seconds(self) -> float:
        """CPU time that the process used so far."""
        return sum(_cpu_ticks(f"/proc/{self._process.pid}/stat")) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        os.close(self._commands)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.close()
        self._log.close()


def _cpu_ticks(path: str) -> tuple[int, int]:
    fields = Path(path).read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def _busy_cores(seconds: float = 0.02) -> float:
    """Cores' worth of work that the machine does while this process sleeps."""

    def busy() -> float:
        ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")

    before = busy()
    time.sleep(seconds)
    return (busy() - before) / seconds


@dataclass
class Times:
    """Seconds of a call, one entry a round; ``disturbed`` counts blocks that did not start idle."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative to the float64 reference
    flops: dict[str, float] = field(default_factory=dict)
    blocks: int = 0
    disturbed: int = 0
    waited: float = 0.0  # seconds, for an idle machine
    spinning: set[str] = field(default_factory=set)  # peers that worked during others' blocks


def measure(name: str, processes: dict[str, Process], plan: Plan) -> Times:
    """Build workload ``name`` in each process, check the results, then time them in rounds."""
    times = Times()
    for peer, process in processes.items():
        try:
            _build(name, peer, process, times)
        except MissingError as reason:
            times.missing[peer] = str(reason)
        else:
            times.seconds[peer] = []
    running = {peer: processes[peer] for peer in times.seconds}
    for process in running.values():  # finds the number of calls in a block, and warms up
        process.ask(do="run", seconds=plan.seconds)
    for _ in range(plan.rounds):
        _round(running, times, plan)
    return times


def _build(name: str, peer: str, process: Process, times: Times) -> None:
    """FMA peak measures itself; every other peer is checked against the reference."""
    answer = process.ask(do="build", workload="fma-peak" if peer == "fma-peak" else name)
    path = Path(answer["file"])
    got = np.load(path)
    path.unlink()
    if peer == "fma-peak":
        times.flops[peer] = answer["flops"]
        return
    workload = WORKLOADS[name]
    expected = _reference(name)
    if got.shape != expected.shape:
        raise MissingError(f"wrong: shape {got.shape}, expected {expected.shape}")
    times.errors[peer] = float(np.abs(got - expected).max() / np.abs(expected).max())
    error, allowed = times.errors[peer], workload.tolerance
    if not error <= allowed:  # NaN is wrong too
        raise MissingError(f"wrong: error {error:.1e}, allowed {allowed:.0e}")


_references: dict[str, NDArray[Any]] = {}


def _reference(name: str) -> NDArray[Any]:
    """Of the workload that is measured now; the one before is forgotten."""
    if name not in _references:
        _references.clear()
        _references[name] = WORKLOADS[name].reference(WORKLOADS[name].draw())
    return _references[name]


def _round(running: dict[str, Process], times: Times, plan: Plan) -> None:
    order = [*running, *reversed(running)]
    found: dict[str, list[float]] = {peer: [] for peer in running}
    for peer in order:
        times.blocks += 1
        times.disturbed += not _wait_until_idle(plan, times)
        others = {p: process.cpu_seconds() for p, process in running.items() if p != peer}
        start = time.perf_counter()
        found[peer].append(running[peer].ask(do="run", seconds=plan.seconds)["seconds"])
        took = time.perf_counter() - start
        for other, before in others.items():
            if running[other].cpu_seconds() - before > 0.05 * took + 0.02:
                times.spinning.add(other)
    for peer, pair in found.items():
        times.seconds[peer].append(sum(pair) / 2)


def _wait_until_idle(plan: Plan, times: Times) -> bool:
    """Whether the machine is idle, after waiting for it as long as there is patience left."""
    start = time.perf_counter()
    while not (idle := _busy_cores() <= plan.idle):
        if times.waited + time.perf_counter() - start > plan.patience:
            break
    times.waited += time.perf_counter() - start
    return idle


@dataclass(frozen=True)
class Ratio:
    """Peer's time over ours: the median of rounds, and its 95% interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(theirs: list[float], ours: list[float], *, resamples: int = 2000) -> Ratio:
    """The paired ratio of two peers' rounds, bootstrapped over rounds.

    >>> str(ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]))
    '2.00 [2.00, 2.00]'
    """
    each = np.array(theirs) / np.array(ours)
    generator = np.random.default_rng(0)
    picked = generator.integers(0, len(each), (resamples, len(each)))
    low, high = np.quantile(np.median(each[picked], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(each)), float(low), float(high))
