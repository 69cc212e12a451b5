"""Was an answer worked for, or just stated? Read from the text alone; nothing is run.

Told: an answer that code prints as a literal, directly or by way of names, lists and f-strings; one that is boxed
though no step printed anything computed; prose that is little more than its answer.
Not told: work for show. `print(41 + 1)` looks like an honest sum, a loop that counts up to the answer like a search,
an unrelated result printed before a boxed answer like the one that led to it, and any dozen words like reasoning.
Doubt counts as work.
"""

import ast
import re
import warnings
from collections.abc import Sequence

from ponderosa.records import Step

MIN_WORDS = 12
"""Fewer words than this outside the box are no reasoning, unless they hold an operation."""

_BOX_OR_TAG = re.compile(r"\\(?:boxed|fbox)\s*\{[^{}]*\}?|</?think>")
_OPERATION = re.compile(
    r"[\w)}\]]\s*(?:[-+*/^=<>×÷·]|\\(?:times|cdot|div|le|ge)\b)\s*[\w($\\{\[-]|\\d?frac|\\sqrt"
)
_REPEATING = ("print", "str", "int", "float")
"""Functions that give back what they are given."""
_LITERAL_NODES: tuple[type[ast.AST], ...] = (
    *(ast.Expr, ast.Assign, ast.AnnAssign, ast.Pass),
    *(ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.JoinedStr, ast.FormattedValue),
    *(ast.UnaryOp, ast.USub, ast.UAdd, ast.Name, ast.Load, ast.Store, ast.Call, ast.keyword, ast.Starred),
)


def reasons_in_prose(text: str) -> bool:
    """Does prose hold an operation, or enough words, outside the box?"""
    outside = _BOX_OR_TAG.sub(" ", text)
    return _OPERATION.search(outside) is not None or len(re.findall(r"\w+", outside)) >= MIN_WORDS


def computes_its_answer(steps: Sequence[Step]) -> bool:
    """Did the last step that printed compute what it printed last, itself or from what earlier steps computed?"""
    literal_names = set(_REPEATING)
    is_computed = False
    for step in steps:
        if step.code is None or step.outcome != "ok":
            continue
        prints_computed = _run_over(step.code, literal_names)
        if step.observation and step.observation.strip():
            is_computed = prints_computed
    return is_computed


def _run_over(code: str, literal_names: set[str]) -> bool:
    """Whether what a step prints last is computed; keeps `literal_names`, the names that stand for literals.

    A step that prints without the word calls something that does, which counts as computing.
    """
    is_computed = True
    for statement in _parse(code):
        nodes = list(ast.walk(statement))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        is_literal = all(isinstance(node, _LITERAL_NODES) for node in nodes) and all(
            isinstance(name.ctx, ast.Store) or name.id in literal_names for name in names
        )
        bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        if is_literal:
            literal_names |= bound
        else:
            literal_names -= bound
        if any(name.id == "print" for name in names):
            is_computed = not is_literal
    return is_computed


def _parse(code: str) -> list[ast.stmt]:
    """The statements of a step that ran; none where the code is too deep for the parser."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
