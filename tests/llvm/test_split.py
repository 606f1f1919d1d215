"""Long sums in parts: where they are cut, what is then computed, and how register tiles lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.backends.llvm.pack import pack_operands
from graphc.backends.llvm.split import split_sums
from graphc.backends.llvm.target import host_target
from graphc.backends.llvm.tiling import choose_tiling
from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Contract, Kernel
from graphc.kernel.verify import verify
from graphc.nest import flat_offset
from tests.llvm.run_kernel import run_kernel

#: a second cache so small that few images fill it
SMALL = replace(host_target(), l2_bytes=8192)


def weight_gradient(batch: int, size: int, outer: int = 5, inner: int = 4) -> Kernel:
    """A 3x3 convolution's, with what an optimizer does to it."""
    return parse_kernel(f"""kernel gradient
  axes i:{outer} j:{inner} k:3 l:3 m:{batch} n:{size} p:{size}
  in d f32[{batch},{outer},{size},{size}]
  in x f32[{batch},{inner},{size + 2},{size + 2}]
  in w f32[{outer},{inner},3,3]
  out y f32[{outer},{inner},3,3]
  a = load d[m, i, n, p]
  b = load x[m, j, k + n, l + p]
  c = contract a, b over m, n, p
  v = load w[i, j, k, l]
  store y[i, j, k, l] = v - 0.5 * c""")


def expected(inputs: dict) -> np.ndarray:
    d, x = (inputs[name].astype(np.float64) for name in "dx")
    size = d.shape[-1]
    taps = [
        [np.einsum("minp,mjnp->ij", d, x[:, :, k : k + size, j : j + size]) for j in range(3)]
        for k in range(3)
    ]
    return inputs["w"] - 0.5 * np.array(taps).transpose(2, 3, 0, 1)


@pytest.mark.parametrize(("batch", "size"), [(6, 16), (7, 17), (12, 12)])
def test_sums_in_parts_equal_numpy(batch: int, size: int) -> None:
    rng = np.random.default_rng(6)
    kernel = weight_gradient(batch, size)
    known = {t.name: rng.standard_normal(t.type.shape, np.float32) for t in kernel.inputs}
    want = expected(known)
    parts = split_sums(kernel, SMALL)
    assert [p.name for p in parts] == ["gradient_partials", "gradient"]
    assert not any(isinstance(t, Contract) for t in parts[1].terms)
    for part in (p for whole in parts for p in pack_operands(whole, SMALL)):
        verify(part)
        outputs, failed = run_kernel(part, {t.name: known[t.name] for t in part.inputs})
        assert failed == 0
        known |= outputs
    np.testing.assert_allclose(known["y"], want, rtol=2e-5, atol=2e-4)


def test_parts_come_first_and_their_operands_fit_in_the_cache() -> None:
    partials, finisher = split_sums(weight_gradient(12, 12), SMALL)
    assert partials.axes[0] == ("mo", 6)
    assert partials.tensors["c_part"].type.shape == (6, 5, 4, 3, 3)
    # what adds them runs over all results as they lie in memory
    assert [e for a, e in finisher.axes if a in finisher.parallel] == [180]
    bigger = replace(SMALL, l2_bytes=4 * (5 * 144 + 4 * 196) * 3)
    assert split_sums(weight_gradient(12, 12), bigger)[0].axes[0] == ("mo", 4)


def test_what_is_not_cut() -> None:
    kernel = weight_gradient(12, 12)
    assert split_sums(kernel, host_target()) == (kernel,)  # a tile's rows stay in the cache
    thin = weight_gradient(12, 12, outer=500, inner=400)
    assert split_sums(thin, SMALL) == (thin,)  # parts would be more than what they are made of
    sized = parse_kernel("""kernel product
  size K 1..9999
  axes i:8 j:8 k:K
  in a f32[8,K], b f32[8,K]
  out y f32[8,8]
  x = load a[i, k]
  z = load b[j, k]
  c = contract x, z over k
  store y[i, j] = c""")
    assert split_sums(sized, SMALL) == (sized,)


def test_a_register_tile_uses_rows_of_both_operands() -> None:
    """Two axes of one operand would read the other one anew for each multiplication."""
    tiling = choose_tiling(weight_gradient(6, 16), host_target())
    tiled = {a for a in tiling.tile if a in ("i", "j", "k", "l")}
    assert tiling.vector == {"p"}
    assert "i" in tiled
    assert len(tiled) == 2
    # what the rows of the tile read stays for all of the others' points
    order = [a for a in tiling.order if a in ("i", "j", "k")]
    assert order == ["i", "j", "k"]


@pytest.mark.parametrize(
    ("index", "step"), [("k // 12, k // 4 % 3, k % 4", 1), ("k % 5, k // 4 % 3, k % 4", None)]
)
def test_digits_of_one_axis_are_one_offset(index: str, step: int | None) -> None:
    kernel = parse_kernel(f"""kernel flat
  axes k:60
  in x f32[5,3,4]
  out y f32[60]
  a = load x[{index}]
  store y[k] = a""")
    load = next(t for _, t in kernel.definitions if hasattr(t, "tensor"))
    offset = flat_offset(kernel.tensors["x"], load.index)
    assert offset.axes.get("k") == step
    assert bool(offset.atoms) == (step is None)
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    outputs, _ = run_kernel(kernel, {"x": x})
    k = np.arange(60)
    first = k // 12 if step else k % 5
    np.testing.assert_array_equal(outputs["y"], x[first, k // 4 % 3, k % 4])
