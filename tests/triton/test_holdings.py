"""What programs hold of the driver's goes back once, in order, when they or the process end."""

from __future__ import annotations

import gc as garbage
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, optim
from graphc.backends.triton import program as module
from graphc.backends.triton.array import Pool
from graphc.backends.triton.driver import Driver
from graphc.backends.triton.holdings import Holdings
from tests.triton.test_driver import Library, driver_on, kernel

ONES = np.ones((4, 3), np.float32)


@pytest.fixture
def by_count(device: Any) -> Iterator[None]:
    """No cycles are collected: what dies, dies because nobody holds it."""
    x = gc.observed("x", (4, 3))
    gc.compile([x], x + 1.0, backend="triton")(ONES)  # Triton's first run keeps its frames
    garbage.collect()
    module._pool(device).release()
    garbage.disable()
    yield
    garbage.enable()


def held(device: Any) -> tuple[int, ...]:
    graphs = device.graphs.keys() - device.destroyed
    return len(device.blocks), len(device.pinned), len(device.modules), len(graphs), device.events


def loops(rows: Any) -> tuple[list[gc.Value], Any]:
    x = gc.observed("x", (rows, 3))
    out = gc.while_loop(lambda a: a.sum() < 100.0, lambda a: a * 2.0 + gc.constant(ONES[0]), x)
    return [x], gc.cond(out.sum() > 0.0, lambda a: a + 1.0, lambda a: a, out)


def training(rows: Any) -> tuple[list[gc.Value], Any, Any]:
    x, y = gc.observed("x", (rows, 3)), gc.observed("y", (rows,), gc.int64)
    loss = nn.CrossEntropyLoss()(nn.Linear(3, 2)(x), y)
    return [x, y], loss, optim.SGD(lr=0.1).minimize(loss)


@pytest.mark.parametrize("specialize", [None, True, False], ids=["fixed", "compiled", "run time"])
@pytest.mark.parametrize("what", [loops, training])
def test_everything_goes_back_with_the_program(
    device: Any, what: Any, specialize: Any, by_count: None
) -> None:
    before = held(device)
    made = what(4 if specialize is None else gc.Dim("B", specialize=specialize))
    program = gc.compile(*made, backend="triton")
    given = [ONES, np.zeros(4, np.int64)][: len(made[0])]
    program(*given)
    if specialize is not None:
        program(*(a[:2] for a in given))
    elif what is training:
        program.profile(*given)
    assert all(now > then for now, then in zip(held(device)[:4], before, strict=False))
    states = len(program.schedule.states)
    del program
    pool = sum(map(len, module._pool(device)._free.values()))
    assert held(device) == (before[0] + states + pool, *before[1:]), "states have values to keep"
    del made
    garbage.collect()  # graphs of nodes have cycles
    module._pool(device).release()
    assert held(device) == before


def test_sizes_that_are_forgotten_go_at_once(
    device: Any, monkeypatch: Any, by_count: None
) -> None:
    monkeypatch.setattr(module, "MAX_BINDINGS", 2)
    x = gc.observed("x", (gc.Dim("B", specialize=False), 3))
    program = gc.compile([x], x + 1.0, backend="triton")
    for rows in (1, 2, 3, 4, 1):
        program(np.ones((rows, 3), np.float32))
    assert len(device.graphs) == 1 + 5
    assert len(device.graphs.keys() - device.destroyed) == 2
    assert len(device.pinned) == 2 * 2, "an argument and a word"
    loaded = program._current.loaded
    assert len(loaded.holdings._inner) <= 3


def test_a_program_that_cannot_be_built_leaves_nothing(device: Any, monkeypatch: Any) -> None:
    before = held(device)
    add, count = device.add_kernel, []

    def failing(*args: Any) -> Any:
        count.append(1)
        if len(count) == 3:
            raise gc.BackendError("no node")
        return add(*args)

    monkeypatch.setattr(device, "add_kernel", failing)
    with pytest.raises(gc.BackendError, match="no node"):
        gc.compile(*loops(4), backend="triton")
    garbage.collect()
    assert held(device) == before


def test_a_launch_that_fails_gives_its_events_back(device: Any, monkeypatch: Any) -> None:
    x = gc.observed("x", (4, 3))
    program = gc.compile([x], x + 1.0, backend="triton")

    def failing(*_: Any) -> None:
        raise gc.BackendError("launch failed")

    monkeypatch.setattr(device, "launch", failing)
    with pytest.raises(gc.BackendError, match="launch failed"):
        program.profile(ONES)
    assert device.events == 0


# ---- the driver's calls


def names(library: Library) -> list[str]:
    return [name for name, _ in library.calls]


def test_the_stream_is_done_before_anything_goes_and_modules_go_last(monkeypatch: Any) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    holdings = Holdings(made)
    inner = Holdings(made)
    holdings.contain(inner)
    function = holdings.load(kernel())
    holdings.allocate(64, "constant")
    ready = inner.instantiate(made.new_graph())
    pinned = inner.host_array(8)
    place = pinned.ctypes.data
    library.calls.clear()
    holdings.give_back()
    calls = ["cuStreamSynchronize", "cuStreamSynchronize", "cuGraphExecDestroy", "cuGraphDestroy",
             "cuMemFreeHost", "cuMemFree_v2", "cuModuleUnload"]  # fmt: skip
    assert names(library) == calls
    given = dict(library.calls)
    assert given["cuGraphExecDestroy"] == (ready.handle,)
    assert given["cuModuleUnload"] == (function.module,)
    assert given["cuMemFreeHost"][0].value == place
    holdings.give_back()
    inner.give_back()
    assert names(library) == calls, "once"


def test_what_a_device_that_failed_cannot_do_is_not_told_again(monkeypatch: Any) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    holdings = Holdings(made)
    holdings.load(kernel())
    holdings.allocate(64, "constant")
    library.fail = dict.fromkeys(("cuStreamSynchronize", "cuMemFree_v2", "cuModuleUnload"), 700)
    holdings.give_back()
    assert holdings.empty


def test_a_module_without_its_kernel_is_unloaded(monkeypatch: Any) -> None:
    library = Library(fail={"cuModuleGetFunction": 500})
    made = driver_on(monkeypatch, library)
    with pytest.raises(gc.BackendError, match="kernel relu: cuModuleGetFunction"):
        made.load(kernel())
    assert names(library)[-1] == "cuModuleUnload"


def test_a_graph_that_cannot_be_made_leaves_no_description(monkeypatch: Any) -> None:
    library = Library(fail={"cuGraphInstantiateWithFlags": 1})
    made = driver_on(monkeypatch, library)
    with pytest.raises(gc.BackendError, match="cuGraphInstantiate"):
        made.instantiate(made.new_graph())
    assert names(library).count("cuGraphDestroy") == 1


def test_nothing_is_called_once_the_driver_was_closed(monkeypatch: Any) -> None:
    library = Library()
    made = driver_on(monkeypatch, library)
    pool, holdings = Pool(made), Holdings(made)
    holdings.load(kernel())
    address = pool.take(100)
    pool.give(address, 100)
    assert not made.closed
    library.calls.clear()
    made._closing()  # what the interpreter's end does
    assert names(library) == [
        "cuCtxSetCurrent", "cuStreamSynchronize", "cuStreamDestroy_v2",
        "cuDevicePrimaryCtxRelease_v2",
    ]  # fmt: skip
    assert made.closed
    library.calls.clear()
    holdings.give_back()
    with pytest.raises(gc.BackendError, match="the interpreter has ended"):
        made.allocate(4)
    pool.give(address, 100)
    del holdings, made, pool
    garbage.collect()
    assert names(library) == []


SCRIPT = """
import numpy as np
import graphc as gc
from graphc.backends.triton import driver as cuda, program
from graphc.backends.triton.array import Array
from graphc.types import TensorType, float32
from tests.triton.test_driver import Library, kernel
from graphc.backends.triton.holdings import Holdings

class Printing(Library):
    def __getattr__(self, name):
        print(name, flush=True) if name.startswith("cu") else None
        return super().__getattr__(name)

cuda.ctypes.CDLL = lambda name: Printing()
device = cuda.driver()

class Owner:
    pass

owner = Owner()
owner.holdings = Holdings(device, owner)
owner.holdings.load(kernel())
pool = program._pool(device)
kept, gone = (Array(pool, TensorType(float32, (4,))) for _ in range(2))
del gone
print("END")
"""


def test_at_the_interpreters_end_the_driver_is_closed_last() -> None:
    import subprocess
    import sys

    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stderr == ""
    calls = ran.stdout.split("END\n")[1].split()
    assert calls[-4:] == [
        "cuCtxSetCurrent", "cuStreamSynchronize", "cuStreamDestroy_v2",
        "cuDevicePrimaryCtxRelease_v2",
    ]  # fmt: skip
    assert (calls.count("cuModuleUnload"), calls.count("cuMemFree_v2")) == (1, 1)
    assert isinstance(Driver, type)
