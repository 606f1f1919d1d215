"""What must hold by mechanism and not by recognizing known programs: one native call whatever the
depth, and one kernel for any row program, also for those made up here.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim, types
from graphc.schedule import Launch, walk
from tests.acceptance.programs import Array

PACKAGE = Path(types.__file__).parent


# ---- Python frames


def _frames(layers: int, rows: int | gc.Dim) -> list[str]:
    """The Python functions entered during one training step."""
    x, y = gc.observed("x", (rows, 8)), gc.observed("y", (rows,), gc.int64)
    net = nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(8, 8), nn.ReLU())])
    loss = nn.CrossEntropyLoss()(net(x), y)
    step = gc.compile([x, y], loss, optim.Adam(lr=0.01).minimize(loss))
    at, labels = np.ones((4, 8), np.float32), np.arange(4)
    step(at, labels)
    seen: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        step(at, labels)
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("rows", [4, gc.Dim("B")], ids=str)
def test_a_step_is_one_native_call_at_any_depth(rows: int | gc.Dim) -> None:
    shallow, deep = _frames(2, rows), _frames(20, rows)
    assert shallow == deep
    assert len(deep) <= 5


# ---- one kernel each


def _shifted_exp(base: Callable[[gc.Value], gc.Value], x: gc.Value) -> gc.Value:
    e = base(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _masked(x: gc.Value) -> gc.Value:
    keep = ops.arange(x.shape[1]) <= ops.arange(x.shape[0]).reshape(-1, 1)
    return _shifted_exp(ops.exp, ops.where(keep, x, -np.inf))


def _log_softmax(x: gc.Value) -> gc.Value:
    moved = x - x.max(axis=-1, keepdims=True)
    return moved - ops.log(ops.exp(moved).sum(axis=-1, keepdims=True))


def _layer_norm(x: gc.Value) -> gc.Value:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * ops.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)


def _made_up(x: gc.Value) -> gc.Value:
    """Away from the midrange, by the root mean of the fourth powers, squashed."""
    middle = (x.max(axis=-1, keepdims=True) + x.min(axis=-1, keepdims=True)) * 0.5
    away = x - middle
    fourth = (away * away * away * away).mean(axis=-1, keepdims=True)
    return ops.tanh(away / ops.sqrt(ops.sqrt(fourth + 1e-3))) + 0.5 * middle


def _np_exp(a: Array, base: float = np.e) -> Array:
    e = base ** (a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _np_made_up(a: Array) -> Array:
    middle = (a.max(axis=-1, keepdims=True) + a.min(axis=-1, keepdims=True)) / 2
    away = a - middle
    return np.tanh(away / ((away**4).mean(axis=-1, keepdims=True) + 1e-3) ** 0.25) + middle / 2


def _np_centred(a: Array) -> Array:
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


ROWS: dict[str, tuple[Callable[[gc.Value], gc.Value], Callable[[Array], Array]]] = {
    "tempered softmax": (lambda x: _shifted_exp(ops.exp, x / 0.7), lambda a: _np_exp(a / 0.7)),
    "base-2 softmax": (lambda x: _shifted_exp(ops.exp2, x), lambda a: _np_exp(a, 2.0)),
    "masked softmax": (
        _masked,
        lambda a: _np_exp(np.where(np.tri(*a.shape, dtype=bool), a, -np.inf)),
    ),
    "log-softmax": (_log_softmax, lambda a: np.log(_np_exp(a))),
    "root mean square norm": (
        lambda x: x * ops.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6),
        lambda a: a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-6),
    ),
    "layer norm": (_layer_norm, _np_centred),
    "a norm made up here": (_made_up, _np_made_up),
    "the library's layer norm": (lambda x: nn.functional.layer_norm(x, (48,)), _np_centred),
}


def _launches(executable: gc.Executable) -> int:
    return sum(isinstance(s, Launch) for s in walk(executable.schedule.body))


@pytest.mark.parametrize("specialize", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_program_is_one_native_kernel(name: str, specialize: bool) -> None:
    program, reference = ROWS[name]
    rows = 33 if specialize else gc.Dim("R", specialize=False)
    x = gc.observed("x", (rows, 48))
    f = gc.compile([x], program(x))
    a = np.random.default_rng(5).standard_normal((33, 48)).astype(np.float32)
    np.testing.assert_allclose(f(a), reference(a.astype(np.float64)), rtol=2e-5, atol=1e-6)
    assert len(f.schedule.kernels) == _launches(f) == 1


def test_cross_entropy_with_its_gradient_is_one_native_kernel() -> None:
    x, t = gc.observed("x", (32, 10)), gc.observed("t", (32,), gc.int64)
    losses = -ops.take_along_axis(_log_softmax(x), t.reshape(-1, 1), axis=1).reshape(-1)
    f = gc.compile([x, t], [losses, gc.grad(losses.sum(), x)])
    a = np.random.default_rng(5).standard_normal((32, 10)).astype(np.float32)
    labels = np.random.default_rng(6).integers(0, 10, 32)
    got, gradient = f(a, labels)
    p = _np_exp(a.astype(np.float64))
    np.testing.assert_allclose(got, -np.log(p[np.arange(32), labels]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, p - np.eye(10)[labels], rtol=1e-5, atol=1e-6)
    assert _launches(f) == 1


def test_the_librarys_cross_entropy_with_its_gradient_is_one_native_kernel() -> None:
    x, t = gc.observed("x", (32, 10)), gc.observed("t", (32,), gc.int64)
    losses = nn.functional.cross_entropy(x, t, reduction="none")
    f = gc.compile([x, t], [losses, gc.grad(losses.sum(), x)])
    f(np.zeros((32, 10), np.float32), np.zeros(32, np.int64))
    assert _launches(f) == 1


# ---- nothing is matched by name

FORBIDDEN = re.compile(r"soft_?max|attention|norm", re.IGNORECASE)
#: words that hold "norm" and name no op
ALLOWED = re.compile(
    r"(de|sub|ab)?normal(s|ly|ize[sd]?|ized?|ization|izing)?|norm(al)?_form", re.IGNORECASE
)


def _words(text: str) -> list[str]:
    return [m.group() for m in FORBIDDEN.finditer(ALLOWED.sub("", text))]


def test_the_search_finds_what_it_looks_for() -> None:
    assert _words('if node.op == "layer_norm":') == ["norm"]
    assert _words("RMSNorm LogSoftmax flash_attention") == ["Norm", "Softmax", "attention"]
    assert _words("a denormal number in normal form, normalized") == []


@pytest.mark.parametrize("room", ["passes", "backends"])
def test_no_pass_and_no_backend_mentions_a_composite(room: str) -> None:
    """Not in code, not in a comment."""
    paths = sorted((PACKAGE / room).glob("**/*.py"))
    assert len(paths) > 10
    found = {str(p): _words(p.read_text()) for p in paths}
    assert {p: words for p, words in found.items() if words} == {}


def _code_words(path: Path) -> list[str]:
    """Forbidden words in names and strings; comments and docstrings may give examples."""
    source = path.read_text()
    bodies = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [n for n in ast.walk(ast.parse(source)) if isinstance(n, bodies)]
    first = [n.body[0] for n in documented if n.body and ast.get_docstring(n, clean=False)]
    lines = {n for d in first for n in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = (t.string for t in tokens if t.type != tokenize.COMMENT and t.start[0] not in lines)
    return [word for text in code for word in _words(text)]


def test_no_middle_level_knows_a_composite() -> None:
    paths = [*sorted(PACKAGE.glob("kernel/*.py")), PACKAGE / "compiling.py"]
    paths += [PACKAGE / "executable.py"]
    paths += [*sorted(PACKAGE.glob("nest/*.py")), *sorted(PACKAGE.glob("schedule*.py"))]
    found = {str(p): _code_words(p) for p in paths}
    assert {p: words for p, words in found.items() if words} == {}


def test_graphs_hold_no_composites() -> None:
    x = gc.observed("x", (4, 8))
    y = nn.functional.softmax(nn.functional.layer_norm(x, (8,)), -1)
    graph = gc.compile([x], y).graph
    assert not [n.op for n in graph.nodes if _words(n.op)]


# ---- the interpreters stand for nothing


def test_a_call_enters_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every oracle removed the native program still runs."""
    from graphc import interpret, schedule_interpret
    from graphc.kernel import interpret as kernel_interpret

    for module, name in (
        (interpret, "interpret"),
        (schedule_interpret, "interpret_schedule"),
        (kernel_interpret, "interpret"),
    ):
        monkeypatch.setattr(module, name, None)
    x = gc.observed("x", (4, 8))
    f = gc.compile([x], _made_up(x))
    a = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    np.testing.assert_allclose(f(a), _np_made_up(a.astype(np.float64)), rtol=2e-5, atol=1e-6)
