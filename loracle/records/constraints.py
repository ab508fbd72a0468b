"""Constraints of a space: conditions on its knobs, written as expressions and read without `eval`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError, suggest

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Expression = Callable[[Mapping[str, Floats]], Array]

_MAX_EXPRESSION = 500  # characters
_MAX_NESTING = 50  # levels of an expression

_BINARY: dict[type, Callable[..., Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_COMPARE: dict[type, Callable[..., Array]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def parse_expression(
    text: str, names: Sequence[str], texts: Mapping[str, Sequence[str]] | None = None
) -> Expression:
    """Turns a constraint into a function of arrays; nothing is ever passed to `eval`.

    Allowed: numbers, the given names, `+ - * / **`, comparisons, `and`, `or`, `not`, brackets. In
    arithmetic, a comparison counts as 1 or 0. Names whose values are `texts`, which count by their positions,
    are compared with one of them alone: `schedule == 'cosine'`.

    Raises:
        SpaceError: anything else, with the offending piece.
    """
    if len(text) > _MAX_EXPRESSION:
        raise SpaceError(f"a constraint has at most {_MAX_EXPRESSION} characters; got {len(text)}")
    try:
        text = text.strip()
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpaceError(f"constraint {text!r} is not an expression: {error}") from None
    _check_node(tree, text, names, texts or {})
    match tree:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
            pass
        case _:
            raise SpaceError(f"constraint {text!r} is a number, not a condition; compare it with something")

    def evaluate(values: Mapping[str, Floats]) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(_evaluate(tree, values))

    return evaluate


def _check_node(
    node: ast.AST, text: str, names: Sequence[str], texts: Mapping[str, Sequence[str]], depth: int = 0
) -> None:
    """Refuses what is not allowed, as a SpaceError; puts the position of a text in its place."""
    if depth > _MAX_NESTING:
        raise SpaceError(f"constraint {text!r} is nested more than {_MAX_NESTING} levels deep; split it")
    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            if abs(constant) > sys.float_info.max:  # also where a whole number is too long for a float
                raise SpaceError(f"constraint {text!r}: a number is too large; the largest is 1.8e308")
            return
        case ast.Name(id=name):
            if name not in names:
                raise SpaceError(f"constraint {text!r}: unknown name {name!r}{suggest(name, names)}")
            if name in texts:
                raise SpaceError(
                    f"constraint {text!r}: {name} has names, which have no order; compare it with one, such "
                    f"as {name} == {texts[name][0]!r}"
                )
            return
        case ast.Compare(
            left=ast.Name(id=name),
            ops=[ast.Eq() | ast.NotEq()],
            comparators=[ast.Constant(value=str() as value)],
        ) if name in texts:
            if value not in texts[name]:
                raise SpaceError(f"constraint {text!r}: {name} has no {value!r}{suggest(value, texts[name])}")
            node.comparators = [ast.Constant(value=list(texts[name]).index(value))]
            return
        case ast.BinOp(op=op) if type(op) in _BINARY:
            children: list[ast.expr] = [node.left, node.right]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.Compare(ops=ops) if all(type(op) in _COMPARE for op in ops):
            children = [node.left, *node.comparators]
        case _:
            raise SpaceError(
                f"constraint {text!r}: {ast.get_source_segment(text, node)!r} is not allowed; "
                "use numbers, knob names, + - * / **, comparisons, and, or, not"
            )
    for child in children:
        _check_node(child, text, names, texts, depth + 1)


def _evaluate(node: ast.AST, values: Mapping[str, Floats]) -> Array:
    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            return np.asarray(float(constant))  # a float: no integer power can run away
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            sides = (_evaluate(left, values), _evaluate(right, values))
            return _BINARY[type(op)](*(side.astype(float) for side in sides))
        case ast.UnaryOp(op=unary, operand=operand):
            inner = _evaluate(operand, values)
            if isinstance(unary, ast.Not):
                return np.logical_not(inner)
            return np.negative(inner.astype(float)) if isinstance(unary, ast.USub) else inner
        case ast.BoolOp(op=junction, values=parts):
            combine = np.logical_and if isinstance(junction, ast.And) else np.logical_or
            result = _evaluate(parts[0], values)
            for part in parts[1:]:
                result = combine(result, _evaluate(part, values))
            return result
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [_evaluate(part, values) for part in (left, *comparators)]
            result = np.asarray(True)
            for comparison, a, b in zip(ops, operands, operands[1:], strict=False):
                result = np.logical_and(result, _COMPARE[type(comparison)](a, b))
            return result
        case _:  # pragma: no cover - _check_node refused it
            raise AssertionError(ast.dump(node))
