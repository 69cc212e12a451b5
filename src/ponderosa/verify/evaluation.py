"""The value of an expression at a point: exact rationals as long as possible, else 60 digits.

Nothing here can run for long: powers, factorials and angles beyond the limits below raise `Intractable`; where an
expression has no finite value it raises `Undefined`.
"""

import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from ponderosa.verify.expression import Expr, Number, Symbol

MAX_BITS = 20_000
MAX_FACTORIAL = 3_000
_DIGITS = 60
_MAX_ANGLE = 10**15


Value = Any
"""A Fraction, or an mpmath mpf or mpc (mpmath has no types)."""


class Undefined(ArithmeticError):
    """The expression has no finite value there."""


class Intractable(ArithmeticError):
    """The value is too large to compute."""


_THREAD = threading.local()


def precise() -> Any:
    """A private context, so that nobody else's precision is changed; of each thread its own, because mpmath raises a
    context's precision while it computes. Imported late: most answers are rational."""
    if not hasattr(_THREAD, "context"):
        from mpmath import MPContext  # type: ignore[import-untyped,unused-ignore]

        _THREAD.context = MPContext()
        _THREAD.context.dps = _DIGITS
    return _THREAD.context


def inexact(value: Value) -> Value:
    if isinstance(value, Fraction):
        mp = precise()
        return mp.mpf(value.numerator) / value.denominator
    return value


def evaluate(expression: Expr, point: Mapping[str, Fraction]) -> Value:
    """The value at a point: exact where every operation stays rational. Raises Undefined or Intractable."""
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Symbol):
        return _constant(expression.name) if expression.name not in point else point[expression.name]
    arguments = [evaluate(part, point) for part in expression.arguments]
    operation = _OPERATIONS.get(expression.operation)
    try:
        value = operation(*arguments) if operation else _transcendental(expression.operation, arguments)
    except (ZeroDivisionError, ValueError) as error:
        raise Undefined(str(error)) from error
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise Intractable("too many digits")
    elif precise().isnan(value):
        raise Undefined("not a number")
    return value


def rational_value(expression: Expr) -> Fraction | None:
    """The exact rational value of a constant expression, if that is what it has."""
    try:
        value = evaluate(expression, {})
    except (Undefined, Intractable, OverflowError, RecursionError):
        return None
    return value if isinstance(value, Fraction) else None


def _constant(name: str) -> Value:
    mp = precise()
    constants = {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infinity": mp.inf}
    return constants[name]


def _binary(exact: Callable[[Any, Any], Any]) -> Callable[[Value, Value], Value]:
    def apply(a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return exact(a, b)
        return exact(inexact(a), inexact(b))

    return apply


def _power(base: Value, exponent: Value) -> Value:
    """A power; odd roots of negative reals are the real ones, as school mathematics reads them."""
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if size > MAX_BITS and base not in (0, 1, -1):
            raise Intractable("a power too large")
        return base ** int(exponent)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and base >= 0:
        exact = _exact_root(base, exponent.denominator)
        if exact is not None:
            return _power(exact, Fraction(exponent.numerator))
    if isinstance(exponent, Fraction) and exponent.denominator % 2 and _is_negative(base):
        magnitude = _power(-base, exponent)
        return -magnitude if exponent.numerator % 2 else magnitude
    _refuse_towers(base, exponent)
    return inexact(base) ** inexact(exponent)


def _is_negative(value: Value) -> bool:
    return value < 0 if isinstance(value, Fraction) or not value.imag else False


def _refuse_towers(base: Value, exponent: Value) -> None:
    if abs(inexact(exponent)) > 10**9 or abs(inexact(base)) > precise().mpf(10) ** 10**9:
        raise Intractable("a power too large")


def _root(radicand: Value, degree: Value) -> Value:
    if degree == 0:
        raise Undefined("a zeroth root")
    return _power(radicand, 1 / degree)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if degree > 64 or max(value.numerator.bit_length(), value.denominator.bit_length()) > 4_000:
        return None
    roots = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    if roots[0] is None or roots[1] is None:
        return None
    return Fraction(roots[0], roots[1])


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 1 or value < 2:
        return value
    guess = math.isqrt(value) if degree == 2 else int(precise().nint(precise().root(value, degree)))
    return guess if guess**degree == value else None


def _factorial(n: Value) -> Value:
    if not (isinstance(n, Fraction) and n.denominator == 1 and n >= 0):
        raise Undefined("a factorial of something else than a whole number")
    if n > MAX_FACTORIAL:
        raise Intractable("a factorial too large")
    return Fraction(math.factorial(int(n)))


def _binomial(n: Value, k: Value) -> Value:
    if not all(isinstance(v, Fraction) and v.denominator == 1 and v >= 0 for v in (n, k)):
        raise Undefined("a binomial of something else than whole numbers")
    if n > MAX_FACTORIAL:
        raise Intractable("a binomial too large")
    return Fraction(math.comb(int(n), int(k)))


def _rounded(exact: Callable[[Fraction], int]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        if not isinstance(value, Fraction):
            raise Intractable("rounding of an inexact value")
        return Fraction(exact(value))

    return apply


def _transcendental(name: str, arguments: list[Value]) -> Value:
    mp = precise()
    values = [inexact(value) for value in arguments]
    if any(abs(value) > _MAX_ANGLE for value in values):
        raise Intractable(f"{name} of a large number")
    if name == "log":
        # A bare log has no agreed base: it is kept as a ratio to an unknown, so log 8 = 3 log 2 and log 100 ≠ 2.
        base = values[1] if len(values) == 2 else mp.mpf("7.3890123")
        return mp.log(values[0]) / mp.log(base)
    functions = {"ln": mp.log, "lg": mp.log10, "exp": mp.exp}
    inverses = {"arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "arccot": mp.acot}
    function = functions.get(name) or inverses.get(name) or getattr(mp, name)
    return function(values[0])


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _binary(lambda a, b: a + b),
    "mul": _binary(lambda a, b: a * b),
    "div": _binary(lambda a, b: a / b),
    "neg": lambda a: -a,
    "abs": abs,
    "pow": _power,
    "root": _root,
    "cbrt": lambda a: _root(a, Fraction(3)),
    "factorial": _factorial,
    "binomial": _binomial,
    "floor": _rounded(math.floor),
    "ceil": _rounded(math.ceil),
    "degrees": lambda a: inexact(a) * precise().pi / 180,
}
