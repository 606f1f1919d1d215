"""``Module``: a function with parameters, drawn as a block.

::

    attributes register      parameters, states and modules, also inside lists, tuples and dicts
    names                    attribute names joined by dots, indices and keys for containers:
    PyTorch's call                     forward inside a block named as the parent names the module
    ports                    forward's argument names

A root block is named by ``.named(n)``, else by its class.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, NoReturn, Self, cast

import numpy as np
from numpy.typing import NDArray

from graphc import tree
from graphc.dsl import StateValue, pinned_mode
from graphc.errors import BackendError, GraphcError, ModeError, StateError
from graphc.graph import HOOKS, block
from graphc.source import here
from graphc.state import coerce_array

__all__ = ["IncompatibleKeys", "Module", "PortError", "check_module"]

Match = str | Sequence[str] | None


class PortError(GraphcError, TypeError):
    """What is wired to a module does not fit its ports (the arguments of its ``forward``)."""


class IncompatibleKeys(NamedTuple):
    """What a non-strict ``load_state_dict`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


#: names that the module being called gives to its children, innermost call last
_children_names: ContextVar[tuple[Mapping[int, str], ...]] = ContextVar("graphc_names", default=())


class Module:
    """Base of all modules: write ``forward``, and assign parameters and modules to attributes.

    >>> import graphc as gc
    >>> class Scale(gc.nn.Module):
    ...     def __init__(self): self.gain = gc.parameter(np.ones(3))
    ...     def forward(self, x): return x * self.gain
    >>> net = Scale() >> gc.nn.ReLU()
    >>> list(net.state_dict())
    ['0.gain']
    >>> net(gc.observed("x", (2, 3))).shape
    (2, 3)
    """

    forward: Callable[..., Any]

    __array_ufunc__ = None  # `array >> module` is ours to answer, not NumPy's

    # ---- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward`` in a block of its own; arguments are ports."""
        self._check_ports(args, kwargs)
        stack = _children_names.get()
        known = (names[self._identity] for names in reversed(stack) if self._identity in names)
        name = next(known, None)
        if name is None:
            self._name_cells()
        names = {child._identity: path for path, child in reversed(list(self._children()))}
        token = _children_names.set((*stack, names))
        try:
            with ExitStack() as scopes:
                if self._pinned is not None:
                    scopes.enter_context(pinned_mode(self._pinned))
                scopes.enter_context(block(name or self._own_name))
                return self.forward(*args, **kwargs)
        finally:
            _children_names.reset(token)

    @property
    def ports(self) -> tuple[str, ...]:
        """The names of ``forward``'s arguments."""
        return tuple(inspect.signature(self.forward).parameters)

    def _check_ports(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not hasattr(self, "forward"):
            raise PortError(f"{self._own_name} defines no forward(self, ...)", here())
        signature = inspect.signature(self.forward)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            needed = [n for n, p in signature.parameters.items() if p.default is p.empty]
            raise PortError(
                f"{self._own_name}: {error}; its ports are {', '.join(signature.parameters)}"
                + _port_hint(len(args) + len(kwargs), needed),
                here(),
            ) from None

    # ---- names

    @property
    def _own_name(self) -> str:
        return str(vars(self).get("_graphc_name") or _class_of(self).__name__)

    @property
    def _identity(self) -> int:
        """The same for a module and its views."""
        return id(vars(self).get("_graphc_origin", self))

    @property
    def _pinned(self) -> str | None:
        return vars(self).get("_graphc_mode")

    def named(self, name: str) -> Self:
        """Name this module as a root: texts, drawings and saved files show it."""
        vars(self)["_graphc_name"] = name
        return self

    def _name_cells(self) -> None:
        """Give every cell its path, where it has none or only the end of it.

        The label in texts and drawings also has the root's name, if it was given one.
        """
        root = vars(self).get("_graphc_name")
        for path, value in self._named_states():
            known = value.cell.name
            if not known or path == known or path.endswith(f".{known}"):
                value.cell.name = path
                value.name = f"{root}.{path}" if root else path

    # ---- what it holds

    def _members(self) -> Iterator[tuple[str, StateValue | Module]]:
        """Its own states and child modules by name, containers opened."""
        for name, held in vars(self).items():
            if not name.startswith("_graphc_"):
                yield from _opened(name, held)

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, held in self._members():
            if isinstance(held, Module):
                yield name, held

    def named_modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """Itself under ``prefix`` and every module inside, each once, in order of assignment."""
        found: dict[int, tuple[str, Module]] = {}
        self._collect_modules(prefix, found)
        return list(found.values())

    def _collect_modules(self, prefix: str, found: dict[int, tuple[str, Module]]) -> None:
        if self._identity in found:
            return
        found[self._identity] = (prefix, self)
        for name, child in self._children():
            child._collect_modules(_joined(prefix, name), found)

    def modules(self) -> list[Module]:
        """Itself and every module inside."""
        return [module for _, module in self.named_modules()]

    def _named_states(self, prefix: str = "") -> Iterator[tuple[str, StateValue]]:
        """Every state under every name it has (tied ones several times), own before children's."""
        members = list(self._members())
        for name, held in members:
            if isinstance(held, StateValue):
                yield _joined(prefix, name), held
        for name, held in members:
            if isinstance(held, Module):
                yield from held._named_states(_joined(prefix, name))

    def named_parameters(
        self, match: Match = "*", exclude: Match = None
    ) -> list[tuple[str, StateValue]]:
        """(name, parameter) pairs, a tied one once, under its first name.

        ``match`` and ``exclude`` are glob patterns (or several) on the names: ``"*.bias"``.
        """
        found: dict[StateValue, str] = {}
        for name, value in self._named_states():
            if value.cell.trainable and _matches(name, match) and not _matches(name, exclude):
                found.setdefault(value, name)
        return [(name, value) for value, name in found.items()]

    def parameters(self, match: Match = "*", exclude: Match = None) -> list[StateValue]:
        """Its parameters, each once. Freezing is leaving them out: ``exclude="body.*"``."""
        return [value for _, value in self.named_parameters(match, exclude)]

    def named_buffers(self) -> list[tuple[str, StateValue]]:
        """(name, state) pairs of what is not trainable, each once."""
        found: dict[StateValue, str] = {}
        for name, value in self._named_states():
            if not value.cell.trainable:
                found.setdefault(value, name)
        return [(name, value) for value, name in found.items()]

    def buffers(self) -> list[StateValue]:
        """Its states that are not trainable, each once."""
        return [value for _, value in self.named_buffers()]

    # ---- saving and loading

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters and saved buffers, by PyTorch's names and in its layouts.

        A tied parameter stands under each of its names.
        """
        return {name: value.numpy() for name, value in self._saved()}

    def _saved(self) -> Iterator[tuple[str, StateValue]]:
        return ((name, value) for name, value in self._named_states() if value.cell.saved)

    def load_state_dict(self, d: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Take values from arrays (or tensors) by name, all or, on an error, none.

        Of a tied parameter one name suffices. Floating types are converted to the parameter's, as
        PyTorch does; shapes must agree. ``strict=False`` passes over missing and unexpected names
        and returns them.
        """
        incompatible, commit = self._prepared(d, strict)
        commit()
        return incompatible

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` as ``load_state_dict`` does, and load nothing yet: the call that does."""
        return self._prepared(d, strict=True)[1]

    def _prepared(
        self, d: Mapping[str, Any], strict: bool
    ) -> tuple[IncompatibleKeys, Callable[[], None]]:
        names: dict[StateValue, list[str]] = {}
        for name, value in self._saved():
            names.setdefault(value, []).append(name)
        known = {name for aliases in names.values() for name in aliases}
        missing = [a[0] for a in names.values() if not any(name in d for name in a)]
        unexpected = [name for name in d if name not in known]
        if strict and (missing or unexpected):
            raise StateError(_mismatch_text(self._own_name, missing, unexpected), here())
        loaded = [
            (value, _loaded(value, name, d[name]))
            for value, aliases in names.items()
            for name in aliases
            if name in d
        ]

        def commit() -> None:
            for value, array in loaded:
                value.set(array)

        return IncompatibleKeys(missing, unexpected), commit

    # ---- modes and devices

    def with_mode(self, mode: str) -> Self:
        """A view on the same parameters whose mode is pinned: a teacher, a frozen batch norm.

        ``mode`` is ``"train"`` or ``"eval"``; it holds for everything called through the view.
        """
        if mode not in ("train", "eval"):
            raise ModeError(f"with_mode: mode is 'train' or 'eval', not {mode!r}", here())
        view = copy.copy(self)
        view.__class__ = cast(Any, _pinned_class(_class_of(self)))
        vars(view).update(_graphc_mode=mode, _graphc_origin=vars(self).get("_graphc_origin", self))
        return view

    def train(self, mode: bool = True) -> NoReturn:
        """Modules have no mode: a ModeError says where it is given."""
        self._refuse_mode("train" if mode else "eval")

    def eval(self) -> NoReturn:
        """Modules have no mode: a ModeError says where it is given."""
        self._refuse_mode("eval")

    def _refuse_mode(self, mode: str) -> NoReturn:
        raise ModeError(
            f"{self._own_name}.{mode}(): a module has no mode; an executable has: say "
            f"gc.compile(..., mode={mode!r}), or {self._own_name}.with_mode({mode!r}) for a view "
            "that keeps it",
            here(),
        )

    def to(self, device: str) -> Self:
        """Move its states to a device."""
        if device != "cpu":
            raise BackendError(f"{self._own_name}.to({device!r}): no such device here; only 'cpu'")
        return self

    # ---- wiring

    def __rshift__(self, other: object) -> Module:
        """``a >> b``: series. Anonymous chains flatten, so the names are 0, 1, 2..."""
        return _chain(self, other)

    def __rrshift__(self, other: Any) -> Any:
        """``value >> module`` calls it; a tuple or list feeds ports by position, a dict by name."""
        return feed(self, other)

    def __repr__(self) -> str:
        lines = [f"  ({name}): {child!r}".replace("\n", "\n  ") for name, child in self._children()]
        inside = "\n" + "\n".join(lines) + "\n" if lines else self._describe()
        return f"{self._own_name}({inside})"

    def _repr_svg_(self) -> str | None:
        drawn: str | None = HOOKS["svg"](self) if "svg" in HOOKS else None
        return drawn

    def _describe(self) -> str:
        """What stands in the parentheses of a module without children."""
        return ""


def _as_structure(module: Module) -> dict[str, StateValue]:
    module._name_cells()  # what is made for its parameters (averages, say) is named after them
    return dict(module.named_parameters())


tree.register(Module, _as_structure)


# ---- pinned views


class _Pinned:
    """Of a view: its other methods run in the pinned mode too."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or hasattr(Module, name) or not inspect.ismethod(found):
            return found

        @functools.wraps(found)
        def pinned(*args: Any, **kwargs: Any) -> Any:
            with pinned_mode(vars(self)["_graphc_mode"]):
                return found(*args, **kwargs)

        return pinned


_pinned_classes: dict[type[Module], type[Module]] = {}


def _pinned_class(kind: type[Module]) -> type[Module]:
    if kind not in _pinned_classes:
        members = {"__module__": kind.__module__}
        _pinned_classes[kind] = type(kind.__name__, (_Pinned, kind), members)
    return _pinned_classes[kind]


def _class_of(module: Module) -> type[Module]:
    kind = type(module)
    return kind.__mro__[2] if issubclass(kind, _Pinned) else kind


# ---- wiring


def feed(module: Module, given: Any) -> Any:
    """Call ``module`` on what flows into it: a tuple or list by position, a dict by name."""
    if isinstance(given, (tuple, list)):
        return module(*given)
    if isinstance(given, dict):
        return module(**given)
    return module(given)


def _chain(first: Module, second: object) -> Module:
    if not isinstance(second, Module):
        hint = "nn.Lambda(fn, name)" if callable(second) else "a Module"
        raise PortError(
            f"{first._own_name} >> {second!r}: series joins Modules, not "
            f"{type(second).__name__}; use {hint}",
            here(),
        )
    return Series(*_links(first), *_links(second))


def _links(module: Module) -> list[Module]:
    anonymous = type(module) is Series and "_graphc_name" not in vars(module)
    return list(module) if isinstance(module, Series) and anonymous else [module]


class Series(Module):
    """Modules one after the other, named 0, 1, 2...; what ``a >> b`` makes."""

    def __init__(self, *modules: Module) -> None:
        for position, module in enumerate(modules):
            check_module(type(self).__name__, position, module)
        self._graphc_links = {str(i): module for i, module in enumerate(modules)}

    def _members(self) -> Iterator[tuple[str, StateValue | Module]]:
        yield from self._graphc_links.items()
        yield from super()._members()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Each module on what the one before it gave."""
        links = list(self._graphc_links.values())
        if not links:
            return inputs[0] if len(inputs) == 1 else inputs
        flow = links[0](*inputs, **named)
        for module in links[1:]:
            flow = feed(module, flow)
        return flow

    @property
    def ports(self) -> tuple[str, ...]:
        """Those of its first module."""
        links = list(self._graphc_links.values())
        return links[0].ports if links else ("x",)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._graphc_links.values())

    def __len__(self) -> int:
        return len(self._graphc_links)

    def __getitem__(self, index: int | str | slice) -> Module:
        """One of them, or a series of some that keep their names."""
        if isinstance(index, str):
            return self._graphc_links[index]
        if not isinstance(index, slice):
            return list(self._graphc_links.values())[index]
        part = Series()
        part._graphc_links = dict(list(self._graphc_links.items())[index])
        return part


# ---- helpers


def check_module(who: str, place: object, module: object) -> None:
    """Raise PortError where something else stands in place of a module."""
    if not isinstance(module, Module):
        raise PortError(
            f"{who}: element {place} is {type(module).__name__}, expected a Module; use "
            "nn.Lambda(fn, name) for a function",
            here(),
        )


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _opened(name: str, held: Any) -> Iterator[tuple[str, StateValue | Module]]:
    if isinstance(held, (StateValue, Module)):
        yield name, held
    elif isinstance(held, (list, tuple)):
        for index, item in enumerate(held):
            yield from _opened(f"{name}.{index}", item)
    elif isinstance(held, dict):
        for key, item in held.items():
            yield from _opened(f"{name}.{key}", item)


def _matches(name: str, patterns: Match) -> bool:
    if patterns is None:
        return False
    given = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in given)


def _port_hint(given: int, needed: Sequence[str]) -> str:
    if given != 1 or len(needed) < 2:
        return ""
    listed = ", ".join(needed)
    return f"; one value came for {listed}: wire a tuple ({listed}) or a dict, or call it with both"


def _mismatch_text(name: str, missing: list[str], unexpected: list[str]) -> str:
    text = f"{name}.load_state_dict: the names do not match"
    if missing:
        text += f"\n  missing: {_some(missing)}"
    if unexpected:
        text += f"\n  unexpected: {_some(unexpected)}"
    return text + "\n  rename the keys, or say strict=False to load what matches"


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _loaded(value: StateValue, name: str, given: Any) -> NDArray[Any]:
    if str(getattr(given, "dtype", "")) == "torch.bfloat16":
        given = given.float()  # exact; PyTorch gives NumPy no bfloat16
    array = np.asarray(given)
    if array.dtype.kind in "fV" and value.dtype.is_float and array.shape == value.shape:
        return array.astype(value.dtype.numpy)
    return coerce_array(array, value.type, f"load_state_dict: {name!r}", here())
