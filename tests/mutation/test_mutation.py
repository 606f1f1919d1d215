"""Whether the tests notice wrong code: seeded faults, each in a copy of the package of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphc import types
from tests.mutation.faults import FAULTS, QUICK, Fault

ROOT = Path(types.__file__).parent.parent
#: what the tests need besides the package
PARTS = ("graphc", "ops", "backends", "tests", "conftest.py", "pyproject.toml")
SECONDS = 300
MISSES_ALLOWED = 0.05

pytestmark = pytest.mark.skipif(not (ROOT / "tests").is_dir(), reason="needs a checkout")


def test_there_are_twenty_faults_and_each_is_in_one_place() -> None:
    assert len(FAULTS) >= 20
    assert len({f.name for f in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        found = (ROOT / fault.file).read_text().count(fault.old)
        assert found == 1, f"{fault.name}: {fault.file} has {fault.old!r} {found} times: adapt it"
        assert fault.old != fault.new


def _copy(target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, target / part)
    return target


def _run(
    root: Path, tests: tuple[str, ...], seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """The named tests on the package at ``root``; code 1: a test failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            *tests,
        ],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def _is_caught(fault: Fault, root: Path, seconds: float = SECONDS) -> bool:
    """Whether a test fails, the interpreter dies or nothing ends within ``seconds`` with the fault;
    the copy is left mended.
    """
    path = root / fault.file
    right = path.read_text()
    path.write_text(right.replace(fault.old, fault.new))
    try:
        done = _run(root, fault.tests, seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(right)
    nothing_ran = done.returncode in (2, 3, 4, 5) and "error" not in done.stdout.lower()
    assert not nothing_ran, f"{fault.name}: no test ran\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.returncode != 0


def test_the_copy_is_what_the_tests_import(tmp_path: Path) -> None:
    root = _copy(tmp_path / "copy")
    done = subprocess.run(
        [sys.executable, "-c", "import graphc.ops as g; print(g.__file__)"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(str(root)), done.stderr


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_fault_is_caught(name: str, tmp_path: Path) -> None:
    (fault,) = (f for f in FAULTS if f.name == name)
    root = _copy(tmp_path / "copy")
    assert _is_caught(fault, root)
    assert _run(root, fault.tests).returncode == 0, "the tests pass without the fault"


@pytest.mark.slow
def test_of_twenty_faults_nineteen_are_caught(tmp_path: Path) -> None:
    root = _copy(tmp_path / "copy")
    named = tuple(dict.fromkeys(t for f in FAULTS for t in f.tests if t.startswith("tests/")))
    start = time.monotonic()
    clean = _run(root, named, 20 * SECONDS)
    assert clean.returncode == 0, f"without a fault too:\n{clean.stdout[-3000:]}"
    hangs = max(SECONDS, 2 * (time.monotonic() - start))  # not a busy machine: all tests took half
    missed = []
    for fault in FAULTS:
        caught = _is_caught(fault, root, hangs)
        print(f"{'caught' if caught else 'MISSED'}: {fault.name}", flush=True)
        if not caught:
            missed.append(fault.name)
    assert len(missed) <= MISSES_ALLOWED * len(FAULTS), missed
