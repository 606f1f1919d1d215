"""Run one kernel in Triton's interpreter, without a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphc.backends.triton.emit import CHECK_LIMIT, Emitted, emit_kernel
from graphc.backends.triton.prepare import prepare
from graphc.backends.triton.tiling import GpuTiling, choose_tiling
from graphc.kernel.terms import Kernel
from graphc.types import Dim, Extent
from tests.triton.interpreter import run

POISON = 0xA5


def run_kernel(
    kernel: Kernel,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, int] | None = None,
    scalars: Mapping[str, Any] | None = None,
    tiling: GpuTiling | None = None,
    *,
    directory: Path,
    guarded: bool = False,
    error: int = 0,
) -> tuple[dict[str, Any], int]:
    """The outputs, and the number of the check that failed (0: none)."""
    if tiling is None:
        kernel = prepare(kernel)
        tiling = choose_tiling(kernel)
    emitted = emit_kernel(kernel, tiling, guarded=guarded)
    bound = dict(sizes or {})
    outputs = {
        t.name: poisoned(tuple(known(e, bound) for e in t.type.shape), t.type.dtype.numpy)
        for t in kernel.outputs
    }
    word = np.array([error], np.int64)
    values: list[Any] = [padded(inputs[t.name], t.type.dtype.numpy) for t in kernel.inputs]
    values += [*outputs.values(), *(bound[s.name] for s in kernel.sizes)]
    given = dict(scalars or {})
    values += [np.array([given[s.name]], s.dtype.numpy) for s in kernel.scalars]
    if kernel.checks:
        values += [word, 0]
    if guarded:
        values.append(word)
    run(emitted.text, emitted.symbol, grid_of(emitted, bound), values, directory)
    return outputs, int(CHECK_LIMIT - word[0] + 1) if word[0] else 0


def grid_of(emitted: Emitted, sizes: Mapping[str, int]) -> int:
    return known(emitted.grid, sizes)


def known(extent: Extent, sizes: Mapping[str, int]) -> int:
    if isinstance(extent, int):
        return extent
    if isinstance(extent, Dim):
        return sizes[extent.name]
    value = extent.evaluate({d: sizes[d.name] for d in extent.dims})
    assert isinstance(value, int)
    return value


def padded(array: Any, dtype: Any) -> Any:
    values = np.ascontiguousarray(array, dtype=dtype)
    copy = poisoned(values.shape, dtype)
    copy[...] = values
    return copy


def poisoned(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory between red zones; what is not written shows."""
    count = int(np.prod(shape))
    raw = np.full(count * dtype.itemsize + 256, POISON, np.uint8)
    start = -raw.ctypes.data % 64 + 64
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
