"""Modules that multiply, route and expand; noise."""

from __future__ import annotations

from typing import Any

from tests.blocks.sample import Block, normal

ROWS, IN, OUT, HIDDEN, EXPERTS = 6, 3, 4, 5, 4


def _noise(name: str, *shape: int, p: float = 0.3) -> Block:
    """In mode eval the identity; what is drawn in mode train cannot be PyTorch's."""
    return Block(name, (), {"p": p}, (normal(*shape),), random=True)


def _all_gone(name: str, *shape: int) -> Block:
    return Block(name, (), {"p": 1.0}, (normal(*shape),))


def routed(torch: Any, top_k: int, capacity: int) -> Any:
    """Row by row and expert by expert, in the rows' order."""

    class Routed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"w1": (HIDDEN, IN), "w2": (OUT, HIDDEN), "b1": (HIDDEN,), "b2": (OUT,)}
            for name, size in sizes.items():
                setattr(self, name, torch.nn.Parameter(torch.randn(EXPERTS, *size)))
            self.gate = torch.nn.Linear(IN, EXPERTS, bias=False)

        def forward(self, x: Any) -> Any:
            odds = torch.softmax(self.gate(x), -1)
            best, chosen = odds.topk(top_k, -1)
            best = best / best.sum(-1, keepdim=True)
            taken, rows = [0] * EXPERTS, []
            for row in range(len(x)):
                total = torch.zeros(OUT, dtype=x.dtype)
                for share, expert in zip(best[row], chosen[row].tolist(), strict=True):
                    taken[expert] += 1
                    if taken[expert] <= capacity:
                        hidden = torch.relu(self.w1[expert] @ x[row] + self.b1[expert])
                        total = total + share * (self.w2[expert] @ hidden + self.b2[expert])
                rows.append(total)
            return torch.stack(rows)

    return Routed()


def _sparse(top_k: int, factor: float | None, capacity: int) -> Block:
    options = {"num_experts": EXPERTS, "top_k": top_k, "capacity_factor": factor}
    return Block("SparseMixtureOfExperts", (IN, HIDDEN, OUT), options, (normal(ROWS, IN),),
                 counterpart=lambda torch: routed(torch, top_k, capacity),
                 formula="a loop over rows and experts", within=1e-8)  # fmt: skip


def radial(torch: Any) -> Any:
    """The formula."""

    class Radial(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centers = torch.nn.Parameter(torch.randn(OUT, IN))
            self.log_gamma = torch.nn.Parameter(torch.randn(OUT))

        def forward(self, x: Any) -> Any:
            apart = ((x[:, None] - self.centers) ** 2).sum(-1)
            return torch.exp(-self.log_gamma.exp() * apart)

    return Radial()


def _polynomial(torch: Any, x: Any) -> Any:
    a, b, c = x.unbind(-1)
    return torch.stack([torch.ones_like(a), a, b, c, a * a, a * b, a * c, b * b, b * c, c * c], -1)


COMBINATIONS = [
    Block("Bilinear", (IN, 2, OUT), {}, (normal(ROWS, IN), normal(ROWS, 2))),
    Block("Bilinear", (IN, 2, OUT), {"bias": False}, (normal(2, ROWS, IN), normal(2, ROWS, 2))),
    _sparse(1, None, ROWS),
    _sparse(2, None, ROWS),
    _sparse(2, 1.0, 3),  # 6 rows, 2 experts each, 4 experts: some find no seat
    Block("RadialBasis", (IN, OUT), {}, (normal(ROWS, IN),), counterpart=radial,
          formula="the formula"),
    Block("PolynomialFeatures", (2,), {}, (normal(ROWS, IN),), reference=_polynomial,
          formula="the products, written out"),
    _noise("Dropout1d", 2, 3, 4),
    _noise("Dropout2d", 2, 3, 4, 2),
    _noise("Dropout3d", 2, 3, 2, 2, 2),
    _noise("AlphaDropout", 2, 3),
    _noise("FeatureAlphaDropout", 2, 3, 4),
    *(_all_gone(name, *shape) for name, shape in (
        ("Dropout1d", (3, 4)), ("Dropout2d", (2, 3, 4)), ("Dropout3d", (3, 2, 2, 2)),
        ("AlphaDropout", (2, 3)), ("FeatureAlphaDropout", (2, 3, 4)))),
    _noise("AlphaDropout", 2, 3, p=0.0),
]  # fmt: skip
