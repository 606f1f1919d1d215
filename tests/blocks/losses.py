"""Losses: every reduction, weights, labels to ignore, smoothing."""

from __future__ import annotations

import math
from typing import Any

import graphc as gc
from tests.blocks.sample import (
    Block,
    Input,
    Weights,
    array,
    distribution,
    integers,
    normal,
    signs,
    uniform,
)

_PAIR = (normal(4, 5, scale=2.0), normal(4, 5, scale=2.0))
_PROBABILITIES = uniform(4, 5, low=0.02, high=0.98)
_LOGITS = normal(6, 5, scale=3.0)
_LABELS = integers(6, below=5)
_IGNORING = array([0, 3, -100, 4, 3, 2], "int")
_WEIGHTS = Weights((0.5, 2.0, 1.0, 0.25, 1.5))
_IMAGE, _PLACES = normal(2, 5, 3, 2, scale=2.0), integers(2, 3, 2, below=5)
_VECTORS = (normal(6, 4), normal(6, 4))
_THREE = (*_VECTORS, normal(6, 4))
_COUNTS = Input(lambda rng: rng.poisson(3.0, (4, 5)), smooth=False)


def _each(
    name: str, inputs: tuple[Input, ...], *, second: bool = True, **options: Any
) -> list[Block]:
    """With every reduction; the mean is the default."""
    return [
        Block(name, (), {**options, **more}, inputs, second=second)
        for more in ({}, {"reduction": "sum"}, {"reduction": "none"})
    ]


def _one(
    name: str, inputs: tuple[Input, ...], *args: Any, second: bool = True, **options: Any
) -> Block:
    return Block(name, args, options, inputs, second=second)


def _info_nce(symmetric: bool, temperature: float) -> Any:
    def formula(torch: Any, q: Any, k: Any) -> Any:
        functional = torch.nn.functional
        logits = functional.normalize(q) @ functional.normalize(k).T / temperature
        own = torch.arange(q.shape[0])
        both = functional.cross_entropy(logits, own), functional.cross_entropy(logits.T, own)
        return (both[0] + both[1]) / 2 if symmetric else both[0]

    return formula


_NCE = "its formula in torch"
_UNTIL = array([[3, 0, -1, 1], [1, -1, 2, 2], [0, 1, 2, 3]], "int")
_LENGTHS = array([9, 7, 8], "int"), array([4, 2, 0], "int")
_CTC = (normal(9, 3, 4), array([[1, 2, 2, 3], [3, 3, 1, 1], [1, 1, 1, 1]], "int"), *_LENGTHS)
_BLANK_LAST = (normal(9, 3, 4), integers(3, 4, below=3), *_LENGTHS)
_IN_A_ROW = (normal(9, 3, 4), integers(6, below=4, low=1), *_LENGTHS)
_SINGLE = (normal(9, 4), array([2, 2, 1], "int"), array(8, "int"), array(3, "int"))
_SHORT = (normal(3, 2, 4), array([[1, 1, 1], [1, 2, 3]], "int"), *[array([3, 3], "int")] * 2)


def _behind_log_softmax(block: Any, x: Any, *rest: Any) -> Any:
    """How CTC is used: PyTorch's gradient is right only behind log_softmax."""
    return block(x.log_softmax(-1) if hasattr(x, "log_softmax") else gc.ops.log_softmax(x), *rest)


_BEHIND: dict[str, Any] = {"call": _behind_log_softmax, "how": "of log_softmax"}
_ADAPTIVE = (normal(7, 12), integers(7, below=30))

LOSSES = [
    *_each("MSELoss", _PAIR),
    *_each("L1Loss", _PAIR),
    *_each("SmoothL1Loss", _PAIR),
    _one("SmoothL1Loss", _PAIR, beta=2.5),
    _one("SmoothL1Loss", _PAIR, beta=0.0),
    *_each("HuberLoss", _PAIR),
    _one("HuberLoss", _PAIR, delta=2.5),
    *_each("BCELoss", (_PROBABILITIES, uniform(4, 5, smooth=False))),
    _one("BCELoss", (_PROBABILITIES, uniform(4, 5, smooth=False)), weight=_WEIGHTS),
    *_each("BCEWithLogitsLoss", (normal(4, 5, points=(0.0, 90.0, -90.0)), uniform(4, 5))),
    _one("BCEWithLogitsLoss", (normal(4, 5), uniform(4, 5)), weight=_WEIGHTS),
    _one("BCEWithLogitsLoss", (normal(4, 5), uniform(4, 5)), pos_weight=_WEIGHTS),
    *_each("SoftMarginLoss", (normal(4, 5), signs(4, 5))),
    *_each("KLDivLoss", (normal(4, 5), uniform(4, 5, low=0.05))),
    _one("KLDivLoss", (normal(2, 2), array([[0.0, 1.0], [0.5, 0.5]])), reduction="sum"),
    _one("KLDivLoss", (normal(4, 5), normal(4, 5)), reduction="batchmean", log_target=True),
    *_each("GaussianNLLLoss", (*_PAIR, uniform(4, 5, low=0.1, high=2.0))),
    _one("GaussianNLLLoss", (*_PAIR, uniform(4, low=0.1, high=2.0)), full=True),
    _one("GaussianNLLLoss", (*_PAIR, uniform(4, 1, high=0.5)), eps=0.2),
    *_each("PoissonNLLLoss", (normal(4, 5), _COUNTS)),
    _one("PoissonNLLLoss", (uniform(4, 5, low=0.1, high=3.0), _COUNTS), log_input=False, full=True),
    *_each("CrossEntropyLoss", (_LOGITS, _LABELS)),
    *_each("CrossEntropyLoss", (_LOGITS, _IGNORING), label_smoothing=0.2, weight=_WEIGHTS),
    _one("CrossEntropyLoss", (_LOGITS, _LABELS), ignore_index=3),
    _one("CrossEntropyLoss", (_IMAGE, _PLACES), weight=_WEIGHTS),
    _one("CrossEntropyLoss", (normal(5), array(2, "int"))),
    *_each("CrossEntropyLoss", (_LOGITS, distribution(6, 5)), label_smoothing=0.1),
    *_each("NLLLoss", (_LOGITS, _IGNORING), weight=_WEIGHTS),
    _one("NLLLoss", (_IMAGE, _PLACES), ignore_index=1),
    *_each("MultiMarginLoss", (_LOGITS, _LABELS), second=False),
    _one("MultiMarginLoss", (_LOGITS, _LABELS), second=False, p=2, margin=0.5, weight=_WEIGHTS),
    *_each("MultiLabelMarginLoss", (normal(3, 4), _UNTIL), second=False),
    _one("MultiLabelMarginLoss", (normal(4), array([1, 3, -1, 0], "int")), second=False),
    *_each("MultiLabelSoftMarginLoss", (_LOGITS, uniform(6, 5))),
    _one("MultiLabelSoftMarginLoss", (_LOGITS, uniform(6, 5)), weight=_WEIGHTS),
    *_each("HingeEmbeddingLoss", (uniform(4, 5, high=3.0), signs(4, 5))),
    _one("HingeEmbeddingLoss", (uniform(4, 5, high=3.0), signs(4, 5)), margin=2.0),
    *_each("MarginRankingLoss", (*_PAIR, signs(4, 5)), margin=0.5),
    *_each("CosineEmbeddingLoss", (*_VECTORS, signs(6)), margin=0.1),
    _one("CosineEmbeddingLoss", (normal(4), normal(4), array(-1.0))),
    *_each("TripletMarginLoss", _THREE),
    _one("TripletMarginLoss", _THREE, margin=2.0, p=3, swap=True),
    _one("TripletMarginWithDistanceLoss", _THREE, swap=True),
    _one("PairwiseDistance", _VECTORS),
    _one("PairwiseDistance", _VECTORS, p=1, keepdim=True),
    _one("PairwiseDistance", _VECTORS, p=3.0),
    _one("PairwiseDistance", _VECTORS, p=math.inf),
    _one("CosineSimilarity", _VECTORS),
    _one("CosineSimilarity", (normal(2, 3, 4), normal(2, 3, 4)), dim=-1),
    _one("normalize", _VECTORS[:1]),
    _one("normalize", _VECTORS[:1], p=1.0, dim=0),
    Block("InfoNCELoss", (), {}, _VECTORS, _info_nce(False, 0.07), _NCE),
    Block("InfoNCELoss", (0.5, True), {}, _VECTORS, _info_nce(True, 0.5), _NCE),
    *[
        Block("CTCLoss", (), options, _CTC, second=False, **_BEHIND)
        for options in ({}, {"reduction": "sum"}, {"reduction": "none"})
    ],
    Block("CTCLoss", (), {"blank": 3}, _BLANK_LAST, second=False, **_BEHIND),
    Block("CTCLoss", (), {}, _IN_A_ROW, second=False, **_BEHIND),
    Block("CTCLoss", (), {}, _SINGLE, second=False, **_BEHIND),
    Block("CTCLoss", (), {"zero_infinity": True}, _SHORT, second=False, **_BEHIND),
    _one("AdaptiveLogSoftmaxWithLoss", _ADAPTIVE, 12, 30, [5, 10], div_value=2.0),
    _one("AdaptiveLogSoftmaxWithLoss", _ADAPTIVE, 12, 30, [8], head_bias=True),
]
