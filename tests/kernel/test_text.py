"""Text of kernels: what it reads as, what it refuses and how, and random expressions there and
back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ParseError
from graphc.kernel import build
from graphc.kernel.interpret import interpret
from graphc.kernel.terms import Apply, Const, KernelTensor, Load, Term
from graphc.kernel.text import equal, literal_text, parse_kernel, print_kernel
from graphc.kernel.verify import verify
from graphc.types import DTYPES, TensorType, bfloat16, bool_, float32, float64, int64

HEAD = "kernel k\n axes i:4 j:3\n in x f32[4,3], n i64[4], z f64[4]\n out y f32[4,3]\n"
BODY = " a = load x[i, j]\n store y[i, j] = a\n"


def stored(expression: str, dtype: str = "f32") -> Term:
    """The term that an expression of ``a`` (f32), ``n`` (i64) and ``z`` (f64) reads as."""
    text = HEAD.replace("out y f32", f"out y {dtype}")
    text += " a = load x[i, j]\n b = load n[i]\n w = load z[i]\n"
    return parse_kernel(text + f" store y[i, j] = {expression}\n").stores[0].value


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        (HEAD + " a = load x[i, k]\n" + BODY, 5, 16, "unknown name 'k'"),
        (HEAD + " a = load x[i j]\n", 5, 15, "expected ']', found 'j'"),
        (HEAD + " a = lod(i)\n", 5, 6, "no scalar op named 'lod'"),
        (HEAD + " a = epx(1.0)\n", 5, 6, "do you mean exp?"),
        (HEAD + " a = load q[i]\n", 5, 11, "'q' is not an input; there are: x, n, z"),
        (HEAD + " a = load x[i]\n", 5, 2, "x has 2 dimensions, the index has 1"),
        (HEAD + " a = load x[i, j]\n a = exp(a)\n", 6, 2, "already the name of a value"),
        (HEAD + " i = load x[i, j]\n", 5, 2, "already the name of a axis"),
        (HEAD + " load = 1.0\n", 5, 2, "'load' is a word of the grammar"),
        (HEAD + " a = load x[i, j] + 1\n", 5, 19, "expected the end of the line"),
        (HEAD + " a = load x[i, j]\n b = a + i\n", 6, 2, "operands must have one dtype"),
        (HEAD + " a = load x[i, j]\n m, s = reduce max a over j\n", 6, 2, "1 results need"),
        (HEAD + " a = load x[i, j]\n m = reduce most a over j\n", 6, 13, "no monoid; one of sum"),
        (HEAD + " a = load x[i, j]\n m = reduce max a over q\n", 6, 24, "'q' is not an axis"),
        (HEAD + " store y[i, j] = 1\n", 5, 2, "1 is not a literal of f32"),
        (HEAD + " store x[i, j] = 1.0\n", 5, 8, "'x' is not an output"),
        (HEAD + " check i < 3\n", 5, 13, 'expected the "message" of the check'),
        (HEAD + ' check i + 3 "no"\n', 5, 2, "the predicate is i64, it must be bool"),
        (HEAD + " parallel i\n" + BODY, 5, 11, "the parallel axes of this kernel are: i j"),
        (HEAD + " a = load x[i, $]\n", 5, 16, "'$' begins nothing"),
        (HEAD + " what is this\n", 5, 2, "expected a definition"),
        ("kernel k\n axes i:B\n", 2, 9, "'B' is not a declared size"),
        ("kernel k\n size B 9..2\n", 2, 13, "min <= max"),
        ("kernel k\n axes i:4\n in x f99[4]\n", 3, 7, "'f99' is no dtype; one of bool"),
        ("kernel k\n scalar s f32 0..1\n", 2, 15, "bounds are for integers"),
        ("colonel k\n", 1, 1, "expected 'kernel'"),
    ],
)
def test_errors_name_line_column_and_what_was_expected(
    text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(ParseError) as caught:
        parse_kernel(text)
    said = str(caught.value)
    assert said.startswith(f"line {line}, column {column}: "), said
    assert message in said
    shown, caret = said.splitlines()[1:]
    assert shown == "  " + text.splitlines()[line - 1]
    assert caret.index("^") == column + 1


def test_numbers_take_the_dtype_of_what_they_meet() -> None:
    assert stored("a * 2.0").operands[1].dtype == float32
    assert stored("w * 2.0", "f64").operands[1].dtype == float64
    assert stored("f32(w * f64(2.0) * 0.1)").operands[0].operands[1].dtype == float64
    one = stored("i64(b < 3) + i64(n8)".replace("n8", "u8(b) + 3"), "i64")
    assert isinstance(one, Apply)
    inner = one.args[1]
    assert isinstance(inner, Apply)
    assert inner.args[0].operands[1].dtype.short == "u8"
    assert stored("pow(a, 2)").operands[1].dtype == int64
    assert stored("where(b < 0, a, 0.1)").operands[2].dtype == float32


def test_an_explicit_number_is_not_rounded_on_the_way() -> None:
    value = stored("f64(0.1)", "f64")
    assert isinstance(value, Const)
    assert value.value == 0.1
    other = stored("w + 0.1", "f64").operands[1]
    assert isinstance(other, Const)
    assert other.value == 0.1


def test_binding_is_pythons() -> None:
    text = "1.0 - a - a * -a / 2.0 if not i < 2 or j == 1 and i <= j < 3"
    kernel = parse_kernel(HEAD + " a = load x[i, j]\n store y[i, j] = " + text + "\n")
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    zeros = {"n": np.zeros(4, np.int64), "z": np.zeros(4)}
    got = interpret(kernel, {"x": x, **zeros})["y"]
    for i, j in np.ndindex(4, 3):
        a = x[i, j]
        keep = not i < 2 or (j == 1 and i <= j < 3)
        assert got[i, j] == (np.float32(1 - a) - a * -a / np.float32(2) if keep else 0)
    assert text in print_kernel(kernel)


def test_names_may_be_words_of_other_languages_and_of_the_header() -> None:
    text = HEAD + " del = load x[i, j]\n lambda = exp(del)\n axes = lambda + del\n"
    text += " sum = axes * axes\n store y[i, j] = sum\n"
    kernel = parse_kernel(text)
    assert [name for name, _ in kernel.definitions] == ["del", "lambda", "axes", "sum"]
    assert equal(kernel, parse_kernel(print_kernel(kernel)))


def test_every_part_of_the_header_comes_back() -> None:
    text = """kernel header
  size B 2..4096 by 2
  size N 1..
  scalar lr f32
  scalar pos i64 -3..63
  scalar top i32 ..9
  axes b:B n:(B//2)*3+N k:2*B*N-1
  parallel b
  in x f32[B,2*N], t bool[]
  out y f32[B] init 0.5
  v = load x[b, n] if n < size(2*N) else lr
  s = reduce sum v over n where n < pos + i64(top)
  u = load t[]
  check u and B > 1 "a \\"quoted\\" \\\\ message\\nof two lines"
  store y[b] = s * f32(B)"""
    kernel = parse_kernel(text)
    printed = print_kernel(kernel)
    assert equal(kernel, parse_kernel(printed))
    assert kernel.checks[0].message == 'a "quoted" \\ message\nof two lines'
    assert printed.splitlines()[6] == "  axes b:B n:N+3*(B//2) k:2*B*N-1"
    kept = set(text.splitlines()) - {text.splitlines()[6]}
    assert kept < set(printed.splitlines())


def test_dead_definitions_are_left_out_and_unused_results_kept() -> None:
    text = HEAD + " a = load x[i, j]\n unused = exp(a)\n n1, mu, m2 = reduce welford a over j\n"
    kernel = parse_kernel(text + " store y[i, 0] = mu\n")
    assert [name for name, _ in kernel.definitions] == ["a", "n1", "mu", "m2"]


def test_built_kernels_share_text_whatever_they_are_called() -> None:
    def softmax(name: str) -> Any:
        x = KernelTensor("x", TensorType(float32, (4, 3)))
        y = KernelTensor("y", TensorType(float32, (4, 3)))
        i, j = build.axis("i"), build.axis("j")
        a = build.load(x, (i, j))
        m, s = build.reduce("expsum", [a, 1.0], ["j"])
        value = build.apply("/", build.apply("exp", build.apply("-", a, m)), s)
        return build.kernel(name, [("i", 4), ("j", 3)], [x], [y], [build.store(y, (i, j), value)])

    assert equal(softmax("one"), softmax("two"))


def test_long_expressions_are_cut_into_lines() -> None:
    total: Term = build.axis("i")
    for n in range(100):
        total = build.apply("+", build.apply("*", total, 3), n)
    y = KernelTensor("y", TensorType(int64, (4,)))
    kernel = build.kernel("long", [("i", 4)], [], [y], [build.store(y, [build.axis("i")], total)])
    text = print_kernel(kernel)
    assert max(map(len, text.splitlines())) < 150
    assert print_kernel(parse_kernel(text)) == text


@given(st.floats(allow_nan=False), st.sampled_from([d for d in DTYPES.values() if d.is_float]))
def test_numbers_come_back_exactly(value: float, dtype: Any) -> None:
    number = build.const(value, dtype)
    text = literal_text(number.value, dtype)
    with np.errstate(over="ignore"):
        assert float(np.asarray(float(text)).astype(dtype.numpy)) == number.value


def test_numbers_are_short() -> None:
    shown = [
        literal_text(build.const(v, float32).value, float32) for v in (0.1, 1e-5, 3e8, 2**-149)
    ]
    assert shown == ["0.1", "1e-5", "300000000.0", "1e-45"]
    assert literal_text(build.const(0.1, bfloat16).value, bfloat16) == "0.1"


# ---- random expressions

_X = KernelTensor("x", TensorType(float32, (4, 3)))
_N = KernelTensor("n", TensorType(int64, (4,)))
_ROWS: dict[str, Any] = {
    "x": np.array(
        [[0.5, -1.25, 3], [0, 2, -2], [1e3, -0.0, 0.75], [np.inf, np.nan, -7]], np.float32
    ),
    "n": np.array([3, -4, 0, 2**40], np.int64),
}
Pair = tuple[Term, Any]  # a term, and what NumPy makes of it
_FLOAT_BINARY: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "copysign": np.copysign,
}
_INT_BINARY: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "&": np.bitwise_and,
    "|": np.bitwise_or,
    "^": np.bitwise_xor,
}
_COMPARISONS: dict[str, Callable[..., Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_UNARY: dict[str, Callable[..., Any]] = {"neg": np.negative, "abs": np.abs, "floor": np.floor}


def _float_leaf() -> st.SearchStrategy[Pair]:
    def number(value: float) -> Pair:
        return build.const(value), np.full((4, 3), value, np.float32)

    load = build.load(_X, (build.axis("i"), build.axis("j")))
    numbers = st.floats(-100, 100, width=32).map(number)
    return st.one_of(st.just((load, _ROWS["x"])), numbers)


def _int_leaf() -> st.SearchStrategy[Pair]:
    index = np.broadcast_to(np.arange(4)[:, None], (4, 3))
    loaded = np.broadcast_to(_ROWS["n"][:, None], (4, 3))

    def number(value: int) -> Pair:
        return build.const(value), np.full((4, 3), value, np.int64)

    leaves = [(build.axis("i"), index), (build.load(_N, (build.axis("i"),)), loaded)]
    return st.one_of(st.sampled_from(leaves), st.integers(-9, 9).map(number))


def _binary(table: dict[str, Callable[..., Any]], operand: st.SearchStrategy[Pair]) -> Any:
    def make(op: str, a: Pair, b: Pair) -> Pair:
        with np.errstate(all="ignore"):
            return build.apply(op, a[0], b[0]), table[op](a[1], b[1])

    return st.builds(make, st.sampled_from(sorted(table)), operand, operand)


def _choice(pred: Pair, a: Pair, b: Pair) -> Pair:
    return build.apply("where", pred[0], a[0], b[0]), np.where(pred[1], a[1], b[1])


def _unary(op: str, a: Pair) -> Pair:
    return build.apply(op, a[0]), _UNARY[op](a[1])


_INTS = st.recursive(_int_leaf(), lambda inner: _binary(_INT_BINARY, inner), max_leaves=8)
_FLOATS = st.recursive(
    _float_leaf(),
    lambda inner: st.one_of(
        _binary(_FLOAT_BINARY, inner),
        st.builds(_unary, st.sampled_from(sorted(_UNARY)), inner),
        st.builds(_choice, _binary(_COMPARISONS, _INTS), inner, inner),
        st.builds(_choice, _binary(_COMPARISONS, inner), inner, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(_FLOATS)
def test_random_expressions_round_trip_and_compute_what_numpy_does(pair: Pair) -> None:
    term, _ = pair
    y = KernelTensor("y", TensorType(float32, (4, 3)))
    index = (build.axis("i"), build.axis("j"))
    axes = [("i", 4), ("j", 3)]
    kernel = build.kernel("random", axes, [_X, _N], [y], [build.store(y, index, term)])
    text = print_kernel(verify(kernel))
    again = parse_kernel(text)
    assert print_kernel(again) == text
    with np.errstate(all="ignore"):
        want = pair[1].astype(np.float32)
    for k in (kernel, again):
        got = interpret(k, _ROWS)["y"]
        assert np.array_equal(got, want, equal_nan=True), text


def test_loads_of_bools_and_literals_of_bools() -> None:
    text = "kernel b\n axes i:2\n in x bool[2]\n out y bool[2]\n a = load x[i] if i < 1 else true\n"
    kernel = parse_kernel(text + " store y[i] = not a and true\n")
    loads = [t for t in kernel.terms if isinstance(t, Load)]
    assert loads[0].dtype == bool_
    assert interpret(kernel, {"x": np.array([False, True])})["y"].tolist() == [True, False]
