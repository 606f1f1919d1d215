"""A driver without a device: memory on the host, kernels in Triton's interpreter, all recorded."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as runtime

from graphc.backends.triton import compiler
from graphc.backends.triton.compiler import CompiledKernel, Job
from graphc.backends.triton.driver import Function, Parameters
from graphc.backends.triton.toolchain import Code
from graphc.errors import OutOfMemoryError
from graphc.memory import address_of
from tests.triton.interpreter import _Libdevice, interpreting, load_module

_KINDS = {
    "i8": tl.int8, "u8": tl.uint8, "i32": tl.int32, "u32": tl.uint32, "i64": tl.int64,
    "fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32, "fp64": tl.float64,
}  # fmt: skip


class Pointer:
    """An address as the interpreter takes tensors."""

    def __init__(self, address: int, kind: str) -> None:
        self.address, self.dtype = address, _KINDS[kind]

    def data_ptr(self) -> int:
        return self.address

    def untyped_storage(self) -> Pointer:
        return self

    def cpu(self) -> Pointer:
        return self

    def copy_(self, other: Pointer) -> None:
        pass

    def new_empty(self, size: int, device: str) -> Pointer:
        return self

    def set_(self, *_: object) -> Pointer:
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return ()

    def stride(self) -> tuple[int, ...]:
        return ()


class Node:
    """A node of a recorded graph."""

    def __init__(self, number: int) -> None:
        self.value = number


class HostDriver:
    """What ``Driver`` offers; ``log`` holds every call that orders something."""

    name, capability, multiprocessors, shared_limit = "host", 90, 4, 232_448
    stream = 7

    def __init__(self, directory: Path, limit: int = 1 << 40) -> None:
        self.directory, self.limit = directory, limit
        self.blocks: dict[int, Any] = {}
        self.log: list[tuple[Any, ...]] = []
        self.graphs: dict[int, list[tuple[Any, ...]]] = {}
        self.destroyed: set[int] = set()
        self.modules: set[int] = set()
        self.pinned: set[int] = set()
        self.events = 0
        self.closed = False
        self._nodes = 0
        self._modules: dict[str, Any] = {}

    # -- memory
    def allocate(self, nbytes: int, doing: str = "") -> int:
        if sum(b.nbytes - 512 for b in self.blocks.values()) + nbytes > self.limit:
            raise OutOfMemoryError(f"{doing}: cuMemAlloc_v2: out of memory")
        raw = np.zeros(max(nbytes, 1) + 512, np.uint8)
        address = address_of(raw) + 256
        address += -address % 256
        self.blocks[address] = raw
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def host_array(self, nbytes: int) -> Any:
        made = np.zeros(max(nbytes, 1), np.uint8)
        self.pinned.add(address_of(made))
        return made

    def free_host(self, array: Any) -> None:
        self.pinned.remove(address_of(array))

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        self.log.append(("copy in", target, nbytes))
        ctypes.memmove(target, source, nbytes)

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        self.log.append(("copy out", source, nbytes))
        ctypes.memmove(target, source, nbytes)

    def copy_within(self, target: int, source: int, nbytes: int) -> None:
        self.log.append(("copy within", target, source, nbytes))
        ctypes.memmove(target, source, nbytes)

    def set_word(self, target: int, value: int) -> None:
        self.log.append(("set word", target, value))
        ctypes.memmove(target, np.array([value], np.uint32).tobytes(), 4)

    def clear(self, target: int, nbytes: int) -> None:
        self.log.append(("clear", target, nbytes))
        ctypes.memset(target, 0, nbytes)

    def synchronize(self, doing: str = "") -> None:
        self.log.append(("synchronize", doing))

    # -- kernels
    def load(self, kernel: CompiledKernel) -> Function:
        number = self._node().value
        self.modules.add(number)
        return Function(kernel, 32 * kernel.code.warps, kernel.code.shared, number)

    def unload(self, function: Function) -> None:
        left = self.graphs.keys() - self.destroyed
        ran = {f.module for n in left for _, _, kind, *what in self.graphs[n] if kind == "kernel"
               for f in what[1:2]}
        assert function.module not in ran, "a graph would run code that is gone"
        self.modules.remove(function.module)

    def launch(self, function: Function, grid: int, parameters: Parameters, doing: str) -> None:
        self.log.append(("launch", doing, grid))
        self._run(function, grid, parameters)

    def _run(self, function: Function, grid: int, parameters: Parameters) -> None:
        emitted = function.handle.emitted
        if emitted.text not in self._modules:
            module = load_module(emitted.text, self.directory)
            module.libdevice = _Libdevice()  # type: ignore[attr-defined]
            self._modules[emitted.text] = module
        kernel = getattr(self._modules[emitted.text], emitted.symbol)
        arguments = [
            Pointer(word, kind[1:]) if kind.startswith("*") else word
            for (_, kind), word in zip(emitted.arguments, parameters.words, strict=False)
        ]
        with interpreting():
            runtime.InterpretedFunction(kernel.fn).run(*arguments, grid=(grid,), warmup=False)

    # -- graphs
    def new_graph(self) -> Node:
        node = self._node()
        self.graphs[node.value] = []
        return node

    def _node(self) -> Node:
        self._nodes += 1
        return Node(self._nodes)

    def _add(self, graph: Node, after: Sequence[Node], *what: Any) -> Node:
        known = {number for number, *_ in self.graphs[graph.value]}
        assert {n.value for n in after} <= known, "a node waits for one of another graph"
        node = self._node()
        self.graphs[graph.value].append((node.value, tuple(n.value for n in after), *what))
        return node

    def add_kernel(
        self, graph: Node, after: Sequence[Node], function: Function, grid: int,
        parameters: Parameters, doing: str,
    ) -> Node:
        kept = Parameters(parameters.words)
        return self._add(graph, after, "kernel", doing, function, grid, kept)

    def update_kernel(
        self, graph: Node, node: Node, function: Function, grid: int, parameters: Parameters,
        doing: str,
    ) -> None:
        assert graph.value not in self.destroyed
        self.log.append(("update", doing))
        nodes = self.graphs[graph.value]
        (place,) = (n for n, (number, *_) in enumerate(nodes) if number == node.value)
        number, after, kind, label, old, count, _ = nodes[place]
        assert (kind, label, old, count) == ("kernel", doing, function, grid)
        kept = Parameters(parameters.words)
        nodes[place] = (number, after, kind, label, function, grid, kept)

    def lead(self) -> None:
        self.log.append(("lead",))

    def follow(self) -> None:
        self.log.append(("follow",))

    def add_word(self, graph: Node, after: Sequence[Node], target: int, value: int) -> Node:
        return self._add(graph, after, "word", target, value)

    def add_join(self, graph: Node, after: Sequence[Node]) -> Node:
        return self._add(graph, after, "join")

    def instantiate(self, graph: Node) -> Node:
        return graph

    def drop_graph(self, graph: Node) -> None:
        self.destroy_graph(graph)

    def destroy_graph(self, graph: Node) -> None:
        assert graph.value not in self.destroyed
        self.destroyed.add(graph.value)  # what it had is still to be looked at

    def launch_graph(self, graph: Node, doing: str) -> None:
        assert graph.value not in self.destroyed
        self.log.append(("graph", graph.value))
        for _, _, kind, *rest in self.graphs[graph.value]:
            if kind == "kernel":
                self._run(*rest[1:])
            elif kind == "word":
                ctypes.memmove(rest[0], np.array([rest[1]], np.uint32).tobytes(), 4)

    # -- time
    def record(self) -> int:
        self.events += 1
        return len(self.log)

    def forget(self, events: Sequence[int]) -> None:
        self.events -= len(events)

    def nanoseconds(self, begin: int, end: int) -> int:
        return end - begin


def emitted_only(jobs: Iterable[Job], target: Any, cache: Any = None) -> list[CompiledKernel]:
    """Kernels with their text and no machine code: what the interpreter needs."""
    made = []
    for job in jobs:
        emitted, tiling = compiler.emit(job)
        words = ", ".join(f".param .u64 p{n}" for n in range(len(emitted.arguments) + 2))
        ptx = f".visible .entry kernel({words})"
        code = Code("kernel", b"", {"ptx": ptx}, tiling.warps, 0)
        made.append(CompiledKernel(job.kernel.name, replace(emitted), tiling, code))
    return made
