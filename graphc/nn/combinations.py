"""Modules that multiply, route and expand: bilinear and gated maps, hyper-networks, mixtures of
experts, radial basis functions, polynomial and random features.

**Tied weights** need no module: the same parameter assigned twice is one parameter under two names,
``gpt.lm_head.weight = gpt.wte.weight``. Weights computed from others: ``nn.utils.parametrize``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

from graphc import ops
from graphc.dsl import mark, parameter, state
from graphc.errors import ShapeError
from graphc.graph import Value
from graphc.nn import functional, init
from graphc.nn.layers import Linear
from graphc.nn.module import Module
from graphc.source import here
from graphc.types import Extent, float32

__all__ = [
    "Bilinear",
    "Gated",
    "HyperLinear",
    "MixtureOfExperts",
    "PolynomialFeatures",
    "RadialBasis",
    "RandomFourierFeatures",
    "RandomProjection",
    "SparseMixtureOfExperts",
    "load_balance",
]


# ---- products


class Bilinear(Module):
    """``y_k = x1^T A_k x2 + b_k``: x1 [..., in1] and x2 [..., in2] to [..., out].

    ``weight`` [out, in1, in2] and ``bias`` [out] start uniform within 1 / sqrt(in1).

    >>> import graphc as gc
    >>> Bilinear(3, 4, 5)(gc.observed("a", (2, 3)), gc.observed("b", (2, 4))).shape
    (2, 5)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: object = float32,
    ) -> None:
        _positive("Bilinear", in1_features, in2_features, out_features)
        bound = in1_features**-0.5
        draw = functools.partial(init.uniform, low=-bound, high=bound)
        shape = (out_features, in1_features, in2_features)
        self.weight = parameter(shape, dtype, init=draw)
        self.bias = parameter((out_features,), dtype, init=draw) if bias else None

    def forward(self, x1: Value, x2: Value) -> Value:
        """x1 [..., in1], x2 [..., in2], the leading axes alike -> [..., out]."""
        left, right = self.weight.shape[1:]
        if x1.shape[:-1] != x2.shape[:-1] or x1.shape[-1] != left or x2.shape[-1] != right:
            raise ShapeError(
                f"{self._own_name}: x1 is {x1.type}, x2 {x2.type}; they must be [..., {left}] and "
                f"[..., {right}], the leading axes alike",
                here(),
            )
        out = ops.einsum("...i,kij,...j->...k", x1, self.weight, x2)
        return out if self.bias is None else out + self.bias


class Gated(Module):
    """``value(x) * sigmoid(gate(x))``: one net says how much of the other's output passes.

    Dauphin et al., "Language Modeling with Gated Convolutional Networks", 2017.

    >>> import graphc as gc
    >>> Gated(gc.nn.Linear(3, 4), gc.nn.Linear(3, 4))(gc.observed("x", (2, 3))).shape
    (2, 4)
    """

    def __init__(self, value: Module, gate: Module) -> None:
        self.value, self.gate = value, gate

    def forward(self, x: Value) -> Value:
        """What both nets take -> what both nets give."""
        passed: Value = self.value(x) * ops.sigmoid(self.gate(x))
        return passed


class HyperLinear(Module):
    """``W(z) x + b(z)``: a linear map whose weights another net makes from z, for each row.

    ``hyper`` maps z [..., Z] to [..., out * in + out]. Ha, Dai, Le, "HyperNetworks", 2017.

    >>> import graphc as gc
    >>> layer = HyperLinear(3, 4, hyper=gc.nn.Linear(5, 4 * 3 + 4))
    >>> layer(gc.observed("x", (2, 3)), gc.observed("z", (2, 5))).shape
    (2, 4)
    """

    def __init__(self, in_features: int, out_features: int, hyper: Module) -> None:
        _positive("HyperLinear", in_features, out_features)
        self.in_features, self.out_features, self.hyper = in_features, out_features, hyper

    def forward(self, x: Value, z: Value) -> Value:
        """x [..., in], z [..., Z], the leading axes alike -> [..., out]."""
        made, count = self.hyper(z), self.out_features * self.in_features
        if made.shape != (*x.shape[:-1], count + self.out_features):
            raise ShapeError(
                f"{self._own_name}: hyper gives {made.type} for x {x.type}; its last axis must be "
                f"out * in + out = {count + self.out_features}",
                here(),
            )
        shape = (*x.shape[:-1], self.out_features, self.in_features)
        weight = ops.reshape(made[..., :count], shape)
        out: Value = ops.einsum("...oi,...i->...o", weight, x) + made[..., count:]
        return out


# ---- mixtures of experts


class MixtureOfExperts(Module):
    """``sum_e softmax(gate(x))_e expert_e(x)``: all experts answer, a gate weighs them.

    Jacobs, Jordan, Nowlan, Hinton, "Adaptive Mixtures of Local Experts", 1991.

    >>> import graphc as gc
    >>> experts = [gc.nn.Linear(3, 4) for _ in range(5)]
    >>> MixtureOfExperts(experts, gc.nn.Linear(3, 5))(gc.observed("x", (2, 3))).shape
    (2, 4)
    """

    def __init__(self, experts: Sequence[Module], gate: Module) -> None:
        if not experts:
            raise ValueError("MixtureOfExperts: there is no expert")
        self.experts, self.gate = list(experts), gate

    def forward(self, x: Value) -> Value:
        """What the experts take -> what they give."""
        weights = functional.softmax(self.gate(x), -1)
        if weights.shape[-1] != len(self.experts):
            raise ShapeError(
                f"{self._own_name}: the gate gives {weights.type} for {len(self.experts)} experts",
                here(),
            )
        answers = ops.stack([expert(x) for expert in self.experts], axis=-1)
        return ops.sum(answers * ops.expand_dims(weights, -2), -1)


class SparseMixtureOfExperts(Module):
    """Each row goes to the ``top_k`` of ``num_experts`` two-layer nets that a gate ranks highest::

        p = softmax(gate(x)),  (p_1, e_1) ... = top_k(p),  renormalized
        out = sum_i p_i W2_(e_i) relu(W1_(e_i) x + b1) + b2

    An expert takes at most ``capacity_factor * rows * top_k / num_experts`` rows of a call (all of
    them where that is None); the ones beyond, in the rows' order, pass it by. Rows are sent by a
    scatter and brought back by a gather, so the work is that of the experts' capacity. The
    load-balancing loss of each call is marked ``"aux_loss"``::

        loss = cross_entropy + 0.01 * sum(gc.marked(logits, "aux_loss"))

    Shazeer et al., "Outrageously Large Neural Networks", 2017; capacity and loss: Fedus, Zoph,
    Shazeer, "Switch Transformers", 2022.

    >>> import graphc as gc
    >>> layer = SparseMixtureOfExperts(3, 8, 4, num_experts=4, top_k=2)
    >>> layer(gc.observed("x", (10, 3))).shape
    (10, 4)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_experts: int,
        top_k: int = 2,
        capacity_factor: float | None = None,
        *,
        dtype: object = float32,
    ) -> None:
        _positive("SparseMixtureOfExperts", in_features, hidden_features, out_features)
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"SparseMixtureOfExperts: top_k {top_k} is not in 1..{num_experts}, the experts"
            )
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"SparseMixtureOfExperts: capacity_factor {capacity_factor}")
        self.num_experts, self.top_k, self.capacity_factor = num_experts, top_k, capacity_factor
        self.out_features = out_features
        self.gate = Linear(in_features, num_experts, bias=False, dtype=dtype)
        shapes = (num_experts, hidden_features, in_features), (num_experts, out_features,
                                                               hidden_features)  # fmt: skip
        draw = functools.partial(init.kaiming_uniform, a=math.sqrt(5.0))
        self.w1, self.w2 = (parameter(s, dtype, init=draw, batch_axes=(0,)) for s in shapes)
        self.b1, self.b2 = (parameter(shape[:2], dtype) for shape in shapes)

    def forward(self, x: Value) -> Value:
        """x [..., in] -> [..., out]."""
        rows = ops.reshape(x, (-1, x.shape[-1])) if x.ndim != 2 else x
        odds = functional.softmax(self.gate(rows), -1)
        best, chosen = ops.top_k(odds, self.top_k)
        shares = best / ops.sum(best, -1, keepdims=True)
        out = self._routed(rows, shares, chosen)
        out = mark(out, "aux_loss", load_balance(odds, chosen))
        return out if x.ndim == 2 else ops.reshape(out, (*x.shape[:-1], self.out_features))

    def _routed(self, rows: Value, shares: Value, chosen: Value) -> Value:
        """Rows [n, in] through their experts ``chosen`` [n, k]: [n, out]."""
        count, k = rows.shape[0], self.top_k
        capacity = self._capacity(count)
        expert = ops.reshape(chosen, (-1,))
        # how many before this one go to the same expert is its seat there
        going = ops.one_hot(expert, self.num_experts, expert.dtype)
        before = ops.cumulative_sum(going, 0, exclusive=True)
        seat = ops.sum(before * going, -1)
        seated = seat < capacity
        # behind all seats is one for those who have none
        place = ops.where(seated, expert * capacity + seat, self.num_experts * capacity)
        seats = ops.zeros((self.num_experts * capacity + 1, rows.shape[-1]), rows.dtype)
        sent = ops.repeat(rows, k, axis=0)
        filled = seats.at[place].add(ops.where(ops.expand_dims(seated, -1), sent, 0.0))
        inputs = ops.reshape(filled[:-1], (self.num_experts, capacity, rows.shape[-1]))
        answers = self._experts(inputs)
        flat = ops.reshape(answers, (self.num_experts * capacity, self.out_features))
        back = ops.take(flat, ops.where(seated, place, 0), 0)
        weights = ops.where(seated, ops.reshape(shares, (-1,)), 0.0)
        weighed = back * ops.expand_dims(weights, -1)
        return ops.sum(ops.reshape(weighed, (count, k, self.out_features)), 1)

    def _experts(self, inputs: Value) -> Value:
        """Each expert on its seats: [experts, capacity, in] -> [experts, capacity, out]."""
        hidden = ops.einsum("eci,ehi->ech", inputs, self.w1) + ops.expand_dims(self.b1, 1)
        out = ops.einsum("ech,eoh->eco", ops.relu(hidden), self.w2)
        return out + ops.expand_dims(self.b2, 1)

    def _capacity(self, rows: Extent) -> Extent:
        if self.capacity_factor is None:
            return rows
        if not isinstance(rows, int):
            raise ShapeError(
                f"{self._own_name}: a capacity_factor needs a known number of rows, not {rows}; "
                "without one each expert has room for all",
                here(),
            )
        return max(1, math.ceil(self.capacity_factor * rows * self.top_k / self.num_experts))

    def _describe(self) -> str:
        return f"num_experts={self.num_experts}, top_k={self.top_k}"


def load_balance(odds: Value, chosen: Value) -> Value:
    """``E sum_e f_e P_e``: f_e the share of rows that chose expert e, P_e its mean probability.

    odds [n, E], chosen [n, k]; 1 where all experts are used alike. Fedus et al. 2022.

    >>> import graphc as gc
    >>> load_balance(gc.observed("p", (9, 4)), gc.observed("e", (9, 2), gc.int64)).shape
    ()
    """
    experts = odds.shape[-1]
    if not isinstance(experts, int):
        raise ShapeError(f"load_balance: the number of experts in {odds.type} is not known", here())
    hits = ops.one_hot(ops.reshape(chosen, (-1,)), experts, odds.dtype)
    return experts * ops.sum(ops.mean(hits, 0) * ops.mean(odds, 0))


# ---- features


class RadialBasis(Module):
    """``exp(-gamma_c |x - center_c|^2)``: how near x is to each center; x [..., in] to [..., C].

    Parameters ``centers`` [C, in], standard normal at first, and ``log_gamma`` [C]. Broomhead,
    Lowe, "Multivariable Functional Interpolation and Adaptive Networks", 1988.

    >>> import graphc as gc
    >>> RadialBasis(3, 5)(gc.observed("x", (2, 3))).shape
    (2, 5)
    """

    def __init__(
        self, in_features: int, num_centers: int, gamma: float = 1.0, *, dtype: object = float32
    ) -> None:
        _positive("RadialBasis", in_features, num_centers)
        if gamma <= 0:
            raise ValueError(f"RadialBasis: gamma is positive, not {gamma}")
        self.centers = parameter((num_centers, in_features), dtype, init=init.normal)
        start = functools.partial(init.constant, value=math.log(gamma))
        self.log_gamma = parameter((num_centers,), dtype, init=start)

    def forward(self, x: Value) -> Value:
        """x [..., in] -> [..., centers]."""
        apart = ops.expand_dims(x, -2) - self.centers
        return ops.exp(-ops.exp(self.log_gamma) * ops.sum(apart * apart, -1))


class PolynomialFeatures(Module):
    """All products of up to ``degree`` of the inputs: x [..., in] to [..., features].

    The order is scikit-learn's: 1 (``include_bias``), the inputs, products of two...

    >>> import graphc as gc
    >>> PolynomialFeatures(2)(gc.observed("x", (4, 3))).shape
    (4, 10)
    """

    def __init__(
        self, degree: int = 2, interaction_only: bool = False, include_bias: bool = True
    ) -> None:
        _positive("PolynomialFeatures", degree)
        self.degree, self.interaction_only = degree, interaction_only
        self.include_bias = include_bias

    def forward(self, x: Value) -> Value:
        """x [..., in], in known -> [..., features]."""
        count = x.shape[-1]
        if not isinstance(count, int):
            raise ShapeError(f"{self._own_name}: the last axis of {x.type} is not known", here())
        choose: Any = itertools.combinations
        if not self.interaction_only:
            choose = itertools.combinations_with_replacement
        columns = [ops.ones(x.shape[:-1], x.dtype)] if self.include_bias else []
        known: dict[tuple[int, ...], Value] = {(i,): x[..., i] for i in range(count)}
        for degree in range(1, self.degree + 1):
            for term in choose(range(count), degree):
                if term not in known:
                    known[term] = known[term[:-1]] * known[term[-1:]]
                columns.append(known[term])
        return ops.stack(columns, axis=-1)

    def _describe(self) -> str:
        return f"degree={self.degree}, interaction_only={self.interaction_only}"


class RandomProjection(Module):
    """``x R``, R [in, out] fixed and normal of variance 1 / out: distances nearly stay.

    Johnson, Lindenstrauss 1984.

    >>> import graphc as gc
    >>> RandomProjection(30, 8)(gc.observed("x", (2, 30))).shape
    (2, 8)
    """

    def __init__(self, in_features: int, out_features: int, *, dtype: object = float32) -> None:
        _positive("RandomProjection", in_features, out_features)
        draw = functools.partial(init.normal, std=out_features**-0.5)
        self.projection = state((in_features, out_features), dtype, init=draw)

    def forward(self, x: Value) -> Value:
        """x [..., in] -> [..., out]."""
        return x @ self.projection


class RandomFourierFeatures(Module):
    """``sqrt(2 / D) cos(x W + b)``, W and b fixed: products of features approximate the kernel
    ``exp(-gamma |x - y|^2)``. x [..., in] to [..., D].

    Rahimi, Recht, "Random Features for Large-Scale Kernel Machines", 2007.

    >>> import graphc as gc
    >>> RandomFourierFeatures(3, 100)(gc.observed("x", (2, 3))).shape
    (2, 100)
    """

    def __init__(
        self, in_features: int, num_features: int, gamma: float = 1.0, *, dtype: object = float32
    ) -> None:
        _positive("RandomFourierFeatures", in_features, num_features)
        if gamma <= 0:
            raise ValueError(f"RandomFourierFeatures: gamma is positive, not {gamma}")
        draw = functools.partial(init.normal, std=math.sqrt(2.0 * gamma))
        self.frequencies = state((in_features, num_features), dtype, init=draw)
        turn = functools.partial(init.uniform, low=0.0, high=2.0 * math.pi)
        self.phases = state((num_features,), dtype, init=turn)

    def forward(self, x: Value) -> Value:
        """x [..., in] -> [..., num_features]."""
        scale = math.sqrt(2.0 / self.phases.cell.shape[0])
        return scale * ops.cos(x @ self.frequencies + self.phases)


def _positive(name: str, *sizes: int) -> None:
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: sizes are positive ints, not {size!r}")
