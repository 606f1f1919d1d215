"""One peer's process: builds a workload, checks it, runs it for a while when told to.

Talks with the parent in lines of JSON over two pipes of its own, since libraries print on stdout::

    {"do": "build", "workload": NAME}     -> {"file": path of the result}  or {"missing": reason}
    {"do": "run", "seconds": 0.2}         -> {"seconds": of one call, "calls": n}
    {"do": "stop"}

An error ends the process; the parent shows the last line of its stderr as the reason.
"""

from __future__ import annotations

import gc as garbage
import importlib
import json
import os
import sys
import tempfile
import time
from typing import Any, TextIO

import numpy as np

from benchmarks.peers import PEERS, Call
from benchmarks.workloads import WORKLOADS

__all__ = ["main"]


class Worker:
    """The peer's module, and the call that was built last."""

    def __init__(self, peer: str, threads: int) -> None:
        self.threads = threads
        self.module: Any = importlib.import_module(f"benchmarks.peers.{PEERS[peer].module}")
        self.call: Call | None = None
        self.calls = 1  # in a block

    def build(self, name: str) -> dict[str, Any]:
        """Build workload ``name`` and write what it computes into a file."""
        self.call = None
        garbage.collect()
        if name == "fma-peak":
            builder, inputs = self.module.BUILDERS["fma_peak"], {}
        else:
            workload = WORKLOADS[name]
            builder, inputs = self.module.BUILDERS.get(workload.kind), workload.draw()
        if builder is None:
            return {"missing": "not offered by this peer"}
        self.call = builder(inputs, self.threads)
        result = self.call.result()
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
            np.save(file, result)
        answer: dict[str, Any] = {"file": file.name}
        if name == "fma-peak":
            answer["flops"] = self.module.flops(self.threads)
        self.calls = 1
        return answer

    def run(self, seconds: float) -> dict[str, Any]:
        """Call for at least ``seconds``; the mean time of a call. The first call is not timed."""
        assert self.call is not None
        run = self.call.run
        while True:
            self.call.reset()
            run()
            start = time.perf_counter()
            for _ in range(self.calls):
                run()
            took = time.perf_counter() - start
            if took >= seconds:
                return {"seconds": took / self.calls, "calls": self.calls}
            # too short a block: it served as a warm-up
            self.calls = max(self.calls + 1, int(self.calls * 1.2 * seconds / max(took, 1e-9)))


def serve(worker: Worker, commands: TextIO, answers: TextIO) -> None:
    for line in commands:
        command = json.loads(line)
        if command["do"] == "stop":
            return
        if command["do"] == "build":
            answer = worker.build(command["workload"])
        else:
            answer = worker.run(command["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    peer, threads, read, write = sys.argv[1], *map(int, sys.argv[2:5])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.dup2(2, 1)  # what libraries print goes to stderr
    answers = os.fdopen(write, "w")
    try:
        worker = Worker(peer, threads)
        hello: dict[str, Any] = {"versions": worker.module.versions()}
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(json.dumps(hello), file=answers, flush=True)
    with os.fdopen(read) as commands:
        serve(worker, commands, answers)


if __name__ == "__main__":
    main()
