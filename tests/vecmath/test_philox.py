"""Random bits are the published generator's, word for word, however they are computed."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from graphc.backends.llvm import codegen
from graphc.backends.llvm.ir import PTR, Function, LLVMType, Module, V
from graphc.backends.llvm.target import Target
from graphc.backends.llvm.vecmath import features_of
from graphc.backends.llvm.vecmath.lanes import Lanes
from graphc.backends.llvm.vecmath.measure import compiled_map
from graphc.backends.llvm.vecmath.philox import bits_run
from graphc.kernel.scalar_ops import evaluate
from tests.vecmath.targets import TARGET_NAMES, TARGETS

KEY = np.int64(-6148914691236517206)


def test_known_answers() -> None:
    """The authors' kat_vectors for philox4x32-10: all zeros."""
    n = np.arange(4, dtype=np.int64)
    got = compiled_map("bits", np.zeros(4, np.int64), n, lanes=4)
    assert [hex(word) for word in got] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize("target", TARGETS, ids=TARGET_NAMES)
def test_any_element_of_the_stream(target: Target) -> None:
    n = np.array([0, 1, 5, 2**31, 2**33 + 3, 2**34 - 1, 2**63 - 1, -1], np.int64)
    key = np.full(8, KEY)
    expected = evaluate("bits", key, n)
    np.testing.assert_array_equal(compiled_map("bits", key, n, target=target), expected)


@pytest.mark.parametrize("target", TARGETS, ids=TARGET_NAMES)
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("first", [0, 4, 5, 6, 7, 2**34 - 3, 2**36])
def test_run_equals_the_elements(first: int, lanes: int, target: Target) -> None:
    expected = evaluate("bits", np.full(lanes, KEY), first + np.arange(lanes))
    for aligned in (True, False) if first % 4 == 0 else (False,):
        got = run(first, lanes, aligned, target)
        np.testing.assert_array_equal(got, expected, f"aligned {aligned}")


def run(first: int, lanes: int, aligned: bool, target: Target) -> np.ndarray:
    module = Module()
    f = Function(module, "run", [("ptr", "out"), ("i64", "key"), ("i64", "first")])
    i64 = LLVMType("i64")
    m = Lanes(f, features_of(target))
    words = bits_run(m, V("%key", i64), V("%first", i64), lanes, aligned=aligned)
    f.store(words, V("%out", PTR), 4)
    module.add(f)
    library = codegen.link([codegen.object_of(module.text(), target.machine)], ["run"])
    out = np.empty(lanes, np.uint32)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    kind(library.addresses["run"])(out.ctypes.data, int(KEY), first)
    return out
