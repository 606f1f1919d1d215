"""Each rule of the verifier is broken once; the message names the kernel and the line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphc.errors import VerifyError
from graphc.kernel import build
from graphc.kernel.terms import Apply, Const, Kernel, KernelTensor, Load, Reduction, Result
from graphc.kernel.text import parse_kernel
from graphc.kernel.verify import verify
from graphc.types import Dim, TensorType, float16, float32, float64, int64

X = KernelTensor("x", TensorType(float32, (8,)))
Y = KernelTensor("y", TensorType(float32, (8,)))
I = build.axis("i")
HEAD = "kernel k\n size B 1..\n axes i:8 j:8 b:B\n in x f32[8], t i64[8], z f32[B]\n"


def refused(kernel: Kernel) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(kernel)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "message", "line"),
    [
        ("out y f32[8]\n a = load x[i + 1]\n store y[i] = a", "dimension 0 of x", "load x[i + 1]"),
        ("out y f32[8]\n a = load x[i]\n store y[i + 1] = a", "dimension 0 of y", "store y[i + 1]"),
        ("out y f32[8]\n a = load z[i]\n store y[i] = a", "dimension 0 of z", "load z[i]"),
        (
            "out y f32[8,8]\n r = load t[i]\n store y[r, r] = 1.0",
            "dimensions 0 and 1 of y",
            "store",
        ),
        ("out y f32[8]\n a = load x[j]\n store y[i] = a", "along the axis 'j'", "store y[i] = a"),
        ("out y f32[]\n a = load x[i]\n store y[] = a", "along the axis 'i'", "store y[] = a"),
        ("out y f32[8]\n a = load x[i]\n store add y[i] = a", "needs an `init`", "store add"),
        ("out y bool[8] init 0\n store add y[i] = true", "adds numbers", "store add"),
        ("out y f32[8], u f32[8]\n a = load x[i]\n store y[i] = a", "the output u", ""),
        ("out y f32[8]\n store y[i] = 1.0\n store y[i] = 2.0", "two stores", "store y[i] = 2.0"),
        (
            "out y f32[8]\n store y[0] = 1.0\n store y[i] = 2.0 if i >= 0",
            "two stores",
            "store y[i]",
        ),
        (
            "out y f32[8] init 0\n store y[0] = 1.0\n store add y[1] = 1.0",
            "`store` and",
            "add y[1]",
        ),
        ("", "there is no output", ""),
    ],
)
def test_refused(body: str, message: str, line: str) -> None:
    said = refused(parse_kernel(HEAD + " " + body))
    assert said.startswith("kernel k: ")
    assert message in said.splitlines()[0]
    assert line in said


@pytest.mark.parametrize(
    "body",
    [
        "out y f32[8]\n a = load x[i + 1] else 0.0\n store y[i] = a",
        "out y f32[8]\n a = load x[i + 1] if i > 9\n store y[i] = a",
        "out y f32[8]\n a = load x[j]\n store y[i] = a if j == 3",
        "out y f32[] init 1\n a = load x[i]\n store add y[] = a",
        "out y f32[16]\n store y[2*i] = 1.0\n store y[2*i + 1] = 2.0",
        "out y f32[16]\n store y[i] = 1.0\n store y[i + 8] = 2.0",
        "out y f32[8]\n store y[i] = 1.0 if i < 4\n store y[j] = 2.0 if j >= 4",
        "out y f32[8,2]\n store y[i, 0] = 1.0\n store y[i, 1] = 2.0",
        'out y f32[8]\n r = load t[i]\n check 0 <= r < 8 "out"\n a = load x[r]\n store y[i] = a',
        'out y f32[8]\n a = load x[i]\n store y[i] = a\n check a > 0.0 "sign"',
        "out y f32[8] init 3",
    ],
)
def test_accepted(body: str) -> None:
    verify(parse_kernel(HEAD + " " + body))


def test_a_check_does_not_prove_what_it_loads_itself() -> None:
    text = HEAD + " out y f32[8]\n r = load t[i]\n a = load t[r]\n"
    checked = ' check 0 <= r < 8 and a >= 0 "both"\n store y[i] = f32(a)\n'
    assert "dimension 0 of t" in refused(parse_kernel(text + checked))
    first = ' check 0 <= r < 8 "first"\n check a >= 0 "second"\n store y[i] = f32(a)\n'
    verify(parse_kernel(text + first))


def plain() -> Kernel:
    return build.kernel("plain", [("i", 8)], [X], [Y], [build.store(Y, [I], build.load(X, [I]))])


def test_names_and_declarations() -> None:
    kernel = plain()
    verify(kernel)
    twice = replace(kernel, outputs=(replace(Y, name="x"),))
    assert "'x' is declared twice" in refused(twice)
    assert "'y' is not an output" in refused(replace(kernel, outputs=()))
    assert "the axis 'i' is not declared" in refused(replace(kernel, axes=(("k", 8),)))
    assert "'i' is declared twice" in refused(replace(kernel, axes=(("i", 8), ("i", 8))))
    assert "has no definition" in refused(replace(kernel, definitions=()))
    term = kernel.definitions[0][1]
    assert "is not an identifier" in refused(replace(kernel, definitions=(("a b", term),)))
    assert "is a word of the grammar" in refused(replace(kernel, definitions=(("load", term),)))
    assert "the size B is not declared" in refused(replace(kernel, axes=(("i", Dim("B")),)))
    assert "may be negative" in refused(replace(kernel, axes=(("i", -1),)))
    no_input = refused(replace(kernel, inputs=()))
    assert "'x' is not an input" in no_input
    assert "load x[i]" in no_input


def test_sizes_are_declared_as_they_are_used() -> None:
    text = "kernel k\n size B 1..64\n axes b:B\n in x f32[B]\n out y f32[B]\n a = load x[b]\n"
    kernel = parse_kernel(text + " store y[b] = a * f32(B)")
    verify(kernel)
    loose = replace(kernel, sizes=(replace(kernel.sizes[0], max=None),))
    assert "the size B is not declared so" in refused(loose)


def test_terms_keep_the_types_that_their_operands_give() -> None:
    load = build.load(X, [I])
    wrong = Apply(dtype=float64, axes=load.axes, op="exp", args=(load,))
    store = build.store(KernelTensor("z", TensorType(float64, (8,))), [I], wrong)
    out = KernelTensor("z", TensorType(float64, (8,)))
    said = refused(build.kernel("types", [("i", 8)], [X], [out], [store]))
    assert "this is f32, not f64" in said
    assert "exp(x)" in said

    free = Apply(dtype=float32, axes=frozenset(), op="exp", args=(load,))
    said = refused(build.kernel("axes", [("i", 8)], [X], [Y], [build.store(Y, [I], free)]))
    assert "depends on i" in said

    mixed = Apply(dtype=float32, axes=load.axes, op="+", args=(load, I))
    said = refused(build.kernel("mixed", [("i", 8)], [X], [Y], [build.store(Y, [I], mixed)]))
    assert "operands must have one dtype" in said

    big = Const(dtype=int64, axes=frozenset(), value=2**70)
    z = KernelTensor("z", TensorType(int64, (8,)))
    said = refused(build.kernel("big", [("i", 8)], [], [z], [build.store(z, [I], big)]))
    assert "does not fit i64" in said


def test_reductions_keep_their_rules() -> None:
    load = build.load(X, [I])
    (total,) = build.reduce("sum", [load], ["i"])
    scalar = KernelTensor("s", TensorType(float32, ()))

    def summed(of: object) -> Kernel:
        term = Result(dtype=float32, axes=frozenset(), of=of, index=0)  # type: ignore[arg-type]
        return build.kernel("sums", [("i", 8)], [X], [scalar], [build.store(scalar, [], term)])

    of = total.of
    assert isinstance(of, Reduction)
    verify(summed(of))
    assert "reduced twice" in refused(summed(replace(of, over=("i", "i"))))
    half = KernelTensor("h", TensorType(float16, (8,)))
    narrow = replace(of, args=(build.load(half, [I]),))
    kernel = replace(summed(narrow), inputs=(half,))
    assert "not of the accumulator's dtype" in refused(kernel)


def test_loads_fit_their_tensors() -> None:
    load = build.load(X, [I])
    narrow = Load(dtype=float64, axes=load.axes, tensor="x", index=load.index)
    z = KernelTensor("z", TensorType(float64, (8,)))
    said = refused(build.kernel("narrow", [("i", 8)], [X], [z], [build.store(z, [I], narrow)]))
    assert "this is f32, not f64" in said
    flat = Load(dtype=float32, axes=load.axes, tensor="x", index=(*load.index, *load.index))
    said = refused(build.kernel("flat", [("i", 8)], [X], [Y], [build.store(Y, [I], flat)]))
    assert "x has 1 dimensions, the index has 2" in said
