"""Wrong programs and calls at the newer doors, each with the exact message that a person gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, ops, optim
from tests.acceptance.test_bad_calls import REFUSED
from tests.acceptance.test_bad_programs import COMPILED, MISUSED


def val(*shape: Any, name: str = "v", dtype: Any = gc.float32) -> gc.Value:
    return gc.observed(name, shape or (3,), dtype)


def custom(f: Callable[..., Any], rule: Callable[..., Any] | None = None) -> Any:
    made = gc.custom_gradient(f)
    if rule is not None:
        made.backward(rule)
    return made


D = gc.Dim("D", specialize=False)


def _namesakes() -> tuple[list[gc.Value], list[gc.Value]]:
    dims = gc.Dim("B", specialize=False), gc.Dim("B", max=9, specialize=False)
    inputs = [gc.observed("ab"[n], (dim,)) for n, dim in enumerate(dims)]
    return inputs, [v * 2.0 for v in inputs]


def one(v: gc.Value) -> gc.Value:
    return v * 2.0


def two(a: gc.Value, b: gc.Value) -> gc.Value:
    return a * b


def text(*lines: str) -> str:
    return "".join(
        f"  {line}\n" if n else f"{line}\n" for n, line in enumerate(("kernel k", *lines))
    )


x, m, i = val(), val(4, 3, name="m"), val(3, name="i", dtype=gc.int64)
s = gc.state(np.zeros(3)).named("s")
k = gc.kernel(
    text(
        "size n 1..",
        "axes i:n j:4",
        "in x f32[n,4]",
        "out y f32[n]",
        "a = load x[i, j]",
        "t = reduce sum a over j",
        "store y[i] = t",
    )
)
q = val(2, 4, name="q")

#: what is done, the error's class, and its message; HERE is a line of this file
MESSAGES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "vmap no function": (
        lambda: gc.vmap(3),
        "ShapeError",
        "vmap: takes a function, got 3",
    ),
    "vmap no lanes": (
        lambda: gc.vmap(one, in_axes=None)(m),
        "ShapeError",
        "vmap: no argument of one has lanes: give one an axis",
    ),
    "vmap axis": (
        lambda: gc.vmap(one, in_axes=2)(m),
        "ShapeError",
        "vmap: in_axes of argument [0] is 2, it has 2 axes",
    ),
    "vmap axis kind": (
        lambda: gc.vmap(one, in_axes="0")(m),
        "ShapeError",
        "vmap: in_axes is '0'; it is an int or None, or a structure of these like the "
        "function's 1 arguments",
    ),
    "vmap sizes": (
        lambda: gc.vmap(two)(m, x),
        "ShapeError",
        "vmap: argument [1] of two is f32[3], with 3 lanes along axis 0; argument [0] has 4",
    ),
    "vmap count": (
        lambda: gc.vmap(two, in_axes=(0,))(m, m),
        "ShapeError",
        "vmap: in_axes is (0,); it is an int or None, or a structure of these like the "
        "function's 2 arguments",
    ),
    "vmap out": (
        lambda: gc.vmap(one, out_axes=None)(m),
        "ShapeError",
        "vmap: out_axes of the result is None, but <%: f32[3] = *, HERE> differs from lane to lane",
    ),
    "vmap out axis": (
        lambda: gc.vmap(one, out_axes=3)(m),
        "ShapeError",
        "vmap: out_axes of the result is 3, it has 2 axes",
    ),
    "vmap attach": (
        lambda: gc.vmap(lambda v: gc.attach_updates(v, {s: s + v}))(m),
        "StateError",
        "vmap: <s: f32[3] = state, HERE> would be updated in every lane, and has room "
        "for one value: return what is computed and update outside of vmap, or pin the mode "
        'that writes nothing: module.with_mode("eval")',
    ),
    "vmap inside shape": (
        lambda: gc.vmap(lambda v: v + val(4, name="w"))(m),
        "ShapeError",
        "add: f32[3] + f32[4]: axis 0 differs (3 and 4)",
    ),
    "a custom gradient without a rule": (
        lambda: custom(one)(x),
        "GradError",
        "one: custom_gradient without a rule: define @one.backward before the first call",
    ),
    "custom_gradient count": (
        lambda: custom(two, lambda a, o, c: (c,))(x, x),
        "GradError",
        "two.backward returned 1 cotangents, two takes 2 arguments: return one for each (None"
        " for zero)",
    ),
    "custom_gradient count 1": (
        lambda: custom(one, lambda a, o, c: (c, c))(x),
        "GradError",
        "one.backward returned 2 cotangents, one takes 1 arguments: return one for each (None"
        " for zero)",
    ),
    "custom_gradient shape": (
        lambda: custom(one, lambda a, o, c: c.sum())(x),
        "ShapeError",
        "one.backward: the cotangent of argument [0] is f32[], the argument is f32[3]: a "
        "cotangent has its shape",
    ),
    "custom_gradient dtype": (
        lambda: custom(one, lambda a, o, c: c.astype(gc.float64))(x),
        "DTypeError",
        "one.backward: the cotangent of argument [0] is f64[3], the argument is f32[3]; say "
        ".astype(gc.float32)",
    ),
    "custom_gradient structure": (
        lambda: custom(lambda d: d["a"], lambda a, o, c: {"b": c})({"a": x}),
        "StructureError",
        "lambda.backward: expected a dict with keys 'a', got a dict with keys 'b'",
    ),
    "custom_gradient attach": (
        lambda: custom(lambda v: gc.attach_updates(v, {s: s + v}), lambda a, o, c: c)(x),
        "ShapeError",
        "a state is updated where only values can leave: return its new value and attach the "
        "update outside",
    ),
    "remat": (
        lambda: gc.remat(3),
        "ShapeError",
        "remat: takes a Module or a function, got 3",
    ),
    "kernel kind": (
        lambda: gc.kernel(3),
        "KernelError",
        "kernel: takes the text of a kernel, got 3",
    ),
    "kernel text": (
        lambda: gc.kernel(text("axes i:4", "out y f32[4]", "store y[i] = b")),
        "ParseError",
        "line 4, column 16: unknown name 'b'\n    store y[i] = b\n                 ^",
    ),
    "kernel bounds": (
        lambda: gc.kernel(
            text("axes i:4", "in x f32[4]", "out y f32[4]", "a = load x[i + 1]", "store y[i] = a")
        ),
        "VerifyError",
        "kernel k: dimension 0 of x is not proved to hold its index; say `if`, `else` or "
        "`check`\n"
        "  load x[i + 1]",
    ),
    "kernel add": (
        lambda: gc.kernel(
            text(
                "axes i:4",
                "in x f32[4], t i64[4]",
                "out y f32[3] init 0",
                "a = load x[i]",
                "l = load t[i]",
                'check l >= 0 and l < 3 "l"',
                "store add y[l] = a",
            )
        ),
        "KernelError",
        "kernel k: `store add y`: an op's element is computed in one place: reduce over what "
        "is added (`reduce sum v over j where ...`), or use gc.ops.segment_sum",
    ),
    "kernel part": (
        lambda: gc.kernel(
            text("axes i:3", "in x f32[4]", "out y f32[4]", "a = load x[i]", "store y[i] = a")
        ),
        "KernelError",
        "kernel k: dimension 0 of y is stored at an index that does not count through it: "
        "plain axes do, and blocks of one (16*b + k)",
    ),
    "kernel if": (
        lambda: gc.kernel(
            text(
                "axes i:4",
                "in x f32[4]",
                "out y f32[4]",
                "a = load x[i]",
                "store y[i] = a if i < 3",
            )
        ),
        "KernelError",
        "kernel k: y is stored under a condition; say where(pred, value, other)",
    ),
    "kernel size": (
        lambda: gc.kernel(
            text(
                "size n 1..",
                "axes i:n",
                "in x f32[4]",
                "out y f32[n]",
                "a = load x[0]",
                "store y[i] = a",
            )
        ),
        "KernelError",
        "kernel k: size n is no input's extent, so nothing says what it is",
    ),
    "kernel count": (
        lambda: k(x, x),
        "KernelError",
        "kernel k takes x; it is given 2 by position",
    ),
    "kernel name": (
        lambda: k(z=m),
        "KernelError",
        "kernel k takes x; it is given 0 by position and z by name",
    ),
    "kernel shape": (
        lambda: k(m),
        "ShapeError",
        "kernel k: x is f32[n,4], it is given f32[4,3]; n is 4",
    ),
    "kernel rank": (
        lambda: k(x),
        "ShapeError",
        "kernel k: x is f32[n,4], it is given f32[3]",
    ),
    "kernel dtype": (
        lambda: k(q.astype(gc.float64)),
        "DTypeError",
        "kernel k: x is f32[n,4], it is given f64[2,4]; cast it",
    ),
    "kernel grad": (
        lambda: gc.grad(k(q).sum(), q),
        "GradError",
        "kernel k has no derivative: call it inside a gc.custom_gradient function, whose "
        "backward says it, or say gc.stop_gradient of its inputs",
    ),
    "scan body": (
        lambda: gc.scan(lambda c, v: c, x, m),
        "ShapeError",
        "scan: the body returns (carry, y), got <v: f32[3] = argument, HERE>",
    ),
    "scan type": (
        lambda: gc.scan(lambda c, v: (c.astype(gc.float64), v), x, m),
        "DTypeError",
        "scan: carry is f32[3] before an iteration and f64[3] after it; say .astype(gc.float32)",
    ),
    "scan length": (
        lambda: gc.scan(lambda c, v: (c, v), x, m, length=5),
        "ShapeError",
        "scan: xs is f32[4,3], its axis 0 should be 5 as the others'",
    ),
    "scan nothing": (
        lambda: gc.scan(lambda c, v: (c, v), x),
        "ShapeError",
        "scan: give xs, or length=",
    ),
    "scan scalar": (
        lambda: gc.scan(lambda c, v: (c, v), x, x.sum()),
        "ShapeError",
        "scan: xs is a scalar, <%: f32[] = reduce, HERE>: it has no axis 0",
    ),
    "scan lengths": (
        lambda: gc.scan(lambda c, v: (c, None), x, (m, x)),
        "ShapeError",
        "scan: xs[1] is f32[3], its axis 0 should be 4 as the others'",
    ),
    "while pred": (
        lambda: gc.while_loop(lambda c: c, lambda c: c, x),
        "DTypeError",
        "while_loop: the predicate is f32[3], it must be a bool scalar",
    ),
    "while grad": (
        lambda: gc.grad(gc.while_loop(lambda c: c.sum() < 9.0, lambda c: c * 2.0, x).sum(), x),
        "GradError",
        "while_loop has no reverse derivative without a bound: give it max_steps=",
    ),
    "while update": (
        lambda: gc.while_loop(
            lambda c: gc.attach_updates(c, {s: s + c}).sum() < 9.0, lambda c: c, x
        ),
        "StateError",
        "while_loop's predicate updates <s: f32[3] = state, HERE>: update it in the body",
    ),
    "cond pred": (
        lambda: gc.cond(x.sum(), lambda: x, lambda: x),
        "DTypeError",
        "cond: the predicate is f32[], it must be a bool scalar",
    ),
    "cond types": (
        lambda: gc.cond(x.sum() > 0.0, lambda v: v, lambda v: v[0], x),
        "ShapeError",
        "cond: result is f32[3] in the first branch and f32[] in the second",
    ),
    "cond structure": (
        lambda: gc.cond(x.sum() > 0.0, lambda v: (v, v), lambda v: v, x),
        "StructureError",
        "cond: the second branch: expected a tuple of 2, got Value",
    ),
    "jvp shape": (
        lambda: gc.jvp(x * 2.0, x, m),
        "ShapeError",
        "tangent of <v: f32[3] = observed, HERE>: expected shape (3,), got (4, 3)",
    ),
    "vjp dtype": (
        lambda: gc.vjp(x * 2.0, x, x.astype(gc.float64)),
        "DTypeError",
        "cotangent of <%: f32[3] = *, HERE>: expected float32, got float64; say "
        ".astype(gc.float32)",
    ),
    "vjp structure": (
        lambda: gc.vjp((x, x * 2.0), x, x),
        "StructureError",
        "cotangents: expected a tuple of 2, got Value",
    ),
    "grad cut": (
        lambda: gc.grad(ops.round(x).sum(), x),
        "GradError",
        "grad: <v: f32[3] = observed, HERE> reaches <%: f32[] = reduce, HERE> "
        "only through 'round' at HERE in <lambda>, which no derivative passes; leave it"
        ' out of wrt, or say unused="zero"',
    ),
    "grad unused": (
        lambda: gc.grad(x.sum(), x, unused="ignore"),
        "GradError",
        "grad: unused is 'error' or 'zero', not 'ignore'",
    ),
    "grad number": (
        lambda: gc.grad(3.0, x),
        "GradError",
        "grad: the cost is a Value, got float",
    ),
    "substitute type": (
        lambda: gc.substitute(x * 2.0, {x: m}),
        "ShapeError",
        "substitute: <v: f32[3] = observed, HERE> is replaced by f32[4,3]; it must stay f32[3]",
    ),
    "substitute key": (
        lambda: gc.substitute(x * 2.0, {"x": x}),
        "StateError",
        "substitute: the key 'x' is a str, no Value",
    ),
    "by_mode": (
        lambda: gc.by_mode(train=x, eval=m),
        "ShapeError",
        "by_mode: train is f32[3] and eval is f32[4,3]; one shape is needed",
    ),
    "by_mode dtype": (
        lambda: gc.by_mode(train=x, eval=x.astype(gc.float64)),
        "DTypeError",
        "by_mode: train is f32[3] and eval is f64[3]; say .astype(...)",
    ),
    "only_if": (
        lambda: gc.Updates({s: s + 1.0}).only_if(x > 0.0),
        "ShapeError",
        "only_if: expected a scalar bool, got <%: bool[3] = >, HERE> of bool[3]",
    ),
    "parameter int": (
        lambda: gc.parameter(np.arange(3)),
        "DTypeError",
        "parameter: int64 has no derivative; use gc.state for integers",
    ),
    "state value": (
        lambda: gc.state(x),
        "StateError",
        "state: <v: f32[3] = observed, HERE> is computed in the graph and has no data "
        "yet; give a shape or array",
    ),
    "observed name": (
        lambda: gc.observed("a b", (3,)),
        "ShapeError",
        "observed: the name 'a b' is not an identifier",
    ),
    "observed extent": (
        lambda: gc.observed("a", (3.5,)),
        "ShapeError",
        "observed a: 3.5 is no extent; a shape holds ints >= 0 and Dims",
    ),
    "observed dtype": (
        lambda: gc.observed("a", (3,), "float31"),
        "DTypeError",
        "observed a: no element type for 'float31'; one of bool, int8, uint8, int32, uint32, "
        "int64, float16, bfloat16, float32, float64",
    ),
    "donate": (
        lambda: gc.compile([x], x * 2.0, donate=[m]),
        "BindError",
        "compile: donate=<m: f32[4,3] = observed, HERE> is no input; name observed inputs",
    ),
    "check": (
        lambda: gc.compile([x], x * 2.0, check="inf"),
        "BindError",
        "compile(check='inf'): it is None or 'nan'",
    ),
    "precision": (
        lambda: gc.compile([x], x * 2.0, precision="fp8"),
        "BindError",
        "compile(precision='fp8'): it is 'ieee' or 'tf32'",
    ),
    "mesh": (
        lambda: gc.compile([x], x * 2.0, mesh=3),
        "BackendError",
        "compile(mesh=3): this version has no such backend part",
    ),
    "device": (
        lambda: gc.compile([x], x * 2.0, device="tpu"),
        "BackendError",
        "compile(device='tpu'): it is 'cpu' or 'cuda'",
    ),
    "updates as pairs": (
        lambda: gc.compile([x], x, [(1, 2)]),
        "StateError",
        "updates map states to values, as a dict does; got [(1, 2)]",
    ),
    "memory_budget": (
        lambda: gc.compile([x], x * 2.0, memory_budget="1 GB"),
        "BindError",
        "compile(memory_budget='1 GB'): it is a number, not negative",
    ),
    "tolerance": (
        lambda: gc.compile([x], x * 2.0, tolerance=-1e-3),
        "BindError",
        "compile(tolerance=-0.001): it is a number, not negative",
    ),
    "name": (
        lambda: gc.compile([x], x * 2.0, name=3),
        "BindError",
        "compile(name=3): a name is a string",
    ),
    "run-time dims of one name": (
        lambda: gc.compile(*_namesakes()),
        "BindError",
        "compile: two run-time dims are named B and have other constraints; use one, or give them "
        "names of their own",
    ),
    "dims of one name": (
        lambda: sum(_namesakes()[1]),
        "ShapeError",
        "add: f32[B] + f32[B]: axis 0 differs (B and B); dims of one name are equal where all "
        "their constraints are",
    ),
    "more bytes than 64 bits count": (
        lambda: gc.compile([], ops.zeros((2**35, 2**35)).sum())(),
        "ShapeError",
        "full: f32[34359738368,34359738368] has 4.7e+21 bytes; no machine counts so far",
    ),
    "more bytes at the call": (
        lambda: gc.compile([D], ops.zeros((D, D)))(2**33),
        "OutOfMemoryError",
        "full: f32[8589934592,8589934592] has 3.0e+20 bytes",
    ),
    "output": (
        lambda: gc.compile([x], "loss"),
        "BindError",
        "compile: an output is a Value or a number, not 'loss'",
    ),
    "input": (
        lambda: gc.compile(["x"], x * 2.0),
        "BindError",
        "compile: an input is an observed value or a Dim, not 'x'",
    ),
    "module mode": (
        lambda: nn.Linear(3, 3).train(),
        "ModeError",
        "Linear.train(): a module has no mode; an executable has: say gc.compile(..., "
        "mode='train'), or Linear.with_mode('train') for a view that keeps it",
    ),
    "with_mode": (
        lambda: nn.Linear(3, 3).with_mode("test"),
        "ModeError",
        "with_mode: mode is 'train' or 'eval', not 'test'",
    ),
    "ports": (
        lambda: nn.Linear(3, 3)(x, x),
        "PortError",
        "Linear: too many positional arguments; its ports are x",
    ),
    "chain": (
        lambda: nn.Linear(3, 3) >> abs,
        "PortError",
        "Linear >> <built-in function abs>: series joins Modules, not "
        "builtin_function_or_method; use nn.Lambda(fn, name)",
    ),
    "state_dict": (
        lambda: nn.Linear(3, 3).load_state_dict({"weight": np.zeros((3, 3))}),
        "StateError",
        "Linear.load_state_dict: the names do not match\n"
        "  missing: bias\n"
        "  rename the keys, or say strict=False to load what matches",
    ),
    "state_dict shape": (
        lambda: nn.Linear(3, 3).load_state_dict({"weight": np.zeros((3, 4)), "bias": np.zeros(3)}),
        "ShapeError",
        "load_state_dict: 'weight': expected shape (3, 3), got (3, 4)",
    ),
    "einsum": (
        lambda: ops.einsum("ij,jk->ik", m, m),
        "ShapeError",
        "einsum: axis j is 3 in one place and 4 in another",
    ),
    "concat": (
        lambda: ops.concat([m, x]),
        "ShapeError",
        "concat: f32[4,3] and f32[3] differ off axis 0",
    ),
    "top_k": (
        lambda: ops.top_k(x, 5),
        "ShapeError",
        "top_k: k = 5 of f32[3]",
    ),
    "take float": (
        lambda: ops.take(x, x),
        "ShapeError",
        "index: f32[3] is no index; it must be of integers",
    ),
    "randint": (
        lambda: gc.random.randint(5, 5, (3,)),
        "ShapeError",
        "randint: need low < high <= low + 2^31, got 5 and 5",
    ),
    "normal int": (
        lambda: gc.random.normal((3,), dtype=gc.int64),
        "DTypeError",
        "normal: int64 is no floating type",
    ),
    "categorical": (
        lambda: gc.random.categorical(i),
        "DTypeError",
        "categorical: logits are floating, got i64[3]",
    ),
    "cross": (
        lambda: nn.CrossEntropyLoss()(m, x),
        "ShapeError",
        "cross_entropy: logits f32[4,3] take probabilities of shape (4, 3), got f32[3]",
    ),
    "update kind": (
        lambda: gc.attach_updates(x, {"s": x}),
        "StateError",
        "updates map states to values; str is no parameter or state",
    ),
    "mask": (
        lambda: x[x > 0.0],
        "ShapeError",
        "index: a boolean mask on f32[3] would give a shape that depends on data: weight "
        "instead, (v * mask).sum() / mask.sum(), or choose with gc.ops.where(mask, v, 0)",
    ),
    "minimize none": (
        lambda: optim.SGD(lr=0.1).minimize(x.sum()),
        "GradError",
        "SGD.minimize: <%: f32[] = reduce, HERE> depends on no parameter; name what to "
        "change: minimize(cost, wrt=...)",
    ),
    "updates count": (
        lambda: optim.SGD(lr=0.1).updates([gc.parameter(np.ones(3))], []),
        "StructureError",
        "SGD.updates: gradients: expected a list of 1, got a list of 0",
    ),
    "tree": (
        lambda: gc.tree.map(lambda a, b: a, (x,), [x]),
        "StructureError",
        "tree.map: structure 2: expected a tuple of 1, got a list of 1",
    ),
    "parse": (
        lambda: gc.parse_graph("graph(x"),
        "ParseError",
        "line 1, column 8: expected ')', found the end of the line\n  graph(x\n         ^",
    ),
}

#: texts and calls whose own traceback shows the line, or that speak of a file's or text's line
WITHOUT_A_LINE = {
    "custom_gradient structure",
    "kernel text",
    "kernel bounds",
    "kernel add",
    "kernel part",
    "kernel if",
    "kernel size",
    "cond structure",
    "vjp structure",
    "donate",
    "check",
    "memory_budget",
    "tolerance",
    "name",
    "run-time dims of one name",
    "more bytes at the call",
    "precision",
    "mesh",
    "device",
    "output",
    "input",
    "updates count",
    "tree",
    "parse",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_is_exactly_this(name: str) -> None:
    wrong, kind, message = MESSAGES[name]
    with pytest.raises(gc.GraphcError) as caught:
        wrong()
    assert type(caught.value).__name__ == kind
    said = re.sub(r"%\d+", "%", re.sub(r"test_messages\.py:\d+", "HERE", caught.value.message))
    assert said == message
    assert ("test_messages.py:" in str(caught.value)) == (
        name not in WITHOUT_A_LINE or "HERE" in message
    ), "the user's line"


def test_there_are_many() -> None:
    assert len(MESSAGES) >= 80
    assert len(MESSAGES) + len(MISUSED) + len(COMPILED) + len(REFUSED) >= 160
