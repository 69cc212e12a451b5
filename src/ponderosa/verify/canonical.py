"""A key per answer, equal for answers that are the same under exact rules: for votes without a gold answer.

Coarser rules (tolerances, symbolic equality) are not transitive and cannot be keys; answers that only they equate
are counted apart.
"""

from ponderosa.verify.agreement import free_symbols
from ponderosa.verify.equivalence import plain_number
from ponderosa.verify.evaluation import rational_value
from ponderosa.verify.forms import Based, Clock, Form, Items, Matrix, Quantity, Relation, Union, fold
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.reading import read_form

MAX_ANSWER_CHARS = 4_000


def canonical_key(answer: str) -> str | None:
    """The key of a bare answer; None if it is empty. Units do not count, as they do not when grading."""
    text = answer.strip()
    if not text:
        return None
    number = plain_number(text)
    if number is not None:
        return str(number)
    if len(text) > MAX_ANSWER_CHARS:
        return text
    return _key(read_form(text)) or fold(clean_notation(text)) or None


def _key(form: Form) -> str | None:
    """None where the form adds nothing to its text."""
    if isinstance(form, Quantity):
        value = None if free_symbols(form.value) else rational_value(form.value)
        return None if value is None else f"{value}%" if form.percent else str(value)
    if isinstance(form, Relation) and form.signs == ("=",) and _is_symbol(form.sides[0]):
        return _key(form.sides[1])
    if isinstance(form, Items):
        keys = _keys(form.items)
        if keys is None:
            return None
        is_set = form.opening in (r"\{", "{") or form.is_joined
        return (
            form.opening.strip("\\{")
            + ",".join(sorted(set(keys)) if is_set else keys)
            + form.closing.strip("\\}")
        )
    if isinstance(form, Matrix):
        rows = [_keys(row) for row in form.rows]
        return None if None in rows else "matrix " + ";".join(",".join(row) for row in rows if row)
    if isinstance(form, Union):
        keys = _keys(form.parts)
        return None if keys is None else " U ".join(sorted(keys))
    if isinstance(form, Based):
        return f"{form.digits}_{form.base}"
    return f"{form.seconds} s" if isinstance(form, Clock) else None


def _keys(forms: tuple[Form, ...]) -> list[str] | None:
    keys = [_key(form) for form in forms]
    found = [key for key in keys if key is not None]
    return found if len(found) == len(keys) else None


def _is_symbol(form: Form) -> bool:
    return isinstance(form, Quantity) and bool(free_symbols(form.value))
