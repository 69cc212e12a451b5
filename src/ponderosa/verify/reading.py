"""What kind of answer is this? Reads the structure around expressions.

Enters: an answer in clean notation. Leaves: one `Form`. Structure is read from the outside in; what stands inside
must be read whole or the answer is `Words`. The readings that conventions decide (units, percent, thousands
separators, bases) are made here; docs/grading.md lists them.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from ponderosa.verify.expression import parse_expression
from ponderosa.verify.forms import Based, Clock, Form, Items, Matrix, Quantity, Relation, Union, Words, fold
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.tokens import NotMath
from ponderosa.verify.units import split_unit

MAX_NESTING = 12
MAX_ITEMS = 200


_RELATION = re.compile(r"\\(le|ge|ne|in|approx|equiv|to|rightarrow|Rightarrow)(?![A-Za-z])|([=<>≡])|(:=)")
_CONNECTIVE = re.compile(
    r"(?:,\s*)?(?:(?:\s|⟦|^)(?:and|or)(?:\s|⟧|$)\s*⟧?|(?<=[)\]}])or(?=[(\[{\\]))", re.IGNORECASE
)
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_THOUSANDS_IN_BRACKETS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,0\d{2})+)(?![\d,])")
_SPACED_THOUSANDS = re.compile(
    r"(?<![\d.,/_^])(?<![\d.,/_^] )([1-9]\d{0,2}(?: \d{3})+)(?![\d,/]| \d+(?!\d*/))"
)
_MIXED = re.compile(
    r"(?<![\d.^_/])(\d+) (\d+)\s*/\s*(\d+)(?!\d)|(?<![\d.^_])(\d+)\s*\\frac\s*\{?(\d+)\}?\s*\{(\d+)\}"
)
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_BASED = re.compile(
    r"(-?)\s*\(?\s*⟦?([0-9A-Z.]*[0-9][0-9A-Z.]*)⟧?\s*\)?\s*_\s*"
    r"(?:\{\s*([0-9]{1,2}|⟦[a-z]+⟧|[a-z]{3,})\s*\}|([0-9]{1,2})|\s*⟦([a-z]+)⟧)"
)
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*⟦?\s*([ap])?\.?\s*(m)?\.?\s*⟧?", re.IGNORECASE)
_MATRIX = re.compile(
    r"\\begin\{([pbvBV]?(?:small)?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL
)
_OPENERS, _CLOSERS = "([{", ")]}"
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


@lru_cache(maxsize=4096)
def read_form(answer: str) -> Form:
    """The form of an answer as somebody wrote it."""
    return _read(clean_notation(answer), 0)


def _read(text: str, depth: int) -> Form:
    text = text.strip()
    if depth > MAX_NESTING:
        return Words(fold(text))
    special = _read_special(text, depth)
    if special is not None:
        return special
    parts, is_joined = split_items(text, _THOUSANDS)
    if len(parts) == 1:
        text = parts[0]
    else:
        if len(parts) > MAX_ITEMS or not all(part.strip() for part in parts):
            return Words(fold(text))
        return _collect(tuple(_read(part, depth + 1) for part in parts), is_joined=is_joined)
    relation = _read_relation(text, depth)
    if relation is not None:
        return relation
    parts = _split_top(text, re.compile(r"\\cup(?![A-Za-z])|(?<=[)\]}])\s*U\s*(?=[(\[\\])"))
    if len(parts) > 1:
        return Union(tuple(_read(part, depth + 1) for part in parts))
    return _read_bracketed(text, depth) or _read_signs(text, depth) or _read_quantity(text)


def _read_special(text: str, depth: int) -> Form | None:
    if match := _CLOCK.fullmatch(text):
        return _read_clock(match)
    if match := _BASED.fullmatch(text):
        base = next(group for group in match.groups()[2:] if group).strip("⟦⟧")
        return Based(match[1] + (match[2].upper().lstrip("0") or "0"), base)
    if (match := _MATRIX.fullmatch(_without_brackets(text))) and r"\begin" not in match[2]:
        lines = re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match[2].replace(r"\hline", ""))
        rows = [row for row in lines if row.strip()]
        return Matrix(tuple(tuple(_read(cell, depth + 1) for cell in row.split("&")) for row in rows))
    return None


def _without_brackets(text: str) -> str:
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and text[1:].lstrip().startswith(r"\begin{"):
        return text[1:-1].strip()
    return text


def _read_clock(match: re.Match[str]) -> Form:
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        hours = hours % 12 + (12 if match[4].lower() == "p" else 0)
    return Clock((hours * 60 + minutes) * 60 + seconds)


def split_items(text: str, thousands: re.Pattern[str]) -> tuple[list[str], bool]:
    """The parts of a list at its outermost commas, semicolons and connectives, and whether there were connectives.

    thousands: which digit groups are one number: any outside brackets; inside, only those a tuple could not hold.
    """
    text = thousands.sub(_join_outermost(text), text)
    joined = _split_top(text, _CONNECTIVE)
    semicolons = [part for piece in joined for part in _split_top(piece, re.compile(";"))]
    if len(semicolons) > len(joined):
        return semicolons, True
    parts = [part for piece in joined for part in _split_top(piece, re.compile(","))]
    return (parts, len(joined) > 1) if len(parts) > 1 else ([text], False)


def _join_outermost(text: str) -> Callable[[re.Match[str]], str]:
    def join(match: re.Match[str]) -> str:
        return match[0].replace(",", "") if not _is_nested(text, match.start()) else match[0]

    return join


def _is_nested(text: str, position: int) -> bool:
    before = text[:position]
    return sum(before.count(c) for c in _OPENERS) > sum(before.count(c) for c in _CLOSERS)


def _split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces between separators that stand outside all brackets; brackets of any kind match any kind."""
    pieces, start, depth, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character in _OPENERS or text.startswith(r"\langle", position):
            depth += 1
        elif character in _CLOSERS or text.startswith(r"\rangle", position):
            depth -= 1
        match = separator.match(text, position) if depth == 0 else None
        if match is not None and match.end() > position:
            pieces.append(text[start:position])
            start = position = match.end()
            continue
        position += 1
    return [*pieces, text[start:]]


def _collect(forms: tuple[Form, ...], *, is_joined: bool = False) -> Form:
    """A bare list. In `n = 1, 2, 3` the name belongs to every value."""
    first = forms[0]
    if (
        isinstance(first, Relation)
        and first.signs in (("=",), ("in",))
        and not any(isinstance(form, Relation) for form in forms[1:])
    ):
        return Relation(first.signs, (first.sides[0], Items((first.sides[1], *forms[1:]), is_joined=True)))
    return Items(forms, is_joined=is_joined)


def _read_relation(text: str, depth: int) -> Form | None:
    sides, signs, start = [], [], 0
    for match in _RELATION.finditer(text):
        if not _is_nested(text, match.start()):
            sides.append(text[start : match.start()])
            signs.append(match[1] or match[2] or match[3])
            start = match.end()
    if not signs:
        return None
    sides.append(text[start:])
    if (
        "approx" in signs
    ):  # The exact value stands before the sign; only a bare name may be approximated alone.
        cut = signs.index("approx")
        if not cut and not sides[0].strip():
            sides, signs = sides[1:], signs[1:]
        elif cut or not _is_name(sides[0]):
            sides, signs = sides[: cut + 1], signs[:cut]
        else:
            signs = ["=" if sign == "approx" else sign for sign in signs]
    if not signs:
        return _read(sides[0], depth + 1)
    if not sides[0].strip() and signs == ["="]:
        return _read(sides[1], depth + 1)
    if not all(side.strip() for side in sides):
        return Words(fold(text))
    return Relation(
        tuple("=" if sign == ":=" else sign for sign in signs), tuple(_read(s, depth + 1) for s in sides)
    )


def _is_name(text: str) -> bool:
    return re.fullmatch(r"\s*(?:\\?[A-Za-z]+|[A-Za-z]_\{?\w+\}?|[A-Za-z]\([^()]*\))\s*", text) is not None


def _read_bracketed(text: str, depth: int) -> Form | None:
    """Something enclosed as a whole: a tuple, interval, set or vector of two or more, else its content."""
    for opening, closing in (
        (r"\{", r"\}"),
        (r"\langle", r"\rangle"),
        *((o, c) for o in "([" for c in ")]"),
        ("{", "}"),
    ):
        inner = text[len(opening) : len(text) - len(closing)]
        if not (text.startswith(opening) and text.endswith(closing) and _is_balanced(inner)):
            continue
        parts, _ = split_items(inner, _THOUSANDS_IN_BRACKETS)
        if len(parts) > 1 or opening == r"\{":
            items = tuple(_read(part, depth + 1) for part in parts if part.strip())
            if len(items) not in (len(parts), 0) or len(items) > MAX_ITEMS:
                return None
            angled = opening == r"\langle"
            return Items(items, "(" if angled else opening, ")" if angled else closing)
        if (opening, closing) in (("{", "}"), ("(", ")"), ("[", "]")):
            return _read(parts[0], depth + 1) if inner.strip() else None
    return None


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in _OPENERS) - (character in _CLOSERS)
        if depth < 0:
            return False
    return depth == 0


def _read_signs(text: str, depth: int) -> Form | None:
    """a ± b is the list a + b, a − b; all signs of one answer are chosen together."""
    if not _PLUS_MINUS.search(text):
        return None
    upper = _PLUS_MINUS.sub(lambda m: "+" if m[1] == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda m: "-" if m[1] == "pm" else "+", text)
    forms = (_read(upper, depth + 1), _read(lower, depth + 1))
    return (
        Items(forms, is_joined=True)
        if all(isinstance(form, Quantity) for form in forms)
        else Words(fold(text))
    )


def _read_quantity(text: str) -> Form:
    amount, unit, percent = split_unit(text)
    try:
        return Quantity(parse_expression(_spell_mixed(amount)), unit, percent)
    except NotMath:
        return Words(fold(text))


def _spell_mixed(text: str) -> str:
    """1 1/2 and 1\\frac12 are sums; 1 000 is a thousand. Raises NotMath for what only looks mixed (11 7/6)."""
    text = _SPACED_THOUSANDS.sub(lambda m: m[1].replace(" ", ""), text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    return _MIXED.sub(_sum_mixed, text)


def _sum_mixed(match: re.Match[str]) -> str:
    whole, numerator, denominator = match.groups()[:3] if match[1] else match.groups()[3:]
    if int(numerator) >= int(denominator):
        raise NotMath(f"{match[0]} is not a mixed number")
    return f"({whole}+{numerator}/{denominator})"


def choice_letter(text: str) -> str | None:
    """The letter of a multiple-choice answer such as C, (C), C., C) Cecile."""
    match = re.fullmatch(
        r"[\s(\[⟦{]*([A-J])(?:[)\].:⟧}]+.*|\s*|\s+[A-Z][a-z].*)", clean_notation(text), re.DOTALL
    )
    return match[1] if match else None
