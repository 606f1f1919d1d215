"""Random draws: the fixed formula, what they depend on and what they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.philox import draw_bits, draw_key
from tests.evaluating import evaluate, step


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    gc.manual_seed(7)
    yield
    gc.manual_seed(0)


def site(path: str) -> int:
    return int.from_bytes(hashlib.blake2s(path.encode()).digest()[:4], "little")


def by_hand(path: str, count: int, call: int = 0, loops: tuple[int, ...] = ()) -> Any:
    """float32 uniforms by the documented formula."""
    key = draw_key((7, 0), (call, 0, site(path), 0))
    for index in loops:
        key = draw_key(key, (index, 0, 1, 0))
    return (draw_bits(key, count) >> 8).astype(np.float32) * np.float32(2.0**-24)


def test_the_formula_is_fixed_for_good() -> None:
    u = gc.random.uniform((2, 3))
    np.testing.assert_array_equal(evaluate(u).ravel(), by_hand("uniform", 6))
    n = gc.random.normal(4)
    words = by_hand("normal", 8).reshape(4, 2).astype(np.float64)
    wanted = np.sqrt(-2 * np.log1p(-words[:, 0])) * np.cos(2 * np.pi * words[:, 1])
    np.testing.assert_allclose(evaluate(n), wanted, rtol=1e-5, atol=1e-6)


def test_one_step_per_call_however_many_draws() -> None:
    a, b = gc.random.uniform(3), gc.random.uniform(3)
    for call in range(3):
        first, second = step({}, (a, b))
        np.testing.assert_array_equal(first, by_hand("uniform#1", 3, call))
        np.testing.assert_array_equal(second, by_hand("uniform#2", 3, call))
    assert gc.random.default.state()["calls"] == 3
    gc.manual_seed(7)
    np.testing.assert_array_equal(step({}, a), by_hand("uniform", 3))


def test_the_same_draw_is_the_same_numbers() -> None:
    z = gc.random.normal(5)
    a, b, moved = evaluate((z, z * 1.0, gc.substitute(z * 1.0, {gc.observed("q", ()): 1.0})))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, moved)
    x, y = gc.observed("x", (5,)), gc.observed("y", (5,))
    noisy = x + z
    feeds = {x: np.zeros(5), y: np.zeros(5)}
    one, other = evaluate((noisy, gc.substitute(noisy, {x: y})), feeds)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(evaluate(gc.grad((z * x).sum(), x), feeds), one)


def test_sites_are_named_by_modules() -> None:
    class Noise(nn.Module):
        def forward(self, x: gc.Value) -> gc.Value:
            return x + gc.random.uniform(x.shape)

    x = gc.observed("x", (2,))
    net = (Noise() >> Noise()).named("net")
    drawn = evaluate(net(x), {x: np.zeros(2)})
    wanted = by_hand("net/0/uniform", 2) + by_hand("net/1/uniform", 2)
    np.testing.assert_array_equal(drawn, wanted)
    other = gc.random.normal(7)  # an unrelated edit
    again, _ = evaluate((net(x), other), {x: np.zeros(2)})
    np.testing.assert_array_equal(again, drawn)


def test_iterations_draw_anew() -> None:
    def body(carry: gc.Value, _: None) -> Any:
        _, inner = gc.scan(lambda c, _: (c, gc.random.uniform(2)), 0.0, length=2, name="inner")
        return carry, (gc.random.uniform(2), inner)

    _, (outer, inner) = gc.scan(body, 0.0, length=3, name="outer")
    got_outer, got_inner = evaluate((outer, inner))
    for i in range(3):
        np.testing.assert_array_equal(got_outer[i], by_hand("outer/uniform", 2, 0, (i,)))
        for j in range(2):
            wanted = by_hand("outer/inner/uniform", 2, 0, (i, j))
            np.testing.assert_array_equal(got_inner[i, j], wanted)


def test_while_loops_draw_anew_and_stop() -> None:
    def body(s: Any) -> Any:
        return s[0] + 1, s[1].at[s[0]].set(gc.random.uniform(()))

    count, drawn = gc.while_loop(lambda s: s[0] < 4, body, (0, gc.ops.zeros(6)))
    assert evaluate(count) == 4
    got = evaluate(drawn)
    wanted = [by_hand("while_loop/uniform", 1, 0, (i,))[0] for i in range(4)]
    np.testing.assert_array_equal(got, [*wanted, 0, 0])


def test_gradients_see_the_same_draws() -> None:
    w = gc.observed("w", (2,))
    total, _ = gc.scan(lambda c, _: (c + (w * gc.random.normal(2)).sum(), None), 0.0, length=3)
    cost, slope = evaluate((total, gc.grad(total, w)), {w: [1.0, 1.0]})
    assert cost == pytest.approx(slope.sum(), rel=1e-5)


def test_generators_of_their_own() -> None:
    rng = gc.Rng(7)
    u, v = gc.random.uniform(3, rng=rng), gc.random.uniform(3)
    for _ in range(2):
        step({}, u)
    assert rng.state()["calls"] == 2
    assert gc.random.default.state()["calls"] == 0
    kept = rng.state()
    third = step({}, u)
    rng.load_state(kept)
    np.testing.assert_array_equal(step({}, u), third)
    rng.seed(7)
    np.testing.assert_array_equal(step({}, u), step({}, v))


def test_distributions() -> None:
    many = 40_000
    u = evaluate(gc.random.uniform(many, -1.0, 3.0))
    assert -1 <= u.min() < -0.99
    assert 2.99 < u.max() < 3
    n = evaluate(gc.random.normal(many, 2.0, 0.5))
    assert n.mean() == pytest.approx(2, abs=0.01)
    assert n.std() == pytest.approx(0.5, rel=0.02)
    b = evaluate(gc.random.bernoulli(0.3, many))
    assert b.dtype == bool
    assert b.mean() == pytest.approx(0.3, abs=0.01)
    i = evaluate(gc.random.randint(-3, 4, many))
    assert set(np.unique(i)) == set(range(-3, 4))
    p = np.array([0.1, 0.6, 0.0, 0.3])
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(p), (many, 4)).astype(np.float32)
    x = gc.observed("x", (many, 4))
    c = evaluate(gc.random.categorical(x), {x: logits})
    assert c.dtype == np.int64
    np.testing.assert_allclose(np.bincount(c, minlength=4) / many, p, atol=0.01)
    with pytest.raises(gc.ShapeError, match="randint"):
        gc.random.randint(3, 3, 4)


def test_permutations() -> None:
    x = gc.observed("x", (20, 2))
    p, q = gc.random.permutation(20), gc.random.permutation(x)
    at = np.arange(40.0).reshape(20, 2)
    order, shuffled = evaluate((p, q), {x: at})
    assert sorted(order) == list(range(20))
    assert list(order) != list(range(20))
    assert sorted(map(tuple, shuffled)) == list(map(tuple, at))


def test_dropout() -> None:
    x = gc.observed("x", (200, 50))
    at = np.ones((200, 50), np.float32)
    out = nn.Dropout(0.25)(x)
    dropped, slope = evaluate((out, gc.grad(out.sum(), x)), {x: at})
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(slope, dropped)
    np.testing.assert_array_equal(evaluate(out, {x: at}, "eval"), at)
    assert gc.random.default.state()["calls"] == 0
    assert evaluate(nn.Dropout(1.0)(x), {x: at}).max() == 0
    assert nn.Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match="p must be"):
        nn.Dropout(1.5)
