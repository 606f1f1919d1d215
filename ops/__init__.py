"""What can be computed: primitive ops, one record each, and the functions made of them.

Importing this package registers every op. Functions are named as in the Python array API, then as
NumPy's.
"""

if __name__ != "graphc.ops":
    raise ImportError("import it as graphc.ops: a second copy would register every op twice")

from graphc.ops import (
    arithmetic,
    branch,
    contract,
    creation,
    curves,
    custom,
    cut,
    derived,
    dynamic,
    elementwise,
    extend,
    handwritten,
    index,
    indexing,
    loop,
    movement,
    pooling,
    products,
    random,
    reduce,
    reductions,
    rematerialize,
    scatter,
    selection,
    shape,
    sorting,
    source,
)
from graphc.ops.arithmetic import *
from graphc.ops.creation import *
from graphc.ops.curves import *
from graphc.ops.derived import *
from graphc.ops.indexing import *
from graphc.ops.movement import *
from graphc.ops.pooling import *
from graphc.ops.products import *
from graphc.ops.reductions import *
from graphc.ops.selection import *

#: modules that register primitive ops
PRIMITIVES = (
    *(branch, contract, curves, custom, cut, dynamic, elementwise, extend),
    *(index, loop, random, reduce, scatter, shape, sorting, source),
    handwritten,
    rematerialize,
)

__all__ = [
    *arithmetic.__all__,
    *creation.__all__,
    *curves.__all__,
    *derived.__all__,
    *indexing.__all__,
    *movement.__all__,
    *pooling.__all__,
    *products.__all__,
    *reductions.__all__,
    *selection.__all__,
]
