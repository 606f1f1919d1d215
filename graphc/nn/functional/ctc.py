"""Connectionist temporal classification: labels whose places in a sequence are not known.

Graves, Fernandez, Gomez, Schmidhuber, "Connectionist Temporal Classification", 2006.
"""

from __future__ import annotations

import math

from graphc import ops
from graphc.control import scan
from graphc.dsl import stop_gradient
from graphc.errors import DTypeError, ShapeError
from graphc.graph import Value, apply
from graphc.nn.functional.pieces import known_reduction, reduced
from graphc.op import composite
from graphc.ops.lifting import lift_one
from graphc.source import here
from graphc.types import Extent, int64

__all__ = ["ctc_loss"]

#: the logarithm of what cannot be: finite, so that no derivative is NaN
_NEVER = -1e30


@composite
def ctc_loss(
    log_probs: object,
    targets: object,
    input_lengths: object,
    target_lengths: object,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Value:
    """``-log p(target)``, summed over every way to lay the labels along the sequence.

    ``log_probs`` [T, N, C] (or [T, C]) are log-probabilities; ``targets`` [N, S] labels, padded, or
    all samples' labels in a row [sum of lengths]; both lengths [N]. With the labels between blanks,
    l = (blank, y1, blank, y2, ..., blank), and log-sum-exp over what may come before::

        a[t, s] = log p[t, l[s]] + logsumexp(a[t-1, s], a[t-1, s-1], a[t-1, s-2])

    where s - 2 counts if l[s] is a label other than l[s-2]; the loss is minus the log-sum-exp of
    the last two at the end. It is infinite where the sequence is too short (``zero_infinity``: 0).
    "mean" divides each loss by its target's length first. A label outside of 0..C-1, or a
    length beyond what is given, fails the call.

    >>> import graphc as gc
    >>> x, y = gc.observed("x", (20, 4, 5)), gc.observed("y", (4, 6), gc.int64)
    >>> n, m = gc.observed("n", 4, gc.int64), gc.observed("m", 4, gc.int64)
    >>> ctc_loss(x, y, n, m).shape
    ()
    """
    known_reduction(reduction)
    log_p, given = lift_one("ctc_loss", log_probs), lift_one("ctc_loss", targets)
    steps, counts = lift_one("ctc_loss", input_lengths), lift_one("ctc_loss", target_lengths)
    single = log_p.ndim == 2
    if single:
        log_p, steps, counts = log_p[:, None], steps.reshape((1,)), counts.reshape((1,))
        given = given.reshape((1, -1))
    _check(log_p, given, steps, counts, blank)
    steps = _within(steps, log_p.shape[0])
    if given.ndim == 2:
        counts = _within(counts, given.shape[1])
    labels = given if given.ndim == 2 else _unrolled(given, counts)
    path, may_skip = _path(labels, blank)
    score = _scores(log_p, path)
    places = ops.arange(path.shape[1])

    def step(before: Value, now: tuple[Value, Value]) -> tuple[Value, None]:
        emitted, t = now
        came = _log_add(before, _later(before, 1), ops.where(may_skip, _later(before, 2), _NEVER))
        first = ops.where(places <= 1, 0.0, _NEVER).astype(log_p.dtype)  # where a path may begin
        entered = emitted + ops.where(t == 0, first, came)
        return ops.where(ops.expand_dims(t < steps, 1), entered, before), None

    start = ops.full_like(score[0], _NEVER)
    last, _ = scan(step, start, (score, ops.arange(log_p.shape[0])), name="ctc")
    end = 2 * ops.expand_dims(counts, 1)
    at_end = ops.where(places == end, last, _NEVER), ops.where(places == end - 1, last, _NEVER)
    total = ops.logsumexp(ops.concat(at_end, 1), 1)
    loss = ops.where(total > 0.5 * _NEVER, -total, 0.0 if zero_infinity else math.inf)
    if reduction == "mean":
        loss = loss / ops.maximum(counts, 1).astype(loss.dtype)
    return loss[0] if single and reduction == "none" else reduced(loss, reduction)


def _check(log_p: Value, targets: Value, steps: Value, counts: Value, blank: int) -> None:
    if log_p.ndim != 3 or targets.ndim not in (1, 2):
        raise ShapeError(
            f"ctc_loss: log_probs are [T, N, C] and targets [N, S] or [all labels]; got "
            f"{log_p.type} and {targets.type}",
            here(),
        )
    batch = log_p.shape[1:2]
    if steps.shape != batch or counts.shape != batch or targets.shape[:-1] not in ((), batch):
        raise ShapeError(
            f"ctc_loss: of {batch[0]} samples there are lengths {steps.type} and {counts.type}, "
            f"targets {targets.type}",
            here(),
        )
    if any(v.dtype.kind not in "iu" for v in (targets, steps, counts)):
        raise DTypeError("ctc_loss: targets and lengths are integers", here())
    classes = log_p.shape[2]
    if isinstance(classes, int) and not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank is one of {classes} classes, not {blank}")


def _within(lengths: Value, longest: Extent) -> Value:
    """The lengths; one outside of 0..longest fails the call."""
    return apply("gather", ops.arange(longest + 1), lengths.astype(int64), axis=0, batch_dims=0)


def _unrolled(labels: Value, counts: Value) -> Value:
    """Labels in a row, [L], as [N, L]: each sample's first, whatever behind."""
    begin = ops.cumulative_sum(counts) - counts
    place = ops.expand_dims(begin, 1) + ops.arange(labels.shape[0])
    inside = ops.minimum(place, ops.full_like(place, 0) + (labels.shape[0] - 1))
    return apply("gather", labels, inside, axis=0, batch_dims=0)


def _path(labels: Value, blank: int) -> tuple[Value, Value]:
    """Labels with blanks around each, [N, 2 S + 1], and where two steps at once are allowed."""
    whole = labels.astype(int64)
    blanks = ops.full_like(whole, blank)
    woven = ops.reshape(ops.stack([blanks, whole], 2), (whole.shape[0], -1))
    path = ops.concat([woven, blanks[:, :1]], 1)
    two_before = ops.pad(path[:, :-2], [(0, 0), (2, 0)], value=blank)
    return path, (path != blank) & (path != two_before)


def _scores(log_p: Value, path: Value) -> Value:
    """[T, N, 2 S + 1]: the log-probability of each place of the path at each time.

    Elements behind a sample's own labels may be any class; they are not on its path.
    """
    index = ops.broadcast_to(ops.expand_dims(path, 0), (log_p.shape[0], *path.shape))
    return apply("gather", log_p, index, axis=2, batch_dims=2)


def _later(a: Value, by: int) -> Value:
    """a moved ``by`` places to the right."""
    return ops.pad(a[:, :-by], [(0, 0), (by, 0)], value=_NEVER)


def _log_add(*terms: Value) -> Value:
    """log of the sum of the exps; the maximum is a constant to derivatives."""
    high = terms[0]
    for term in terms[1:]:
        high = ops.maximum(high, term)
    high = stop_gradient(high)
    total = ops.exp(terms[0] - high)
    for term in terms[1:]:
        total = total + ops.exp(term - high)
    summed: Value = high + ops.log(total)
    return summed
