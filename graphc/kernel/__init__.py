"""The Kernel IR: what a kernel means, as data, text and proofs; how it runs is a Tiling's matter.

The rooms: ``terms`` (data), ``scalar_ops`` and ``monoids`` (what can be computed), ``build``,
``text``, ``verify`` and ``bounds``, ``interpret`` (the oracle), ``rewrite`` (kernel to kernels).

``gc.kernel`` is a function, the op made of a text, which takes this package's place as an attribute
of ``graphc``. So ``from graphc.kernel import terms`` finds the package and ``import
graphc.kernel.terms as terms`` finds the function: write the first. A package that is called like a
function would hide its signature from ``help`` and from type checkers.
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
