"""What of its input an output of a network sees: ``receptive_field(module)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from graphc.errors import ShapeError
from graphc.nn.activations import Softmax2d
from graphc.nn.containers import Parallel, Residual
from graphc.nn.convolutions import _Conv
from graphc.nn.functional.convolutions import rims_of
from graphc.nn.module import Module, Series
from graphc.nn.normalization import LocalResponseNorm, _BatchNorm
from graphc.nn.pooling import _AvgPool, _MaxPool
from graphc.source import here

__all__ = ["ReceptiveField", "receptive_field"]


class ReceptiveField(NamedTuple):
    """For each axis: output j sees ``size`` places of the input from ``j stride + start`` on.

    A negative ``start`` lies in the padding.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]


def receptive_field(module: Module) -> ReceptiveField:
    """What an output of convolutions and pooling sees of the image, axis by axis.

    A window of k places, dilation d, stride s and padding p, behind what has size r, stride j and
    start a, gives ``r + (k - 1) d j``, ``j s`` and ``a - p j``. Of branches it is what any of them
    sees; their strides must agree. Modules that look at one place at a time change nothing.
    Raises ShapeError for a module whose windows it does not know.

    Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", 2019.

    >>> from graphc import nn
    >>> net = nn.Conv2d(3, 8, 3, padding=1) >> nn.ReLU() >> nn.MaxPool2d(2) >> nn.Conv2d(8, 8, 3)
    >>> receptive_field(net)
    ReceptiveField(size=(8, 8), stride=(2, 2), start=(-1, -1))
    """
    found = _seen(module, None)
    if found is None:
        raise ShapeError(f"receptive_field: {module!r} has no convolution and no pooling", here())
    return found


def _seen(module: Module, behind: ReceptiveField | None) -> ReceptiveField | None:
    """With ``module`` behind what is known so far; None: a single place, of any number of axes."""
    if isinstance(module, Series):
        for each in module:
            behind = _seen(each, behind)
        return behind
    if isinstance(module, Residual):
        inner = [child for _, child in module._children()]
        branches = [_seen(child, behind) for child in inner]
        return _union(module, [*branches, *([behind] if len(inner) == 1 else [])])
    if isinstance(module, Parallel):
        return _union(module, [_seen(child, behind) for _, child in module._children()])
    if isinstance(module, (_Conv, _MaxPool, _AvgPool)):
        return _windowed(module, behind)
    if _looks_at_one_place(module):
        return behind
    raise ShapeError(
        f"receptive_field: what {module._own_name} sees is not known: it takes convolutions, max "
        "and average pooling, batch norm, activations and dropout, in series, branches, residuals",
        here(),
    )


def _windowed(module: Any, behind: ReceptiveField | None) -> ReceptiveField:
    rank = int(type(module).__name__[-2])
    sizes = _each(module.kernel_size, rank)
    strides = _each(module.kernel_size if module.stride is None else module.stride, rank)
    gaps = _each(getattr(module, "dilation", 1), rank)
    rims = rims_of(module._own_name, module.padding, sizes, strides, gaps)
    before = behind or ReceptiveField((1,) * rank, (1,) * rank, (0,) * rank)
    if len(before.size) != rank:
        raise ShapeError(
            f"receptive_field: {module._own_name} moves along {rank} axes, what comes before it "
            f"along {len(before.size)}",
            here(),
        )
    axes = list(zip(*before, sizes, strides, gaps, rims, strict=True))
    return ReceptiveField(
        tuple(r + (k - 1) * d * j for r, j, _, k, _, d, _ in axes),
        tuple(j * s for _, j, _, _, s, _, _ in axes),
        tuple(a - low * j for _, j, a, _, _, _, (low, _) in axes),
    )


def _union(module: Module, branches: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    """What any branch sees."""
    known = [b for b in branches if b is not None]
    if not known:
        return None
    rank, strides = len(known[0].size), {b.stride for b in known}
    if len(known) < len(branches):  # a branch that sees one place
        known.append(ReceptiveField((1,) * rank, (1,) * rank, (0,) * rank))
        strides.add((1,) * rank)
    if len(strides) > 1:
        raise ShapeError(
            f"receptive_field: the branches of {module._own_name} have strides "
            f"{', '.join(map(str, sorted(strides)))}; their outputs do not lie side by side",
            here(),
        )
    starts = [min(axis) for axis in zip(*(b.start for b in known), strict=True)]
    reach = [[a + r for a, r in zip(b.start, b.size, strict=True)] for b in known]
    ends = [max(axis) for axis in zip(*reach, strict=True)]
    sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
    return ReceptiveField(sizes, known[0].stride, tuple(starts))


def _looks_at_one_place(module: Module) -> bool:
    here_is = (_BatchNorm, LocalResponseNorm, Softmax2d)
    home = type(module).__module__
    named = type(module).__name__.startswith(("Dropout", "AlphaDropout", "Identity"))
    along = getattr(module, "dim", 1) != 1  # an activation along another axis than the channels
    return isinstance(module, here_is) or named or (home == "graphc.nn.activations" and not along)


def _each(given: Any, rank: int) -> tuple[int, ...]:
    return (given,) * rank if isinstance(given, int) else tuple(given)
