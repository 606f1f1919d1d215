"""Code for GPUs that are not there: looked at, written as a folder, read back, run by a mock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, ops, optim
from graphc.schedule_text import print_schedule
from tests.triton.host_driver import HostDriver

DATA = np.random.default_rng(4)
IMAGES = DATA.standard_normal((16, 12)).astype(np.float32)
LABELS = DATA.integers(0, 4, 16)


def training(**options: Any) -> tuple[gc.Executable, nn.Module]:
    gc.manual_seed(5)
    x, y = gc.observed("x", (16, 12)), gc.observed("y", (16,), gc.int64)
    net = nn.Linear(12, 20) >> nn.ReLU() >> nn.Linear(20, 4)
    logits = net(x)
    loss = nn.CrossEntropyLoss()(logits, y)
    outputs = {"loss": loss, "both": [logits, (loss * 2.0, None)]}
    updates = optim.SGD(lr=0.5).minimize(loss)
    return gc.compile([x, y], outputs, updates, name="step", **options), net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """An export of the training step for sm_90."""
    path = tmp_path_factory.mktemp("export") / "step"
    training(target="sm_90")[0].save(path)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(folder), str(tmp_path / "step")], check=True)
    return tmp_path / "step"


@pytest.mark.parametrize(
    ("target", "text"),
    [("sm_80", ".target sm_80"), ("sm_90", ".target sm_90"), ("sm_100", ".target sm_100"),
     ("gfx942", "gfx942")],
)  # fmt: skip
def test_every_target_can_be_looked_at_and_kept(target: str, text: str, tmp_path: Path) -> None:
    x = gc.observed("x", (64, 256))
    program = gc.compile([x], ops.softmax(x, -1), target=target)
    (kernel,) = program.schedule.kernels
    assert "@triton.jit" in program.source(kernel.name)
    amd = target == "gfx942"
    assert text in program.asm(kernel.name, "amdgcn" if amd else "ptx")
    assert ("s_endpgm" if amd else "EXIT") in program.asm(kernel.name)
    found = program.resources(kernel.name)
    assert found["stack"] == 0
    assert 0 < found["registers"] <= 255
    assert found["threads"] % (64 if amd else 32) == 0
    assert program.memory.peak == 0
    program.save(tmp_path / "kept")
    back = gc.load_executable(tmp_path / "kept", trust=True)
    kept = back.resources(kernel.name)
    assert kept == {name: number for name, number in found.items() if name in kept}
    assert back.asm(kernel.name) == program.asm(kernel.name)
    with pytest.raises(gc.BackendError, match=f"is compiled for {target} and cannot run here"):
        back(np.zeros((64, 256), np.float32))


def test_it_cannot_be_called_and_says_why() -> None:
    step, net = training(target="sm_90")
    before = [p.numpy() for p in net.parameters()]
    for call in (step, step.profile):
        with pytest.raises(gc.BackendError, match=r"for sm_90 and cannot run here: save\(path\)"):
            call(IMAGES, LABELS)
    with pytest.raises(gc.BackendError, match="cannot run here"):
        step(IMAGES, LABELS, out={"loss": np.zeros(()), "both": [IMAGES, (np.zeros(()), None)]})
    for parameter, old in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.numpy(), old)


def test_states_stay_usable_by_programs_that_run() -> None:
    """A program for another machine shares parameters with one for this machine."""
    x = gc.observed("x", (8, 12))
    layer = nn.Linear(12, 4)
    gc.compile([x], layer(x), target="sm_90")
    assert gc.compile([x], layer(x))(IMAGES[:8]).shape == (8, 4)


def test_a_folder_is_read_back(folder: Path) -> None:
    step, net = training(target="sm_90")
    back = gc.load_executable(folder, trust=True)
    assert repr(back) == "<exported step(x, y), train, sm_90>"
    assert back.graph.text().count("\n") == step.graph.text().count("\n")
    assert [k.name for k in back.schedule.kernels] == [k.name for k in step.schedule.kernels]
    assert back.memory.peak == step.memory.peak > 0
    for kernel in step.schedule.kernels:
        assert back.source(kernel.name) == step.source(kernel.name)
        assert back.asm(kernel.name, "ptx") == step.asm(kernel.name, "ptx")
    for name, held in zip(("weight", "bias"), net.parameters(), strict=False):
        np.testing.assert_array_equal(back.states[name].numpy(), held.numpy())
    plan = (folder / "launches.txt").read_text()
    assert plan.startswith(f"step: {len(step.schedule.kernels)} kernels for sm_90\narena of ")
    assert "\ncommit\n" in plan
    with pytest.raises(gc.BindError, match="it is one of 'asm', 'sass', 'ptx'"):
        back.asm(kernel.name, "ttir")
    with pytest.raises(gc.BackendError, match="an export keeps no ttgir"):
        back.asm(kernel.name, "ttgir")
    with pytest.raises(gc.BackendError, match="has no kernel 'none'"):
        back.source("none")


def on_mock(monkeypatch: Any, tmp_path: Path, capability: int = 90) -> HostDriver:
    from graphc.backends.triton import driver as cuda

    host = HostDriver(tmp_path)
    host.capability = capability  # type: ignore[misc]
    monkeypatch.setattr(cuda, "driver", lambda: host)
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    return host


def test_an_export_trains_as_the_cpu_does(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    device = on_mock(monkeypatch, tmp_path)
    back = gc.load_executable(folder, trust=True)
    step, net = training(backend="llvm")
    for _ in range(2):
        got, wanted = back(IMAGES, y=LABELS), step(IMAGES, LABELS)
        assert list(got) == ["loss", "both"]
        np.testing.assert_allclose(np.asarray(got["loss"]), wanted["loss"], rtol=1e-5)
        np.testing.assert_allclose(
            np.asarray(got["both"][0]), wanted["both"][0], rtol=1e-4, atol=1e-5
        )
        assert got["both"][1][1] is None
    assert sum(what[0] == "graph" for what in device.log) == 2, "one launch a step"
    np.testing.assert_allclose(
        back.states["weight"].numpy(), net.parameters()[0].numpy(), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        back(IMAGES, LABELS + 4)


def test_another_device_than_the_target_is_refused(
    folder: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    on_mock(monkeypatch, tmp_path, 80)
    back = gc.load_executable(folder, trust=True)
    with pytest.raises(gc.BackendError, match=r"cannot run here: the device has .* 8\.0"):
        back(IMAGES, LABELS)


def test_run_time_sizes_are_planned_at_the_call(monkeypatch: Any, tmp_path: Path) -> None:
    rows = gc.Dim("B", max=64, specialize=False)
    x = gc.observed("x", (rows, 12))
    gc.manual_seed(1)
    net = nn.Linear(12, 20) >> nn.Tanh() >> nn.Linear(20, 4)
    out = ops.softmax(net(x), -1)
    gc.compile([x], (out, out.sum()), target="sm_90").save(tmp_path / "sized")
    on_mock(monkeypatch, tmp_path)
    back = gc.load_executable(tmp_path / "sized", trust=True)
    with pytest.raises(gc.BindError, match="plans memory for each size"):
        _ = back.memory
    program = gc.compile([x], (out, out.sum()), backend="llvm")
    for count in (16, 7):
        got, wanted = back(IMAGES[:count]), program(IMAGES[:count])
        np.testing.assert_allclose(np.asarray(got[0]), wanted[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(got[1]), wanted[1], rtol=1e-5)


class Pair(NamedTuple):
    left: Any
    right: Any


def test_routines_loops_and_branches_are_kept(monkeypatch: Any, tmp_path: Path) -> None:
    x = gc.observed("x", (32,))
    grown, _ = gc.scan(lambda c, v: (c * 0.5 + v, c), ops.zeros(()), x)
    turned = gc.while_loop(lambda v: v < 100.0, lambda v: v * 2.0, x[0] * x[0] + 1.0)
    outputs = Pair([ops.sort(x), turned], gc.cond(x.sum() > 0, lambda: grown, lambda: -grown))
    gc.compile([x], outputs, target="sm_90").save(tmp_path / "kept")
    plan = (tmp_path / "kept" / "launches.txt").read_text()
    assert "if " in plan
    assert "loop " in plan
    assert "while " in plan
    on_mock(monkeypatch, tmp_path)
    back = gc.load_executable(tmp_path / "kept", trust=True)
    for sign in (1, -1):
        values = sign * np.abs(IMAGES.reshape(-1)[:32])
        got, wanted = back(values), gc.compile([x], outputs, backend="llvm")(values)
        np.testing.assert_array_equal(np.asarray(got["left"][0]), np.sort(values))
        np.testing.assert_allclose(np.asarray(got["left"][1]), wanted.left[1], rtol=1e-6)
        np.testing.assert_allclose(np.asarray(got["right"]), wanted.right, rtol=1e-5)


def test_what_cannot_be_compiled_or_saved_is_refused(tmp_path: Path) -> None:
    x = gc.observed("x", (4, 4))
    with pytest.raises(gc.BackendError, match=r"'sm_75'\): no such target; there are sm_80, sm_90"):
        gc.compile([x], x * 2.0, target="sm_75")
    with pytest.raises(gc.BackendError, match="'llvm' compiles for the machine it runs on"):
        gc.compile([x], x * 2.0, target="sm_90", backend="llvm")
    rows = gc.Dim("B")
    y = gc.observed("y", (rows, 4))
    with pytest.raises(gc.BindError, match=r"B is compiled for when it is known: give ints"):
        gc.compile([y], y * 2.0, target="sm_90")
    with pytest.raises(gc.BackendError, match=r"only what compile\(target=...\) made"):
        gc.compile([x], x * 2.0).save(tmp_path / "no")
    size = gc.Dim("N", specialize=False)
    with pytest.raises(gc.BindError, match="an export takes arrays, and N is an argument"):
        gc.compile([size], ops.zeros((size,)) + 1.0, target="sm_90").save(tmp_path / "no")
    assert not list(tmp_path.iterdir())


def test_nothing_but_an_export_is_replaced(folder: Path, tmp_path: Path) -> None:
    step, _ = training(target="sm_90")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(gc.CacheError, match="exists and is no export"):
        step.save(tmp_path / "mine")
    os.symlink(folder, tmp_path / "link")
    with pytest.raises(gc.CacheError, match="symbolic link"):
        step.save(tmp_path / "link")
    step.save(tmp_path / "again")
    step.save(tmp_path / "again")
    gc.load_executable(tmp_path / "again", trust=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "link", "mine"]


def test_an_export_is_trusted_by_word_only(folder: Path) -> None:
    with pytest.raises(gc.CacheError, match=r"holds machine code.*trust=True"):
        gc.load_executable(folder)


@pytest.mark.parametrize(
    "name", ["schedule.txt", "graph.txt", "states.safetensors", "kernels.json",
             "kernels/new_weight_guarded.cubin"],
)  # fmt: skip
def test_a_changed_or_missing_file_is_found(name: str, copied: Path) -> None:
    file = copied / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(gc.CacheError, match=f"{file.name} was changed"):
        gc.load_executable(copied, trust=True)
    file.write_bytes(data + b"?")
    with pytest.raises(gc.CacheError, match="its manifest says otherwise"):
        gc.load_executable(copied, trust=True)
    file.unlink()
    with pytest.raises(gc.CacheError, match="cannot be read"):
        gc.load_executable(copied, trust=True)
    os.symlink("/etc/passwd", file)
    with pytest.raises(gc.CacheError, match="cannot be read"):
        gc.load_executable(copied, trust=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "has version 2, not 1"),
        (lambda m: m.update(graphc="no"), "was not written by"),
        (lambda m: m["files"].update({"../../secret.txt": {}}), "names files that no export has"),
        (lambda m: m["files"].update({"/etc/passwd.txt": {}}), "names files that no export has"),
        (lambda m: m["files"].pop("schedule.txt"), "no good export: KeyError"),
        (lambda m: m["files"].pop("kernels.json"), "does not fit its schedule"),
        (lambda m: m.update(outputs={"set": []}), "no good export"),
    ],
    ids=["version", "kind", "escape", "absolute", "no schedule", "no kernels", "structure"],
)
def test_a_manifest_is_not_believed(change: Any, message: str, copied: Path) -> None:
    file = copied / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(gc.CacheError, match=message):
        gc.load_executable(copied, trust=True)


def test_what_is_no_export_is_refused(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(gc.CacheError, match="is no export"):
        gc.load_executable(tmp_path / "nothing", trust=True)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(gc.CacheError, match="cannot be read"):
        gc.load_executable(copied, trust=True)
    os.symlink(copied, tmp_path / "link")
    with pytest.raises(gc.CacheError, match="symbolic link"):
        gc.load_executable(tmp_path / "link", trust=True)


def test_reading_needs_no_triton(folder: Path) -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import graphc as gc\n"
        f"print(gc.load_executable({str(folder)!r}, trust=True).schedule.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "step\n", done.stderr


def test_the_schedule_on_disk_is_the_one_that_runs(folder: Path) -> None:
    text = (folder / "schedule.txt").read_text()
    back = gc.load_executable(folder, trust=True)
    assert print_schedule(back.schedule) == text
    assert " at 0" in text, "memory is planned"
