"""Modules beside PyTorch's: the same numbers in, then values, first and second derivatives out.

Breadth goes through the reference interpreter in float64 (``agree``); ``agree_natively`` compiles
many cases into one program in float32, so that each block runs as machine code too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import graphc as gc
from tests.evaluating import evaluate

Array = np.ndarray[Any, Any]


@dataclass
class Case:
    """Two modules, what they are called on, and how: by default as ``module(*inputs)``.

    ``values`` are NumPy arrays; floating ones are cast to the dtype under test and derived by.
    """

    ours: Any
    theirs: Any
    values: Sequence[Array]
    call: Callable[..., Any] = lambda module, *inputs: module(*inputs)
    their_call: Callable[..., Any] | None = None
    second: bool = True
    label: str = ""


def load(ours: Any, theirs: Any) -> None:
    """Parameters of PyTorch's module into ours and back: the same names, shapes and order."""
    mine, their = ours.named_parameters(), list(theirs.named_parameters())
    assert [n for n, _ in mine] == [n for n, _ in their]
    assert [v.shape for _, v in mine] == [tuple(t.shape) for _, t in their]
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    held = ours.state_dict()
    assert list(held) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(held[name], tensor.numpy(), err_msg=name)


def _weights(shape: Sequence[int]) -> Array:
    """What outputs are weighed with: no symmetry that would hide a mistake."""
    return np.cos(np.arange(int(np.prod(shape))) * 1.7 + 0.3).reshape(shape)


def _program(case: Case, dtype: str) -> tuple[list[gc.Value], list[list[Any]]]:
    inputs = []
    for place, array in enumerate(case.values):
        kind = dtype if array.dtype.kind == "f" else str(array.dtype)
        inputs.append(gc.observed(f"x{place}", array.shape, kind))
    outs = [v for v in gc.tree.leaves(case.call(case.ours, *inputs)) if v is not None]
    wrt = [v for v in inputs if v.dtype.is_float] + list(case.ours.parameters())
    smooth = [v for v in outs if v.dtype.is_float]
    cost = sum((v * gc.constant(_weights(v.shape), dtype)).sum() for v in smooth)
    first = list(gc.grad(cost, wrt, unused="zero"))
    second = []
    if case.second:
        total = sum((v * v).sum() for v in first)
        second = list(gc.grad(total, wrt, unused="zero"))
    return inputs, [outs, first, second]


def _reference(case: Case, dtype: str) -> list[list[Array]]:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    theirs = case.theirs.to(kind)
    inputs = []
    for array in case.values:
        tensor = torch.tensor(array)
        inputs.append(tensor.to(kind).requires_grad_() if array.dtype.kind == "f" else tensor)
    call = case.their_call or case.call
    # the only one of PyTorch's attentions whose derivatives have derivatives
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        made = call(theirs, *inputs)
    outs = [v for v in _tensors(made) if v is not None]
    wrt = [v for v in inputs if v.requires_grad] + list(theirs.parameters())
    smooth = [v for v in outs if v.is_floating_point()]
    cost = sum((v * torch.tensor(_weights(v.shape), dtype=kind)).sum() for v in smooth)

    def slopes(value: Any, create: bool) -> list[Any]:
        found = torch.autograd.grad(value, wrt, create_graph=create, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wrt, strict=True)]

    first = slopes(cost, case.second)
    second = slopes(sum((v * v).sum() for v in first), False) if case.second else []
    return [[v.detach().numpy() for v in part] for part in (outs, first, second)]


def _tensors(made: Any) -> list[Any]:
    if isinstance(made, (tuple, list)):
        return [v for item in made for v in _tensors(item)]
    return [made]


def _compare(case: Case, got: Any, wanted: Any, rtol: float, atol: float) -> None:
    for what, ours, theirs in zip(("value", "slope", "second"), got, wanted, strict=True):
        assert len(ours) == len(theirs)
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            size = max(1.0, float(np.abs(np.nan_to_num(b, posinf=0, neginf=0)).max(initial=0.0)))
            message = f"{case.label or case.ours!r}: {what} {place}"
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * size, err_msg=message)


def agree(case: Case, mode: str = "train") -> None:
    """In float64, in the interpreter."""
    if mode == "eval":
        case.theirs.eval()
    inputs, results = _program(case, "float64")
    got = evaluate(results, dict(zip(inputs, case.values, strict=True)), mode)
    _compare(case, got, _reference(case, "float64"), 1e-8, 1e-10)


def agree_natively(cases: Sequence[Case], mode: str = "train") -> None:
    """In float32, all cases in one compiled program."""
    inputs, results, given = [], [], []
    for number, case in enumerate(cases):
        if mode == "eval":
            case.theirs.eval()
        own, outputs = _program(case, "float32")
        for value in own:
            value.name = f"{value.name}_{number}"
        inputs += own
        results.append(outputs)
        given += [a.astype(v.dtype.numpy) for a, v in zip(case.values, own, strict=True)]
    got = gc.compile(inputs, results, mode=mode)(*given)
    for case, found in zip(cases, got, strict=True):
        _compare(case, found, _reference(case, "float32"), 2e-4, 2e-5)


def functional_case(
    ours: Callable[..., Any], theirs: Callable[..., Any], values: Sequence[Array], **options: Any
) -> Case:
    """The same of two functions of arrays."""
    torch = pytest.importorskip("torch")
    label = options.pop("label", getattr(ours, "__name__", ""))
    second = options.pop("second", True)

    class Theirs(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return theirs(*inputs, **options)

    module = gc.nn.Lambda(lambda *inputs: ours(*inputs, **options), "function")
    return Case(module, Theirs(), values, label=f"{label} {options}", second=second)
