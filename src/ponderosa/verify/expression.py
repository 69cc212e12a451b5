"""Mathematical expressions: LaTeX or plain text to a small tree.

Enters: one expression, already cleaned by `notation`. Leaves: a tree of `Number`, `Symbol` and `Apply`, or `NotMath`
for anything else (words, integrals, sums, matrices, unknown commands): this reader never guesses and never reads
only a part of its text. It evaluates nothing; see `evaluation`.
"""

from dataclasses import dataclass
from fractions import Fraction

from ponderosa.verify.tokens import CONSTANT_NAMES, FUNCTIONS, GREEK, NotMath, tokenize

MAX_CHARS = 2_000
MAX_DEPTH = 40
MAX_DIGITS = 1_000
CONSTANTS = frozenset(CONSTANT_NAMES.values())


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational; `is_decimal` if it was written with a decimal point or exponent."""

    value: Fraction
    is_decimal: bool = False


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a named constant (`pi`, `e`, `i`, `infinity`)."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation (`add`, `mul`, `div`, `pow`, `neg`) or a function by name, and its arguments."""

    operation: str
    arguments: tuple["Expr", ...]


Expr = Number | Symbol | Apply

_INVERTIBLE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_TIMES = {"*", "\\cdot", "\\times", "\\ast"}
_OVER = {"/", "\\div"}
_CLOSERS = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert"}
_DEGREE = {"°", "\\circ", "\\degree"}


def parse_expression(text: str) -> Expr:
    """The tree of one whole expression. Raises NotMath."""
    if len(text) > MAX_CHARS:
        raise NotMath(f"{len(text)} characters; at most {MAX_CHARS}")
    parser = _Parser(tokenize(text))
    expression = parser.parse_sum(0)
    if parser.peek() is not None:
        raise NotMath(f"unexpected {parser.peek()!r}")
    return expression


class _Parser:
    """Recursive descent over tokens; every method consumes what it returns."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    def peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def next(self) -> str:
        token = self.peek()
        if token is None:
            raise NotMath("ends too early")
        self.position += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.position += 1
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise NotMath(f"expected {token!r}, saw {self.peek()!r}")

    def parse_sum(self, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise NotMath("nested too deeply")
        total = self.parse_product(depth)
        while self.peek() in ("+", "-"):
            sign = self.next()
            term = self.parse_product(depth)
            total = Apply("add", (total, term if sign == "+" else Apply("neg", (term,))))
        return total

    def parse_product(self, depth: int) -> Expr:
        if self.peek() in ("+", "-"):
            sign = self.next()
            if depth > MAX_DEPTH:
                raise NotMath("nested too deeply")
            operand = self.parse_product(depth + 1)
            return operand if sign == "+" else Apply("neg", (operand,))
        product = self.parse_power(depth)
        while (token := self.peek()) is not None:
            if token in _TIMES or token in _OVER:
                self.next()
                operation = "mul" if token in _TIMES else "div"
                product = Apply(operation, (product, self.parse_signed_power(depth)))
            elif self._starts_factor(token):
                if token[0].isdigit() or token[0] == ".":
                    raise NotMath("two numbers side by side")
                product = Apply("mul", (product, self.parse_power(depth)))
            else:
                break
        return product

    def parse_signed_power(self, depth: int) -> Expr:
        if self.accept("-"):
            return Apply("neg", (self.parse_power(depth),))
        self.accept("+")
        return self.parse_power(depth)

    def parse_power(self, depth: int) -> Expr:
        base = self.parse_atom(depth)
        while (token := self.peek()) is not None:
            if token == "!":
                self.next()
                base = Apply("factorial", (base,))
            elif token in _DEGREE:
                self.next()
                base = Apply("degrees", (base,))
            elif token in ("^", "**"):
                self.next()
                if self._accept_degree():
                    base = Apply("degrees", (base,))
                else:
                    base = Apply("pow", (base, self.parse_exponent(depth)))
            else:
                break
        return base

    def _accept_degree(self) -> bool:
        here = self.tokens[self.position : self.position + 3]
        if here[:1] and here[0] in _DEGREE:
            self.position += 1
            return True
        if len(here) == 3 and here[0] == "{" and here[1] in _DEGREE and here[2] == "}":
            self.position += 3
            return True
        return False

    def parse_exponent(self, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise NotMath("nested too deeply")
        if self.accept("-"):
            return Apply("neg", (self.parse_exponent(depth + 1),))
        exponent = self.parse_atom(depth + 1)
        if self.peek() in ("^", "**"):
            self.next()
            return Apply("pow", (exponent, self.parse_exponent(depth + 1)))
        return exponent

    def parse_atom(self, depth: int) -> Expr:
        token = self.next()
        if token[0].isdigit() or token[0] == ".":
            return self._number(token)
        if token in _CLOSERS:
            return self._group(token, depth)
        if token == "|":
            return self._absolute(depth)
        name = token.removeprefix("\\")
        if token == "\\frac":
            numerator = self.parse_argument(depth)
            return Apply("div", (numerator, self.parse_argument(depth)))
        if token == "\\binom":
            upper = self.parse_argument(depth)
            return Apply("binomial", (upper, self.parse_argument(depth)))
        if name == "sqrt":
            return self._root(depth)
        if name in FUNCTIONS:
            return self._function(name, depth)
        return self._symbol(token, name)

    def _number(self, token: str) -> Number:
        if self.peek() == "_":
            raise NotMath("a number with a subscript")
        if len(token) > MAX_DIGITS:
            raise NotMath("a number too long to read")
        mantissa, _, exponent = token.lower().partition("e")
        if exponent and abs(int(exponent)) > MAX_DIGITS:
            raise NotMath("a number too large to read")
        is_decimal = bool(exponent) or "." in mantissa.rstrip(".")
        return Number(Fraction(token.rstrip(".")), is_decimal)

    def _group(self, opener: str, depth: int) -> Expr:
        inner = self.parse_sum(depth + 1)
        self.expect(_CLOSERS[opener])
        wrappers: dict[str, str] = {"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs"}
        return Apply(wrappers[opener], (inner,)) if opener in wrappers else inner

    def _absolute(self, depth: int) -> Expr:
        inner = self.parse_sum(depth + 1)
        self.expect("|")
        return Apply("abs", (inner,))

    def parse_argument(self, depth: int) -> Expr:
        """What follows a LaTeX command: a group, or a single digit, letter or command."""
        token = self.peek()
        if token is not None and token.isdigit() and len(token) > 1:
            self.tokens[self.position] = token[1:]
            return Number(Fraction(token[0]))
        return self.parse_atom(depth + 1)

    def _root(self, depth: int) -> Expr:
        degree: Expr = Number(Fraction(2))
        if self.accept("["):
            degree = self.parse_sum(depth + 1)
            self.expect("]")
        return Apply("root", (self.parse_atom(depth + 1), degree))

    def _function(self, name: str, depth: int) -> Expr:
        base: Expr | None = None
        power: Expr | None = None
        while self.peek() in ("_", "^"):
            if self.next() == "_":
                base = self.parse_argument(depth)
            else:
                power = self.parse_exponent(depth)
        if isinstance(power, Apply) and power == Apply("neg", (Number(Fraction(1)),)) and name in _INVERTIBLE:
            name, power = _INVERTIBLE[name], None
        argument = self._function_argument(depth)
        arguments = (argument,) if base is None else (argument, base)
        if base is not None and name != "log":
            raise NotMath(f"{name} with a subscript")
        value = Apply(name, arguments)
        return value if power is None else Apply("pow", (value, power))

    def _function_argument(self, depth: int) -> Expr:
        """A bracketed argument, or the product that follows up to the next function or sign."""
        if depth > MAX_DEPTH:
            raise NotMath("nested too deeply")
        if self.peek() in ("(", "[", "{"):
            return self.parse_atom(depth + 1)
        if self.accept("-"):
            return Apply("neg", (self._function_argument(depth + 1),))
        argument = self.parse_power(depth + 1)
        while (token := self.peek()) is not None and self._continues_argument(token):
            argument = Apply("mul", (argument, self.parse_power(depth + 1)))
        return argument

    def _continues_argument(self, token: str) -> bool:
        name = token.removeprefix("\\")
        return name not in FUNCTIONS and token not in ("(", "[", "{", "|") and self._starts_factor(token)

    def _symbol(self, token: str, name: str) -> Symbol:
        if name in CONSTANT_NAMES and self.peek() != "_":
            return Symbol(CONSTANT_NAMES[name])
        if token.startswith("\\") and name not in GREEK:
            raise NotMath(f"unknown command {token}")
        if not name.isalpha():
            raise NotMath(f"unexpected {token!r}")
        return Symbol(name + self._subscript())

    def _subscript(self) -> str:
        if not self.accept("_"):
            return ""
        if not self.accept("{"):
            return "_" + self.next().removeprefix("\\")
        parts = []
        while not self.accept("}"):
            parts.append(self.next().removeprefix("\\"))
        return "_" + "".join(parts)

    def _starts_factor(self, token: str) -> bool:
        if token.startswith("\\"):
            name = token[1:]
            return (
                name in FUNCTIONS
                or name in CONSTANT_NAMES
                or name in GREEK
                or token in ("\\frac", "\\binom", "\\lfloor", "\\lceil", "\\lvert")
            )
        return token[0].isalnum() or token[0] == "." or token in ("(", "[", "{")
