"""Hand-written kernels for the runtime's tests: LLVM text by the kernels' ABI, and their Kernel IR.

Each entry of ``KERNELS`` is a Kernel and the body of one block; block ``b`` works on its own
elements only.
"""

from __future__ import annotations

import functools
from typing import Any

from graphc.backends.llvm.loader import compile_cached
from graphc.backends.llvm.runtime import CompiledKernel, Program
from graphc.memory import StateBuffer
from graphc.schedule_text import parse_schedule
from graphc.schedule_verify import verify_schedule
from graphc.types import Dim, Extent

BLOCK = 64  # elements of a block
N = Dim("n", specialize=False)


def _slots(*names: str) -> str:
    lines = []
    for number, name in enumerate(names):
        kind = "i64" if name in ("n", "base") else "ptr"
        lines.append(f"  %{name}.p = getelementptr i64, ptr %args, i64 {number}")
        lines.append(f"  %{name} = load {kind}, ptr %{name}.p, align 8")
    return "\n".join(lines)


def elementwise(symbol: str, slots: str, body: str) -> str:
    """A loop over the elements of the blocks; ``body`` computes element ``%i``."""
    return f"""
declare i64 @llvm.umin.i64(i64, i64)
declare float @llvm.fma.f32(float, float, float)
define void @{symbol}(ptr %args, i64 %begin, i64 %end, ptr %worker) nounwind {{
entry:
{_slots(*slots.split())}
  %first = mul i64 %begin, {BLOCK}
  %wide = mul i64 %end, {BLOCK}
  %last = call i64 @llvm.umin.i64(i64 %wide, i64 %n)
  br label %look
look:
  %i = phi i64 [ %first, %entry ], [ %i1, %done ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %work, label %out
work:
{body}
  br label %done
done:
  %i1 = add i64 %i, 1
  br label %look
out:
  ret void
}}
"""


def _load(name: str) -> str:
    return f"""  %{name}.e = getelementptr float, ptr %{name}, i64 %i
  %{name}.v = load float, ptr %{name}.e, align 4"""


def _store(name: str, value: str) -> str:
    return f"""  %{name}.e = getelementptr float, ptr %{name}, i64 %i
  store float {value}, ptr %{name}.e, align 4"""


#: name -> (Kernel IR, argument slots, LLVM body)
SOURCES: dict[str, tuple[str, str, str]] = {
    "add": (
        """kernel add
  size n 1..
  axes i:n
  in x f32[n], y f32[n]
  out z f32[n]
  a = load x[i]
  b = load y[i]
  store z[i] = a + b
""",
        "x y z n",
        f"{_load('x')}\n{_load('y')}\n  %r = fadd float %x.v, %y.v\n{_store('z', '%r')}",
    ),
    "double": (
        """kernel double
  size n 1..
  axes i:n
  in x f32[n]
  out z f32[n]
  a = load x[i]
  store z[i] = a * 2.0
""",
        "x z n",
        f"{_load('x')}\n  %r = fmul float %x.v, 2.0\n{_store('z', '%r')}",
    ),
    "positive": (  # checks every element, copies it where it holds
        """kernel positive
  size n 1..
  axes i:n
  in x f32[n]
  out z f32[n]
  a = load x[i]
  ok = a > 0.0
  check ok "x must be positive"
  store z[i] = a
""",
        "x z n errors base",
        f"""{_load("x")}
{_store("z", "%x.v")}
  %ok = fcmp ogt float %x.v, 0.0
  br i1 %ok, label %done, label %bad
bad:
  %code = add i64 %base, 1
  %swap = cmpxchg ptr %errors, i64 0, i64 %code seq_cst seq_cst""",
    ),
    "add_counter": (  # z = x + counter
        """kernel add_counter
  size n 1..
  scalar t i64
  axes i:n
  in x f32[n]
  out z f32[n]
  a = load x[i]
  store z[i] = a + f32(t)
""",
        "x z n t",
        f"""{_load("x")}
  %t.v = load i64, ptr %t, align 8
  %t.f = sitofp i64 %t.v to float
  %r = fadd float %x.v, %t.f
{_store("z", "%r")}""",
    ),
    "below": (  # a predicate: x[0] < y[0]
        """kernel below
  size n 1..
  axes i:1
  in x f32[n], y f32[n]
  out z bool[]
  a = load x[0]
  b = load y[0]
  store z[] = a < b
""",
        "x y z n",
        """  %a = load float, ptr %x, align 4
  %b = load float, ptr %y, align 4
  %r = fcmp olt float %a, %b
  %r8 = zext i1 %r to i8
  store i8 %r8, ptr %z, align 1""",
    ),
}


@functools.cache
def compiled(name: str) -> CompiledKernel:
    _, slots, body = SOURCES[name]
    ir = elementwise(f"test_{name}", slots, body)
    grid: Extent = 1 if name == "below" else (N + (BLOCK - 1)) // BLOCK
    return CompiledKernel(f"test_{name}", compile_cached(ir), grid)


def load(text: str, *names: str, **options: Any) -> Program:
    """The program of a schedule's text without its kernels, which are named apart."""
    kernels = "\n".join(SOURCES[name][0] for name in names)
    head, body = text.split("run {", 1)
    schedule = parse_schedule(f"{head}\n{kernels}\nrun {{{body}")
    verify_schedule(schedule)
    return Program(schedule, {name: compiled(name) for name in names}, **options)


ADD = """schedule add
argument x f32[{n}] argument y f32[{n}] output z f32[{n}]
run {{ launch add(x, y -> z) sizes({n}) }}"""

#: h = double(x + y) through the arena, for run-time sizes, with enough work for several threads
CHAIN = """schedule chain size n 1..
argument x f32[n] argument y f32[n] output z f32[n] arena h f32[n] at 0
run { launch add(x, y -> h) sizes(n) barrier launch double(h -> z) sizes(n) }"""

#: w += x, unless an element of x is not positive; returns the old w
UPDATE = """schedule update
argument x f32[{n}] output old f32[{n}] state w f32[{n}]
arena new f32[{n}] at 0 arena checked f32[{n}] at {offset}
check 0 "x must be positive" source "model.py":3
run {{
  launch positive(x -> checked) sizes({n})
  copy w -> old
  barrier
  launch add(w, checked -> new) sizes({n})
  commit
  copy new -> w
}}"""


def update(n: int, state: StateBuffer) -> Program:
    offset = -(-4 * n // 64) * 64
    return load(UPDATE.format(n=n, offset=offset), "positive", "add", states={"w": state})
