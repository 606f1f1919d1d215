"""Arrays on the device: results of calls, and what DLPack hands in.

An ``Array`` owns its memory and gives it back to a pool when it dies. NumPy gets a copy
(``numpy()``, ``np.asarray``); other libraries share the memory by DLPack.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.backends.triton.driver import Driver
from graphc.errors import BindError, OutOfMemoryError
from graphc.memory import address_of
from graphc.records import dataclass
from graphc.types import DType, TensorType, dtype_of

__all__ = ["Array", "Pool", "Shared", "is_device_array", "take"]

_CUDA = 2
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4


class Pool:
    """Device memory by size, used again in the stream's order, and after what the default stream
    had when memory came back that another library has seen.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._free: dict[int, list[int]] = {}
        self._seen = False
        self._lock = threading.RLock()  # an array may die while it is held
        weakref.finalize(self, _empty, driver, self._free)

    def take(self, nbytes: int) -> int:
        size = max(256, 1 << max(0, nbytes - 1).bit_length())
        with self._lock:
            kept = self._free.get(size)
            if kept:
                if self._seen:
                    self._seen = False
                    self.driver.follow()
                return kept.pop()
        try:
            return self.driver.allocate(size, "an output")
        except OutOfMemoryError:
            if not self.release():
                raise
            return self.driver.allocate(size, "an output")

    def release(self) -> bool:
        """Give all that is free back to the device; whether there was anything."""
        with self._lock:
            return _empty(self.driver, self._free)

    def give(self, address: int, nbytes: int, seen: bool = False) -> None:
        """Take memory back; ``seen`` is what another library may still be reading."""
        size = max(256, 1 << max(0, nbytes - 1).bit_length())
        with self._lock:
            self._seen = self._seen or seen
            self._free.setdefault(size, []).append(address)


def _empty(driver: Driver, free: dict[int, list[int]]) -> bool:
    idle = [address for kept in free.values() for address in kept]
    free.clear()
    if idle and not driver.closed:
        driver.synchronize("releasing memory")
        for address in idle:
            driver.free(address)
    return bool(idle)


class Array:
    """A dense array on the device; ``np.asarray(a)``, ``a.numpy()`` and ``float(a)`` copy it.

    Its memory is the pool's, or that of an array which was donated (``given``).
    """

    def __init__(self, pool: Pool, type_: TensorType, given: Shared | None = None) -> None:
        self.shape = tuple(e for e in type_.shape if isinstance(e, int))
        self._type, self._pool = type_, pool
        self.nbytes = math.prod(self.shape) * type_.dtype.itemsize
        self._given, self._seen = given, False
        self.address = pool.take(self.nbytes) if given is None else given.address

    def __del__(self) -> None:
        if self._given is None and hasattr(self, "address"):
            self._pool.give(self.address, self.nbytes, self._seen)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._type.dtype.numpy

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> str:
        return "cuda"

    def numpy(self) -> NDArray[Any]:
        """A copy on the host, once the computation is done."""
        made = np.empty(self.shape, self.dtype)
        self._pool.driver.copy_out(address_of(made), self.address, self.nbytes)
        self._pool.driver.synchronize("reading an output")
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array on the device cannot be seen without a copy")
        made = self.numpy()
        return made if dtype is None else made.astype(dtype, copy=False)

    def item(self) -> Any:
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        return f"<array {self._type} on cuda>"

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, 0

    def __dlpack__(self, *, stream: object = None, **_: object) -> object:
        """Share the memory; what is computed into it is done by then."""
        self._seen = True
        self._pool.driver.synchronize("sharing an output")
        return _export(self, self._type.dtype)


# ---- DLPack


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_uint64),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = (
    ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
)  # fmt: skip
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

#: what shared memory needs until its user lets go, by the address of its description
_shared: dict[int, tuple[object, ...]] = {}


@_Deleter  # type: ignore[untyped-decorator]
def _forget(managed: Any) -> None:
    _shared.pop(ctypes.addressof(managed.contents), None)


def _export(array: Array, dtype: DType) -> object:
    shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
    code = _BFLOAT if dtype.short == "bf16" else _CODES[dtype.kind]
    managed = _Managed()
    managed.tensor = _Tensor(
        array.address, _CUDA, 0, array.ndim, code, 8 * dtype.itemsize, 1, shape, None, 0
    )
    managed.deleter = _forget
    _shared[ctypes.addressof(managed)] = (managed, array, shape)
    return _new_capsule(ctypes.addressof(managed), b"dltensor", None)


def is_device_array(value: object) -> bool:
    """Whether a value is an array on a CUDA device, by DLPack; ``take`` says which.

    >>> is_device_array(np.zeros(3))
    False
    """
    ask = getattr(value, "__dlpack_device__", None)
    return ask is not None and int(ask()[0]) == _CUDA


@dataclass(frozen=True)
class Shared:
    """Another library's memory: where it lies, what it holds, and what keeps it alive."""

    address: int
    type: TensorType
    owner: object


def take(value: Any, name: str, stream: int | None = None) -> Shared:
    """The memory of a device array. BindError for strided ones and unknown element types.

    What its owner is still computing is done before anything that ``stream`` (the driver's handle)
    runs from now on; without one only its type may be looked at.
    """
    device = getattr(value, "__dlpack_device__", lambda: (_CUDA, 0))()
    if int(device[1]) != 0:
        raise BindError(
            f"{name!r} lies on cuda:{int(device[1])}, the program runs on cuda:0: move it there"
        )
    if isinstance(value, Array):
        owner = value if value._given is None else value._given.owner
        return Shared(value.address, TensorType(dtype_of(value.dtype), value.shape), owner)
    capsule = value.__dlpack__() if stream is None else value.__dlpack__(stream=stream)
    managed = ctypes.cast(_pointer_of(capsule, b"dltensor"), ctypes.POINTER(_Managed)).contents
    tensor = managed.tensor
    shape = tuple(tensor.shape[n] for n in range(tensor.ndim))
    dtype = _dtype(tensor.code, tensor.bits)
    if dtype is None or tensor.lanes != 1:
        raise BindError(f"{name!r}: an array of an element type that graphc does not have")
    if tensor.strides and not _is_dense(shape, [tensor.strides[n] for n in range(tensor.ndim)]):
        raise BindError(f"{name!r}: a strided array; make it contiguous first")
    return Shared(tensor.data + tensor.byte_offset, TensorType(dtype, shape), (capsule, value))


def _dtype(code: int, bits: int) -> DType | None:
    kinds = {number: kind for kind, number in _CODES.items()}
    if code == _BFLOAT and bits == 16:
        return dtype_of("bf16")
    try:
        return dtype_of("bool" if kinds[code] == "b" else f"{kinds[code]}{bits}")
    except (KeyError, TypeError):
        return None


def _is_dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    step = 1
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True
