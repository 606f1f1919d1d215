"""The whole test run: which files are collected, which marks skip, what was not checked."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

# The rooms at the root are collected once, under their real names, through the links
# graphc/ops and graphc/backends.
collect_ignore = ["ops", "backends", "build", "examples", "benchmarks"]
# read by Triton's compiler, not by Python
collect_ignore += ["graphc/backends/triton/device.py"]

# where a GPU is present it would be chosen; the tests say themselves what they run on
os.environ.setdefault("GRAPHC_BACKEND", "llvm")

#: tests that are named for each reason why they did not run
LISTED = 20
NEEDS = {
    "torch": ("PyTorch", importlib.util.find_spec("torch") is not None),
    "gpu": ("a CUDA device", Path("/dev/nvidiactl").exists()),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")
    parser.addoption(
        "--rehearse", action="store_true",
        help="run tests/gpu without a device: on host memory and Triton's interpreter, small",
    )


def pytest_configure() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored; the tests of it need it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark, (need, present) in NEEDS.items():
            rehearsed = mark == "gpu" and config.getoption("rehearse")
            if not present and not rehearsed and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=f"needs {need}"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what this run did not check, and why."""
    expression = terminalreporter.config.getoption("markexpr")
    if expression:
        terminalreporter.line(f"Left out: all that is not '{expression}' (sweeps: pytest -m slow)")
    by_reason: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        by_reason[str(reason).removeprefix("Skipped: ")].append(report.nodeid)
    if not by_reason:
        return
    terminalreporter.section("NOT CHECKED by this run", sep="!", red=True, bold=True)
    for reason, tests in by_reason.items():
        terminalreporter.line(f"{reason}: {len(tests)} tests", bold=True)
        for test in tests[:LISTED]:
            terminalreporter.line(f"  {test}")
        if len(tests) > LISTED:
            terminalreporter.line(f"  ... and {len(tests) - LISTED} more")
