"""What cannot be written on a Value, or compiled: the message says who, where and what instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim

B = gc.Dim("B")


def value(*shape: Any, name: str = "v") -> gc.Value:
    return gc.observed(name, shape or (3,))


def _if(v: gc.Value) -> int:
    if v > 0:
        return 1
    return 0


def _for(v: gc.Value) -> None:
    for _ in v:
        pass


def _assign(v: Any) -> None:
    v[0] = 1.0


def _add_in_place(array: Any, v: gc.Value) -> None:
    array += v


NOT_YET = r"is no number yet: compile it and call it"
TRUTH = r"has no truth value while the graph is built: use gc\.ops\.where or gc\.cond"

MISUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "if": (lambda: _if(value()), TypeError, TRUTH),
    "and": (lambda: value() and 1, TypeError, TRUTH + r".*& \| ~ instead of and, or, not"),
    "not": (lambda: not value(), TypeError, TRUTH),
    "chained <": (lambda: 0 < value() < 1, TypeError, TRUTH + r".*a < b < c"),
    "max of Python": (lambda: max(value(), value()), TypeError, TRUTH),
    "in a Value": (lambda: 3 in value(), TypeError, r"`in` .*write \(v == x\)\.any\(\)"),
    "in a list": (lambda: value() in [value()], TypeError, TRUTH + r".*`v in list`"),
    "float": (lambda: float(value(1)), TypeError, NOT_YET),
    "int": (lambda: int(value(1)), TypeError, NOT_YET),
    "complex": (lambda: complex(value(1)), TypeError, NOT_YET),
    "item": (lambda: value(1).item(), TypeError, NOT_YET),
    "a format": (lambda: f"{value(1):.3f}", TypeError, r"no number yet to show as '\.3f': compile"),
    "round": (lambda: round(value(1)), TypeError, r"is no number yet: .*write gc\.ops\.round\(v\)"),
    "tolist": (lambda: value().tolist(), TypeError, r"has no data yet: compile it and call it"),
    "math.exp": (lambda: math.exp(value(1)), TypeError, NOT_YET),
    "range": (lambda: range(value()), TypeError, r"is no number yet: shapes.*ints or Dims"),
    "index of a list": (lambda: [1, 2][value()], TypeError, r"gc\.ops\.take"),
    "np.asarray": (lambda: np.asarray(value()), TypeError, r"is no array yet: compile it and call"),
    "np.array of a list": (lambda: np.array([value()] * 2), TypeError, r"is no array yet"),
    "numpy": (lambda: value().numpy(), TypeError, r"has no data yet: compile it and call it"),
    "np.linalg.svd": (lambda: np.linalg.svd(value(2, 2)), TypeError, r"np\.svd does not work"),
    "np.add.reduce": (lambda: np.add.reduce(value()), TypeError, r"np\.add\.reduce .*gc\.ops"),
    "np with where=": (
        lambda: np.add(value(), 1, where=np.array([True])),
        TypeError,
        r"np\.add with where does not work",
    ),
    "iterate over a Dim": (
        lambda: _for(value(B, 2)),
        TypeError,
        r"cannot iterate.*its length is a Dim; use gc\.scan or gc\.vmap",
    ),
    "iterate over a scalar": (
        lambda: _for(gc.observed("v", ())),
        TypeError,
        r"cannot iterate over <v.*it is a scalar",
    ),
    "len of a Dim": (lambda: len(value(B)), TypeError, r"has no length: use v\.shape\[0\]"),
    "assign to an element": (
        lambda: _assign(value()),
        TypeError,
        r"is immutable: write v = v\.at\[i\]\.set\(w\)",
    ),
    "into an array": (
        lambda: _add_in_place(np.zeros(3, np.float32), value()),
        TypeError,
        r"np\.add with out does not work on <v.*gc\.ops",
    ),
    "a float64 array": (
        lambda: value() * np.zeros(3),
        gc.PromotionError,
        r"multiply: f32\[3\] and f64\[3\].*gc\.constant\(a, gc\.float32\)",
    ),
    "a word": (lambda: value() + "a", gc.DTypeError, r"add: str is no number, array or Value"),
    "shapes that differ": (
        lambda: value() + value(4, name="w"),
        gc.ShapeError,
        r"add: f32\[3\] \+ f32\[4\]: axis 0 differs \(3 and 4\)",
    ),
    "dims that differ": (
        lambda: value(B) + value(gc.Dim("C")),
        gc.ShapeError,
        r"add: f32\[B\] \+ f32\[C\]: axis 0 differs \(B and C\)",
    ),
    "a Dim against a number": (
        lambda: value(B) + value(3),
        gc.ShapeError,
        r"axis 0 differs \(B and 3\)",
    ),
    "matmul": (
        lambda: value(2, 3) @ value(4, 5),
        gc.ShapeError,
        r"matmul: f32\[2,3\] @ f32\[4,5\]: the inner axes differ \(3 and 4\)",
    ),
    "a layer of other width": (
        lambda: nn.Linear(4, 2)(value(8, 3)),
        gc.ShapeError,
        r"linear: x is f32\[8,3\], its last axis must be in_features, 4.*reshape x, or",
    ),
    "reshape to another size": (
        lambda: value(2, 3).reshape(4, 2),
        gc.ShapeError,
        r"reshape: f32\[2,3\] has 6 elements, \[4, 2\] has 8",
    ),
    "an axis that is not there": (
        lambda: value(2, 3).sum(axis=2),
        gc.ShapeError,
        r"sum: axis 2 is out of range for 2 axes",
    ),
    "an index outside": (lambda: value(3)[5], gc.ShapeError, r"5 is outside axis 0 of f32\[3\]"),
    "a gradient of a vector": (
        lambda: gc.grad(value(), value()),
        gc.GradError,
        r"grad: the cost <v: .*is not a scalar; reduce it.*gc\.vjp",
    ),
    "a gradient towards integers": (
        lambda: (lambda i: gc.grad((i * 1.0).sum(), i))(gc.observed("i", (3,), gc.int64)),
        gc.GradError,
        r"grad: wrt, <i: .*is int64, which has no derivative; declare it float32",
    ),
    "a gradient of what is not connected": (
        lambda: gc.grad(value().sum(), value(name="w")),
        gc.GradError,
        r"is not computed from <w: f32\[3\].*leave it out of wrt, or say unused=\"zero\"",
    ),
}


@pytest.mark.parametrize("name", MISUSED)
def test_a_misused_value_says_what_to_write(name: str) -> None:
    use, kind, message = MISUSED[name]
    with pytest.raises(kind, match=message) as caught:
        use()
    assert isinstance(caught.value, gc.GraphcError)
    assert "test_bad_programs.py:" in str(caught.value), "the user's line"


def test_equality_is_elementwise_and_the_hash_by_identity() -> None:
    v, w = value(), value()
    assert (v == w).dtype == gc.bool
    assert len({v, w, v}) == 2
    assert {v: 1}[v] == 1


ARRAY = np.float32([1, 2, 3])

MIXED: dict[str, tuple[Callable[[gc.Value], gc.Value], Callable[[Any], Any]]] = {
    "array * value": (lambda v: ARRAY * v, lambda a: ARRAY * a),
    "value * array": (lambda v: v * ARRAY, lambda a: a * ARRAY),
    "array - value": (lambda v: ARRAY - v, lambda a: ARRAY - a),
    "array / value": (lambda v: ARRAY / v, lambda a: ARRAY / a),
    "array @ value": (lambda v: ARRAY @ v, lambda a: ARRAY @ a),
    "array < value": (lambda v: v > ARRAY, lambda a: a > ARRAY),
    "NumPy float64 scalar": (lambda v: np.float64(2) * v, lambda a: np.float32(2) * a),
    "scalar / value": (lambda v: 2 / v, lambda a: np.float32(2) / a),
    "np.sqrt of a number": (lambda v: v / np.sqrt(8), lambda a: a / np.float32(np.sqrt(8))),
    "np.exp": (np.exp, np.exp),
    "np.maximum": (lambda v: np.maximum(v, ARRAY), lambda a: np.maximum(a, ARRAY)),
    "np.sum": (np.sum, np.sum),
    "np.where": (lambda v: np.where(v > 1, v, 0.0), lambda a: np.where(a > 1, a, 0)),
    "iteration": (lambda v: ops.stack(list(v)[::-1]), lambda a: a[::-1]),
    "unpacking": (lambda v: (lambda p, q, r: p * q - r)(*v), lambda a: a[0] * a[1] - a[2]),
    "a one-element axis": (lambda v: v.reshape(3, 1) + v, lambda a: a.reshape(3, 1) + a),
}


@pytest.mark.parametrize("name", MIXED)
def test_arrays_and_values_mix(name: str) -> None:
    program, reference = MIXED[name]
    v = value()
    out = program(v)
    assert isinstance(out, gc.Value)
    at = np.float32([0.5, 1.5, 2.5])
    got, right = gc.compile([v], out)(at), reference(at)
    assert got.dtype == right.dtype
    np.testing.assert_allclose(got, right, rtol=1e-6)


# ---- compile


def _compile_missing() -> None:
    v, w = value(), value(name="w")
    gc.compile([v], v * w)


def _compile_unreachable() -> None:
    v, w = value(), value(name="w")
    gc.compile([v, w], v * 2.0)


def _compile_twice() -> None:
    v = value()
    gc.compile([v, v], v * 2.0)


def _compile_same_names() -> None:
    v, w = value(), value()
    gc.compile([v, w], v * w)


def _compile_a_parameter_as_input() -> None:
    v, p = value(), gc.parameter((3,)).named("p")
    gc.compile([v, p], v * p)


def _compile_a_result_as_input() -> None:
    v = value()
    w = v * 2.0
    gc.compile([w], w + 1.0)


def _free_dim() -> None:
    gc.compile([], ops.zeros((B, 2)))


def _wrong_mode() -> None:
    v = value()
    gc.compile([v], v, mode="training")


def _unknown_backend() -> None:
    v = value()
    gc.compile([v], v * 2.0, backend="abacus")


def _body_value_outside() -> None:
    v, kept = value(), []

    def step(c: gc.Value, _: None) -> tuple[gc.Value, None]:
        kept.append(c * 2.0)
        return c + 1.0, None

    gc.scan(step, v, length=3)
    gc.compile([v], kept[0])


def _state() -> Any:
    return gc.state(np.zeros(3, np.float32)).named("s")


def _both_updates() -> None:
    s = _state()
    gc.Updates({s: s + 1.0}) | {s: s + 2.0}


def _two_optimizers() -> None:
    x, w = value(), gc.parameter(np.ones(3)).named("w")
    loss = (x * w).sum()
    optim.SGD(lr=0.1).minimize(loss) | optim.Adam(lr=0.1).minimize(loss)


def _attached_and_explicit() -> None:
    v, s = value(), _state()
    gc.compile([v], gc.attach_updates(v * 1.0, {s: s + v}), {s: s + 1.0})


def _update_of_no_state() -> None:
    v = value()
    gc.compile([v], (), {v: v + 1.0})


def _update_of_other_shape() -> None:
    s = _state()
    gc.compile([], (), {s: ops.zeros((4,))})


def _update_of_other_type() -> None:
    s = _state()
    gc.compile([], (), {s: s.astype(gc.int64)})


def _set_other_shape() -> None:
    _state().set(np.zeros(4, np.float32))


def _set_other_type() -> None:
    _state().set(np.zeros(3))


COMPILED: dict[Callable[[], None], tuple[type[Exception], str]] = {
    _compile_missing: (gc.BindError, r"need <w: f32\[3\].*: add to the inputs"),
    _compile_unreachable: (gc.BindError, r"<w: f32\[3\].*not needed.*drop it.*unused='ignore'"),
    _compile_twice: (gc.BindError, r"<v: f32\[3\].*is given twice as an input"),
    _compile_same_names: (gc.BindError, r"two inputs are named 'v'; give them names of their own"),
    _compile_a_parameter_as_input: (gc.BindError, r"<p: .*is a state: it is read and written"),
    _compile_a_result_as_input: (gc.BindError, r"is computed, not observed.*gc\.substitute"),
    _free_dim: (gc.BindError, r"no input binds B; add the Dim itself to the inputs"),
    _wrong_mode: (gc.ModeError, r"mode is 'train' or 'eval', not 'training'"),
    _unknown_backend: (gc.BackendError, r"no backend 'abacus'; there are: .*llvm"),
    _body_value_outside: (gc.ScopeError, r"(?s)test_bad_programs\.py:\d+.*test_bad_programs\.py"),
    _both_updates: (
        gc.StateError,
        r"state s is updated twice, at test_bad_programs\.py:\d+.*and at.*merge the two values",
    ),
    _two_optimizers: (gc.StateError, r"parameter w is updated twice, at test_bad_programs"),
    _attached_and_explicit: (
        gc.StateError,
        r"<s: .*is updated explicitly and by an attached update: keep one of them",
    ),
    _update_of_no_state: (gc.StateError, r"only what gc\.parameter or gc\.state made"),
    _update_of_other_shape: (gc.ShapeError, r"update of state s: expected shape \(3,\), got \(4,"),
    _update_of_other_type: (gc.DTypeError, r"update of state s: expected float32, got int64; say"),
    _set_other_shape: (gc.ShapeError, r"state 's': expected shape \(3,\), got \(4,\)"),
    _set_other_type: (gc.DTypeError, r"state 's': expected float32, got float64; say value"),
}


#: the call of compile is at fault, and Python's traceback shows that
WITHOUT_A_LINE = (
    _compile_twice,
    _compile_same_names,
    _free_dim,
    _wrong_mode,
    _unknown_backend,
)


@pytest.mark.parametrize("program", COMPILED, ids=lambda f: f.__name__.strip("_"))
def test_a_wrong_program_is_refused(program: Callable[[], None]) -> None:
    error, message = COMPILED[program]
    with pytest.raises(error, match=message) as caught:
        program()
    if program not in WITHOUT_A_LINE:
        assert "test_bad_programs.py:" in str(caught.value), "the user's line"
