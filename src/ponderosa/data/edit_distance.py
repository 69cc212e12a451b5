"""How many tokens apart two sequences are. Exact, and fast enough for every pair of a problem's rollouts."""

from collections import defaultdict
from collections.abc import Sequence


def compute_edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements that turn one into the other.

    Myers' bit-vector algorithm (J. ACM 46, 1999) in the form for whole sequences (Hyyrö 2001): a column of the usual
    table is two integers of len(first) bits, which say where it rises or falls by one from cell to cell; each token
    of `second` gives the next column in a dozen operations on whole integers.
    """
    if not first:
        return len(second)
    places: defaultdict[int, int] = defaultdict(int)
    for place, token in enumerate(first):
        places[token] |= 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    rises, falls, distance = every, 0, len(first)
    for token in second:
        equal = places.get(token, 0)
        keeps = (((equal & rises) + rises) ^ rises) | equal | falls
        row_rises = falls | (every & ~(keeps | rises))
        row_falls = rises & keeps
        distance += bool(row_rises & last) - bool(row_falls & last)
        row_rises, row_falls = (row_rises << 1 | 1) & every, row_falls << 1 & every
        rises, falls = row_falls | (every & ~(keeps | row_rises)), row_rises & keeps
    return distance
