"""Matching the members of two collections: lists, sets, tuples, intervals, unions and matrices.

Members are compared by the function `same` that the caller passes in, so that this file needs to know no convention
but those of brackets and order.
"""

from collections.abc import Callable, Iterable, Sequence

from ponderosa.verify.forms import Form, Items, Matrix, Relation

Same = Callable[[Form, Form], bool | None]


def compare_collections(gold: Form, candidate: Form, same: Same, *, in_any_order: bool) -> bool | None:
    """Two answers of which at least one has several members; a single answer is a collection of one."""
    vectors = _as_vector(gold), _as_vector(candidate)
    if isinstance(gold, Matrix) or isinstance(candidate, Matrix):
        return (
            match_in_order(vectors[0].items, vectors[1].items, same) if vectors[0] and vectors[1] else False
        )
    gold, candidate = _as_items(gold), _as_items(candidate)
    if not _brackets_agree(gold, candidate):
        return False
    a, b = _flatten(gold), _flatten(candidate)
    if {gold.opening, candidate.opening} & {"(", "["}:
        return match_in_order(a, b, same)
    if in_any_order or _is_collection(gold) or _is_collection(candidate):
        return match_in_any_order(a, b, same)
    return match_in_order(a, b, same)


def _is_collection(items: Items) -> bool:
    """A set, values joined by words or a ±, or a list of points or equations: nothing that is read in order."""
    members = any(isinstance(item, Items | Relation) for item in items.items)
    return items.is_joined or items.opening in (r"\{", "{") or members


def _as_items(form: Form) -> Items:
    return form if isinstance(form, Items) else Items((form,))


def _as_vector(form: Form) -> Items | None:
    if isinstance(form, Items):
        return form if form.opening in ("(", "[", "") and len(form.items) > 1 else None
    if isinstance(form, Matrix):
        if len(form.rows) == 1:
            return Items(form.rows[0], "(", ")")
        if all(len(row) == 1 for row in form.rows):
            return Items(tuple(row[0] for row in form.rows), "(", ")")
    return None


def _flatten(items: Items) -> tuple[Form, ...]:
    """A ± b inside a list or set is two of its members."""
    if items.opening in ("(", "["):
        return items.items
    flat: list[Form] = []
    for item in items.items:
        flat += item.items if isinstance(item, Items) and item.is_joined and not item.opening else [item]
    return tuple(flat)


def _brackets_agree(gold: Items, candidate: Items) -> bool:
    """Brackets carry meaning between pairs (interval or point) and against sets; a bare list fits most."""
    pairs = (gold.opening, gold.closing), (candidate.opening, candidate.closing)
    if pairs[0] == pairs[1]:
        return True
    braces = {("{", "}"), (r"\{", r"\}")}
    if ("", "") in pairs:
        other = pairs[0] if pairs[1] == ("", "") else pairs[1]
        if other in braces or other == ("(", ")"):
            return True
        return other == ("[", "]") and (candidate.opening == "[" or len(gold.items) > 2)
    if set(pairs) <= braces:
        return True
    if set(pairs) == {("{", "}"), ("(", ")")}:
        return True
    return set(pairs) == {("(", ")"), ("[", "]")} and len(gold.items) > 2


def match_in_order(gold: Sequence[Form], candidate: Sequence[Form], same: Same) -> bool | None:
    """Equal member by member."""
    if len(gold) != len(candidate):
        return False
    return _all(same(a, b) for a, b in zip(gold, candidate, strict=True))


def match_in_any_order(gold: Sequence[Form], candidate: Sequence[Form], same: Same) -> bool | None:
    """A pairing of equals, repetitions aside. Equality is transitive up to rounding, so the first match will do."""
    wanted, left, unread = list(dict.fromkeys(gold)), list(dict.fromkeys(candidate)), False
    if len(wanted) != len(left):
        return False
    for form in wanted:
        verdicts = [same(form, other) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unread = True
        else:
            return False
    return None if unread else True


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    unread = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unread = unread or verdict is None
    return None if unread else True


def compare_matrices(gold: Matrix, candidate: Matrix, same: Same) -> bool | None:
    """Equal shapes and entries; the kind of brackets does not matter."""
    if [len(row) for row in gold.rows] != [len(row) for row in candidate.rows]:
        return False
    cells = [[cell for row in matrix.rows for cell in row] for matrix in (gold, candidate)]
    return match_in_order(cells[0], cells[1], same)
