"""Loop nests: what is computed where, read as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.errors import KernelError
from graphc.kernel.parser import parse_kernel
from graphc.nest import Affine, Tiling, affine, build_nest, print_nest

GOLDENS = Path(__file__).parent / "goldens"

SOFTMAX = """kernel softmax
  axes i:64 j:200
  in x f32[64,200]
  out y f32[64,200]
  a = load x[i, j]
  m = reduce max a over j
  e = exp(a - m)
  s = reduce sum e over j
  store y[i, j] = e / s"""
NORM_BACKWARD = """kernel norm_backward
  axes ib:4 ii:16 j:200
  in x f32[64,200], dy f32[64,200], mean f32[64], rstd f32[64]
  out dx f32[64,200], pg f32[4,200], pb f32[4,200]
  a = load x[16*ib + ii, j]
  d = load dy[16*ib + ii, j]
  mu = load mean[16*ib + ii]
  r = load rstd[16*ib + ii]
  h = (a - mu) * r
  c1 = reduce sum d over j
  dh = d * h
  c2 = reduce sum dh over j
  store dx[16*ib + ii, j] = r * (d - (c1 + h * c2) / 200.0)
  tg = reduce sum dh over ii
  tb = reduce sum d over ii
  store pg[ib, j] = tg
  store pb[ib, j] = tb"""
ATTENTION = """kernel attention
  axes i:64 j:64 c:16 d:16
  in q f32[64,16], k f32[64,16], v f32[64,16]
  out y f32[64,16], lse f32[64]
  qa = load q[i, c]
  ka = load k[j, c]
  va = load v[j, d]
  dots = contract qa, ka over c
  m, l, o = reduce expsum dots; 1.0, va over j where j <= i
  store y[i, d] = o / l
  store lse[i] = m + log(l)"""
CASES = {
    "softmax": (SOFTMAX, Tiling({"i": 8}, {"j": 4}, frozenset("j"), ("i", "j"), frozenset("e"))),
    "softmax_recomputed": (SOFTMAX, Tiling({"i": 8}, {"j": 4}, frozenset("j"), ("i", "j"))),
    "norm_backward": (
        NORM_BACKWARD,
        Tiling({"ib": 1}, {"j": 2}, frozenset("j"), ("ib", "ii", "j")),
    ),
    "attention": (ATTENTION, Tiling({"i": 4}, {}, frozenset("cd"), ("i", "j", "c", "d"))),
}


@pytest.mark.parametrize("name", CASES)
def test_nest_is_the_golden_one(name: str, request: pytest.FixtureRequest) -> None:
    text, tiling = CASES[name]
    got = print_nest(build_nest(parse_kernel(text), tiling))
    path = GOLDENS / f"{name}.nest"
    if request.config.getoption("--update-golden"):
        path.write_text(got)
    assert got == path.read_text()


def test_reductions_over_the_same_axes_share_one_pass() -> None:
    nest = print_nest(build_nest(parse_kernel(NORM_BACKWARD), CASES["norm_backward"][1]))
    assert nest.count("begin sum, sum over j") == 1
    assert nest.count("begin sum, sum over ii") == 1


def test_a_reduction_that_needs_another_waits_for_it() -> None:
    nest = print_nest(build_nest(parse_kernel(SOFTMAX), Tiling()))
    assert nest.index("begin max") < nest.index("end") < nest.index("begin sum")


def test_only_parallel_axes_are_blocked() -> None:
    with pytest.raises(
        KernelError, match=r"softmax: the tiling blocks \['j'\], which are not parallel axes"
    ):
        build_nest(parse_kernel(SOFTMAX), Tiling({"j": 8}))


def test_affine_form_gathers_what_is_linear_and_keeps_the_rest_as_atoms() -> None:
    kernel = parse_kernel("""kernel k
  axes i:8 j:4
  in x f32[200], t i64[8]
  out y f32[8,4]
  r = load t[i]
  check 0 <= r and r < 8 "r"
  a = load x[2*(i + 3*j) - 1 + r + (i + j) // 2] else 0.0
  store y[i, j] = a""")
    (load,) = [t for n, t in kernel.definitions if n == "a"]
    form = affine(load.index[0])
    assert form.constant == -1
    assert form.axes == {"i": 2, "j": 6}
    assert [type(t).__name__ for t in form.atoms] == ["Load", "Apply"]


def test_affine_sums_cancel() -> None:
    one = Affine(3, {"i": 2}, {})
    assert one.plus(Affine(0, {"i": -2}, {})) == Affine(3, {}, {})
