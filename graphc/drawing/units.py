"""Which function of the diagram each node of a graph belongs to.

::

    node of a module that is not opened            -> the module
    node of a composite call                       -> the composite
    other primitive                                -> itself
    node made by differentiation (``primal``)      -> the derivative of its primal's function
    what only an optimizer's updates need          -> "update"
    read, mark, broadcast, cast ... by themselves  -> no function: edges pass through them
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

from graphc.graph import SOURCES, Graph, Node, Value, ancestors, composite_of
from graphc.records import dataclass

__all__ = [
    "STRUCTURED",
    "Flow",
    "Unit",
    "Units",
    "assign_units",
    "block_names",
    "derivative_order",
    "phases",
    "root_of",
    "with_primals",
    "without_derivatives",
]

#: nodes that a diagram passes through where no function holds them
_TRANSPARENT = frozenset({"read", "mark", "attach", "stop_gradient", "broadcast", "cast"})
#: sources of plain numbers, which a diagram leaves out
_NUMBERS = frozenset({"full", "size", "iota", "constant"})
#: nodes with bodies, and nodes that only arrange what a state holds
STRUCTURED = frozenset({"loop", "while", "cond"})
_ARRANGE = frozenset({"read", "permute", "reshape", "broadcast", "cast", "flip", "slice"})


@dataclass(eq=False)
class Unit:
    """A function of the diagram: the nodes behind one bullet.

    ``base`` is the forward function that it is a derivative of, ``modules`` the opened modules
    around it as raw path segments, ``path`` its own raw block path ("" for a lone primitive).
    """

    key: str
    phase: str
    order: int
    modules: tuple[str, ...]
    path: str
    base: Unit | None = None
    nodes: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """A value as the diagram sees it: through what is transparent, with a bar for stop_gradient."""

    value: Value
    bar: bool = False


@dataclass(frozen=True)
class Units:
    """The functions in program order, whose nodes are whose, and how values flow between them."""

    graph: Graph
    names: Mapping[str, str]  # rendered block paths by raw ones
    units: tuple[Unit, ...]
    of: Mapping[Node, Unit]
    flows: Mapping[Value, Flow]
    hidden: frozenset[Value]

    def flow(self, value: Value) -> Flow:
        """``value`` seen through transparent nodes."""
        return self.flows.get(value, Flow(value))


def with_primals(graph: Graph) -> tuple[tuple[Node, ...], dict[Node, Node]]:
    """The nodes to draw, and for each forward node that derivatives came from, what stands for it.

    A pass may have replaced a primal: then the equal node of its place stands for it. What the
    graph does not hold at all (a gradient drawn without its cost) is drawn with it.
    """
    own = set(graph.nodes)
    roots = sorted({root_of(n) for n in graph.nodes if n.primal is not None}, key=_serial)
    places: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.primal is None:
            places.setdefault(_place(node), []).append(node)
    standing: dict[Node, Node] = {}
    missing: list[Node] = []
    for root in roots:
        equal = places.get(_place(root), [])
        if root in own:
            standing[root] = root
        elif equal:
            standing[root] = equal.pop(0) if len(equal) > 1 else equal[0]
        else:
            standing[root] = root
            missing.append(root)
    if not any(n.primal is None and n.op not in SOURCES for n in graph.nodes):
        standing, missing = {root: root for root in roots}, list(roots)
    if not missing:
        return graph.nodes, standing
    ends = [v for n in (*graph.nodes, *missing) for v in n.outputs[:1]]
    return tuple(ancestors(ends)), standing


def without_derivatives(nodes: Sequence[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """The forward nodes that need no derivative: no optimizer either."""
    phase = phases(nodes, outputs)
    left_out: set[Node] = set()
    kept = []
    for node in nodes:
        if phase[node] != "forward" or any(v.node in left_out for v in node.inputs):
            left_out.add(node)
        else:
            kept.append(node)
    return tuple(kept)


def _place(node: Node) -> tuple[object, ...]:
    attrs = tuple((k, v) for k, v in node.attrs.items() if isinstance(v, (str, int, float, tuple)))
    return node.op, node.block, node.source, node.types, attrs


def _serial(node: Node) -> int:
    return node.serial


def root_of(node: Node) -> Node:
    """The forward node at the end of the chain of primals."""
    while node.primal is not None:
        node = node.primal
    return node


def derivative_order(node: Node) -> int:
    """0 for a forward node, 1 for one made by differentiating it, 2 for one of second order.

    A node of order 0 may still be computed from gradients: an optimizer's.
    """
    order = 0
    while node.primal is not None:
        node, order = node.primal, order + 1
    return order


def phases(nodes: Sequence[Node], outputs: Iterable[Value]) -> dict[Node, str]:
    """forward, backward or update for each node.

    An update is computed from a derivative and needed by none, nor by an output of the graph.
    """
    derived: set[Node] = set()
    for node in nodes:
        if node.primal is not None or any(v.node in derived for v in node.inputs):
            derived.add(node)
    last = [v for n in nodes if n.primal is not None for v in n.outputs[:1]]
    needed = set(ancestors([*last, *outputs]))
    found = {}
    for node in nodes:
        if node.primal is not None:
            found[node] = "backward"
        elif node in needed or node.op in SOURCES:
            found[node] = "forward"
        else:
            found[node] = "update" if node in derived else "forward"
    counting: set[Node] = set()
    for node in nodes:
        if node in needed or node.op in SOURCES or node.block or found[node] != "forward":
            continue  # what a module attached is drawn in it
        if all(v.node.op in SOURCES - {"observed"} or v.node in counting for v in node.inputs):
            counting.add(node)  # what only counts calls belongs to the update too
            found[node] = "update"
    _pull_into_update(nodes, found)
    return found


def _pull_into_update(nodes: Sequence[Node], found: dict[Node, str]) -> None:
    """What only updates use (an optimizer's step counter, its slots) is part of the update."""
    users: dict[Node, set[str]] = {}
    for node in reversed(nodes):
        phase = found[node]
        if phase == "forward" and node.op != "observed" and users.get(node) == {"update"}:
            phase = found[node] = "update"
        for value in node.inputs:
            users.setdefault(value.node, set()).add(phase)


class _Modules:
    """Which modules are opened at a depth. ``None`` opens all that have modules inside."""

    def __init__(self, nodes: Iterable[Node], depth: int | None, within: str) -> None:
        self.depth = depth
        self.within = tuple(within.split("/")) if within else ()
        paths = {composite_of(n.block)[0] for n in nodes if n.block}
        prefixes = {tuple(p.split("/")[:k]) for p in paths for k in range(1, p.count("/") + 2)}
        self.parents = {prefix[:-1] for prefix in prefixes}

    def opened(self, prefix: tuple[str, ...]) -> bool:
        if self.depth is not None:
            return len(prefix) <= self.depth
        return prefix in self.parents

    def place(self, node: Node) -> tuple[tuple[str, ...], str]:
        """The opened modules around a node, and the block that its function is ("": none)."""
        modules, composites = composite_of(node.block)
        segments = tuple(modules.split("/")) if modules else ()
        start = len(self.within) if segments[: len(self.within)] == self.within else 0
        for length in range(start + 1, len(segments) + 1):
            if not self.opened(segments[:length]):
                return segments[start : length - 1], "/".join(segments[:length])
        if composites and node.block != "/".join(self.within):
            return segments[start:], "/".join((*segments, composites.partition("/")[0]))
        return segments[start:], ""


def assign_units(
    graph: Graph,
    nodes: Sequence[Node],
    standing: Mapping[Node, Node],
    depth: int | None,
    *,
    within: str = "",
    aliases: Mapping[Value, Value] | None = None,
) -> Units:
    """Group ``nodes`` (in program order) into the functions of a diagram.

    ``standing``: see ``with_primals``. Of a loop's body, ``within`` is the block of the loop and
    ``aliases`` are the outside values that its arguments stand for.
    """
    flows = {value: Flow(outside) for value, outside in (aliases or {}).items()}
    arranged = _arranged_for_bodies(nodes)
    modules = _Modules((n for n in nodes if n.primal is None and n not in arranged), depth, within)
    phase = phases(nodes, graph.outputs)
    names = block_names(graph, nodes)
    made: dict[tuple[object, ...], Unit] = {}
    of: dict[Node, Unit] = {}
    hidden: set[Value] = set()
    for node in nodes:
        if phase[node] == "backward" or (node.op in SOURCES and node.op != "constant"):
            continue
        if node in arranged:
            source = node.inputs[0]
            flows[node.outputs[0]] = flows.get(source, Flow(source))
            continue
        around, path = modules.place(node)
        if phase[node] == "update":
            around, path = (), path.partition("/")[0]
            key: tuple[object, ...] = ("update", path)
        else:
            key = ("block", path) if path else ("node", node.serial)
            if not path and _passes_through(node, flows, hidden):
                continue
        unit = made.get(key)
        if unit is None:
            unit = made[key] = Unit(f"u{len(made)}", phase[node], 0, around, path)
        unit.nodes.append(node)
        of[node] = unit
    _assign_derivatives(nodes, standing, of, made)
    return Units(graph, names, tuple(made.values()), of, flows, frozenset(hidden))


def block_names(graph: Graph, nodes: Sequence[Node]) -> dict[str, str]:
    """Rendered forms of the blocks' paths of ``nodes`` and of every beginning of them."""
    whole = Graph(graph.inputs, tuple(v for n in nodes for v in n.outputs[:1]))
    found = {}
    for raw, rendered in whole.block_names.items():
        pairs = zip(raw.split("/"), rendered.split("/"), strict=True)
        before: tuple[str, str] = ("", "")
        for segment, shown in pairs:
            slash = "/" if before[0] else ""
            before = (before[0] + slash + segment, before[1] + slash + shown)
            found[before[0]] = before[1]
    return found


def _arranged_for_bodies(nodes: Sequence[Node]) -> set[Node]:
    """What only prepares states for the bodies of loops (a transposed weight): part of the body in
    the eyes of a person.
    """
    for_bodies: set[Node] = set()
    users: dict[Node, list[Node]] = {}
    for node in reversed(nodes):
        uses = [u for u in users.get(node, []) if u.primal is None]
        arranges = node.op in _ARRANGE and uses and node.primal is None
        if arranges and all(u.op in STRUCTURED or u in for_bodies for u in uses):
            for_bodies.add(node)
        for value in node.inputs:
            users.setdefault(value.node, []).append(node)
    found: set[Node] = set()
    for node in nodes:
        source = node.inputs[0].node if node.inputs else node
        if node in for_bodies and (source.op in ("parameter", "state") or source in found):
            found.add(node)
    return found


def _passes_through(node: Node, flows: dict[Value, Flow], hidden: set[Value]) -> bool:
    if node.op in _TRANSPARENT:
        source = flows.get(node.inputs[0], Flow(node.inputs[0]))
        flows[node.outputs[0]] = Flow(source.value, source.bar or node.op == "stop_gradient")
        if source.value in hidden:
            hidden.add(node.outputs[0])
        return True
    single = node.outputs[0].size == 1 or node.op != "constant"
    if node.op in _NUMBERS and not node.inputs and single:
        hidden.update(node.outputs)
        return True
    return False


def _assign_derivatives(
    nodes: Sequence[Node],
    standing: Mapping[Node, Node],
    of: dict[Node, Unit],
    made: dict[tuple[object, ...], Unit],
) -> None:
    """Derivatives go to the derivative of their primal's function, order by order."""
    adopted = _adopting_users(nodes, of)
    for node in nodes:
        if node.primal is None:
            continue
        root = root_of(node)
        root = standing.get(root, root)
        base = of.get(root) or adopted.get(root)
        order = derivative_order(node)
        key = (order, base.key if base else root.block)
        unit = made.get(key)
        if unit is None:
            around = base.modules if base else ()
            path = base.path if base else root.block
            unit = made[key] = Unit(f"u{len(made)}", "backward", order, around, path, base)
        unit.nodes.append(node)
        of[node] = unit


def _adopting_users(nodes: Sequence[Node], of: Mapping[Node, Unit]) -> dict[Node, Unit]:
    """For forward nodes outside of every function: the first function that uses them."""
    found: dict[Node, Unit] = {}
    for node in reversed(nodes):
        unit = of.get(node) or found.get(node)
        if unit is None or node.primal is not None:
            continue
        for value in node.inputs:
            if value.node not in of:
                found[value.node] = unit
    return found
