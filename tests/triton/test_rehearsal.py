"""The tests of ``tests/gpu``, each body once on host memory: what a device will run, runs here.

``pytest tests/gpu --rehearse`` runs all their parameters. What other tests here run in the same
way (``ELSEWHERE``) waits for ``-m slow``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from tests.gpu import test_features as features
from tests.gpu import test_gpu as basics
from tests.gpu.place import Rehearsal

ELSEWHERE = {
    "test_kernel_equals_its_reference": "test_zoo.py",
    "test_sample_equals_the_reference": "test_samples.py",
    "test_training_digits_equals_the_cpu": "test_program.py",
    "test_a_replayed_graph_gives_the_same_bits": "test_program.py",
    "test_executables_of_both_backends_share_states": "test_shared_states.py",
}


def bodies() -> list[Any]:
    """Every test of a folder that needs a device, with the first of each of its parameters."""
    found = []
    for module in (basics, features):
        for name, body in vars(module).items():
            if name.startswith("test_"):
                given: dict[str, Any] = {}
                for mark in getattr(body, "pytestmark", ()):
                    given.update(first_of(*mark.args))
                marks = [pytest.mark.slow] if name in ELSEWHERE else []
                found.append(
                    pytest.param(body, given, id=name.removeprefix("test_"), marks=marks)
                )
    return found


def first_of(names: str | tuple[str, ...], values: Any) -> dict[str, Any]:
    """The first case of a ``parametrize``."""
    first = next(iter(values))
    if isinstance(names, str):
        return {names: getattr(first, "values", (first,))[0]}
    return dict(zip(names, getattr(first, "values", first), strict=True))


@pytest.mark.parametrize(("body", "given"), bodies())
def test_a_body_runs(
    body: Callable[..., None], given: dict[str, Any], device: Any, request: Any
) -> None:
    for name in inspect.signature(body).parameters:
        if name == "place":
            given = {**given, name: Rehearsal()}
        elif name not in given:
            given = {**given, name: request.getfixturevalue(name)}
    body(**given)
