"""Kernels -> what a backend runs well: a kernel may become copies and a kernel that reads them.

::

    contract a, b   ->   packed = pack b;  contract a, packed

What to copy is the backend's to know; equal copies of the same tensors are made once. Copies of
what a loop does not change are made before it (``leave_loop``), and those of what lasts from call
to call are kept (``graphc.passes.keep``), so a backend is told which tensors do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from graphc.kernel.terms import Kernel, KernelTensor, SizeValue
from graphc.kernel.text import print_kernel
from graphc.passes.compose import Block, Call, ControlCall, KernelCall
from graphc.passes.pieces import Control, Slot
from graphc.types import Dim

__all__ = ["Refine", "leave_loop", "refine"]

#: a kernel, and which of its tensors hold the same from call to call -> kernels in order, the last
#: of which computes what the first one did
Refine = Callable[[Kernel, frozenset[str]], Sequence[Kernel]]


def refine(
    calls: Iterable[KernelCall], rewrite: Refine, lasting: set[str] | None = None
) -> list[KernelCall]:
    """The calls with each kernel replaced by what ``rewrite`` makes of it. ``lasting`` are the keys
    of slots that hold the same from call to call; what is computed from them alone is added.
    """
    lasting = set() if lasting is None else lasting
    made: dict[tuple[str, ...], tuple[Slot, ...]] = {}
    out: list[KernelCall] = []
    for call in calls:
        inputs = zip(call.kernel.inputs, call.inputs, strict=True)
        kernels = rewrite(call.kernel, frozenset(t.name for t, s in inputs if s.key in lasting))
        slots = dict(zip(_names(call.kernel), (*call.inputs, *call.outputs), strict=True))
        for kernel in map(_without_idle_sizes, kernels[:-1]):
            read = tuple(slots[t.name] for t in kernel.inputs)
            key = (print_kernel(kernel).split("\n", 1)[1], *(s.key for s in read))
            if key not in made:
                made[key] = tuple(_slot(call, t) for t in kernel.outputs)
                out.append(_copying(call, kernel, read, made[key]))
                _last(out[-1], lasting)
            slots |= {t.name: s for t, s in zip(kernel.outputs, made[key], strict=True)}
        last = kernels[-1]
        out.append(replace(call, kernel=last, inputs=tuple(slots[t.name] for t in last.inputs)))
        _last(out[-1], lasting)
    return out


def _without_idle_sizes(kernel: Kernel) -> Kernel:
    """A copy of what has no run-time size does not depend on those of the kernel it is for."""
    if not kernel.sizes or kernel.scalars:
        return kernel
    extents = [e for _, e in kernel.axes]
    extents += [e for t in (*kernel.inputs, *kernel.outputs) for e in t.type.shape]
    extents += [t.extent for t in kernel.terms if isinstance(t, SizeValue)]
    used = {d.name for e in extents if not isinstance(e, int) for d in e.dims}
    return replace(kernel, sizes=tuple(s for s in kernel.sizes if s.name in used))


def _copying(
    call: KernelCall, kernel: Kernel, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...]
) -> KernelCall:
    dims: dict[str, Dim] = {d.name: d for d in call.sizes}
    sizes = tuple(dims[s.name] for s in kernel.sizes)
    return replace(
        call, kernel=kernel, inputs=inputs, outputs=outputs, sizes=sizes, check_sources=()
    )


def _last(call: KernelCall, lasting: set[str]) -> None:
    """Add what a call computes to what lasts, if all that it reads does."""
    if call.inputs and not call.scalars and all(s.key in lasting for s in call.inputs):
        lasting.update(s.key for s in call.outputs)


def leave_loop(control: Control, body: Block) -> tuple[list[KernelCall], ControlCall]:
    """The copies that are the same in all iterations, and the loop without them, which reads them.

    ::

        loop { p = turn w;  d = contract d, p }   ->   p = turn w;  loop { d = contract d, p }
    """
    changed = {s.key for call in body.calls for s in call.outputs}
    changed |= {s.key for s in control.results}
    leaving = [call for call in body.calls if _is_copy(call) and not _depends(call, changed)]
    if not leaving:
        return [], ControlCall(control, (body,))
    copies = [call for call in leaving if isinstance(call, KernelCall)]
    left = tuple(call for call in body.calls if call not in leaving)
    made = tuple(slot for call in copies for slot in call.outputs)
    reading = replace(control, reads=(*control.reads, *made))
    return copies, ControlCall(reading, (replace(body, calls=left),))


def _is_copy(call: Call) -> bool:
    """Whether a kernel only lays out what another one made, and cannot fail."""
    if not isinstance(call, KernelCall) or call.kernel.checks:
        return False
    made = {p.slot for p in call.region.pieces}
    return not any(s in made for s in call.outputs)


def _depends(call: Call, changed: set[str]) -> bool:
    """Whether a call reads what an iteration writes, or the number of the iteration."""
    assert isinstance(call, KernelCall)
    return bool(call.scalars) or any(s.key in changed for s in call.inputs)


def _names(kernel: Kernel) -> list[str]:
    return [t.name for t in (*kernel.inputs, *kernel.outputs)]


def _slot(call: KernelCall, tensor: KernelTensor) -> Slot:
    return Slot(f"{call.outputs[0].key}.{tensor.name}", tensor.name, tensor.type, "computed")
