"""The driver's calls, on a library that records them: order, arguments, structures, errors."""

from __future__ import annotations

import ctypes
import types

import pytest

from graphc.backends.triton import driver as cuda
from graphc.backends.triton.driver import Driver, Parameters
from graphc.errors import BackendError

ATTRIBUTES = {16: 132, 75: 9, 76: 0, 97: 232_448}


class Library:
    """``libcuda`` of a machine that is not there."""

    def __init__(self, version=13_000, devices=1, fail=None) -> None:
        self.calls: list[tuple] = []
        self.version, self.devices, self.fail = version, devices, fail or {}
        self.handles = 0x1000

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def function(*args):
            self.calls.append((name, args))
            if name in self.fail:
                return self.fail[name]
            return getattr(self, f"_{name}", lambda *_: 0)(*args) or 0

        return function

    def _new(self, place) -> None:
        self.handles += 0x1000
        place._obj.value = self.handles

    def _cuDriverGetVersion(self, place) -> None:  # noqa: N802 - the driver's name
        place._obj.value = self.version

    def _cuDeviceGetCount(self, place) -> None:  # noqa: N802
        place._obj.value = self.devices

    def _cuDeviceGetAttribute(self, place, number, device) -> None:  # noqa: N802
        place._obj.value = ATTRIBUTES[number]

    def _cuDeviceGetName(self, text, size, device) -> None:  # noqa: N802
        text.value = b"a GPU"

    def _cuGetErrorString(self, code, place) -> None:  # noqa: N802
        place._obj.value = b"what the driver says"

    def _cuMemHostAlloc(self, place, size, flags) -> None:  # noqa: N802
        self.host = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(self.host)

    def _cuEventElapsedTime(self, place, begin, end) -> None:  # noqa: N802
        place._obj.value = 1.5

    def _cuGraphAddKernelNode_v2(self, place, graph, after, count, node) -> None:  # noqa: N802
        self.node = described(node) | {"after": [after[n] for n in range(count.value)]}
        self._new(place)

    def _cuGraphExecKernelNodeSetParams_v2(self, graph, place, node) -> None:  # noqa: N802
        self.updated = graph.value, place.value, described(node)

    def _cuGraphAddMemsetNode(self, place, graph, after, count, node, context) -> None:  # noqa: N802
        kept = node._obj
        self.word = kept.target, kept.value, kept.element_bytes, kept.width, kept.height
        self._new(place)


def described(node) -> dict:
    """What a launch is told of a kernel's node."""
    kept = node._obj
    words = [ctypes.c_uint64.from_address(kept.parameters[n]).value for n in range(3)]
    return {
        "function": kept.function, "grid": list(kept.grid), "block": list(kept.block),
        "shared": kept.shared, "words": words,
    }  # fmt: skip


for _made in ("cuMemAlloc_v2", "cuModuleLoadData", "cuModuleGetFunction", "cuGraphCreate",
              "cuGraphAddEmptyNode", "cuGraphInstantiateWithFlags", "cuEventCreate",
              "cuStreamCreate", "cuDevicePrimaryCtxRetain", "cuDeviceGet"):
    setattr(Library, f"_{_made}", lambda self, place, *_: self._new(place))


def driver_on(monkeypatch, library) -> Driver:
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: library)
    return Driver()


def kernel(shared=0):
    code = types.SimpleNamespace(shared=shared, binary=b"cubin", symbol="kernel", warps=4)
    return types.SimpleNamespace(code=code, name="relu")


def test_structures_are_those_of_the_header() -> None:
    assert ctypes.sizeof(cuda._KernelNode) == 72
    assert ctypes.sizeof(cuda._MemsetNode) == 40
    assert cuda._KernelNode.parameters.offset == 40


def test_a_device_is_opened_once_with_its_facts(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    assert (made.capability, made.multiprocessors, made.shared_limit) == (90, 132, 232_448)
    assert made.name == "a GPU"
    names = [name for name, _ in library.calls]
    assert names.index("cuInit") < names.index("cuDevicePrimaryCtxRetain")
    assert names.index("cuCtxSetCurrent") < names.index("cuStreamCreate")


def test_memory_is_cleared_and_copied_in_the_streams_order(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    address = made.allocate(100, "an array")
    library.calls.clear()
    made.copy_in(address, 0x10, 4)
    made.copy_out(0x10, address, 4)
    made.copy_within(address, address + 4, 4)
    made.copy_in(address, 0x10, 0)
    made.set_word(address, 7)
    made.clear(address, 64)
    made.synchronize()
    made.free(address)
    assert [name for name, _ in library.calls] == [
        "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2",
        "cuMemsetD32Async", "cuMemsetD8Async", "cuStreamSynchronize", "cuMemFree_v2",
    ]  # fmt: skip
    pinned = made.host_array(32)
    assert pinned.nbytes == 32
    pinned[:] = 1


def test_large_shared_memory_is_asked_for_and_too_much_refused(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    function = made.load(kernel(shared=100_000))
    assert (function.threads, function.shared) == (128, 100_000)
    asked = [args for name, args in library.calls if name == "cuFuncSetAttribute"]
    assert asked[0][1:] == (8, 100_000)
    with pytest.raises(BackendError, match="relu needs 300,000 bytes of shared memory"):
        made.load(kernel(shared=300_000))


def test_a_graph_is_described_node_by_node(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    function = made.load(kernel())
    graph = made.new_graph()
    first = made.add_word(graph, [], 0x5000, 3)
    assert library.word == (0x5000, 3, 4, 1, 1)
    join = made.add_join(graph, [first])
    parameters = Parameters([1, 2**63, -1])
    node = made.add_kernel(graph, [join], function, 10, parameters, "kernel relu")
    assert library.node == {
        "function": function.handle.value, "grid": [10, 1, 1], "block": [128, 1, 1], "shared": 0,
        "words": [1, 2**63, 2**64 - 1], "after": [join.value],
    }  # fmt: skip
    assert node.value
    ready = made.instantiate(graph)
    made.launch_graph(ready, "a step")
    made.launch(function, 10, Parameters([1]), "kernel relu")
    parameters.put(1, 5)
    assert parameters.words == (1, 5, 2**64 - 1)
    made.update_kernel(ready, node, function, 10, parameters, "kernel relu")
    told = {**library.node, "words": [1, 5, 2**64 - 1]}
    del told["after"]
    assert library.updated == (ready.handle.value, node.value, told)
    names = [name for name, _ in library.calls]
    assert names[-4:] == [
        "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuLaunchKernel",
        "cuGraphExecKernelNodeSetParams_v2",
    ]  # fmt: skip
    assert "cuGraphDestroy" not in names, "its nodes are named by the description"
    made.destroy_graph(ready)
    assert library.calls[-1] == ("cuGraphDestroy", (graph,))
    events = made.record(), made.record()
    assert made.nanoseconds(*events) == 1_500_000
    made.forget(events)
    assert [name for name, _ in library.calls][-2:] == ["cuEventDestroy_v2"] * 2
    assert ("cuGraphExecDestroy", (ready.handle,)) in library.calls


def test_streams_wait_for_each_other(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    ours, default = made.stream, 1
    for wait, first, then in ((made.lead, ours, default), (made.follow, default, ours)):
        library.calls.clear()
        wait()
        calls = dict(library.calls)
        assert [*calls] == [
            "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy_v2",
        ]  # fmt: skip
        event, recorded = calls["cuEventRecord"]
        waiting, waited, _ = calls["cuStreamWaitEvent"]
        assert (recorded.value, waiting.value, event) == (first, then, waited)


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (Library(version=11_080), "is for CUDA 11.8; 12.0 is the least"),
        (Library(devices=0), "there is no CUDA device"),
        (Library(fail={"cuInit": 100}), "cuInit: what the driver says"),
    ],
)
def test_a_machine_that_will_not_do_is_named(monkeypatch, library, message) -> None:
    with pytest.raises(BackendError, match=message):
        driver_on(monkeypatch, library)
    cuda.driver.cache_clear()
    assert message in (cuda.unavailable() or "")
    cuda.driver.cache_clear()


def test_errors_say_what_was_tried(monkeypatch) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    library.fail = {"cuMemAlloc_v2": 2, "cuGraphLaunch": 700}
    with pytest.raises(BackendError, match=r"the arena: cuMemAlloc_v2: .*; free something"):
        made.allocate(1 << 40, "the arena")
    with pytest.raises(BackendError, match="step: cuGraphLaunch: what the driver says"):
        made.launch_graph(made.instantiate(made.new_graph()), "step")


def test_without_a_driver_the_reason_is_given(monkeypatch) -> None:
    def missing(name):
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    cuda.driver.cache_clear()
    assert cuda.unavailable() == "no CUDA driver: libcuda.so.1: cannot open"
    cuda.driver.cache_clear()
