"""Kernels and training steps on a CUDA device, beside PyTorch: ``python -m benchmarks.gpu``.

Times are the device's own: events around repeated launches of a program's graph, and around as many
calls of the peer; the median of several rounds, ours and theirs in turn. Every result is compared
with the peer's first. ``--out`` takes the numbers as JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import graphc as gc
from graphc import nn, optim
from graphc.backends.triton import driver as cuda
from graphc.kernel.parser import parse_kernel
from tests.triton.on_device import program_of

ROUNDS, REPEATS = 5, 20

SOFTMAX = """kernel softmax
  axes i:{m} j:{n}
  in x f32[{m},{n}]
  out y f32[{m},{n}]
  a = load x[i, j]
  m = reduce max a over j
  e = exp(a - m)
  s = reduce sum e over j
  store y[i, j] = e / s"""

LAYER_NORM = """kernel layer_norm
  axes i:{m} j:{n}
  in x f32[{m},{n}], g f32[{n}], b f32[{n}]
  out y f32[{m},{n}]
  a = load x[i, j]
  gamma = load g[j]
  beta = load b[j]
  n, mu, m2 = reduce welford a over j
  r = rsqrt(m2 / {n}.0 + 1e-5)
  store y[i, j] = (a - mu) * r * gamma + beta"""

COPY = """kernel copy
  axes i:{n}
  in x f32[{n}]
  out y f32[{n}]
  a = load x[i]
  store y[i] = a"""

ATTENTION = """kernel attention
  axes b:{b} h:{h} i:{n} j:{n} c:64 d:64
  in q f32[{b},{h},{n},64], k f32[{b},{h},{n},64], v f32[{b},{h},{n},64]
  out y f32[{b},{h},{n},64]
  qa = load q[b, h, i, c]
  ka = load k[b, h, j, c]
  va = load v[b, h, j, d]
  dots = contract qa, ka over c
  a = dots * 0.125
  m, l, o = reduce expsum a; 1.0, va over j where j <= i
  store y[b, h, i, d] = o / l"""


class Bench:
    """Pairs of things to time, and what was measured."""

    def __init__(self) -> None:
        import torch

        self.torch, self.device = torch, cuda.driver()
        self.rows: list[dict[str, Any]] = []

    def ours(self, program: Any, repeats: int) -> float:
        """Seconds of one run of a program's graphs."""
        binding = program._current
        self.device.synchronize()
        begin = self.device.record()
        for _ in range(repeats):
            binding.run(binding.steps)
        end = self.device.record()
        self.device.synchronize()
        return self.device.nanoseconds(begin, end) * 1e-9 / repeats

    def theirs(self, call: Callable[[], Any], repeats: int) -> float:
        torch = self.torch
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def pair(
        self, name: str, program: Any, peer: Callable[[], Any], *, flops: float = 0.0,
        nbytes: float = 0.0, error: float = 0.0, repeats: int = REPEATS,
    ) -> None:
        self.ours(program, 3)
        self.theirs(peer, 3)
        pairs = [(self.ours(program, repeats), self.theirs(peer, repeats)) for _ in range(ROUNDS)]
        mine = statistics.median(a for a, _ in pairs)
        other = statistics.median(b for _, b in pairs)
        row = {
            "name": name, "graphc_us": mine * 1e6, "torch_us": other * 1e6,
            "torch/graphc": other / mine, "error": error,
        }
        if flops:
            row |= {"graphc_TFLOP/s": flops / mine * 1e-12, "torch_TFLOP/s": flops / other * 1e-12}
        if nbytes:
            row |= {"graphc_GB/s": nbytes / mine * 1e-9, "torch_GB/s": nbytes / other * 1e-9}
        self.rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)

    def difference(self, result: Any, wanted: Any) -> float:
        got = self.torch.from_dlpack(result).double()
        return float((got - wanted.double()).norm() / wanted.double().norm())

    # -- what is timed
    def products(self) -> None:
        torch = self.torch
        for kind, sizes in (("ieee", (1024, 2048, 4096)), ("tf32", (1024, 2048, 4096, 8192)),
                            ("bf16", (1024, 2048, 4096, 8192))):
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            for n in sizes:
                for turned in (False, True) if n == 4096 else (False,):
                    self.product(n, kind, dtype, turned)

    def product(self, n: int, kind: str, dtype: Any, turned: bool) -> None:
        """``x @ w``, or ``x @ w.T`` as in a linear layer; copies of operands are in the time."""
        torch = self.torch
        ours = gc.bfloat16 if kind == "bf16" else gc.float32
        a, b = gc.observed("a", (n, n), ours), gc.observed("b", (n, n), ours)
        executable = gc.compile(
            [a, b], a @ (b.T if turned else b), backend="triton",
            precision="tf32" if kind == "tf32" else "ieee",
        )
        x, w = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        right = w.T if turned else w
        wanted = x.double() @ right.double() if n <= 4096 else x.float() @ right.float()
        error = self.difference(executable(x, w), wanted)
        out = torch.empty(n, n, device="cuda", dtype=dtype)
        self.pair(f"GEMM {n} {kind}{' x w.T' if turned else ''}", executable._latest().loaded,
                  lambda: torch.mm(x, right, out=out), flops=2.0 * n**3, error=error,
                  repeats=10 if n > 4096 else 20)

    def rows_of_numbers(self) -> None:
        torch, functional = self.torch, self.torch.nn.functional
        for m, n in ((8192, 1024), (4096, 8192), (65536, 256)):
            x = torch.randn(m, n, device="cuda")
            program = program_of(parse_kernel(SOFTMAX.format(m=m, n=n)))
            error = self.difference(program.call(x), torch.softmax(x.double(), -1))
            out = torch.empty_like(x)
            self.pair(f"softmax {m}x{n}", program,
                      lambda x=x, out=out: torch.softmax(x, -1, out=out),
                      nbytes=8.0 * m * n, error=error)
            g, b = torch.randn(n, device="cuda"), torch.randn(n, device="cuda")
            program = program_of(parse_kernel(LAYER_NORM.format(m=m, n=n)))
            wanted = functional.layer_norm(x.double(), (n,), g.double(), b.double())
            self.pair(f"layer norm {m}x{n}", program,
                      lambda x=x, g=g, b=b, n=n: functional.layer_norm(x, (n,), g, b),
                      nbytes=8.0 * m * n, error=self.difference(program.call(x, g, b), wanted))

    def copies(self) -> None:
        torch = self.torch
        n = 1 << 27
        x, y = torch.randn(n, device="cuda"), torch.empty(n, device="cuda")
        program = program_of(parse_kernel(COPY.format(n=n)))
        self.pair("copy 512 MiB", program, lambda: y.copy_(x), nbytes=8.0 * n,
                  error=self.difference(program.call(x), x))

    def attention(self) -> None:
        torch, functional = self.torch, self.torch.nn.functional
        for b, h, n in ((4, 16, 1024), (2, 16, 4096)):
            q, k, v = (torch.randn(b, h, n, 64, device="cuda") for _ in range(3))
            for kind in ("ieee", "tf32"):
                torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
                text = ATTENTION.format(b=b, h=h, n=n)
                program = program_of(parse_kernel(text), precision=kind)
                wanted = functional.scaled_dot_product_attention(
                    *(t[:1, :2].double() for t in (q, k, v)), is_causal=True)
                result = torch.from_dlpack(program.call(q, k, v))[:1, :2].double()
                self.pair(
                    f"causal attention {b}x{h}x{n}x64 f32 {kind}", program,
                    lambda q=q, k=k, v=v: functional.scaled_dot_product_attention(
                        q, k, v, is_causal=True),
                    flops=2.0 * b * h * n * n * 64,
                    error=float((result - wanted).norm() / wanted.norm()))

    def calls(self, name: str, step: Any, images: Any, labels: Any) -> None:
        """A whole call from Python, with arguments on the device and on the host."""
        for where, args in (("device", (images, labels)),
                            ("host", (images.cpu().numpy(), labels.cpu().numpy()))):
            for _ in range(5):
                step(*args)
            self.device.synchronize()
            begin = time.perf_counter()
            for _ in range(100):
                step(*args)
            self.device.synchronize()
            seconds = (time.perf_counter() - begin) / 100
            row = {"name": f"{name}, a call from Python, arguments on the {where}",
                   "graphc_us": seconds * 1e6}
            self.rows.append(row)
            print(row, flush=True)

    def steps(self) -> None:
        for batch in (64, 1024):
            self.step(batch)

    def step(self, batch: int) -> None:
        """An MLP's training step beside torch's, eager and as a replayed CUDA graph."""
        torch = self.torch
        torch.backends.cuda.matmul.allow_tf32 = False
        gc.manual_seed(0)
        x, y = gc.observed("x", (batch, 784)), gc.observed("y", (batch,), gc.int64)
        net = nn.Linear(784, 512) >> nn.ReLU() >> nn.Linear(512, 512) >> nn.ReLU()
        net = net >> nn.Linear(512, 10)
        loss = nn.CrossEntropyLoss()(net(x), y)
        step = gc.compile([x, y], loss, optim.Adam(lr=1e-3).minimize(loss), backend="triton")
        images = torch.randn(batch, 784, device="cuda")
        labels = torch.randint(0, 10, (batch,), device="cuda")
        mine = [float(step(images, labels)) for _ in range(5)]
        model, call = _torch_step(torch, net, images, labels)
        peers = [float(call()) for _ in range(5)]
        error = max(abs(a - b) for a, b in zip(mine[1:], peers[1:], strict=False))
        program = step._latest().loaded
        self.pair(f"MLP step, batch {batch}, torch eager", program, call, error=error)
        self.calls(f"MLP step, batch {batch}", step, images, labels)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        self.pair(f"MLP step, batch {batch}, torch CUDA graph", program, graph.replay,
                  error=error)
        del model


def _torch_step(torch: Any, net: Any, images: Any, labels: Any) -> tuple[Any, Callable[[], Any]]:
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    ).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=True, fused=True)
    cost = torch.nn.CrossEntropyLoss()

    def call() -> Any:
        optimizer.zero_grad(set_to_none=False)
        value = cost(model(images), labels)
        value.backward()
        optimizer.step()
        return value.detach()

    del net
    return model, call


PARTS = ("copies", "rows_of_numbers", "steps", "products", "attention")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the numbers as JSON.")
@click.argument("parts", nargs=-1)
def main(out: Path | None, parts: tuple[str, ...]) -> None:
    """Measure PARTS (all where none is given) on the first CUDA device."""
    bench = Bench()
    failures = {}
    for part in parts or PARTS:
        try:
            getattr(bench, part)()
        except Exception as error:  # one part must not take the others with it
            failures[part] = repr(error)
            print(f"{part}: {error!r}", flush=True)
        if out is not None:
            known = {"device": bench.device.name, "rows": bench.rows, "failures": failures}
            out.write_text(json.dumps(known, indent=1))
    np.testing.assert_equal(failures, {})


if __name__ == "__main__":
    main()
