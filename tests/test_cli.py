"""The command line on a user's file: targets found or refused with a hint, each command's work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from graphc import cli

PROGRAM = '''
import graphc as gc
from graphc import nn, optim

B = gc.Dim("B")
x = gc.observed("x", (B, 4))
y = gc.observed("y", (B,), gc.int64)
net = nn.Linear(4, 3)
logits = net(x)
loss = nn.CrossEntropyLoss()(logits, y)
step = gc.compile([x, y], loss, optim.SGD(lr=0.1).minimize(loss))
predict = gc.compile([x], {"logits": logits, "double": 2 * logits})
table = {"a": 1}
if __name__ == "__main__":
    raise SystemExit("the main part must not run")
'''


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "mlp.py"
    path.write_text(PROGRAM)
    before = list(sys.path)
    yield str(path)
    sys.path[:] = before


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="graphc")


def succeeds(*arguments: str) -> str:
    result = invoke(*arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refuses(*arguments: str) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code != 0
    return result.output


# ---- targets


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no file" in refuses("run", f"{tmp_path / 'none.py'}:step")


def test_a_missing_name_suggests_near_ones(program: str) -> None:
    said = refuses("run", f"{program}:predikt")
    assert "did you mean predict?" in said
    assert "step" in said


def test_an_ambiguous_file_lists_its_choices(program: str) -> None:
    said = refuses("explain", program)
    assert f"{program}:step" in said
    assert f"{program}:predict" in said


def test_a_file_with_one_target_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("import graphc as gc\nx = gc.observed('x', (2, 3))\n_hidden = x * 2\n")
    assert "float32[2, 3]" in succeeds("run", str(path), "--repeat", "0")


def test_a_name_of_another_kind_is_refused(program: str) -> None:
    assert "table is of type dict; this command works on Value, Executable" in refuses(
        "run", f"{program}:table"
    )


def test_an_error_of_graphc_is_a_message_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import graphc as gc\nx = gc.observed('x', (2, 3))\n"
        "y = gc.observed('y', (2, 4))\nz = x + y\n"
    )
    said = refuses("run", f"{path}:z")
    assert "ShapeError" in said
    assert "bad.py:4" in said


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("def f(:", ("cannot be imported", "SyntaxError")),
        ("import nosuch", ("line 1", "No module named 'nosuch'")),
        ("def f():\n    1 / 0\nf()", ("line 3, in <module>", "line 2, in f", "ZeroDivisionError")),
        ("raise SystemExit(3)", ("ends the program while imported (SystemExit(3))",)),
    ],
)
def test_a_broken_file_shows_its_own_lines(
    tmp_path: Path, text: str, messages: tuple[str, ...]
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    said = refuses("explain", f"{path}:x")
    assert "importlib" not in said
    assert "cli.py" not in said
    for message in messages:
        assert message in said


# ---- run


def test_run_prints_outputs_and_time(program: str) -> None:
    said = succeeds("run", f"{program}:predict", "--size", "B=5", "--repeat", "3")
    assert "['logits']: float32[5, 3]" in said
    assert "['double']: float32[5, 3]" in said
    assert "first call" in said
    assert "median of 3 more" in said


def test_run_takes_arrays_and_zeros(program: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--repeat", "0")
    from_file = succeeds("run", f"{program}:predict", *given)
    from_zeros = succeeds("run", f"{program}:predict", "--zeros", "--size", "B=2", "--repeat", "0")
    assert "float32[2, 3]" in from_file
    assert "float32[2, 3]" in from_zeros


def test_an_array_says_the_size_of_the_other_inputs(program: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 4), np.float32))
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--repeat", "0")
    assert "output: float32[]" in succeeds("run", f"{program}:step", *given)


def test_compilation_is_counted_where_it_happens(tmp_path: Path) -> None:
    path = tmp_path / "fixed.py"
    path.write_text(
        "import graphc as gc\nx = gc.observed('x', (3,))\nz = x * 2.5\n"
        "made = gc.compile([x], z)\n"
    )
    assert "compilation included" in succeeds("run", f"{path}:z")
    assert "compilation included" not in succeeds("run", f"{path}:made")


def test_a_file_of_several_arrays_is_refused(program: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((5, 4), np.float32))
    (tmp_path / "empty.npy").touch()
    for name, message in (("x.npz", "holds several arrays"), ("empty.npy", "No data left")):
        given = ("--input", f"x={tmp_path / name}")
        assert message in refuses("run", f"{program}:predict", *given)


def test_run_compiles_a_value_with_its_inputs(program: str) -> None:
    assert "output: float32[]" in succeeds("run", f"{program}:loss", "--size", "B=4")


def test_random_inputs_repeat_by_seed(tmp_path: Path) -> None:
    path = tmp_path / "id.py"
    path.write_text("import graphc as gc\nx = gc.observed('x', (3,))\nz = x * 1.0\n")
    runs = [
        succeeds("run", f"{path}:z", "--repeat", "0", "--seed", s).partition("first call")[0]
        for s in "112"
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "C=3"), "no Dim named C; there is B"),
        (("--size", "B=x"), "not a number"),
        (("--size", "B"), "not NAME=VALUE"),
        (("--input", "w=w.npy"), "no input named w; there is x"),
        (("--input", "x=nowhere.npy"), "nowhere.npy"),
        (("--input", "x=a.npy", "--input", "x=b.npy"), "x is given twice"),
        (("--size", "B=99999999999999"), "Unable to allocate"),
        (("--size", "B=99999999999999999999999"), "input x of shape"),
        (("--seed", "-1"), "-1 is not in the range"),
    ],
)
def test_bad_options_are_named(program: str, options: tuple[str, ...], message: str) -> None:
    assert message in refuses("run", f"{program}:predict", *options)


# ---- explain, draw, doctor


def test_explain_speaks_of_kernels(program: str) -> None:
    assert "kernel" in succeeds("explain", f"{program}:step")


def test_explain_names_lines_of_the_file_alone(tmp_path: Path) -> None:
    """The default generator was made by `import graphc`, whose line says nothing."""
    path = tmp_path / "noise.py"
    path.write_text("import graphc as gc\nz = gc.random.normal((64, 3))\n")
    said = succeeds("explain", f"{path}:z")
    assert "importlib" not in said
    assert "from ?" not in said
    assert "from noise.py:2" in said


@pytest.mark.parametrize("name", ["loss", "net", "step"])
def test_draw_writes_a_picture(program: str, name: str, tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    said = succeeds("draw", f"{program}:{name}", "-o", str(out))
    written = Path(said.split("wrote ")[1].split()[0])
    assert written.parent == tmp_path
    assert written.stat().st_size > 200


@pytest.mark.parametrize("level", list(cli.LEVELS))
def test_draw_at_each_level(program: str, level: str, tmp_path: Path) -> None:
    out = tmp_path / "level.svg"
    said = succeeds("draw", f"{program}:step", "--level", level, "-o", str(out))
    assert Path(said.split("wrote ")[1].split()[0]).stat().st_size > 200


def test_doctor_tells_the_machine() -> None:
    said = succeeds("doctor")
    for word in ("Python", "llvmlite", "numpy", "supported", "threads", "cache", "dot", "GPU"):
        assert word in said


def test_doctor_says_no_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.sys, "platform", "win32")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "no: graphc runs on Linux" in result.output


def test_version() -> None:
    assert "graphc" in succeeds("--version")


def test_explain_says_what_it_took_for_sizes_of_the_call(tmp_path: Path) -> None:
    path = tmp_path / "sizes.py"
    path.write_text(
        "import graphc as gc\nN, T = (gc.Dim(n, max=m, specialize=False) for n, m in"
        " (('N', None), ('T', 64)))\nz = gc.observed('x', (N, T)).sum(1)\n"
    )
    assert "only a call knows count as N = 1024, T = 64" in succeeds("explain", f"{path}:z")
