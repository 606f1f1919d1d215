"""Random bits: Philox4x32-10, exact on every target.

``bits(key, n)`` is word ``n % 4`` of the block at counter ``(n // 4 low, n // 4 high, 0, 0)``;
``derive(key, a, b)`` is words 0 and 1 of the block at counter ``(a low, a high, b low, b high)``.
Words live in 64-bit lanes, where one multiplication gives both halves of a product.

``bits`` computes one block a lane, whatever n is: 204 instructions for 8 words with AVX2. Where n
runs along the lanes, ``bits_run`` computes one block for four lanes: 105 instructions for 8 words,
129 for 16, from an aligned start.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1,
2, 3", SC 2011.
"""

from __future__ import annotations

from graphc.backends.llvm.ir import LLVMType, V
from graphc.backends.llvm.vecmath.lanes import Lanes

__all__ = ["bits", "bits_run", "derive"]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def bits(m: Lanes, key: V, n: V) -> V:
    """Element n of the stream of ``key``: u32. Both i64, of any lanes; n is taken as unsigned."""
    counter = m.integer("lshr", n, 2)
    zero = m.number(0, n)
    words = _philox(m, key, [_low(m, counter), m.integer("lshr", counter, 32), zero, zero])
    second = _bit(m, n, 0)
    low = m.function.select(second, words[1], words[0])
    high = m.function.select(second, words[3], words[2])
    return m.function.cast("trunc", m.function.select(_bit(m, n, 1), high, low), "i32")


def derive(m: Lanes, key: V, a: V, b: V) -> V:
    """A new 64-bit key for ``(a, b)``: i64."""
    counter = [part for x in (a, b) for part in (_low(m, x), m.integer("lshr", x, 32))]
    words = _philox(m, key, counter)
    return m.integer("or", _low(m, words[0]), m.integer("shl", words[1], 32))


def bits_run(m: Lanes, key: V, first: V, lanes: int, *, aligned: bool = False) -> V:
    """``bits(key, first + 0 .. first + lanes - 1)`` as one vector: one block for four words.

    ``key`` and ``first`` are scalars (i64); ``aligned`` promises that ``first`` is a multiple of 4.
    ``lanes`` is a multiple of 4. Without the promise one block more is computed and the words pass
    through the stack.
    """
    f = m.function
    blocks = lanes // 4 if aligned else 2 ** (lanes // 4).bit_length()
    type_ = LLVMType("i64", blocks)
    steps = V(f"<{', '.join(f'i64 {i}' for i in range(blocks))}>" if blocks > 1 else "0", type_)
    counter = m.integer("add", f.splat(m.integer("lshr", first, 2), blocks), steps)
    zero = m.number(0, counter)
    words = _philox(
        m, f.splat(key, blocks), [_low(m, counter), m.integer("lshr", counter, 32), zero, zero]
    )
    run = _interleave(m, words, blocks)
    if aligned:
        return run
    stack = f.alloca(LLVMType("i32"), 4 * blocks)
    f.store(run, stack, 64)
    start = f.offset(stack, m.integer("and", first, 3), "i32")
    return f.load(LLVMType("i32", lanes), start, 4)


def _interleave(m: Lanes, words: list[V], blocks: int) -> V:
    """Word 0, 1, 2, 3 of block 0, then of block 1...: <4 * blocks x i32>."""
    pairs = [m.integer("or", _low(m, words[i]), m.integer("shl", words[i + 1], 32)) for i in (0, 2)]
    both = LLVMType("i64", 2 * blocks)
    if blocks == 1:
        one = m.function.let(f"insertelement {both} poison, {pairs[0]}, i64 0", both)
        mixed = m.function.let(f"insertelement {both} {one.text}, {pairs[1]}, i64 1", both)
    else:
        order = ", ".join(f"i32 {i}, i32 {i + blocks}" for i in range(blocks))
        mixed = m.function.let(
            f"shufflevector {pairs[0]}, {pairs[1]}, <{2 * blocks} x i32> <{order}>", both
        )
    result = LLVMType("i32", 4 * blocks)
    return m.function.let(f"bitcast {mixed} to {result}", result)


def _philox(m: Lanes, key: V, counter: list[V]) -> list[V]:
    """The four words of a block, in the low halves of 64-bit lanes."""
    c0, c1, c2, c3 = counter
    keys = [key, m.integer("lshr", key, 32)]
    for round_ in range(10):
        if round_:
            keys = [m.integer("add", k, w) for k, w in zip(keys, _WEYL, strict=True)]
        p, q = (
            m.integer("mul", _low(m, c), factor)
            for c, factor in zip((c0, c2), _MULTIPLIERS, strict=True)
        )
        c0, c2 = (
            m.integer("xor", m.integer("xor", m.integer("lshr", product, 32), c), k)
            for product, c, k in zip((q, p), (c1, c3), keys, strict=True)
        )
        c1, c3 = q, p
    return [c0, c1, c2, c3]


def _low(m: Lanes, x: V) -> V:
    return m.integer("and", x, _LOW)


def _bit(m: Lanes, n: V, position: int) -> V:
    bit = m.integer("and", n, 1 << position)
    return m.function.compare("ne", bit, m.number(0, n))
