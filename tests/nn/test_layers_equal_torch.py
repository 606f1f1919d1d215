"""Convolution, pooling, normalization and embedding against PyTorch's layers, compiled.

Weights go over through ``state_dict`` in both directions; outputs, gradients and buffers come back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TOLERANCE = {
    "float32": {"rtol": 1e-4, "atol": 1e-4},
    "float64": {"rtol": 1e-10, "atol": 1e-11},
}


def pair(kind: str, args: tuple[Any, ...], options: dict[str, Any], dtype: str) -> Any:
    """A layer of ours and PyTorch's with the same numbers, drawn by PyTorch."""
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(*args, **options).to(getattr(torch, dtype))
    typed = {} if "Pool" in kind or kind == "Flatten" else {"dtype": dtype}
    ours = getattr(nn, kind)(*args, **options, **typed)
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "Norm" in kind:  # ones and zeros would hide a mistake
                tensor.uniform_(0.5, 2.0)
            assert dict(ours.named_parameters())[name].shape == tuple(tensor.shape)
    incompatible = ours.load_state_dict(theirs.state_dict())
    assert incompatible == ([], [])
    return ours, theirs


def compare(
    kind: str, args: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...], dtype: str
) -> None:
    """Outputs, gradients and buffers of two training calls, then outputs in mode eval."""
    ours, theirs = pair(kind, args, options, dtype)
    rng = np.random.default_rng(len(shape))
    x = gc.observed("x", shape, dtype)
    weights = ours.parameters()
    out = ours(x)
    cotangent = gc.observed("g", out.shape, dtype)
    slopes = gc.grad((out * cotangent).sum(), [x, *weights])
    train = gc.compile([x, cotangent], [out, slopes], mode="train")
    tolerance = TOLERANCE[dtype]
    for _ in range(2):
        at, g = rng.normal(size=shape).astype(dtype), rng.normal(size=out.shape).astype(dtype)
        got, (slope, *by_weight) = train(at, g)
        tx = torch.tensor(at, requires_grad=True)
        theirs.zero_grad()
        tout = theirs(tx)
        tout.backward(torch.tensor(g))
        np.testing.assert_allclose(got, tout.detach().numpy(), **tolerance)
        np.testing.assert_allclose(slope, tx.grad.numpy(), **tolerance)
        for name, array in zip([n for n, _ in ours.named_parameters()], by_weight, strict=True):
            wanted = theirs.get_parameter(name).grad.numpy()
            np.testing.assert_allclose(array, wanted, err_msg=name, **tolerance)
    # back: what ours holds after training loads into PyTorch's, and is the same
    held = ours.state_dict()
    assert list(held) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(held[name], tensor.numpy(), err_msg=name, **tolerance)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in held.items()})
    at = rng.normal(size=shape).astype(dtype)
    got = gc.compile([x], out, mode="eval")(at)
    np.testing.assert_allclose(got, theirs.eval()(torch.tensor(at)).detach().numpy(), **tolerance)


LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Conv1d", (3, 5, 4), {}, (2, 3, 11)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}, (2, 4, 12)),
    ("Conv1d", (3, 5, 4), {"padding": "same"}, (3, 9)),
    ("Conv2d", (3, 8, 3), {"padding": 1}, (2, 3, 7, 9)),
    ("Conv2d", (3, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}, (2, 3, 8, 7)),
    ("Conv2d", (4, 4, 3), {"groups": 4, "padding": "same", "dilation": 2}, (1, 4, 6, 5)),
    ("Conv2d", (2, 3, 1), {"bias": False, "padding": "valid"}, (2, 4, 5)),
    ("Conv1d", (2, 3, 4), {"padding": 3, "padding_mode": "reflect"}, (2, 2, 6)),
    ("Conv1d", (2, 3, 4), {"padding": "same", "padding_mode": "circular"}, (2, 6)),
    ("Conv2d", (2, 3, 3), {"padding": (1, 2), "padding_mode": "replicate", "stride": 2},
     (2, 2, 5, 6)),
    ("Conv2d", (2, 4, 3), {"padding": 2, "padding_mode": "circular", "groups": 2}, (1, 2, 4, 5)),
    ("Conv3d", (2, 4, 2), {"stride": 2, "padding": 1}, (2, 2, 5, 4, 6)),
    ("Conv3d", (2, 4, (1, 3, 2)), {"groups": 2}, (1, 2, 4, 5, 3)),
    ("ConvTranspose1d", (3, 4, 5), {"stride": 3, "padding": 1, "output_padding": 2}, (2, 3, 6)),
    ("ConvTranspose1d", (4, 6, 3), {"groups": 2, "dilation": 2}, (4, 6)),
    ("ConvTranspose2d", (3, 5, 4), {"stride": 2, "padding": 1}, (2, 3, 5, 4)),
    ("ConvTranspose2d", (4, 2, (2, 3)),
     {"stride": (2, 1), "dilation": (1, 2), "groups": 2, "output_padding": (1, 0)}, (1, 4, 3, 4)),
    ("ConvTranspose3d", (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1},
     (1, 2, 3, 2, 3)),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 10)),
    ("MaxPool1d", (2,), {"dilation": 2, "ceil_mode": True}, (3, 9)),
    ("MaxPool2d", (2,), {}, (2, 3, 7, 8)),
    ("MaxPool2d", ((3, 2),), {"stride": (2, 1), "padding": 1, "ceil_mode": True}, (2, 3, 8, 5)),
    ("MaxPool3d", (2,), {"stride": 1}, (1, 2, 4, 3, 5)),
    ("AvgPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 10)),
    ("AvgPool2d", (2,), {}, (2, 3, 7, 8)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, (2, 3, 8, 5)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, (3, 8, 5)),
    ("AvgPool3d", (2,), {"ceil_mode": True}, (1, 2, 5, 3, 4)),
    ("BatchNorm1d", (3,), {}, (6, 3)),
    ("BatchNorm1d", (3,), {"momentum": None, "eps": 1e-3}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"momentum": 0.3}, (4, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"affine": False}, (4, 3, 2, 2)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 2, 2)),
    ("BatchNorm3d", (2,), {}, (3, 2, 2, 3, 2)),
    ("GroupNorm", (2, 6), {}, (3, 6, 4, 3)),
    ("GroupNorm", (6, 6), {"eps": 1e-2}, (3, 6, 5)),
    ("GroupNorm", (1, 4), {"affine": False}, (3, 4)),
    ("LayerNorm", ((3, 4),), {}, (2, 3, 4)),
    ("LayerNorm", (4,), {"bias": False}, (2, 3, 4)),
    ("Flatten", (), {}, (2, 3, 4, 5)),
    ("Flatten", (0, -2), {}, (2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "args", "options", "shape"), LAYERS)
def test_layer(kind: str, args: Any, options: Any, shape: Any, dtype: str) -> None:
    compare(kind, args, options, shape, dtype)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx: int | None) -> None:
    ours, theirs = pair("Embedding", (7, 4), {"padding_idx": padding_idx}, "float32")
    ids = gc.observed("ids", (3, 5), gc.int64)
    out = ours(ids)
    at = np.array([[0, 2, 2, 6, 1], [6, 6, 6, 0, 2], [3, 4, 5, 3, 4]])
    g = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    got, slope = gc.compile([ids], [out, gc.grad((out * g).sum(), ours.weight)])(at)
    tout = theirs(torch.tensor(at))
    tout.backward(torch.tensor(g))
    np.testing.assert_array_equal(got, tout.detach().numpy())
    np.testing.assert_allclose(slope, theirs.weight.grad.numpy(), rtol=1e-6)
    call = gc.compile([ids], out)
    for wrong in (7, -1):
        with pytest.raises(gc.RuntimeCheckError, match="outside"):
            call(np.full((3, 5), wrong))


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_training_with_a_largest_norm(kind: str) -> None:
    """The optimizer steps from the shortened rows, twice read in a step; eval writes nothing."""
    options = {"max_norm": 0.7, "norm_type": 2.0}
    ours, theirs = pair(kind, (7, 4), options, "float32")
    ids = gc.observed("ids", (3, 5), gc.int64)
    scale = np.random.default_rng(3).normal(size=4).astype(np.float32)
    loss = (ours(ids) * scale).sum() + (ours((ids + 3) % 7) ** 2).sum()
    descend = gc.optim.SGD(lr=0.3, momentum=0.9, weight_decay=0.1)
    step, read = gc.compile([ids], loss, descend.minimize(loss)), gc.compile([ids], ours(ids))
    steps = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        at = rng.integers(0, 6, (3, 5))
        held = ours.weight.numpy()
        got = read(at)
        np.testing.assert_array_equal(ours.weight.numpy(), held)
        given = torch.tensor(at)
        np.testing.assert_allclose(got, theirs(given).detach().numpy(), rtol=1e-5, atol=1e-6)
        steps.zero_grad()
        cost = (theirs(given) * torch.tensor(scale)).sum() + (theirs((given + 3) % 7) ** 2).sum()
        cost.backward()
        steps.step()
        np.testing.assert_allclose(step(at), cost.item(), rtol=1e-5)
        wanted = theirs.weight.detach().numpy()
        np.testing.assert_allclose(ours.weight.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_loop_shortens_rows_as_it_goes() -> None:
    """The table is carried along, and every step's slope reaches the parameter."""
    options = {"max_norm": 0.8, "scale_grad_by_freq": True, "padding_idx": 1}
    ours, theirs = pair("Embedding", (9, 4), options, "float32")
    ids = gc.observed("ids", (6, 3), gc.int64)

    def body(h: gc.Value, at: gc.Value) -> tuple[gc.Value, gc.Value]:
        h = gc.ops.tanh(h + ours(at))
        return h, h

    cost = gc.scan(body, gc.ops.zeros((3, 4)), ids)[0].sum()
    step = gc.compile([ids], cost, gc.optim.SGD(lr=0.2).minimize(cost))
    steps = torch.optim.SGD(theirs.parameters(), lr=0.2)
    at = np.random.default_rng(5).integers(0, 9, (6, 3))
    for _ in range(2):
        h = torch.zeros(3, 4)
        for row in torch.tensor(at):
            h = torch.tanh(h + theirs(row))
        steps.zero_grad()
        h.sum().backward()
        steps.step()
        assert step(at) == pytest.approx(h.sum().item(), rel=1e-5)
        wanted = theirs.weight.detach().numpy()
        np.testing.assert_allclose(ours.weight.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_computed_table_is_read_with_a_largest_norm() -> None:
    table, ids = gc.observed("table", (5, 2), "float64"), gc.observed("ids", (4,), gc.int64)
    out = nn.functional.embedding(ids, table * 2.0, max_norm=1.0)
    at = np.random.default_rng(2).normal(size=(5, 2))
    got = gc.compile([table, ids], out)(at, [1, 3, 3, 0])
    rows = 2.0 * at[[1, 3, 3, 0]]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(got, rows * np.minimum(1.0, 1.0 / norms), rtol=1e-6)


def test_frequencies_in_bags_that_pytorch_counts_wrongly() -> None:
    """As the sums of an Embedding's rows, whose counts PyTorch has right."""
    at, weight = np.array([[1, 5, 2], [2, 5, 2]]), np.random.default_rng(2).normal(size=(7, 3))
    ids, table = gc.observed("ids", (2, 3), gc.int64), gc.observed("table", (7, 3), "float64")
    slopes = np.random.default_rng(4).normal(size=(2, 3))
    out = nn.functional.embedding_bag(ids, table, scale_grad_by_freq=True)
    slope = gc.grad((out * slopes).sum(), table)
    got = gc.compile([ids, table], [out, slope])(at, weight)[1]
    rows = torch.tensor(weight, requires_grad=True)
    read = torch.nn.functional.embedding(torch.tensor(at), rows, scale_grad_by_freq=True)
    (read.mean(1) * torch.tensor(slopes)).sum().backward()
    np.testing.assert_allclose(got, rows.grad.numpy(), rtol=1e-12)


def test_two_calls_of_a_batch_norm_in_one_step() -> None:
    """Statistics move in program order, momentum None counts each call; eval sees the result."""
    for momentum in (0.1, None):
        ours, theirs = pair("BatchNorm2d", (3,), {"momentum": momentum}, "float32")
        x = gc.observed("x", (gc.Dim("B"), 3, 4, 4))
        out = ours(x) + ours(2.0 * x + 1.0) * ours(x * x)
        train, test = gc.compile([x], out, mode="train"), gc.compile([x], out, mode="eval")
        rng = np.random.default_rng(0)
        for rows in (5, 2):
            at = rng.normal(size=(rows, 3, 4, 4)).astype(np.float32)
            tx = torch.tensor(at)
            wanted = theirs(tx) + theirs(2.0 * tx + 1.0) * theirs(tx * tx)
            np.testing.assert_allclose(train(at), wanted.detach().numpy(), rtol=1e-4, atol=1e-4)
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[name], tensor.numpy(), rtol=1e-4)
        assert ours.num_batches_tracked.numpy() == 6
        theirs.eval()
        wanted = theirs(tx) + theirs(2.0 * tx + 1.0) * theirs(tx * tx)
        np.testing.assert_allclose(test(at), wanted.detach().numpy(), rtol=1e-4, atol=1e-4)
        assert ours.num_batches_tracked.numpy() == 6
        theirs.train()


def test_equal_elements_and_nan_in_a_maximum() -> None:
    """Of equal ones the first has the derivative; NaN wins."""
    x = gc.observed("x", (1, 1, 4, 4))
    out = nn.MaxPool2d(3, stride=1)(x)
    call = gc.compile([x], [out, gc.grad((out * out).sum(), x)])
    for at in (np.ones((4, 4)), np.zeros((4, 4)), np.arange(16).reshape(4, 4) // 3):
        array = at.astype(np.float32)[None, None]
        tx = torch.tensor(array, requires_grad=True)
        tout = torch.nn.functional.max_pool2d(tx, 3, 1)
        (tout * tout).sum().backward()
        got, slope = call(array)
        np.testing.assert_array_equal(got, tout.detach().numpy())
        np.testing.assert_array_equal(slope, tx.grad.numpy())
    array[0, 0, 0, 1] = np.nan
    assert np.isnan(call(array)[0]).tolist() == [[[[True, True], [False, False]]]]


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d", "Conv1d", "Embedding"])
def test_layers_start_as_pytorch(kind: str) -> None:
    """The same distributions: bounds of weight and bias agree, and the spread does."""
    torch.manual_seed(0)
    gc.manual_seed(0)
    args: tuple[Any, ...] = (64, 96) if kind == "Embedding" else (16, 256, 3)
    theirs = getattr(torch.nn, kind)(*args).state_dict()
    for name, array in getattr(nn, kind)(*args).state_dict().items():
        wanted = theirs[name].numpy()
        assert array.shape == wanted.shape
        assert array.std() == pytest.approx(wanted.std(), rel=0.1)
        if kind != "Embedding":
            assert np.abs(array).max() == pytest.approx(np.abs(wanted).max(), rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    """Tensors of PyTorch's bfloat16 load; results are as close as eight bits allow."""
    kind = getattr(torch, dtype)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.MaxPool2d(2), torch.nn.GroupNorm(1, 3)
    ).to(kind)
    ours = (
        nn.Conv2d(2, 3, 3, dtype=dtype) >> nn.MaxPool2d(2) >> nn.GroupNorm(1, 3, dtype=dtype)
    )
    ours.load_state_dict(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        held = ours.state_dict()[name].astype(np.float32)
        np.testing.assert_array_equal(held, tensor.float().numpy())
    x = gc.observed("x", (2, 2, 8, 8), dtype)
    at = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(x.dtype.numpy)
    got = gc.compile([x], ours(x))(at).astype(np.float32)
    wanted = theirs(torch.tensor(at.astype(np.float32)).to(kind)).float().detach().numpy()
    np.testing.assert_allclose(got, wanted, atol=0.05 if dtype == "bfloat16" else 0.01)


def test_derivatives_of_derivatives() -> None:
    """The gradient of a gradient's square, through convolution, pooling and norms."""
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2, 1),
        torch.nn.BatchNorm2d(3),
        torch.nn.AvgPool2d(2, 1),
        torch.nn.GroupNorm(1, 3),
        torch.nn.ConvTranspose2d(3, 1, 2),
    ).double()
    f64 = {"dtype": "float64"}
    ours = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, **f64),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.BatchNorm2d(3, **f64),
        nn.AvgPool2d(2, 1),
        nn.GroupNorm(1, 3, **f64),
        nn.ConvTranspose2d(3, 1, 2, **f64),
    )
    ours.load_state_dict(theirs.state_dict())
    x = gc.observed("x", (3, 2, 8, 8), "float64")
    wrt = [x, *ours.parameters()]
    slopes = gc.grad((ours(x) ** 3).sum(), wrt)
    second = gc.grad(sum((slope * slope).sum() for slope in slopes), wrt)
    at = np.random.default_rng(0).normal(size=(3, 2, 8, 8))
    got = gc.compile([x], second, mode="train")(at)
    tx = torch.tensor(at, requires_grad=True)
    twrt = [tx, *theirs.parameters()]
    tslopes = torch.autograd.grad((theirs(tx) ** 3).sum(), twrt, create_graph=True)
    wanted = torch.autograd.grad(sum((slope * slope).sum() for slope in tslopes), twrt)
    for array, tensor in zip(got, wanted, strict=True):
        scale = tensor.abs().max().item()
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-8, atol=1e-10 * scale)


def test_per_sample_gradients() -> None:
    """vmap over unbatched images; the layers' weights are captured."""
    ours = nn.Conv2d(2, 3, 3) >> nn.ReLU() >> nn.MaxPool2d(2) >> nn.Flatten(0) >> nn.Linear(12, 4)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(12, 4),
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    x, y = gc.observed("x", (5, 2, 6, 6)), gc.observed("y", (5,), gc.int64)
    loss = nn.CrossEntropyLoss()
    each = gc.vmap(lambda a, b: gc.grad(loss(ours(a), b), ours.parameters()))(x, y)
    rng = np.random.default_rng(0)
    at, labels = rng.normal(size=(5, 2, 6, 6)).astype(np.float32), rng.integers(0, 4, 5)
    got = gc.compile([x, y], each)(at, labels)
    for row in range(5):
        tx, ty = torch.tensor(at[row : row + 1]), torch.tensor(labels[row : row + 1])
        cost = torch.nn.functional.cross_entropy(theirs(tx), ty)
        wanted = torch.autograd.grad(cost, list(theirs.parameters()))
        for array, tensor in zip(got, wanted, strict=True):
            np.testing.assert_allclose(array[row], tensor.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(gc.GraphcError, match="updated in every lane"):
        gc.vmap(lambda a: nn.BatchNorm1d(6)(a[0]))(x)


def test_run_time_sizes() -> None:
    """One code for every batch size, and heights that the call decides."""
    batch, height = gc.Dim("B", specialize=False), gc.Dim("H", min=4)
    x = gc.observed("x", (batch, 3, height, 6))
    net = nn.Conv2d(3, 4, 3, stride=2, padding=1) >> nn.BatchNorm2d(4) >> nn.MaxPool2d(2, 1)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.MaxPool2d(2, 1),
    )
    net.load_state_dict(theirs.state_dict())
    call = gc.compile([x], net(x), mode="train")
    rng = np.random.default_rng(0)
    for rows, tall in ((2, 5), (3, 8), (1, 5)):
        at = rng.normal(size=(rows, 3, tall, 6)).astype(np.float32)
        wanted = theirs(torch.tensor(at)).detach().numpy()
        np.testing.assert_allclose(call(at), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 5), (10, 6), (11, 5), (2, 4, 11, 6)])
def test_a_transposed_convolution_makes_the_size_asked_for(size: tuple[int, ...]) -> None:
    options = {"stride": (3, 2), "padding": (1, 0), "dilation": (1, 2)}
    theirs = torch.nn.ConvTranspose2d(3, 4, (2, 3), **options)
    ours = nn.ConvTranspose2d(3, 4, (2, 3), **options)
    ours.load_state_dict(theirs.state_dict())
    at = np.random.default_rng(8).normal(size=(2, 3, 4, 1)).astype(np.float32)
    x = gc.observed("x", at.shape)
    made = gc.compile([x], ours(x, output_size=size))(at)
    wanted = theirs(torch.tensor(at), output_size=size).detach().numpy()
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def test_sizes_that_a_transposed_convolution_cannot_make() -> None:
    x = gc.observed("x", (2, 3, 4, 4))
    layer = nn.ConvTranspose2d(3, 4, 2, stride=3)
    with pytest.raises(ValueError, match=r"asks for 14 elements; from 4 .* 11 to 13"):
        layer(x, output_size=(11, 14))
    with pytest.raises(ValueError, match="output_size has 2 or 4 ints"):
        layer(x, output_size=(11, 11, 11))
    rows = gc.observed("rows", (2, 3, gc.Dim("H"), 4))
    with pytest.raises(ValueError, match=r"needs a known size, .* has H"):
        layer(rows, output_size=(11, 11))
    with pytest.raises(gc.ShapeError, match=r"padding \(3, 3\) leaves -1 elements on axis 2"):
        nn.ConvTranspose2d(3, 4, 2, padding=3)(x)


def test_refusals() -> None:
    x = gc.observed("x", (2, 3, 8, 8))
    with pytest.raises(gc.ShapeError, match=r"conv1d: x is f32\[2,3,8,8\], it must be \[batch"):
        nn.Conv1d(3, 4, 3)(x)
    with pytest.raises(gc.ShapeError, match="axis 1 of the weight is 4"):
        nn.Conv2d(4, 4, 3)(x)
    with pytest.raises(ValueError, match="2 groups do not divide 3 and 4"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="2 ints"):
        nn.Conv2d(3, 4, (3, 3, 3))
    with pytest.raises(ValueError, match="'same' needs stride 1"):
        nn.Conv2d(3, 4, 3, stride=2, padding="same")(x)
    with pytest.raises(ValueError, match=r"padding_mode is one of zeros, .*not 'mirror'"):
        nn.Conv2d(3, 4, 3, padding_mode="mirror")
    with pytest.raises(gc.ShapeError, match="padding is an int or 2 ints"):
        nn.Conv2d(3, 4, 3, padding=(1, 1, 1))(x)
    with pytest.raises(ValueError, match="not 'some'"):
        nn.Conv2d(3, 4, 3, padding="some")(x)
    with pytest.raises(gc.ShapeError, match="output_padding must be smaller"):
        nn.ConvTranspose2d(3, 4, 3, output_padding=1)(x)
    with pytest.raises(gc.ShapeError, match="more than half of the window"):
        nn.MaxPool2d(2, padding=2)(x)
    with pytest.raises(gc.ShapeError, match="exceeds"):
        nn.MaxPool2d(9)(x)
    with pytest.raises(gc.ShapeError, match="must have 3 axes, or of one sample 2"):
        nn.AvgPool1d(2)(x)
    with pytest.raises(gc.ShapeError, match="2 ints"):
        nn.AvgPool2d((2, 2, 2))(x)
    with pytest.raises(gc.ShapeError, match="at least 1"):
        nn.MaxPool2d(2, stride=0)(x)
    with pytest.raises(gc.ShapeError, match="known extents"):
        gc.ops.max_pool(gc.observed("s", (gc.Dim("L"),)), 2, ceil_mode=True)
    with pytest.raises(gc.ShapeError, match="floating"):
        gc.ops.avg_pool(gc.observed("i", (4,), gc.int64), 2)
    with pytest.raises(gc.ShapeError, match=r"BatchNorm2d: x is .* axis 1 being 4 channels"):
        nn.BatchNorm2d(4)(x)
    with pytest.raises(gc.ShapeError, match=r"BatchNorm1d: x is .* 2 or 3 axes"):
        nn.BatchNorm1d(3)(x)
    mean = gc.state(4)
    with pytest.raises(gc.ShapeError, match=r"axis 1 must be channels, as many as of f32\[4\]"):
        nn.functional.batch_norm(x, mean, mean)
    with pytest.raises(ValueError, match="to count the calls"):
        nn.functional.batch_norm(x, gc.state(3), gc.state(3), momentum=None)
    with pytest.raises(gc.ShapeError, match="in 2 equal groups"):
        nn.functional.group_norm(x, 2)
    with pytest.raises(ValueError, match="4 groups do not divide 6"):
        nn.GroupNorm(4, 6)
    with pytest.raises(gc.ShapeError, match="6 channels"):
        nn.GroupNorm(2, 6)(x)
    with pytest.raises(gc.DTypeError, match="ids are integers"):
        nn.Embedding(4, 2)(x)
    with pytest.raises(ValueError, match="padding_idx 4"):
        nn.Embedding(4, 2, padding_idx=4)
    with pytest.raises(ValueError, match=r"Embedding: sparse=True .* dense arrays: leave it out"):
        nn.Embedding(4, 2, sparse=True)
    with pytest.raises(ValueError, match="EmbeddingBag: max_norm must be >= 0, got -1"):
        nn.EmbeddingBag(4, 2, max_norm=-1.0)
    ids = gc.observed("ids", (2, 3), gc.int64)
    with pytest.raises(ValueError, match="embedding: sparse=True"):
        nn.functional.embedding(ids, gc.ops.zeros((4, 2)), sparse=True)
    with pytest.raises(ValueError, match="scale_grad_by_freq goes with mode 'sum' or 'mean'"):
        nn.EmbeddingBag(4, 2, scale_grad_by_freq=True, mode="max")
    assert nn.Embedding(4, 2, max_norm=1.0)._describe() == "4, 2, max_norm=1.0"
    with pytest.raises(gc.ShapeError, match="are none"):
        nn.Flatten(3, 1)(x)


def test_integers_in_a_maximum() -> None:
    x = gc.observed("x", (6,), gc.int32)
    call = gc.compile([x], gc.ops.max_pool(x, 3, 2, 1))
    assert call(np.int32([-5, -7, -2, -9, -8, -(2**31)])).tolist() == [-5, -2, -8]
