"""Equations, inequalities and the names of answers: x = 5, y = 2x + 3, a < x ≤ b."""

from ponderosa.verify.agreement import are_proportional, equal_values, free_symbols
from ponderosa.verify.expression import CONSTANTS, Apply, Expr, Number, Symbol
from ponderosa.verify.forms import Form, Items, Quantity, Relation, Union, Words, is_unread_text
from ponderosa.verify.matching import Same, match_in_order

_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}


def unwrap_names(gold: Form, candidate: Form) -> tuple[Form, Form]:
    """`name = value` stands for its value beside a bare answer, and beside the same name."""
    named = _split_assignment(gold), _split_assignment(candidate)
    if named[0] and named[1]:
        same = named[0][0] == named[1][0] or (_is_function(named[0][0]) and _is_function(named[1][0]))
        return (named[0][1], named[1][1]) if same else (gold, candidate)
    gold = _values_of_names(
        named[0][1] if named[0] and not isinstance(candidate, Relation) else gold, candidate
    )
    candidate = named[1][1] if named[1] and not isinstance(gold, Relation) else candidate
    return gold, _values_of_names(candidate, gold)


def _split_assignment(form: Form) -> tuple[Form, Form] | None:
    """The name and the value of `x = 5`, `x = 2 + 3 = 5`, `x \\in S`, `2 + 3 = 5`."""
    if not isinstance(form, Relation) or set(form.signs) - {"=", "in"}:
        return None
    name, value = form.sides[0], form.sides[-1]
    if _names_something(name) or (form.signs == ("=",) and _is_true_arithmetic(name, value)):
        return name, value
    return None


def _names_something(form: Form) -> bool:
    if isinstance(form, Words):
        return "=" not in form.text and len(form.text) < 40
    if isinstance(form, Items):
        return form.opening == "(" and all(_names_something(item) for item in form.items)
    if not isinstance(form, Quantity):
        return False
    value = form.value
    if isinstance(value, Symbol):
        return value.name not in CONSTANTS
    return _is_function(form) or _is_ratio_of_segments(value)


def _is_ratio_of_segments(value: Expr) -> bool:
    return (
        isinstance(value, Apply)
        and value.operation == "div"
        and all(
            isinstance(part, Symbol) and len(part.name) > 1 and part.name.isupper()
            for part in value.arguments
        )
    )


def _is_function(form: Form) -> bool:
    """y, or a single letter applied to single letters or numbers, as in f(x), P(3)."""
    if not isinstance(form, Quantity):
        return False
    value = form.value
    if isinstance(value, Symbol):
        return value.name == "y"
    return (
        isinstance(value, Apply)
        and value.operation == "mul"
        and isinstance(value.arguments[0], Symbol)
        and len(value.arguments[0].name) == 1
        and isinstance(value.arguments[1], Symbol | Number)
    )


def _is_true_arithmetic(left: Form, right: Form) -> bool:
    if not (isinstance(left, Quantity) and isinstance(right, Quantity)):
        return False
    return not free_symbols(left.value) and equal_values(left.value, right.value) is True


def _values_of_names(form: Form, other: Form) -> Form:
    """`x = 1, y = 2` beside an answer that names nothing is 1, 2; `x = 1 or x = 2` likewise."""
    if not isinstance(form, Items) or form.opening or (isinstance(other, Items) and _has_names(other)):
        return form
    named = [_split_assignment(item) for item in form.items]
    values = [pair[1] for pair in named if pair is not None]
    if len(values) != len(named):
        return form
    return Items(tuple(values), "", "", form.is_joined)


def _has_names(form: Items) -> bool:
    return any(isinstance(item, Relation) for item in form.items)


def compare_relations(gold: Relation, candidate: Relation, same: Same) -> bool | None:
    """Two equations or inequalities: the same solutions by rearrangement, not by solving."""
    sets = _solution_set(gold), _solution_set(candidate)
    if sets[0] and sets[1]:
        if gold.signs == ("in",) != candidate.signs:
            return False
        return sets[0][0] == sets[1][0] and same(sets[0][1], sets[1][1])
    if len(gold.signs) != len(candidate.signs):
        return False
    if len(gold.signs) > 1:
        return _compare_chains(gold, candidate, same) or _compare_chains(gold, _flip(candidate), same)
    return _compare_single(gold, candidate, same)


def _compare_chains(gold: Relation, candidate: Relation, same: Same) -> bool | None:
    if gold.signs != candidate.signs:
        return False
    return match_in_order(gold.sides, candidate.sides, same)


def _flip(relation: Relation) -> Relation:
    signs = tuple(_FLIPPED.get(sign, sign) for sign in reversed(relation.signs))
    return Relation(signs, tuple(reversed(relation.sides)))


def _compare_single(gold: Relation, candidate: Relation, same: Same) -> bool | None:
    differences = [_difference(relation) for relation in (gold, candidate)]
    if differences[0] is None or differences[1] is None:
        return _compare_chains(gold, candidate, same) or _compare_chains(gold, _flip(candidate), same)
    a, b = gold.signs[0], candidate.signs[0]
    if a not in _FLIPPED or b not in _FLIPPED:
        return False
    factor = are_proportional(differences[0], differences[1])
    return factor != 0 and b == (a if factor > 0 else _FLIPPED[a])


def _difference(relation: Relation) -> Expr | None:
    left, right = relation.sides
    if not (isinstance(left, Quantity) and isinstance(right, Quantity)) or left.percent or right.percent:
        return None
    return Apply("add", (left.value, Apply("neg", (right.value,))))


def compare_as_sets(gold: Form, candidate: Form, same: Same) -> bool | None:
    """x > 2 answered as (2, ∞) is right; (2, ∞) answered as x > 2 is not the notation that was asked for."""
    relation, other = (gold, candidate) if isinstance(gold, Relation) else (candidate, gold)
    if isinstance(other, Words):
        return None if is_unread_text(other.text) else False
    assert isinstance(relation, Relation)
    found = _solution_set(relation) if relation is gold else None
    return False if found is None else same(found[1], other)


def _solution_set(relation: Relation) -> tuple[Expr, Form] | None:
    """The variable and the interval of `x < b`, `a < x`, `a \\le x < b` and their mirror images, the set of x ∈ S."""
    if relation.signs == ("in",) and isinstance(relation.sides[0], Quantity):
        return relation.sides[0].value, relation.sides[1]
    if set(relation.signs) <= {">", "ge"}:
        relation = _flip(relation)
    if not relation.signs or not set(relation.signs) <= {"<", "le"} or len(relation.signs) > 2:
        return None
    values = [side.value if isinstance(side, Quantity) else None for side in relation.sides]
    variables = [i for i, side in enumerate(relation.sides) if _names_something(side)]
    if None in values or len(variables) != 1 or (len(values) == 3 and variables != [1]):
        return None
    place = variables[0]
    below: Form = relation.sides[place - 1] if place else Quantity(Apply("neg", (Symbol("infinity"),)))
    above: Form = relation.sides[place + 1] if place + 1 < len(values) else Quantity(Symbol("infinity"))
    opening = "[" if place and relation.signs[place - 1] == "le" else "("
    closing = "]" if place < len(relation.signs) and relation.signs[place] == "le" else ")"
    variable = values[place]
    assert variable is not None
    return variable, Items((below, above), opening, closing)


def interval_parts(form: Form) -> tuple[Form, ...]:
    """The sets whose union the form is; inequalities joined by "or" are the intervals they describe."""
    if isinstance(form, Union):
        return form.parts
    if (
        isinstance(form, Items)
        and not form.opening
        and all(isinstance(item, Relation) for item in form.items)
    ):
        found = [_solution_set(item) for item in form.items if isinstance(item, Relation)]
        return tuple(pair[1] for pair in found if pair is not None)
    return (form,)
