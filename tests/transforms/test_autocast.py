"""autocast: operands rounded, sums not; derivatives, bodies, lanes; loss scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.closing import close

rng = np.random.default_rng(17)

HALVES = [gc.bfloat16, gc.float16]


def normal(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def rounded(array: Any, dtype: Any) -> Any:
    return np.asarray(array, np.float32).astype(dtype.numpy).astype(np.float64)


def run(output: Any, **arrays: Any) -> Any:
    inputs = [n.outputs[0] for n in close(gc.tree.leaves(output)).nodes if n.op == "observed"]
    return gc.compile(inputs, output)(**{v.name: arrays[v.name] for v in inputs})


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_operands_are_rounded_and_sums_are_not(dtype: Any) -> None:
    x, w = gc.observed("x", (33, 200)), gc.observed("w", (200, 17))
    a, b = normal(33, 200), normal(200, 17)
    exact = rounded(a, dtype) @ rounded(b, dtype)
    got = run(gc.autocast(x @ w, dtype), x=a, w=b)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
    plain = run(x @ w, x=a, w=b)
    assert np.abs(plain - exact).max() > 1e-3, "nothing was rounded"


def convolved(x: gc.Value, w: gc.Value) -> gc.Value:
    return ops.convolution(x, w, stride=2, padding=1)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (lambda x, w: x @ w, ((9, 20), (20, 7))),
        (convolved, ((2, 3, 9, 9), (4, 3, 3, 3))),
        (lambda x, w: ops.einsum("bij,bkj->bik", x, w), ((3, 4, 16), (3, 5, 16))),
    ],
    ids=["matmul", "convolution", "batched"],
)
def test_derivatives_round_their_operands_once(dtype: Any, product: Any, shapes: Any) -> None:
    """The reference is the product in float64 of what was rounded, by hand."""
    x, w = (gc.observed(n, s) for n, s in zip("xw", shapes, strict=True))
    out = product(x, w)
    g = gc.observed("g", out.shape)
    arrays = dict(zip("xwg", (normal(*s) for s in (*shapes, out.shape)), strict=True))
    got = run(gc.vjp([gc.autocast(out, dtype)], [x, w], [g]), **arrays)
    wide = {n: gc.observed(n, v.shape, gc.float64) for n, v in zip("xwg", (x, w, g), strict=True)}
    reference = gc.vjp([product(wide["x"], wide["w"])], [wide["x"], wide["w"]], [wide["g"]])
    wanted = run(reference, **{n: rounded(a, dtype) for n, a in arrays.items()})
    for mine, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=2e-5)


def network() -> tuple[list[gc.Value], gc.Value, nn.Module]:
    gc.manual_seed(3)
    x, y = gc.observed("x", (32, 1, 8, 8)), gc.observed("y", (32,), gc.int64)
    net = nn.Conv2d(1, 8, 3, padding=1) >> nn.BatchNorm2d(8) >> nn.ReLU() >> nn.MaxPool2d(2)
    net = net >> nn.Flatten() >> nn.Linear(128, 32) >> nn.Tanh() >> nn.Linear(32, 10)
    return [x, y], nn.CrossEntropyLoss()(net(x), y), net


def test_before_and_after_a_derivative_is_the_same() -> None:
    inputs, loss, net = network()
    arrays = normal(32, 1, 8, 8), rng.integers(0, 10, 32)
    low = gc.autocast(loss, gc.bfloat16)
    before = gc.compile(inputs, gc.grad(low, net), mode="train")(*arrays)
    late = gc.autocast(gc.grad(loss, net), gc.bfloat16)
    after = gc.compile(inputs, late, mode="train")(*arrays)
    plain = gc.compile(inputs, gc.grad(loss, net), mode="train")(*arrays)
    for name in before:
        scale = np.abs(before[name]).max()
        np.testing.assert_allclose(before[name], after[name], 1e-5, 1e-6 * scale, err_msg=name)
        assert np.abs(before[name] - plain[name]).max() > 1e-5 * scale, name


def test_gradients_are_as_near_to_the_truth_as_torchs() -> None:
    torch = pytest.importorskip("torch")
    gc.manual_seed(2)
    x, y = gc.observed("x", (64, 40)), gc.observed("y", (64,), gc.int64)
    net = nn.Linear(40, 64) >> nn.GELU() >> nn.Linear(64, 10)
    loss = nn.CrossEntropyLoss()(net(x), y)
    images, labels = normal(64, 40), rng.integers(0, 10, 64)
    got = gc.compile([x, y], gc.grad(gc.autocast(loss, gc.bfloat16), net))(images, labels)
    peer = torch.nn.Sequential(
        torch.nn.Linear(40, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)
    )
    peer.load_state_dict({n: torch.tensor(a) for n, a in net.state_dict().items()})

    def slopes(module: Any, given: Any) -> dict[str, Any]:
        torch.nn.functional.cross_entropy(module(given), torch.tensor(labels)).backward()
        return {n: p.grad.double().numpy() for n, p in module.named_parameters()}

    with torch.autocast("cpu", torch.bfloat16):
        theirs = slopes(peer, torch.tensor(images))
    peer.zero_grad()
    truth = slopes(peer.double(), torch.tensor(images, dtype=torch.float64))
    for name, exact in truth.items():
        size = np.linalg.norm(exact)
        error, other = (np.linalg.norm(g - exact) / size for g in (got[name], theirs[name]))
        assert 1e-5 < error < 2e-2, name
        assert error <= 2 * other, f"{name}: {error} beside torch's {other}"


def test_bodies_of_loops_and_branches() -> None:
    w, xs = gc.observed("w", (12, 12)), gc.observed("xs", (5, 4, 12))
    matrix, steps = normal(12, 12) / 3, normal(5, 4, 12)

    def cell(h: gc.Value, x: gc.Value) -> Any:
        h = ops.tanh(h @ w + x)
        return h, h

    last, _ = gc.scan(cell, ops.zeros((4, 12)), xs)
    h = np.zeros((4, 12))
    for x in steps:
        h = np.tanh(rounded(h, gc.bfloat16) @ rounded(matrix, gc.bfloat16) + x)
    got = run(gc.autocast(last, gc.bfloat16), w=matrix, xs=steps)
    np.testing.assert_allclose(got, h, rtol=1e-3, atol=1e-3)
    assert np.abs(got - run(last, w=matrix, xs=steps)).max() > 1e-4
    low = gc.grad(gc.autocast(last.sum(), gc.bfloat16), w)
    full = run(gc.grad(last.sum(), w), w=matrix, xs=steps)
    np.testing.assert_allclose(run(low, w=matrix, xs=steps), full, rtol=0.1, atol=0.05)

    chosen = gc.cond(w.sum() > 0, lambda: w @ w, lambda: -w @ w)
    sign = 1 if matrix.sum() > 0 else -1
    square = rounded(matrix, gc.float16) @ rounded(matrix, gc.float16) * sign
    got = run(gc.autocast(chosen, gc.float16), w=matrix)
    np.testing.assert_allclose(got, square, rtol=1e-5, atol=1e-6)


def test_lanes_round_too() -> None:
    xs, w = gc.observed("xs", (3, 5, 8)), gc.observed("w", (8, 4))
    a, b = normal(3, 5, 8), normal(8, 4)
    got = run(gc.vmap(lambda x: gc.autocast(x @ w, gc.bfloat16))(xs), xs=a, w=b)
    wanted = rounded(a, gc.bfloat16) @ rounded(b, gc.bfloat16)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_no_product_of_floats_stays() -> None:
    x, k = gc.observed("x", (2, 1, 6, 6)), gc.observed("k", (4, 4), gc.int64)
    wide = gc.observed("d", (4, 4), gc.float64)
    kept = [ops.avg_pool(x, 2), k @ k, wide @ wide, ops.einsum("ii->", k)]
    assert all(a is b for a, b in zip(gc.autocast(kept, gc.bfloat16), kept, strict=True))


def test_the_text_parses_back() -> None:
    x = gc.observed("x", (4, 4))
    graph = close([gc.autocast(x @ x.T, gc.bfloat16)])
    assert " of bf16)" in graph.text()
    assert gc.parse_graph(graph.text()).text() == graph.text()


def test_a_rounded_operand_is_stored_rounded() -> None:
    """The layer before a product writes bfloat16: half the memory traffic."""
    x = gc.observed("x", (64, 64))
    net = nn.Linear(64, 128) >> nn.ReLU() >> nn.Linear(128, 64)
    program = gc.compile([x], gc.autocast(net(x), gc.bfloat16))
    between = [b for b in program.schedule.of_kind("arena") if b.type.shape == (64, 128)]
    assert [str(b.type.dtype) for b in between] == ["bf16"]


def test_wrong_use_is_refused() -> None:
    x = gc.observed("x", (4, 4))
    with pytest.raises(gc.DTypeError, match="neither bfloat16 nor float16"):
        gc.autocast(x @ x, gc.float32)
    with pytest.raises(gc.DTypeError, match="autocast"):
        gc.autocast(x @ x, "half a byte")
    with pytest.raises(gc.DTypeError, match="Updates is no Value; transform the cost"):
        gc.autocast(gc.Updates(), gc.bfloat16)


# ---- loss scaling


def scaled_step(scale: optim.LossScale, factor: float = 1.0) -> tuple[Any, Any]:
    """One weight whose gradient is ``factor * x``, computed by a product in float16."""
    x = gc.observed("x", (1, 4))
    weight = gc.parameter(np.ones((4, 1), np.float32)).named("weight")
    cost = gc.autocast((x @ weight).sum() * factor, gc.float16)
    step = gc.compile([x], cost, scale.minimize(optim.Adam(lr=0.5), cost))
    return step, weight


def test_small_gradients_need_the_scale() -> None:
    """1e-9 is zero in float16; scaled by 2**16 it is not."""
    x = gc.observed("x", (1, 4))
    weight = gc.parameter((4, 1))
    cost = gc.autocast((x @ weight).sum() * 1e-9, gc.float16)
    plain = gc.compile([x], gc.grad(cost, weight))(np.ones((1, 4), np.float32))
    assert not plain.any()
    found, finite = optim.LossScale().gradients(cost, weight)
    slopes, all_finite = gc.compile([x], (found, finite))(np.ones((1, 4), np.float32))
    np.testing.assert_allclose(slopes, 1e-9, rtol=2e-2)
    assert all_finite


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e6], ids=str)
def test_a_step_that_overflows_changes_nothing_but_the_scale(bad: float) -> None:
    scale = optim.LossScale(1024.0, interval=2)
    step, weight = scaled_step(scale)
    step(np.ones((1, 4), np.float32))
    states = {c.name: c for c in step.states}
    before = {n: c.numpy() for n, c in states.items()}
    step(np.full((1, 4), bad, np.float32))  # 1e6 is infinite in float16
    for name, cell in states.items():
        if name == "scale":
            assert cell.numpy() == 512.0
        elif name == "good_steps":
            assert cell.numpy() == 0
        else:
            np.testing.assert_array_equal(cell.numpy(), before[name], err_msg=name)
    step(np.ones((1, 4), np.float32))
    assert not np.array_equal(weight.numpy(), before["weight"])


def test_the_scale_moves_as_torchs_does() -> None:
    torch = pytest.importorskip("torch")
    options = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}
    theirs = torch.amp.GradScaler("cpu", init_scale=64.0, **options)
    weight = torch.nn.Parameter(torch.ones(4))
    peer = torch.optim.SGD([weight], lr=0.1)
    ours = optim.LossScale(64.0, interval=3)
    step, _ = scaled_step(ours)
    for number in range(16):
        value = np.inf if number in (4, 5, 9) else 1.0
        peer.zero_grad()
        theirs.scale((weight * value).sum()).backward()
        theirs.step(peer)
        theirs.update()
        step(np.full((1, 4), value, np.float32))
        assert float(ours.scale.numpy()) == theirs.get_scale(), number


def test_a_scale_never_becomes_infinite() -> None:
    scale = optim.LossScale(2.0**127, interval=1)
    step, _ = scaled_step(scale, 2.0**-130)
    step(np.ones((1, 4), np.float32))
    assert float(scale.scale.numpy()) == 2.0**127


def test_it_is_saved_and_restored(tmp_path: Any) -> None:
    scale, other = optim.LossScale(8.0), optim.LossScale()
    scale.good_steps.set(5)
    gc.save(tmp_path / "run", scale=scale)
    gc.restore(tmp_path / "run", scale=other)
    assert (float(other.scale.numpy()), int(other.good_steps.numpy())) == (8.0, 5)
    other.load_state_dict(optim.LossScale().state_dict())
    assert float(other.scale.numpy()) == 65536.0


@pytest.mark.parametrize(
    "options", [{"init": 0.0}, {"growth": 0.5}, {"backoff": 0.0}, {"interval": 0}], ids=str
)
def test_numbers_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="LossScale: init > 0"):
        optim.LossScale(**options)


def test_no_parameter_is_an_error() -> None:
    x = gc.observed("x", (2, 2))
    with pytest.raises(gc.GradError, match=r"LossScale.minimize: .* depends on no parameter"):
        optim.LossScale().minimize(optim.SGD(lr=0.1), (x @ x).sum())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_network_learns_as_it_does_in_float32(dtype: Any) -> None:
    def trained(half: Any) -> list[float]:
        inputs, loss, _ = network()
        cost = loss if half is None else gc.autocast(loss, half)
        adam = optim.Adam(lr=3e-3)
        updates = adam.minimize(cost)
        if half is gc.float16:
            updates = optim.LossScale().minimize(adam, cost)
        step = gc.compile(inputs, cost, updates)
        data = np.random.default_rng(0)
        images = data.standard_normal((32, 1, 8, 8)).astype(np.float32)
        labels = data.integers(0, 10, 32)
        return [float(step(images, labels)) for _ in range(30)]

    full, low = trained(None), trained(dtype)
    assert full[-1] < 0.2 * full[0]
    assert low != full
    np.testing.assert_allclose(low, full, rtol=0.15, atol=0.05)
