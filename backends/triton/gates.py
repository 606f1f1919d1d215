"""Loops and branches that the device decides: kernels of one program that write *gates*.

A gate is a word, shut while it is not zero: what is guarded by it does nothing then. A gate inside
of a shut one (``outer``) is shut too, and the error word is the outermost. So the host need not ask
which side of a branch to launch, and asks about a loop once in a few of its turns::

    if p {A} else {B}     ->   fork(p);  A guarded by its gate;  B guarded by its gate
    while p {A}           ->   count = 0;  gate = shut;  turn(p)
                               A guarded by the gate;  turn(p);  A guarded by the gate;  turn(p) ...

``turn`` counts the turn that ends, if it was one, and opens the gate for the next or shuts it.
"""

from __future__ import annotations

from graphc.kernel.parser import parse_kernel
from graphc.kernel.terms import Kernel
from graphc.schedule import If, While
from graphc.types import DType, bool_

__all__ = ["ENDLESS", "gate_kernel"]

#: the limit of a loop without one
ENDLESS = 1 << 62

_FORK = """kernel fork
  in predicate {short}[], outer i64[]
  out then i64[], otherwise i64[]
  p = load predicate[]
  o = load outer[]
  open = o == 0
  holds = {holds}
  store then[] = where(open and holds, 0, 1)
  store otherwise[] = where(open and not holds, 0, 1)"""

_TURN = """kernel turn
  size limit 0..
  in predicate {short}[], outer i64[], gate i64[], count i64[]
  out new_gate i64[], new_count i64[]
  p = load predicate[]
  o = load outer[]
  g = load gate[]
  c = load count[]
  n = where(g == 0, c + 1, c)
  holds = {holds}
  store new_gate[] = where(o == 0 and holds and n < limit, 0, 1)
  store new_count[] = n"""


def gate_kernel(statement: While | If, dtype: DType) -> Kernel:
    """The kernel that decides a loop or a branch whose predicate is of this type.

    >>> from graphc.schedule import While
    >>> [s.name for s in gate_kernel(While("p", None, None, ()), bool_).sizes]
    ['limit']
    """
    text = _TURN if isinstance(statement, While) else _FORK
    holds = "p" if dtype is bool_ else "p != 0"
    return parse_kernel(text.format(short=dtype.short, holds=holds))
