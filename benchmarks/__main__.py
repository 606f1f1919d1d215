"""``python -m benchmarks [NAMES]``: measure, print the tables, write them where ``--out`` says."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import click

from benchmarks.choices import choices_table
from benchmarks.curve import curve_table
from benchmarks.fresh import FRESH, Fresh, measure_fresh
from benchmarks.gpu_static import static_table
from benchmarks.peers import PEERS
from benchmarks.protocol import MissingError, Plan, Process, Times, measure
from benchmarks.report import INTRODUCTION, fresh_table, header, speed_table
from benchmarks.workloads import WORKLOADS

DEFAULT_PEERS = "torch,torch.compile,jax,onnxruntime,numpy"
QUICK = Plan(rounds=3, seconds=0.02, patience=0.0)

#: tables that are asked for alone
ALONE = {"gpu-static": static_table, "compile-curve": curve_table, "choices": choices_table}


def _names(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[str]:
    if len(value) == 1 and value[0] in ALONE:
        return list(value)
    known = [*WORKLOADS, "fresh"]
    unknown = [name for name in value if name not in known]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(known)}")
    return list(value) or known


def _peers(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = [name for name in value.split(",") if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(PEERS)}")
    return [name for name in names if name not in ("graphc", "fma-peak")]


@click.command()
@click.argument("names", nargs=-1, callback=_names)
@click.option("--peers", default=DEFAULT_PEERS, callback=_peers, help="Comma-separated.")
@click.option("--threads", default=2, help="Threads of every peer; each is pinned to as many CPUs.")
@click.option("--python", "pythons", multiple=True, metavar="PEER=PATH",
              help="Another interpreter for a peer, where its environment is separate.")
@click.option("--quick", is_flag=True, help="A few short blocks: whether it runs, not how fast.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables to a file too.")
def main(
    names: list[str], peers: list[str], threads: int, pythons: tuple[str, ...], quick: bool,
    out: Path | None,
) -> None:
    """Time graphc next to its peers on NAMES (all workloads when none is given).

    "fresh" is the group that runs in processes of its own: import, compile, memory. Alone:
    "gpu-static" compiles training steps for GPUs and says what their machine code holds,
    "compile-curve" is compile time and memory over the size of graphs, "choices" what passes that
    graphc lacks would gain.
    """
    if len(names) == 1 and names[0] in ALONE:
        click.echo(ALONE[names[0]]())
        return
    plan = Plan(threads=threads)
    if quick:
        plan = Plan(QUICK.rounds, QUICK.seconds, threads, QUICK.idle, QUICK.patience)
    interpreters = dict(pair.split("=", 1) for pair in pythons)
    versions: dict[str, str] = {"Python": sys.version.split()[0]}
    results = {
        name: _measure(name, ["graphc", *peers], interpreters, plan, versions)
        for name in names
        if name != "fresh"
    }
    report = [header("python -m benchmarks " + " ".join(sys.argv[1:]), versions, threads,
                     datetime.date.today().isoformat())]
    if results:
        report.append(speed_table(results))
    if "fresh" in names:
        report.append(fresh_table(_fresh(["graphc", *peers], interpreters, threads, quick)))
    text = "\n\n".join(report) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(f"{INTRODUCTION}\n\n{text}")


def _measure(
    name: str, peers: list[str], pythons: dict[str, str], plan: Plan, versions: dict[str, str]
) -> Times:
    """New processes for each workload: no peer's memory or caches reach the next one."""
    click.echo(f"{name} ...", err=True)
    if WORKLOADS[name].flops:
        peers = [*peers, "fma-peak"]
    processes: dict[str, Process] = {}
    missing: dict[str, str] = {}
    try:
        for peer in peers:
            try:
                processes[peer] = Process(peer, plan.threads, _python(peer, pythons))
                versions |= processes[peer].versions
            except MissingError as reason:
                missing[peer] = str(reason)
        times = measure(name, processes, plan)
    finally:
        for process in processes.values():
            process.stop()
    times.missing = missing | times.missing
    return times


def _fresh(
    peers: list[str], pythons: dict[str, str], threads: int, quick: bool
) -> dict[Fresh, list[float] | str]:
    results: dict[Fresh, list[float] | str] = {}
    for row in FRESH:
        if row.peer not in peers:
            continue
        click.echo(f"{row.title}: {row.peer} ...", err=True)
        repeats = 1 if quick else 7
        results[row] = measure_fresh(row, _python(row.peer, pythons), threads, repeats)
    return results


def _python(peer: str, pythons: dict[str, str]) -> str:
    """The interpreter for ``peer``; ``torch+m`` uses that of ``torch``."""
    family = peer.removesuffix("+m").removesuffix(".compile")
    return pythons.get(peer) or pythons.get(family) or sys.executable


if __name__ == "__main__":
    main()
