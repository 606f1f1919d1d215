"""Random programs in machine code: NumPy's values, derivatives as by differences."""

from __future__ import annotations

import pytest

from tests.ops.random_programs import check, describe

ORDINARY = 300
SWEEP = 5000
_CHUNK = 100
#: seeds that found faults
FOUND = (3530,)


def _checked(seed: int) -> bool:
    try:
        return check(seed)
    except Exception as error:
        raise AssertionError(f"{describe(seed)}\n{error}") from error


@pytest.fixture(autouse=True)
def verifying(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each pass makes is verified, and the memory plan beside the loops that run under it."""
    monkeypatch.setenv("GRAPHC_VERIFY", "1")


@pytest.mark.parametrize("first", range(0, ORDINARY, 10))
def test_random_programs(first: int) -> None:
    """Ten a test: some have kinks, but never most of them."""
    smooth = [_checked(seed) for seed in range(first, first + 10)]
    assert sum(smooth) >= 5


@pytest.mark.parametrize("seed", FOUND)
def test_programs_that_found_faults(seed: int) -> None:
    assert _checked(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(ORDINARY, ORDINARY + SWEEP, _CHUNK))
def test_many_random_programs(first: int) -> None:
    smooth = [_checked(seed) for seed in range(first, first + _CHUNK)]
    assert sum(smooth) >= _CHUNK // 2
