"""What is installed is what is in the tree; importing is light; nothing of one machine is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {"graphc": "graphc", "ops": "graphc.ops", "backends": "graphc.backends"}


def packages_in_tree() -> set[str]:
    found = set()
    for room, package in ROOMS.items():
        for init in (ROOT / room).rglob("__init__.py"):
            parts = init.relative_to(ROOT / room).parent.parts
            linked = room == "graphc" and parts[:1] in (("ops",), ("backends",))
            if not linked:
                found.add(".".join((package, *parts)))
    return found


def python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_package_list_equals_the_tree() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_tree()


def test_packages_with_code_have_an_init() -> None:
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


@pytest.mark.parametrize("room", ["ops", "backends"])
def test_rooms_are_linked_into_the_package(room: str) -> None:
    link = ROOT / "graphc" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


@pytest.mark.parametrize("room", ["ops", "backends"])
def test_rooms_refuse_to_be_imported_at_top_level(room: str) -> None:
    """``pytest ops/x.py`` or a stray path would make a second copy of every class."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )
    assert done.returncode != 0
    assert f"graphc.{room}" in done.stderr


def test_import_is_light() -> None:
    """Third parties that take long load when they are first needed."""
    loaded = json.loads(python("import graphc, sys, json; print(json.dumps(list(sys.modules)))"))
    heavy = {"triton", "torch", "llvmlite", "networkx", "graphviz", "rich", "click", "scipy"}
    assert heavy.isdisjoint({name.partition(".")[0] for name in loaded})


def test_nothing_installs_at_top_level_but_graphc() -> None:
    names = python(
        "from importlib.metadata import packages_distributions as p;"
        "print([m for m, d in p().items() if 'graphc' in d])"
    )
    assert re.sub(r"__editable___graphc\w*", "", names).replace("'', ", "").strip() in (
        "['graphc']",
        "[]",
    )


@pytest.mark.slow
def test_wheel_holds_every_module(tmp_path: Path) -> None:
    """Built without network, from a copy: the wheel has exactly the tracked modules."""
    source = tmp_path / "source"
    for file in tracked_files():
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            target.symlink_to(file.readlink())
        elif file.exists():
            target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("graphc-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {n for n in names if n.endswith(".py")}
    expected = set()
    for room, package in ROOMS.items():
        for file in (source / room).rglob("*.py"):
            path = file.relative_to(source / room)
            if not (room == "graphc" and path.parts[0] in ("ops", "backends")):
                expected.add(f"{package.replace('.', '/')}/{path.as_posix()}")
    assert modules == expected
    assert "graphc/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)


MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:home|root|work|Users|mnt|opt)/[\w.-]+"  # packaging: allow
)


def test_no_committed_file_holds_a_machine_path() -> None:
    """Paths under a home or work directory mean nothing to the next person."""
    found = []
    for file in tracked_files():
        if file.is_symlink() or not file.exists():
            continue
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) and "packaging: allow" not in line:
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_files_are_text_that_git_shows() -> None:
    crowded = [f for f in tracked_files() if f.is_file() and f.stat().st_size > 2_000_000]
    assert crowded == []
