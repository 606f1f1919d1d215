"""The oracle itself: what it binds, what it refuses, when it checks; against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.errors import BindError, KernelError, RuntimeCheckError, VerifyError
from graphc.kernel.interpret import interpret
from graphc.kernel.text import parse_kernel, print_kernel
from graphc.kernel.verify import verify
from graphc.types import Dim

GATHER = """kernel gather
  axes i:4
  in x f32[8], t i64[4]
  out y f32[4]
  r = load t[i]
  check 0 <= r < 8 "index outside 0..7"
  check r != 3 "three"
  a = load x[r]
  store y[i] = a"""


def test_the_first_check_that_fails_is_raised() -> None:
    kernel = parse_kernel(GATHER)
    x = np.arange(8, dtype=np.float32)
    got = interpret(kernel, {"x": x, "t": np.array([7, 0, 1, 7])})["y"]
    assert got.tolist() == [7, 0, 1, 7]
    for t, message in (
        ([0, 8, 3, 0], "index outside"),
        ([0, -1, 0, 0], "outside"),
        ([3] * 4, "three"),
    ):
        with pytest.raises(RuntimeCheckError, match=message):
            interpret(kernel, {"x": x, "t": np.array(t)})


def test_an_unguarded_access_outside_is_refused_not_wrapped() -> None:
    loads = "kernel k\n axes i:4\n in x f32[4]\n out y f32[4]\n a = load x[i - 1]\n store y[i] = a"
    stores = loads.replace("load x[i - 1]", "load x[i]").replace("y[i]", "y[i - 1]")
    x = {"x": np.zeros(4, np.float32)}
    with pytest.raises(KernelError, match="loads leave x"):
        interpret(parse_kernel(loads), x)
    with pytest.raises(KernelError, match="store y leaves"):
        interpret(parse_kernel(stores), x)


def test_arguments_are_bound_by_name_and_type() -> None:
    kernel = parse_kernel(GATHER)
    x, t = np.zeros(8, np.float32), np.zeros(4, np.int64)
    with pytest.raises(BindError, match="'t' is not given"):
        interpret(kernel, {"x": x})
    with pytest.raises(BindError, match=r"x is float32\[8\], got float64\[8\]"):
        interpret(kernel, {"x": x.astype(np.float64), "t": t})
    with pytest.raises(BindError, match=r"t is int64\[4\], got int64\[3\]"):
        interpret(kernel, {"x": x, "t": t[:3]})


def test_a_scalar_is_at_most_what_its_size_allows() -> None:
    text = (
        "kernel k\n  size B 1..\n  scalar step i64 0..B-1\n  axes i:3\n  parallel i\n"
        "  in x f32[B,3]\n  out y f32[3]\n  a = load x[step, i]\n  store y[i] = a"
    )
    kernel = verify(parse_kernel(text))
    assert print_kernel(kernel) == text
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert interpret(kernel, {"x": x}, {"B": 2}, {"step": 1})["y"].tolist() == [3, 4, 5]
    with pytest.raises(BindError, match="step = 2 breaks its bounds"):
        interpret(kernel, {"x": x}, {"B": 2}, {"step": 2})
    with pytest.raises(VerifyError, match="step: the size B is not declared so"):
        verify(replace(kernel, sizes=(), inputs=(), definitions=(), statements=()))


def test_sizes_and_scalars_are_bound_within_their_declarations() -> None:
    kernel = parse_kernel(
        "kernel k\n size B 8..64 by 8\n scalar s i64 0..3\n axes b:B\n in x f32[B]\n"
        " out y f32[B]\n a = load x[b]\n store y[b] = a * f32(s)"
    )
    x = {"x": np.ones(16, np.float32)}
    assert interpret(kernel, x, {"B": 16}, {"s": 2})["y"].tolist() == [2.0] * 16
    assert interpret(kernel, x, {Dim("B"): 16}, {"s": np.int64(0)})["y"].sum() == 0
    for sizes, scalars, message in (
        ({}, {"s": 2}, "size B is not given"),
        ({"B": 12}, {"s": 2}, "B = 12 breaks"),
        ({"B": 72}, {"s": 2}, "B = 72 breaks"),
        ({"B": 16}, {}, "'s' is not given"),
        ({"B": 16}, {"s": 4}, "s = 4 breaks"),
        ({"B": 8}, {"s": 1}, r"x is float32\[8\]"),
    ):
        with pytest.raises(BindError, match=message):
            interpret(kernel, x, sizes, scalars)


def test_no_points_and_no_elements() -> None:
    kernel = parse_kernel(
        "kernel k\n size B 0..\n axes i:3 b:B\n in x f32[3,B]\n out y f32[3], m f32[3], at i64[3]\n"
        " a = load x[i, b]\n s = reduce sum a over b\n store y[i] = s\n"
        " v, k0 = reduce argmax a; b over b\n store m[i] = v\n store at[i] = k0"
    )
    got = interpret(kernel, {"x": np.zeros((3, 0), np.float32)}, {"B": 0})
    assert got["y"].tolist() == [0, 0, 0]
    assert got["m"].tolist() == [-np.inf] * 3
    assert got["at"].tolist() == [2**63 - 1] * 3


def test_a_value_that_does_not_depend_on_the_reduced_axis_counts_each_point() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:3 j:5\n in x f32[3]\n out s f32[3], c f32[3], n i64[3]\n a = load x[i]\n"
        " t = reduce sum a over j\n store s[i] = t\n u = contract a, a over j\n store c[i] = u\n"
        " k0 = reduce sum 1 over j where j >= i\n store n[i] = k0"
    )
    x = np.array([1, 2, -3], np.float32)
    got = interpret(kernel, {"x": x})
    assert got["s"].tolist() == (5 * x).tolist()
    assert got["c"].tolist() == (5 * x * x).tolist()
    assert got["n"].tolist() == [5, 4, 3]


def test_masked_products_are_left_out_even_when_infinite() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:2 k:3\n in x f32[2,3], w f32[3]\n out y f32[2]\n a = load x[i, k]\n"
        " b = load w[k]\n c = contract a, b over k where k <= i\n store y[i] = c"
    )
    x = np.ones((2, 3), np.float32)
    got = interpret(kernel, {"x": x, "w": np.array([1, 2, np.inf], np.float32)})["y"]
    assert got.tolist() == [1, 3]


def test_stores_that_add_meet_the_initial_value() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:6\n in t i64[6]\n out y f32[3] init 10, n i64[] init 1\n r = load t[i]\n"
        ' check 0 <= r < 3 "out"\n store add y[r] = 1.0\n store add n[] = r if r > 0'
    )
    got = interpret(kernel, {"t": np.array([0, 2, 2, 2, 0, 1])})
    assert got["y"].tolist() == [12, 11, 13]
    assert got["n"].item() == 1 + 7


def test_everything_is_computed_in_its_dtype() -> None:
    kernel = parse_kernel(
        "kernel k\n axes i:2\n in x f32[2], h f16[2]\n out y f32[2], z f16[2], s f32[]\n"
        " a = load x[i]\n b = load h[i]\n store y[i] = a + 1.0\n store z[i] = b + 1.0\n"
        " t = reduce sum b over i\n store s[] = t"
    )
    x = np.array([2**-24, 2**-23], np.float32)
    h = np.array([2**-11, 2**-10], np.float16)
    got = interpret(kernel, {"x": x, "h": h})
    assert got["y"].tolist() == [1.0, 1 + 2**-23]
    assert got["z"].tolist() == [1.0, 1 + 2**-10]
    assert got["s"].item() == np.float32(2**-11 + 2**-10)
