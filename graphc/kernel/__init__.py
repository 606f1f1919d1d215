"""The Kernel IR: what a kernel means, as data, text and proofs; how it runs is a Tiling's matter.

The rooms: ``terms`` (data), ``scalar_ops`` and ``monoids`` (what can be computed), ``build``,
``text``, ``verify`` and ``bounds``, ``interpret`` (the oracle), ``rewrite`` (kernel to kernels).
"""

from __future__ import annotations

from graphc.kernel.terms import Check, Kernel, KernelTensor, Scalar, SizeSymbol, Store, Term
from graphc.kernel.text import equal, parse_kernel, print_kernel

__all__ = [
    "Check",
    "Kernel",
    "KernelTensor",
    "Scalar",
    "SizeSymbol",
    "Store",
    "Term",
    "equal",
    "parse_kernel",
    "print_kernel",
]
