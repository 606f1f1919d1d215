"""From IR text to addresses: one path whether the machine code comes from the cache or not.

``compile_cached`` gives object bytes, ``load`` puts objects into this process. IR holds no
absolute addresses, so an object is good for every process on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.cache import Cache, default_cache, key_of
from graphc.backends.llvm import codegen

__all__ = ["EMITTER_VERSION", "compile_cached", "load"]

#: raise it when equal IR text must not meet old objects
EMITTER_VERSION = "2"


def compile_cached(
    ir: str, machine: codegen.Machine | None = None, *, level: int = 2, cache: Cache | None = None
) -> bytes:
    """Object bytes of an IR text, from the cache where it has them."""
    machine = machine or codegen.host()
    cache = cache or default_cache()
    key = key_of(
        ir,
        machine.triple,
        machine.cpu,
        machine.features,
        str(level),
        EMITTER_VERSION,
        codegen.llvm_version,
    )
    return cache.get(key, lambda: codegen.object_of(ir, machine, level=level))


def load(objects: Sequence[bytes], symbols: Sequence[str]) -> codegen.Library:
    """Load objects; ``library.addresses[symbol]`` are valid while the library is kept.

    >>> data = compile_cached("define i64 @three() { ret i64 3 }")
    >>> library = load([data], ["three"])
    >>> import ctypes; ctypes.CFUNCTYPE(ctypes.c_int64)(library.addresses["three"])()
    3
    """
    return codegen.link(objects, symbols)
