"""What can be computed: primitive ops, one record each, and the functions made of them.

Importing this package registers every op. Functions are named as in the Python array API, then as
NumPy's.
"""

if __name__ != "graphc.ops":
    raise ImportError("import it as graphc.ops: a second copy would register every op twice")

from graphc.ops import contract, elementwise, index, loop, random, reduce, shape, source
from graphc.ops.arithmetic import *
from graphc.ops.creation import *
from graphc.ops.indexing import *
from graphc.ops.movement import *
from graphc.ops.products import *
from graphc.ops.reductions import *
