"""Are two expressions equal? Exact rationals where they suffice, else many digits at sample points.

Two expressions in the same variables are called equal if they agree at every sample point: exactly where both are
rational, to 40 digits otherwise. Agreement by chance of unequal closed forms at that precision is not a practical
concern, and disagreement is proof. Where either was written with decimals, values within
`DECIMAL_TOLERANCE` · min(1, |gold|) are equal, so six correct decimals and six correct digits are both needed.
"""

from collections.abc import Iterator
from fractions import Fraction

from ponderosa.verify.evaluation import Intractable, Undefined, Value, evaluate, inexact, precise
from ponderosa.verify.expression import CONSTANTS, Apply, Expr, Number, Symbol

DECIMAL_TOLERANCE = Fraction(1, 10**6)
_AGREEING_DIGITS = 40
_TINY_EXPONENT = -45

_POSITIVE = tuple(Fraction(n, 97) for n in (37, 151, 311, 709, 1877))
_SIGNED = (Fraction(-53, 89), Fraction(-421, 89), *_POSITIVE[:3])
_DOMAIN_LIMITED = {"root", "ln", "log", "lg", "arcsin", "arccos", "cbrt"}


def equal_values(gold: Expr, candidate: Expr) -> bool | None:
    """Whether two expressions are equal; None if that cannot be computed within the limits."""
    if gold == candidate:
        return True
    try:
        return _agree(gold, candidate)
    except (Intractable, OverflowError, RecursionError, MemoryError):
        return None


def are_proportional(gold: Expr, candidate: Expr) -> int:
    """The sign of c where gold = c · candidate identically, c constant and nonzero; 0 if there is none."""
    ratios: list[Value] = []
    try:
        for point in _points(gold, candidate):
            try:
                above, below = evaluate(gold, point), evaluate(candidate, point)
            except Undefined:
                continue
            if _is_zero(below) or _is_zero(above):
                if _is_zero(below) != _is_zero(above):
                    return 0
                continue
            ratios.append(above / below)
    except (Intractable, OverflowError, RecursionError, MemoryError):
        return 0
    decimals = has_decimal(gold) or has_decimal(candidate)
    if not ratios or not all(_close(ratios[0], ratio, decimals) for ratio in ratios[1:]):
        return 0
    if hasattr(ratios[0], "imag") and ratios[0].imag != 0:
        return 0
    return 1 if _real(ratios[0]) > 0 else -1


def has_decimal(expression: Expr) -> bool:
    if isinstance(expression, Number):
        return expression.is_decimal
    return isinstance(expression, Apply) and any(has_decimal(part) for part in expression.arguments)


def free_symbols(expression: Expr) -> frozenset[str]:
    """The variables of an expression; named constants are not among them."""
    if isinstance(expression, Symbol):
        return frozenset() if expression.name in CONSTANTS else frozenset({expression.name})
    if isinstance(expression, Apply):
        return frozenset().union(*(free_symbols(part) for part in expression.arguments))
    return frozenset()


def _operations(expression: Expr) -> Iterator[str]:
    if isinstance(expression, Apply):
        yield expression.operation
        if expression.operation == "pow" and not isinstance(expression.arguments[1], Number):
            yield "root"
        for part in expression.arguments:
            yield from _operations(part)


def _points(*expressions: Expr) -> list[dict[str, Fraction]]:
    """Sample points: positive ones only where roots or logarithms leave the sign of a branch to convention."""
    names = sorted(frozenset().union(*(free_symbols(expression) for expression in expressions)))
    if not names:
        return [{}]
    limited = any(name in _DOMAIN_LIMITED for expression in expressions for name in _operations(expression))
    values = _POSITIVE if limited else _SIGNED
    return [
        {name: values[(i + j) % len(values)] + Fraction(j * (i + 2), 101) for j, name in enumerate(names)}
        for i in range(len(values))
    ]


def _agree(gold: Expr, candidate: Expr) -> bool:
    decimals = has_decimal(gold) or has_decimal(candidate)
    compared = 0
    for point in _points(gold, candidate):
        values = []
        for expression in (gold, candidate):
            try:
                values.append(evaluate(expression, point))
            except Undefined:
                continue
        if len(values) == 1:
            return False
        if values and not _close(values[0], values[1], decimals):
            return False
        compared += bool(values)
    return compared > 0


def _close(gold: Value, candidate: Value, decimals: bool) -> bool:
    if isinstance(gold, Fraction) and isinstance(candidate, Fraction):
        if not decimals:
            return gold == candidate
        return abs(gold - candidate) <= DECIMAL_TOLERANCE * min(Fraction(1), abs(gold))
    mp = precise()
    a, b = inexact(gold), inexact(candidate)
    if not (mp.isfinite(a) and mp.isfinite(b)):
        return bool(a == b)
    if decimals:
        return bool(abs(a - b) <= mp.mpf(DECIMAL_TOLERANCE.numerator) / 10**6 * min(mp.mpf(1), abs(a)))
    if 0 in (gold, candidate):
        return bool(max(abs(a), abs(b)) < mp.mpf(10) ** _TINY_EXPONENT)
    return bool(abs(a - b) <= mp.mpf(10) ** -_AGREEING_DIGITS * max(abs(a), abs(b)))


def _is_zero(value: Value) -> bool:
    return bool(value == 0) or (
        not isinstance(value, Fraction) and abs(value) < precise().mpf(10) ** _TINY_EXPONENT
    )


def _real(value: Value) -> Value:
    return value if isinstance(value, Fraction) else value.real
