"""The kinds of answer: a quantity, a collection, a relation, a matrix, a numeral in a base, a clock time, words."""

import re
from dataclasses import dataclass

from ponderosa.verify.expression import Expr


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or expression, with its unit if it has one; `percent` if written with a percent sign."""

    value: Expr
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers. `opening` and `closing` are the brackets as written, empty for a bare list, `{` for braces
    that group, `\\{` for a set. `is_joined` when connected by "and" or "or", which names a collection."""

    items: tuple["Form", ...]
    opening: str = ""
    closing: str = ""
    is_joined: bool = False


@dataclass(frozen=True, slots=True)
class Union:
    """A union of sets or intervals."""

    parts: tuple["Form", ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides joined by relation signs (`=`, `<`, `>`, `le`, `ge`, `ne`, `in`), as many signs as sides less one."""

    signs: tuple[str, ...]
    sides: tuple["Form", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True, slots=True)
class Based:
    """A numeral in a stated base; never equal to a numeral in another."""

    digits: str
    base: str


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in seconds; a time without a.m. or p.m. is read on the 24-hour clock."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Words:
    """Text, or mathematics this package does not read. `text` is folded for comparison."""

    text: str


Form = Quantity | Items | Union | Relation | Matrix | Based | Clock | Words


_FOLDED = re.compile(r"[⟦⟧\s]+")


def fold(text: str) -> str:
    """Text for comparison: case, spacing and marks removed; a leading article and quotes do not matter."""
    words = _FOLDED.sub(" ", text).strip().strip("\"'").casefold()
    words = re.sub(r"^(?:the|an) ", "", words)
    return re.sub(r"\s*([^\w\s])\s*|(?<=\d)\s+(?=[a-z])", r"\1", words)


def is_unread(form: Form) -> bool:
    """Does the form hold mathematics beyond `expression`, so that the symbolic layer may know more?"""
    if isinstance(form, Words):
        return is_unread_text(form.text)
    if isinstance(form, Matrix):
        return any(is_unread(cell) for row in form.rows for cell in row)
    parts = {Items: "items", Union: "parts", Relation: "sides"}.get(type(form))
    return parts is not None and any(is_unread(part) for part in getattr(form, parts))


def is_unread_text(text: str) -> bool:
    """Mathematics beyond `expression` (integrals, sums, products of matrices), as opposed to plain language."""
    return re.search(r"\\(?!emptyset|mathbb|ldots|dots)[a-z]{2,}|[\^_=]", text) is not None
