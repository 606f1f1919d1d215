"""A digit through filters, strides, dilation, pooling and back; and what one output sees.

The size behind a window of k places, dilation d, stride s and padding p on n places is
floor((n + 2p - d (k - 1) - 1) / s) + 1. What an output sees is computed twice, by
``gc.receptive_field`` and as the pixels on which the output's gradient is not 0.

    python examples/convolution.py --out demo-output/convolution
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from digits import load_images
from plots import save, subplots

import graphc as gc
from graphc import nn, ops
from graphc.nn import functional

SOBEL = np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
BLUR = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256
TENT = np.outer(*[[1, 3, 5, 7, 7, 5, 3, 1]] * 2).astype(np.float32) / 64  # bilinear interpolation

#: name -> a stack whose outputs see more and more
STACKS: dict[str, nn.Module] = {
    "three 3x3": nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)]),
    "3x3, dilation 1, 2, 4": nn.Sequential(
        *[nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in (1, 2, 4)]
    ),
    "three 3x3, stride 2": nn.Sequential(
        *[nn.Conv2d(1, 1, 3, stride=2, padding=1) for _ in range(3)]
    ),
    "3x3, pool 2, twice, 3x3": nn.Sequential(
        *(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1)),
        *(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1)),
    ),
}


def filtered(image: gc.Value) -> dict[str, gc.Value]:
    """Name -> what becomes of an image [1, 1, 32, 32]."""
    across, down = (gc.constant(w[None, None]) for w in (SOBEL, np.ascontiguousarray(SOBEL.T)))
    blur, tent = gc.constant(BLUR[None, None]), gc.constant(TENT[None, None])
    pooled, places = nn.MaxPool2d(4, return_indices=True)(image)
    return {
        "the digit": image,
        "edges across (Sobel)": functional.conv2d(image, across, padding=1),
        "edges down": functional.conv2d(image, down, padding=1),
        "blur 5x5": functional.conv2d(image, blur, padding=2),
        "edges, dilation 3": functional.conv2d(image, across, padding=3, dilation=3),
        "blur, stride 4": functional.conv2d(image, blur, stride=4, padding=2),
        "max pool 4": pooled,
        "average pool 4": functional.avg_pool2d(image, 4),
        "max pool, unpooled": functional.max_unpool2d(pooled, places, 4),
        "nearest, back from 8 x 8": functional.interpolate(pooled, scale_factor=4),
        "transposed 5x5, stride 4": functional.conv_transpose2d(
            pooled, blur, stride=4, padding=1, output_padding=1
        ),
        "transposed 8x8, stride 4": functional.conv_transpose2d(pooled, tent, stride=4, padding=2),
    }


def seen_pixels(stack: nn.Module, draws: int) -> Any:
    """[32, 32]: how much the output in the middle depends on each pixel, the mean of many nets."""
    x = gc.observed("x", (1, 1, 32, 32))
    out = stack(x)
    slope = gc.compile([x], (ops.abs(gc.grad(out[0, 0, *(n // 2 for n in out.shape[2:])], x)), out))
    total = np.zeros((32, 32))
    generator = np.random.default_rng(0)
    for _ in range(draws):
        for parameter in stack.parameters():
            parameter.set(generator.standard_normal(parameter.shape).astype(np.float32))
        total += slope(np.zeros((1, 1, 32, 32), np.float32))[0][0, 0]
    return total / draws, out.shape[2:]


def outline(stack: nn.Module, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Rows and columns of the image that the output in the middle sees."""
    field = gc.receptive_field(stack)
    axes = zip(shape, field.stride, field.start, strict=True)
    first = [n // 2 * stride + start for n, stride, start in axes]
    return tuple(slice(max(a, 0), a + size) for a, size in zip(first, field.size, strict=True))


@click.command()
@click.option("--out", default="demo-output/convolution", help="where the picture goes")
@click.option("--quick", is_flag=True, help="fewer draws of the weights")
def main(out: str, quick: bool) -> None:
    """Filter a digit, then compare two ways to find what an output sees."""
    gc.manual_seed(0)
    small = load_images()[0][3].reshape(1, 1, 8, 8)
    x = gc.observed("x", small.shape)
    larger = functional.interpolate(x, (24, 24), mode="bicubic")
    image = ops.pad(larger, [(0, 0), (0, 0), (4, 4), (4, 4)])
    figure, axes = subplots(12 + len(STACKS), "a digit, and what an output sees", columns=4)
    for place, (name, array) in enumerate(gc.compile([x], filtered(image))(small).items()):
        click.echo(f"{name:28} {array.shape[2]} x {array.shape[3]}")
        if axes is not None:
            bound = np.abs(array).max()
            signed = array.min() < -0.5 * bound
            axes[place].imshow(
                array[0, 0],
                cmap="RdBu" if signed else "gray",
                vmin=-bound if signed else 0.0,
                vmax=bound,
            )
            axes[place].set_title(f"{name}: {array.shape[2]} x {array.shape[3]}", fontsize=9)
    agree = 0
    for place, (name, stack) in enumerate(STACKS.items(), 12):
        weights, shape = seen_pixels(stack, 2 if quick else 50)
        rows, columns = outline(stack, shape)
        expected = np.zeros_like(weights, bool)
        expected[rows, columns] = True
        agree += bool(((weights > 0) == expected).all())
        size = gc.receptive_field(stack).size
        click.echo(f"{name:28} an output sees {size[0]} x {size[1]} pixels")
        if axes is not None:
            axes[place].imshow(weights, cmap="magma")
            corners = [columns.start, columns.stop, columns.stop, columns.start, columns.start]
            heights = [rows.start, rows.start, rows.stop, rows.stop, rows.start]
            axes[place].plot(np.array(corners) - 0.5, np.array(heights) - 0.5, "c-", lw=1)
            axes[place].set_title(f"{name}: sees {size[0]} x {size[1]}", fontsize=9)
    for axis in axes if axes is not None else ():
        axis.set_xticks([]), axis.set_yticks([])
    click.echo(f"agree: {agree} of {len(STACKS)} receptive fields with the gradient")
    save(figure, Path(out) / "convolution.png")


if __name__ == "__main__":
    main()
