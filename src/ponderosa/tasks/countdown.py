"""Countdown worked out: make a target of numbers, each used once (reasoning-gym's `countdown`).

A solution is a chain: it starts with one number, and each step takes another that is left and adds, subtracts,
multiplies or divides. reasoning-gym builds its puzzles as such chains, so each has one. The steps are code that keeps
the expression beside its value and shows the value beside the goal; when they are the same, the expression is printed:

    goal = 87                        value, text = value + 4, f"({text} + 4)"     print(text)
    value, text = 25, "25"           print(value, goal)
    print(value, goal)

What is left to use is nowhere listed: a list is learned with its length, and numbers are looked up in the question anyway.
reasoning-gym itself is not asked here: whether an answer is right says its scorer, in the sandbox.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import permutations, product
from typing import Any, NamedTuple

from ponderosa.records import Problem, Step
from ponderosa.tasks.arithmetic import evaluate_exactly, get_literals, get_value, parse_expression
from ponderosa.tasks.worked import Unsolved, WorkedSolution

SYMBOLS = "+-*/"


class Move(NamedTuple):
    """One operation of a chain: what is done with which number, and the value it leads to."""

    symbol: str
    number: int
    value: int


class Chain(NamedTuple):
    """The number a solution starts with and what it does to it."""

    start: int
    moves: tuple[Move, ...]

    @property
    def value(self) -> int:
        return self.moves[-1].value if self.moves else self.start


def find_chain(numbers: Sequence[int], target: int) -> Chain | None:
    """The first chain to the target whose values are all whole; larger numbers are tried first, then + before -, *, /.

    Meant for few numbers: n of them have n! * 4^(n - 1) chains.
    """
    for order in permutations(sorted(numbers, reverse=True)):
        for symbols in product(SYMBOLS, repeat=len(order) - 1):
            chain = _follow(order, symbols)
            if chain and chain.value == target:
                return chain
    return None


def work_out(problem: Problem) -> WorkedSolution | Unsolved:
    """The reference solution of a problem that reasoning-gym drew."""
    metadata = problem.meta["metadata"]
    numbers, target = metadata["numbers"], metadata["target"]
    chain = find_chain(numbers, target)
    if chain is None:
        return Unsolved("no_chain")
    steps = tuple(Step(text, text) for text in render_code(chain, target))
    return WorkedSolution(steps, render_prose(chain))


def render_code(chain: Chain, target: int) -> list[str]:
    """A step for the first number, one for each move, and one that prints the expression."""
    show = "print(value, goal)"
    steps = [f'goal = {target}\nvalue, text = {chain.start}, "{chain.start}"\n{show}']
    for symbol, number, _ in chain.moves:
        operator = "//" if symbol == "/" else symbol  # whole values stay whole numbers
        compute = f'value, text = value {operator} {number}, f"({{text}} {symbol} {number})"'
        steps.append(f"{compute}\n{show}")
    return [*steps, "print(text)"]


def render_prose(chain: Chain) -> str:
    """The same reasoning as sums, the expression after ####."""
    value, expression, facts = chain.start, str(chain.start), []
    for symbol, number, following in chain.moves:
        facts.append(f"{value} {symbol} {number} = {following}.")
        value, expression = following, f"({expression} {symbol} {number})"
    return " " + " ".join(facts) + f"\n#### {expression}"


def name_puzzle(metadata: Mapping[str, Any]) -> str:
    """The puzzle without its wording and the order of its numbers."""
    return f"{sorted(metadata['numbers'])} -> {metadata['target']}"


def count_numbers(metadata: Mapping[str, Any]) -> int:
    """How hard a puzzle is: how many numbers there are to use."""
    return len(metadata["numbers"])


def makes_target(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Does the expression use each number once and equal the target exactly?

    Much cheaper than reasoning-gym's scorer and no less strict: that allows a relative error of 1e-5.
    """
    tree = parse_expression(answer)
    if tree is None:
        return False
    used = sorted(get_value(literal) for literal in get_literals(tree))
    return used == sorted(metadata["numbers"]) and evaluate_exactly(tree) == Fraction(metadata["target"])


def _follow(order: Sequence[int], symbols: Sequence[str]) -> Chain | None:
    """The chain of these numbers and operations; None where it divides unevenly."""
    value, moves = order[0], []
    for symbol, number in zip(symbols, order[1:], strict=True):
        if symbol == "/" and value % number:
            return None
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[symbol]
        moves.append(Move(symbol, number, value))
    return Chain(order[0], tuple(moves))
