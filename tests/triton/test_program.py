"""Programs on a device made of host memory and the interpreter: numbers and the launch sequence."""

from __future__ import annotations

import gc as garbage
import re

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

import graphc as gc
from graphc import nn, optim


def _training(optimizer, backend):
    gc.manual_seed(5)
    x = gc.observed("x", (16, 12))
    y = gc.observed("y", (16,), gc.int64)
    net = nn.Linear(12, 20) >> nn.ReLU() >> nn.Linear(20, 4)
    loss = nn.CrossEntropyLoss()(net(x), y)
    made = optimizer()
    return gc.compile([x, y], loss, made.minimize(loss), backend=backend), net


def _batches():
    generator = np.random.default_rng(3)
    for _ in range(3):
        yield (
            generator.standard_normal((16, 12)).astype(np.float32),
            generator.integers(0, 4, 16).astype(np.int64),
        )


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: optim.SGD(lr=0.1), id="sgd"),
        # test_shared_states.py trains with it too
        pytest.param(lambda: optim.Adam(lr=1e-2), id="adam", marks=pytest.mark.slow),
    ],
)
def test_training_equals_the_cpu(device, optimizer) -> None:
    ours, net = _training(optimizer, "triton")
    theirs, other = _training(optimizer, "llvm")
    for images, labels in _batches():
        np.testing.assert_allclose(
            np.asarray(ours(images, labels)), theirs(images, labels), rtol=1e-5
        )
    for mine, expected in zip(net.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(
            mine.node.attrs["state"].numpy(), expected.node.attrs["state"].numpy(),
            rtol=1e-4, atol=1e-6,
        )


def _kinds(device, number=0):
    """The kinds of a recorded graph's nodes, with what each waits for."""
    graphs = list(device.graphs.values())
    return [(kind, after) for _, after, kind, *_ in graphs[number]]


def test_a_training_step_is_one_graph_launched_once(device) -> None:
    step, _ = _training(lambda: optim.SGD(lr=0.1), "triton")
    images, labels = next(_batches())
    device.log.clear()
    step(images, labels)
    assert [entry[0] for entry in device.log].count("graph") == 1
    kinds = [entry[0] for entry in device.log]
    assert kinds.index("clear") < kinds.index("graph")
    assert kinds.count("launch") == 0
    (graph,) = device.graphs.values()
    kernels = [entry for entry in graph if entry[2] == "kernel"]
    assert len(kernels) == sum(1 for _ in step.schedule.body if type(_).__name__ == "Launch")
    guarded = [e for e in kernels if e[4].handle.emitted.symbol.endswith("_guarded")]
    plain = [e for e in kernels if e not in guarded]
    assert guarded, "updates wait for the error word"
    assert max(e[0] for e in plain) < min(e[0] for e in guarded)
    assert all(after for _, after, *_ in guarded)


def test_states_stay_on_the_device_until_the_host_reads(device) -> None:
    step, net = _training(lambda: optim.SGD(lr=0.1), "triton")
    images, labels = next(_batches())
    step(images, labels)
    weight = next(iter(net.parameters())).node.attrs["state"]
    before = weight.buffer.array.copy()
    device.log.clear()
    step(images, labels)
    sent = [entry for entry in device.log if entry[0] == "copy in"]
    assert len(sent) == 2, "the two arguments and nothing else"
    assert np.array_equal(before, weight.buffer.array), "the host's copy is old"
    after = weight.numpy()
    assert not np.array_equal(before, after)
    version = weight.version
    weight.set(np.zeros_like(before))
    assert weight.version == version + 1
    step(images, labels)
    assert 0 < np.abs(weight.numpy()).max() < 0.05, "one step away from what was set"


def test_a_failed_check_changes_nothing(device) -> None:
    step, net = _training(lambda: optim.SGD(lr=0.1), "triton")
    images, labels = next(_batches())
    step(images, labels)
    before = [p.node.attrs["state"].numpy() for p in net.parameters()]
    versions = [p.node.attrs["state"].version for p in net.parameters()]
    with pytest.raises(gc.RuntimeCheckError):
        step(images, labels + 4)
    for parameter, old, version in zip(net.parameters(), before, versions, strict=True):
        assert np.array_equal(parameter.node.attrs["state"].numpy(), old)
        assert parameter.node.attrs["state"].version == version
    step(images, labels)


@pytest.mark.parametrize("length", [1, 7])
def test_a_scan_is_unrolled_into_the_graph(device, length) -> None:
    x, h0 = gc.observed("x", (length, 3)), gc.observed("h0", (2, 3))
    w = gc.parameter(np.float32([[0.5, 0.1, 0], [0, 0.5, 0], [0.2, 0, 0.3]])).named("w")
    h, ys = gc.scan(lambda h, v: (gc.ops.tanh(h @ w + v),) * 2, h0, x)
    program = gc.compile([h0, x], [h, ys], backend="triton")
    generator = np.random.default_rng(0)
    start = generator.standard_normal((2, 3)).astype(np.float32)
    inputs = generator.standard_normal((length, 3)).astype(np.float32)
    device.log.clear()
    last, stacked = program(start, inputs)
    assert [entry[0] for entry in device.log].count("graph") == 1
    value = start
    weights = w.node.attrs["state"].numpy()
    for n in range(length):
        value = np.tanh(value @ weights + inputs[n])
        np.testing.assert_allclose(np.asarray(stacked)[n], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(last), value, rtol=1e-5, atol=1e-6)


def test_long_loops_are_driven_by_the_host(device, monkeypatch) -> None:
    from graphc.backends.triton import control

    monkeypatch.setattr(control, "MOST_NODES", 8)
    x = gc.observed("x", (3,))
    out, _ = gc.scan(lambda a, _: (a * 0.5 + x, None), x, length=20)
    program = gc.compile([x], out, backend="triton")
    device.log.clear()
    got = np.asarray(program(np.float32([1, 2, 3])))
    assert [entry[0] for entry in device.log].count("graph") >= 20
    value = np.float32([1, 2, 3])
    for _ in range(20):
        value = value * np.float32(0.5) + np.float32([1, 2, 3])
    np.testing.assert_allclose(got, value, rtol=1e-6)


def looks(device) -> int:
    """How often the host waited for a word."""
    return sum(entry[0] == "copy out" and entry[2] == 8 for entry in device.log)


def test_a_branch_asks_the_host_nothing(device) -> None:
    x = gc.observed("x", (4,))
    inner = lambda a: gc.cond(a.sum() > 9.0, lambda: a * 10.0, lambda: a * 100.0)  # noqa: E731
    program = gc.compile([x], gc.cond(x.sum() > 3.0, inner, lambda a: a - 1.0, x), backend="triton")
    for value, wanted in ((0.5, -0.5), (1.0, 100.0), (3.0, 30.0)):
        device.log.clear()
        got = np.asarray(program(np.full(4, value, np.float32)))
        kinds = [entry[0] for entry in device.log]
        assert (kinds.count("graph"), kinds.count("synchronize")) == (1, 2)
        np.testing.assert_array_equal(got, np.float32(wanted))


@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 40])
def test_a_loop_asks_once_in_sixteen_turns(device, monkeypatch, steps) -> None:
    from graphc.backends.triton import control

    monkeypatch.setattr(control, "MOST_TURN_NODES", 1 << 10)
    x = gc.observed("x", ())
    got = gc.while_loop(lambda a: a < 0.0, lambda a: a + 1.0, x)
    program = gc.compile([x], got, backend="triton")
    device.log.clear()
    out = program(np.float32(-steps))
    assert looks(device) == 1 + -(-steps // 16)
    assert float(out) == 0.0


def test_a_loop_of_few_turns_asks_nothing(device) -> None:
    x = gc.observed("x", (3,))
    got = gc.while_loop(lambda a: a.sum() < 10.0, lambda a: a * 2.0, x, max_steps=4)
    slope = gc.grad(got.sum(), x)
    program = gc.compile([x], [got, slope], backend="triton")
    theirs = gc.compile([x], [got, slope], backend="llvm")
    for value in (0.01, 1.0, 50.0):
        given = np.full(3, value, np.float32)
        device.log.clear()
        found = program(given)
        assert looks(device) == 0
        for mine, other in zip(found, theirs(given), strict=True):
            np.testing.assert_array_equal(np.asarray(mine), other)


def test_loops_in_loops_and_branches_in_loops(device) -> None:
    x = gc.observed("x", ())

    def outer(a):
        grown = gc.while_loop(lambda b: b < a * 3.0, lambda b: b + 1.0, a)
        return gc.cond(grown > 20.0, lambda: grown + 0.5, lambda: grown)

    out = gc.while_loop(lambda a: a < 30.0, outer, x)
    ours, theirs = (gc.compile([x], out, backend=b) for b in ("triton", "llvm"))
    for value in (1.0, 7.25, 31.0):
        assert float(ours(np.float32(value))) == float(theirs(np.float32(value)))


def test_a_check_that_fails_in_a_loop_ends_it(device) -> None:
    x, table = gc.observed("x", (), gc.int64), gc.parameter(np.arange(4, dtype=np.float32))
    walk = gc.while_loop(
        lambda c: c[0] < 100,
        lambda c: (c[0] + 1, c[1] + table[c[0]]),
        (x, gc.ops.zeros(())),
    )
    count = gc.state(np.zeros((), np.float32))
    program = gc.compile([x], walk, {count: count + 1.0}, backend="triton")
    device.log.clear()
    with pytest.raises(gc.RuntimeCheckError, match="outside"):
        program(np.int64(0))
    assert count.numpy() == 0.0
    assert looks(device) <= 3
    assert [float(v) for v in program(np.int64(100))] == [100.0, 0.0]
    assert count.numpy() == 1.0


def _grows(a, most=None):
    return gc.while_loop(lambda a: a < 100.0, lambda a: a * 2.0, a, max_steps=most)


def _turned(a, length):
    return gc.scan(lambda a, _: (a * 0.5, None), a, length=length)[0]


def _long(a):
    return gc.cond(a > 0.0, _grows, lambda a: a - 1.0, a)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_grows, "while .*: the device decides; 16 turns a launch, nothing is done past the e"),
        (lambda a: _grows(a, 3), "its 3 turns are in one graph"),
        (lambda a: gc.cond(a > 0.0, lambda: a, lambda: a * 2.0), "both sides are launched, one d"),
        (_long, "if .*: the device decides; the host looks and launches one side"),
        (lambda a: _turned(a, 20), "loop .*: its 20 turns are in one graph"),
        (lambda a: _turned(a, 5000), "loop .*: the host launches one graph for each of its 5,000"),
    ],
)
def test_explain_says_who_decides(body, said) -> None:
    x = gc.observed("x", ())
    program = gc.compile([x], body(x), target="sm_90")
    assert re.search(said, str(program.explain())), program.explain()


def test_explain_says_it_of_the_sizes_of_a_call(device) -> None:
    rows = gc.Dim("T", specialize=False)
    x = gc.observed("x", (rows,))
    program = gc.compile([x], gc.scan(lambda a, v: (a + v, None), 0.0 * x[0], x)[0],
                         backend="triton")
    assert "chosen for the sizes of a call" in str(program.explain())
    program(np.ones(3, np.float32))
    assert "its 3 turns are in one graph" in str(program.explain())
    llvm = gc.compile([x], gc.scan(lambda a, v: (a + v, None), 0.0 * x[0], x)[0], backend="llvm")
    llvm(np.ones(3, np.float32))
    assert "loops and branches" not in str(llvm.explain())


def test_run_time_sizes_need_no_new_code(device) -> None:
    batch = gc.Dim("B", specialize=False)
    x = gc.observed("x", (batch, 5))
    w = gc.parameter(np.arange(15, dtype=np.float32).reshape(5, 3)).named("w")
    program = gc.compile([x], gc.ops.tanh(x @ w).sum(axis=1), backend="triton")
    generator = np.random.default_rng(1)
    for rows in (4, 17, 4):
        given = generator.standard_normal((rows, 5)).astype(np.float32)
        wanted = np.tanh(given @ w.node.attrs["state"].numpy()).sum(axis=1)
        np.testing.assert_allclose(np.asarray(program(given)), wanted, rtol=1e-4, atol=1e-5)
    assert (len(device.graphs), device.destroyed) == (2, set()), "one for each size"
    del program
    garbage.collect()
    assert device.destroyed == set(device.graphs), "what the driver holds goes with the program"


def test_results_go_to_given_arrays_and_a_wrong_one_is_refused(device) -> None:
    x = gc.observed("x", (4,))
    program = gc.compile([x], x * 2.0, backend="triton")
    out = np.zeros(4, np.float32)
    program(np.ones(4, np.float32), out=out)
    assert out.tolist() == [2, 2, 2, 2]
    with pytest.raises(gc.BindError, match="expected float32"):
        program(np.ones(4, np.float32), out=np.zeros(4, np.float64))


def test_out_of_memory_names_what_wanted_it(device) -> None:
    device.limit = sum(b.nbytes for b in device.blocks.values()) + 10_000
    x = gc.observed("x", (1 << 16,))
    program = gc.compile([x], x.sum(), backend="triton")
    with pytest.raises(gc.OutOfMemoryError, match=r": x, 262,144 bytes: cuMemAlloc"):
        program(np.zeros(1 << 16, np.float32))


def test_profile_times_every_launch_and_leaves_the_states(device) -> None:
    step, net = _training(lambda: optim.SGD(lr=0.1), "triton")
    images, labels = next(_batches())
    profile = step.profile(images, labels)
    assert len(profile.launches) >= 4
    weight = next(iter(net.parameters())).node.attrs["state"]
    other, theirs = _training(lambda: optim.SGD(lr=0.1), "llvm")
    other(images, labels)
    expected = next(iter(theirs.parameters())).node.attrs["state"].numpy()
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_source_is_to_be_read(device) -> None:
    x = gc.observed("x", (4, 8))
    program = gc.compile([x], gc.nn.functional.softmax(x, -1), backend="triton")
    (name,) = {k.name for k in program.schedule.kernels}
    assert "tl.program_id" in program.source(name) or "tl.arange" in program.source(name)
