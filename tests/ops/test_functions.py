"""The public functions and operators: NumPy's results, the rules of types, the remedies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import autodiff, ops
from graphc.graph import Graph, Value, source_value
from graphc.interpret import interpret
from graphc.types import (
    Dim,
    DType,
    TensorType,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
    uint32,
)

RNG = np.random.default_rng(11)
X = RNG.normal(size=(5, 6, 4))


def observed(shape: tuple[Any, ...], dtype: DType = float64, name: str = "x") -> Value:
    return source_value("observed", TensorType(dtype, shape), name)


def run(value: Any, x: Value, array: Any) -> Any:
    return interpret(Graph((x,), (value,)), [array])[0][0]


def same_as_numpy(ours: Callable[[Any], Any], theirs: Callable[[Any], Any], array: Any) -> None:
    array = np.asarray(array)
    x = observed(array.shape, gc.types.dtype_of(array.dtype))
    with np.errstate(all="ignore"):
        got, wanted = run(ours(x), x, array), np.asarray(theirs(array))
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-12)


UNARY = [
    *("exp", "exp2", "expm1", "sin", "cos", "tan", "tanh", "floor", "ceil", "trunc", "abs"),
    *("sign", "square", "isnan", "isinf", "isfinite", "negative", "round", "sinh", "cosh"),
    *("arctan", "reciprocal"),
]


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions(name: str) -> None:
    same_as_numpy(getattr(ops, name), getattr(np, name), X[0])


@pytest.mark.parametrize("name", ["log", "log2", "log1p", "log10", "sqrt"])
def test_functions_of_positive_numbers(name: str) -> None:
    same_as_numpy(getattr(ops, name), getattr(np, name), np.abs(X[0]) + 0.1)


BINARY = [
    *("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "copysign"),
    "logaddexp",
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("other", [X[1], X[0, 1], 1.5, -2], ids=["tensor", "row", "float", "int"])
def test_binary_functions(name: str, other: Any) -> None:
    ours, theirs = getattr(ops, name), getattr(np, name)
    same_as_numpy(lambda x: ours(x, other), lambda x: theirs(x, other), X[0])
    same_as_numpy(lambda x: ours(other, x), lambda x: theirs(other, x), X[0])


REDUCTIONS = ["sum", "prod", "max", "min", "mean", "var", "std", "argmax", "argmin", "any", "all"]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [None, 0, -1, 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name: str, axis: Any, keepdims: bool) -> None:
    array = X > 1.0 if name in ("any", "all") else X
    ours, theirs = getattr(ops, name), getattr(np, name)
    same_as_numpy(
        lambda x: ours(x, axis=axis, keepdims=keepdims),
        lambda x: theirs(x, axis=axis, keepdims=keepdims),
        array,
    )


MOVEMENT: list[Callable[[Any, Any], Any]] = [
    lambda m, x: m.reshape(x, (6, -1)),
    lambda m, x: m.transpose(x, (2, 0, 1)) if m is np else ops.permute_dims(x, (2, 0, 1)),
    lambda m, x: m.swapaxes(x, 0, -1),
    lambda m, x: m.moveaxis(x, 0, -1),
    lambda m, x: m.moveaxis(x, (0, 1), (2, 0)),
    lambda m, x: m.expand_dims(x, (0, 2)),
    lambda m, x: m.squeeze(m.expand_dims(x, 1), 1),
    lambda m, x: m.broadcast_to(m.expand_dims(x, 1), (5, 3, 6, 4)),
    lambda m, x: m.flip(x, (0, 2)),
    lambda m, x: m.roll(x, 2, 1),
    lambda m, x: m.roll(x, -1),
    lambda m, x: m.tile(x, (2, 1, 3)),
    lambda m, x: m.tile(x, (2, 1, 1, 2)),
    lambda m, x: m.repeat(x, 3, 1),
    lambda m, x: m.stack([x, x * 2.0], 1),
    lambda m, x: m.tril(x, 1),
    lambda m, x: m.triu(x),
    lambda m, x: m.split(x, 3, 1)[1],
    lambda m, x: m.split(x, [1, 4], 1)[1],
    lambda m, x: (m.concatenate if m is np else ops.concat)([x, x[:1]], 0),
    lambda m, x: m.pad(x, ((1, 0), (0, 2), (1, 1))),
    lambda m, x: m.cumsum(x, 1),
    lambda m, x: m.where(x > 0, x, 0.0),
    lambda m, x: m.clip(x, -0.5, 0.5),
]


@pytest.mark.parametrize("number", range(len(MOVEMENT)))
def test_movement(number: int) -> None:
    program = MOVEMENT[number]
    same_as_numpy(lambda x: program(ops, x), lambda x: program(np, x), X)


I, J = np.array([0, -1, 2]), np.array([[1], [0], [-2]])
INDICES = [
    *(
        "0",
        "-1",
        "1:4",
        "::2",
        "::-1",
        "4:0:-2",
        "...,1",
        "None",
        ":,None,1:3",
        "1,2,3",
        "I",
        ":,I",
    ),
    *(
        "J",
        "I,I",
        ":,I,I",
        "I,:,I",
        "0,:,I",
        ":,0,I",
        "0,I",
        "I,J[:,0]",
        "I[:,None],I",
        "2:2",
        "...",
    ),
    *(":,1:100", "-3:-1,...,::3"),
]


def read(x: Any, index: str) -> Any:
    return eval(f"x[{index}]", {"x": x, "I": I, "J": J})


@pytest.mark.parametrize("index", INDICES)
def test_indexing(index: str) -> None:
    same_as_numpy(lambda x: read(x, index), lambda x: read(x, index), X)


WRITES = ["0", "1:3", "::2", "::-2", ":,1:3,0", "...", "I", ":,I", "I,I", "4:1:-1", "1:6:3,2"]
#: index arrays beside positions and ranges
WRITES += ["I,0", "2,I", "1:6:2,I", "I,::-1", "0,I,1:2", "I,I,0", "-1:,I,...", ":0,I"]


@pytest.mark.parametrize("index", WRITES)
@pytest.mark.parametrize("mode", ["set", "add", "max", "min"])
def test_at(index: str, mode: str) -> None:
    new = RNG.normal(size=read(X, index).shape)

    def ours(x: Value) -> Value:
        place = eval(f"x.at[{index}]", {"x": x, "I": I, "J": J})
        changed: Value = getattr(place, mode)(new)
        return changed

    def theirs(x: Any) -> Any:
        out = x.copy()
        where = eval(f"np.s_[{index}]", {"np": np, "I": I, "J": J})
        if mode == "set":
            out[where] = new
        else:
            {"add": np.add, "max": np.maximum, "min": np.minimum}[mode].at(out, where, new)
        return out

    same_as_numpy(ours, theirs, X)


def test_positions_apart_from_index_arrays_are_refused() -> None:
    x = observed(X.shape)
    with pytest.raises(gc.ShapeError, match="a position must stand next to the index arrays"):
        x.at[0, :, I].set(1.0)


@pytest.mark.parametrize("place", [2, -1])
def test_indexing_by_values(place: int) -> None:
    x, i = observed(X.shape), observed((), int64, "i")
    written = X.copy()
    written[:, place] = 7.0
    values = (x[i], x[:, i], x.at[:, i].set(7.0), x[i, :, 1], x[i, I], ops.take(x, i, 1))
    got, _ = interpret(Graph((x, i), values), [X, place])
    wanted = [X[place], X[:, place], written, X[place, :, 1], X[place, I], X[:, place]]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_index_out_of_range_is_an_error_of_the_call() -> None:
    x, i = observed((5,)), observed((3,), int64, "i")
    with pytest.raises(gc.RuntimeCheckError, match=r"outside 0\.\.4"):
        interpret(Graph((x, i), (x[i],)), [np.zeros(5), np.array([0, 5, 1])])
    with pytest.raises(gc.ShapeError, match="outside axis 0"):
        x[5]


def test_boolean_masks_say_what_to_write() -> None:
    x = observed((5,))
    with pytest.raises(gc.ShapeError, match=r"mask\.sum\(\)"):
        x[x > 0]


def test_take_along_axis_and_segments() -> None:
    same_as_numpy(
        lambda x: ops.take_along_axis(x, np.argsort(X, 1), 1),
        lambda x: np.take_along_axis(x, np.argsort(X, 1), 1),
        X,
    )
    ids = np.array([0, 2, 0, 2, 3])
    x = observed(X.shape)
    total = run(ops.segment_sum(x, ids, 5), x, X)
    highest = run(ops.segment_max(x, ids, 5), x, X)
    mean = run(ops.segment_mean(x, ids, 5), x, X)
    for segment in range(5):
        chosen = X[ids == segment]
        np.testing.assert_allclose(total[segment], chosen.sum(0))
        wanted = chosen.max(0) if len(chosen) else np.full(X.shape[1:], -np.inf)
        np.testing.assert_array_equal(highest[segment], wanted)
        np.testing.assert_allclose(mean[segment], chosen.sum(0) / max(len(chosen), 1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort(axis: int) -> None:
    array = np.round(X * 2.0)
    array[0, 0, 0] = array[2, 3, 1] = np.nan
    same_as_numpy(lambda x: ops.sort(x, axis), lambda x: np.sort(x, axis), array)
    same_as_numpy(lambda x: ops.argsort(x, axis), lambda x: np.argsort(x, axis, stable=True), array)
    same_as_numpy(lambda x: ops.sort(x, axis, descending=True), lambda x: -np.sort(-x, axis), array)


def test_top_k() -> None:
    x = observed(X.shape)
    values, places = ops.top_k(x, 3)
    order = np.argsort(-X, axis=-1)[..., :3]
    np.testing.assert_array_equal(run(places, x, X), order)
    np.testing.assert_array_equal(run(values, x, X), np.take_along_axis(X, order, -1))
    grad = autodiff.grad(values.sum(), x)
    wanted = np.zeros_like(X)
    np.put_along_axis(wanted, order, 1.0, -1)
    np.testing.assert_array_equal(run(grad, x, X), wanted)


def test_softmax_family_survives_large_numbers() -> None:
    array = np.array([[1e4, 1e4 + 1.0, -1e4], [-1e4, -1e4, -1e4]])
    x = observed(array.shape)
    shifted = np.exp(array - array.max(1, keepdims=True))
    wanted = shifted / shifted.sum(1, keepdims=True)
    np.testing.assert_allclose(run(ops.softmax(x), x, array), wanted)
    sums = array.max(1) + np.log(shifted.sum(1))
    np.testing.assert_allclose(run(ops.logsumexp(x, 1), x, array), sums)
    logs = array - sums[:, None]
    np.testing.assert_allclose(run(ops.log_softmax(x), x, array), logs)
    gradient = autodiff.grad(ops.logsumexp(x, 1).sum(), x)
    np.testing.assert_allclose(run(gradient, x, array), wanted)


def test_logsumexp_of_infinities() -> None:
    array = np.array([[-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, 2.0]])
    x = observed(array.shape)
    with np.errstate(all="ignore"):
        got = run(ops.logsumexp(x, 1), x, array)
    np.testing.assert_array_equal(got, [-np.inf, np.inf, 2.0])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["relu", "maximum", "clip", "max", "abs", "norm", "prod"])
def test_derivatives_at_ties_and_kinks_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    array = np.array([[0.0, -1.0, 2.0, 2.0], [0.0, 0.0, -3.0, 0.0]])
    programs: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "relu": (ops.relu, torch.relu),
        "maximum": (
            lambda x: ops.maximum(x, 0.0),
            lambda x: torch.maximum(x, torch.zeros_like(x)),
        ),
        "clip": (lambda x: ops.clip(x, -1.0, 2.0), lambda x: torch.clamp(x, -1.0, 2.0)),
        "max": (lambda x: x.max(1), lambda x: torch.amax(x, 1)),
        "abs": (ops.abs, torch.abs),
        "norm": (lambda x: ops.norm(x * 0.0), lambda x: torch.linalg.vector_norm(x * 0.0)),
        "prod": (lambda x: x.prod(1), lambda x: torch.prod(x, 1)),
    }
    ours, theirs = programs[name]
    x = observed(array.shape)
    tensor = torch.tensor(array, requires_grad=True)
    theirs(tensor).sum().backward()
    got = run(autodiff.grad(ours(x).sum(), x), x, array)
    np.testing.assert_array_equal(got, tensor.grad.numpy())


# ---- types


JOINS = [
    (float32, float16, float32),
    (int64, float32, float32),
    (bool_, int32, int32),
    (int32, int64, int64),
    (uint8, int8, int32),
    (uint32, int32, int64),
    (int64, float64, float64),
]


@pytest.mark.parametrize(("a", "b", "wanted"), JOINS)
def test_promotion(a: DType, b: DType, wanted: DType) -> None:
    assert (observed((2,), a) + observed((2,), b)).dtype == wanted
    assert (observed((2,), b) + observed((2,), a)).dtype == wanted


@pytest.mark.parametrize(
    ("dtype", "scalar", "wanted"),
    [
        (float32, 1.5, float32),
        (float32, np.float64(1.5), float32),
        (float32, np.array(1.5), float32),
        (float16, 2, float16),
        (int64, 2, int64),
        (int64, 1.5, float32),
        (bool_, 1, int64),
        (uint8, 3, uint8),
    ],
)
def test_scalars_are_weak(dtype: DType, scalar: Any, wanted: DType) -> None:
    assert (observed((2,), dtype) * scalar).dtype == wanted
    assert (scalar * observed((2,), dtype)).dtype == wanted


def test_division_of_integers_is_float32() -> None:
    assert (observed((2,), int64) / 2).dtype == float32
    assert (observed((2,), int64) // 2).dtype == int64


def test_a_float64_array_never_widens_float32() -> None:
    x = observed((2,), float32)
    for operation in (lambda: x + np.ones(2), lambda: np.ones(2) * x):
        with pytest.raises(gc.PromotionError, match=r"f32\[2\] and f64\[2\]|f64\[2\] and f32\[2\]"):
            operation()
    assert (x + np.ones(2, np.float32)).dtype == float32


def test_an_integer_scalar_must_fit() -> None:
    with pytest.raises(gc.DTypeError, match="300 does not fit uint8"):
        observed((2,), uint8) + 300


def test_dims_never_broadcast() -> None:
    batch = Dim("B")
    x = observed((batch, 4))
    assert (x + observed((1, 4))).shape == (batch, 4)
    with pytest.raises(gc.ShapeError, match=r"axis 0 differs \(B and 3\)"):
        x + observed((3, 4))
    with pytest.raises(gc.ShapeError, match=r"axis 0 differs \(B and N\)"):
        x + observed((Dim("N"), 4))


def test_a_shape_error_is_the_designs() -> None:
    with pytest.raises(gc.ShapeError) as caught:
        observed((8, 16), float32) + observed((8, 15), float32)
    lines = str(caught.value).split("\n")
    assert lines[0] == "add: f32[8,16] + f32[8,15]: axis 1 differs (16 and 15)"
    assert lines[1].startswith("  defined at test_functions.py:")
    assert lines[1].endswith(" in test_a_shape_error_is_the_designs")


def test_symbolic_reshapes() -> None:
    batch = Dim("B")
    x = observed((batch, 6, 4))
    assert x.reshape(-1, 24).shape == (batch, 24)
    assert x.reshape(batch * 2, -1).shape == (batch * 2, 12)
    assert x.mean().shape == ()
    with pytest.raises(gc.ShapeError, match="do not divide"):
        x.reshape(-1, 7)
    with pytest.raises(gc.ShapeError, match="do not divide"):
        x.reshape(-1, batch * 7)


# ---- Python and NumPy


def test_numpy_functions_reach_ours() -> None:
    x = observed(X.shape)
    for value, wanted in (
        (np.ones(4) * x, X),
        (np.exp(x), np.exp(X)),
        (np.concatenate([x, x]), np.concatenate([X, X])),
        (np.sum(x, axis=1), X.sum(1)),
        (np.einsum("ijk,ijl->kl", x, x), np.einsum("ijk,ijl->kl", X, X)),
        (np.float64(2.0) * x, 2 * X),
        (X - x, X * 0),
        (np.transpose(x), X.T),
    ):
        np.testing.assert_allclose(run(value, x, X), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("use", "remedy"),
    [
        (bool, "where"),
        (float, "compile it and call it"),
        (int, "compile it and call it"),
        (np.asarray, "gc.ops"),
        (lambda x: 1.0 in x, "any"),
        (lambda x: [1, 2][x], "shapes and Python indices"),
        (lambda x: np.linalg.inv(x), "gc.ops"),
        (lambda x: np.add.reduce(x), "gc.ops"),
        (lambda x: x.__setitem__(0, 1.0), r"v\.at\[i\]\.set"),
        (lambda x: x.numpy(), "compile it"),
        (lambda x: iter(x.sum()), "scalar"),
    ],
)
def test_what_cannot_work_says_what_to_write(use: Callable[[Any], Any], remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy) as caught:
        use(observed((2, 2)))
    assert isinstance(caught.value, gc.GraphcError)


def test_unpacking_and_length() -> None:
    first, second = observed((2, 3))
    assert first.shape == second.shape == (3,)
    assert len(observed((2, 3))) == 2
    with pytest.raises(TypeError, match=r"gc\.scan"):
        iter(observed((Dim("B"), 3)))


def test_one_hot_arange_eye() -> None:
    x = observed((2,), int64)
    np.testing.assert_array_equal(run(ops.one_hot(x, 3), x, [2, 0]), np.eye(3)[[2, 0]])
    values = (ops.arange(5), ops.arange(9, -1, -2), ops.eye(2, 3), ops.linspace(0.0, 1.0, 5))
    got, _ = interpret(Graph((), values), [])
    wanted = (np.arange(5), np.arange(9, -1, -2), np.eye(2, 3), np.linspace(0.0, 1.0, 5))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_random_words_are_the_numpy_philox() -> None:
    from graphc.ops.random import normal_from, uniform_from
    from graphc.philox import normal_float64, uniform

    key = observed((), int64, name="key")
    number = (7 << 32) | 5
    values = (uniform_from(key, (3, 4)), normal_from(key, (5,)))
    (flat, normal), _ = interpret(Graph((key,), values), [number])
    np.testing.assert_array_equal(flat, uniform((5, 7), (3, 4)))
    np.testing.assert_allclose(normal, normal_float64((5, 7), (5,)), rtol=2e-5, atol=1e-6)
