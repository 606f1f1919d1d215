"""What can be computed: primitive ops, one record each, and the functions made of them.

Importing this package registers every op. Functions are named as in the Python array API, then as NumPy's.
"""

if __name__ != "graphc.ops":
    raise ImportError("import this package as graphc.ops: a second copy would register every op twice")

from graphc.ops.elementwise import *  # noqa: E402, F403
from graphc.ops.shape import *  # noqa: E402, F403
from graphc.ops.source import *  # noqa: E402, F403
