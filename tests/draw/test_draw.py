"""``draw``: files, formats, levels, and what happens without Graphviz."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc.draw import DrawError, draw, svg
from graphc.executable import Executable
from graphc.profile import LaunchTime, Profile
from tests.draw.conftest import needs_dot
from tests.draw.programs import closed, mlp, mlp_step, primitive, schedule, tower

HOSTILE = 'a<b>&"c"\\n{|}\x01'


def parsed(path: Path) -> ElementTree.Element:
    """The root of an SVG file; raises where it is no XML."""
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def executable() -> Executable:
    graph = closed(primitive())
    made = gc.compile(graph.inputs, graph.outputs[0])
    made(np.zeros((3, 5), np.float32))
    return made


@needs_dot
@pytest.mark.parametrize("level", ["diagram", "graph", "kernels", "schedule", "executable"])
@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_every_level_in_every_format(
    level: str, ending: str, executable: Executable, tmp_path: Path
) -> None:
    executable.profile(np.zeros((3, 5), np.float32))
    path = draw(executable, tmp_path / f"picture.{ending}", level=level)
    data = path.read_bytes()
    assert data.startswith({"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])
    if ending == "svg":
        parsed(path)


@needs_dot
def test_bullets_are_round_on_one_side(tmp_path: Path) -> None:
    path = draw(primitive(), tmp_path / "cost.svg")
    paths = [p.get("d", "") for p in parsed(path).iter("{http://www.w3.org/2000/svg}path")]
    assert any(d.count("C") == 2 and d.count("L") == 2 and d.endswith("Z") for d in paths)


@pytest.mark.usefixtures("no_dot")
def test_without_dot_a_picture_is_dot_text_and_says_what_to_install(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="apt install graphviz"):
        path = draw(primitive(), tmp_path / "cost.svg")
    assert path == tmp_path / "cost.dot"
    assert "digraph" in path.read_text(encoding="utf-8")
    assert svg(primitive()) is None


@pytest.mark.usefixtures("no_dot")
def test_without_dot_charts_are_svg(executable: Executable, tmp_path: Path) -> None:
    parsed(draw(executable, tmp_path / "a.svg", level="schedule"))
    with pytest.warns(UserWarning, match="brew install graphviz"):
        path = draw(executable, tmp_path / "a.png", level="schedule")
    assert path.suffix == ".svg"
    parsed(path)


@needs_dot
def test_names_are_escaped(tmp_path: Path) -> None:
    x = gc.observed("x", (3,)).named(HOSTILE)
    y = (x * gc.parameter((3,)).named(HOSTILE)).named(HOSTILE)
    for level in ("diagram", "graph"):
        for ending in ("svg", "png", "dot"):
            path = draw(y, tmp_path / f"{level}.{ending}", level=level)
            if ending == "svg":
                assert any("a<b>&" in text for text in parsed(path).itertext())


@needs_dot
def test_backward_adds_the_gradient_of_a_cost(tmp_path: Path) -> None:
    path = draw(mlp()[1], tmp_path / "loss.svg", backward=True)
    texts = set(parsed(path).itertext())
    assert {"backward", "∂weight", "∂linear"} <= texts


def test_structures_modules_graphs_schedules(tmp_path: Path) -> None:
    net, loss = mlp()
    for number, what in enumerate(({"a": loss, "b": [tower()]}, net, mlp_step())):
        assert draw(what, tmp_path / f"{number}.dot").stat().st_size > 500
    made, _ = schedule()
    assert "scale" in draw(made, tmp_path / "k.dot", level="kernels").read_text(encoding="utf-8")
    parsed(draw(made, tmp_path / "schedule.svg"))


def test_the_memory_map_marks_its_peak(tmp_path: Path) -> None:
    from graphc.drawing.schedule import schedule_scene
    from graphc.drawing.svg import svg_text

    made, memory = schedule()
    text = svg_text(schedule_scene(made, memory))
    assert "peak 4 KB; most of it, 4 KB, from model.py:7 in forward" in text
    assert "commit: states are written from here" in text
    assert "a: f32[1024], 4 KB at" in text


def test_measured_times_are_drawn(tmp_path: Path) -> None:
    made, _ = schedule()
    times = (
        LaunchTime("scale", 0, 0, 0.0, 2e-6),
        LaunchTime("scale", 0, 1, 0.0, 1e-6),
        LaunchTime("total", 2, 0, 3e-6, 4e-6),
    )
    profile = Profile("step", times, made)
    text = draw(profile, tmp_path / "times.svg").read_text(encoding="utf-8")
    assert "4 µs measured, 2 workers, 50% busy" in text
    assert "scale: 1 µs on worker 1" in text


def test_profile_of_a_real_call(executable: Executable, tmp_path: Path) -> None:
    profile = executable.profile(np.ones((3, 5), np.float32))
    assert profile.seconds > 0
    assert sum(profile.by_kernel().values()) <= profile.seconds * 1.001 * len(profile.launches)
    assert np.isfinite(profile.result)
    events = json.loads(profile.trace(tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["name"] for e in events} == {k.name for k in executable.schedule.kernels}
    assert all(e["ph"] == "X" and e["dur"] >= 0 for e in events)


def test_code_stands_beside_the_measured_schedule(executable: Executable, tmp_path: Path) -> None:
    executable.profile(np.ones((3, 5), np.float32))
    draw(executable, tmp_path / "e.svg", level="executable")
    name = executable.schedule.kernels[0].name
    assert "define" in (tmp_path / "e_code" / f"{name}.ll").read_text(encoding="utf-8")
    assert f'href="e_code/{name}.s"' in (tmp_path / "e.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "name", "options", "message"),
    [
        (primitive, "a.jpg", {}, "ends in none of"),
        (primitive, "a.svg", {"level": "kernel"}, "is none of diagram, graph"),
        (primitive, "a.svg", {"level": "kernels"}, "compile it first"),
        (lambda: mlp()[0], "a.svg", {"level": "graph"}, "draw what it computes"),
        (lambda: schedule()[0], "a.dot", {}, "DOT does not express"),
        (lambda: 3, "a.svg", {}, "is no Value"),
        (lambda: tower(), "a.svg", {"backward": True}, "no value is a scalar cost"),
        (primitive, "missing/a.dot", {}, "cannot write"),
    ],
)
def test_what_cannot_be_drawn(
    what: object, name: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    assert callable(what)
    with pytest.raises(DrawError, match=message):
        draw(what(), tmp_path / name, **options)  # type: ignore[arg-type]


def test_an_executable_must_be_measured_first(tmp_path: Path) -> None:
    x = gc.observed("x", (3,))
    with pytest.raises(DrawError, match="has not been measured"):
        draw(gc.compile([x], x * 2.0), tmp_path / "a.svg", level="executable")


@needs_dot
def test_notebooks_show_pictures(executable: Executable) -> None:
    net, loss = mlp()
    for what in (loss, net, closed(loss), executable):
        text = what._repr_svg_()
        assert text is not None
        ElementTree.fromstring(text)


def test_the_name_is_the_function_whatever_was_imported_first(tmp_path: Path) -> None:
    import importlib

    importlib.import_module("graphc.draw")
    assert gc.draw(primitive(), tmp_path / "a.dot") == tmp_path / "a.dot"
