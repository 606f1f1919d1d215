"""graphc: block diagrams that differentiate, optimize and compile themselves.

The public names, nothing else. What needs the compiler, the drawing or the training loop is
imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import graphc.text  # noqa: F401 - so that graphs can print themselves
from graphc import nn, ops, optim, random, tree
from graphc.autodiff import grad, hvp, jvp, vjp
from graphc.batching import vmap
from graphc.control import cond, scan, while_loop
from graphc.custom import custom_gradient
from graphc.dsl import (
    attach_updates,
    by_mode,
    constant,
    mark,
    marked,
    observed,
    parameter,
    state,
    stop_gradient,
    substitute,
)
from graphc.errors import (
    BackendError,
    BindError,
    CacheError,
    DTypeError,
    GradError,
    GraphcError,
    KernelError,
    ModeError,
    OutOfMemoryError,
    ParseError,
    PromotionError,
    RuntimeCheckError,
    ScopeError,
    ShapeError,
    StateError,
    VerifyError,
)
from graphc.graph import Graph, Value
from graphc.handwritten import kernel
from graphc.mixed_precision import autocast
from graphc.nn.receptive_field import receptive_field
from graphc.nn.remat import remat
from graphc.random import Rng, manual_seed
from graphc.types import (
    Dim,
    bfloat16,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
    uint32,
)
from graphc.types import bool_ as bool  # noqa: A004 - gc.bool, as np.bool
from graphc.updates import Updates

if TYPE_CHECKING:
    from graphc import data as data
    from graphc import train as train
    from graphc.checkpoint import restore as restore
    from graphc.checkpoint import save as save
    from graphc.compiling import compile as compile  # noqa: A004
    from graphc.executable import Executable as Executable
    from graphc.export import load_executable as load_executable
    from graphc.files import load_arrays as load_arrays
    from graphc.files import save_arrays as save_arrays
    from graphc.text_parser import parse_graph as parse_graph

#: names imported at first use, and where they live ("" after the colon: the module itself)
_LAZY = {
    "Executable": "graphc.executable:Executable",
    "compile": "graphc.compiling:compile",
    "data": "graphc.data:",
    "draw": "graphc.draw:draw",
    "load_executable": "graphc.export:load_executable",
    "load_arrays": "graphc.files:load_arrays",
    "parse_graph": "graphc.text_parser:parse_graph",
    "restore": "graphc.checkpoint:restore",
    "save": "graphc.checkpoint:save",
    "save_arrays": "graphc.files:save_arrays",
    "train": "graphc.train:",
}

__all__ = [
    "BackendError",
    "BindError",
    "CacheError",
    "DTypeError",
    "Dim",
    "Executable",
    "GradError",
    "Graph",
    "GraphcError",
    "KernelError",
    "ModeError",
    "OutOfMemoryError",
    "ParseError",
    "PromotionError",
    "Rng",
    "RuntimeCheckError",
    "ScopeError",
    "ShapeError",
    "StateError",
    "Updates",
    "Value",
    "VerifyError",
    "attach_updates",
    "autocast",
    "bfloat16",
    "bool",
    "by_mode",
    "compile",
    "cond",
    "constant",
    "custom_gradient",
    "data",
    "draw",
    "float16",
    "float32",
    "float64",
    "grad",
    "hvp",
    "int8",
    "int32",
    "int64",
    "jvp",
    "kernel",
    "load_arrays",
    "load_executable",
    "manual_seed",
    "mark",
    "marked",
    "nn",
    "observed",
    "ops",
    "optim",
    "parameter",
    "parse_graph",
    "random",
    "receptive_field",
    "remat",
    "restore",
    "save",
    "save_arrays",
    "scan",
    "state",
    "stop_gradient",
    "substitute",
    "train",
    "tree",
    "uint8",
    "uint32",
    "vjp",
    "vmap",
    "while_loop",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}")
    module_name, _, attribute = _LAZY[name].partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, attribute) if attribute else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
