"""``custom_gradient``: functions whose derivative is written by hand.

>>> import graphc as gc
>>> @gc.custom_gradient
... def straight_through(x): return gc.ops.round(x)
>>> @straight_through.backward
... def _(x, out, ct): return ct * (gc.ops.abs(x) <= 1.0)
>>> x = gc.observed("x", (3,))
>>> gc.grad(straight_through(x).sum(), x).type
f32[3]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

from graphc import tree
from graphc.errors import DTypeError, GradError, ShapeError
from graphc.graph import Graph, Value, apply_all, block
from graphc.ops.lifting import broadcast_to, constant, full
from graphc.ops.loop import argument, close_body, read_once
from graphc.source import here

__all__ = ["CustomGradient", "custom_gradient"]

Backward = Callable[[Any, Any, Any], Any]


def custom_gradient(f: Callable[..., Any]) -> CustomGradient:
    """``f`` with a derivative of your own, given by ``@f.backward``.

    ``backward(inputs, outputs, cotangents)`` returns the cotangents of the inputs. ``inputs`` is
    f's argument, or the tuple of its arguments where it takes several; ``outputs`` is what f
    returned and ``cotangents`` has its structure (None for what is no float). It returns one
    cotangent for each argument, in a tuple unless there is one argument, each structured and typed
    like its argument; None is zero. It is linear in the cotangents, so the derivative exists in
    forward mode and in every order too: differentiate ``backward`` as you wrote it.

    What f uses from outside (parameters, say) has its ordinary derivative.
    """
    return CustomGradient(f)


class CustomGradient:
    """What ``custom_gradient`` makes of a function: call it, and say its ``backward``."""

    def __init__(self, f: Callable[..., Any]) -> None:
        update_wrapper(self, f)
        self._function = f
        self._backward: Backward | None = None
        self._name = getattr(f, "__name__", "custom").strip("_<>") or "custom"

    def backward(self, rule: Backward) -> Backward:
        """Use ``rule`` as the derivative; a decorator."""
        self._backward = rule
        return rule

    def __repr__(self) -> str:
        return f"<custom_gradient {self._name}>"

    def __call__(self, *args: Any) -> Any:
        """The function's results; derivatives of them follow ``backward``."""
        if self._backward is None:
            raise GradError(
                f"{self._name}: custom_gradient without a rule: define @{self._name}.backward "
                "before the first call",
                here(),
            )
        leaves, form = tree.flatten(args)
        given = [read_once(v if isinstance(v, Value) else constant(v)) for v in leaves]
        with block(self._name):
            symbols = [argument(v.type, v.name) for v in given]
            made, made_form = tree.flatten(self._function(*form.build(symbols)))
            results = [read_once(v if isinstance(v, Value) else constant(v)) for v in made]
            outputs = [argument(v.type, v.name) for v in results]
            flowing = [argument(v.type) if v.dtype.is_float else None for v in results]
            answer = self._backward(
                *(_unpacked(form.build(symbols)), made_form.build(outputs)),
                made_form.build(flowing),
            )
            flows = self._checked(answer, form, symbols)
            cotangents = [v for v in flowing if v is not None]
            arguments = (*symbols, *outputs, *cotangents)
            both, captures = close_body([*results, *flows], arguments)
            inner = both.inputs[len(arguments) :]
            forward = Graph((*symbols, *inner), both.outputs[: len(results)])
            back = Graph((*arguments, *inner), both.outputs[len(results) :])
            attrs = {"forward": forward, "backward": back, "arguments": len(given)}
            out = apply_all("custom", *given, *captures, **attrs)
        return made_form.build(out)

    def _checked(
        self, answer: Any, form: tree.Structure, symbols: Sequence[Value]
    ) -> list[Value]:
        """The cotangents of the floating arguments, in order."""
        count = len(form.children)
        if count == 1 and (form.children[0].kind in (tuple, list) or not isinstance(answer, tuple)):
            answer = answer if isinstance(answer, tuple) and len(answer) == 1 else (answer,)
        if not isinstance(answer, (tuple, list)) or len(answer) != count:
            got = len(answer) if isinstance(answer, (tuple, list)) else 1
            raise GradError(
                f"{self._name}.backward returned {got} cotangents, {self._name} takes {count} "
                f"arguments: return one for each (None for zero)",
                here(),
            )
        found: list[Value] = []
        paths = iter(zip(symbols, form.paths(self._name), strict=True))
        for child, part in zip(form.children, answer, strict=True):
            leaves = [None] * child.count if part is None else self._leaves(part, child)
            for leaf in leaves:
                symbol, path = next(paths)
                if symbol.dtype.is_float:
                    found.append(self._cotangent(leaf, symbol, path))
        return found

    def _leaves(self, part: Any, like: tree.Structure) -> list[Any]:
        if like.kind is None:
            return [part]
        return tree.matching_leaves(part, like, f"{self._name}.backward")

    def _cotangent(self, leaf: Any, symbol: Value, path: str) -> Value:
        if leaf is None:
            return full(symbol.shape, 0, symbol.dtype)
        if not isinstance(leaf, Value):
            leaf = broadcast_to(constant(leaf, symbol.dtype), symbol.shape)
        what = f"{self._name}.backward: the cotangent of argument {path[len(self._name) :]}"
        if leaf.shape != symbol.shape:
            raise ShapeError(
                f"{what} is {leaf.type}, the argument is {symbol.type}: a cotangent has its shape",
                here(),
            )
        if leaf.dtype != symbol.dtype:
            raise DTypeError(
                f"{what} is {leaf.type}, the argument is {symbol.type}; "
                f"say .astype(gc.{symbol.dtype.name})",
                here(),
            )
        return read_once(leaf)


def _unpacked(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if len(arguments) == 1 else arguments
