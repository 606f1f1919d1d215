"""Rewrites mean the same: each is held to the interpreter on the zoo."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from graphc.errors import KernelError
from graphc.kernel import build
from graphc.kernel.interpret import interpret
from graphc.kernel.phases import split_phases
from graphc.kernel.rewrite import (
    SplitReduction,
    merge_axes,
    pruned,
    rename_axis,
    split_axis,
    split_reduce,
    substitute,
)
from graphc.kernel.terms import Contract, Kernel, Load, Reduction, Scan, Store, Term, postorder
from graphc.kernel.text import parse_kernel, print_kernel
from graphc.kernel.verify import verify
from tests.kernel.case import Case
from tests.kernel.zoo import ZOO, assert_agrees

SEED = 7
BY_NAME = {c.name: c for c in ZOO}
GOLDEN = [c for c in ZOO if c.golden]


def check_same(case: Case, *kernels: Kernel) -> None:
    """Run kernels one after the other; together they must give the case's outputs."""
    inputs = case.make_inputs(np.random.default_rng(SEED))
    known = dict(inputs)
    for kernel in kernels:
        text = print_kernel(verify(kernel))
        assert print_kernel(parse_kernel(text)) == text
        given = {t.name: known[t.name] for t in kernel.inputs}
        known |= interpret(kernel, given, case.sizes, case.scalars)
    assert_agrees(case, known, case.reference(inputs), SEED)


def bound_by(term: Term) -> set[str]:
    if isinstance(term, Scan):
        return {term.over}
    return {*term.over} if isinstance(term, (Reduction, Contract)) else set()


def scanned(kernel: Kernel) -> set[str]:
    return {t.over for t in kernel.terms if isinstance(t, Scan)}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_split_every_axis(case: Case) -> None:
    kernel = parse_kernel(case.text)
    for axis, _ in kernel.axes:
        if axis in scanned(kernel):
            with pytest.raises(KernelError, match="is scanned"):
                split_axis(kernel, axis, 4)
            continue
        for block in (3, 8):
            split = split_axis(kernel, axis, block)
            assert split.extents[f"{axis}i"] == block
            check_same(case, split)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_rename_every_axis(case: Case) -> None:
    kernel = parse_kernel(case.text)
    for axis, _ in kernel.axes:
        renamed = rename_axis(kernel, axis, "fresh")
        assert axis not in renamed.extents
        check_same(case, renamed)
        assert print_kernel(rename_axis(renamed, "fresh", axis)) == print_kernel(kernel)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_merge_every_two_axes(case: Case) -> None:
    kernel = parse_kernel(case.text)
    names = [a for a, _ in kernel.axes]
    merged = 0
    for pair in pairwise(names):
        bound = [bound_by(t) for t in kernel.terms]
        if scanned(kernel) & {*pair} or any(len(b & {*pair}) == 1 for b in bound):
            with pytest.raises(KernelError, match=r"binds some of|is scanned"):
                merge_axes(kernel, pair)
            continue
        made = merge_axes(kernel, pair)
        merged += 1
        assert len(made.axes) == len(kernel.axes) - 1
        run_without_proof(case, made)
    if case.name in ("layer_norm_backward", "adam", "movement", "conv2d"):
        assert (
            merged == {"layer_norm_backward": 0, "adam": 0, "movement": 1, "conv2d": 5}[case.name]
        )


def run_without_proof(case: Case, kernel: Kernel) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    got = interpret(kernel, inputs, case.sizes, case.scalars)
    assert_agrees(case, got, case.reference(inputs), SEED)


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_merged_and_split_kernels_keep_the_rules(case: Case) -> None:
    """Merging what splitting made gives a kernel whose accesses are still proved inside."""
    kernel = parse_kernel(case.text)
    for axis, extent in kernel.axes:
        if axis in scanned(kernel) or not isinstance(extent, int):
            continue
        split = split_axis(kernel, axis, 4)
        check_same(case, merge_axes(split, (f"{axis}o", f"{axis}i"), "whole"))


def test_merge_three_axes_of_run_time_extent() -> None:
    text = """kernel sizes
  size B 1..
  size N 1..
  axes b:B n:N k:3
  in x f32[B,N,3]
  out y f32[B,N,3]
  a = load x[b, n, k]
  store y[b, n, k] = -a"""
    merged = verify(merge_axes(parse_kernel(text), ("b", "n", "k"), "all"))
    x = np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32)
    got = interpret(merged, {"x": x}, {"B": 5, "N": 7})["y"]
    assert np.array_equal(got, -x)
    assert "all // size(3*N)" in print_kernel(merged)


# ---- phases


@pytest.mark.parametrize("name", ["conv2d_dgrad", "max_pool_backward"])
def test_phases(name: str) -> None:
    for case in (c for c in ZOO if c.name.startswith(name) and "phases" not in c.name):
        phases = split_phases(parse_kernel(case.text))
        text = print_kernel(phases)
        assert "== 0" not in text  # the divisibility predicates are gone
        assert phases.parallel[:2] == ("riy", "rix")
        check_same(case, phases)


def test_phases_waste_nothing() -> None:
    """The multiplications of form A and of the phases: a quarter, but for the border."""

    def products(kernel: Kernel) -> int:
        (contract,) = (t for t in kernel.terms if isinstance(t, Contract))
        used = contract.a.axes | contract.b.axes
        return math.prod(int(str(e)) for a, e in kernel.axes if a in used)

    whole = parse_kernel(BY_NAME["conv2d_dgrad"].text)
    assert products(split_phases(whole)) < 0.6 * products(whole)


@pytest.mark.parametrize(
    ("stride", "dilation", "pad"), [(3, 1, 2), (3, 2, 0), (2, 3, 1), (4, 1, 3)]
)
def test_phases_of_strides_and_dilations(stride: int, dilation: int, pad: int) -> None:
    height, taps = 17, 4
    rows = (height + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
    text = f"""kernel strided
  axes y:{height} p:{taps}
  in dr f32[{rows}], w f32[{taps}]
  out dim f32[{height}]
  t = y + {pad} - {dilation}*p
  a = load dr[t // {stride}] if t % {stride} == 0 else 0.0
  v = load w[p]
  s = contract a, v over p
  store dim[y] = s"""
    kernel = parse_kernel(text)
    phases = verify(split_phases(kernel))
    rng = np.random.default_rng(SEED)
    given = {k: rng.standard_normal(n).astype(np.float32) for k, n in (("dr", rows), ("w", taps))}
    want = np.zeros(height)
    for r, p in np.ndindex(rows, taps):
        at = r * stride - pad + dilation * p
        if 0 <= at < height:
            want[at] += float(given["dr"][r]) * float(given["w"][p])
    for k in (kernel, phases):
        assert np.allclose(interpret(k, given)["dim"], want, atol=1e-5)


def test_a_dilation_that_shares_a_factor_with_the_stride_has_no_phases() -> None:
    with pytest.raises(KernelError, match="no divisibility predicate"):
        split_phases(parse_kernel(BY_NAME["softmax"].text))


# ---- reductions in two phases


def reduced_axes(kernel: Kernel) -> list[str]:
    bound = {a for t in kernel.terms if isinstance(t, (Reduction, Contract)) for a in t.over}
    return [a for a, _ in kernel.axes if a in bound - scanned(kernel)]


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_split_every_reduction(case: Case) -> None:
    kernel = parse_kernel(case.text)
    for axis in reduced_axes(kernel):
        for block in (4, 7):
            split = split_reduce(kernel, axis, block)
            assert f"{axis}o" in split.partials.parallel or not_alone(split, axis)
            check_same(case, split.partials, *split.finishers)


def not_alone(split: SplitReduction, axis: str) -> bool:
    """Whether the first kernel also stores what has nothing to do with the axis."""
    return any(f"{axis}o" not in s.axes for s in split.partials.stores)


def test_a_split_softmax_merges_states() -> None:
    split = split_reduce(parse_kernel(BY_NAME["softmax_online"].text), "j", 64)
    assert [t.name for t in split.partials.outputs] == ["m_part", "s_part"]
    (finisher,) = split.finishers
    (merge,) = (t for t in finisher.terms if isinstance(t, Reduction))
    assert (merge.monoid, merge.merge, merge.over) == ("expsum", True, ("jo",))


def test_a_reduction_that_needs_another_stays_whole() -> None:
    split = split_reduce(parse_kernel(BY_NAME["softmax"].text), "j", 64)
    assert [t.name for t in split.partials.outputs] == ["m_part"]
    again = [t.monoid for t in split.finishers[0].terms if isinstance(t, Reduction)]
    assert again == ["max", "sum"]


def test_layer_norm_backward_from_one_kernel() -> None:
    """The text of KERNELS.md's two kernels comes from one that names no blocks."""
    text = BY_NAME["layer_norm_backward"].text
    whole = (
        text.replace("ib:4 ii:16", "i:64")
        .replace("16*ib + ii", "i")
        .replace("over ii", "over i")
        .replace("[4,200]", "[200]")
        .replace("pg[ib, j]", "pg[j]")
        .replace("pb[ib, j]", "pb[j]")
    )
    split = split_reduce(parse_kernel(whole), "i", 16)
    assert split.partials.parallel == ("io",)
    rng = np.random.default_rng(SEED)
    inputs = BY_NAME["layer_norm_backward"].make_inputs(rng)
    known: dict[str, Any] = {**inputs, **interpret(verify(split.partials), inputs)}
    for finisher in split.finishers:
        given = {t.name: known[t.name] for t in finisher.inputs}
        known |= interpret(verify(finisher), given)
    want = interpret(parse_kernel(whole), inputs)
    for name in ("dx", "pg", "pb"):
        assert np.allclose(known[name], want[name], atol=1e-4), name


def test_nothing_to_split_is_an_error() -> None:
    with pytest.raises(KernelError, match="nothing reduces over 'i'"):
        split_reduce(parse_kernel(BY_NAME["softmax"].text), "i", 4)


# ---- substitution


def first(kernel: Kernel, kind: type[Any]) -> Any:
    return next(t for t in kernel.terms if isinstance(t, kind))


def test_substitution_leaves_bound_axes_alone() -> None:
    kernel = parse_kernel(BY_NAME["softmax"].text)
    value = kernel.stores[0].value
    moved = substitute(value, {"j": build.apply("+", build.axis("k"), 1)})
    assert moved.axes == {"i", "k"}
    reductions = [t for t in postorder([moved]) if isinstance(t, Reduction)]
    assert all(r.over == ("j",) for r in reductions)


def test_substitution_refuses_capture() -> None:
    kernel = parse_kernel(BY_NAME["softmax"].text)
    with pytest.raises(KernelError, match="'j', which is bound"):
        substitute(kernel.stores[0].value, {"i": build.axis("j")})


def test_substitution_of_what_is_not_there_changes_nothing() -> None:
    value = parse_kernel(BY_NAME["attention"].text).stores[0].value
    assert substitute(value, {"zz": build.axis("i")}, {"other": lambda index: index[0]}) is value


def test_a_producer_takes_the_place_of_a_load() -> None:
    kernel = parse_kernel(BY_NAME["softmax"].text)
    load = first(kernel, Load)
    tensor = kernel.tensors["x"]

    def doubled(index: tuple[Any, ...]) -> Any:
        return build.apply("*", build.load(tensor, index), 2.0)

    store = kernel.stores[0]
    value = substitute(store.value, {}, {"x": doubled})
    statement = Store(store.tensor, store.index, value)
    fused = build.kernel("fused", kernel.axes, kernel.inputs, kernel.outputs, [statement])
    x = np.random.default_rng(SEED).standard_normal((64, 200)).astype(np.float32)
    want = interpret(kernel, {"x": 2 * x})["y"]
    assert np.array_equal(interpret(verify(fused), {"x": x})["y"], want)
    assert load.tensor == "x"


def test_deep_terms_do_not_recurse() -> None:
    total: Any = build.axis("i")
    for _ in range(5000):
        total = build.apply("+", total, 1)
    assert substitute(total, {"i": build.axis("k")}).axes == {"k"}


def test_pruned_drops_what_nothing_uses() -> None:
    text = "kernel k\n axes i:4 j:3\n in x f32[4], z f32[3]\n out y f32[4]\n a = load x[i]\n"
    kernel = pruned(parse_kernel(text + " store y[i] = a"))
    assert kernel.axes == (("i", 4),)
    assert [t.name for t in kernel.inputs] == ["x"]


def test_names_that_are_taken_are_refused() -> None:
    kernel = parse_kernel(BY_NAME["softmax"].text)
    with pytest.raises(KernelError, match="is taken"):
        rename_axis(kernel, "i", "j")
    with pytest.raises(KernelError, match="is taken"):
        split_axis(kernel, "i", 4, "j", "k")
    with pytest.raises(KernelError, match="no axis 'q'"):
        merge_axes(kernel, ("i", "q"))
    with pytest.raises(KernelError, match="at least one element"):
        split_axis(kernel, "i", 0)
