"""Names that a person recognizes, for slots and so for kernels, their tensors and buffers."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from graphc.graph import Value, composite_of

__all__ = ["Fresh", "readable"]

#: what an operator's result is called where nothing else names it
_SPOKEN = {
    "+": "sum",
    "-": "difference",
    "*": "product",
    "/": "quotient",
    "//": "quotient",
    "%": "remainder",
    "<": "less",
    "<=": "at_most",
    "==": "equal",
    "!=": "unequal",
}


class Fresh:
    """Names that are all different, each in a constant number of tries.

    >>> fresh = Fresh()
    >>> fresh("sum"), fresh("sum"), fresh("sum_2")
    ('sum', 'sum_2', 'sum_2_2')
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def __call__(self, wanted: str) -> str:
        name, n = wanted, self._last.get(wanted, 0) + 1
        if n > 1:
            while (name := f"{wanted}_{n}") in self._last:
                n += 1
        self._last[wanted] = n
        self._last.setdefault(name, 1)
        return name


def readable(value: Value, *, inside: bool = False) -> str:
    """An identifier for a value: its name, its state's, its composite's, or (``inside`` it) its
    op's.

    ``net.0.weight`` -> ``weight``; a derivative of what ``relu`` made -> ``d_relu``.
    """
    node = value.node
    state: Any = node.attrs.get("state")
    given = value.name or getattr(state, "name", "")
    if given:
        return _identifier(given)
    segment = composite_of(node.block)[1].rpartition("/")[2].partition("#")[0]
    made = _identifier((not inside and segment) or _SPOKEN.get(node.op, node.op))
    return f"d_{made}" if node.primal is not None else made


def _identifier(name: str) -> str:
    last = [part for part in re.split(r"[./]", name) if part and not part.isdigit()]
    cleaned = re.sub(r"\W", "_", _ascii(last[-1]) if last else "value").strip("_")
    return cleaned if cleaned and not cleaned[0].isdigit() else "value"


def _ascii(name: str) -> str:
    """Kernels' texts and assemblers know no other letters: ``é`` -> ``e``, ``σ`` -> ``sigma``."""
    if name.isascii():
        return name
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    spelled = (c if c.isascii() else unicodedata.name(c, "_").split()[-1].lower() for c in letters)
    return "".join(spelled)
