"""What all optimizers share: the learning rate, step counters, slots, groups, saving.

An optimizer is a formula ``(parameter, gradient, slots) -> (new parameter, new slots)``. Its memory
(slots, step counters, learning rate) is made once per parameter and shared by every executable.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc import tree
from graphc.autodiff import grad, gradients
from graphc.dsl import StateValue, state_value_of
from graphc.errors import GradError, ShapeError, StateError
from graphc.graph import Value, ancestors, apply
from graphc.optim.settings import Setting, at_step, checked, numbers, states, varies
from graphc.records import dataclass
from graphc.source import here
from graphc.state import StateCell, prepare_cells
from graphc.types import DType, TensorType, float64, int64
from graphc.updates import Updates

__all__ = [
    "Moment",
    "Optimizer",
    "Rule",
    "decayed",
    "descent",
    "distinct",
    "parameter_of",
    "slopes_of",
]

_DECAYS = ("betas", "alpha", "rho", "beta")
_NOT_NEGATIVE = ("eps", "weight_decay", "momentum", "lr_decay", "momentum_decay", "l1")


@dataclass(frozen=True)
class Moment:
    """When a step happens and how large it is, in the parameter's element type.

    ``t`` counts from 1, as the formulas do; ``first`` tells (a bool scalar) whether it is the
    first.
    """

    t: Value
    lr: Value
    first: Value


@dataclass(frozen=True)
class Rule:
    """The new parameter, and the new values of its slots by name."""

    parameter: Value
    slots: Mapping[str, Value] = field(default_factory=dict)


class Optimizer:
    """Base of the optimizers; a subclass says which slots a parameter has, and the formula."""

    #: what ``groups`` may override
    options: tuple[str, ...] = ()
    #: those of them that may be functions of the step or Values, as ``lr``
    varying: tuple[str, ...] = ()

    def __init__(
        self,
        lr: Setting,
        groups: Mapping[str, Mapping[str, Any]] | None,
        **options: Any,
    ) -> None:
        self._options = options
        self._groups = {glob: dict(given) for glob, given in (groups or {}).items()}
        for glob, given in self._groups.items():
            known = ("lr", *self.options, "maximize")
            unknown = [name for name in given if name not in known]
            if unknown:
                raise StateError(
                    f"{self._name}: group {glob!r} sets {', '.join(unknown)}; "
                    f"its options are {', '.join(known)}",
                    here(),
                )
            self._check(options | {k: v for k, v in given.items() if k != "lr"})
        self._check(options)
        self._rates = {"": _rate("lr", lr)} | {
            glob: _rate(f"lr[{glob}]", given["lr"])
            for glob, given in self._groups.items()
            if "lr" in given
        }
        self._slots: dict[StateValue, dict[str, StateValue]] = {}
        self._taken: set[str] = set()
        self._counters: dict[StateValue, StateValue] = {}
        self._next: dict[StateValue, Value] = {}
        self._pending: dict[str, NDArray[Any]] = {}

    # ---- what a subclass gives

    def _check(self, options: Mapping[str, Any]) -> None:
        """Refuse options outside of their range: betas of [0, 1), what must not be negative; and
        what is no number where no other thing is taken.
        """
        for key, value in options.items():
            if varies(value) and key not in self.varying:
                raise ValueError(
                    f"{self._name}: {key} must be a number; functions of the step and Values are "
                    f"taken for {', '.join(('lr', *self.varying))}"
                )
            fixed = numbers(checked(f"{self._name}: {key}", value))
            if key in _DECAYS and not all(0.0 <= b < 1.0 for b in fixed):
                raise ValueError(f"{self._name}: {key} must be in [0, 1), got {value}")
            if key in _NOT_NEGATIVE and not all(n >= 0.0 for n in fixed):
                raise ValueError(f"{self._name}: {key} must be >= 0, got {value}")

    def _slot_names(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of a parameter's slots, all shaped like it and zero at first."""
        raise TypeError(f"{type(self).__name__} does not say its slots")

    def _slot_type(self, name: str, of: TensorType) -> TensorType:
        """The type of a slot of a parameter: its own, where the optimizer says nothing else."""
        return of

    def _rule(
        self,
        p: Value,
        g: Value,
        slots: Mapping[str, Value],
        moment: Moment,
        options: Mapping[str, Any],
    ) -> Rule:
        """The formula."""
        raise TypeError(f"{type(self).__name__} does not say its formula")

    # ---- what a person calls

    def minimize(self, cost: Value, wrt: Any = None) -> Updates:
        """One step down the gradient of ``cost``.

        ``wrt`` is a parameter, a structure of them or a Module; by default every parameter that a
        differentiable path joins to the cost.
        """
        return self.updates(*slopes_of(self._name, cost, wrt))

    def updates(self, parameters: Any, gradients: Any) -> Updates:
        """One step along gradients that the caller made (clipped, accumulated): the new values.

        ``gradients`` has the structure of ``parameters``: as ``gc.grad`` gives them.
        """
        values, form = tree.flatten(parameters)
        slopes = tree.matching_leaves(gradients, form, f"{self._name}.updates: gradients")
        targets = [parameter_of(self._name, value) for value in values]
        _check_gradients(self._name, targets, slopes)
        self._warn_unmatched(targets)
        self._count_together(targets)
        moments: dict[tuple[Any, ...], tuple[Moment, dict[str, Any]]] = {}
        new: dict[Value, Value] = {}
        for target, slope in zip(targets, slopes, strict=True):
            rule = self._apply(target, slope, moments)
            new[target] = rule.parameter
            new.update({self.slots(target)[name]: value for name, value in rule.slots.items()})
        for target in targets:
            counter = self._counters[target]
            new[counter] = self._next[counter]
        return Updates(new, trains=True)

    def _apply(
        self,
        target: StateValue,
        slope: Value,
        moments: dict[tuple[Any, ...], tuple[Moment, dict[str, Any]]],
    ) -> Rule:
        key = self._counters[target], self._group_of(target), target.dtype
        if key not in moments:
            moments[key] = self._moment(*key)
        moment, options = moments[key]
        slots = {name: apply("read", slot) for name, slot in self.slots(target).items()}
        return self._rule(apply("read", target), slope, slots, moment, options)

    @property
    def lr(self) -> float:
        """The learning rate. Assigning it changes the next call, with no new code."""
        rate = self._rates[""]
        if not isinstance(rate, StateValue):
            raise StateError(
                f"{self._name}.lr is computed by a schedule: compile it as an output to see it",
                here(),
            )
        return float(rate.numpy())

    @lr.setter
    def lr(self, value: float) -> None:
        rate = self._rates[""]
        if not isinstance(rate, StateValue):
            raise StateError(
                f"{self._name}.lr is computed by a schedule and cannot be assigned; "
                "make the optimizer with a number, or with a gc.state of your own",
                here(),
            )
        if not value >= 0.0:
            raise ValueError(f"{self._name}.lr: expected a number >= 0, got {value!r}")
        rate.set(float(value))

    def rates(self) -> list[StateValue]:
        """The states that hold its learning rates, its own first, then those of groups; none for
        what a schedule computes.
        """
        return [state for rate in self._rates.values() for state in states(rate)]

    @property
    def steps(self) -> int:
        """How many steps it has made (the most that any of its parameters saw)."""
        counters = set(self._counters.values())
        return max((int(counter.numpy()) for counter in counters), default=0)

    def slots(self, parameter: Value) -> dict[str, StateValue]:
        """The slots of a parameter by name: ``exp_avg`` and ``exp_avg_sq`` of Adam, say."""
        target = parameter_of(self._name, parameter)
        if target not in self._slots:
            options = self._options_of(self._group_of(target))
            key = distinct(target.cell.name or "parameter", self._taken)
            self._slots[target] = {
                name: self._cell(f"{key}.{name}", self._slot_type(name, target.type))
                for name in self._slot_names(options)
            }
        return self._slots[target]

    # ---- saving

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of all it remembers by name: ``0.weight.exp_avg``, ``steps``, ``lr``."""
        return {name: value.numpy() for name, value in self._states().items()} | self._pending

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave, all or, on an error, nothing.

        What belongs to a parameter not seen yet waits for it.
        """
        self.prepare_loading(d)()

    def prepare_loading(self, d: Mapping[str, Any]) -> Callable[[], None]:
        """Check ``d`` and load nothing yet: the call that does."""
        cells = {name: value.cell for name, value in self._states().items()}
        load = prepare_cells(f"{self._name}.load_state_dict", cells, d, partial=True)
        waiting = {name: np.array(value) for name, value in d.items() if name not in cells}

        def commit() -> None:
            load()
            self._pending.update(waiting)

        return commit

    def _states(self) -> dict[str, StateValue]:
        found: dict[str, StateValue] = {}
        options = [self._options_of(glob) for glob in ("", *self._groups)]
        settings = [*self._rates.values(), *(o[name] for o in options for name in self.varying)]
        for held in (state for setting in settings for state in states(setting)):
            if held.cell.name:
                found[held.cell.name] = held
        for held in (*self._counters.values(), *_flat(self._slots)):
            found[held.cell.name] = held
        return found

    # ---- its memory

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _cell(self, name: str, type: TensorType) -> StateValue:
        made = state_value_of(StateCell(name, type, source=here()))
        if name in self._pending:
            made.set(self._pending.pop(name))
        return made

    def _count_together(self, targets: list[StateValue]) -> None:
        """Parameters that have no step counter yet share a new one."""
        fresh = [target for target in targets if target not in self._counters]
        if not fresh:
            return
        number = len(set(self._counters.values()))
        name = "steps" if number == 0 else f"steps#{number + 1}"
        counter = self._cell(name, TensorType(int64, ()))
        self._next[counter] = counter + 1
        self._counters.update(dict.fromkeys(fresh, counter))

    def _group_of(self, target: StateValue) -> str:
        """The key of the first group that a parameter belongs to, "" where it is in none."""
        return next((glob for glob in self._groups if fnmatchcase(target.cell.name, glob)), "")

    def _options_of(self, group: str) -> dict[str, Any]:
        return self._options | self._groups.get(group, {})

    def _warn_unmatched(self, targets: list[StateValue]) -> None:
        names = [t.cell.name for t in (*targets, *self._counters)]
        for glob in self._groups:
            if not any(fnmatchcase(name, glob) for name in names):
                warnings.warn(
                    f"{self._name}: group {glob!r} matches none of the parameters "
                    f"{', '.join(names[:6])}",
                    stacklevel=3,
                )

    def _moment(
        self, counter: StateValue, group: str, dtype: DType
    ) -> tuple[Moment, dict[str, Any]]:
        """The step as a group sees it, and its options, those that vary as they are now."""
        rate, options = self._rates.get(group, self._rates[""]), self._options_of(group)
        now = {
            name: at_step(f"{self._name}: {name}", setting, counter, dtype)
            for name, setting in {"lr": rate, **{n: options[n] for n in self.varying}}.items()
        }
        t = self._next[counter].astype(dtype)
        return Moment(t=t, lr=now.pop("lr"), first=counter == 0), options | now


def slopes_of(who: str, cost: Value, wrt: Any) -> tuple[list[StateValue], list[Value]]:
    """The parameters that ``wrt`` names, each once, or all that a differentiable path joins to the
    cost, and its gradients by them.
    """
    if wrt is not None:
        parameters = [parameter_of(who, value) for value in dict.fromkeys(tree.leaves(wrt))]
        return parameters, list(grad(cost, parameters))
    reached = [n.outputs[0] for n in ancestors([cost]) if n.op == "parameter"]
    pairs = zip(reached, gradients(cost, reached), strict=True)
    joined = [(p, g) for p, g in pairs if g is not None]
    if not joined:
        raise GradError(
            f"{who}.minimize: {cost!r} depends on no parameter; "
            "name what to change: minimize(cost, wrt=...)",
            here(),
        )
    return [parameter_of(who, p) for p, _ in joined], [g for _, g in joined]


def descent(p: Value, g: Value, options: Mapping[str, Any]) -> Value:
    """The gradient to go down: turned round for ``maximize``, with L2's ``weight_decay p``."""
    if options["maximize"]:
        g = -g
    return g + options["weight_decay"] * p if options["weight_decay"] else g


def decayed(
    p: Value, g: Value, moment: Moment, options: Mapping[str, Any], *, decoupled: bool
) -> tuple[Value, Value]:
    """Parameter and gradient with the weight decay on the one (decoupled) or the other."""
    if not decoupled:
        return p, descent(p, g, options)
    g = -g if options["maximize"] else g
    decay = options["weight_decay"]
    return (p * (1.0 - moment.lr * decay) if decay else p), g


def distinct(wanted: str, taken: set[str]) -> str:
    """``wanted``, told apart from others of the same name, and taken from here on."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    taken.add(name)
    return name


def _rate(name: str, lr: Setting) -> Callable[[Value], Value] | Value:
    """A number becomes a state, which can be assigned."""
    checked(name, lr)
    if isinstance(lr, Value) or callable(lr):
        return lr
    if not lr >= 0.0:
        raise ValueError(f"{name}: expected a number >= 0, got {lr!r}")
    return state_value_of(
        StateCell(name, TensorType(float64, ()), np.asarray(float(lr)), source=here())
    )


def parameter_of(who: str, value: object) -> StateValue:
    """``value``, if it can be updated."""
    if not isinstance(value, StateValue):
        raise StateError(
            f"{who}: {value!r} is no parameter: only what gc.parameter or gc.state made can be "
            "updated",
            here(),
        )
    return value


def _check_gradients(
    who: str, targets: Sequence[StateValue], slopes: Sequence[Value | float]
) -> None:
    """One for each parameter, in its shape: nothing is broadcast, and nothing written twice."""
    seen: set[StateValue] = set()
    for target, slope in zip(targets, slopes, strict=True):
        if target in seen:
            raise StateError(
                f"{who}.updates: {target!r} is given twice; add its gradients up", here()
            )
        seen.add(target)
        shape = slope.shape if isinstance(slope, Value) else np.shape(slope)
        if shape != target.shape:
            raise ShapeError(
                f"{who}.updates: the gradient of {target!r} has shape {shape}, not {target.shape}",
                here(),
            )


def _flat(slots: Mapping[StateValue, Mapping[str, StateValue]]) -> list[StateValue]:
    return [held for named in slots.values() for held in named.values()]
