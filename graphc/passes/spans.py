"""What comparisons of indices say of each other: each bounds one sum of atoms.

::

    i >= 16      the sum i lies in 16..
    i - j < 4    the sum i - j lies in ..3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphc.kernel.terms import Apply, Term
from graphc.passes.affine import Affine
from graphc.records import dataclass

__all__ = ["Span", "conjuncts", "negated", "span_of"]

#: op -> what it becomes where it does not hold
NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">"}


@dataclass(frozen=True)
class Span:
    """Integers from ``low`` to ``high``, both inclusive; None is without end."""

    low: int | None = None
    high: int | None = None

    @property
    def is_empty(self) -> bool:
        return self.low is not None and self.high is not None and self.low > self.high

    def both(self, other: Span) -> Span:
        """What lies in both.

        >>> Span(0, 9).both(Span(low=4))
        Span(low=4, high=9)
        """
        lows = [n for n in (self.low, other.low) if n is not None]
        highs = [n for n in (self.high, other.high) if n is not None]
        return Span(max(lows, default=None), min(highs, default=None))


def conjuncts(pred: Term) -> Iterator[Term]:
    """What must hold for ``a and b and ..``."""
    if isinstance(pred, Apply) and pred.op == "and":
        for part in pred.args:
            yield from conjuncts(part)
    else:
        yield pred


def span_of(op: str, value: Affine, order: Mapping[Term, int]) -> tuple[Affine, Span]:
    """``value op 0`` as a sum without a constant, the sign of its first atom positive, and where it
    lies.
    """
    bound = -value.constant
    span = {
        "<": Span(high=bound - 1), "<=": Span(high=bound),
        ">": Span(low=bound + 1), ">=": Span(low=bound),
    }[op]  # fmt: skip
    terms = tuple(sorted(value.terms, key=lambda item: order[item[0]]))
    if not terms or terms[0][1] > 0:
        return Affine(terms, 0), span
    turned = Span(
        None if span.high is None else -span.high, None if span.low is None else -span.low
    )
    return Affine(tuple((t, -c) for t, c in terms), 0), turned


def negated(pred: Term) -> tuple[str, tuple[Term, ...]] | None:
    """The op and operands of ``not pred``, of one comparison."""
    if not isinstance(pred, Apply) or pred.op not in NEGATED:
        return None
    return NEGATED[pred.op], pred.args
