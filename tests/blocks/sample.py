"""A ``Block`` is one line of a table: what to make, what to feed it, what it must equal.

The tests and the page docs/BLOCKS.md are made from these lines; ``checking.py`` does what
``Block.checks`` names.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc import nn

Array = NDArray[Any]
KINKS = 10.0


@dataclass(frozen=True)
class Input:
    """How to draw one input; ``points`` replace its first elements: kinks, and numbers so large
    that an exponential overflows. At kinks (|x| <= KINKS) second derivatives are not compared.

    ``smooth`` ones are differentiated by. ``kind`` is "float", "int" or "bool".
    """

    draw: Callable[[np.random.Generator], Any]
    kind: str = "float"
    points: tuple[float, ...] = ()
    smooth: bool = True

    def array(self, rng: np.random.Generator, dtype: str) -> Array:
        """Drawn anew; floats have ``dtype``."""
        drawn = np.array(self.draw(rng))
        drawn.reshape(-1)[: len(self.points)] = self.points
        return drawn.astype({"float": dtype, "int": "int64", "bool": "bool"}[self.kind])

    @property
    def kinks(self) -> list[int]:
        """Where the kinks stand among its elements."""
        return [i for i, point in enumerate(self.points) if abs(point) <= KINKS]


def normal(*shape: int, scale: float = 1.0, points: tuple[float, ...] = ()) -> Input:
    """Normal floats, to differentiate by."""
    return Input(lambda rng: scale * rng.normal(size=shape), points=points)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, smooth: bool = True) -> Input:
    """Floats between ``low`` and ``high``."""
    return Input(lambda rng: rng.uniform(low, high, shape), smooth=smooth)


def integers(*shape: int, below: int, low: int = 0) -> Input:
    """Integers in low, ..., below - 1."""
    return Input(lambda rng: rng.integers(low, below, shape), "int", smooth=False)


def signs(*shape: int) -> Input:
    """Floats -1 and 1."""
    return Input(lambda rng: rng.choice([-1.0, 1.0], shape), smooth=False)


def array(given: Any, kind: str = "float", smooth: bool = False) -> Input:
    """These very elements."""
    return Input(lambda rng: np.array(given), kind, smooth=smooth)


def distribution(*shape: int, axis: int = 1) -> Input:
    """Positive floats of sum 1 along ``axis``."""

    def draw(rng: np.random.Generator) -> Array:
        drawn = rng.uniform(0.1, 1.0, shape)
        return drawn / drawn.sum(axis, keepdims=True)

    return Input(draw, smooth=False)


@dataclass(frozen=True)
class Weights:
    """An array among the arguments of a constructor: a state of ours, a tensor of PyTorch's."""

    data: tuple[Any, ...]

    def __repr__(self) -> str:
        return "array"


@dataclass(frozen=True)
class Block:
    """``nn.<name>(*args, **options)`` on ``inputs``, beside ``torch.nn.<name>``.

    With ``reference`` that function of (torch, tensors...) takes its place, for blocks that
    PyTorch has under another name or not at all; ``formula`` then says on the page what it is.
    ``random`` ones are compared in mode eval only. ``second=False``: PyTorch has no second
    derivative. ``lively``: noise on the parameters, where ones and zeros would hide a mistake.
    ``within`` bounds the relative error in float64. ``swept`` ones become machine code in the sweep
    only: dear ones whose like is compiled in every run.

    ``call(block, *inputs)`` says how both are called, ``their_call`` how PyTorch's is where that
    differs, and ``how`` what to call it on the page. ``counterpart(torch)`` makes the module to
    compare with where PyTorch has none of that name: its parameters are named and ordered alike.
    """

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    reference: Callable[..., Any] | None = None
    formula: str = ""
    random: bool = False
    second: bool = True
    lively: bool = False
    within: float = 1e-9
    call: Callable[..., Any] | None = None
    their_call: Callable[..., Any] | None = None
    how: str = ""
    counterpart: Callable[[Any], Any] | None = None
    swept: bool = False

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})" + (f" {self.how}" if self.how else "")

    @property
    def arguments(self) -> str:
        """As a person would write them."""
        named = [f"{k}={v!r}" for k, v in self.options.items()]
        return ", ".join([*map(repr, self.args), *named])

    @property
    def is_function(self) -> bool:
        """Whether it is a function of ``nn.functional``: its name is in lower case."""
        return self.name.islower()

    @property
    def seed(self) -> int:
        """A fixed number of its own."""
        return zlib.crc32(str(self).encode())

    def arrays(self, dtype: str) -> list[Array]:
        """Its inputs."""
        rng = np.random.default_rng(self.seed)
        return [given.array(rng, dtype) for given in self.inputs]

    def ours(self, dtype: str) -> Callable[..., Any]:
        """graphc's."""
        home = nn.functional if self.is_function else nn
        made = getattr(home, self.name)
        given = tuple(_ours(a, dtype) for a in self.args)
        options = {k: _ours(v, dtype) for k, v in self.options.items()}
        if self.is_function:
            return lambda *values: made(*values, *given, **options)
        typed = "dtype" in inspect.signature(made).parameters
        block: Callable[..., Any] = made(*given, **options, **({"dtype": dtype} if typed else {}))
        return block

    def run(self, block: Callable[..., Any], inputs: Sequence[gc.Value]) -> list[gc.Value]:
        """The results of ours."""
        made = self.call(block, *inputs) if self.call else block(*inputs)
        return list(gc.tree.leaves(made))

    def run_theirs(self, torch: Any, block: Any, tensors: Sequence[Any]) -> list[Any]:
        """The results of PyTorch's, by those of its kernels that have second derivatives."""
        call = self.their_call or self.call
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            made = call(block, *tensors) if call else block(*tensors)
        return [tensor for tensor in gc.tree.leaves(made) if tensor is not None]

    def theirs(self, torch: Any, dtype: str) -> Callable[..., Any]:
        """PyTorch's, its parameters drawn with a fixed seed."""
        if self.reference is not None:
            known = self.reference
            return lambda *tensors: known(torch, *tensors)
        torch.manual_seed(self.seed)
        if self.counterpart is not None:
            twin: Callable[..., Any] = self.counterpart(torch).to(getattr(torch, dtype))
            return twin
        home = torch.nn.functional if self.is_function else torch.nn
        made = getattr(home, self.name)
        given = tuple(_theirs(torch, a, dtype) for a in self.args)
        options = {k: _theirs(torch, v, dtype) for k, v in self.options.items()}
        if self.is_function:
            return lambda *tensors: made(*tensors, *given, **options)
        block: Any = made(*given, **options).to(getattr(torch, dtype))
        if self.lively:
            with torch.no_grad():
                for tensor in block.parameters():
                    tensor.add_(0.3 * torch.randn_like(tensor))
        kept: Callable[..., Any] = block
        return kept


def swept(block: Block) -> Block:
    """The same, in the sweep only."""
    return replace(block, swept=True)


def _ours(given: Any, dtype: str) -> Any:
    return gc.state(np.array(given.data), dtype) if isinstance(given, Weights) else given


def _theirs(torch: Any, given: Any, dtype: str) -> Any:
    if isinstance(given, Weights):
        return torch.tensor(given.data, dtype=getattr(torch, dtype))
    return given
