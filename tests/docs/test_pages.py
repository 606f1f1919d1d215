"""The pages keep their word: their programs run, their blocks are what is printed, links lead
somewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/TOUR.md", "docs/BLOCKS.md")

#: written by a benchmark run, not by a person
MEASURED = ("benchmarks/RESULTS.md",)


def code_blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_the_programs_of_the_readme_print_what_stands_below_them(tmp_path: Path) -> None:
    """One after another in one file, as a newcomer would paste them."""
    blocks = [(kind, text) for kind, text in code_blocks("README.md") if kind in ("python", "text")]
    program = tmp_path / "net.py"
    program.write_text("".join(text for kind, text in blocks if kind == "python"))
    expected = "".join(text for kind, text in blocks if kind == "text")
    done = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected
    assert (tmp_path / "net.svg").exists() or (tmp_path / "net.dot").exists()


def test_the_tour_is_what_is_printed(request: pytest.FixtureRequest) -> None:
    """``--update-golden`` renews the page, as ``python docs/tour.py`` does."""
    page = ROOT / "docs" / "TOUR.md"
    script = "import tour; print(tour.filled(tour.PAGE.read_text(encoding='utf-8')), end='')"
    if request.config.getoption("--update-golden"):
        subprocess.run([sys.executable, str(ROOT / "docs" / "tour.py")], check=True)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT / "docs"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hint = "the tour differs from what is printed now: python docs/tour.py renews it"
    assert done.stdout == page.read_text(encoding="utf-8"), hint


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    files = re.findall(r"`((?:graphc|ops|backends|tests|docs|examples|benchmarks)/[\w./]+)`", text)
    missing += [f for f in files if f not in MEASURED and not (ROOT / f).exists()]
    assert not missing, f"{page} speaks of {', '.join(missing)}"


def test_the_readme_names_every_knob() -> None:
    code = [*(ROOT / "graphc").glob("*.py"), *(ROOT / "graphc").glob("[!ob]*/*.py")]
    code += [*(ROOT / "ops").glob("*.py"), *(ROOT / "backends").glob("**/*.py")]
    used = {k for f in code for k in re.findall(r"GRAPHC_[A-Z]+", f.read_text(encoding="utf-8"))}
    told = set(re.findall(r"`(GRAPHC_[A-Z]+)=", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert used == told


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """As they stand there, on the README's own first program."""
    blocks = code_blocks("README.md")
    first = next(text for kind, text in blocks if kind == "python")
    (tmp_path / "net.py").write_text(first)
    commands = [
        line[2:].partition("#")[0].split()
        for kind, text in blocks
        if kind == "console"
        for line in text.splitlines()
        if line.startswith("$ graphc ")
    ]
    assert len(commands) >= 5
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
