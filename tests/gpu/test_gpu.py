"""On a device: the zoo, op samples, a replayed graph, training, arrays shared by DLPack.

``test_features.py`` has what is built on these; ``--rehearse`` runs both without a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from benchmarks.gpu_static import PROGRAMS
from graphc import nn, optim
from graphc.interpret import interpret
from graphc.kernel.parser import parse_kernel
from graphc.op import Op, Sample
from tests.gpu.place import Place, arrays_for
from tests.kernel.zoo import ZOO, assert_agrees
from tests.ops.sampling import arrays_of, assert_close, graph_of
from tests.triton.on_device import run_on_device
from tests.triton.test_samples import chosen

SEED = 20


@pytest.mark.parametrize("case", ZOO, ids=str)
def test_kernel_equals_its_reference(case) -> None:
    inputs = case.make_inputs(np.random.default_rng(SEED))
    kernel = parse_kernel(case.text)
    outputs = run_on_device(kernel, inputs, case.sizes, case.scalars)
    assert_agrees(case, outputs, case.reference(inputs), SEED)


@pytest.mark.parametrize(("op", "sample"), chosen())
def test_sample_equals_the_reference(op: Op, sample: Sample) -> None:
    graph = graph_of(op, sample)
    arrays = arrays_of(sample, sample.types)
    with np.errstate(all="ignore"):
        wanted, _ = interpret(graph, arrays)
    program = gc.compile(
        list(graph.inputs), list(graph.outputs), backend="triton", unused="ignore"
    )
    results = program(*arrays)
    for got, expected, value in zip(results, wanted, graph.outputs, strict=True):
        assert_close(np.asarray(got), expected, value.dtype)


def _digits() -> tuple[Any, Any, Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int64)
    return images[:1408], labels[:1408], images[1408:], labels[1408:]


def train_digits(
    place: Place, backend: str, optimizer: str, epochs: int = 20
) -> tuple[list[float], float]:
    """Losses of every step and the accuracy on the last 389 digits, of a 64-128-10 network."""
    images, labels, held_images, held_labels = (a[: place.size(None, 32)] for a in _digits())
    wide = place.size(128, 16)
    gc.manual_seed(7)
    batch = gc.Dim("B")
    x = gc.observed("x", (batch, 64))
    y = gc.observed("y", (batch,), gc.int64)
    net = nn.Linear(64, wide) >> nn.ReLU() >> nn.Linear(wide, 10)
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    made = optim.Adam(lr=2e-3) if optimizer == "adam" else optim.SGD(lr=0.2)
    step = gc.compile([x, y], loss, made.minimize(loss), backend=backend)
    predict = gc.compile([x], logits, backend=backend)
    losses = []
    for _ in range(epochs):
        for start in range(0, len(images), 64):
            losses.append(step(images[start : start + 64], labels[start : start + 64]))
    guessed = np.asarray(predict(held_images)).argmax(1)
    return [float(v) for v in losses], float((guessed == held_labels).mean())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_digits_equals_the_cpu(place: Place, optimizer: str) -> None:
    epochs = place.size(20, 2)
    losses, accuracy = train_digits(place, "triton", optimizer, epochs)
    assert accuracy > place.size(0.94, 0.0)
    try:
        expected, wanted = train_digits(place, "llvm", optimizer, epochs)
    except gc.BackendError as error:
        pytest.skip(f"no CPU backend to compare with: {error}")
    np.testing.assert_allclose(losses[:50], expected[:50], rtol=1e-3, atol=1e-4)
    assert abs(accuracy - wanted) <= 0.02


def small_program() -> tuple[Any, ...]:
    """What a rehearsal trains in the place of each of ``PROGRAMS``."""
    x = gc.observed("x", (4, 12))
    loss = (nn.Linear(12, 8)(x) ** 2).mean()
    return [x], loss, optim.SGD(lr=0.1).minimize(loss)


def trained(place: Place, name: str, backend: str) -> tuple[list[float], list[Any]]:
    """Losses of three steps of a program, and its parameters after them."""
    gc.manual_seed(0)
    inputs, loss, updates = place.size(PROGRAMS[name], small_program)()
    step = gc.compile(inputs, loss, updates, backend=backend)
    arrays = arrays_for(inputs)
    losses = [float(step(*arrays)) for _ in range(3)]
    return losses, [cell.numpy() for cell in step.states if cell.trainable]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_training_step_equals_the_cpu(place: Place, name: str) -> None:
    losses, parameters = trained(place, name, "triton")
    try:
        expected, wanted = trained(place, name, "llvm")
    except gc.BackendError as error:
        pytest.skip(f"no CPU backend to compare with: {error}")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for got, other in zip(parameters, wanted, strict=True):
        np.testing.assert_allclose(got, other, rtol=2e-3, atol=2e-4)


def test_a_replayed_graph_gives_the_same_bits(place: Place) -> None:
    first, again = (train_digits(place, "triton", "adam", 2)[0] for _ in range(2))
    assert first == again


def test_a_failed_check_leaves_the_states() -> None:
    gc.manual_seed(1)
    x = gc.observed("x", (16, 12))
    y = gc.observed("y", (16,), gc.int64)
    net = nn.Linear(12, 20) >> nn.ReLU() >> nn.Linear(20, 4)
    loss = nn.CrossEntropyLoss()(net(x), y)
    step = gc.compile([x, y], loss, optim.Adam(lr=0.1).minimize(loss), backend="triton")
    images = np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32)
    labels = np.arange(16) % 4
    step(images, labels)
    before = [p.node.attrs["state"].numpy() for p in net.parameters()]
    with pytest.raises(gc.RuntimeCheckError):
        step(images, labels + 4)
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert np.array_equal(parameter.node.attrs["state"].numpy(), old)


def test_arrays_are_shared_with_torch(place: Place) -> None:
    if place.rehearsed:
        pytest.skip("torch has no arrays on a device that is not there")
    torch = pytest.importorskip("torch")
    x = gc.observed("x", (128, 64))
    program = gc.compile([x], gc.ops.tanh(x) * 2.0, backend="triton")
    given = torch.randn(128, 64, device="cuda")
    result = torch.from_dlpack(program(given))
    torch.testing.assert_close(result, torch.tanh(given) * 2.0, rtol=1e-5, atol=1e-6)
    with pytest.raises(gc.DTypeError, match="expected f32"):
        program(given.double())


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("size", [(256, 256, 256), (200, 130, 72), (1024, 512, 2048)])
def test_products_reach_their_precision(
    place: Place, size: tuple[int, int, int], precision: str
) -> None:
    m, n, k = place.size(size, (48, 32, 40))
    kernel = parse_kernel(f"""kernel product
  axes m:{m} n:{n} k:{k}
  in x f32[{m},{k}], w f32[{k},{n}]
  out y f32[{m},{n}]
  a = load x[m, k]
  v = load w[k, n]
  c = contract a, v over k
  store y[m, n] = c""")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((m, k)).astype(np.float32)
    w = generator.standard_normal((k, n)).astype(np.float32)
    got = run_on_device(kernel, {"x": x, "w": w}, precision=precision)["y"]
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    assert error < (2e-6 if precision == "ieee" else 2e-3)
    rounds = precision == "tf32" and not place.rehearsed  # the interpreter's products are exact
    assert error > (1e-5 if rounds else 0), "tf32 was asked for"
