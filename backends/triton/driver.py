"""The CUDA driver by ctypes: memory, modules, graphs, events. It knows no kernels, no programs.

Structures and constants are those of ``cuda.h`` (12.0 and newer). Every call's result is checked;
an error says what was tried and the driver's own words. The library is looked for when the first
``Driver`` is made. Tests replace the class by one that records and runs on the host.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import BackendError, OutOfMemoryError
from graphc.records import dataclass

__all__ = ["Driver", "Function", "Parameters", "Ready", "driver", "unavailable"]

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_MULTIPROCESSORS, _MAJOR, _MINOR, _SHARED_OPT_IN = 16, 75, 76, 97
_MAX_DYNAMIC_SHARED = 8
_STREAM_NON_BLOCKING = 1
_OUT_OF_MEMORY = 2
_LEAST_VERSION = 12_000
#: the stream that other libraries use unless told otherwise
_DEFAULT_STREAM = 1
_EVENT_WITHOUT_TIME = 2


class _KernelNode(ctypes.Structure):
    _fields_ = [
        ("function", _POINTER),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("parameters", ctypes.POINTER(_POINTER)),
        ("extra", _POINTER),
        ("kernel", _POINTER),
        ("context", _POINTER),
    ]


class _MemsetNode(ctypes.Structure):
    _fields_ = [
        ("target", ctypes.c_uint64),
        ("pitch", ctypes.c_size_t),
        ("value", ctypes.c_uint),
        ("element_bytes", ctypes.c_uint),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    ]


@dataclass(frozen=True)
class Function:
    """A loaded kernel: the driver's handle, threads of a block, bytes of shared memory, and the
    module that it is in.
    """

    handle: Any
    threads: int
    shared: int
    module: Any = None


@dataclass(frozen=True)
class Ready:
    """A graph that can be launched, and the description it was made from, whose nodes name what is
    changed in it.
    """

    handle: Any
    description: Any


class Parameters:
    """A kernel's parameter block: 8-byte words with their addresses, as the driver takes them."""

    def __init__(self, words: Sequence[int]) -> None:
        self._count = len(words)
        self._values = (ctypes.c_uint64 * max(1, len(words)))(*(w & (2**64 - 1) for w in words))
        start = ctypes.addressof(self._values)
        self.pointers = (_POINTER * max(1, len(words)))(
            *(start + 8 * n for n in range(len(words)))
        )

    @property
    def words(self) -> tuple[int, ...]:
        return tuple(self._values[: self._count])

    def put(self, place: int, word: int) -> None:
        """Change a word; the driver copies them all when it is given the block."""
        self._values[place] = word


def unavailable() -> str | None:
    """Why no CUDA device can be used, None where one can."""
    try:
        driver()
    except BackendError as error:
        return error.message
    return None


@functools.cache
def driver() -> Driver:
    """The driver of this process, on its first device. BackendError where there is none."""
    return Driver()


class Driver:
    """One CUDA device: its primary context and one stream, on which everything is ordered."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise BackendError(f"no CUDA driver: {error}") from error
        self._call("cuInit", 0)
        version, device, count = _INT(), _INT(), _INT()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        if version.value < _LEAST_VERSION:
            found = f"{version.value // 1000}.{version.value % 1000 // 10}"
            raise BackendError(f"the CUDA driver is for CUDA {found}; 12.0 is the least")
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise BackendError("there is no CUDA device")
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        self._context, self._stream = _POINTER(), _POINTER()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._local = threading.local()
        self._closing: Any = None
        self._enter()
        self._call("cuStreamCreate", ctypes.byref(self._stream), _STREAM_NON_BLOCKING)
        # at the interpreter's end it comes last of what was made with it: it was made first
        self._closing = weakref.finalize(
            self, _close, self._library, self._context, self._stream, device
        )
        major, minor = self._attribute(_MAJOR), self._attribute(_MINOR)
        self.capability = 10 * major + minor
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.shared_limit = self._attribute(_SHARED_OPT_IN)

    def _call(self, name: str, *args: Any, doing: str = "") -> None:
        code = getattr(self._library, name)(*args)
        if code == 0:
            return
        words = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(words))
        said = words.value.decode() if words.value else f"error {code}"
        what = f"{doing}: " if doing else ""
        if code == _OUT_OF_MEMORY:
            hint = "free something, or use smaller sizes"
            raise OutOfMemoryError(f"{what}{name}: {said}; {hint}")
        raise BackendError(f"{what}{name}: {said}")

    @property
    def closed(self) -> bool:
        """Whether the interpreter has ended: the context is gone, with all that was in it."""
        return self._closing is not None and not self._closing.alive

    def _enter(self) -> None:
        """Contexts belong to threads."""
        if self.closed:
            raise BackendError("the CUDA driver was closed: the interpreter has ended")
        if not getattr(self._local, "entered", False):
            self._call("cuCtxSetCurrent", self._context)
            self._local.entered = True

    def _attribute(self, number: int) -> int:
        value = _INT()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    @functools.cached_property
    def name(self) -> str:
        """The device's name, as the driver gives it."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        return text.value.decode()

    @property
    def stream(self) -> int:
        """The handle of the stream, for others to wait on."""
        return int(self._stream.value or 0)

    # -- memory
    def allocate(self, nbytes: int, doing: str = "") -> int:
        """The address of device memory, aligned to 256 bytes, zero at first."""
        self._enter()
        address = ctypes.c_uint64()
        size = ctypes.c_size_t(max(nbytes, 1))
        self._call("cuMemAlloc_v2", ctypes.byref(address), size, doing=doing)
        self._call("cuMemsetD8Async", address, ctypes.c_ubyte(0), size, self._stream)
        return address.value

    def free(self, address: int) -> None:
        self._enter()
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def host_array(self, nbytes: int) -> NDArray[np.uint8]:
        """Pinned host memory, until ``free_host``."""
        self._enter()
        address = _POINTER()
        size = max(nbytes, 1)
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        assert address.value is not None
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value))

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Give pinned memory back; nobody may look at the array any more."""
        self._enter()
        self._call("cuMemFreeHost", _POINTER(array.__array_interface__["data"][0]))

    def set_word(self, target: int, value: int) -> None:
        """Set an 8-byte word whose upper half is zero to a number below 2**32, in order."""
        self._enter()
        self._call("cuMemsetD32Async", ctypes.c_uint64(target), ctypes.c_uint(value),
                   ctypes.c_size_t(1), self._stream)

    def clear(self, target: int, nbytes: int) -> None:
        """Set bytes to zero, in the stream's order."""
        self._enter()
        self._call("cuMemsetD8Async", ctypes.c_uint64(target), ctypes.c_ubyte(0),
                   ctypes.c_size_t(nbytes), self._stream)

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Host to device, in the stream's order."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(target), _POINTER(source), nbytes)

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Device to host, in the stream's order; ``synchronize`` before reading."""
        self._copy("cuMemcpyDtoHAsync_v2", _POINTER(target), ctypes.c_uint64(source), nbytes)

    def copy_within(self, target: int, source: int, nbytes: int) -> None:
        """Device to device, in the stream's order."""
        ends = ctypes.c_uint64(target), ctypes.c_uint64(source)
        self._copy("cuMemcpyDtoDAsync_v2", *ends, nbytes)

    def _copy(self, name: str, target: Any, source: Any, nbytes: int) -> None:
        self._enter()
        if nbytes:
            self._call(name, target, source, ctypes.c_size_t(nbytes), self._stream)

    def synchronize(self, doing: str = "") -> None:
        """Wait until everything so far is done; an error of any of it shows here."""
        self._enter()
        self._call("cuStreamSynchronize", self._stream, doing=doing)

    # -- kernels
    def load(self, kernel: Any) -> Function:
        """A compiled kernel's function, ready to run."""
        self._enter()
        code, doing = kernel.code, f"kernel {kernel.name}"
        if code.shared > self.shared_limit:
            raise BackendError(
                f"{doing} needs {code.shared:,} bytes of shared memory, the device has "
                f"{self.shared_limit:,}"
            )
        module, function = _POINTER(), _POINTER()
        self._call("cuModuleLoadData", ctypes.byref(module), code.binary, doing=doing)
        made = Function(function, 32 * code.warps, code.shared, module)
        try:
            self._call("cuModuleGetFunction", ctypes.byref(function), module,
                       code.symbol.encode(), doing=doing)
            if code.shared > 48 * 1024:
                self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, code.shared)
        except BackendError:
            self.unload(made)
            raise
        return made

    def unload(self, function: Function) -> None:
        """Give a kernel's code back; nothing that runs it may be left."""
        self._enter()
        self._call("cuModuleUnload", function.module)

    def launch(self, function: Function, grid: int, parameters: Parameters, doing: str) -> None:
        """Run a kernel now, in the stream's order."""
        self._enter()
        self._call("cuLaunchKernel", function.handle, grid, 1, 1, function.threads, 1, 1,
                   function.shared, self._stream, parameters.pointers, None, doing=doing)

    # -- graphs
    def new_graph(self) -> Any:
        self._enter()
        graph = _POINTER()
        self._call("cuGraphCreate", ctypes.byref(graph), 0)
        return graph

    def add_kernel(
        self, graph: Any, after: Sequence[Any], function: Function, grid: int,
        parameters: Parameters, doing: str,
    ) -> Any:
        """A node that runs a kernel once the nodes ``after`` are done."""
        node, described = _POINTER(), _kernel_node(function, grid, parameters)
        self._call("cuGraphAddKernelNode_v2", ctypes.byref(node), graph, _nodes(after),
                   ctypes.c_size_t(len(after)), ctypes.byref(described), doing=doing)
        return node

    def update_kernel(
        self, graph: Ready, node: Any, function: Function, grid: int, parameters: Parameters,
        doing: str,
    ) -> None:
        """Give a node of a graph other parameters, from its next launch on."""
        self._enter()
        described = _kernel_node(function, grid, parameters)
        self._call("cuGraphExecKernelNodeSetParams_v2", graph.handle, node,
                   ctypes.byref(described), doing=doing)

    def add_word(self, graph: Any, after: Sequence[Any], target: int, value: int) -> Any:
        """A node that sets an 8-byte word to a number below 2**32."""
        node = _POINTER()
        described = _MemsetNode(target, 0, value, 4, 1, 1)
        self._call("cuGraphAddMemsetNode", ctypes.byref(node), graph, _nodes(after),
                   ctypes.c_size_t(len(after)), ctypes.byref(described), self._context)
        return node

    def add_join(self, graph: Any, after: Sequence[Any]) -> Any:
        """A node that does nothing, for others to wait for."""
        node = _POINTER()
        self._call("cuGraphAddEmptyNode", ctypes.byref(node), graph, _nodes(after),
                   ctypes.c_size_t(len(after)))
        return node

    def instantiate(self, graph: Any) -> Ready:
        """A graph that can be launched."""
        made = _POINTER()
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(made), graph,
                       ctypes.c_ulonglong(0))
        except BackendError:
            self.drop_graph(graph)
            raise
        return Ready(made, graph)

    def drop_graph(self, graph: Any) -> None:
        """Give back a description that ``instantiate`` did not take."""
        self._call("cuGraphDestroy", graph)

    def destroy_graph(self, graph: Ready) -> None:
        """Give back what ``instantiate`` made; a launch of it that still runs ends first."""
        self._enter()
        try:
            self._call("cuGraphExecDestroy", graph.handle)
        finally:
            self.drop_graph(graph.description)

    def launch_graph(self, graph: Ready, doing: str) -> None:
        self._enter()
        self._call("cuGraphLaunch", graph.handle, self._stream, doing=doing)

    # -- other libraries
    def lead(self) -> None:
        """What the default stream runs from now on waits for all that this stream has: an array
        that is read here may be written there.
        """
        self._wait(self._stream, _POINTER(_DEFAULT_STREAM))

    def follow(self) -> None:
        """What this stream runs from now on waits for all that the default stream has."""
        self._wait(_POINTER(_DEFAULT_STREAM), self._stream)

    def _wait(self, first: Any, then: Any) -> None:
        self._enter()
        event = _POINTER()
        self._call("cuEventCreate", ctypes.byref(event), _EVENT_WITHOUT_TIME)
        self._call("cuEventRecord", event, first)
        self._call("cuStreamWaitEvent", then, event, 0)
        self._call("cuEventDestroy_v2", event)  # once it has happened

    # -- time
    def record(self) -> Any:
        """An event at this place of the stream."""
        self._enter()
        event = _POINTER()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        self._call("cuEventRecord", event, self._stream)
        return event

    def forget(self, events: Sequence[Any]) -> None:
        """Give events back."""
        self._enter()
        for event in events:
            self._call("cuEventDestroy_v2", event)

    def nanoseconds(self, begin: Any, end: Any) -> int:
        """Time between two events that have happened."""
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
        return int(milliseconds.value * 1e6)


def _kernel_node(function: Function, grid: int, parameters: Parameters) -> _KernelNode:
    return _KernelNode(
        function.handle, (ctypes.c_uint * 3)(grid, 1, 1),
        (ctypes.c_uint * 3)(function.threads, 1, 1), function.shared,
        ctypes.cast(parameters.pointers, ctypes.POINTER(_POINTER)), None, None, None,
    )


def _close(library: Any, context: Any, stream: Any, device: Any) -> None:
    """Finish what runs and let go of the device. Nobody is left to hear of an error."""
    library.cuCtxSetCurrent(context)
    library.cuStreamSynchronize(stream)
    library.cuStreamDestroy_v2(stream)
    library.cuDevicePrimaryCtxRelease_v2(device)


def _nodes(after: Sequence[Any]) -> Any:
    return (_POINTER * max(1, len(after)))(*(n.value for n in after))
