"""What a run gave, epoch by epoch, as files: CSV, and events that TensorBoard reads.

A log is a callback of ``fit``.
"""

from __future__ import annotations

import csv
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc import tree

if TYPE_CHECKING:
    from graphc.train.fitting import Epoch

__all__ = ["CSVLog", "TensorBoardLog"]


def scalars(epoch: Epoch) -> dict[str, float]:
    """All numbers of an epoch by name: ``train``, ``test.loss``..."""
    found: dict[str, float] = {"seconds": epoch.seconds}
    for label, means in (("train", epoch.training), ("test", epoch.measures)):
        values, form = tree.flatten(means)
        for value, path in zip(values, form.paths(label), strict=True):
            name = path.replace("['", ".").replace("']", "").replace("[", ".").replace("]", "")
            found[name] = float(value)
    return found


class CSVLog:
    """A row for each epoch: its number, seconds, means of the step and of ``evaluate``.

    A file that is there is gone on with (its columns must be the same), so that a resumed run has
    one log: the rows of epochs that it does again are taken off the end. A run that starts at epoch
    1 stands behind the earlier ones; ``append=False`` starts anew. Each row is on disk when the
    epoch is over.

    >>> import tempfile
    >>> from graphc.train import fit
    >>> path = Path(tempfile.mkdtemp()) / "log.csv"
    >>> run = fit(sum, [([1.0, 2.0],)], epochs=2, callbacks=[CSVLog(path)], progress=False)
    >>> [line.split(",")[::2] for line in path.read_text().splitlines()]
    [['epoch', 'train'], ['1', '3.0'], ['2', '3.0']]
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = True) -> None:
        self.path = Path(path)
        self._known: list[str] | None = None
        if append and self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="", encoding="utf-8") as file:
                self._known = next(csv.reader(file))
        elif not append:
            self.path.unlink(missing_ok=True)

    def __call__(self, epoch: Epoch) -> None:
        """Write a row."""
        row = {"epoch": epoch.number, **scalars(epoch)}
        columns = list(row)
        if self._known is not None and self._known != columns:
            raise ValueError(
                f"CSVLog: {self.path} has the columns {', '.join(self._known)}, this run gives "
                f"{', '.join(columns)}; choose another file or append=False"
            )
        if self._known is not None and epoch.number > 1:
            self._take_off(epoch.number)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if self._known is None:
                writer.writeheader()
                self._known = columns
            writer.writerow(row)

    def _take_off(self, number: int) -> None:
        """Drop the last rows from epoch ``number`` on: a resumed run makes them again."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = len(lines)
        while kept > 1 and _is_redone(lines[kept - 1], number):
            kept -= 1
        if kept < len(lines):
            os.truncate(self.path, len(b"".join(lines[:kept])))


def _is_redone(row: bytes, number: int) -> bool:
    """Whether the row is of epoch ``number`` or later, or the half of one that a crash left."""
    return not row.endswith(b"\n") or int(row.split(b",", 1)[0]) >= number


class TensorBoardLog:
    """A file of events in ``directory``, one scalar for each number of an epoch.

    Written by hand, in TensorBoard's format (records with checksums around protocol buffers), so
    that nothing needs to be installed to write it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.graphc"
        self._write(_double(1, time.time()) + _text(3, "brain.Event:2"))

    def __call__(self, epoch: Epoch) -> None:
        """Write an event."""
        values = b"".join(
            _bytes(1, _text(1, name.replace(".", "/")) + _float(2, value))
            for name, value in scalars(epoch).items()
        )
        event = _double(1, time.time()) + _varint(2 << 3) + _varint(epoch.number)
        self._write(event + _bytes(5, values))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as file:
            file.write(length + _masked(length) + event + _masked(event))


# ---- protocol buffers: fields are tags (number << 3 | kind) before values


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


# ---- checksums of records: CRC-32C, rotated and shifted


def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return found


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated: Any = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
