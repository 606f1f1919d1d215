"""Scalar ops of the Kernel IR as expressions of Triton's language.

Every operand is brought to the same dimensions first. Half floats are computed in f32 and rounded
after each op. Elementary functions are libdevice's: Triton's own are approximations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphc.backends.triton.source import DTYPE_TEXT, Tile
from graphc.kernel.monoids import fitted
from graphc.types import DTYPES, DType, bool_, float32

__all__ = ["NARROW_OPS", "bring", "constant", "joined_axes", "literal", "scalar_op"]

#: integer ops that may stay in 32 bits where their operands and result fit
NARROW_OPS = frozenset({"+", "-", "*", "//", "%", "neg", "abs", "max", "min", "where"})

_LIBDEVICE = {
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "tanh", "atan",
    "erf", "erfc", "rsqrt", "trunc",
}  # fmt: skip
_COMPARISONS = {"<", "<=", ">", ">=", "==", "!="}
_INFIX = {"+": "+", "-": "-", "*": "*", "&": "&", "|": "|", "^": "^", "and": "&", "or": "|"}


def constant(value: bool | int | float, dtype: DType) -> Tile:
    """A number, as text that takes the dtype of what it meets.

    >>> constant(1, float32).text, constant(-math.inf, float32).text
    ('1.0', 'float("-inf")')
    """
    number = fitted(value, dtype)
    return Tile(literal(number), dtype, number=number, narrow=_is_small(number, dtype))


def _is_small(number: bool | int | float, dtype: DType) -> bool:
    return dtype.short == "i64" and -(2**31) <= number < 2**31


def literal(number: bool | int | float) -> str:
    """A number as Python writes it; infinities and NaN by ``float``."""
    if isinstance(number, bool):
        return str(number)
    if isinstance(number, float):
        return repr(number) if math.isfinite(number) else f'float("{number}")'
    return str(number)


def joined_axes(tiles: Sequence[Tile], rank: Callable[[str], object]) -> tuple[str, ...]:
    """The dimensions of a value made of these."""
    axes = {a for t in tiles for a in t.axes}
    return tuple(sorted(axes, key=rank))  # type: ignore[arg-type]


def bring(tile: Tile, axes: Sequence[str]) -> str:
    """The tile's text with a dimension for each of ``axes`` (1 where it has none).

    >>> bring(Tile("x", float32, ("i",)), ("i", "j"))
    'x[:, None]'
    """
    if tuple(axes) == tile.axes or not tile.axes:
        return tile.text
    places = ", ".join(":" if a in tile.axes else "None" for a in axes)
    text = tile.text if tile.text.isidentifier() or _enclosed(tile.text) else f"({tile.text})"
    return f"{text}[{places}]"


def _enclosed(text: str) -> bool:
    """Whether one pair of parentheses encloses it all."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place < len(text) - 1:
            return False
    return text.startswith("(")


def typed(tile: Tile, dtype: DType | None = None) -> str:
    """The text with its type in it, where a bare number could take another."""
    if tile.number is None:
        return tile.text
    return f"tl.full([], {literal(tile.number)}, {DTYPE_TEXT[(dtype or tile.dtype).short]})"


def scalar_op(op: str, args: Sequence[Tile], texts: Sequence[str], result: DType) -> str:
    """The expression of an op on operands whose dimensions agree already (``texts``)."""
    dtypes = [a.dtype for a in args]
    if op in DTYPES:
        return cast(texts[0], args[0], DTYPES[op])
    if dtypes[0].itemsize == 2 and dtypes[0].is_float and op not in ("where", *_COMPARISONS):
        return _in_float32(op, args, texts, result)
    if op == "where":
        return _where(args, texts, result)
    if all(a.number is not None for a in args):
        texts = [typed(args[0]), *texts[1:]]
    if op in _COMPARISONS:
        left, right = (_operand(text, arg) for text, arg in zip(texts, args, strict=True))
        return f"({left} {op} {right})"
    if dtypes[0].is_float:
        return _float_op(op, args, texts)
    return _integer_op(op, args, texts)


def _operand(text: str, own: Tile) -> str:
    """A number next to a value of a type that no Python number has."""
    plain = own.dtype.short in ("f32", "i64", "i32", "bool")
    return text if own.number is None or plain else typed(own)


def _in_float32(op: str, args: Sequence[Tile], texts: Sequence[str], result: DType) -> str:
    wide, wide_texts = [], []
    for arg, text in zip(args, texts, strict=True):
        half = arg.dtype.is_float and arg.dtype.itemsize == 2
        plain = not half or arg.number is not None
        wide.append(Tile(text, float32 if half else arg.dtype, arg.axes, arg.narrow, arg.number))
        wide_texts.append(text if plain else f"({text}).to(tl.float32)")
    inner = scalar_op(op, wide, wide_texts, float32 if result.is_float else result)
    return f"({inner}).to({DTYPE_TEXT[result.short]})" if result.is_float else inner


def _where(args: Sequence[Tile], texts: Sequence[str], result: DType) -> str:
    condition = typed(args[0]) if args[0].number is not None else texts[0]
    plain = result.short in ("f32", "i32") or (args[1].narrow and args[2].narrow)
    alone = args[1].number is not None and args[2].number is not None
    sides = [
        text if arg.number is None or (plain and not alone) else typed(arg)
        for arg, text in zip(args[1:], texts[1:], strict=True)
    ]
    return f"tl.where({condition}, {sides[0]}, {sides[1]})"


def _float_op(op: str, args: Sequence[Tile], texts: Sequence[str]) -> str:
    single = args[0].dtype.short == "f32"
    if not single:
        pairs = zip(args, texts, strict=True)
        texts = [text if arg.number is None else typed(arg) for arg, text in pairs]
    a, b = texts[0], texts[1] if len(texts) > 1 else ""
    if op in _INFIX:
        return f"({a} {_INFIX[op]} {b})"
    if op == "/":
        return f"tl.div_rn({_tensor(args[0], a)}, {b})" if single else f"({a} / {b})"
    if op in ("max", "min"):
        return f"tl.{op}imum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)"
    if op in _LIBDEVICE:
        return f"libdevice.{op}({a})"
    if op == "pow":
        if args[1].dtype.is_integer:
            return f"device.float_integer_power({a}, {_tensor(args[1], b)})"
        return f"libdevice.pow({_tensor(args[0], a)}, {_tensor(args[1], b)})"
    simple = {
        "neg": f"(-{a})",
        "abs": f"tl.abs({a})",
        "sign": f"device.sign({a})",
        "sigmoid": f"device.sigmoid({a})",
        "sqrt": f"tl.sqrt_rn({a})" if single else f"tl.sqrt({a})",
        "floor": f"tl.floor({a})",
        "ceil": f"tl.ceil({a})",
        "round": f"libdevice.rint({a})",
        "isnan": f"({a} != {a})",
        "isinf": f'(tl.abs({a}) == float("inf"))',
        "//": f"device.float_floor_divide({a}, {b})",
        "%": f"device.float_remainder({a}, {b})",
    }
    if op == "copysign":
        return f"libdevice.copysign({_tensor(args[0], a)}, {_tensor(args[1], b)})"
    if op == "fma":
        operands = (_tensor(t, text) for t, text in zip(args, texts, strict=True))
        return f"tl.fma({', '.join(operands)})"
    return simple[op]


def _tensor(tile: Tile, text: str) -> str:
    return text if tile.number is None else typed(tile)


def _integer_op(op: str, args: Sequence[Tile], texts: Sequence[str]) -> str:
    dtype = args[0].dtype
    pairs = list(zip(args, texts, strict=True))
    if dtype.short not in ("i64", "i32", "bool"):
        texts = [text if arg.number is None else typed(arg) for arg, text in pairs]
    a, b = texts[0], texts[1] if len(texts) > 1 else ""
    bits = 8 * dtype.itemsize
    if op in _INFIX:
        return f"({a} {_INFIX[op]} {b})"
    if op == "not":
        return f"(~{a})"
    if op in ("max", "min"):
        if dtype is bool_:
            return f"({a} {'|' if op == 'max' else '&'} {b})"
        return f"tl.{op}imum({a}, {b})"
    if op == "/":
        floats = [f"({_tensor(t, x)}).to(tl.float32)" for t, x in pairs]
        return f"tl.div_rn({floats[0]}, {floats[1]})"
    whole = [_tensor(t, x) for t, x in pairs]
    calls = {
        "//": "floor_divide", "%": "floor_remainder", "pow": "integer_power",
        "bits": "random_bits", "derive": "derive_key",
    }  # fmt: skip
    if op in calls:
        return f"device.{calls[op]}({', '.join(whole)})"
    if op in ("<<", ">>"):
        side = "left" if op == "<<" else "right"
        return f"device.shift_{side}({whole[0]}, {whole[1]}, {bits})"
    simple = {"neg": f"(-{a})", "abs": f"tl.abs({a})", "sign": f"device.sign({a})", "~": f"(~{a})"}
    if op in ("abs", "sign") and dtype.kind == "u":
        return a if op == "abs" else f"tl.where({a} > 0, {typed(constant(1, dtype))}, {a})"
    return simple[op]


def cast(text: str, tile: Tile, dtype: DType) -> str:
    """A conversion: floats truncate and saturate in integers, integers wrap."""
    if tile.number is not None:
        text = typed(tile)
    source = tile.dtype
    if source == dtype and not tile.narrow:
        return text
    if dtype is bool_:
        return f"({text} != 0)"
    if source.is_float and dtype.is_integer:
        wide = text if source.itemsize > 2 else f"({text}).to(tl.float32)"
        bits, signed = 8 * dtype.itemsize, dtype.kind == "i"
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return f"device.to_integer({wide}, {low}, {high}, {DTYPE_TEXT[dtype.short]})"
    if source.is_float and {source.short, dtype.short} == {"f64", "bf16"}:
        return f"({text}).to(tl.float32).to({DTYPE_TEXT[dtype.short]})"
    if not source.is_float and dtype.is_float and dtype.itemsize == 2:
        return f"({text}).to(tl.float32).to({DTYPE_TEXT[dtype.short]})"
    return f"({text}).to({DTYPE_TEXT[dtype.short]})"


