"""The boxes of a diagram: a panel for each phase, a box for each opened module and each loop.

A cluster's key is its path: ``forward:net:net/blocks.0``; a loop's part is ``label@key``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphc.drawing.picture import Cluster, Item

__all__ = ["cluster_key", "clusters_of", "loop_key"]


def cluster_key(
    phase: str, order: int, modules: Sequence[str], names: Mapping[str, str], place: str = ""
) -> str:
    """The key of the box around opened ``modules`` (raw segments); ``place`` is the loop's box in
    whose body they are.
    """
    head = place or (phase if order <= 1 else f"{phase}{order}")
    paths = ["/".join(modules[: k + 1]) for k in range(len(modules))]
    return ":".join((head, *(names.get(path, path).replace(":", "_") for path in paths)))


def loop_key(parent: str, label: str, key: str) -> str:
    """The key of a loop's box in the box ``parent``."""
    return f"{parent}:{label.replace(':', '_')}@{key}"


def clusters_of(items: Iterable[Item]) -> tuple[Cluster, ...]:
    """Every box that an item names, and those around it; panels have names if there are several."""
    used = {item.cluster: item.phase for item in items}
    several = len({key.partition(":")[0] for key in used}) > 1
    found: dict[str, Cluster] = {}
    for key, phase in used.items():
        parts = key.split(":")
        for length in range(1, len(parts) + 1):
            name, last = ":".join(parts[:length]), parts[length - 1].partition("@")[0]
            label = last.rpartition("/")[2] if several or length > 1 else ""
            label = "" if label == "update" else label
            parent, panel = ":".join(parts[: length - 1]), length == 1
            tip = "" if panel else last
            found.setdefault(name, Cluster(name, label, parent, phase, panel, tip))
    return tuple(found[key] for key in sorted(found))
