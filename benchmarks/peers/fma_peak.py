"""The machine's fused multiply-add peak: a loop of independent FMAs on registers, on every thread.

Not a peer: matmul's and convolution's times are set against it, measured in the same run.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Call

#: independent accumulators: two units of latency 4 want 8, and with the factor all must stay in 16
#: registers
CHAINS = 12
#: several milliseconds a call, beside which waking the threads is nothing
ITERATIONS = 2_000_000


def versions() -> dict[str, str]:
    return {"llvmlite": llvmlite.__version__}


def _lanes(features: dict[str, bool]) -> int:
    if features.get("avx512f"):
        return 16
    return 8 if features.get("fma") else 4


def _loop_text(lanes: int) -> str:
    """acc_i = acc_i * m + m, CHAINS times an iteration; m comes from memory, so nothing folds."""
    vector = f"<{lanes} x float>"
    phis = "\n".join(
        f"  %a{i} = phi {vector} [%m, %entry], [%b{i}, %loop]" for i in range(CHAINS)
    )
    steps = "\n".join(
        f"  %b{i} = call {vector} @llvm.fma.v{lanes}f32({vector} %a{i}, {vector} %m, {vector} %m)"
        for i in range(CHAINS)
    )
    stores = "\n".join(
        f"  %p{i} = getelementptr {vector}, ptr %out, i64 {i}\n"
        f"  store {vector} %b{i}, ptr %p{i}, align 4"
        for i in range(CHAINS)
    )
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @fma_loop(ptr %in, ptr %out, i64 %n) {{
entry:
  %m = load {vector}, ptr %in, align 4
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%next, %loop]
{phis}
{steps}
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}
"""


def _peak(inputs: dict[str, NDArray[Any]], threads: int) -> Call:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    lanes = _lanes(features)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_loop_text(lanes)), machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    loop = prototype(engine.get_function_address("fma_loop"))
    factor = np.full(lanes, 0.5, np.float32)
    outs = [np.zeros((CHAINS, lanes), np.float32) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        jobs = [pool.submit(loop, factor.ctypes.data, o.ctypes.data, ITERATIONS) for o in outs]
        for job in jobs:
            job.result()

    keep_alive = engine  # the code lives as long as the engine

    def result() -> NDArray[Any]:
        run()
        return np.array([float(o.mean()) for o in outs]) if keep_alive else np.zeros(0)

    return Call(run, result)


def flops(threads: int) -> float:
    """Operations of one call."""
    return 2.0 * ITERATIONS * CHAINS * _lanes(llvm.get_host_cpu_features()) * threads


BUILDERS = {"fma_peak": _peak}
