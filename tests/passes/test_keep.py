"""What is kept from call to call: which launches, when they run again, what the rules refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from graphc.backend import find_backend
from graphc.errors import BackendError, VerifyError
from graphc.schedule import Launch, Renew, Schedule, walk
from graphc.schedule_interpret import interpret_schedule
from graphc.schedule_text import parse_schedule, print_schedule
from graphc.schedule_verify import verify_schedule

ROWS, WIDTH = 64, 48
Array = np.ndarray[Any, Any]


def _given(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _normed() -> tuple[gc.Value, gc.Value, gc.Value]:
    """A product with a weight divided by its norm: x, weight and result."""
    weight = gc.parameter(_given(WIDTH, WIDTH, seed=1)).named("weight")
    x = gc.observed("x", (ROWS, WIDTH))
    return x, weight, x @ (weight / ops.sqrt((weight * weight).sum())).T


def _expected(x: Array, weight: Array) -> Array:
    w = weight.astype(np.float64)
    return x.astype(np.float64) @ (w / np.sqrt((w * w).sum())).T


def _made(run: gc.Executable) -> list[str]:
    """The kernels under renewals."""
    renewals = [s for s in run.schedule.body if isinstance(s, Renew)]
    return [s.kernel for s in walk(tuple(renewals)) if isinstance(s, Launch)]


def _ran(run: gc.Executable, *args: Array) -> set[str]:
    """The kernels under renewals that a call runs."""
    return {t.name for t in run.profile(*args).launches} & set(_made(run))


def test_work_of_parameters_alone_is_done_once() -> None:
    x, weight, y = _normed()
    run = gc.compile([x], y, backend="llvm")
    given, made = _given(ROWS, WIDTH), set(_made(run))
    assert made
    assert _ran(run, given) == made
    assert _ran(run, given) == set()
    cell = weight.node.attrs["state"]
    np.testing.assert_allclose(run(given), _expected(given, cell.numpy()), rtol=2e-5, atol=2e-6)
    cell.set(_given(WIDTH, WIDTH, seed=2))
    assert _ran(run, given) == made
    np.testing.assert_allclose(run(given), _expected(given, cell.numpy()), rtol=2e-5, atol=2e-6)


def test_what_is_between_is_not_kept() -> None:
    x, _, y = _normed()
    run = gc.compile([x], y, backend="llvm")
    kept = {b.name for b in run.schedule.of_kind("kept")}
    (renew,) = [s for s in run.schedule.body if isinstance(s, Renew)]
    outside = {n for s in run.schedule.body if isinstance(s, Launch) for n in s.inputs}
    written = {n for s in renew.body if isinstance(s, Launch) for n in s.outputs}
    assert kept == written & outside
    assert written - kept  # the norm
    assert run.memory.kept == dict.fromkeys(kept, 4 * WIDTH * WIDTH)
    said = str(run.explain())
    assert "kept from call to call, 9.0 KB, made anew when a state changes:" in said
    assert "of weight" in said


def test_the_text_says_it_and_is_read_back() -> None:
    x, weight, y = _normed()
    run = gc.compile([x], y, backend="llvm")
    text = print_schedule(run.schedule)
    assert "  renew (weight) {" in text
    again = parse_schedule(text)
    assert print_schedule(again) == text
    verify_schedule(again)
    cell = weight.node.attrs["state"]
    arrays = {"x": _given(ROWS, WIDTH), "weight": cell.numpy()}
    arrays |= dict(run.compiled.scheduled.constants)
    (found,) = interpret_schedule(again, arrays).values()
    np.testing.assert_allclose(found, _expected(arrays["x"], cell.numpy()), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("level", ["kernels", "schedule"])
def test_the_drawing_says_it(level: str, tmp_path: Path) -> None:
    x, _, y = _normed()
    path = tmp_path / ("it.dot" if level == "kernels" else "it.svg")
    gc.draw(gc.compile([x], y, backend="llvm"), path, level=level)
    assert "when weight changed" in path.read_text()


def test_weights_that_last_are_packed_for_few_rows() -> None:
    x = gc.observed("x", (ROWS, 64))
    net = nn.Linear(64, 64)
    run = gc.compile([x], net(x), backend="llvm")
    assert len(_made(run)) == 1
    given = _given(ROWS, 64)
    state = {name: a.astype(np.float64) for name, a in net.state_dict().items()}
    wanted = given.astype(np.float64) @ state["weight"].T + state["bias"]
    np.testing.assert_allclose(run(given), wanted, rtol=2e-5, atol=2e-5)


def test_a_training_step_keeps_frozen_layers_only() -> None:
    x = gc.observed("x", (256, 64))
    body, head = nn.Linear(64, 64), nn.Linear(64, 64)
    loss = (head(ops.tanh(body(x))) ** 2.0).mean()
    parameters = list(head.parameters())
    updates = optim.SGD(lr=0.1).updates(parameters, gc.grad(loss, parameters))
    step = gc.compile([x], loss, updates, backend="llvm")
    renewals = [s for s in step.schedule.body if isinstance(s, Renew)]
    cells = step.compiled.scheduled.cells
    named = {cells[name] for renew in renewals for name in renew.states}
    assert named == {body.weight.node.attrs["state"]}
    whole = gc.compile([x], loss, optim.SGD(lr=0.1).minimize(loss), backend="llvm")
    assert _made(whole) == []


def test_a_budget_for_memory_keeps_nothing() -> None:
    x, _, y = _normed()
    run = gc.compile([x], y, backend="llvm", memory_budget=1 << 20)
    assert _made(run) == []
    assert run.memory.kept == {}


def test_what_can_fail_is_done_each_time() -> None:
    table = gc.parameter(_given(5, WIDTH)).named("table")
    at = gc.state(np.zeros(ROWS, np.int64))
    x = gc.observed("x", (ROWS, WIDTH))
    taken = ops.exp(ops.take(table, at, 0)) @ _given(WIDTH, WIDTH)
    run = gc.compile([x], x + taken, backend="llvm")
    at.node.attrs["state"].set(np.full(ROWS, 9))
    for _ in range(2):
        with pytest.raises(gc.RuntimeCheckError):
            run(_given(ROWS, WIDTH))


def test_run_time_sizes_share_what_is_kept() -> None:
    rows = gc.Dim("B", specialize=False)
    x = gc.observed("x", (rows, 64))
    net = nn.Linear(64, 64)
    run = gc.compile([x], net(x), backend="llvm")
    assert len(_made(run)) == 1
    state = {name: a.astype(np.float64) for name, a in net.state_dict().items()}
    for number, count in enumerate((3, 40, 3)):
        given = _given(count, 64, seed=count)
        wanted = given.astype(np.float64) @ state["weight"].T + state["bias"]
        assert _ran(run, given) == (set() if number else set(_made(run)))
        np.testing.assert_allclose(run(given), wanted, rtol=2e-5, atol=2e-5)


def test_gpus_refuse_such_a_schedule() -> None:
    backend = find_backend("triton", "sm_90")
    with pytest.raises(BackendError, match="keep no results"):
        backend.compile(parse_schedule(_text()), states={}, constants={})


# ---- rules


def _text(
    renew: str = "renew (w) { launch twice(w -> p) }",
    rest: str = "launch twice(p -> y)",
    first: str = "",
) -> str:
    return f"""schedule rules
  argument x f32[4]
  output y f32[4]
  state w f32[4]
  state v f32[4]
  kept p f32[4]
  kept q f32[4]
  arena a f32[4]
  check 0 "negative"

kernel twice
  axes i:4
  in a f32[4]
  out b f32[4]
  u = load a[i]
  store b[i] = u + u

kernel sure
  axes i:4
  in a f32[4]
  out b f32[4]
  u = load a[i]
  check u >= 0.0 "negative"
  store b[i] = u + u

run {{
  {first}
  {renew}
  {rest}
}}"""


def test_the_rules_allow_what_is_right() -> None:
    verify_schedule(parse_schedule(_text()))
    verify_schedule(
        parse_schedule(
            _text("renew (w, v) { launch twice(w -> a) barrier launch twice(a -> p) }")
        )
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"first": "launch twice(x -> a)"}, "something comes before a renew"),
        ({"rest": "launch twice(p -> q) barrier launch twice(q -> y)"}, "kept, each time"),
        ({"rest": "launch twice(p -> y) commit launch twice(x -> w)"}, "only others write"),
        ({"renew": "renew (x) { launch twice(x -> p) }"}, "only others write"),
        ({"renew": "renew () { launch twice(w -> p) }"}, "nothing says when to renew"),
        ({"renew": "renew (w) { launch twice(x -> p) }"}, "may change without a renewal"),
        ({"renew": "renew (w) { launch twice(v -> p) }"}, "may change without a renewal"),
        ({"renew": "renew (w) { launch sure(w -> p) }"}, "only launches what cannot fail"),
        ({"renew": "renew (w) { copy w -> p }"}, "only launches what cannot fail"),
        ({"renew": "renew (w) { launch twice(w -> y) }"}, "not kept by this renew alone"),
        (
            {"renew": "renew (w) { launch twice(w -> p) } renew (v) { launch twice(v -> p) }"},
            "not kept by this renew alone",
        ),
        (
            {
                "renew": "renew (w) { launch twice(w -> a) barrier launch twice(a -> p) }",
                "rest": "launch twice(a -> y)",
            },
            "holds no value here",
        ),
        ({"renew": "", "rest": "launch twice(p -> y)"}, "holds no value here"),
        (
            {"rest": "if c { renew (w) { launch twice(w -> q) } } launch twice(p -> y)"},
            "renew inside",
        ),
    ],
)
def test_the_rules_refuse(parts: dict[str, str], message: str) -> None:
    text = _text(**parts).replace("  check 0", "  cell c bool[]\n  check 0", 1)
    with pytest.raises(VerifyError, match=message):
        verify_schedule(parse_schedule(text))


def test_an_empty_schedule_keeps_nothing() -> None:
    assert Schedule("none", ()).of_kind("kept") == ()
