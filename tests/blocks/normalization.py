"""Normalization: over batch, layer, instance, group; of weights."""

from __future__ import annotations

from typing import Any

from tests.blocks.sample import Block, normal


def _lively(name: str, shape: tuple[int, ...], *args: Any, **options: Any) -> Block:
    return Block(name, args, options, (normal(*shape),), lively=True)


NORMALIZATION = [
    _lively("BatchNorm1d", (6, 3), 3),
    _lively("BatchNorm1d", (4, 3, 5), 3, momentum=None, eps=1e-3),
    _lively("BatchNorm2d", (4, 3, 5, 4), 3, momentum=0.3),
    _lively("BatchNorm2d", (4, 3, 2, 2), 3, affine=False),
    _lively("BatchNorm2d", (4, 3, 2, 2), 3, track_running_stats=False, bias=False),
    _lively("BatchNorm3d", (3, 2, 2, 3, 2), 2),
    _lively("LayerNorm", (2, 3, 4), (3, 4)),
    _lively("LayerNorm", (2, 3, 4), 4, bias=False),
    _lively("LayerNorm", (2, 3, 4), 4, elementwise_affine=False, eps=0.1),
    _lively("RMSNorm", (2, 3, 4), (3, 4)),
    _lively("RMSNorm", (2, 3, 4), 4, eps=0.1, elementwise_affine=False),
    _lively("GroupNorm", (3, 6, 4, 3), 2, 6),
    _lively("GroupNorm", (3, 6, 5), 6, 6, eps=1e-2, bias=False),
    _lively("GroupNorm", (3, 4), 1, 4, affine=False),
    _lively("InstanceNorm1d", (4, 3, 5), 3),
    _lively("InstanceNorm1d", (3, 5), 3, affine=True, bias=False),
    _lively("InstanceNorm2d", (4, 3, 5, 4), 3, affine=True, track_running_stats=True),
    _lively("InstanceNorm2d", (3, 5, 4), 3, track_running_stats=True, momentum=0.4),
    _lively("InstanceNorm3d", (2, 3, 2, 3, 2), 3, eps=0.1, affine=True),
    _lively("LocalResponseNorm", (2, 5, 3), 2),
    _lively("LocalResponseNorm", (2, 5, 3, 2), 3, alpha=0.5, beta=0.5, k=2.0),
    _lively("LocalResponseNorm", (3, 7, 2), 4, alpha=1.0),
]
