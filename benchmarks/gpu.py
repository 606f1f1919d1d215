"""Kernels and training steps on a CUDA device, beside others: ``python -m benchmarks.gpu``.

Times are the device's own: events around repeated launches of a program's graph, and around as many
calls of PyTorch (eager, compiled, as a replayed graph); JAX's are the host's, of calls that wait.
Medians of several rounds, all in turn. Results are compared with float64 first. Rates are shares of
ceilings that are measured before: a copy's bandwidth, the rate of PyTorch's largest product in the
same precision. A peer that cannot run is named with its reason. ``--out`` takes the numbers as
JSON; ``--rehearse`` runs everything small, without a device.
"""

from __future__ import annotations

import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from torch.nn import functional

import graphc as gc
from benchmarks.gpu_place import Place, Rehearsal, Timer
from benchmarks.peers import graphc_peer, torch_peer
from benchmarks.workloads import Workload, cnn_workload, layer_workload, mlp_workload
from graphc.nn.functional import scaled_dot_product_attention
from tests.triton.conftest import host_device

ROUNDS, REPEATS = 5, 20
KINDS = ("ieee", "tf32", "bf16")
#: JAX's names of the precisions of products
_JAX = {"ieee": "float32", "tf32": "tensorfloat32", "bf16": "bfloat16"}

#: makes a peer ready; raises where it cannot run here
Maker = Callable[[], Timer]


class Bench:
    """A place, ceilings by name, and what was measured."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ceilings: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []

    def tensors(self, *shape: int, dtype: Any = torch.float32, count: int = 1) -> list[Any]:
        return [torch.randn(*shape, device=self.place.kind).to(dtype) for _ in range(count)]

    def difference(self, result: Any, wanted: Any) -> float:
        """The norm of the difference over the norm."""
        got = self.place.tensor(result).double()
        return float((got - wanted.double()).norm() / wanted.double().norm())

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)

    def row(
        self, name: str, program: Any, peers: Mapping[str, Maker], *, work: float = 0.0,
        of: str = "", error: float = 0.0, repeats: int = REPEATS,
    ) -> None:
        """Time a program beside peers; ``work`` (bytes or operations) has the ceiling ``of``."""
        timers: dict[str, Timer] = {"graphc": lambda n: self.place.ours(program, n)}
        left_out: dict[str, str] = {}
        for peer, make in peers.items():
            try:
                timers[peer] = make()
                timers[peer](3)
            except Exception as reason:  # whatever keeps a third party from running
                timers.pop(peer, None)
                left_out[peer] = repr(reason)[:200]
        repeats, rounds = self.place.size((repeats, ROUNDS), (1, 1))
        timers["graphc"](repeats)
        taken = [{peer: timer(repeats) for peer, timer in timers.items()} for _ in range(rounds)]
        times = {peer: statistics.median(t[peer] for t in taken) for peer in timers}
        found: dict[str, Any] = {"name": name, "error": error}
        for peer, seconds in times.items():
            found[f"{peer}_us"] = seconds * 1e6
            if peer != "graphc":
                found[f"{peer}/graphc"] = seconds / times["graphc"]
            if work and seconds:
                found[f"{peer} rate"] = work / seconds
                found[f"{peer} of {of}"] = work / seconds / self.ceilings[of]
        self.add(found | ({"left out": left_out} if left_out else {}))

    # -- peers
    def of_torch(self, call: Callable[..., Any], *args: Any) -> dict[str, Maker]:
        """PyTorch's call, and what it compiles it to."""
        def compiled() -> Timer:
            made = self.place.compiled(call)
            return self.place.events(lambda: made(*args))

        return {"torch": lambda: self.place.events(lambda: call(*args)), "torch.compile": compiled}

    def of_jax(self, kind: str, inputs: Mapping[str, Any], precision: str = "ieee") -> Maker:
        """JAX's call of a workload's kind."""

        def make() -> Timer:
            jax = importlib.import_module("jax")
            if self.place.kind == "cuda" and jax.default_backend() != "gpu":
                raise RuntimeError("this JAX has no GPU")
            built = importlib.import_module("benchmarks.peers.jax_peer").BUILDERS[kind]
            with jax.default_matmul_precision(_JAX[precision]):
                call = built(dict(inputs), 1)
                call.run()  # what is traced now keeps the precision
            return self.place.waited(call.run)

        return make

    # -- what is timed
    def measure_ceilings(self) -> None:
        """The rate of a copy, and of the largest products by precision."""
        count, n = self.place.size((1 << 27, 8192), (1 << 10, 32))
        x, y = self.tensors(count, count=2)
        x_, name = gc.observed("x", (count,)), f"copy {count * 4 >> 20} MiB"
        copied = self.place.events(lambda: y.copy_(x))
        copied(3)
        self.ceilings["memory"] = 8.0 * count / copied(REPEATS)
        program = gc.compile([x_], x_ + 0.0, backend="triton")
        error = self.difference(program(x), x)
        self.row(name, program._latest().loaded, {"torch": lambda: copied},
                 work=8.0 * count, of="memory", error=error)
        for kind in KINDS:
            self.allow(kind)
            a, b = self.tensors(n, n, dtype=_dtype(kind), count=2)
            timer = self.place.events(lambda a=a, b=b: torch.mm(a, b))
            timer(3)
            self.ceilings[kind] = 2.0 * n**3 / timer(10)
        self.add({"name": "ceilings"} | self.ceilings)

    def allow(self, kind: str) -> None:
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        torch.backends.cudnn.allow_tf32 = kind == "tf32"

    def products(self) -> None:
        """``x @ w``, and ``x @ w.T`` as in a linear layer; copies of operands are in the time."""
        for kind in KINDS:
            for n in self.place.size((1024, 2048, 4096, 8192), (32,)):
                for turned in (False, True) if n in (32, 4096) else (False,):
                    self.product(n, kind, turned)

    def product(self, n: int, kind: str, turned: bool) -> None:
        self.allow(kind)
        ours = gc.bfloat16 if kind == "bf16" else gc.float32
        a, b = gc.observed("a", (n, n), ours), gc.observed("b", (n, n), ours)
        executable = gc.compile(
            [a, b], a @ (b.T if turned else b), backend="triton",
            precision="tf32" if kind == "tf32" else "ieee",
        )
        x, w = self.tensors(n, n, dtype=_dtype(kind), count=2)
        right = w.T if turned else w
        wanted = x.double() @ right.double() if n <= 4096 else x.float() @ right.float()
        error = self.difference(executable(*map(self.given, (x, w))), wanted)
        peers = self.of_torch(torch.mm, x, right)
        if kind != "bf16":
            arrays = {"a": x.cpu().numpy(), "b": right.cpu().numpy()}
            peers["jax"] = self.of_jax("matmul", arrays, kind)
        self.row(f"GEMM {n} {kind}{' x w.T' if turned else ''}", executable._latest().loaded,
                 peers, work=2.0 * n**3, of=kind, error=error, repeats=10 if n > 4096 else 20)

    def given(self, tensor: Any) -> Any:
        """A tensor as an argument: NumPy has no bfloat16 of PyTorch's."""
        if self.place.kind == "cuda" or tensor.dtype != torch.bfloat16:
            return tensor
        return tensor.float().numpy().astype(gc.bfloat16.numpy)

    def rows_of_numbers(self) -> None:
        """Softmax and layer norm."""
        sizes = ((8192, 1024), (4096, 8192), (65536, 256))
        for m, n in self.place.size(sizes, ((4, 16),)):
            (x,) = self.tensors(m, n)
            g, b = self.tensors(n, count=2)
            x_, g_, b_ = gc.observed("x", (m, n)), gc.observed("g", (n,)), gc.observed("b", (n,))
            program = gc.compile([x_], gc.ops.softmax(x_, -1), backend="triton")
            error = self.difference(program(x), torch.softmax(x.double(), -1))
            peers = self.of_torch(lambda x: torch.softmax(x, -1), x)
            peers["jax"] = self.of_jax("softmax", {"x": x.cpu().numpy()})
            self.row(f"softmax {m}x{n}", program._latest().loaded, peers,
                     work=8.0 * m * n, of="memory", error=error)
            normed = gc.nn.functional.layer_norm(x_, (n,), g_, b_)
            program = gc.compile([x_, g_, b_], normed, backend="triton")
            wanted = functional.layer_norm(x.double(), (n,), g.double(), b.double())
            peers = self.of_torch(
                lambda x, g, b, n=n: functional.layer_norm(x, (n,), g, b), x, g, b
            )
            arrays = {name: t.cpu().numpy() for name, t in (("x", x), ("weight", g), ("bias", b))}
            peers["jax"] = self.of_jax("layer_norm", arrays)
            self.row(f"layer norm {m}x{n}", program._latest().loaded, peers,
                     work=8.0 * m * n, of="memory", error=self.difference(program(x, g, b), wanted))

    def attention(self) -> None:
        """Causal attention; PyTorch takes its flash attention for bf16."""
        sizes = ((4, 16, 1024, 64), (2, 16, 4096, 64))
        for shape in self.place.size(sizes, ((1, 2, 20, 16),)):
            for kind in KINDS:
                self.allow(kind)
                tensors = self.tensors(*shape, dtype=_dtype(kind), count=3)
                ours = gc.bfloat16 if kind == "bf16" else gc.float32
                values = [gc.observed(name, shape, ours) for name in "qkv"]
                program = gc.compile(
                    values, scaled_dot_product_attention(*values, is_causal=True),
                    backend="triton", precision="tf32" if kind == "tf32" else "ieee",
                )
                result = self.place.tensor(program(*map(self.given, tensors)))[:1, :2].double()
                wanted = functional.scaled_dot_product_attention(
                    *(t[:1, :2].double() for t in tensors), is_causal=True
                )
                b, h, n, width = shape
                self.row(
                    f"causal attention {'x'.join(map(str, shape))} {kind}",
                    program._latest().loaded,
                    self.of_torch(
                        lambda q, k, v: functional.scaled_dot_product_attention(
                            q, k, v, is_causal=True
                        ), *tensors,
                    ),
                    work=2.0 * b * h * n * n * width, of=kind,
                    error=float((result - wanted).norm() / wanted.norm()),
                )  # fmt: skip

    def steps(self) -> None:
        """Training steps with Adam in exact float32: an MLP, a CNN, a transformer's layer."""
        whole = mlp_workload(64), mlp_workload(1024), cnn_workload(), layer_workload(train=True)
        small = (cnn_workload(2, 4, (1, 2, 2, 2, 2), 4),)
        for workload in self.place.size(whole, small):
            self.step(workload)

    def step(self, workload: Workload) -> None:
        self.allow("ieee")
        inputs = workload.draw()
        step = graphc_peer.STEPS[workload.kind](inputs)
        x, y = (torch.from_numpy(inputs[n]).to(self.place.kind) for n in "xy")
        wanted = workload.reference(inputs)
        losses = [float(step(x, y)) for _ in wanted]
        error = float(np.abs(losses - wanted).max() / np.abs(wanted).max())
        net, loss = torch_peer.NETWORKS[workload.kind](inputs)
        net.to(self.place.kind)
        graphed = self.place.kind == "cuda"
        call, _ = torch_peer.training_step((net, loss), x, y, capturable=graphed)
        peers = self.of_torch(call)
        peers["torch CUDA graph"] = lambda: self.place.events(self.place.replayed(call))
        peers["jax"] = self.of_jax(workload.kind, inputs)
        self.row(workload.title, step._latest().loaded, peers, work=workload.flops, of="ieee",
                 error=error)
        for where, args in (("device", (x, y)), ("host", (inputs["x"], inputs["y"]))):
            self.calls(f"{workload.title}, arguments on the {where}", step, args)

    def calls(self, name: str, step: Any, args: tuple[Any, ...]) -> None:
        """A whole call from Python."""
        count = self.place.size(100, 1)
        np.asarray(step(*args))
        begin = time.perf_counter()
        for _ in range(count):
            result = step(*args)
        np.asarray(result)
        self.add({"name": f"a call from Python: {name}",
                  "graphc_us": (time.perf_counter() - begin) / count * 1e6})


def _dtype(kind: str) -> Any:
    return torch.bfloat16 if kind == "bf16" else torch.float32


PARTS = ("rows_of_numbers", "steps", "products", "attention")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the numbers as JSON.")
@click.option("--rehearse", is_flag=True, help="Run small sizes without a device.")
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
def main(out: Path | None, rehearse: bool, parts: tuple[str, ...]) -> None:
    """Measure PARTS (all where none is given) on the first CUDA device."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as scratch:
        patch.setenv("GRAPHC_BACKEND", "triton")  # of programs that do not say where
        if rehearse:
            host_device(patch, Path(scratch))
        measure(Rehearsal() if rehearse else Place(), parts or PARTS, out)


def measure(place: Place, parts: tuple[str, ...], out: Path | None = None) -> list[dict[str, Any]]:
    """The rows of some parts; an error where one fails, after the others."""
    bench = Bench(place)
    bench.measure_ceilings()
    failures = {}
    for part in parts:
        try:
            getattr(bench, part)()
        except Exception as error:  # one part must not take the others with it
            failures[part] = repr(error)
            print(f"{part}: {error!r}", flush=True)
        if out is not None:
            known = {"device": place.name, "rows": bench.rows, "failures": failures}
            out.write_text(json.dumps(known, indent=1))
    np.testing.assert_equal(failures, {})
    return bench.rows


if __name__ == "__main__":
    main()
