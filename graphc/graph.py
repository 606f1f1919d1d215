"""A program: values, the nodes that compute them, and the graphs that are closed over them.

::

    Node  := op, inputs (values, ordered), attrs, types (one a result), block, source, serial,
             primal, again
    Value := node, index, name                 (result ``index`` of ``node``)
    Graph := inputs, outputs, updates (state, new value); its nodes are what these need, by serial
    block := segment / segment ...             (the module and composite calls that made the node)

Sources are nodes of op observed, argument (of a loop's body), parameter, state and constant.
Everything is immutable; identity is equality (``==`` on values is elementwise). ``serial``, a
creation counter, is program order and so a topological order: a node's inputs exist before it
does.

``apply`` makes nodes. It finds an op's type rule in ``TYPE_RULES``, which ``graphc.op`` fills when
ops register, so this module knows no op.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graphc.errors import GraphcError, ScopeError
from graphc.operators import Operators
from graphc.source import here, pin, pinned
from graphc.types import DType, Extent, Shape, SourceLoc, TensorType

if TYPE_CHECKING:
    import networkx

__all__ = [
    "COMPOSITES",
    "SOURCES",
    "STATES",
    "TYPE_RULES",
    "Graph",
    "Node",
    "Value",
    "ancestors",
    "apply",
    "apply_all",
    "block",
    "check_scope",
    "clone",
    "composite_of",
    "copy_with_types",
    "current_block",
    "differentiating",
    "follow",
    "inline",
    "make_node",
    "rebuild",
    "recompute",
    "source_value",
    "standing",
    "with_bodies",
]

#: ops without inputs whose value comes from outside the graph
SOURCES = frozenset({"observed", "argument", "parameter", "state", "constant"})
#: the sources that carry a cell in attrs["state"]; applying an op to one makes a ``read`` of it
STATES = frozenset({"parameter", "state"})
#: ops whose operands are the states themselves, not a read of them
_TAKES_STATES = frozenset({"read", "attach"})

TypeRule = Callable[[tuple[TensorType, ...], Mapping[str, Any]], tuple[TensorType, ...]]
TYPE_RULES: dict[str, TypeRule] = {}
#: names of composite functions: block segments that the folded text and the drawing fold
COMPOSITES: set[str] = set()
#: what ``Graph.text`` and ``_repr_svg_`` call; ``graphc.text`` and ``graphc.draw`` fill it when
#: imported
HOOKS: dict[str, Callable[..., Any]] = {}

_serials = itertools.count(1)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Node:
    """One application of an op. ``primal`` is the forward node that a backward node belongs to.

    ``again`` above 0 tells that the node repeats another one, later, so that its result need not be
    kept until then (rematerialization): equal nodes that differ in it are not merged.
    """

    op: str
    inputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    types: tuple[TensorType, ...]
    block: str = ""
    source: SourceLoc | None = None
    serial: int = field(default_factory=lambda: next(_serials))
    primal: Node | None = None
    again: int = 0
    outputs: tuple[Value, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))
        outputs = tuple(Value(self, index) for index in range(len(self.types)))
        object.__setattr__(self, "outputs", outputs)

    def __repr__(self) -> str:
        where = f", {self.source.file}:{self.source.line}" if self.source else ""
        return f"<{self.op}({', '.join(_label(v) for v in self.inputs)}){where}>"


class Value(Operators):
    """Result ``index`` of ``node``. ``name`` is a label for people; nothing computed depends on
    it.
    """

    __slots__ = ("__weakref__", "index", "name", "node")

    def __init__(self, node: Node, index: int = 0, name: str | None = None) -> None:
        self.node, self.index, self.name = node, index, name

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def size(self) -> Extent:
        return self.type.elements

    def named(self, name: str) -> Value:
        """Label the value for text, drawings and errors; the same value comes back."""
        self.name = name
        return self

    def __repr__(self) -> str:
        composite = composite_of(self.node.block)[1]
        op = composite.partition("/")[0].partition("#")[0] if composite else self.node.op
        source = self.node.source
        where = f", {source.file}:{source.line}" if source else ""
        return f"<{_label(self)}: {self.type} = {op}{where}>"

    def _repr_svg_(self) -> str | None:
        return HOOKS["svg"](self) if "svg" in HOOKS else None

    # A value is its own copy: the graph under it is shared and immutable.
    def __copy__(self) -> Value:
        return self

    def __deepcopy__(self, memo: object) -> Value:
        return self


def _label(value: Value) -> str:
    if value.name:
        return value.name
    state = value.node.attrs.get("state")
    return str(getattr(state, "name", "") or f"%{value.node.serial}")


# ---- making nodes


@dataclass(slots=True)
class _Frame:
    """An open block: its path, and how often each name was called in it."""

    path: str
    calls: dict[str, int] = field(default_factory=dict)


_frames: ContextVar[tuple[_Frame, ...]] = ContextVar("graphc_blocks", default=())
_primal: ContextVar[Node | None] = ContextVar("graphc_primal", default=None)
_again: ContextVar[int] = ContextVar("graphc_again", default=0)
_closed: ContextVar[bool] = ContextVar("graphc_closed", default=False)
_roots = itertools.count(1)


@contextmanager
def block(name: str) -> Iterator[str]:
    """Nodes made inside belong to block ``name`` of the current block; yields its path.

    A second call of the same name in a block becomes ``name#2``. A root gets ``#`` and a
    process-wide number, which ``Graph.block_names`` renders as ``name#1``, ``name#2`` in program
    order (or plain ``name`` where it is alone).
    """
    frames = _frames.get()
    if frames and frames[-1].path:
        parent = frames[-1]
        count = parent.calls[name] = parent.calls.get(name, 0) + 1
        path = f"{parent.path}/{name}" if count == 1 else f"{parent.path}/{name}#{count}"
    else:
        path = f"{name}#{next(_roots)}"
    token = _frames.set((*frames, _Frame(path)))
    try:
        yield path
    finally:
        _frames.reset(token)


def current_block() -> str:
    """The path of the innermost open block, "" outside of any."""
    frames = _frames.get()
    return frames[-1].path if frames else ""


def composite_of(path: str) -> tuple[str, str]:
    """Split a block path: (modules' part, composite calls at its end), either may be "".

    >>> COMPOSITES.add("softmax"); composite_of("net/0/softmax#2")
    ('net/0', 'softmax#2')
    """
    segments = path.split("/") if path else []
    split = len(segments)
    while split and segments[split - 1].partition("#")[0] in COMPOSITES:
        split -= 1
    return "/".join(segments[:split]), "/".join(segments[split:])


@contextmanager
def differentiating(primal: Node) -> Iterator[None]:
    """Nodes made inside are derivatives of ``primal``: they keep it, its block and its line."""
    frames = _frames.set((*_frames.get(), _Frame(primal.block)))
    before, again = _primal.set(primal), _again.set(0)
    try:
        with pinned(primal.source):
            yield
    finally:
        _again.reset(again)
        _primal.reset(before)
        _frames.reset(frames)


def make_node(
    op: str, inputs: tuple[Value, ...], attrs: Mapping[str, Hashable], types: tuple[TensorType, ...]
) -> Node:
    """A node in the current block, at the current line, with no rule consulted."""
    place = current_block(), here(), next(_serials), _primal.get(), _again.get()
    return Node(op, inputs, attrs, types, *place)


def source_value(op: str, type: TensorType, name: str | None = None, **attrs: Hashable) -> Value:
    """The value of a new source node (``op`` in SOURCES)."""
    value = make_node(op, (), attrs, (type,)).outputs[0]
    value.name = name
    return value


def apply_all(op: str, *inputs: Value, **attrs: Any) -> tuple[Value, ...]:
    """Apply a primitive op: its results. Inputs are Values whose types the op's rule accepts as
    they are.

    States are read first, so that all uses of this application, its derivative included, see one
    version.
    """
    if op not in _TAKES_STATES and not _closed.get():
        inputs = tuple(apply_all("read", v)[0] if v.node.op in STATES else v for v in inputs)
    try:
        types = TYPE_RULES[op](tuple(v.type for v in inputs), attrs)
    except GraphcError as error:
        raise _located(error, op) from None
    return make_node(op, inputs, attrs, types).outputs


def apply(op: str, *inputs: Value, **attrs: Any) -> Value:
    """Apply a primitive op: its first result (most ops have one)."""
    return apply_all(op, *inputs, **attrs)[0]


def _located(error: GraphcError, op: str) -> GraphcError:
    if error.source is not None:
        return error
    return type(error)(error.message, here())


# ---- walking


def ancestors(roots: Iterable[Value], stop: Iterable[Value] = ()) -> list[Node]:
    """The nodes that ``roots`` need, in program order, not looking behind values in ``stop``."""
    stopped = {id(v) for v in stop}
    seen: set[Node] = set()
    stack = [v.node for v in roots if id(v) not in stopped]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack.extend(v.node for v in node.inputs if id(v) not in stopped)
    return sorted(seen, key=lambda n: n.serial)


@dataclass(frozen=True, eq=False)
class Graph:
    """What computes ``outputs`` and the new values of ``updates`` from ``inputs`` (and states and
    constants).
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    updates: tuple[tuple[Value, Value], ...] = ()

    @property
    def results(self) -> tuple[Value, ...]:
        """Outputs, then the updates' new values."""
        return self.outputs + tuple(new for _, new in self.updates)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, inputs' and updated states' included, in program (so topological) order."""
        states = (state for state, _ in self.updates)
        return tuple(ancestors((*self.inputs, *states, *self.results)))

    @cached_property
    def uses(self) -> Mapping[Value, tuple[tuple[Node, int], ...]]:
        """For each value the (node, input slot) pairs that read it."""
        found: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for slot, value in enumerate(node.inputs):
                found.setdefault(value, []).append((node, slot))
        return {value: tuple(places) for value, places in found.items()}

    @cached_property
    def states(self) -> tuple[Value, ...]:
        """The parameters and states it reads or writes, in program order."""
        return tuple(n.outputs[0] for n in self.nodes if n.op in STATES)

    @cached_property
    def nx(self) -> networkx.MultiDiGraph[Any]:
        """The bipartite view: Value -> Node edges keyed by input slot, Node -> Value edges keyed
        by result.
        """
        import networkx  # heavy, and only passes that run its algorithms need it

        view: networkx.MultiDiGraph[Any] = networkx.MultiDiGraph()
        for node in self.nodes:
            view.add_node(node)
            for slot, value in enumerate(node.inputs):
                view.add_edge(value, node, key=slot)
            for index, value in enumerate(node.outputs):
                view.add_edge(node, value, key=index)
        return view

    @cached_property
    def block_names(self) -> Mapping[str, str]:
        """Every block path (and its parents) in the graph and its bodies, and its rendered form:
        roots numbered in program order.
        """
        roots: dict[str, dict[str, int]] = {}
        nodes = list(with_bodies(self))
        for node in nodes:
            root = node.block.partition("/")[0]
            numbered = roots.setdefault(root.partition("#")[0], {})
            numbered.setdefault(root, len(numbered) + 1)
        rendered = {"": ""}
        for node in nodes:
            path = node.block
            while path and path not in rendered:
                root, slash, rest = path.partition("/")
                name = root.partition("#")[0]
                alone = len(roots[name]) == 1
                label = name if alone else f"{name}#{roots[name][root]}"
                rendered[path] = label + slash + rest
                path = path.rpartition("/")[0]
        return rendered

    def text(self, *, folded: bool = False) -> str:
        """The graph as text: unfolded, every primitive (it parses back); folded, every composite
        one line.
        """
        return str(HOOKS["text"](self, folded=folded))

    def __repr__(self) -> str:
        counts = f"{len(self.nodes)} nodes, {len(self.outputs)} outputs"
        return f"<Graph: {len(self.inputs)} inputs, {counts}>"

    def _repr_svg_(self) -> str | None:
        return HOOKS["svg"](self) if "svg" in HOOKS else None


def with_bodies(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph, each with those of its bodies behind it."""
    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, Graph):
                yield from with_bodies(value)


# ---- rebuilding

Rewrite = Callable[[Node, tuple[Value, ...]], "Sequence[Value] | None"]


def rebuild(graph: Graph, rewrite: Rewrite) -> Graph:
    """A graph with nodes replaced, in one pass over it.

    ``rewrite(node, inputs)`` sees every node in program order with its inputs already rewritten;
    it returns the values that stand for the node's results, or None to keep the node (cloned only
    where its inputs changed). Graph inputs and updated states may not be replaced. New nodes made
    inside take the replaced node's block and line.
    """
    kept = {id(v) for v in graph.inputs} | {id(state) for state, _ in graph.updates}
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    with standing() as stand_at:
        for node in graph.nodes:
            inputs = tuple([replaced.get(v, v) for v in node.inputs])
            stand_at(node, moved)
            new = None
            if not any(id(v) in kept for v in node.outputs):
                new = rewrite(node, inputs)
            if new is None:
                if node.primal not in moved and _same(inputs, node.inputs):
                    continue
                new = _on_new_inputs(node, inputs, moved)
            for old, value in zip(node.outputs, new, strict=True):
                if old is not value:
                    replaced[old] = value
                    value.name = value.name or old.name
            if new and new[0].node is not node:
                moved[node] = new[0].node
    return Graph(
        graph.inputs,
        tuple(replaced.get(v, v) for v in graph.outputs),
        tuple((state, replaced.get(new, new)) for state, new in graph.updates),
    )


def clone(node: Node, inputs: tuple[Value, ...], attrs: Mapping[str, Any] | None = None) -> Node:
    """``node`` on other inputs of the same types (or with other attrs), as a new node of the same
    place.
    """
    return copy_with_types(node, inputs, node.attrs if attrs is None else attrs, node.types)


def copy_with_types(
    node: Node,
    inputs: tuple[Value, ...],
    attrs: Mapping[str, Any],
    types: tuple[TensorType, ...],
    *,
    replacing: bool = False,
    moved: Mapping[Node, Node] | None = None,
    again: int | None = None,
) -> Node:
    """A new node of ``node``'s op, block, line and names; no rule is consulted.

    ``replacing``: the old node leaves the graph, so the new one takes its place in program order
    where it can, that is where all its inputs stand before it. ``moved`` says what replaced the
    forward nodes, for ``primal``.
    """
    keeps = replacing and all(v.node.serial < node.serial for v in inputs)
    serial = node.serial if keeps else next(_serials)
    primal = node.primal if moved is None else follow(moved, node.primal)
    times = node.again if again is None else again
    copied = Node(node.op, inputs, attrs, types, node.block, node.source, serial, primal, times)
    for old, new in zip(node.outputs, copied.outputs, strict=False):
        new.name = old.name
    return copied


def inline(graph: Graph, arguments: Sequence[Value]) -> tuple[Value, ...]:
    """The outputs of ``graph`` on other inputs, as new nodes."""
    replaced = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new = copy_with_types(node, inputs, node.attrs, node.types)
            replaced.update(zip(node.outputs, new.outputs, strict=True))
    return tuple(replaced.get(v, v) for v in graph.outputs)


def recompute(outputs: Sequence[Value], given: Sequence[Value], again: int) -> tuple[Value, ...]:
    """The outputs computed once more from the values in ``given``, by nodes that say so.

    What they attach and mark happened the first time.
    """
    replaced: dict[Value, Value] = {}
    moved: dict[Node, Node] = {}
    for node in ancestors(outputs, given):
        inputs = tuple(replaced.get(v, v) for v in node.inputs)
        if node.op in ("attach", "mark"):
            replaced[node.outputs[0]] = inputs[0]
        elif inputs and node.op != "read":
            new = copy_with_types(node, inputs, node.attrs, node.types, moved=moved, again=again)
            moved[node] = new
            replaced.update(zip(node.outputs, new.outputs, strict=True))
    kept = {id(v) for v in given}
    return tuple(v if id(v) in kept else replaced.get(v, v) for v in outputs)


def follow(moved: Mapping[Node, Node], primal: Node | None) -> Node | None:
    """What stands for a forward node now."""
    return None if primal is None else moved.get(primal, primal)


def _same(a: Sequence[Value], b: Sequence[Value]) -> bool:
    return all(x is y for x, y in zip(a, b, strict=True))


def _on_new_inputs(
    node: Node, inputs: tuple[Value, ...], moved: Mapping[Node, Node]
) -> tuple[Value, ...]:
    if all(a.type == b.type for a, b in zip(inputs, node.inputs, strict=True)):
        attrs, types = node.attrs, node.types
        return copy_with_types(node, inputs, attrs, types, replacing=True, moved=moved).outputs
    return apply_all(node.op, *inputs, **node.attrs)


@contextmanager
def standing() -> Iterator[Callable[[Node, Mapping[Node, Node]], None]]:
    """What is yielded says where nodes are made from then on: in the block, line and primal of a
    node; states are not read.
    """
    outer = _frames.get()
    frames, primal, closed = _frames.set(outer), _primal.set(None), _closed.set(True)
    again = _again.set(0)

    def stand_at(node: Node, moved: Mapping[Node, Node]) -> None:
        _frames.set((*outer, _Frame(node.block)))
        _primal.set(follow(moved, node.primal))
        _again.set(node.again)
        pin(node.source)

    try:
        with pinned(None):
            yield stand_at
    finally:
        _again.reset(again)
        _closed.reset(closed)
        _primal.reset(primal)
        _frames.reset(frames)


def check_scope(graph: Graph) -> None:
    """A body's argument that the graph needs but does not have as an input: ScopeError naming both
    lines.
    """
    given = {id(v) for v in graph.inputs}
    for node in graph.nodes:
        if node.op == "argument" and not any(id(v) in given for v in node.outputs):
            user = graph.uses.get(node.outputs[0], ())
            where = f", used at {user[0][0].source}" if user and user[0][0].source else ""
            raise ScopeError(
                f"{_label(node.outputs[0])} belongs to the body of a loop or branch, used outside"
                f"{where}: return it from the body",
                node.source,
            )
