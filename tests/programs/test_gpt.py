"""Program 6: a GPT that decodes with a cache says what it says about the whole text."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import ops

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def gpt() -> Any:
    """The example as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location("gpt_example", EXAMPLES / "gpt.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop("text", None)
    return module


def test_decoding_with_a_cache_is_the_whole_forward_pass(gpt: Any) -> None:
    gc.manual_seed(0)
    net = gpt.GPT(letters=11, width=16, heads=2, layers=2, dropout=0.1)
    assert "lm_head.weight" in net.state_dict()  # tied, so not among the parameters' names twice
    assert "lm_head.weight" not in dict(net.named_parameters())
    ids = gc.observed("ids", (1, 9), gc.int64)

    def body(cache: Any, given: Any) -> Any:
        token, at = given
        logits, cache = net.decode(ops.reshape(token, (1,)), at, cache)
        return cache, logits[0]

    _, stepwise = gc.scan(body, ops.zeros(net.cache_shape), (ids[0], ops.arange(9)))
    run = gc.compile([ids], [net(ids)[0], stepwise], mode="eval")
    whole, steps = run(np.random.default_rng(0).integers(0, 11, (1, 9)))
    np.testing.assert_allclose(steps, whole, rtol=1e-4, atol=1e-5)
    assert (np.abs(whole[0] - whole[1]) > 1e-4).any()
