"""Products of tensors: matmul, einsum, convolution, sliding windows; each is one ``contract``."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from graphc.contraction import Affine, Axes, ContractSpec, axis, constant
from graphc.errors import ShapeError
from graphc.graph import Value, apply
from graphc.op import composite, function
from graphc.ops.lifting import full, lift_one, namesakes, normalize_axis, promote, who
from graphc.ops.movement import pad
from graphc.ops.sizes import exact_quotient
from graphc.ops.transposition import transpose
from graphc.source import here
from graphc.types import Extent, int64

__all__ = [
    "convolution",
    "convolution_transpose",
    "dot",
    "einsum",
    "inner",
    "matmul",
    "outer",
    "tensordot",
    "vecdot",
    "windows",
]


def _operands(name: str, *arrays: object) -> list[Value]:
    """Values of one number type; nothing is broadcast."""
    prepared, dtype = promote(name, arrays)
    dtype = int64 if dtype.kind == "b" else dtype
    values = [x if isinstance(x, Value) else lift_one(name, x) for x in prepared]
    return [v if v.dtype == dtype else apply("cast", v, dtype=dtype) for v in values]


# ---- matmul


@function
@composite
def matmul(a: object, b: object) -> Value:
    """The matrix product over a's last and b's second-to-last axis; leading axes broadcast, as
    NumPy's.

    >>> matmul([[1.0, 2.0]], [[3.0], [4.0]]).shape
    (1, 1)
    """
    x, y = _operands("matmul", a, b)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(f"{who('matmul')}: {x.type} @ {y.type}: a scalar; multiply with *", here())
    inner_x, inner_y = x.shape[-1], y.shape[0 if y.ndim == 1 else -2]
    if inner_x != inner_y:
        raise ShapeError(
            f"{who('matmul')}: {x.type} @ {y.type}: "
            f"the inner axes differ ({inner_x} and {inner_y})",
            here(),
        )
    batch, batch_x, batch_y = _batch(x, y)
    rows: Axes = () if x.ndim == 1 else (("m", x.shape[-2]),)
    columns: Axes = () if y.ndim == 1 else (("n", y.shape[-1]),)
    k = axis("k")
    spec = ContractSpec(
        (*batch, *rows, *columns),
        (("k", inner_x),),
        (*batch_x, *(axis(n) for n, _ in rows), k),
        (*batch_y, k, *(axis(n) for n, _ in columns)),
    )
    return apply("contract", x, y, spec=spec)


def _batch(x: Value, y: Value) -> tuple[Axes, tuple[Affine, ...], tuple[Affine, ...]]:
    """The leading axes of a matmul, and where each operand is read along them."""
    lead_x, lead_y = x.shape[:-2], y.shape[:-2]
    rank = max(len(lead_x), len(lead_y))
    axes, index_x, index_y = [], [], []
    for i in range(rank):
        name = f"b{i}" if rank > 1 else "b"
        at_x, at_y = i - rank + len(lead_x), i - rank + len(lead_y)
        extent_x = lead_x[at_x] if at_x >= 0 else 1
        extent_y = lead_y[at_y] if at_y >= 0 else 1
        if extent_x != extent_y and 1 not in (extent_x, extent_y):
            raise ShapeError(
                f"{who('matmul')}: {x.type} @ {y.type}: "
                f"axis {i} differs ({extent_x} and {extent_y}){namesakes(extent_x, extent_y)}",
                here(),
            )
        extent = extent_y if extent_x == 1 else extent_x
        axes.append((name, extent))
        if at_x >= 0:
            index_x.append(axis(name) if extent_x == extent else constant(0))
        if at_y >= 0:
            index_y.append(axis(name) if extent_y == extent else constant(0))
    return tuple(axes), tuple(index_x), tuple(index_y)


@function
def dot(a: object, b: object) -> Value:
    """NumPy's dot: the matrix product for vectors and matrices; a product where one is a scalar."""
    x, y = _operands("dot", a, b)
    return x * y if x.ndim == 0 or y.ndim == 0 else matmul(x, y)


@function
def vecdot(a: object, b: object, axis: int = -1) -> Value:
    """The sum of products along one axis, the others broadcast."""
    x, y = _operands("vecdot", a, b)
    return (x * y).sum(axis)


@function
def outer(a: object, b: object) -> Value:
    """a[i] * b[j] of two vectors."""
    return einsum("i,j->ij", a, b)


@function
def inner(a: object, b: object) -> Value:
    """The sum of products over both last axes."""
    x, y = _operands("inner", a, b)
    return x * y if x.ndim == 0 or y.ndim == 0 else tensordot(x, y, ((-1,), (-1,)))


@function
def tensordot(a: object, b: object, axes: Any = 2) -> Value:
    """The sum of products over ``axes``: that many last axes of a and first of b, or (axes of a,
    axes of b).
    """
    x, y = _operands("tensordot", a, b)
    if isinstance(axes, int):
        over_x, over_y = list(range(x.ndim - axes, x.ndim)), list(range(axes))
    else:
        over_x = [normalize_axis("tensordot", i, x.ndim) for i in _sequence(axes[0])]
        over_y = [normalize_axis("tensordot", i, y.ndim) for i in _sequence(axes[1])]
    letters = iter(string.ascii_letters)
    of_x = [next(letters) for _ in range(x.ndim)]
    of_y = [next(letters) for _ in range(y.ndim)]
    for i, j in zip(over_x, over_y, strict=True):
        of_y[j] = of_x[i]
    kept = [n for i, n in enumerate(of_x) if i not in over_x]
    kept += [n for j, n in enumerate(of_y) if j not in over_y]
    return einsum(f"{''.join(of_x)},{''.join(of_y)}->{''.join(kept)}", x, y)


def _sequence(x: Any) -> Sequence[int]:
    return x if isinstance(x, (tuple, list)) else (x,)


# ---- einsum


@function
@composite
def einsum(formula: str, *arrays: object) -> Value:
    """The sum of products that ``formula`` says, as np.einsum: ``"bij,bjk->bik"``; ``...`` stands
    for leading axes.

    More than two operands are multiplied from left to right, letters that nothing later names
    summed at once.

    >>> einsum("ij,kj->ik", [[1.0, 2.0]], [[3.0, 4.0]]).shape
    (1, 1)
    """
    values = _operands("einsum", *arrays)
    terms, result = _parse(formula, values)
    while len(values) > 2:
        later = set(result).union(*terms[2:])
        kept = [n for n in dict.fromkeys([*terms[0], *terms[1]]) if n in later]
        joined = _einsum_pair(values[0], terms[0], values[1], terms[1], kept)
        values, terms = [joined, *values[2:]], [kept, *terms[2:]]
    if len(values) == 1:
        return _einsum_one(values[0], terms[0], result)
    return _einsum_pair(values[0], terms[0], values[1], terms[1], result)


def _einsum_pair(
    x: Value, of_x: Sequence[str], y: Value, of_y: Sequence[str], result: Sequence[str]
) -> Value:
    extents: dict[str, Extent] = {}
    index: list[list[Affine]] = [[], []]
    pairs = [(0, x, n, e) for n, e in zip(of_x, x.shape, strict=True)]
    pairs += [(1, y, n, e) for n, e in zip(of_y, y.shape, strict=True)]
    for _, _, name, extent in pairs:
        known = extents.setdefault(name, extent)
        if known == 1:
            extents[name] = extent
        elif extent not in (1, known):
            raise ShapeError(
                f"{who('einsum')}: axis {name} is {known} in one place and {extent} in another",
                here(),
            )
    for place, _, name, extent in pairs:
        index[place].append(axis(name) if extent == extents[name] else constant(0))
    axes = tuple((n, extents[n]) for n in result)
    reduced = tuple((n, e) for n, e in extents.items() if n not in result)
    spec = ContractSpec(axes, reduced, tuple(index[0]), tuple(index[1]))
    return apply("contract", x, y, spec=spec)


def _einsum_one(x: Value, of_x: Sequence[str], result: Sequence[str]) -> Value:
    """A permutation and a sum, or where a letter repeats a contraction with the scalar 1."""
    if len(set(of_x)) < len(of_x):
        return _einsum_pair(x, of_x, full((), 1, x.dtype), (), result)
    summed = tuple(i for i, n in enumerate(of_x) if n not in result)
    total = apply("reduce", x, monoid="sum", axes=summed) if summed else x
    rest = [n for n in of_x if n in result]
    order = tuple(rest.index(n) for n in result)
    return total if order == tuple(range(len(order))) else apply("permute", total, order=order)


def _parse(formula: str, values: Sequence[Value]) -> tuple[list[list[str]], list[str]]:
    left, arrow, right = formula.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(values):
        message = f"{who('einsum')}: {formula!r} names {len(texts)} operands, got {len(values)}"
        raise ShapeError(message, here())
    terms = [_letters(text, value) for text, value in zip(texts, values, strict=True)]
    leading = max(([n for n in t if n.startswith(".")] for t in terms), key=len)
    if arrow:
        result = [*_expand(right, leading)]
    else:
        counts = [n for t in terms for n in t]
        result = [*leading, *sorted(n for n in set(counts) if counts.count(n) == 1)]
        result = list(dict.fromkeys(result))
    names = {n for t in terms for n in t}
    if not set(result) <= names or len(set(result)) < len(result):
        raise ShapeError(
            f"{who('einsum')}: {formula!r}: the result names what no operand has", here()
        )
    rename = {n: f"e{n[1:]}" for n in names if n.startswith(".")}
    return [[rename.get(n, n) for n in t] for t in terms], [rename.get(n, n) for n in result]


def _letters(text: str, value: Value) -> list[str]:
    named = len(text.replace("...", ""))
    count = value.ndim - named
    if count < 0 or (count > 0 and "..." not in text):
        raise ShapeError(f"{who('einsum')}: {text!r} does not fit {value.type}", here())
    return [*_expand(text, [f".{i}" for i in range(-count, 0)])]


def _expand(text: str, leading: Sequence[str]) -> list[str]:
    before, dots, after = text.partition("...")
    return [*before, *(leading if dots else ()), *after]


# ---- convolution


def per_axis(name: str, what: str, given: Any, rank: int) -> tuple[int, ...]:
    items = tuple(given) if isinstance(given, (tuple, list)) else (given,) * rank
    if len(items) != rank or not all(isinstance(i, int) and i >= 0 for i in items):
        raise ShapeError(
            f"{who(name)}: {what} must be an int or {rank} ints, got {given!r}", here()
        )
    return items


def _pairs(name: str, padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    items = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * rank
    pairs = tuple(tuple(i) if isinstance(i, (tuple, list)) else (i, i) for i in items)
    if len(pairs) != rank or any(
        len(p) != 2 or not all(isinstance(w, int) for w in p) for p in pairs
    ):
        raise ShapeError(
            f"{who(name)}: padding must be an int, {rank} ints or pairs, got {padding!r}", here()
        )
    return pairs


def window_count(
    name: str, extent: Extent, size: Extent, stride: int, padding: tuple[int, int], dilation: int
) -> Extent:
    """How many windows fit: floor((extent + padding - dilation (size - 1) - 1) / stride) + 1."""
    span = extent + (sum(padding) - 1) - (size - 1) * dilation
    count = span // stride + 1
    if isinstance(count, int) and count < 1:
        reach = (size - 1) * dilation + 1
        lacking = reach - extent - sum(padding)
        raise ShapeError(
            f"{who(name)}: a window of {size} (dilation {dilation}) spans {reach}, which exceeds "
            f"{extent} with padding {sum(padding)} in all; pad by {lacking} more, or make the "
            "window smaller",
            here(),
        )
    return count


def _space_names(rank: int) -> tuple[Sequence[str], Sequence[str]]:
    """y, x and p, q for images; x and p for one axis; three in order z, y, x."""
    order = {1: "x", 2: "yx", 3: "zyx"}.get(rank)
    if order is None:
        return [f"y{i}" for i in range(rank)], [f"p{i}" for i in range(rank)]
    return list(order), ["pqr"["yxz".index(n)] if rank > 1 else "p" for n in order]


def _check_groups(
    name: str, channels: Extent, features: Extent, groups: int
) -> tuple[Extent, Extent]:
    each, made = exact_quotient(channels, groups), exact_quotient(features, groups)
    if each is None or made is None:
        raise ShapeError(
            f"{who(name)}: {groups} groups do not divide {channels} and {features} channels", here()
        )
    return each, made


@function
@composite
def convolution(
    x: object,
    weight: object,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Cross-correlation over any number of spatial axes, as torch's conv1d, conv2d, conv3d.

    x is [batch, channels, *space], weight [features, channels / groups, *kernel]; ``padding`` is an
    int, one a spatial axis, or (low, high) pairs. The result is [batch, features, *space'].
    """
    image, kernel = _operands("convolution", x, weight)
    rank = image.ndim - 2
    if rank < 1 or kernel.ndim != image.ndim:
        raise ShapeError(
            f"{who('convolution')}: {image.type} with {kernel.type}: "
            "takes [batch, channels, *space] and [features, channels / groups, *kernel]",
            here(),
        )
    each, made = _check_groups("convolution", image.shape[1], kernel.shape[0], groups)
    if kernel.shape[1] != each:
        raise ShapeError(
            f"{who('convolution')}: {image.type} with {kernel.type}: "
            f"axis 1 of the weight is {kernel.shape[1]}, "
            f"it must be {image.shape[1]} channels / {groups} groups",
            here(),
        )
    steps = per_axis("convolution", "stride", stride, rank)
    gaps = per_axis("convolution", "dilation", dilation, rank)
    rims = _pairs("convolution", padding, rank)
    counts = [
        window_count("convolution", *sizes)
        for sizes in zip(image.shape[2:], kernel.shape[2:], steps, rims, gaps, strict=True)
    ]
    space, offsets = _space_names(rank)
    places = tuple(
        s * axis(y) + d * axis(p) - low
        for y, p, s, d, (low, _) in zip(space, offsets, steps, gaps, rims, strict=True)
    )
    reduced = (("c", each), *zip(offsets, kernel.shape[2:], strict=True))
    out_space = tuple(zip(space, counts, strict=True))
    at = tuple(axis(p) for p in offsets)
    if groups == 1:
        axes: Axes = (("n", image.shape[0]), ("o", made), *out_space)
        spec = ContractSpec(
            axes, reduced, (axis("n"), axis("c"), *places), (axis("o"), axis("c"), *at)
        )
        return apply("contract", image, kernel, spec=spec)
    channel, feature = _grouped("c", each), _grouped("o", made)
    axes = (("n", image.shape[0]), ("g", groups), ("o", made), *out_space)
    spec = ContractSpec(axes, reduced, (axis("n"), channel, *places), (feature, axis("c"), *at))
    out = apply("contract", image, kernel, spec=spec)
    return apply("reshape", out, shape=(image.shape[0], made * groups, *counts))


def _grouped(name: str, each: Extent) -> Affine:
    if not isinstance(each, int):
        raise ShapeError(f"{who('convolution')}: channels must be ints, got {each}", here())
    return axis("g") * each + axis(name)


@function
@composite
def convolution_transpose(
    x: object,
    weight: object,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """The derivative of ``convolution`` towards its image, applied to x: torch's conv_transpose.

    x is [batch, channels, *space], weight [channels, features / groups, *kernel]; the result has
    (space - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1 elements an axis.
    """
    from_space, kernel = _operands("convolution_transpose", x, weight)
    rank = from_space.ndim - 2
    if rank < 1 or kernel.ndim != from_space.ndim or kernel.shape[0] != from_space.shape[1]:
        raise ShapeError(
            f"{who('convolution_transpose')}: {from_space.type} with {kernel.type}: "
            "takes [batch, channels, *space] and [channels, features / groups, *kernel]",
            here(),
        )
    steps = per_axis("convolution_transpose", "stride", stride, rank)
    gaps = per_axis("convolution_transpose", "dilation", dilation, rank)
    rims = _pairs("convolution_transpose", padding, rank)
    more = per_axis("convolution_transpose", "output_padding", output_padding, rank)
    if any(o >= max(s, d) for o, s, d in zip(more, steps, gaps, strict=True)):
        raise ShapeError(
            f"{who('convolution_transpose')}: output_padding must be smaller than stride or "
            f"dilation, got {more} with {steps} and {gaps}",
            here(),
        )
    space = tuple(
        (e - 1) * s - sum(rim) + (k - 1) * d + o + 1
        for e, s, rim, k, d, o in zip(
            from_space.shape[2:], steps, rims, kernel.shape[2:], gaps, more, strict=True
        )
    )
    for place, extent in enumerate(space):
        if isinstance(extent, int) and extent < 1:
            raise ShapeError(
                f"{who('convolution_transpose')}: {from_space.type} with a kernel "
                f"{kernel.shape[2:]}: padding {rims[place]} leaves {extent} elements on "
                f"axis {place + 2}: pad less",
                here(),
            )
    image_shape = (from_space.shape[0], kernel.shape[1] * groups, *space)
    image = full(image_shape, 0, from_space.dtype)
    forward = convolution(image, kernel, stride, padding, dilation, groups)
    # a stride or more beyond the end there are windows of which x says nothing
    unseen = [(0, o // s) for o, s in zip(more, steps, strict=True)]
    if any(high for _, high in unseen):
        from_space = pad(from_space, [(0, 0), (0, 0), *unseen])
    return _pulled_back(forward, from_space, kernel, image_shape)


def _pulled_back(forward: Value, g: Value, kernel: Value, shape: tuple[Extent, ...]) -> Value:
    """The cotangent of the image of the convolution that ``forward`` is, for the cotangent g."""
    node = forward.node
    if node.op == "reshape":
        node = node.inputs[0].node
        g = apply("reshape", g, shape=node.outputs[0].shape)
    return apply("contract", g, kernel, spec=transpose(node.attrs["spec"], shape))


@function
def windows(x: object, size: Any, stride: Any = 1, dilation: Any = 1, axes: Any = None) -> Value:
    """Sliding windows: [.., count, .., *size], the windows' own axes last. Nothing is copied.

    Over ``axes`` (default: as many last axes as ``size`` has); pad first where windows should reach
    beyond the ends.

    >>> windows([1.0, 2.0, 3.0, 4.0], 2, stride=2).shape
    (2, 2)
    """
    value = lift_one("windows", x)
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    rank = len(sizes)
    chosen = range(value.ndim - rank, value.ndim) if axes is None else _sequence(axes)
    places = [normalize_axis("windows", a, value.ndim) for a in chosen]
    steps = per_axis("windows", "stride", stride, rank)
    gaps = per_axis("windows", "dilation", dilation, rank)
    names = [f"i{i}" for i in range(value.ndim)]
    offsets = [f"p{i}" for i in range(rank)]
    index, extents = [axis(n) for n in names], list(value.shape)
    for k, place in enumerate(places):
        index[place] = axis(names[place]) * steps[k] + axis(offsets[k]) * gaps[k]
        extents[place] = window_count(
            "windows", value.shape[place], sizes[k], steps[k], (0, 0), gaps[k]
        )
    out = (*zip(names, extents, strict=True), *zip(offsets, sizes, strict=True))
    spec = ContractSpec(out, (), tuple(index), ())
    return apply("contract", value, full((), 1, value.dtype), spec=spec)
