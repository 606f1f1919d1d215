"""safetensors files: what is written comes back, and what lies about itself is refused."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import graphc as gc
from graphc import files

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "a.safetensors"
    left = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert not left, "a temporary file was left behind"


ARRAYS: dict[str, Any] = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.float16([1, 2]),
    "brain": np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 7), np.int64),
    "scalar": np.float64(3.25),
    "flag": np.array([True, False, True]),
    "bytes": np.uint8([255]),
    "a.b/../../c": np.int8([-1]),
    "name with \u00fc and \n": np.uint32([7]),
}


def test_what_is_written_comes_back(place: Path) -> None:
    gc.save_arrays(place, ARRAYS)
    found = gc.load_arrays(place)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable
    assert os.stat(place).st_mode & 0o777 == 0o666 & ~_umask()
    first = place.read_bytes()
    gc.save_arrays(str(place), dict(reversed(ARRAYS.items())))
    assert place.read_bytes() == first, "the order of the names must not matter"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_other_orders_in_memory(place: Path) -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    gc.save_arrays(place, {"t": base.T, "s": base[::2, ::-1], "big": base.astype(">f4")})
    found = gc.load_arrays(place)
    np.testing.assert_array_equal(found["t"], base.T)
    np.testing.assert_array_equal(found["s"], base[::2, ::-1])
    np.testing.assert_array_equal(found["big"], base)


def test_the_format_s_own_library_agrees(place: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    plain = {k: v for k, v in ARRAYS.items() if k != "brain"}
    plain["scalar"] = np.asarray(plain["scalar"])
    gc.save_arrays(place, plain)
    for name, array in numpy_files.load_file(place).items():
        np.testing.assert_array_equal(array, plain[name])
        assert array.dtype == plain[name].dtype
    numpy_files.save_file(plain, place, {"made": "elsewhere"})
    for name, array in gc.load_arrays(place).items():
        np.testing.assert_array_equal(array, plain[name])
    assert files.read_file(place)[1] == {"made": "elsewhere"}


@pytest.mark.torch
def test_pytorch_s_bfloat16_agrees(place: Path) -> None:
    torch = pytest.importorskip("torch")
    torch_files = pytest.importorskip("safetensors.torch")
    torch_files.save_file({"w": torch.tensor([1.5, -3.0], dtype=torch.bfloat16)}, place)
    found = gc.load_arrays(place)
    assert found["w"].dtype == gc.bfloat16.numpy
    assert found["w"].astype(np.float32).tolist() == [1.5, -3.0]
    gc.save_arrays(place, found)
    assert torch_files.load_file(place)["w"].tolist() == [1.5, -3.0]


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {**F32, **changes}}


LIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "cut in the length": (b"\x10\0\0", "3 bytes"),
    "header beyond the end": (raw(entry(), b"", 1 << 20), "header of 1048576 bytes"),
    "endless header": (raw(entry(), b"", 2**64 - 1), "header of 18446744073709551615"),
    "no text": (raw(b"\xff\xfe{}"), "cannot be read"),
    "no JSON": (raw(b"{'w': 1}"), "cannot be read"),
    "no object": (raw([1]), "no object"),
    "NaN": (raw(b'{"w": NaN}'), "NaN is no JSON"),
    "deep": (raw(b"[" * 200_000), "cannot be read"),
    "long number": (raw(b'{"w": ' + b"9" * 9999 + b"}"), "cannot be read"),
    "twice": (raw(b'{"w": 1, "w": 2}'), "stands twice"),
    "no name": (raw(b'{"\\ud800": {}}'), "cannot be read"),
    "no entry": (raw({"w": 3}), "other entries"),
    "unknown entry": (raw(entry(pickle="gASV"), bytes(24)), "other entries"),
    "unknown type": (raw(entry(dtype="O8"), bytes(24)), "type 'O8'"),
    "type no text": (raw(entry(dtype=["F32"]), bytes(24)), "type \\['F32'\\]"),
    "negative": (raw(entry(shape=[-2, -3]), bytes(24)), "the shape"),
    "fraction": (raw(entry(shape=[2.0, 3]), bytes(24)), "the shape"),
    "truth": (raw(entry(shape=[True, 6]), bytes(24)), "the shape"),
    "not a list": (raw(entry(shape="23"), bytes(24)), "the shape"),
    "many axes": (raw(entry(shape=[1] * 65), bytes(24)), "the shape"),
    "overflow": (raw(entry(shape=[2**62, 4, 0], data_offsets=[0, 0])), "the shape"),
    "wraps to 24": (raw(entry(shape=[2**62 + 6]), bytes(24)), "the shape"),
    "larger": (raw(entry(shape=[2, 2**40]), bytes(24)), "needs 8796093022208 bytes and has 24"),
    "smaller": (raw(entry(shape=[2, 2]), bytes(24)), "needs 16 bytes and has 24"),
    "backwards": (raw(entry(data_offsets=[24, 0]), bytes(24)), "the offsets"),
    "three offsets": (raw(entry(data_offsets=[0, 1, 24]), bytes(24)), "the offsets"),
    "cut": (raw(entry(), bytes(23)), "has 23 bytes of elements, its header says 24"),
    "more": (raw(entry(), bytes(25)), "has 25 bytes of elements, its header says 24"),
    "hole": (raw(entry(data_offsets=[8, 32]), bytes(32)), "begins at 8, not at 0"),
    "overlap": (raw({"w": F32, "v": F32}, bytes(24)), "begins at 0, not at 24"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "more than text"),
    "bool": (raw({"w": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x02"),
             "no bool"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused(name: str, place: Path) -> None:
    data, message = LIES[name]
    place.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(gc.CacheError, match=message):
            gc.load_arrays(place)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(data) + (1 << 20), "something large was allocated"


def test_every_cut_of_a_good_file_is_refused(place: Path) -> None:
    gc.save_arrays(place, {"w": np.ones(3, np.float32), "flag": np.array([True])})
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        with pytest.raises(gc.CacheError):
            gc.load_arrays(place)
    place.write_bytes(whole + b"\0")
    with pytest.raises(gc.CacheError):
        gc.load_arrays(place)


def test_every_changed_byte_of_a_header_is_refused_or_harmless(place: Path) -> None:
    gc.save_arrays(place, {"w": np.arange(3, dtype=np.float32), "v": np.int64([7])})
    whole = place.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(3)
    refused = 0
    for position in range(length):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        place.write_bytes(changed)
        try:
            found = gc.load_arrays(place)
        except gc.CacheError:
            refused += 1
        else:
            assert sum(array.nbytes for array in found.values()) == 20
    assert refused > 0.6 * length


def test_a_sparse_file_larger_than_memory_is_refused(place: Path) -> None:
    count = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    header = {"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}
    data = raw(header)
    place.write_bytes(data)
    try:
        os.truncate(place, len(data) + count)
    except OSError:
        pytest.skip("the file system has no files of that size")
    with pytest.raises(gc.CacheError, match="more than this machine's memory"):
        gc.load_arrays(place)


def test_links_pipes_and_directories_are_refused(place: Path, tmp_path: Path) -> None:
    gc.save_arrays(place, {"w": np.ones(1, np.float32)})
    link = tmp_path / "link"
    link.symlink_to(place)
    before = place.read_bytes()
    for call in (lambda: gc.load_arrays(link), lambda: gc.save_arrays(link, {})):
        with pytest.raises(gc.CacheError, match=r"symbolic link.*a\.safetensors"):
            call()
    assert place.read_bytes() == before
    assert link.is_symlink()
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(gc.CacheError, match="no regular file"):
            gc.load_arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        gc.load_arrays(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        gc.save_arrays(tmp_path, {})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"w": np.array([object()])}, "'w' has elements of type object"),
        ({"w": np.array(["text"])}, "type <U4"),
        ({"w": np.complex64([1])}, "type complex64"),
        ({3: np.ones(2)}, "3 cannot name"),
        ({"__metadata__": np.ones(2)}, "cannot name"),
        ({"\ud800": np.ones(2)}, "surrogates"),
    ],
)
def test_what_cannot_be_written(bad: Any, message: str, place: Path) -> None:
    gc.save_arrays(place, {"w": np.ones(1)})
    before = place.read_bytes()
    with pytest.raises((TypeError, UnicodeError), match=message):
        gc.save_arrays(place, bad)
    assert place.read_bytes() == before


def failing(name: str) -> Callable[..., Any]:
    def fail(*args: Any) -> Any:
        raise KeyboardInterrupt(name)

    return fail


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_an_interrupt_leaves_the_old_file(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.save_arrays(place, {"w": np.ones(1)})
    monkeypatch.setattr(files.os, name, failing(name))
    with pytest.raises(KeyboardInterrupt):
        gc.save_arrays(place, {"w": np.zeros(5)})
    monkeypatch.undo()
    assert gc.load_arrays(place)["w"].tolist() == [1]
