"""``kernel``: hand-written Kernel IR as an op, on every backend.

>>> import graphc as gc
>>> softclip = gc.kernel('''kernel softclip
...   size n 1..
...   axes i:n
...   in x f32[n]
...   out y f32[n]
...   a = load x[i]
...   store y[i] = a / (1.0 + abs(a))''')
>>> softclip(gc.observed("x", (5,))).type
f32[5]
"""

from __future__ import annotations

from typing import Any

from graphc.errors import KernelError
from graphc.graph import Value, apply_all, block
from graphc.kernel.text import print_kernel
from graphc.ops.handwritten import parsed
from graphc.ops.lifting import constant
from graphc.source import here
from graphc.types import TensorType

__all__ = ["KernelOp", "kernel"]


def kernel(text: str) -> KernelOp:
    """The op that a kernel's text says, typed and verified now.

    The language is that of ``graphc/kernel/text.py`` (every ``Executable`` prints its kernels in
    it). Inputs, then run-time scalars, are the op's arguments; outputs its results, a tuple where
    there are several. Extents that a ``size`` line names are those of the arguments. Each output is
    stored once, in whole, at axes or blocks of them; nothing is added by ``store add``. It has no
    derivative: give it one by ``gc.custom_gradient``.

    Raises ParseError, VerifyError or KernelError for a text that is wrong; a call raises ShapeError
    or DTypeError for arguments that do not fit.
    """
    if not isinstance(text, str):
        raise KernelError(f"kernel: takes the text of a kernel, got {text!r}", here())
    return KernelOp(text)


class KernelOp:
    """What ``kernel`` makes of a text: call it with values, by position or by name."""

    def __init__(self, text: str) -> None:
        declared = parsed(text)
        self.name = declared.kernel.name
        #: the kernel's text as it prints itself
        self.text = print_kernel(declared.kernel)
        self._names, self._types = declared.names, declared.inputs

    def __call__(self, *args: Any, **by_name: Any) -> Any:
        """The kernel's outputs on these arguments."""
        given = self._ordered(args, by_name)
        pairs = zip(given, self._types, strict=True)
        values = [self._value(x, type) for x, type in pairs]
        with block(self.name):
            out = apply_all("kernel", *values, text=self.text)
        for value, tensor in zip(out, parsed(self.text).kernel.outputs, strict=True):
            value.name = tensor.name
        return out[0] if len(out) == 1 else out

    def __repr__(self) -> str:
        listed = ", ".join(f"{n}: {t}" for n, t in zip(self._names, self._types, strict=True))
        return f"<kernel {self.name}({listed})>"

    def _ordered(self, args: tuple[Any, ...], by_name: dict[str, Any]) -> list[Any]:
        found = dict(zip(self._names, args, strict=False)) | by_name
        twice = len(args) + len(by_name) > len(found)
        if twice or set(found) != set(self._names) or len(args) > len(self._names):
            raise KernelError(
                f"kernel {self.name} takes {', '.join(self._names)}; it is given "
                f"{len(args)} by position"
                + (f" and {', '.join(by_name)} by name" if by_name else ""),
                here(),
            )
        return [found[name] for name in self._names]

    @staticmethod
    def _value(x: Any, type: TensorType) -> Value:
        return x if isinstance(x, Value) else constant(x, type.dtype)
