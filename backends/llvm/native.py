"""The native runtime of this process: pool, walker and entry, compiled once, loaded once, never
unloaded.

NumPy's and Python's memory layouts that the entry relies on are compared with real objects here,
before any call.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import sysconfig
from typing import Any

import numpy as np

from graphc.backends.llvm import callable as entry
from graphc.backends.llvm import codegen, outputs, pool, pool_code, walker
from graphc.backends.llvm.layout import Layout, Record, expand
from graphc.backends.llvm.loader import compile_cached, load
from graphc.backends.llvm.outputs import RUNTIME, SIZE_CLASSES
from graphc.backends.llvm.pool import Pool
from graphc.errors import BackendError
from graphc.memory import address_of
from graphc.records import dataclass

__all__ = ["Native", "make_callable", "native", "runtime_ir", "set_threads"]

CACHED_OUTPUT_BYTES = 256 << 20  # output memory kept for later calls

_SYMBOLS = ("graphc_call", "graphc_call_into", "graphc_copy", "graphc_pool_stop", "graphc_walk")
_METH_FASTCALL_KEYWORDS = 0x80 | 0x02
# numbers of functions in NumPy's C API table; they never change
_ARRAY_TYPE, _NEW_FROM_DESCR, _SET_BASE_OBJECT = 2, 94, 282


class _MethodDefinition(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@dataclass
class Native:
    """What executables share: addresses of the runtime's functions, its record, the pool."""

    library: codegen.Library
    runtime: Record
    free_lists: Record
    pool: Pool
    methods: dict[str, _MethodDefinition]

    def address(self, symbol: str) -> int:
        return self.library.addresses[symbol]


def runtime_ir(architecture: str) -> str:
    """All of the runtime as LLVM IR for ``x86_64`` or ``aarch64``."""
    layouts = {**pool_code.LAYOUTS, **walker.LAYOUTS, **outputs.LAYOUTS, **entry.LAYOUTS}
    parts = pool_code.pool_ir(architecture), walker.WALKER_IR, outputs.OUTPUT_IR, entry.CALL_IR
    return expand("".join(parts), layouts)


@functools.cache
def native() -> Native:
    """The runtime, compiled and loaded at first use. BackendError where this Python cannot host
    it.
    """
    _check_interpreter()
    table = _numpy_functions()
    machine = codegen.host()
    library = load([compile_cached(runtime_ir(machine.architecture))], _SYMBOLS)
    free_lists = Record(Layout("list", "first"), SIZE_CLASSES)
    runtime = Record(RUNTIME)
    runtime[0, "array_type"] = table[_ARRAY_TYPE]
    runtime[0, "new_array"] = table[_NEW_FROM_DESCR]
    runtime[0, "set_base"] = table[_SET_BASE_OBJECT]
    runtime[0, "none"] = id(None)
    runtime[0, "free"] = free_lists.address
    runtime[0, "limit"] = CACHED_OUTPUT_BYTES
    methods = {
        name: _MethodDefinition(
            name.encode(), library.addresses[name], _METH_FASTCALL_KEYWORDS, None
        )
        for name in ("graphc_call", "graphc_call_into")
    }
    made = Native(library, runtime, free_lists, Pool(pool.thread_count()), methods)
    # arrays may outlive the interpreter's modules and still give their memory back through this
    # code
    _keep_forever(made)
    _keep_forever(codegen.jit())
    os.register_at_fork(after_in_child=made.pool.reset)
    atexit.register(made.pool.stop, library.addresses["graphc_pool_stop"])
    return made


def set_threads(threads: int) -> None:
    """Use so many threads from now on, the caller included; programs bound before keep their
    shares.

    The number never changes results.
    """
    if not 1 <= threads <= pool.MAX_WORKERS + 1:
        raise BackendError(f"threads must be 1 to {pool.MAX_WORKERS + 1}, not {threads}")
    shared = native()
    shared.pool.stop(shared.address("graphc_pool_stop"))
    if shared.pool.workers:
        raise BackendError("another thread is inside an executable; try again when it is done")
    shared.pool.threads = threads
    shared.pool.reset()


def make_callable(symbol: str, handle: int, owner: object) -> Any:
    """A builtin function over a handle record at an address; it keeps ``owner`` alive."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(ctypes.addressof(native().methods[symbol]), (handle, owner), None)


def _keep_forever(thing: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _check_interpreter() -> None:
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise BackendError(f"the LLVM backend runs on 64-bit Linux, not on {sys.platform}")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise BackendError("the LLVM backend needs CPython with its global lock")
    array = np.zeros((3, 5), np.float32)[:, :4]
    words = {name: id(array) + offset for name, offset in entry.ARRAY_FIELDS.items()}
    seen = {
        "type": _word(words["type"]) == id(np.ndarray),
        "data": _word(words["data"]) == address_of(array),
        "ndim": ctypes.c_int32.from_address(words["ndim"]).value == 2,
        "dims": [_word(_word(words["dims"]) + 8 * i) for i in (0, 1)] == [3, 4],
        "descr": _word(words["descr"]) == id(array.dtype),
        "flags": ctypes.c_int32.from_address(words["flags"]).value == array.flags.num,
    }
    wrong = [name for name, fits in seen.items() if not fits]
    if wrong:
        raise BackendError(f"ndarray's layout differs in {', '.join(wrong)}: a debug build?")


def _numpy_functions() -> Any:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    table = (ctypes.c_void_p * (_SET_BASE_OBJECT + 1)).from_address(get(capsule, None))
    if table[_ARRAY_TYPE] != id(np.ndarray):
        raise BackendError("NumPy's C API table is not where it is expected")
    return table


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value
