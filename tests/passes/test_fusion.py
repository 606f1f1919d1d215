"""What fuses into one kernel, by the same rules for all: nothing may hang on an op's or a
composite's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.kernel.text import print_kernel
from tests.passes.levels import check_levels, kernel_count, lowered

Rows = Callable[[gc.Value], gc.Value]


def _softmax(x: gc.Value) -> gc.Value:
    e = ops.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(x: gc.Value) -> gc.Value:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - ops.log(ops.exp(shifted).sum(axis=-1, keepdims=True))


def _base_two(x: gc.Value) -> gc.Value:
    e = ops.exp2(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _masked(x: gc.Value) -> gc.Value:
    rows, columns = x.shape
    keep = ops.arange(columns) <= ops.arange(rows).reshape(-1, 1)
    return _softmax(ops.where(keep, x, -np.inf))


def _layer_norm(x: gc.Value) -> gc.Value:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * ops.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)


def _rms_norm(x: gc.Value) -> gc.Value:
    return x * ops.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


def _invented_norm(x: gc.Value) -> gc.Value:
    """Divide by the cube root of the mean cube of magnitudes, about the midrange."""
    middle = (x.max(axis=-1, keepdims=True) + x.min(axis=-1, keepdims=True)) * 0.5
    away = ops.abs(x - middle)
    cube = (away * away * away).mean(axis=-1, keepdims=True)
    return ops.tanh(x - middle) / ops.exp(ops.log(cube + 1e-3) / 3.0)


ROWS: dict[str, Rows] = {
    "softmax": _softmax,
    "tempered softmax": lambda x: _softmax(x / 0.7),
    "base-2 softmax": _base_two,
    "masked softmax": _masked,
    "log softmax": _log_softmax,
    "layer norm": _layer_norm,
    "rms norm": _rms_norm,
    "an invented norm": _invented_norm,
    "library softmax": lambda x: nn.functional.softmax(x, -1),
    "library layer norm": lambda x: nn.functional.layer_norm(x, (x.shape[-1],)),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("shape", [(33, 20), (5, 7)])
def test_row_programs_are_one_kernel(name: str, shape: tuple[int, int]) -> None:
    x = gc.observed("x", shape)
    compiled = check_levels([x], [ROWS[name](x)])
    assert kernel_count(compiled) == 1
    assert len(compiled.calls[0].kernel.parallel) == 1


@pytest.mark.parametrize("name", ["softmax", "rms norm", "an invented norm"])
def test_row_programs_stay_one_kernel_between_elementwise_maps(name: str) -> None:
    x, w = gc.observed("x", (16, 24)), gc.observed("w", (24,))
    y = ops.tanh(ROWS[name](ops.exp(x) * w)) + x
    assert kernel_count(check_levels([x, w], [y])) == 1


def test_cross_entropy_with_its_gradient_is_one_kernel() -> None:
    x, t = gc.observed("x", (32, 10)), gc.observed("t", (32,), gc.int64)
    loss = nn.functional.cross_entropy(x, t, reduction="none")
    gradient = gc.grad(loss.sum(), x)
    compiled = check_levels([x, t], [loss, gradient])
    assert kernel_count(compiled) == 1


def test_mean_cross_entropy_counts_first_and_sums_last() -> None:
    x, t = gc.observed("x", (32, 10)), gc.observed("t", (32,), gc.int64)
    loss = nn.functional.cross_entropy(x, t)
    compiled = check_levels([x, t], [loss, gc.grad(loss, x)])
    assert kernel_count(compiled) == 3  # the count, the rows, the sum


def test_epilogues_join_a_contraction() -> None:
    x, w = gc.observed("x", (12, 16)), gc.observed("w", (8, 16))
    b, r = gc.observed("b", (8,)), gc.observed("r", (12, 8))
    y = nn.functional.gelu(x @ w.T + b) + r
    compiled = check_levels([x, w, b, r], [y])
    assert kernel_count(compiled) == 1


def test_a_computed_operand_is_not_recomputed_for_every_tile() -> None:
    x, w = gc.observed("x", (64, 256)), gc.observed("w", (256, 640))
    compiled = check_levels([x, w], [ops.exp(x) @ w])
    assert kernel_count(compiled) == 2
    (why,) = compiled.fused.refusals.values()
    assert str(why) == "would recompute `exp` 10×"


def test_movement_is_never_a_kernel_of_its_own() -> None:
    x = gc.observed("x", (6, 8))
    y = (ops.exp(x.T).reshape(2, 4, 6)[:, ::2] + 1.0).sum(axis=0)
    assert kernel_count(check_levels([x], [y])) == 1


def test_an_output_that_only_moves_is_a_copy() -> None:
    x = gc.observed("x", (6, 8))
    assert kernel_count(check_levels([x], [x.T, x])) == 1  # it reads x once


def test_two_readers_of_one_tensor_become_one_kernel() -> None:
    x = gc.observed("x", (64, 20))
    compiled = check_levels([x], [ops.exp(x).sum(axis=1), ops.tanh(x).max(axis=1)])
    assert kernel_count(compiled) == 1


def test_a_whole_sum_cannot_be_used_in_the_kernel_that_makes_it() -> None:
    x = gc.observed("x", (64, 200))
    compiled = check_levels([x], [x - x.mean()])
    assert kernel_count(compiled) == 2
    assert "one block of work" in str(next(iter(compiled.fused.refusals.values())))


def test_a_large_sum_is_cut_into_chunks_that_do_not_depend_on_threads() -> None:
    x = gc.observed("x", (1024, 256))
    compiled = check_levels([x], [ops.exp(x).sum() / 3.0])
    assert kernel_count(compiled) == 2
    assert compiled.calls[0].kernel.parallel == ("io",)


def test_a_ragged_chunk_is_guarded() -> None:
    x = gc.observed("x", (1021, 130))
    compiled = check_levels([x], [ops.exp(x).sum()])
    assert kernel_count(compiled) == 2


def test_norm_backward_is_a_row_kernel_with_partials_and_the_finishing_ones() -> None:
    rows, columns = 2048, 64
    x, g = gc.observed("x", (rows, columns)), gc.observed("g", (columns,))
    b, dy = gc.observed("b", (columns,)), gc.observed("dy", (rows, columns))
    y = _layer_norm(x) * g + b
    compiled = check_levels([x, g, b, dy], list(gc.vjp(y, (x, g, b), dy)), rtol=1e-3)
    first = compiled.calls[0].kernel
    assert first.parallel == ("io",)
    assert len(first.outputs) == 3  # dx, and partial sums of dg and db
    assert all(len(c.kernel.outputs) == 1 for c in compiled.calls[1:])
    assert kernel_count(compiled) == 3


def test_adam_is_the_epilogue_of_the_weight_gradient() -> None:
    x, w = gc.observed("x", (32, 16)), gc.parameter((8, 16)).named("w")
    loss = (ops.tanh(x @ w.T)).sum()
    up = optim.Adam(lr=1e-2).minimize(loss, [w])
    compiled = check_levels([x], [loss], up)
    last = compiled.calls[-1].kernel
    assert any(len(c.kernel.outputs) == 3 for c in compiled.calls)
    assert last.name


def test_a_state_is_not_written_by_a_kernel_with_a_check() -> None:
    table, i = gc.parameter((10, 4)).named("table"), gc.observed("i", (6,), gc.int64)
    s = gc.state((6, 4)).named("s")
    rows = ops.take(table, i, axis=0)
    compiled = lowered([i], [], {s: rows * 2.0})
    for call in compiled.calls:
        names = {slot.name for slot in call.outputs}
        assert not (call.kernel.checks and "new_s" in names)


def test_every_refusal_says_a_number_or_a_reason() -> None:
    x, y = gc.observed("x", (64, 64)), gc.observed("y", (64,), gc.int64)
    net = nn.Linear(64, 128) >> nn.ReLU() >> nn.Linear(128, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    compiled = lowered([x, y], [loss], optim.SGD(lr=0.1).minimize(loss))
    assert compiled.fused.refusals
    for why in compiled.fused.refusals.values():
        assert len(str(why)) > 10


@pytest.mark.parametrize("nodes", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_lowering_takes_near_linear_time(nodes: int) -> None:
    def chain(n: int) -> float:
        x = gc.observed("x", (4,))
        y = x
        for k in range(n):
            y = ops.tanh(y) if k % 7 == 0 else y + x
        start = time.process_time()
        lowered([x], [y])
        return time.process_time() - start

    few = 500
    assert chain(nodes) < 3 * (nodes / few) * chain(few) + 1.0


def test_a_copy_that_splits_an_axis_is_the_epilogue_of_what_it_copies() -> None:
    """Heads join as they are stored: out[b, t, 4*h + d], not a kernel that copies."""
    p, v = gc.observed("p", (3, 4, 6, 6)), gc.observed("v", (3, 4, 6, 4))
    y = ops.permute_dims(ops.matmul(p, v), (0, 2, 1, 3)).reshape(3, 6, 16)
    assert kernel_count(check_levels([p, v], [y])) == 1


@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8), (48,), (8, 6), (1, 48), (4, 12)])
def test_reshaped_outputs(shape: tuple[int, ...]) -> None:
    x = gc.observed("x", (6, 8))
    check_levels([x], [ops.exp(x).reshape(shape), ops.exp(x).T.reshape(shape)])


def test_a_diagonal_does_not_make_two_axes_one() -> None:
    x = gc.observed("x", (6, 6))
    y = ops.exp(x)
    check_levels([x], [y, ops.einsum("ii->i", y), y.sum(axis=0)])
    cheap = x * 2.0
    check_levels([x], [cheap, ops.einsum("ii->i", cheap)])


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_a_padded_cheap_value_is_masked_where_it_is_computed(fill: float) -> None:
    x, y = gc.observed("x", (5, 4)), gc.observed("y", (5, 4))
    padded = ops.pad(x * 2.0 + y, [(1, 2), (0, 3)], value=fill)
    compiled = check_levels([x, y], [ops.exp(padded)])
    assert kernel_count(compiled) == 1


def test_joined_cheap_values_are_masked_where_they_are_computed() -> None:
    x, y = gc.observed("x", (5, 4)), gc.observed("y", (3, 4))
    joined = ops.concat([x * 2.0, y + 1.0], axis=0)
    assert kernel_count(check_levels([x, y], [ops.exp(joined)])) == 1


@pytest.mark.parametrize("stop", [1, 3, 8])
def test_a_part_of_a_computed_value_as_an_output(stop: int) -> None:
    x = gc.observed("x", (8, 4))
    check_levels([x], [ops.exp(x)[:stop], ops.exp(x)[:, :2].T])


@pytest.mark.parametrize("rectified", [nn.functional.relu, lambda x: ops.maximum(x, 0.0)])
def test_a_product_is_not_computed_again_for_each_element_of_a_window(rectified: Rows) -> None:
    """The gradient of a maximum reads what is behind it once for each place of its window; that of
    ``maximum`` in two ways, whose axes are not the same.
    """
    x, w = gc.observed("x", (2, 3, 8, 8)), gc.observed("w", (4, 3, 3, 3))
    pooled = ops.max_pool(rectified(x), (2, 2), (2, 2), 0)
    y = ops.convolution(pooled, w, padding=1)
    compiled = check_levels([x, w], [gc.grad((y * y).sum(), x)])
    contractions = [k for c in compiled.calls if "contract" in (k := print_kernel(c.kernel))]
    assert len(contractions) == 2  # the convolution, and its gradient at the maxima's own places
    assert all("//" not in text for text in contractions)
    assert "would recompute `d_convolution` 4×" in map(str, compiled.fused.refusals.values())


@pytest.mark.parametrize("move", [
    lambda y: ops.roll(y, 3, 1), lambda y: ops.pad(y, [(0, 0), (2, 1)]),
], ids=["rolled", "padded"])  # fmt: skip
def test_places_of_elements_are_read_only_where_the_elements_are(move: Rows) -> None:
    """Sorted rows are looked up at ``load places[j - 2, i]``, which is outside of them as well
    where the moved element is: verification shows it, the values would not.
    """
    x = gc.observed("x", (5, 7))
    check_levels([x], [move(ops.sort(x, 0))])
