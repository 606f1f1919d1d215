"""Whole features on a device: mixed precision, exports, tuning, shared states, sorting, memory that
runs out, arrays of other libraries, attention, control flow, a network trained to its accuracy.

Every body takes a ``Place``: ``--rehearse`` runs it without a device, small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, ops, optim
from graphc.backends.cache import Cache
from graphc.backends.triton import tuning
from graphc.backends.triton.array import take
from graphc.nn.functional import scaled_dot_product_attention
from graphc.routines import stable_order
from tests.gpu.place import Foreign, Place, arrays_for


def classifier(rows: Any = 16, wide: int = 20) -> tuple[list[gc.Value], gc.Value, nn.Module]:
    """Inputs, logits and the network of a small classifier, the same at every call."""
    gc.manual_seed(5)
    x, y = gc.observed("x", (rows, 12)), gc.observed("y", (rows,), gc.int64)
    net = nn.Linear(12, wide) >> nn.ReLU() >> nn.Linear(wide, 10)
    return [x, y], net(x), net


def values_of(net: nn.Module) -> list[Any]:
    return [p.numpy() for p in net.parameters()]


# ---- mixed precision


def scaled_training(backend: str, dtype: Any, sizes: Any) -> tuple[list[float], Any]:
    """Losses, and what training leaves: parameters, and the scale of the loss."""
    rows, wide, steps = sizes
    inputs, logits, net = classifier(rows, wide)
    cost = gc.autocast(nn.CrossEntropyLoss()(logits, inputs[1]), dtype)
    sgd, scale = optim.SGD(lr=0.1), optim.LossScale(interval=2)
    updates = scale.minimize(sgd, cost) if dtype is gc.float16 else sgd.minimize(cost)
    step = gc.compile(inputs, cost, updates, backend=backend)
    losses = [float(step(*arrays_for(inputs, n))) for n in range(steps)]
    return losses, (values_of(net), float(scale.scale.numpy()))


@pytest.mark.parametrize("dtype", [gc.float16, gc.bfloat16], ids=str)
def test_mixed_precision_trains_as_on_the_cpu(place: Place, dtype: Any) -> None:
    sizes = place.size((256, 64, 20), (16, 16, 2))
    losses, (parameters, scale) = scaled_training("triton", dtype, sizes)
    expected, (wanted, wanted_scale) = scaled_training("llvm", dtype, sizes)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    for got, other in zip(parameters, wanted, strict=True):
        np.testing.assert_allclose(got, other, rtol=2e-2, atol=2e-3)
    assert scale == wanted_scale == 65536.0 * 2.0 ** (sizes[-1] // 2 * (dtype is gc.float16))


def test_a_step_that_overflows_is_skipped(place: Place) -> None:
    x = gc.observed("x", (16, 32))
    weight = gc.parameter(np.ones((32, 16), np.float32))
    cost = gc.autocast((x @ weight).mean(), gc.float16)
    scale = optim.LossScale(1024.0)
    step = gc.compile([x], cost, scale.minimize(optim.Adam(lr=0.1), cost), backend="triton")
    step(np.full((16, 32), 1e6, np.float32))  # infinite in float16
    assert (weight.numpy() == 1.0).all()
    assert float(scale.scale.numpy()) == 512.0
    step(np.ones((16, 32), np.float32))
    assert (weight.numpy() < 1.0).all()


# ---- code that was made before


def test_an_export_is_loaded_and_trains(place: Place, tmp_path: Path) -> None:
    inputs, logits, net = classifier()
    loss = nn.CrossEntropyLoss()(logits, inputs[1])
    updates = optim.SGD(lr=0.5).minimize(loss)
    gc.compile(inputs, loss, updates, target=place.target).save(tmp_path / "step")
    exported = gc.load_executable(tmp_path / "step", trust=True)
    step = gc.compile(inputs, loss, updates, backend="llvm")
    for n in range(3):
        arrays = arrays_for(inputs, n)
        np.testing.assert_allclose(
            np.asarray(exported(*arrays)), step(*arrays), rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(
        exported.states["weight"].numpy(), values_of(net)[0], rtol=1e-3, atol=1e-5
    )
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        exported(arrays[0], arrays[1] + 10)


def test_tuning_measures_once_and_keeps_it(
    place: Place, monkeypatch: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "kept"
    directory.mkdir(mode=0o700)
    events: list[Any] = []
    record = place.driver.record
    monkeypatch.setattr(place.driver, "record", lambda: events.append(1) or record())

    def compiled() -> gc.Executable:
        monkeypatch.setattr(tuning, "default_cache", lambda: Cache(directory))
        x = gc.observed("x", place.size((4096, 1024), (2, 16)))
        return gc.compile([x], ops.softmax(x, -1), backend="triton", tune="same")

    first = compiled()
    measured = len(events)
    assert measured > 0
    assert list(directory.rglob("*.o"))
    again = compiled()
    assert len(events) == measured, "another process reads it"
    (values,) = arrays_for([first.graph.inputs[0]])
    np.testing.assert_array_equal(np.asarray(again(values)), np.asarray(first(values)))


# ---- states, memory, arrays


def test_executables_of_both_backends_share_states(place: Place) -> None:
    inputs, logits, net = classifier()
    loss = nn.CrossEntropyLoss()(logits, inputs[1])
    updates = optim.Adam(lr=0.05).minimize(loss)
    steps = {n: gc.compile(inputs, loss, updates, backend=n) for n in ("triton", "llvm")}
    predict = {n: gc.compile(inputs[:1], logits, backend=n) for n in steps}
    for n, name in enumerate(("triton", "llvm", "triton")):
        arrays = arrays_for(inputs, n)
        steps[name](*arrays)
        here, there = (np.asarray(predict[b](arrays[0])) for b in ("triton", "llvm"))
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    before = values_of(net)
    with pytest.raises(gc.RuntimeCheckError):
        steps["triton"](arrays[0], arrays[1] + 10)
    for got, old in zip(values_of(net), before, strict=True):
        np.testing.assert_array_equal(got, old)


def test_memory_that_runs_out_is_an_error_and_the_rest_goes_on(place: Place) -> None:
    count = 1 << 19  # its square times 4 bytes is a terabyte
    x = gc.observed("x", (count,))
    total = gc.state(np.zeros((), np.float32))
    order = ops.argsort(ops.tanh(x[:, None] * x[None, :]), axis=-1)
    with place.little_memory(), pytest.raises(gc.OutOfMemoryError) as caught:
        gc.compile([x], order[:, 0], {total: total + x[0]}, backend="triton")(np.ones(count, "f4"))
    assert "the arena of intermediate results" in str(caught.value)
    assert "test_features.py" in str(caught.value), "the lines that own the peak"
    assert total.numpy() == 0.0
    y = gc.observed("y", (64,))
    step = gc.compile([y], y * 2.0, {total: total + y[0]}, backend="triton")
    np.testing.assert_array_equal(np.asarray(step(np.ones(64, np.float32))), 2.0)
    assert total.numpy() == 1.0


@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", "u1", "?"])
def test_arrays_come_and_go_by_dlpack(place: Place, dtype: str) -> None:
    values = (np.arange(24).reshape(4, 6) % 7).astype(dtype)
    given = place.sent(values)
    x = gc.observed("x", values.shape, gc.types.dtype_of(values.dtype))
    result = gc.compile([x], ops.where(x == x[0, 0], x, x[::-1]), backend="triton")(given)
    wanted = np.where(values == values[0, 0], values, values[::-1])
    np.testing.assert_array_equal(np.asarray(result), wanted)
    out = take(Foreign(result), "out", place.driver.stream)
    assert (out.type.shape, out.type.dtype.numpy) == (values.shape, values.dtype)
    assert out.address == result.address, "shared, not copied"
    other = gc.observed("x", values.shape, gc.float64)
    with pytest.raises(gc.DTypeError, match="expected f64"):
        gc.compile([other], other + 1.0, backend="triton")(given)


def test_a_pointer_between_vectors_is_read_right(place: Place) -> None:
    torch = pytest.importorskip("torch") if not place.rehearsed else None
    if torch is None:
        pytest.skip("needs memory of another library; tests/triton has it on host memory")
    whole = torch.arange(65, dtype=torch.float32, device="cuda")
    x = gc.observed("x", (64,))
    got = gc.compile([x], x * 2.0, backend="triton")(whole[1:])
    np.testing.assert_array_equal(np.asarray(got), 2 * np.arange(1, 65, dtype=np.float32))


# ---- routines, loops, attention


def rows(length: int, kind: str) -> Any:
    data = np.random.default_rng(length)
    if kind == "ties":
        return data.integers(0, 4, (3, length))
    values = data.standard_normal((3, length)).astype(np.float32)
    values[:, ::5], values[:, 1::7], values[:, 2::9] = np.nan, -np.inf, -0.0
    return values


@pytest.mark.parametrize("kind", ["odd", "ties"])
@pytest.mark.parametrize("length", [1000, 2049, 100_003])
def test_sort_and_top_k_are_stable(place: Place, length: int, kind: str) -> None:
    length = place.size(length, {1000: 5, 2049: 33, 100_003: 70}[length])
    values, k = rows(length, kind), 3
    x = gc.observed("x", values.shape, gc.types.dtype_of(values.dtype))
    outputs = ops.argsort(x), ops.argsort(x, descending=True), ops.top_k(x, k)[1]
    found = [np.asarray(a) for a in gc.compile([x], outputs, backend="triton")(values)]
    np.testing.assert_array_equal(found[0], stable_order(values, descending=False))
    falling = stable_order(values, descending=True)
    np.testing.assert_array_equal(found[1], falling)
    np.testing.assert_array_equal(found[2], falling[:, :k])


@pytest.mark.parametrize("length", [500, 50_000])
def test_sums_of_segments(place: Place, length: int) -> None:
    length, count = place.size(length, length // 500 % 64 + 9), 7
    data = np.random.default_rng(0)
    ids, values = data.integers(0, count, length), data.standard_normal((length, 3))
    i, v = gc.observed("i", (length,), gc.int64), gc.observed("v", (length, 3))
    program = gc.compile([i, v], ops.segment_sum(v, i, count), backend="triton")
    got = np.asarray(program(ids, values.astype(np.float32)))
    wanted = np.stack([values[ids == g].sum(0) for g in range(count)])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


def test_loops_and_branches_read_their_predicates(place: Place) -> None:
    x = gc.observed("x", ())
    doubled = gc.while_loop(lambda a: a < 1000.0, lambda a: a * 2.0, x)
    chosen = gc.cond(x > 3.0, lambda a: a + 1.0, lambda a: a - 1.0, x)
    program = gc.compile([x], [doubled, chosen], backend="triton")
    for value in (1.0, 5.0, 2000.0):
        wanted = value
        while wanted < 1000.0:
            wanted *= 2.0
        got = program(np.float32(value))
        assert [float(v) for v in got] == [wanted, value + 1 if value > 3 else value - 1]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradient(place: Place, causal: bool) -> None:
    shape = place.size((2, 4, 256, 64), (1, 2, 20, 16))
    q, k, v = inputs = [gc.observed(name, shape) for name in "qkv"]
    out = scaled_dot_product_attention(q, k, v, is_causal=causal)
    outputs = [out, *gc.grad((out * out).sum(), inputs)]
    arrays = arrays_for(inputs)
    found = [np.asarray(a) for a in gc.compile(inputs, outputs, backend="triton")(*arrays)]
    for got, wanted in zip(found, attention(*arrays, causal), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def attention(q: Any, k: Any, v: Any, causal: bool) -> list[Any]:
    """Attention, and the derivatives of the sum of its squares, in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scale, length = q.shape[-1] ** -0.5, q.shape[-2]
    scores = q @ k.swapaxes(-1, -2) * scale
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ v
    d_weights = 2 * out @ v.swapaxes(-1, -2)
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
    return [out, d_scores @ k, d_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ (2 * out)]


# ---- a network of images, to its accuracy


def train_cnn(backend: str, place: Place) -> tuple[list[float], float]:
    """Losses, and the share of unseen digits that are recognized."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16.0).astype(np.float32), labels[order].astype(np.int64)
    rows, wide, steps = place.size((64, 16, 200), (2, 1, 1))
    gc.manual_seed(7)
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 64)), gc.observed("y", (batch,), gc.int64)
    net = nn.Conv2d(1, wide, 3, padding=1) >> nn.BatchNorm2d(wide) >> nn.ReLU()
    net = net >> nn.MaxPool2d(2) >> nn.Conv2d(wide, 2 * wide, 3, padding=1) >> nn.ReLU()
    net = net >> nn.Flatten() >> nn.Linear(32 * wide, 10)
    logits = net(x.reshape(batch, 1, 8, 8))
    loss = nn.CrossEntropyLoss()(logits, y)
    step = gc.compile([x, y], loss, optim.Adam(lr=2e-3).minimize(loss), backend=backend)
    predict = gc.compile([x], logits, backend=backend)
    losses, count = [], 1408 // rows
    for n in range(steps):
        at = n % count * rows
        losses.append(float(step(images[at : at + rows], labels[at : at + rows])))
    held = place.size(389, 2)
    guessed = np.asarray(predict(images[-held:])).argmax(1)
    return losses, float((guessed == labels[-held:]).mean())


def test_a_convolutional_network_reaches_the_cpus_accuracy(place: Place) -> None:
    losses, accuracy = train_cnn("triton", place)
    expected, wanted = train_cnn("llvm", place)
    np.testing.assert_allclose(losses[:20], expected[:20], rtol=2e-3, atol=1e-4)
    assert accuracy > place.size(0.95, -1.0)
    assert abs(accuracy - wanted) <= 0.02
