"""Run one compiled kernel on NumPy arrays, block range by block range, without a schedule."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from graphc.backends.llvm import codegen
from graphc.backends.llvm.compiler import compile_kernel
from graphc.backends.llvm.runtime import CompiledKernel
from graphc.backends.llvm.target import Target, host_target
from graphc.kernel.terms import Kernel
from graphc.nest import Tiling
from graphc.types import Dim, Extent, evaluate

Arrays = dict[str, Any]

#: what output memory holds before a kernel runs: whatever is not written shows
POISON = 0xA5


def run_kernel(
    kernel: Kernel,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, int] | None = None,
    scalars: Mapping[str, Any] | None = None,
    tiling: Tiling | None = None,
    target: Target | None = None,
    pieces: int = 3,
) -> tuple[Arrays, int]:
    """The outputs, and the number of the check that failed (0: none). ``pieces`` ranges run last
    one first.
    """
    compiled = compile_kernel(kernel, target or host_target(), tiling)
    bound = dict(sizes or {})
    dims = {
        Dim(s.name, min=s.min, max=s.max, multiple_of=s.multiple_of, specialize=False): bound[
            s.name
        ]
        for s in kernel.sizes
    }

    def known(extent: Extent) -> int:
        value = evaluate(extent, dims)
        return (
            value
            if isinstance(value, int)
            else int(value.evaluate({d: bound[d.name] for d in value.dims}))
        )

    held = [aligned(inputs[t.name], t.type.dtype.numpy) for t in kernel.inputs]
    outputs = {
        t.name: poisoned(tuple(known(e) for e in t.type.shape), t.type.dtype.numpy)
        for t in kernel.outputs
    }
    cells = [np.array(dict(scalars or {})[s.name], dtype=s.dtype.numpy) for s in kernel.scalars]
    error = np.zeros(8, np.int64)
    slots = [a.ctypes.data for a in held] + [a.ctypes.data for a in outputs.values()]
    slots += [bound[s.name] for s in kernel.sizes] + [c.ctypes.data for c in cells]
    slots += [error.ctypes.data, 0]
    table = (ctypes.c_int64 * len(slots))(*slots)
    scratch = poisoned((known(compiled.scratch_bytes) + 64,), np.dtype(np.uint8))
    worker = (ctypes.c_int64 * 2)(scratch.ctypes.data, 0)
    run = _entry(compiled)
    grid = known(compiled.grid)
    marks = [grid * n // pieces for n in range(pieces + 1)]
    for begin, end in reversed(list(pairwise(marks))):
        run(ctypes.addressof(table), begin, end, ctypes.addressof(worker))
    return outputs, int(error[0])


def _entry(compiled: CompiledKernel) -> Any:
    library = codegen.link([compiled.object], [compiled.symbol])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    function = kind(library.addresses[compiled.symbol])
    function.library = library  # the code lives as long as the function
    return function


def aligned(array: Any, dtype: np.dtype[Any]) -> Any:
    """A copy that starts at a multiple of 64 bytes and ends where its memory does."""
    values = np.ascontiguousarray(array, dtype=dtype)
    copy = poisoned(values.shape, dtype)
    copy[...] = values
    return copy


def poisoned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    nbytes = max(1, int(np.prod(shape)) * dtype.itemsize)
    raw = np.full(nbytes + 64, POISON, np.uint8)
    start = -raw.ctypes.data % 64
    count = int(np.prod(shape))
    return raw[start : start + nbytes][: count * dtype.itemsize].view(dtype).reshape(shape)
