"""Plain arithmetic as people write it: reading numbers and expressions out of prose, and exact evaluation.

Text is never evaluated as Python: an expression is parsed and only + - * / and numbers are walked, as fractions.
"""

import ast
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")

SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "–": "-", "−": "-", "—": "-", "[": "(", "]": ")"})
MAX_LITERAL = 1e15
CURRENCY = re.compile(r"[$£€¢]")

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
seventeen eighteen nineteen".split()
)
TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}
WORD_VALUES: dict[str, tuple[Fraction, ...]] = {
    **{word: (Fraction(value),) for value, word in enumerate(UNITS)},
    **{word: (Fraction(value),) for word, value in (TENS | SCALES).items()},
    **{
        word: (Fraction(2), Fraction(1, 2))
        for word in ("half", "halves", "twice", "double", "both", "couple", "pair")
    },
    **{word: (Fraction(3), Fraction(1, 3)) for word in ("third", "thirds", "triple", "thrice", "tripled")},
    **{word: (Fraction(4), Fraction(1, 4)) for word in ("quarter", "quarters", "fourth", "fourths")},
    **{word: (Fraction(5), Fraction(1, 5)) for word in ("fifth", "fifths")},
    "dozen": (Fraction(12),),
    "dozens": (Fraction(12),),
}


def parse_number(text: str) -> Fraction:
    """The value of one NUMBER match: thousands commas allowed."""
    return Fraction(text.replace(",", ""))


def parse_expression(text: str) -> ast.expr | None:
    """Arithmetic over numbers as a syntax tree; None if the text is anything else.

    Takes ×, ÷, x between numbers, currency signs, thousands commas and a number before a bracket (2(3) is 2*3).
    A percent sign is the caller's business.
    """
    text = CURRENCY.sub("", text.translate(SPELLINGS))
    text = re.sub(r"(?<=[\d).])\s*[xX]\s*(?=[\d(.])", "*", text)
    text = re.sub(r"(?<=[\d)])\s*(?=\()", "*", text)
    text = NUMBER.sub(lambda match: match[0].replace(",", "").lstrip("0") or "0", text).strip()
    text = re.sub(r"(?<!\d)\.(?=\d)", "0.", text)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if all(_is_arithmetic(node) for node in ast.walk(tree)) else None


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return (
            isinstance(node.value, int | float)
            and not isinstance(node.value, bool)
            and node.value < MAX_LITERAL
        )
    return isinstance(
        node, ast.BinOp | ast.UnaryOp | ast.Add | ast.Sub | ast.Mult | ast.Div | ast.USub | ast.UAdd
    )


def get_literals(tree: ast.expr) -> Iterator[ast.Constant]:
    """The numbers of an expression, in the order they are written."""
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return iter(sorted(constants, key=lambda node: node.col_offset))


def get_value(literal: ast.Constant) -> Fraction:
    """The decimal value of a literal, free of binary rounding."""
    return Fraction(repr(literal.value))


def evaluate_exactly(tree: ast.expr) -> Fraction | None:
    """The value of an expression; None where it divides by zero."""
    match tree:
        case ast.Constant():
            return get_value(tree)
        case ast.UnaryOp():
            operand = evaluate_exactly(tree.operand)
            return -operand if operand is not None and isinstance(tree.op, ast.USub) else operand
        case ast.BinOp():
            left, right = evaluate_exactly(tree.left), evaluate_exactly(tree.right)
            if left is None or right is None:
                return None
            return _apply(tree.op, left, right)
    raise AssertionError(tree)


def _apply(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction | None:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    return left / right if right else None


def read_quantities(text: str) -> frozenset[Fraction]:
    """Every value a text gives in figures or words; a percentage also as its fraction and its complement."""
    values: set[Fraction] = set()
    for match in NUMBER.finditer(text):
        value = parse_number(match[0])
        values.add(value)
        if text[match.end() :].lstrip().startswith(("%", "percent", "cent", "¢")):
            values |= {value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value}
    for numerator, denominator in re.findall(r"(\d+)\s*/\s*(\d+)", text):
        if int(denominator):
            part = Fraction(int(numerator), int(denominator))
            values |= {part, 1 - part, Fraction(int(denominator) - int(numerator))}
    words = re.findall(r"[a-z]+", text.lower())
    for word, following in pairwise([*words, ""]):
        values.update(WORD_VALUES.get(word, ()))
        if word in TENS and following in UNITS[1:10]:
            values.add(Fraction(TENS[word] + UNITS.index(following)))
        if following in SCALES and word in UNITS:
            values.add(Fraction(UNITS.index(word) * SCALES[following]))
    return frozenset(values)
