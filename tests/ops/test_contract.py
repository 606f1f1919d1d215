"""Products, convolutions and their derivatives to second order, against NumPy and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc as gc
from graphc import autodiff, ops
from graphc.contraction import Affine, ContractSpec, Divisible, Quotient, axis, constant
from graphc.graph import Graph, Value, source_value
from graphc.interpret import interpret
from graphc.ops.transposition import transpose
from graphc.text_parser import parse_graph
from graphc.types import Dim, TensorType, float64

RNG = np.random.default_rng(7)


def observed(shape: tuple[Any, ...], name: str = "x") -> Value:
    return source_value("observed", TensorType(float64, shape), name)


def run(outputs: Any, **arrays: Any) -> list[Any]:
    values = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    inputs = tuple(n.outputs[0] for n in Graph((), tuple(values)).nodes if n.op == "observed")
    return interpret(Graph(inputs, tuple(values)), [arrays[str(v.name)] for v in inputs])[0]


SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((1, 3, 4), (6, 4, 5)),
    ((3, 0), (0, 5)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul_is_numpys(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = RNG.normal(size=a), RNG.normal(size=b)
    got = run(observed(a, "a") @ observed(b, "b"), a=x, b=y)[0]
    assert got.shape == np.matmul(x, y).shape
    np.testing.assert_allclose(got, x @ y, atol=1e-12)


FORMULAS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,kj", (2, 3), (4, 3)),
    ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("...i,ij->...j", (2, 5, 3), (3, 4)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 2)),
    ("i,j->ij", (3,), (4,)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ii,i->i", (3, 3), (3,)),
]


@pytest.mark.parametrize(("formula", "a", "b"), FORMULAS)
def test_einsum_is_numpys(formula: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = RNG.normal(size=a), RNG.normal(size=b)
    got = run(ops.einsum(formula, observed(a, "a"), observed(b, "b")), a=x, b=y)[0]
    np.testing.assert_allclose(got, np.einsum(formula, x, y), atol=1e-12)


@pytest.mark.parametrize(
    "formula", ["ij->ji", "ij->i", "ij->", "ii->i", "ii", "iij->j", "...j->j..."]
)
def test_einsum_of_one_operand(formula: str) -> None:
    shape = (3, 3, 4) if formula in ("iij->j", "...j->j...") else (3, 3)
    x = RNG.normal(size=shape)
    got = run(ops.einsum(formula, observed(shape)), x=x)[0]
    np.testing.assert_allclose(got, np.einsum(formula, x), atol=1e-12)


def test_einsum_of_three_operands() -> None:
    a, b, c = (RNG.normal(size=s) for s in ((2, 3), (3, 4), (4, 5)))
    values = [observed(s, n) for s, n in (((2, 3), "a"), ((3, 4), "b"), ((4, 5), "c"))]
    got = run(ops.einsum("ij,jk,kl->il", *values), a=a, b=b, c=c)[0]
    np.testing.assert_allclose(got, a @ b @ c, atol=1e-12)


def test_tensordot_outer_inner() -> None:
    a, b = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(3, 4, 5))
    x, y = observed((2, 3, 4), "a"), observed((3, 4, 5), "b")
    np.testing.assert_allclose(run(ops.tensordot(x, y), a=a, b=b)[0], np.tensordot(a, b))
    got = run(ops.tensordot(x, y, ((1, 2), (0, 1))), a=a, b=b)[0]
    np.testing.assert_allclose(got, np.tensordot(a, b, ((1, 2), (0, 1))))
    got = run(ops.outer(observed((2,), "a"), observed((3,), "b")), a=a[:, 0, 0], b=b[:, 0, 0])[0]
    np.testing.assert_allclose(got, np.outer(a[:, 0, 0], b[:, 0, 0]))


def test_matmul_errors_name_the_shapes_and_the_line() -> None:
    with pytest.raises(gc.ShapeError, match=r"f64\[2,3\] @ f64\[4,5\]: the inner axes differ"):
        observed((2, 3)) @ observed((4, 5))
    with pytest.raises(gc.ShapeError, match="axis 0 differs"):
        observed((2, 3, 4)) @ observed((3, 4, 5))
    with pytest.raises(gc.ShapeError, match=r"test_contract.py:\d+"):
        observed((2, 3)) @ observed(())


def test_matmul_with_symbolic_sizes() -> None:
    batch, tokens = Dim("B"), Dim("T")
    x, w = observed((batch, tokens, 8)), observed((8, 3), "w")
    y = x @ w
    assert y.shape == (batch, tokens, 3)
    array, weight = RNG.normal(size=(2, 5, 8)), RNG.normal(size=(8, 3))
    np.testing.assert_allclose(run(y, x=array, w=weight)[0], array @ weight)
    grad = autodiff.grad(y.sum(), w)
    wanted = array.reshape(10, 8).T @ np.ones((10, 3))
    np.testing.assert_allclose(run(grad, x=array, w=weight)[0], wanted)


CONVOLUTIONS = [
    # image, weight, stride, padding, dilation, groups
    ((2, 4, 9, 8), (6, 4, 3, 3), 1, 0, 1, 1),
    ((2, 4, 9, 8), (6, 4, 3, 3), 2, 1, 1, 1),
    ((1, 4, 13, 13), (6, 2, 3, 3), 2, 2, 2, 2),
    ((2, 4, 7, 7), (4, 1, 3, 3), 1, 1, 1, 4),
    ((2, 4, 7, 7), (8, 1, 2, 3), (2, 1), (1, 0), (1, 2), 4),
    ((2, 3, 5, 5), (2, 3, 1, 1), 3, 0, 1, 1),
    ((2, 3, 11), (4, 3, 4), 3, 2, 1, 1),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), (1, 2, 1), 1, 1, 1),
]


@pytest.mark.torch
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_and_its_derivatives_are_pytorchs(case: Any) -> None:
    torch = pytest.importorskip("torch")
    image_shape, weight_shape, *options = case
    image, weight = RNG.normal(size=image_shape), RNG.normal(size=weight_shape)
    x, w = observed(image_shape), observed(weight_shape, "w")
    y = ops.convolution(x, w, *options)
    cost = (y * y * y).sum()
    dx, dw = autodiff.grad(cost, [x, w])
    mixed = autodiff.grad((dx * dx).sum() + (dw * dw).sum(), [x, w])
    got = run([y, dx, dw, *mixed], x=image, w=weight)

    name = f"conv{len(image_shape) - 2}d"
    tx = torch.tensor(image, requires_grad=True)
    tw = torch.tensor(weight, requires_grad=True)
    out = getattr(torch.nn.functional, name)(tx, tw, None, *options)
    first = torch.autograd.grad((out**3).sum(), [tx, tw], create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), [tx, tw])
    for ours, theirs in zip(got, [out, *first, *second], strict=True):
        wanted = theirs.detach().numpy()
        np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-9 * abs(wanted).max())


@pytest.mark.torch
@pytest.mark.parametrize(
    "case",
    [
        ((2, 4, 5, 5), (4, 3, 3, 3), 2, 1, 1, 1, 1),
        ((2, 4, 5, 4), (4, 2, 3, 2), (2, 1), 0, 0, 1, 2),
        ((1, 3, 6), (3, 2, 4), 3, 1, 2, 1, 1),
        ((1, 3, 6), (3, 2, 3), 1, 0, 0, 2, 1),
    ],
)
def test_convolution_transpose_is_pytorchs(case: Any) -> None:
    torch = pytest.importorskip("torch")
    from_shape, weight_shape, stride, padding, more, dilation, groups = case
    image, weight = RNG.normal(size=from_shape), RNG.normal(size=weight_shape)
    x, w = observed(from_shape), observed(weight_shape, "w")
    y = ops.convolution_transpose(x, w, stride, padding, more, dilation, groups)
    dx, dw = autodiff.grad((y * y).sum(), [x, w])
    got = run([y, dx, dw], x=image, w=weight)
    tx = torch.tensor(image, requires_grad=True)
    tw = torch.tensor(weight, requires_grad=True)
    apply_ = getattr(torch.nn.functional, f"conv_transpose{len(from_shape) - 2}d")
    out = apply_(tx, tw, None, stride, padding, more, groups, dilation)
    grads = torch.autograd.grad((out**2).sum(), [tx, tw])
    for ours, theirs in zip(got, [out, *grads], strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-9)


def test_convolution_with_a_symbolic_batch_and_image() -> None:
    batch, height = Dim("B"), Dim("H", min=8)
    x, w = observed((batch, 3, height, 9)), observed((4, 3, 3, 3), "w")
    y = ops.convolution(x, w, 2, 1)
    assert y.shape == (batch, 4, (height - 1) // 2 + 1, 5)
    image, weight = RNG.normal(size=(2, 3, 10, 9)), RNG.normal(size=(4, 3, 3, 3))
    dx = autodiff.grad(y.sum(), x)
    assert dx.type == x.type
    fixed = observed((2, 3, 10, 9))
    wanted = autodiff.grad(ops.convolution(fixed, w, 2, 1).sum(), fixed)
    (got,), _ = interpret(Graph((x, w), (dx,)), [image, weight])
    np.testing.assert_allclose(got, run(wanted, w=weight)[0], atol=1e-12)


def test_convolution_errors() -> None:
    x = observed((2, 4, 9, 9))
    with pytest.raises(gc.ShapeError, match="it must be 4 channels / 1 groups"):
        ops.convolution(x, observed((6, 3, 3, 3)))
    with pytest.raises(gc.ShapeError, match="groups do not divide"):
        ops.convolution(x, observed((6, 4, 3, 3)), groups=3)
    with pytest.raises(gc.ShapeError, match="exceeds"):
        ops.convolution(x, observed((6, 4, 10, 3)))
    with pytest.raises(gc.ShapeError, match="stride must be"):
        ops.convolution(x, observed((6, 4, 3, 3)), stride=(1, 2, 3))


@pytest.mark.parametrize(("size", "stride", "dilation"), [(2, 1, 1), (3, 2, 1), (2, 2, 3)])
def test_windows_are_slices(size: int, stride: int, dilation: int) -> None:
    x = RNG.normal(size=(2, 11))
    value = observed((2, 11))
    got = run(ops.windows(value, size, stride, dilation), x=x)[0]
    for place, offset in itertools.product(range(got.shape[1]), range(size)):
        at = place * stride + offset * dilation
        np.testing.assert_array_equal(got[:, place, offset], x[:, at])


# ---- index expressions


@given(
    st.integers(-5, 5),
    st.integers(-5, 5),
    st.integers(-9, 9),
    st.integers(1, 6),
    st.integers(-20, 20),
    st.integers(-20, 20),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_affine_floor_and_remainder_are_exact(
    a: int, b: int, c: int, by: int, i: int, j: int
) -> None:
    index = a * axis("i") + b * axis("j") + c
    values = {"i": constant(i), "j": constant(j)}
    number = a * i + b * j + c
    assert index.substitute(values) == constant(number)
    assert (index // by).substitute(values) == constant(number // by)
    assert (index % by).substitute(values) == constant(number % by)


def test_range_bounds_every_value() -> None:
    index = 2 * axis("i") - axis("j") // 2 + axis("i") % 3
    low, high = index.range({"i": 4, "j": 5})  # type: ignore[misc]
    values = [2 * i - j // 2 + i % 3 for i in range(4) for j in range(5)]
    assert low <= min(values)
    assert max(values) <= high


def test_gradient_of_a_strided_convolution_is_the_kernel_of_the_design() -> None:
    n, c, o, y, p = (axis(name) for name in "ncoyp")
    spec = ContractSpec(
        (("n", 2), ("o", 6), ("y", 7)), (("c", 4), ("p", 3)), (n, c, 2 * y + p - 1), (o, c, p)
    )
    back = transpose(spec, (2, 4, 13))
    assert str(back) == (
        "[n:2,c:4,iy:13; o:6,p:3](a[n,o,(iy-p+1)//2], b[o,c,p]) where (iy-p+1)%2==0"
    )
    assert back.where == (Divisible(axis("iy") - p + 1, 2),)
    again = transpose(back, (2, 6, 7))
    assert str(again) == "[n:2,o:6,y:7; c:4,p:3](a[n,c,2*y+p-1], b[o,c,p])"


def test_grouped_channels_are_solved_without_waste() -> None:
    g, c, y = axis("g"), axis("c"), axis("y")
    spec = ContractSpec((("g", 3), ("y", 5)), (("c", 2),), (2 * g + c, y), (g, c))
    back = transpose(spec, (6, 5))
    assert not back.reduced
    assert not back.where
    assert back.b_index == (Affine(((Quotient(axis("ig"), 2), 1),)), axis("ig") % 2)


def test_every_spec_of_a_graph_parses_back() -> None:
    x, w = observed((2, 4, 9)), observed((6, 2, 3), "w")
    y = ops.convolution(x, w, 2, 1, 1, 2)
    dx, dw = autodiff.grad((y * y).sum(), [x, w])
    text = Graph((x, w), (dx, dw)).text()
    assert parse_graph(text).text() == text
