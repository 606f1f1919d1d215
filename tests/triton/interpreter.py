"""Run generated kernels in Triton's interpreter, over NumPy arrays, in this process.

The interpreter's known faults are worked around here, each with a test in test_interpreter.py.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter as runtime
from triton.runtime.jit import JITFunction

from graphc.kernel import references
from tests.triton.sanitizer import Sanitizer

_NUMPY_TO_TRITON = {
    np.dtype(np.bool_): tl.int8, np.dtype(np.int8): tl.int8, np.dtype(np.uint8): tl.uint8,
    np.dtype(np.int32): tl.int32, np.dtype(np.uint32): tl.uint32, np.dtype(np.int64): tl.int64,
    np.dtype(np.float16): tl.float16, np.dtype(np.float32): tl.float32,
    np.dtype(np.float64): tl.float64, np.dtype(ml_dtypes.bfloat16): tl.bfloat16,
}  # fmt: skip


#: sanitizers that see every load and store
watchers: list[Sanitizer] = []


class Memory:
    """An array as the interpreter takes tensors: a duck-typed device tensor."""

    def __init__(self, array: Any) -> None:
        self.array, self.dtype = array, _NUMPY_TO_TRITON[array.dtype]

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def untyped_storage(self) -> Memory:
        return self

    def cpu(self) -> Memory:
        return self

    def copy_(self, other: Memory) -> None:
        assert other is self or other.array is self.array

    def new_empty(self, size: int, device: str) -> Memory:
        return self

    def set_(self, *_: object) -> Memory:
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.array.itemsize for s in self.array.strides)


# ---- faults


def _is_bf16(*handles: Any) -> bool:
    return any(h.dtype.scalar == tl.bfloat16 for h in handles)


def _numbers(handle: Any) -> Any:
    """A handle's values; bf16 is kept as bit patterns."""
    if handle.dtype.scalar == tl.bfloat16:
        return handle.data.view(ml_dtypes.bfloat16).astype(np.float32)
    return handle.data


def _patched(builder: type) -> dict[str, Callable[..., Any]]:
    """Methods that replace faulty ones."""
    handle = runtime.TensorHandle
    old = {name: getattr(builder, name) for name in (
        "cast_impl", "binary_op", "create_dot", "create_masked_load", "create_masked_store",
        "create_fp_to_fp", "create_splat")}

    def cast_impl(self: Any, src: Any, dst: Any) -> Any:
        if dst.scalar == tl.bfloat16:  # rounds to nearest even, as the GPU does
            bits = _numbers(src).astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
            return handle(bits, tl.bfloat16)
        if _is_bf16(src):
            return handle(_numbers(src).astype(runtime._get_np_dtype(dst)), dst.scalar)
        return old["cast_impl"](self, src, dst)

    def create_fp_to_fp(self: Any, src: Any, dst: Any, mode: Any) -> Any:
        if dst.scalar == tl.bfloat16 or _is_bf16(src):
            return cast_impl(self, src, dst)
        return handle(src.data.astype(runtime._get_np_dtype(dst)), dst.scalar)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if not _is_bf16(lhs):
            return old["binary_op"](self, lhs, rhs, op)
        out = op(_numbers(lhs), _numbers(rhs))
        if out.dtype == bool:
            return handle(out, tl.int1)
        return cast_impl(self, handle(out, tl.float32), tl.bfloat16)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        product = np.matmul(_numbers(a), _numbers(b), dtype=d.data.dtype)
        return handle(product + d.data, d.dtype.scalar)

    def truth(mask: Any) -> Any:  # a splatted int1 scalar has int32 data
        return handle(np.asarray(mask.data).astype(bool), mask.dtype)

    def watch(self: Any, kind: str, ptrs: Any, mask: Any) -> None:
        width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        for watcher in watchers:
            watcher.access(kind, ptrs.data, truth(mask).data, width, self.grid_idx[0])

    def create_masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        watch(self, "load", ptrs, mask)
        return old["create_masked_load"](self, ptrs, truth(mask), *rest)

    def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch(self, "store", ptrs, mask)
        return old["create_masked_store"](self, ptrs, value, truth(mask), *rest)

    def create_splat(self: Any, kind: Any, arg: Any) -> Any:
        made = old["create_splat"](self, kind, arg)
        if arg.dtype.scalar == tl.int1:
            made.data = made.data.astype(bool)
        return made

    def get_bf16(self: Any, value: Any) -> Any:  # constants: there are none of this type
        return cast_impl(self, handle(np.array([value], np.float32), tl.float32), tl.bfloat16)

    return {"cast_impl": cast_impl, "create_fp_to_fp": create_fp_to_fp, "get_bf16": get_bf16,
            "binary_op": binary_op, "create_dot": create_dot,
            "create_masked_load": create_masked_load, "create_masked_store": create_masked_store,
            "create_splat": create_splat}


def _call_states(self: Any, left: Sequence[Any], right: Sequence[Any], kinds: Any) -> list[Any]:
    def tensors(arrays: Sequence[Any]) -> list[Any]:
        return [self.to_tensor(np.ascontiguousarray(a), t)
                for a, t in zip(arrays, kinds, strict=True)]

    result = self.combine_fn.fn(*tensors(left), *tensors(right))
    several = result if isinstance(result, tuple) else (result,)
    return [np.broadcast_to(r.handle.data, left[0].shape) for r in several]


def _generic_reduce(self: Any, input: Any) -> Any:
    """Halves combined at once, where the interpreter calls the function element by element."""
    axis, kinds = self.axis, [t.dtype for t in input]
    arrays = [np.moveaxis(t.handle.data, axis, -1) for t in input]
    while arrays[0].shape[-1] > 1:
        arrays = _call_states(
            self, [a[..., 0::2] for a in arrays], [a[..., 1::2] for a in arrays], kinds
        )
    ends = [a[..., 0] for a in arrays]
    return [self.to_tensor(e if e.shape else e.item(), t) for e, t in zip(ends, kinds, strict=True)]


def _generic_scan(self: Any, input: Any) -> Any:
    kinds = [t.dtype for t in input]
    arrays = [np.moveaxis(t.handle.data, self.axis, -1).copy() for t in input]
    reach = 1
    while reach < arrays[0].shape[-1]:
        moved = _call_states(self, [np.roll(a, reach, -1) for a in arrays], arrays, kinds)
        pairs = zip(arrays, moved, strict=True)
        arrays = [np.concatenate([a[..., :reach], m[..., reach:]], -1) for a, m in pairs]
        reach *= 2
    return [self.to_tensor(np.ascontiguousarray(np.moveaxis(a, -1, self.axis)), t)
            for a, t in zip(arrays, kinds, strict=True)]


class _Libdevice:
    """libdevice's functions, by NumPy: the interpreter has no external functions."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args: _elementwise(name, *args)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "atan": np.arctan, "pow": np.power, "rint": np.rint, "trunc": np.trunc,
    "rsqrt": references.reciprocal_sqrt, "erf": references.erf, "erfc": references.erfc,
    "fmod": np.fmod, "copysign": np.copysign,
}  # fmt: skip


def _elementwise(name: str, *args: Any) -> Any:
    arrays = np.broadcast_arrays(*(a.handle.data for a in args))
    function = _FUNCTIONS.get(name) or getattr(np, name)
    data = np.asarray(function(*arrays)).astype(arrays[0].dtype)
    kind = args[0].dtype
    shaped = max((a.type for a in args), key=lambda t: len(getattr(t, "shape", ())))
    if shaped.is_block():
        return tl.core.tensor(runtime.TensorHandle(data, kind), tl.block_type(kind, shaped.shape))
    return tl.core.tensor(runtime.TensorHandle(data, kind), kind)


def _patch_tensor(old: Callable[..., Any]) -> Callable[..., Any]:
    def patch(tensor: Any, scope: Any) -> None:
        old(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))

    return patch


@contextmanager
def interpreting() -> Any:
    """Triton's language runs on NumPy inside; everything is put back after it."""
    functions: dict[int, Any] = {}

    def call(function: Any, *args: Any, **named: Any) -> Any:
        key = id(function)
        if key not in functions:
            functions[key] = runtime.InterpretedFunction(function.fn)
        return functions[key](*args, **named)

    device = importlib.import_module("graphc.backends.triton.device")
    places = [(runtime.InterpreterBuilder, n, f)
              for n, f in _patched(runtime.InterpreterBuilder).items()]
    places += [
        (runtime, "_patch_lang_tensor", _patch_tensor(runtime._patch_lang_tensor)),
        (runtime.ReduceOps, "generic_reduce", _generic_reduce),
        (runtime.ScanOps, "generic_scan", _generic_scan),
        (JITFunction, "__call__", call),
        (device, "libdevice", _Libdevice()),
    ]
    kept = [(o, dict(vars(o))) for o in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor, tl.dtype,
                                         tl.core.tensor_descriptor_base, JITFunction)]
    before = [(o, n, getattr(o, n, None)) for o, n, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        for owner, names in kept:
            for name in [n for n in vars(owner) if n not in names]:
                delattr(owner, name)
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def load_module(text: str, directory: Path) -> ModuleType:
    """The generated source as a module, from a file in the directory."""
    name = f"generated_{abs(hash(text)):x}"
    path = directory / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(text: str, symbol: str, grid: int, arguments: Sequence[Any], directory: Path) -> None:
    """Run a kernel over its whole grid, watched; arrays are written in place."""
    sanitizer = Sanitizer([a for a in arguments if isinstance(a, np.ndarray)])
    watchers.append(sanitizer)
    try:
        _run(text, symbol, grid, arguments, directory)
    finally:
        watchers.remove(sanitizer)
    assert not sanitizer.races, sanitizer.races[:3]


def _run(text: str, symbol: str, grid: int, arguments: Sequence[Any], directory: Path) -> None:
    module = load_module(text, directory)
    module.libdevice = _Libdevice()  # type: ignore[attr-defined]
    function = getattr(module, symbol)
    wrapped = [Memory(a) if isinstance(a, np.ndarray) else a for a in arguments]
    with interpreting():
        runner = runtime.InterpretedFunction(function.fn)
        runner.run(*wrapped, grid=(grid,), warmup=False)
