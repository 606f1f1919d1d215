"""Program 2: a convolutional network with batch norm and noise that only training sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim

rng = np.random.default_rng(1)


class Net(nn.Module):
    def __init__(self, dtype: Any) -> None:
        self.conv = nn.Conv2d(1, 6, 3, dtype=dtype)
        self.bn = nn.BatchNorm2d(6, dtype=dtype)
        self.head = nn.Linear(6 * 9, 10, dtype=dtype)

    def forward(self, x: gc.Value) -> Any:
        noise = gc.random.normal(x.shape, dtype=x.dtype)
        x = gc.by_mode(train=x + 0.1 * noise, eval=x)
        h = nn.functional.max_pool2d(nn.functional.relu(self.bn(self.conv(x))), 2)
        return {"logits": self.head(h.reshape(x.shape[0], -1)), "noise": noise}


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_and_evaluation_equal_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    gc.manual_seed(0)
    batch = gc.Dim("B")
    x, y = gc.observed("x", (batch, 1, 8, 8), dtype), gc.observed("y", (batch,), gc.int64)
    net = Net(dtype)
    out = net(x)
    loss = nn.CrossEntropyLoss()(out["logits"], y)
    opt = optim.SGD(lr=0.1, momentum=0.9)
    step = gc.compile([x, y], [loss, out["noise"]], opt.minimize(loss))
    predict = gc.compile([x], out["logits"])

    body = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6))
    tail = torch.nn.Sequential(
        torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(54, 10)
    )
    theirs = torch.nn.Sequential(body, tail).to(getattr(torch, dtype))
    names = dict(zip(net.state_dict(), theirs.state_dict(), strict=True))
    theirs.load_state_dict({names[n]: torch.from_numpy(a) for n, a in net.state_dict().items()})
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)

    tolerance = {"rtol": 1e-9 if dtype == "float64" else 2e-3, "atol": 1e-10 if dtype == "float64" else 1e-4}  # noqa: E501
    for rows in (16, 16, 16, 5, 16):
        at = rng.normal(size=(rows, 1, 8, 8)).astype(dtype)
        labels = rng.integers(0, 10, rows)
        got, noise = step(at, labels)
        optimizer.zero_grad()
        tloss = torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(at + 0.1 * noise)), torch.from_numpy(labels)
        )
        tloss.backward()
        optimizer.step()
        np.testing.assert_allclose(got, tloss.item(), **tolerance)
    for name, array in net.state_dict().items():
        wanted = theirs.state_dict()[names[name]].numpy()
        np.testing.assert_allclose(array, wanted, err_msg=name, **tolerance)
    at = rng.normal(size=(3, 1, 8, 8)).astype(dtype)
    wanted = theirs.eval()(torch.from_numpy(at)).detach().numpy()
    np.testing.assert_allclose(predict(at), wanted, **tolerance)
    assert predict(at).tolist() == predict(at).tolist(), "evaluation draws nothing"
