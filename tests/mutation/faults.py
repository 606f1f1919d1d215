"""Seeded faults: one small wrong thing each, and the cheapest tests that must notice it.

``old`` occurs exactly once in ``file``; when the code changes, the fault moves with it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "QUICK", "Fault"]


@dataclass(frozen=True)
class Fault:
    """``old`` becomes ``new`` in ``file``; ``tests`` are pytest's arguments, of which one test must
    fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


GRADIENTS = ("tests/autodiff/test_grad.py", "tests/ops/test_samples.py")
KERNELS = ("tests/llvm/test_zoo.py",)
SQUARE = ("tests/acceptance/test_square_programs.py", "tests/acceptance/test_moved_rows.py")

FAULTS: tuple[Fault, ...] = (
    # ---- gradient rules
    Fault(
        "the derivative of tanh without its square",
        "ops/elementwise.py",
        'lambda g, x, y: g * (1 - y * y))\n_elementwise("atan"',
        'lambda g, x, y: g * (1 - y))\n_elementwise("atan"',
        ("tests/ops/test_samples.py", "-k", "tanh"),
    ),
    Fault(
        "the derivative of a quotient loses its sign",
        "ops/elementwise.py",
        "lambda g, x, y: -g * (y / x[1]),",
        "lambda g, x, y: g * (y / x[1]),",
        GRADIENTS,
    ),
    Fault(
        "equal maxima each get the whole derivative",
        "ops/elementwise.py",
        'apply("where", apply("==", a, b), g * 0.5, won)',
        'apply("where", apply("==", a, b), g, won)',
        ("tests/ops/test_samples.py", "tests/ops/test_functions.py"),
    ),
    Fault(
        "the winners of a maximum do not share",
        "ops/reduce.py",
        "return wins / spread(count, x.shape, axes)",
        "return wins",
        ("tests/ops/test_samples.py", "tests/ops/test_functions.py", "tests/nn/test_functional.py"),
    ),
    Fault(
        "a gather's derivative overwrites instead of adding",
        "ops/index.py",
        'indices, g, mode="add", **node.attrs), None',
        'indices, g, mode="set", **node.attrs), None',
        ("tests/ops/test_samples.py",),
    ),
    Fault(
        "a product's right derivative uses the left operand's map",
        "ops/contract.py",
        "spec=transpose(spec.swapped(), b.shape)",
        "spec=transpose(spec, b.shape)",
        ("tests/ops/test_contract.py", "tests/autodiff/test_grad.py"),
    ),
    # ---- transforms
    Fault(
        "lanes of indices stay where the axis was",
        "ops/index.py",
        'return (apply("permute", found, order=order),)',
        "return (found,)",
        ("tests/transforms/test_vmap.py", "-k", "gather"),
    ),
    Fault(
        "a lane draws like an iteration",
        "graphc/control.py",
        "LOOP, LANE = 1, 2",
        "LOOP, LANE = 1, 1",
        ("tests/transforms/test_vmap.py", "-k", "fixed_rule"),
    ),
    Fault(
        "a lane that is done goes on",
        "ops/branch.py",
        "_chosen(going, new, old) for",
        "_chosen(going, new, new) for",
        ("tests/transforms/test_vmap.py", "-k", "different_times"),
    ),
    Fault(
        "what is computed again is merged with the first",
        "graphc/passes/share.py",
        "attrs, node.types, node.again",
        "attrs, node.types",
        ("tests/transforms/test_remat.py", "-k", "less_memory"),
    ),
    Fault(
        "a state that goes through a loop has a derivative",
        "graphc/carried.py",
        'apply("stop_gradient", held) if constant else held',
        "held",
        ("tests/transforms/test_carried_states.py", "-k", "constant"),
    ),
    Fault(
        "a loop's update happens in every mode",
        "graphc/carried.py",
        "if modes == _MODES:",
        "if modes:",
        ("tests/transforms/test_carried_states.py", "-k", "touched"),
    ),
    # ---- monoids
    Fault(
        "merging exponential sums scales the wrong side",
        "graphc/kernel/monoids.py",
        'of_left = ops.op("where", right_leads, scale, one)',
        'of_left = ops.op("where", right_leads, one, scale)',
        KERNELS,
    ),
    Fault(
        "merging moments forgets what lies between",
        "graphc/kernel/monoids.py",
        'ops.op("+", ops.op("+", deviations, theirs), between),',
        'ops.op("+", deviations, theirs),',
        KERNELS,
    ),
    Fault(
        "ties of argmax go to the last",
        "graphc/kernel/monoids.py",
        'ops.op("and", tie, ops.op("<", j, i))',
        'ops.op("and", tie, ops.op(">", j, i))',
        ("tests/kernel", "-k", "monoid or argmax"),
    ),
    # ---- bounds
    Fault(
        "an index equal to the extent counts as inside",
        "graphc/kernel/proof.py",
        "self.at_most(index, extent - 1)",
        "self.at_most(index, extent)",
        ("tests/kernel/test_bounds.py", "-k", "not_proved"),
    ),
    # ---- fusion
    Fault(
        "a dear operand is computed again for every tile",
        "graphc/passes/numbers.py",
        "if times > 1 and (view.bound",
        "if times > 1000 and (view.bound",
        ("tests/acceptance/test_recomputation.py",),
    ),
    Fault(
        "a kernel with a check writes a state",
        "graphc/passes/fuse.py",
        "if checks and any(p.slot.key in self._updates",
        "if not checks and any(p.slot.key in self._updates",
        ("tests/passes/test_fusion.py", "tests/nn/test_native.py", "-k", "check or label"),
    ),
    Fault(
        "an index goes into a reduction that binds its name",
        "graphc/passes/term_table.py",
        "axes = {a: t for a, t in how.axes.items() if a not in own}",
        "axes = dict(how.axes)",
        SQUARE[1:],
    ),
    Fault(
        "a ragged chunk reads over the end",
        "graphc/passes/compose.py",
        "pred = self.table.both(pred, guard)\n        return",
        "pred = load.pred\n        return",
        ("tests/passes/test_fusion.py", "-k", "ragged or chunk"),
    ),
    # ---- schedule and memory
    Fault(
        "a buffer is shared that is read after it is written",
        "graphc/passes/schedule.py",
        "if load not in read or not load.axes <= parallel:",
        "if load in ():",
        ("tests/acceptance/test_moved_rows.py", "-k", "gathered"),
    ),
    Fault(
        "a buffer is free while its last reader runs",
        "graphc/passes/memory.py",
        "ends[done][0] < span[name][0]",
        "ends[done][0] <= span[name][0]",
        ("tests/passes/test_memory.py",),
    ),
    Fault(
        "what outlives a loop lends its bytes inside of it",
        "graphc/passes/memory.py",
        "if first < start or last > end:",
        "if first > last:",
        (
            "tests/passes/test_memory.py",
            "tests/passes/test_control.py",
            "tests/acceptance/test_loops.py",
        ),
    ),
    # ---- nests
    Fault(
        "a held value is read before it is whole",
        "graphc/nest/build.py",
        "return all(not s.is_open or innermost.get(s.axis) is s for s in loops)",
        "return bool(innermost)",
        (SQUARE[0], "-k", "1330 or 1536"),
    ),
    Fault(
        "an ordered reduction runs in interleaved lanes",
        "graphc/nest/build.py",
        "if self.vector_open is not None or ordered:",
        "if self.vector_open is not None:",
        (*KERNELS, "tests/nest"),
    ),
    # ---- emitters
    Fault(
        "the lanes after the end are not masked",
        "backends/llvm/emit.py",
        "mask = self.lane_mask(rest % lanes, lanes) if rest % lanes else None\n"
        "            self.body(step, after, tile, lanes, stop, mask)",
        "self.body(step, after, tile, lanes, stop, None)",
        KERNELS,
    ),
    Fault(
        "masked lanes are folded in",
        "backends/llvm/fold.py",
        "states[key] = _select(k, valid, k.splat(after, before.type.lanes), before)",
        "states[key] = k.splat(after, before.type.lanes)",
        KERNELS,
    ),
    Fault(
        "lanes merge with themselves",
        "backends/llvm/fold.py",
        "_half(k, s.value, lanes, lanes)",
        "_half(k, s.value, lanes, 0)",
        KERNELS,
    ),
    Fault(
        "the mask of the end lies on the first vector",
        "backends/llvm/context.py",
        "return vector.mask if number == vector.tile - 1 else None",
        "return vector.mask if number == 0 else None",
        KERNELS,
    ),
    Fault(
        "a guard lets the first element outside through",
        "backends/llvm/access.py",
        'inside = partial(k.f.compare, "ult", at, extent)',
        'inside = partial(k.f.compare, "ule", at, extent)',
        (*KERNELS, "tests/llvm/test_pack.py", "tests/ops/test_contract.py"),
    ),
    Fault(
        "a packed border is not shifted",
        "backends/llvm/pack.py",
        "lows.append(low if dimension in outside else 0)",
        "lows.append(0)",
        ("tests/llvm/test_pack.py", "tests/llvm/test_zoo.py"),
    ),
    # ---- vector maths
    Fault(
        "exp leaves out the low part of ln 2",
        "backends/llvm/vecmath/exp.py",
        "return m.fma(n, -c.ln2_low, r), shifted",
        "return r, shifted",
        ("tests/vecmath/test_accuracy.py", "-k", "exp"),
    ),
    Fault(
        "sigmoid takes the other branch",
        "backends/llvm/vecmath/exp.py",
        'above = m.select(m.compare("olt", x, 0.0), e, 1.0)',
        'above = m.select(m.compare("ogt", x, 0.0), e, 1.0)',
        ("tests/vecmath/test_special_values.py", "tests/vecmath/test_ops.py"),
    ),
    # ---- layers and files
    Fault(
        "the running variance keeps its bias",
        "graphc/nn/functional/normalization.py",
        "return count / max(count - 1, 1)",
        "return 1.0",
        ("tests/nn/test_layers_equal_torch.py", "-k", "BatchNorm1d"),
    ),
    Fault(
        "every element from the largest on counts as chosen",
        "ops/pooling.py",
        "_place(seen, offsets) == first, seen",
        "_place(seen, offsets) >= first, seen",
        ("tests/nn/test_layers_equal_torch.py", "-k", "equal_elements"),
    ),
    Fault(
        "arrays of a file may overlap",
        "graphc/files.py",
        "if entry.begin != covered:",
        "if entry.begin > covered:",
        ("tests/files/test_arrays.py", "-k", "lies"),
    ),
    Fault(
        "a checkpoint is restored root by root",
        "graphc/checkpoint.py",
        "commits.append(_prepare(name, root, mine))",
        "_prepare(name, root, mine)()",
        ("tests/files/test_checkpoint.py", "-k", "changes_nothing"),
    ),
    # ---- routines, scatter, borders, scans
    Fault(
        "infinity is sorted as NaN",
        "backends/llvm/routines.py",
        'lost = f.compare("ugt", size, literal(infinity, type_))',
        'lost = f.compare("uge", size, literal(infinity, type_))',
        ("tests/llvm/test_routines.py", "-k", "references"),
    ),
    Fault(
        "a group loses its first value",
        "ops/scatter.py",
        'build.apply("<=", low, place)',
        'build.apply("<", low, place)',
        ("tests/ops/test_samples.py", "-k", "scatter_grouped"),
    ),
    Fault(
        "a border's cotangents come back one place off",
        "ops/extend.py",
        '"reflect": (1, extent - 1 - high),',
        '"reflect": (0, extent - 1 - high),',
        ("tests/ops/test_samples.py", "-k", "extend"),
    ),
    Fault(
        "a scan follows a reader that is read elsewhere",
        "graphc/passes/unify.py",
        "if late.inlines else ():",
        "if not late.inlines else ():",
        ("tests/passes/test_moved_scans.py",),
    ),
    # ---- the runtime
    Fault(
        "a loop runs once too often",
        "backends/llvm/walker.py",
        "%again = icmp slt i64 %count1, %b",
        "%again = icmp sle i64 %count1, %b",
        ("tests/runtime/test_program.py", "-k", "loops"),
    ),
    Fault(
        "a failed check commits",
        "backends/llvm/walker.py",
        "br i1 %good, label %last, label %failed",
        "br i1 %good, label %last, label %last",
        ("tests/runtime/test_program.py", "-k", "all_or_nothing"),
    ),
    Fault(
        "the last block of a launch is nobody's",
        "backends/llvm/table.py",
        "chunks[-1].append((launch, begin, grid))",
        "chunks[-1].append((launch, begin, max(grid - 1, 1)))",
        ("tests/runtime/test_program.py", "-k", "large or sizes"),
    ),
)

#: two that are noticed within seconds, for every run
QUICK = ("an index equal to the extent counts as inside", "a failed check commits")
