"""Scans over axes that no tile holds: states carried from tile to tile, or stored in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import ops
from graphc.backends.triton import tiling
from graphc.backends.triton.compiler import Job, compile_kernels
from graphc.backends.triton.scans import split_scans
from graphc.backends.triton.toolchain import TARGETS
from graphc.kernel.interpret import interpret
from graphc.kernel.parser import parse_kernel
from tests.triton.run_kernel import run_kernel

DATA = np.random.default_rng(6)

#: monoid, type, the elements' terms, states
KINDS = {
    "sum": ("f32", "x", 1),
    "prod": ("f64", "x", 1),
    "max": ("f16", "x", 1),
    "min": ("i32", "x", 1),
    "any": ("bool", "x", 1),
    "argmax": ("f32", "x; j", 2),
    "expsum": ("f32", "x; 1.0", 2),
    "linear": ("f32", "d; x", 2),
}


def scan_kernel(kind: str, how: str, length: object = 21, rows: int = 2) -> str:
    short, given, states = KINDS[kind]
    out = {"argmax": ("f32", "i64")}.get(kind, (short,) * states)
    decay = "  d = x * 0.5\n" if kind == "linear" else ""
    size = "" if isinstance(length, int) else f"  size {length} 1..\n"
    names = ", ".join(f"s{n}" for n in range(states))
    tensors = ", ".join(f"y{n} {d}[{rows},{length}]" for n, d in enumerate(out))
    stores = "\n".join(f"  store y{n}[i, j] = s{n}" for n in range(states))
    monoid = "max" if kind == "any" else kind
    return f"""kernel scanned
{size}  axes i:{rows} j:{length}
  in x {short}[{rows},{length}]
  out {tensors}
  x = load x[i, j]
{decay}  {names} = scan {monoid} {given} over j{how}
{stores}"""


def elements(kind: str, shape: tuple[int, ...]) -> Any:
    """Numbers with a NaN and infinities among them, where the order of merging does not show."""
    short, values = KINDS[kind][0], DATA.standard_normal(shape)
    if short == "bool":
        return values > 1.2
    if short == "i32":
        return (values * 1e8).astype(np.int32)
    values = values.astype(gc.types.dtype_of(short).numpy)
    if kind != "linear":
        values[0, 9], values[1, 4], values[1, 13] = np.nan, np.inf, -np.inf
    return values


@pytest.fixture
def short_rows(monkeypatch: Any) -> None:
    """Tiles that a row of 21 does not fit in."""
    for name, most in (("_LONGEST_ROW", 8), ("_SCANNED", 8), ("_SCANNED_ACROSS", 4)):
        monkeypatch.setattr(tiling, name, most)


def cases() -> list[Any]:
    ways = {"sum": ("", " reverse", " exclusive", " reverse exclusive")}
    return [(k, how) for k in KINDS for how in ways.get(k, ("", " reverse exclusive"))]


@pytest.mark.parametrize(("kind", "how"), cases())
def test_states_are_carried_from_tile_to_tile(
    kind: str, how: str, short_rows: None, tmp_path: Path
) -> None:
    for length, count in (("N", 16), ("N", 21), (21, 21)):
        if length == 21 and kind != "sum":
            continue
        kernel = parse_kernel(scan_kernel(kind, how, length))
        given = {"x": elements(kind, (2, 21))[:, :count]}
        sizes = {} if length == 21 else {"N": count}
        wanted = interpret(kernel, given, sizes)
        got, _ = run_kernel(kernel, given, sizes, directory=tmp_path)
        for name, array in got.items():
            tolerance = 2e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(
                array.astype(float), wanted[name].astype(float), rtol=tolerance, atol=tolerance,
                err_msg=f"{name} of {count}",
            )


def test_the_compiler_takes_carried_states(monkeypatch: Any) -> None:
    monkeypatch.setattr(tiling, "_SCANNED", 64)
    texts = scan_kernel("any", "", 20_001), scan_kernel("argmax", " reverse exclusive", "N")
    for made in compile_kernels([Job(parse_kernel(t)) for t in texts], TARGETS["sm_90"]):
        assert " in range(" in made.emitted.text
        assert made.code.spilled == 0


BOTH = """kernel both
  size N 1..
  axes j:N
  in x f32[N]
  out y f32[N]
  a = load x[j]
  s = scan sum a over j
  t = scan sum s over j reverse
  store y[j] = s + t"""


def test_scans_in_both_directions_are_stored_between_kernels(short_rows: None) -> None:
    first, last = split_scans(parse_kernel(BOTH))
    assert [t.name for t in first.outputs] == ["both_scanned0"]
    assert [t.name for t in last.inputs] == ["both_scanned0"]
    assert split_scans(first) == (first,)
    assert split_scans(last) == (last,)
    whole = parse_kernel(BOTH.replace("  size N 1..\n", "").replace("N", "8"))
    assert split_scans(whole) == (whole,), "one tile has both"


@pytest.mark.parametrize("axis", [0, 1])
def test_programs_of_run_time_sizes_scan(device: Any, short_rows: None, axis: int) -> None:
    shape: list[Any] = [3, 3]
    shape[axis] = gc.Dim("N", specialize=False)
    x = gc.observed("x", tuple(shape))
    total = ops.cumsum(ops.cumprod(x, axis=axis), axis=axis)
    outputs = [total, gc.grad((total * total).sum(), x)]
    ours, theirs = (gc.compile([x], outputs, backend=b) for b in ("triton", "llvm"))
    for size in (1, 13):
        shape[axis] = size
        given = DATA.standard_normal(shape).astype(np.float32)
        for got, wanted in zip(ours(given), theirs(given), strict=True):
            np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-4, atol=1e-4)
