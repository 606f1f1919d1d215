"""Graph attention on Zachary's karate club: who follows whom when the club splits.

Two members are labelled, the instructor and the officer who fell out; the net, two layers of graph
attention, says for each of the 34 which side they took (Zachary 1977; the labels are his).
With ``--cora DIR`` (a folder with cora.content and cora.cites) it also classifies the papers of
Cora, 20 of each class labelled, as Kipf and Welling 2017 split them.

    python examples/gat_karate.py --out demo-output/gat

Over 10 seeds it places 33 of 34 members in the median, in some 20 seconds on two cores: one of
them, whom Zachary's paper discusses, had friends on both sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import networkx
import numpy as np
from numpy.typing import NDArray

import graphc as gc
from graphc import nn, ops, optim

Array = NDArray[Any]


class Attention(nn.Module):
    """Two layers of graph attention."""

    def __init__(
        self, channels: int, hidden: int, heads: int, classes: int, dropout: float
    ) -> None:
        self.drop = nn.Dropout(dropout)
        self.first = nn.GATConv(channels, hidden, heads, dropout=dropout)
        self.second = nn.GATConv(hidden * heads, classes, concat=False, dropout=dropout)

    def forward(self, x: gc.Value, edges: gc.Value) -> gc.Value:
        """x [N, channels], edges [2, E] to logits [N, classes]."""
        hidden = nn.functional.elu(self.first(self.drop(x), edges))
        return self.second(self.drop(hidden), edges)


class Classifier:
    """Training on the labelled nodes of one graph."""

    def __init__(self, net: nn.Module, x: Array, edges: Array, labels: Array, lr: float) -> None:
        self.x, self.edges, self.labels = x, edges, labels
        count, links = gc.Dim("N", specialize=False), gc.Dim("E", specialize=False)
        nodes = gc.observed("nodes", (count, x.shape[1]))
        ends = gc.observed("edges", (2, links), gc.int64)
        wanted, mask = gc.observed("wanted", (count,), gc.int64), gc.observed("mask", (count,))
        logits = net(nodes, ends)
        each = nn.functional.cross_entropy(logits, wanted, reduction="none")
        self.loss = ops.sum(each * mask) / ops.sum(mask)
        opt = optim.Adam(lr=lr, weight_decay=5e-4)
        self.step = gc.compile([nodes, ends, wanted, mask], self.loss, opt.minimize(self.loss))
        self.predict = gc.compile([nodes, ends], ops.argmax(logits, -1))

    def run(self, known: Array, epochs: int) -> Array:
        """Train on the nodes ``known``; the predicted class of every node."""
        mask = np.zeros(len(self.x), np.float32)
        mask[known] = 1
        for _ in range(epochs):
            self.step(self.x, self.edges, self.labels, mask)
        predicted: Array = self.predict(self.x, self.edges)
        return predicted


def karate() -> tuple[Array, Array]:
    """Friendships in both directions, [2, 156], and the side that each of the 34 took."""
    club = networkx.karate_club_graph()
    edges = np.array(list(club.edges)).T
    sides = [int(club.nodes[n]["club"] != "Mr. Hi") for n in club]
    return np.concatenate([edges, edges[::-1]], 1), np.array(sides)


def cora(folder: Path) -> tuple[Array, Array, Array]:
    """Words [2708, 1433] scaled to sum 1, citations in both directions, classes."""
    rows = [line.split() for line in (folder / "cora.content").read_text().splitlines()]
    place = {row[0]: number for number, row in enumerate(rows)}
    words = np.array([row[1:-1] for row in rows], np.float32)
    classes = np.unique([row[-1] for row in rows], return_inverse=True)[1]
    lines = [line.split() for line in (folder / "cora.cites").read_text().splitlines()]
    edges = np.array([[place[a], place[b]] for a, b in lines if a in place and b in place]).T
    both = np.unique(np.concatenate([edges, edges[::-1]], 1), axis=1)
    return words / words.sum(1, keepdims=True).clip(1), both, classes


def run_cora(folder: Path | None, epochs: int) -> None:
    """Classify papers, where the data are."""
    if folder is None or not (folder / "cora.content").exists():
        click.echo("Cora: not run; give --cora DIR with cora.content and cora.cites")
        return
    gc.manual_seed(0)
    words, edges, classes = cora(folder)
    order = np.random.default_rng(0).permutation(len(classes))
    known = np.concatenate([order[classes[order] == c][:20] for c in range(7)])
    tested = np.setdiff1d(order, known)[-1000:]
    classifier = Classifier(Attention(words.shape[1], 8, 8, 7, 0.6), words, edges, classes, 5e-3)
    predicted = classifier.run(known, epochs)
    click.echo(f"Cora: {(predicted == classes)[tested].mean():.1%} of 1000 papers")


@click.command()
@click.option("--quick", is_flag=True, help="One seed, few epochs.")
@click.option("--seeds", default=10, show_default=True)
@click.option("--epochs", default=100, show_default=True)
@click.option("--cora", "folder", type=click.Path(path_type=Path), help="Where Cora lies.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output/gat"))
def main(quick: bool, seeds: int, epochs: int, folder: Path | None, out: Path) -> None:
    """Train on two members, place the others."""
    edges, sides = karate()
    x = np.eye(34, dtype=np.float32)
    right = []
    for seed in range(1 if quick else seeds):
        gc.manual_seed(seed)
        classifier = Classifier(Attention(34, 8, 4, 2, 0.2), x, edges, sides, 1e-2)
        predicted = classifier.run(np.array([0, 33]), 40 if quick else epochs)
        right.append(int((predicted == sides).sum()))
        wrong = ", ".join(map(str, np.flatnonzero(predicted != sides))) or "none"
        click.echo(f"seed {seed}: {right[-1]} of 34 members; wrong: {wrong}")
    click.echo(f"median of {len(right)} seeds: {np.median(right):.0f} of 34")
    run_cora(folder, 200)
    out.mkdir(parents=True, exist_ok=True)
    click.echo(f"wrote {gc.draw(classifier.loss, out / 'gat.svg', depth=2)}")


if __name__ == "__main__":
    main()
