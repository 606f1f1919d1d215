"""L-BFGS beside torch.optim's; conjugate gradients, Newton and Hessian-free beside NumPy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim
from graphc.optim.line_search import strong_wolfe
from tests.evaluating import step
from tests.optim.problems import PROBLEMS, Problem

Array = np.ndarray[Any, Any]
SMOOTH = [PROBLEMS[0], PROBLEMS[1]]
LBFGS: list[dict[str, Any]] = [
    {"max_iter": 1, "lr": 0.1},
    {"max_iter": 5, "lr": 0.3, "history_size": 3},
    {"max_iter": 20, "history_size": 10},
    {"max_iter": 8, "max_eval": 4, "lr": 0.5, "tolerance_change": 1e-3, "history_size": 4},
    {"line_search_fn": "strong_wolfe", "history_size": 10},
    {"line_search_fn": "strong_wolfe", "max_iter": 1, "lr": 0.1, "max_eval": 20},
    {"line_search_fn": "strong_wolfe", "max_iter": 5, "lr": 0.01, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "max_iter": 8, "lr": 30.0, "max_eval": 6},
    {"line_search_fn": "strong_wolfe", "max_iter": 8, "max_eval": 1},
    {"line_search_fn": "strong_wolfe", "max_iter": 6, "tolerance_grad": 1e-2,
     "tolerance_change": 1e-3},
]


@pytest.mark.torch
@pytest.mark.parametrize("options", LBFGS, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_lbfgs_equals_torch(problem: Problem, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in problem.start]
    theirs = torch.optim.LBFGS(tensors, **options)
    parameters = problem.parameters("float64")
    noise = gc.constant(problem.noise(0))
    updates = optim.LBFGS(**options).minimize(problem.cost(parameters, noise), wrt=parameters)
    fixed = torch.tensor(problem.noise(0))

    def closure() -> Any:
        theirs.zero_grad()
        cost = problem.cost(tensors, fixed)
        cost.backward()
        return cost

    most = 8 if "line_search_fn" in options else 50  # later, rounding has grown to be visible
    for i in range(max(2, most // options.get("max_iter", 20))):
        theirs.step(closure)
        step(updates)
        for parameter, tensor in zip(parameters, tensors, strict=True):
            wanted = tensor.detach().numpy()
            if not np.isfinite(wanted).all() or np.abs(wanted).max() > 1e6:
                return  # without a search it may run away: both do
            np.testing.assert_allclose(
                parameter.numpy(), wanted, rtol=1e-5, atol=1e-8, err_msg=f"step {i}"
            )


class Stairs:
    """In place of a Landscape: stairs for a cost, a wave for its gradient, which is not that of the
    stairs. So a search meets equal costs, and ends that are lower but not low enough.
    """

    def __init__(self, shape: Any, of: Any) -> None:
        self.shape, self.of = shape, of

    def value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        s, of = self.shape, self.of
        slope = of.cos(s[2] * x) * (1.0 + s[3] * of.abs(x))
        return (s[0] * of.round(2.0 * of.sin(s[1] * x))).sum(), slope


@pytest.mark.torch
def test_strong_wolfe_equals_torchs_search() -> None:
    """Its sizes and counts, as machine code."""
    torch = pytest.importorskip("torch")
    search = importlib.import_module("torch.optim.lbfgs")._strong_wolfe
    shape, first = gc.observed("shape", (4,), gc.float64), gc.observed("first", (), gc.float64)
    most, x = gc.observed("most", (), gc.int64), gc.constant(np.zeros(1))
    land: Any = Stairs(shape, gc.ops)
    cost, slope = land.value_and_gradient(x)
    found = strong_wolfe(land, x, -slope, first, cost, slope, most=most, going=most >= 0)
    ours = gc.compile([shape, first, most], found)
    rng, counts = np.random.default_rng(3), []
    for case in range(300):
        given = 10.0 ** rng.uniform([-5, 0, 0, -1], [0, 2, 1, 2])
        size, bound = 10.0 ** rng.uniform(-1, 2), int(rng.integers(0, 30) * rng.uniform())
        stairs, origin = Stairs(given, torch), torch.zeros(1, dtype=torch.float64)
        begin, g = stairs.value_and_gradient(origin)
        value, slope, reached, count = search(
            lambda x, t, d, s=stairs: s.value_and_gradient(x + t * d),
            origin, torch.tensor(size, dtype=torch.float64), -g, begin, g, -g.dot(g), max_ls=bound,
        )  # fmt: skip
        got = ours(given, size, bound)
        assert got.evaluations == count, case
        np.testing.assert_allclose(got.size, float(reached), rtol=1e-9, err_msg=str(case))
        np.testing.assert_allclose(got.cost, float(value), rtol=1e-12, err_msg=str(case))
        np.testing.assert_allclose(got.gradient, slope.numpy(), rtol=1e-6, atol=1e-8)
        counts.append(count)
    assert max(counts) > 20


def test_a_cost_that_is_no_number_is_too_high() -> None:
    """x - log x from 3, the first size far beyond 0: torch ends with NaN there."""
    x = gc.parameter(np.array([3.0]), gc.float64)
    opt = optim.LBFGS(100.0, line_search_fn="strong_wolfe")
    step(opt.minimize((x - gc.ops.log(x)).sum()))
    np.testing.assert_allclose(x.numpy(), [1.0], atol=1e-6)


@pytest.mark.torch
def test_a_network_follows_torch_with_strong_wolfe() -> None:
    torch = pytest.importorskip("torch")
    net = nn.Linear(3, 6, dtype="float64") >> nn.Tanh() >> nn.Linear(6, 1, dtype="float64")
    rng = np.random.default_rng(1)
    at, x = rng.normal(size=(20, 3)), gc.observed("x", (20, 3), gc.float64)
    cost = ((net(x) - gc.ops.sin(x[:, :1] * x[:, 1:2])) ** 2).mean()
    options = {"max_iter": 6, "history_size": 4, "line_search_fn": "strong_wolfe"}
    call = gc.compile([x], cost, optim.LBFGS(**options).minimize(cost))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    theirs.double().load_state_dict({k: torch.tensor(v) for k, v in net.state_dict().items()})
    optimizer, tx = torch.optim.LBFGS(theirs.parameters(), **options), torch.tensor(at)

    def closure() -> Any:
        optimizer.zero_grad()
        value = ((theirs(tx) - torch.sin(tx[:, :1] * tx[:, 1:2])) ** 2).mean()
        value.backward()
        return value

    for _ in range(5):
        np.testing.assert_allclose(call(at), optimizer.step(closure).item(), rtol=1e-7)
        for key, tensor in theirs.state_dict().items():
            np.testing.assert_allclose(net.state_dict()[key], tensor.numpy(), rtol=1e-6, atol=1e-8)


def rosenbrock(x: Array) -> tuple[float, Array, Array]:
    """Cost, gradient and Hessian of one valley, in NumPy."""
    a, b = x
    cost = (1 - a) ** 2 + 100 * (b - a * a) ** 2
    slope = np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])
    bend = np.array([[2 - 400 * (b - 3 * a * a), -400 * a], [-400 * a, 200.0]])
    return cost, slope, bend


def searched(x: Array, d: Array, size: float) -> float:
    """Armijo's halvings."""
    cost, slope, _ = rosenbrock(x)
    for _ in range(30):
        if rosenbrock(x + size * d)[0] <= cost + 1e-4 * size * (slope @ d):
            return size
        size *= 0.5
    return 0.0


def valley() -> tuple[gc.Value, gc.Value]:
    x = gc.parameter(np.array([-1.2, 1.0]), gc.float64).named("x")
    return x, (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] * x[0]) ** 2


@pytest.mark.parametrize("beta", ["fletcher_reeves", "polak_ribiere", "hestenes_stiefel"])
def test_conjugate_gradients_down_rosenbrock(beta: str) -> None:
    x, cost = valley()
    updates = optim.ConjugateGradient(beta=beta).minimize(cost)
    at, along, before = x.numpy(), np.zeros(2), np.zeros(2)
    for i in range(50):
        _, g, h = rosenbrock(at)
        share = 0.0
        if i % 2:
            turn = g - before
            below = {"hestenes_stiefel": along @ turn}.get(beta, before @ before)
            above = g @ g if beta == "fletcher_reeves" else g @ turn
            share = above / below
            share = share if beta == "fletcher_reeves" else max(share, 0.0)
        d = -g + share * along
        d = d if g @ d < 0 else -g
        bend = d @ h @ d
        at = at + searched(at, d, -(g @ d) / bend if bend > 0 else 1.0) * d
        along, before = d, g
        step(updates)
        np.testing.assert_allclose(x.numpy(), at, rtol=1e-7, err_msg=f"step {i}")


@pytest.mark.parametrize("beta", ["fletcher_reeves", "polak_ribiere", "hestenes_stiefel"])
def test_conjugate_gradients_end_a_bowl_in_n_steps(beta: str) -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    bowl, target = root @ root.T + 0.5 * np.eye(5), rng.normal(size=5)
    w = gc.parameter(np.zeros(5), gc.float64)
    r = w - gc.constant(target)
    updates = optim.ConjugateGradient(beta=beta).minimize(0.5 * (r @ gc.constant(bowl) @ r))
    for _ in range(5):
        assert np.abs(w.numpy() - target).max() > 1e-6
        step(updates)
    np.testing.assert_allclose(w.numpy(), target, atol=1e-9)


def test_newton_down_rosenbrock() -> None:
    x, cost = valley()
    opt = optim.Newton(tolerance=0.0)
    updates = opt.minimize(cost)
    at = x.numpy()
    for i in range(40):
        _, g, h = rosenbrock(at)
        if np.linalg.norm(g) < 1e-8:
            break
        if np.linalg.eigvalsh(h).min() > 0:
            d = -np.linalg.solve(h, g)
            at = at + searched(at, d, 1.0) * d
            step(updates)
            np.testing.assert_allclose(x.numpy(), at, rtol=1e-5, atol=1e-9, err_msg=f"step {i}")
        else:
            step(updates)
        at = x.numpy()
    np.testing.assert_allclose(at, [1.0, 1.0], atol=1e-9)
    assert opt.steps == i


def test_newton_in_negative_curvature_goes_down() -> None:
    w = gc.parameter(np.array([0.1, 0.5]), gc.float64)
    cost = w[1] ** 2 - w[0] ** 2 + 0.25 * w[0] ** 4  # a saddle at 0, minima at +-sqrt 2
    updates = optim.Newton().minimize(cost)
    for _ in range(25):
        step(updates)
    np.testing.assert_allclose(w.numpy(), [np.sqrt(2.0), 0.0], atol=1e-6)


def test_hessian_free_adapts_its_damping() -> None:
    x, cost = valley()
    opt = optim.HessianFree(damping=2.0, tolerance=0.0)
    updates = opt.minimize(cost)
    at, damping = x.numpy(), 2.0
    for i in range(50):
        value, g, h = rosenbrock(at)
        damped = h + damping * np.eye(2)
        if np.linalg.eigvalsh(damped).min() <= 0 or np.linalg.norm(g) < 1e-7:
            break
        d = -np.linalg.solve(damped, g)
        gained = rosenbrock(at + d)[0] - value
        ratio = gained / (g @ d + 0.5 * d @ h @ d)
        damping *= 2 / 3 if ratio > 0.75 else 1.5 if ratio < 0.25 else 1.0
        at = at + d if gained < 0 else at
        step(updates)
        np.testing.assert_allclose(x.numpy(), at, rtol=1e-6, err_msg=f"step {i}")
        np.testing.assert_allclose(opt.state_dict()["damping"], damping, rtol=1e-12)
    assert i > 10
    np.testing.assert_allclose(at, [1.0, 1.0], atol=1e-4)


def test_as_machine_code() -> None:
    """Least squares with two layers of weights in float32: each of them arrives."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(20, 3)).astype(np.float32)
    wanted = data @ np.float32([[1.0], [-2.0], [0.5]]) + 0.25
    optimizers = {
        "lbfgs": optim.LBFGS(max_iter=5, history_size=4),
        "wolfe": optim.LBFGS(max_iter=5, history_size=4, line_search_fn="strong_wolfe"),
        "cg": optim.ConjugateGradient(),
        "newton": optim.Newton(),
        "free": optim.HessianFree(damping=0.1),
    }
    weights, updates, costs = {}, optim.Updates(), {}
    for name, opt in optimizers.items():
        w, b = gc.parameter((3, 1)).named("w"), gc.parameter((1,)).named("b")
        costs[name] = ((gc.constant(data) @ w + b - gc.constant(wanted)) ** 2).mean()
        updates = updates | opt.minimize(costs[name])
        weights[name] = w, b
    call = gc.compile([], costs, updates)
    for _ in range(12):
        call()
    for name, (w, b) in weights.items():
        got = [*w.numpy().ravel(), *b.numpy()]
        np.testing.assert_allclose(got, [1.0, -2.0, 0.5, 0.25], atol=2e-3, err_msg=name)


def test_memory_is_saved() -> None:
    def made() -> tuple[gc.Value, optim.LBFGS, optim.Updates]:
        x, cost = valley()
        opt = optim.LBFGS(max_iter=3, lr=0.1, history_size=3)
        return x, opt, opt.minimize(cost)

    x, opt, updates = made()
    for _ in range(3):
        step(updates)
    kept, at = opt.state_dict(), x.numpy()
    step(updates)
    y, other, fresh = made()
    y.set(at)
    other.load_state_dict(kept)
    step(fresh)
    np.testing.assert_array_equal(y.numpy(), x.numpy())
    assert other.steps == 4
    opt.lr = 0.25
    assert opt.lr == 0.25


W, V = gc.parameter((2,)), gc.parameter((2,), gc.float64)
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: optim.LBFGS(0.0), ValueError, "lr must be > 0"),
    (lambda: optim.LBFGS(max_iter=0), ValueError, "at least 1"),
    (lambda: optim.LBFGS(line_search_fn="armijo"), ValueError, "None or 'strong_wolfe'"),
    (lambda: optim.ConjugateGradient(beta="dai"), ValueError, "beta is one of"),
    (lambda: optim.Newton(damping=-1.0), ValueError, "damping must be >= 0"),
    (lambda: optim.HessianFree(cg_iterations=0), ValueError, "at least 1"),
    (lambda: optim.Newton().updates([W], [W]), gc.StateError, r"say minimize\(cost\)"),
    (lambda: optim.Newton().minimize(gc.observed("x", ()) ** 2), gc.GradError, "no parameter"),
    (lambda: optim.Newton().minimize((W * W).sum(), wrt=[W * 1.0]), Exception, "no parameter"),
    (lambda: optim.Newton().minimize((W * W).sum() + (V * V).sum().astype(gc.float32)),
     gc.StateError, "need one type"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_one_set_of_parameters() -> None:
    opt = optim.Newton()
    opt.minimize((W * W).sum())
    opt.minimize((W * W).sum() * 2.0)
    with pytest.raises(gc.StateError, match="belongs to other parameters"):
        opt.minimize((gc.parameter((2,)) ** 2).sum())
