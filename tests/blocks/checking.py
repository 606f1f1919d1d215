"""What is compared of a block: values, first and second derivatives, buffers, names, modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc import nn
from graphc.closing import close, depends_on_mode
from graphc.interpret import interpret
from tests.blocks.sample import Block

Array = NDArray[Any]
Tolerance = dict[str, float]


def tolerance_of(block: Block, dtype: str) -> Tolerance:
    """Relative, and absolute for results of size 1."""
    if dtype == "float32":
        return {"rtol": 2e-4, "atol": 2e-5}
    return {"rtol": block.within, "atol": block.within * 0.01}


def checks(block: Block) -> list[str]:
    """What ``interpreted`` does for a block, in words; docs/BLOCKS.md prints it."""
    module = block.ours("float32")
    saved = module.state_dict() if isinstance(module, nn.Module) else {}
    done = ["values"]
    if saved or any(given.smooth for given in block.inputs):
        done += ["gradient", "second derivative"] if block.second else ["gradient"]
    if saved and block.reference is block.counterpart is None:
        done.append("state_dict")
    if block.random:
        return [*done, "eval only"]
    inputs = [gc.observed("x", a.shape, str(a.dtype)) for a in block.arrays("float32")]
    outs = block.run(module, inputs)
    return [*done, "train and eval"] if depends_on_mode(outs) else done


@dataclass
class Program:
    """A block of ours on its inputs, with its derivatives along fixed random directions."""

    block: Block
    module: Any
    inputs: list[gc.Value]
    wrt: list[gc.Value]
    outs: list[gc.Value]
    slopes: list[gc.Value]
    second: list[gc.Value]


def program(block: Block, theirs: Any, dtype: str, *, second: bool = True) -> Program:
    """Ours, with the numbers of theirs."""
    module = block.ours(dtype)
    if isinstance(module, nn.Module) and hasattr(theirs, "state_dict"):
        assert module.load_state_dict(theirs.state_dict()) == ([], [])
    arrays = block.arrays(dtype)
    inputs = [gc.observed(f"x{i}", a.shape, str(a.dtype)) for i, a in enumerate(arrays)]
    outs = block.run(module, inputs)
    wrt = [v for v, given in zip(inputs, block.inputs, strict=True) if given.smooth]
    wrt += module.parameters() if isinstance(module, nn.Module) else []
    if not wrt:
        return Program(block, module, inputs, wrt, outs, [], [])
    slopes = gc.grad(_along(outs, directions(block, outs, dtype)), wrt, unused="zero")
    twice: list[gc.Value] = []
    if second and block.second:
        cost = _along(slopes, directions(block, slopes, dtype))
        twice = gc.grad(cost, wrt, unused="zero")
    return Program(block, module, inputs, wrt, outs, slopes, twice)


def directions(block: Block, values: Sequence[Any], dtype: str) -> list[Array]:
    """A fixed random array of the shape of each."""
    rng = np.random.default_rng(block.seed + 1)
    return [rng.normal(size=tuple(v.shape)).astype(dtype) for v in values]


def _along(values: Sequence[Any], arrays: Sequence[Array]) -> Any:
    """The derivative of the values along the arrays, before it is taken."""
    pairs = zip(values, arrays, strict=True)
    return sum((v * gc.constant(a, v.dtype)).sum() for v, a in pairs if v.dtype.is_float)


def wanted(
    torch: Any, block: Block, theirs: Any, dtype: str, *, second: bool = True
) -> tuple[list[Array], list[Array], list[Array]]:
    """Values, slopes and second slopes of PyTorch's."""
    tensors = [torch.tensor(a) for a in block.arrays(dtype)]
    wrt = [t for t, given in zip(tensors, block.inputs, strict=True) if given.smooth]
    for tensor in wrt:
        tensor.requires_grad_()
    wrt += list(theirs.parameters()) if hasattr(theirs, "parameters") else []
    outs = block.run_theirs(torch, theirs, tensors)
    if not wrt:
        return [_numpy(t) for t in outs], [], []
    slopes = _slopes(torch, outs, directions(block, outs, dtype), wrt, create_graph=True)
    twice: list[Any] = []
    if second and block.second:
        twice = _slopes(torch, slopes, directions(block, slopes, dtype), wrt)
    return [_numpy(t) for t in outs], [_numpy(t) for t in slopes], [_numpy(t) for t in twice]


def _slopes(
    torch: Any, outs: Any, arrays: Sequence[Array], wrt: Any, *, create_graph: bool = False
) -> list[Any]:
    pairs = zip(outs, arrays, strict=True)
    cost = sum((o * torch.from_numpy(a)).sum() for o, a in pairs if o.is_floating_point())
    if not getattr(cost, "requires_grad", False):
        return [torch.zeros_like(t) for t in wrt]
    options = {"allow_unused": True, "materialize_grads": True, "create_graph": create_graph}
    return list(torch.autograd.grad(cost, wrt, **options))


def _numpy(tensor: Any) -> Array:
    array: Array = tensor.detach().numpy(force=True)
    return array


# ---- the two ways to run


def interpreted(torch: Any, block: Block, dtype: str = "float64") -> None:
    """Everything ``checks`` names, by the plain interpreter."""
    theirs = block.theirs(torch, dtype)
    ours = program(block, theirs, dtype)
    tolerance = tolerance_of(block, dtype)
    modes = ["train", "eval"] if depends_on_mode(ours.outs) else ["train"]
    for mode in ["eval"] if block.random else modes:
        if hasattr(theirs, "train"):
            theirs.train(mode == "train")
        results, new = _interpret(ours, mode, block.arrays(dtype))
        compare(block, results, wanted(torch, block, theirs, dtype), tolerance)
        if hasattr(theirs, "state_dict") and isinstance(ours.module, nn.Module):
            for state, value in new.items():
                state.node.attrs["state"].set(value)
            held = ours.module.state_dict()
            assert list(held) == list(theirs.state_dict())
            for name, tensor in theirs.state_dict().items():
                np.testing.assert_allclose(held[name], _numpy(tensor), err_msg=name, **tolerance)


def _interpret(
    ours: Program, mode: str, arrays: Sequence[Array]
) -> tuple[list[Array], dict[gc.Value, Array]]:
    graph = close([*ours.outs, *ours.slopes, *ours.second], (), mode=mode)
    feeds = dict(zip(ours.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        return interpret(graph, [feeds[v] for v in graph.inputs])


def compare(
    block: Block, results: Sequence[Array], references: Sequence[list[Array]], tolerance: Tolerance
) -> None:
    """All of a block's arrays, in order: values, slopes, second slopes."""
    names = [
        f"{block}: {what} {i}"
        for what, arrays in zip(("value", "slope", "second slope"), references, strict=True)
        for i in range(len(arrays))
    ]
    smooth = [given for given in block.inputs if given.smooth]
    results = [np.array(a) for a in results]
    references = [[np.array(a) for a in arrays] for arrays in references]
    twice = results[len(results) - len(references[2]) :]
    for given, got, reference in zip(smooth, twice, references[2], strict=False):
        got.reshape(-1)[given.kinks] = reference.reshape(-1)[given.kinks] = 0.0
    everything = [array for arrays in references for array in arrays]
    for name, got, reference in zip(names, results, everything, strict=True):
        finite = np.isfinite(reference)  # an infinity would allow everything
        scale = max(1.0, float(np.abs(reference).max(initial=0.0, where=finite)))
        near = {"rtol": tolerance["rtol"], "atol": tolerance["atol"] * scale}
        np.testing.assert_allclose(got, reference, err_msg=name, **near)


def compiled(
    torch: Any, blocks: Sequence[Block], dtype: str = "float32", *, second: bool = False
) -> None:
    """Values and gradients in both modes, as machine code: all blocks in one program."""
    theirs = [block.theirs(torch, dtype) for block in blocks]
    made = [program(b, t, dtype, second=second) for b, t in zip(blocks, theirs, strict=True)]
    inputs, feeds = [], []
    for i, ours in enumerate(made):
        for value, array in zip(ours.inputs, ours.block.arrays(dtype), strict=True):
            value.name = f"b{i}_{value.name}"
            inputs.append(value)
            feeds.append(array)
    wants: list[Any] = []
    for block, module in zip(blocks, theirs, strict=True):
        if hasattr(module, "train"):
            module.train(not block.random)
        wants.append(wanted(torch, block, module, dtype, second=second))
    for random in (False, True):
        chosen = [i for i, block in enumerate(blocks) if block.random is random]
        outputs = [[*made[i].outs, *made[i].slopes, *made[i].second] for i in chosen]
        if not chosen:
            continue
        mode = "eval" if random else "train"
        call = gc.compile(inputs, outputs, mode=mode, unused="ignore")
        for i, results in zip(chosen, call(*feeds), strict=True):
            compare(blocks[i], results, wants[i], tolerance_of(blocks[i], dtype))


def refuses(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    """The error that a wrong argument must give."""
    import pytest

    with pytest.raises(error, match=match):
        make()
