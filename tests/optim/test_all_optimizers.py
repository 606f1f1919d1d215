"""Every optimizer beside torch.optim, or beside its formula in NumPy: fifty steps, three problems.

The interpreter runs all of it in float64; machine code runs all optimizers in one program, in both
types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import optim
from tests.evaluating import evaluate, step
from tests.optim.problems import PROBLEMS, Problem

STEPS = 50
Array = np.ndarray[Any, Any]
#: a formula in NumPy: (first value, rate, options) -> a function from gradients to new values
Formula = Callable[[Array, float, dict[str, Any]], Callable[[Array], Array]]

TORCH: list[tuple[str, float, dict[str, Any]]] = [
    ("SGD", 0.001, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    ("SGD", 0.001, {"momentum": 0.9, "nesterov": True}),
    ("Adam", 0.05, {"amsgrad": True, "betas": (0.8, 0.95)}),
    ("AdamW", 0.05, {"weight_decay": 0.1}),
    ("Adamax", 0.05, {}),
    ("Adamax", 0.05, {"betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("NAdam", 0.02, {}),
    ("NAdam", 0.02, {"momentum_decay": 0.1, "weight_decay": 0.1}),
    ("NAdam", 0.02, {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}),
    ("RAdam", 0.02, {}),
    ("RAdam", 0.02, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    ("RAdam", 0.02, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("RMSprop", 0.01, {}),
    ("RMSprop", 0.01, {"momentum": 0.9, "alpha": 0.9, "weight_decay": 0.01}),
    ("RMSprop", 0.01, {"centered": True, "momentum": 0.5}),
    ("Adagrad", 0.5, {}),
    ("Adagrad", 0.5, {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    ("Adadelta", 1.0, {}),
    ("Adadelta", 3.0, {"rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("ASGD", 0.001, {}),
    ("ASGD", 0.001, {"lambd": 0.1, "alpha": 1.0, "t0": 10.0, "weight_decay": 0.1}),
    ("Rprop", 0.01, {}),
    ("Rprop", 0.1, {"etas": (0.4, 1.3), "step_sizes": (1e-4, 0.2)}),
]


def _classical(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    beta, state = o.get("beta", 0.9), {"p": p, "v": np.zeros_like(p)}

    def move(g: Array) -> Array:
        v = state["v"] = beta * state["v"] - lr * g
        state["p"] = state["p"] + (beta * v - lr * g if o.get("nesterov") else v)
        return state["p"]

    return move


def _averaged(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    beta, state = o.get("beta", 0.9), {"p": p, "v": np.zeros_like(p)}

    def move(g: Array) -> Array:
        v = state["v"] = beta * state["v"] + (1 - beta) * g
        state["p"] = state["p"] - lr * (beta * v + (1 - beta) * g if o.get("nesterov") else v)
        return state["p"]

    return move


def _heavy_ball(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    held = [p, p]

    def move(g: Array) -> Array:
        held.append(held[-1] - lr * g + o.get("beta", 0.9) * (held[-1] - held[-2]))
        return held[-1]

    return move


def _gains(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    state = {"p": p, "gain": np.ones_like(p), "g": np.zeros_like(p)}
    low, high = o.get("bounds", (0.1, 10.0))

    def move(g: Array) -> Array:
        for i in np.ndindex(g.shape):
            if g[i] * state["g"][i] > 0:
                state["gain"][i] += 0.05
            elif g[i] * state["g"][i] < 0:
                state["gain"][i] *= 0.95
            state["gain"][i] = min(max(state["gain"][i], low), high)
        state["g"], state["p"] = g, state["p"] - lr * state["gain"] * g
        return state["p"]

    return move


def _lion(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    state, (a, b) = {"p": p, "m": np.zeros_like(p)}, o.get("betas", (0.9, 0.99))

    def move(g: Array) -> Array:
        shrunk = state["p"] * (1 - lr * o.get("weight_decay", 0.0))
        state["p"] = shrunk - lr * np.sign(a * state["m"] + (1 - a) * g)
        state["m"] = b * state["m"] + (1 - b) * g
        return state["p"]

    return move


def _rmsprop_nesterov(p: Array, lr: float, o: dict[str, Any]) -> Callable[[Array], Array]:
    state = {"p": p, "s": np.zeros_like(p), "b": np.zeros_like(p)}

    def move(g: Array) -> Array:
        state["s"] = 0.99 * state["s"] + 0.01 * g * g
        d = g / (np.sqrt(state["s"]) + 1e-8)
        state["b"] = 0.9 * state["b"] + d
        state["p"] = state["p"] - lr * (d + 0.9 * state["b"])
        return state["p"]

    return move


FORMULAS: list[tuple[str, float, dict[str, Any], Formula]] = [
    ("Momentum", 0.001, {}, _classical),
    ("Momentum", 0.001, {"nesterov": True, "beta": 0.8}, _classical),
    ("Momentum", 0.01, {"form": "averaged"}, _averaged),
    ("Momentum", 0.01, {"form": "averaged", "nesterov": True}, _averaged),
    ("Momentum", 0.001, {"form": "stochastic_heavy_ball", "beta": 0.7}, _heavy_ball),
    ("AdaptiveGains", 0.001, {}, _gains),
    ("AdaptiveGains", 0.001, {"bounds": (0.9, 1.2)}, _gains),
    ("Lion", 0.01, {"weight_decay": 0.1}, _lion),
    ("Lion", 0.01, {"betas": (0.5, 0.8)}, _lion),
    ("RMSprop", 0.01, {"momentum": 0.9, "nesterov": True}, _rmsprop_nesterov),
]


def torch_steps(
    torch: Any, problem: Problem, name: str, lr: float, options: dict[str, Any], dtype: str
) -> Iterator[list[Array]]:
    """The parameters after each step of torch.optim."""
    kind = getattr(torch, dtype)
    tensors = [torch.tensor(a, dtype=kind, requires_grad=True) for a in problem.start]
    optimizer = getattr(torch.optim, name)(tensors, lr=lr, **options)
    for i in range(STEPS):
        optimizer.zero_grad()
        problem.cost(tensors, torch.tensor(problem.noise(i), dtype=kind)).backward()
        optimizer.step()
        yield [t.detach().numpy().copy() for t in tensors]


def formula_steps(
    problem: Problem, lr: float, options: dict[str, Any], formula: Formula
) -> Iterator[list[Array]]:
    """The parameters after each step of a formula in NumPy, float64."""
    parameters = problem.parameters("float64")
    noise = gc.observed("noise", (2, 3), gc.float64)
    slopes = gc.grad(problem.cost(parameters, noise), parameters)
    moves = [formula(p.numpy(), lr, options) for p in parameters]
    for i in range(STEPS):
        found = evaluate(slopes, {noise: problem.noise(i)})
        new = [move(g) for move, g in zip(moves, found, strict=True)]
        for parameter, array in zip(parameters, new, strict=True):
            parameter.set(array)
        yield new


def _near(name: str) -> dict[str, float]:
    """PyTorch keeps NAdam's product of momenta and ASGD's rate in float32."""
    rough = name in ("NAdam", "ASGD")
    return {"rtol": 1e-5, "atol": 1e-7} if rough else {"rtol": 1e-8, "atol": 1e-10}


def follow(problem: Problem, optimizer: Any, wanted: Iterator[list[Array]]) -> None:
    """Ours, step by step beside what is wanted."""
    parameters = problem.parameters("float64")
    noise = gc.observed("noise", (2, 3), gc.float64)
    updates = optimizer.minimize(problem.cost(parameters, noise), wrt=parameters)
    for i, arrays in enumerate(wanted):
        step(updates, feeds={noise: problem.noise(i)})
        for parameter, array in zip(parameters, arrays, strict=True):
            near = _near(type(optimizer).__name__)
            np.testing.assert_allclose(parameter.numpy(), array, err_msg=f"step {i}", **near)


def _id(value: Any) -> str:
    return str(value)


@pytest.mark.torch
@pytest.mark.parametrize(("name", "lr", "options"), TORCH, ids=_id)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_fifty_steps_equal_torch(
    problem: Problem, name: str, lr: float, options: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    wanted = torch_steps(torch, problem, name, lr, options, "float64")
    follow(problem, getattr(optim, name)(lr, **options), wanted)


@pytest.mark.parametrize(("name", "lr", "options", "formula"), FORMULAS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_fifty_steps_equal_the_formula(
    problem: Problem, name: str, lr: float, options: dict[str, Any], formula: Formula
) -> None:
    wanted = formula_steps(problem, lr, options, formula)
    follow(problem, getattr(optim, name)(lr, **options), wanted)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_of_them_as_one_program(dtype: str) -> None:
    """Each on parameters of its own; Rosenbrock's valley, as machine code."""
    torch = pytest.importorskip("torch")
    problem, updates, held = PROBLEMS[1], optim.Updates(), []
    for name, lr, options in TORCH:
        parameters = problem.parameters(dtype)
        cost = problem.cost(parameters, None)
        updates = updates | getattr(optim, name)(lr, **options).minimize(cost, wrt=parameters)
        held.append(parameters)
    call = gc.compile([], (), updates)
    rough = {"rtol": 2e-3, "atol": 2e-4}
    every = [
        torch_steps(torch, problem, name, lr, options, dtype) for name, lr, options in TORCH
    ]
    for _ in range(STEPS):
        call()
        for spec, parameters, steps in zip(TORCH, held, every, strict=True):
            near = rough if dtype == "float32" else _near(spec[0])
            for parameter, array in zip(parameters, next(steps), strict=True):
                np.testing.assert_allclose(parameter.numpy(), array, err_msg=str(spec), **near)


def test_groups_and_saving() -> None:
    """Rates and options by name; what a new optimizer loads goes on to the same bits."""
    for name in ("Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "Lion",
                 "Momentum", "AdaptiveGains"):  # fmt: skip
        problem = PROBLEMS[1]
        parameters = problem.parameters("float64")
        cost = problem.cost(parameters, None)
        make = getattr(optim, name)
        opt = make(0.01, groups={"p1": {"lr": 0.0}})
        updates = opt.minimize(cost, wrt=parameters)
        step(updates)
        step(updates)
        if name != "Rprop":  # whose steps are kept within its bounds
            np.testing.assert_array_equal(parameters[1].numpy(), problem.start[1])
        kept, weights = opt.state_dict(), [p.numpy() for p in parameters]
        step(updates)
        wanted = [p.numpy() for p in parameters]
        for parameter, array in zip(parameters, weights, strict=True):
            parameter.set(array)
        fresh = make(0.5, groups={"p1": {"lr": 0.3}})
        fresh.load_state_dict(kept)
        step(fresh.minimize(cost, wrt=parameters))
        for parameter, array in zip(parameters, wanted, strict=True):
            np.testing.assert_array_equal(parameter.numpy(), array)


@pytest.mark.torch
def test_the_average_of_asgd_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    w = gc.parameter(np.array([1.0, -2.0]), gc.float64).named("w")
    opt = optim.ASGD(0.1, t0=3.0)
    updates = opt.minimize((w * w).sum())
    tensor = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.ASGD([tensor], 0.1, t0=3.0)
    for _ in range(12):
        step(updates)
        optimizer.zero_grad()
        (tensor**2).sum().backward()
        optimizer.step()
        wanted = optimizer.state[tensor]["ax"].numpy()
        np.testing.assert_allclose(opt.slots(w)["ax"].numpy(), wanted, rtol=1e-6)


@pytest.mark.torch
def test_swa_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    w = gc.parameter(np.array([1.0, -2.0]), gc.float64).named("w")
    swa = optim.SWA([w])
    up = optim.SGD(0.1).minimize((w * w * w).sum())
    module = torch.nn.Linear(2, 1, bias=False).double()
    module.weight.data = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    average = torch.optim.swa_utils.AveragedModel(module)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(5):
        step(up | swa.after(up))
        optimizer.zero_grad()
        (module.weight**3).sum().backward()
        optimizer.step()
        average.update_parameters(module)
    np.testing.assert_allclose(
        swa.shadow(w).numpy(), average.module.weight.detach().numpy()[0], rtol=1e-12
    )
    assert swa.n_averaged == 5
    np.testing.assert_allclose(evaluate(swa.apply(w.sum())), swa.shadow(w).numpy().sum())
    other = optim.SWA([w])
    other.load_state_dict(swa.state_dict())
    assert other.n_averaged == 5


def test_penalty() -> None:
    a, b = gc.parameter(np.array([1.0, -2.0])), gc.parameter(np.array([[3.0]]))
    cost = optim.penalty([a, b], l1=0.5, l2=0.1)
    assert evaluate(cost) == pytest.approx(0.5 * 6 + 0.05 * 14)
    np.testing.assert_allclose(evaluate(gc.grad(cost, a)), [0.6, -0.7], rtol=1e-6)
    assert evaluate(optim.penalty([a])) == 0.0


REFUSALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: optim.Momentum(form="heavy"), "form is one of classical"),
    (lambda: optim.Momentum(form="stochastic_heavy_ball", nesterov=True), "no Nesterov"),
    (lambda: optim.Momentum(beta=1.0), r"beta must be in \[0, 1\)"),
    (lambda: optim.AdaptiveGains(bounds=(2.0, 3.0)), "low <= 1 <= high"),
    (lambda: optim.Rprop(etas=(1.1, 1.2)), "etas"),
    (lambda: optim.Adagrad(initial_accumulator_value=-1.0), "initial_accumulator_value"),
    (lambda: optim.Adagrad(lr_decay=-1.0), "lr_decay must be >= 0"),
    (lambda: optim.RMSprop(nesterov=True), "momentum > 0"),
    (lambda: optim.RMSprop(alpha=1.5), r"alpha must be in \[0, 1\)"),
    (lambda: optim.Adadelta(rho=-0.1), r"rho must be in \[0, 1\)"),
    (lambda: optim.RAdam(betas=(0.9, 0.5)), "above 0.6"),
    (lambda: optim.NAdam(momentum_decay=-1.0), "momentum_decay must be >= 0"),
    (lambda: optim.Lion(betas=(1.0, 0.9)), r"betas must be in \[0, 1\)"),
    (lambda: optim.ASGD(alpha=-1.0), "lambd, alpha and t0 must be >= 0"),
    (lambda: optim.penalty([], l1=-1.0), "l1 and l2 must be >= 0"),
]


@pytest.mark.parametrize(("make", "match"), REFUSALS)
def test_refusals(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
