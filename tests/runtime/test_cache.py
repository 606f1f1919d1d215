"""The disk cache: what it trusts, what it survives."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from graphc.backends import cache as cache_module
from graphc.backends.cache import Cache, key_of, trusted_directory

KEY = key_of("a key")


def private(tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    return directory


def fail() -> bytes:
    raise AssertionError("made again")


def entry(directory: Path) -> Path:
    (path,) = directory.glob("??/*.o")
    return path


def test_it_keeps_across_processes(tmp_path: Path) -> None:
    directory = private(tmp_path)
    assert Cache(directory).get(KEY, lambda: b"code") == b"code"
    again = Cache(directory)
    assert again.get(KEY, fail) == b"code"
    assert (again.hits, again.misses) == (1, 0)
    assert entry(directory).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "longer", "header"])
def test_damage_is_a_miss_and_is_mended(tmp_path: Path, damage: str) -> None:
    directory = private(tmp_path)
    Cache(directory).get(KEY, lambda: b"x" * 1000)
    path = entry(directory)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        del data[500:]
    elif damage == "empty":
        data.clear()
    elif damage == "flip":
        data[700] ^= 1
    elif damage == "longer":
        data += b"!"
    else:
        data[0] ^= 1
    path.write_bytes(bytes(data))
    assert Cache(directory).get(KEY, lambda: b"y" * 1000) == b"y" * 1000
    assert Cache(directory).get(KEY, fail) == b"y" * 1000


def test_a_link_in_place_of_an_entry_is_not_followed(tmp_path: Path) -> None:
    directory = private(tmp_path)
    Cache(directory).get(KEY, lambda: b"code")
    path = entry(directory)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert Cache(directory).get(KEY, lambda: b"new") == b"new"
    assert not path.is_symlink()


@pytest.mark.parametrize("wrong", ["mode", "link", "file", "missing parent"])
def test_directories_that_are_not_trusted(tmp_path: Path, wrong: str) -> None:
    cache_module._warn_once.cache_clear()
    directory = tmp_path / "cache"
    if wrong == "mode":
        directory.mkdir()
        directory.chmod(0o755)
    elif wrong == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "real")
    elif wrong == "file":
        directory.write_text("")
    else:
        (tmp_path / "file").write_text("")
        directory = tmp_path / "file" / "cache"
    with pytest.warns(RuntimeWarning, match="in memory only"):
        assert trusted_directory(directory) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert trusted_directory(directory) is None


def test_another_users_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_module._warn_once.cache_clear()
    directory = private(tmp_path)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert trusted_directory(directory) is None


def test_a_missing_directory_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "home" / "graphc"
    assert trusted_directory(directory) == directory
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_refuses_writes_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_module._warn_once.cache_clear()
    directory = private(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = Cache(directory)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert cache.get(KEY, lambda: b"code") == b"code"
    assert cache.get(KEY, fail) == b"code"
    assert not list(directory.glob("??/*"))  # no temporary file is left


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    directory = private(tmp_path)
    cache = Cache(directory, limit=3500)
    keys = [key_of(str(i)) for i in range(5)]
    for i, key in enumerate(keys):
        Cache(directory, limit=1 << 20).get(key, lambda: b"x" * 1000)
        path = directory / key[:2] / f"{key}.o"
        os.utime(path, (i, i))
    Cache(directory).get(keys[0], fail)  # used just now
    cache.prune()
    kept = {p.stem for p in directory.glob("??/*.o")}
    assert kept == {keys[0], keys[3], keys[4]}


def test_without_a_directory_it_stays_in_memory() -> None:
    cache = Cache(None)
    assert cache.get(KEY, lambda: b"code") == b"code"
    assert cache.get(KEY, fail) == b"code"


PROCESS = """
import sys
from graphc.backends.llvm.loader import compile_cached, load
for i in range(8):
    ir = f"define i64 @f{i}() {{ ret i64 {i} }}"
    load([compile_cached(ir)], [f"f{i}"])
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS], env=env) for _ in "ab"]
    assert [p.wait(60) for p in both] == [0, 0]
    names = [p.name for p in (tmp_path / "graphc").glob("??/*")]
    assert len(names) == 8
    assert all(name.endswith(".o") for name in names)
    third = subprocess.run([sys.executable, "-W", "error", "-c", PROCESS], env=env, timeout=60)
    assert third.returncode == 0


COMPILES = """
import sys
import graphc as gc, numpy as np
x = gc.observed("x", (8,))
assert gc.compile([x], gc.ops.tanh(x) * 2.0, backend="llvm")(np.zeros(8, np.float32)).sum() == 0
rooms = ("graphc.backends.llvm.emit", "graphc.backends.llvm.vecmath", "graphc.export")
print([room for room in rooms if room in sys.modules])
"""


def test_what_the_cache_has_needs_no_emitter(tmp_path: Path) -> None:
    """Nor does any program need what few are asked for."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    said = [subprocess.check_output([sys.executable, "-c", COMPILES], env=env) for _ in "ab"]
    cold, warm = (text.decode().strip() for text in said)
    assert cold == "['graphc.backends.llvm.emit', 'graphc.backends.llvm.vecmath']"
    assert warm == "[]"
