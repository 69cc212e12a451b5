"""Are two answers the same? The in-process layers: exact text, rational, numeric and structural comparison.

Enters: gold and candidate as bare answers. Leaves: True, False, or None where these layers cannot tell and the
symbolic layer (`workers`) should be asked. The conventions are the table of docs/grading.md; where public graders
disagree the stricter reading was chosen, because a false positive teaches a model something wrong.
"""

import re
from fractions import Fraction

from ponderosa.verify.agreement import equal_values
from ponderosa.verify.expression import Apply, Expr, Number
from ponderosa.verify.forms import (
    Based,
    Form,
    Items,
    Matrix,
    Quantity,
    Relation,
    Union,
    Words,
    fold,
    is_unread_text,
)
from ponderosa.verify.matching import compare_collections, compare_matrices, match_in_any_order
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.reading import choice_letter, read_form
from ponderosa.verify.relations import compare_as_sets, compare_relations, interval_parts, unwrap_names

MAX_ANSWER_CHARS = 4_000
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})")
_PLAIN_FRACTION = re.compile(r"([+-]?\d{1,300})\s*/\s*(\d{1,300})")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{2}|\d+,\d{4,})")
_EMPTY_SETS = frozenset({r"\emptyset", r"\{\}", "{}", "emptyset", "empty set"})
_REALS = frozenset({r"\mathbb{r}", "all real numbers", "all reals", "real numbers", "r"})


def compare_answers(gold: str, candidate: str, *, in_any_order: bool = False) -> bool | None:
    """Whether two bare answers are the same; None if only the symbolic layer can tell.

    in_any_order: the question asks for several values in no particular order, so bare lists are collections.
    """
    if not gold.strip() or not candidate.strip():
        return False
    quick = compare_plain(gold.strip(), candidate.strip())
    if quick is not None:
        return quick
    if _same_text(gold, candidate):
        return True
    if max(len(gold), len(candidate)) > MAX_ANSWER_CHARS:
        return False
    if _compare_choices(gold, candidate):
        return True
    forms = read_form(gold), read_form(_spell_decimal_comma(candidate, gold))
    return compare_forms(
        read_form(_spell_decimal_comma(gold, candidate)), forms[1], in_any_order=in_any_order
    )


def compare_plain(gold: str, candidate: str) -> bool | None:
    """Plain numbers and fractions, by far the commonest answers, without reading any notation; None for others."""
    a = plain_number(gold)
    b = None if a is None else plain_number(candidate)
    if a is None or b is None:
        return None
    if "." not in gold and "." not in candidate:
        return a == b
    return equal_values(Number(a, True), Number(b, True))


def plain_number(text: str) -> Fraction | None:
    """The value of digits with an optional sign, point or slash; None for anything else."""
    if _PLAIN_NUMBER.fullmatch(text):
        return Fraction(text.rstrip(".")) if "." in text else Fraction(int(text))
    if match := _PLAIN_FRACTION.fullmatch(text):
        return Fraction(int(match[1]), int(match[2])) if int(match[2]) else None
    return None


def _same_text(gold: str, candidate: str) -> bool:
    texts = [fold(clean_notation(text)) for text in (gold, candidate)]
    return texts[0] == texts[1] and bool(texts[0]) and any(c.isalnum() for c in texts[0])


def _compare_choices(gold: str, candidate: str) -> bool:
    letters = choice_letter(gold), choice_letter(candidate)
    bare = [len(re.findall(r"\w", text)) == 1 for text in (gold, candidate)]
    return letters[0] is not None and letters[0] == letters[1] and any(bare)


def _spell_decimal_comma(text: str, other: str) -> str:
    """`1,22` beside an answer written `1.22` is a decimal; alone it is a list."""
    stripped = text.strip().strip("$").strip()
    if _DECIMAL_COMMA.fullmatch(stripped) and re.fullmatch(r"-?\d*\.\d+", other.strip().strip("$").strip()):
        return stripped.replace(",", ".")
    return text


def compare_forms(gold: Form, candidate: Form, *, in_any_order: bool = False) -> bool | None:
    """Whether two forms are the same answer; None if unread mathematics stands in the way."""
    gold, candidate = unwrap_names(gold, candidate)
    if isinstance(gold, Relation) and isinstance(candidate, Relation):
        return compare_relations(gold, candidate, compare_forms)
    if isinstance(gold, Relation) or isinstance(candidate, Relation):
        return compare_as_sets(gold, candidate, compare_forms)
    if isinstance(gold, Words) and isinstance(candidate, Words):
        return _compare_words(gold.text, candidate.text)
    if isinstance(gold, Words) or isinstance(candidate, Words):
        return _compare_with_words(gold, candidate)
    if isinstance(gold, Union) or isinstance(candidate, Union):
        return match_in_any_order(interval_parts(gold), interval_parts(candidate), compare_forms)
    if isinstance(gold, Items) or isinstance(candidate, Items):
        return compare_collections(gold, candidate, compare_forms, in_any_order=in_any_order)
    if isinstance(gold, Matrix) and isinstance(candidate, Matrix):
        return compare_matrices(gold, candidate, compare_forms)
    if isinstance(gold, Quantity) and isinstance(candidate, Quantity):
        return _compare_quantities(gold, candidate)
    return gold == candidate if type(gold) is type(candidate) else False


def _compare_quantities(gold: Quantity, candidate: Quantity) -> bool | None:
    if gold.unit and candidate.unit and gold.unit != candidate.unit:
        return False
    if gold.percent == candidate.percent:
        return equal_values(gold.value, candidate.value)
    percentage, other = (gold, candidate) if gold.percent else (candidate, gold)
    hundredth = Apply("div", (percentage.value, Number(Fraction(100))))
    if equal_values(hundredth, other.value):
        return True
    return equal_values(percentage.value, other.value) if _is_literal(percentage.value) else False


def _is_literal(value: Expr) -> bool:
    return isinstance(value, Number) or (
        isinstance(value, Apply) and value.operation == "neg" and isinstance(value.arguments[0], Number)
    )


def _compare_words(gold: str, candidate: str) -> bool | None:
    if gold == candidate:
        return True
    for synonyms in (_EMPTY_SETS, _REALS):
        if gold in synonyms and candidate in synonyms:
            return True
    return None if is_unread_text(gold) and is_unread_text(candidate) else False


def _compare_with_words(gold: Form, candidate: Form) -> bool | None:
    words, other = (gold, candidate) if isinstance(gold, Words) else (candidate, gold)
    assert isinstance(words, Words)
    if words.text in _REALS and isinstance(other, Items):
        return compare_forms(read_form(r"(-\infty,\infty)"), other)
    if isinstance(other, Based):
        return False
    return None if is_unread_text(words.text) else False
