"""The tables in Markdown: what was measured, on what, by which command."""

from __future__ import annotations

import platform
import statistics
from pathlib import Path

from benchmarks.fresh import Fresh, summary
from benchmarks.protocol import Times, ratio
from benchmarks.workloads import WORKLOADS

__all__ = ["INTRODUCTION", "fresh_table", "header", "speed_table"]

Rows = list[tuple[str, ...]]

INTRODUCTION = """# Speed

Written by `python -m benchmarks --out benchmarks/RESULTS.md`. Every peer runs in a pinned process
of its own and is checked against a float64 reference before it is timed (`max error` is relative to
the largest element). Rounds of blocks run all peers forth and back; `peer / graphc` is the median
of the rounds' paired ratios with its 95% bootstrap interval: above 1, graphc is faster. Rows that
graphc loses stay, and a peer that could not run is printed as missing. `+m`: glibc was told to keep
freed memory. The floor of work that multiplies is a loop of independent FMAs, timed in the same
rounds."""


def header(command: str, versions: dict[str, str], threads: int, date: str) -> str:
    """Machine, versions and command."""
    lines = [
        f"- date: {date}",
        f"- processor: {_processor()}, {threads} threads used; {platform.platform()}",
        "- versions: " + ", ".join(f"{name} {v}" for name, v in sorted(versions.items())),
        f"- command: `{command}`",
    ]
    return "\n".join(lines)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0] if names else platform.machine()} ({text.count('processor	')} cores seen)"


def _time(seconds: float) -> str:
    """
    >>> _time(0.0123), _time(8e-6)
    ('12.3 ms', '8.00 us')
    """
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
    return f"{seconds * 1e6:.2f} us"


def speed_table(results: dict[str, Times]) -> str:
    """One row for each workload and peer: times, ratio peer/ours with its interval, error."""
    rows: Rows = [("workload", "peer", "a call", "peer / graphc [95%]", "max error", "of a floor")]
    for name, times in results.items():
        rows += _workload_rows(name, times)
    notes = [_notes(name, times) for name, times in results.items()]
    return "\n".join([_markdown(rows), "", *[note for note in notes if note]])


def _workload_rows(name: str, times: Times) -> Rows:
    workload = WORKLOADS[name]
    title = f"{workload.title}" + (f" (goal {workload.goal})" if workload.goal else "")
    ours = times.seconds.get("graphc")
    rows: Rows = []
    for peer, seconds in times.seconds.items():
        if peer == "fma-peak":
            continue
        against = "1" if peer == "graphc" else str(ratio(seconds, ours)) if ours else "-"
        error = f"{times.errors[peer]:.0e}"
        middle = statistics.median(seconds)
        rows.append((title, peer, _time(middle), against, error, _floor(name, times, peer)))
        title = ""
    for peer, reason in times.missing.items():
        rows.append((title, peer, "missing", reason.replace("|", "/")[:90], "", ""))
        title = ""
    return rows


def _floor(name: str, times: Times, peer: str) -> str:
    """Share of the FMA peak (of this run) for work that multiplies; GB/s for the rest."""
    workload = WORKLOADS[name]
    seconds = statistics.median(times.seconds[peer])
    if not workload.flops:
        return f"{workload.nbytes / seconds / 1e9:.1f} GB/s"
    if "fma-peak" not in times.seconds:
        return f"{workload.flops / seconds / 1e9:.0f} GFLOP/s"
    peak = times.flops["fma-peak"] / statistics.median(times.seconds["fma-peak"])
    return f"{workload.flops / seconds / peak:.0%} of {peak / 1e9:.0f} GFLOP/s"


def _notes(name: str, times: Times) -> str:
    said = []
    if times.disturbed:
        said.append(f"{times.disturbed} of {times.blocks} blocks began on a machine not idle")
    if times.spinning:
        said.append(f"used the processor in others' blocks: {', '.join(sorted(times.spinning))}")
    return f"- {name}: {'; '.join(said)}" if said else ""


def fresh_table(results: dict[Fresh, list[float] | str]) -> str:
    """One row for each measure in fresh processes."""
    rows: Rows = [("measure", "by", "median (range)", "goal")]
    for row, numbers in results.items():
        if isinstance(numbers, str):
            found = f"missing: {numbers[:90]}"
        else:
            found = summary(numbers, row.unit)
        rows.append((row.title, row.peer, found, row.goal))
    return _markdown(rows)


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
