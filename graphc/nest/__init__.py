"""Kernel + Tiling -> loop nest, for every backend.

The kernel says what is computed, the tiling how; the nest is where they meet: a tree of steps in
the order in which they run. Values are placed by demand: each in the outermost loop in which all
its axes are open, reductions before the loop that reads them. A backend translates steps and never
looks for anything in the kernel's text. ``steps`` has the words, ``build`` places the values,
``indices`` reads addresses, ``in_place`` proves that results may lie over operands, ``text``
prints.
"""

from graphc.nest.build import build_nest
from graphc.nest.in_place import why_not_in_place
from graphc.nest.indices import Affine, affine
from graphc.nest.offsets import flat_offset, strides
from graphc.nest.steps import (
    Accumulate,
    Begin,
    Buffer,
    End,
    Fill,
    Folding,
    Keep,
    Let,
    Loop,
    Nest,
    Pass,
    Recall,
    Step,
    Tiling,
    Update,
    UpdateHeld,
    Verify,
    Write,
)
from graphc.nest.text import print_nest

__all__ = [
    "Accumulate",
    "Affine",
    "Begin",
    "Buffer",
    "End",
    "Fill",
    "Folding",
    "Keep",
    "Let",
    "Loop",
    "Nest",
    "Pass",
    "Recall",
    "Step",
    "Tiling",
    "Update",
    "UpdateHeld",
    "Verify",
    "Write",
    "affine",
    "build_nest",
    "flat_offset",
    "print_nest",
    "strides",
    "why_not_in_place",
]
