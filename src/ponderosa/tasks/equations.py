"""Finding the equations in a line of worked prose.

GSM8K marks what its calculator computed: "48/2 = $<<48/2=24>>24". Writers also left equations unmarked:
"2*50=100 worms", "80(.30)=24". Both are found; an unmarked one only if it is exactly true.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from ponderosa.tasks.arithmetic import NUMBER, evaluate_exactly, get_literals, get_value, parse_expression

MARK = re.compile(r"<<([^<>]*)>>")
VALUE = re.compile(rf"\s*-?[$£€]?\s*({NUMBER.pattern})(?:/(\d+))?(?![\d,]*\d)")
SAID = re.compile(rf"(?:\s*=)?{VALUE.pattern}")
UNIT_WORDS = re.compile(r"(?:/\s*)?\b[A-Za-z]{2,}\b\.?")
MAX_UNIT_WORDS = 3
MAX_LITERALS = 12


class Equation(NamedTuple):
    """An equation and where it is shown: in the line without its marks, text[start:end] is "48/2 = $24"."""

    start: int
    end: int
    expression: ast.expr
    value: Fraction


class UnreadableMark(ValueError):
    """A calculator mark that is not arithmetic, or does not hold."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of worked prose without its marks, and its equations from left to right."""

    text: str
    equations: tuple[Equation, ...]


def read_line(marked_text: str) -> Line:
    """A line's text and equations. Raises UnreadableMark if a mark does not hold exactly."""
    text, marks = _remove_marks(marked_text)
    equations: list[Equation] = []
    for position, mark in marks:
        begin = equations[-1].end if equations else 0
        equations.append(_place_mark(text, begin, position, mark))
    begins = [0, *(equation.end for equation in equations)]
    ends = [*(equation.start for equation in equations), len(text)]
    for begin, end in zip(begins, ends, strict=True):
        equations += _find_unmarked(text, begin, end)
    return Line(text, tuple(sorted(equations, key=lambda equation: equation.start)))


def _remove_marks(marked_text: str) -> tuple[str, list[tuple[int, str]]]:
    pieces, marks, length, cursor = [], [], 0, 0
    for match in MARK.finditer(marked_text):
        pieces.append(marked_text[cursor : match.start()])
        length += match.start() - cursor
        marks.append((length, match[1]))
        cursor = match.end()
    return "".join([*pieces, marked_text[cursor:]]), marks


def _place_mark(text: str, begin: int, position: int, mark: str) -> Equation:
    """The equation of a mark at `position`, with the arithmetic shown before it and the value after it."""
    expression, value = _parse_mark(mark)
    end = _extend_right(text, position, value)
    head = text[begin:position].rstrip(" $£€")
    if not head.endswith("="):
        return Equation(begin + len(head), end, expression, value)
    if isinstance(expression, ast.Constant):  # "12+24 = <<36=36>>36"
        for start, shown in _parse_before(text, begin, begin + len(head) - 1, value):
            return Equation(start, end, shown, value)
    shown_at = _find_shown_start(head[:-1], [get_value(literal) for literal in get_literals(expression)])
    return Equation(begin + (len(head) if shown_at is None else shown_at), end, expression, value)


def _parse_mark(mark: str) -> tuple[ast.expr, Fraction]:
    computed, _, claimed = mark.replace("//", "/").replace("%", "/100").rpartition("=")
    expression, result = parse_expression(computed), parse_expression(claimed)
    value = evaluate_exactly(expression) if expression else None
    if expression is None or value is None or result is None or evaluate_exactly(result) != value:
        raise UnreadableMark(mark)
    return expression, value


def _find_shown_start(head: str, literals: list[Fraction]) -> int | None:
    """Where in `head`, which ends before "=", the arithmetic over these literals begins."""
    numbers = list(NUMBER.finditer(head))[-len(literals) :]
    if [Fraction(number[0].replace(",", "")) for number in numbers] != literals:
        return None
    shown = head[numbers[0].start() :]
    if len(re.findall(r"[A-Za-z]{2,}", shown)) > MAX_UNIT_WORDS * len(literals) or re.search(
        r"[.;:?!]\s", shown
    ):
        return None
    return _extend_left(head, numbers[0].start())


def _extend_left(text: str, start: int) -> int:
    """Take in the brackets and currency signs that a number carries in front."""
    while start and (
        text[start - 1] in "($£€" or (text[start - 1] == " " and start > 1 and text[start - 2] in "($£€")
    ):
        start -= 1
    return start


def _extend_right(text: str, end: int, value: Fraction) -> int:
    """Take in the value said after an equation, however often: "40 = 40"."""
    while (said := SAID.match(text, end)) and _read_value(said) == value:
        end = said.end()
    return end


def _find_unmarked(text: str, begin: int, end: int) -> Iterator[Equation]:
    """True equations in text[begin:end], each as long as it can be."""
    for equals in re.finditer("=", text[begin:end]):
        position = begin + equals.start()
        value = VALUE.match(text, position + 1, end)
        if not value or re.match(r"\s*[%\w]*\s*[*×÷(+^]", text[value.end() :]):
            continue
        for start, expression in _parse_before(text, begin, position, _read_value(value)):
            end = _extend_right(text, value.end(), _read_value(value))
            yield Equation(start, end, expression, _read_value(value))
            begin = end
            break


def _parse_before(text: str, begin: int, end: int, value: Fraction) -> Iterator[tuple[int, ast.expr]]:
    """Arithmetic in text[begin:end] that ends at `end` and comes to `value`, longest first."""
    for number in list(NUMBER.finditer(text, begin, end))[-MAX_LITERALS:]:
        start = max(begin, _extend_left(text, number.start()))
        expression = _parse_shown(text[start:end], value)
        if expression is not None:
            yield start, expression


def _parse_shown(shown: str, value: Fraction) -> ast.expr | None:
    """Arithmetic shown with units, if it has an operator and comes to `value`; 20% is tried as 20 and as 20/100."""
    bare = UNIT_WORDS.sub(" ", shown)
    for percent in ("", "/100"):
        expression = parse_expression(re.sub(r"([\d.]+)\s*%", rf"(\1{percent})", bare))
        if isinstance(expression, ast.BinOp) and evaluate_exactly(expression) == value:
            return expression
    return None


def _read_value(match: re.Match[str]) -> Fraction:
    value = Fraction(match[1].replace(",", ""))
    return value / int(match[2]) if match[2] and int(match[2]) else value
