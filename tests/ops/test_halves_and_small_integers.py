"""Sums that leave the range of what is summed: integers in int64, halves by way of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops

HALVES = [gc.float16, gc.bfloat16]
#: more than float16 can count to
MANY = 70_000


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "bool"])
def test_sums_of_integers_have_64_bits(dtype: str) -> None:
    x = gc.observed("x", (2, 50), dtype)
    array = np.random.default_rng(0).integers(0, 120, (2, 50)).astype(x.dtype.numpy)
    made = {
        "sum": ops.sum(x, 1), "cumsum": ops.cumsum(x, 1), "prod": ops.prod(x[:, :4], 1),
        "method": x.sum(), "cumprod": ops.cumprod(x[:, :4], 1), "trace": ops.trace(x),
    }  # fmt: skip
    got = gc.compile([x], made)(array)
    wide = array.astype(np.int64)
    wanted = {
        "sum": wide.sum(1), "cumsum": wide.cumsum(1), "prod": wide[:, :4].prod(1),
        "method": wide.sum(), "cumprod": wide[:, :4].cumprod(1), "trace": np.trace(wide),
    }  # fmt: skip
    for name, value in got.items():
        assert value.dtype == np.int64, name
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert ops.sum(x, dtype=gc.int32).dtype == gc.int32
    assert ops.max(x).dtype == (gc.int64 if dtype == "bool" else x.dtype)


FUNCTIONS: dict[str, Any] = {
    "mean": lambda m, x: m.mean(x),
    "var": lambda m, x: m.var(x),
    "std": lambda m, x: m.std(x),
    "average": lambda m, x: m.average(x, weights=m.abs(x)),
    "logsumexp": lambda m, x: ops.logsumexp(x) if m is ops else np.log(np.exp(x).sum()),
    "log_softmax": lambda m, x: ops.log_softmax(x)[:3] if m is ops else _log_softmax(x)[:3],
    "norm": lambda m, x: ops.norm(x * 0.1) if m is ops else np.sqrt((x * x * 0.01).sum()),
}


def _log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_whose_sums_are_too_large_for_them(dtype: gc.DType) -> None:
    x = gc.observed("x", (MANY,), dtype)
    array = np.random.default_rng(1).uniform(0.5, 3.0, MANY).astype(dtype.numpy)
    exact = array.astype(np.float64)
    rtol = 2e-3 if dtype == gc.float16 else 2e-2
    outputs = [f(ops, x) for f in FUNCTIONS.values()]
    got = gc.compile([x], [*outputs, gc.grad(ops.mean(x * x).astype(gc.float32), x)])(array)
    for (name, function), value in zip(FUNCTIONS.items(), got, strict=False):
        assert value.dtype == dtype.numpy, name
        wanted = function(np, exact)
        np.testing.assert_allclose(value.astype(np.float64), wanted, rtol=rtol, err_msg=name)
    assert got[-1].dtype == dtype.numpy
    assert np.isfinite(got[-1].astype(np.float64)).all()


LAYERS: dict[str, tuple[tuple[int, ...], Any]] = {
    "LayerNorm": ((4, 512), lambda dtype: nn.LayerNorm(512, dtype=dtype)),
    "RMSNorm": ((4, 512), lambda dtype: nn.RMSNorm(512, dtype=dtype)),
    "GroupNorm": ((4, 6, 64), lambda dtype: nn.GroupNorm(2, 6, dtype=dtype)),
    "InstanceNorm1d": ((4, 3, 256), lambda dtype: nn.InstanceNorm1d(3, dtype=dtype)),
    "BatchNorm1d": ((256, 3), lambda dtype: nn.BatchNorm1d(3, dtype=dtype)),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_norms_of_large_halves_equal_torch(dtype: gc.DType, name: str) -> None:
    """With elements around 40 the squares of 256 of them sum to more than float16 has."""
    torch = pytest.importorskip("torch")
    shape, make = LAYERS[name]
    x = gc.observed("x", shape, dtype)
    array = (np.random.default_rng(2).normal(size=shape) * 40).astype(dtype.numpy)
    ours = make(dtype)
    cost = (ours(x).astype(gc.float32) ** 3).sum()
    got = gc.compile([x], [ours(x), gc.grad(cost, x)], mode="train")(array)
    kind = torch.float16 if dtype == gc.float16 else torch.bfloat16
    arguments = {"GroupNorm": (2, 6), "InstanceNorm1d": (3,), "BatchNorm1d": (3,)}
    theirs = getattr(torch.nn, name)(*arguments.get(name, (512,)), dtype=kind)
    tensor = torch.tensor(array.astype(np.float32)).to(kind).requires_grad_()
    out = theirs(tensor)
    (out.float() ** 3).sum().backward()
    step = 2e-3 if dtype == gc.float16 else 2e-2
    for value, wanted in zip(got, (out, tensor.grad), strict=True):
        assert value.dtype == dtype.numpy
        reference = wanted.detach().float().numpy()
        scale = np.abs(reference).max()
        np.testing.assert_allclose(value.astype(np.float32), reference, atol=3 * step * scale)


def test_the_median_of_equal_infinities() -> None:
    x = gc.observed("x", (2, 4))
    array = np.float32([[-np.inf, -np.inf, -np.inf, 1.0], [np.inf, np.inf, 0.0, np.inf]])
    np.testing.assert_array_equal(gc.compile([x], ops.median(x, 1))(array), [-np.inf, np.inf])
