"""Modules made of modules: series, branches, residual sums, functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphc import ops
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn.module import Module, PortError, Series, check_module
from graphc.source import here

__all__ = ["Lambda", "Parallel", "Residual", "Sequential"]

_MERGES = ("sum", "mul", "concat")


class Sequential(Series):
    """Modules one after the other, named 0, 1, 2... or by a dict's keys; never flattened.

    >>> from graphc import nn
    >>> [name for name, _ in nn.Sequential(nn.Linear(2, 2), nn.ReLU()).named_parameters()]
    ['0.weight', '0.bias']
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else None
        if named is None:
            super().__init__(*modules)  # type: ignore[arg-type]
            return
        super().__init__(*named.values())
        for name in named:
            _check_name("Sequential", name)
        self._graphc_links = dict(named)


class Parallel(Module):
    """The same input to each module.

    Without ``merge`` the results come as a tuple, or as a dict when the modules have names;
    ``merge`` is "sum", "mul" or "concat" (along ``axis``).

    >>> import graphc as gc
    >>> both = gc.nn.Parallel(gc.nn.ReLU(), gc.nn.Tanh(), merge="concat")
    >>> both(gc.observed("x", (2, 3))).shape
    (2, 6)
    """

    def __init__(
        self, *modules: Module, merge: str | None = None, axis: int = 1, **named: Module
    ) -> None:
        if merge is not None and merge not in _MERGES:
            raise ValueError(
                f"Parallel: merge is None or one of {', '.join(_MERGES)}, not {merge!r}"
            )
        if merge is not None and not (modules or named):
            raise PortError(f"Parallel: nothing to merge by {merge!r}: give modules", here())
        if modules and named:
            raise PortError("Parallel: give modules by position or by name, not both", here())
        self.merge, self.axis = merge, axis
        self._graphc_named = bool(named)
        self._graphc_branches = named or {str(i): m for i, m in enumerate(modules)}
        for name, module in self._graphc_branches.items():
            _check_name("Parallel", name)
            check_module("Parallel", name, module)

    def _members(self) -> Any:
        yield from self._graphc_branches.items()
        yield from super()._members()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Each branch on the same arguments."""
        results = {n: branch(*args, **kwargs) for n, branch in self._graphc_branches.items()}
        if self.merge is None:
            return results if self._graphc_named else tuple(results.values())
        values = list(results.values())
        if self.merge == "concat":
            return ops.concat(values, self.axis)
        total = values[0]
        for value in values[1:]:
            total = total + value if self.merge == "sum" else total * value
        return total


class Residual(Module):
    """``shortcut(x) + f(x)``; without a shortcut ``x + f(x)`` (He et al. 2016)."""

    def __init__(self, f: Module, shortcut: Module | None = None) -> None:
        self.f, self.shortcut = f, shortcut

    def forward(self, x: Value) -> Value:
        """x to the sum; both sides have one shape."""
        around: Value = x if self.shortcut is None else self.shortcut(x)
        added: Value = self.f(x)
        pairs = zip(around.shape, added.shape, strict=False)
        known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if around.ndim != added.ndim or any(a != b for a, b in known):
            raise ShapeError(
                f"{self._own_name}: x + f(x) has one shape on both sides, got {around.type} and "
                f"{added.type}; give a shortcut that makes it f(x)'s",
                here(),
            )
        return around + added


class Lambda(Module):
    """A function of Values as a module, drawn as a block called ``name``.

    >>> import graphc as gc
    >>> flatten = gc.nn.Lambda(lambda x: x.reshape(x.shape[0], -1), "flatten")
    >>> (gc.observed("x", (2, 3, 4)) >> flatten).shape
    (2, 12)
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        label = name or str(getattr(function, "__name__", "Lambda"))
        self.named(label if label.isidentifier() else "Lambda")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self.function(*args, **kwargs)


def _check_name(who: str, name: object) -> None:
    """Raise PortError where a name cannot stand in the dotted names of parameters."""
    if not isinstance(name, str) or not name or "." in name:
        raise PortError(f"{who}: {name!r} names no module: a word without dots does", here())
