"""Worked solutions of `quantities` problems with one planted error, and so with gold step labels.

    operator   one operator of one step is another
    operand    one step reads another variable than the one its sentence names
    number     one step's number is off by one
    quote      a quoted sentence says another relation, or another number of the problem; the code then follows it

The error is in one step alone and is the first thing wrong; what comes later follows from it, with values as the code
gives them. Every value stays a positive whole number and every division exact, as in true solutions, so that nothing
but the error itself tells. The answer is wrong.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, get_args

from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Problem
from ponderosa.tasks.quantities.graph import Graph, Quantity, find_needed
from ponderosa.tasks.quantities.relations import BY_NAME
from ponderosa.tasks.quantities.task import find_step_unit, load_graph
from ponderosa.tasks.quantities.wording import (
    express,
    find_assignment_order,
    name_variable,
    render_code_steps,
)
from ponderosa.tasks.step_labels import LabelledSolution

ErrorKind = Literal["operator", "operand", "number", "quote"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

WRONG_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv)


@dataclass(frozen=True, slots=True)
class _Program:
    """A graph, and code that is assigned in place of what it says, by quantity."""

    graph: Graph
    replaced: Mapping[int, str] = field(default_factory=dict)


def label_solution(
    problem: Problem, seed: int, relations: Sequence[str] = tuple(BY_NAME)
) -> LabelledSolution | None:
    """A problem's solution, true or (every second time, as the seed has it) with an error of a kind drawn at random.

    relations: what a wrong quote may say. None if the problem has no place for an error.
    """
    random = Random(derive_seed("planted", seed, problem.id))
    if random.random() < 0.5:
        return LabelledSolution(
            content_hash([problem.id, "true"]),
            problem,
            tuple(render_code_steps(load_graph(problem), find_step_unit(problem))),
            first_error=None,
            is_answer_right=True,
        )
    planted = (
        plant_error(problem, kind, random, relations) for kind in random.sample(ERROR_KINDS, len(ERROR_KINDS))
    )
    return next((solution for solution in planted if solution), None)


def plant_error(
    problem: Problem, kind: ErrorKind, random: Random, relations: Sequence[str] = tuple(BY_NAME)
) -> LabelledSolution | None:
    """The reference solution with one error of that kind; None if the problem has no place for one."""
    graph = load_graph(problem)
    if kind == "quote":
        programs = [_Program(misread) for misread in _misread(graph, relations)]
    else:
        programs = [_Program(graph, {index: code}) for index, code in _miswrite(graph, kind)]
    random.shuffle(programs)
    for program in programs:
        answer = _evaluate(program)
        if answer is not None and str(answer) != problem.answer:
            return _build(problem, kind, program)
    return None


def _build(problem: Problem, kind: ErrorKind, program: _Program) -> LabelledSolution:
    step_unit = find_step_unit(problem)
    steps = render_code_steps(program.graph, step_unit, program.replaced)
    true_steps = render_code_steps(load_graph(problem), step_unit)
    differing = [
        place for place, (step, true) in enumerate(zip(steps, true_steps, strict=True)) if step != true
    ]
    assert kind == "quote" or len(differing) == 1
    name = content_hash([problem.id, kind, [step.text for step in steps]])
    return LabelledSolution(name, problem, tuple(steps), differing[0], kind, is_answer_right=False)


def _miswrite(graph: Graph, kind: ErrorKind) -> Iterator[tuple[int, str]]:
    """Every way to write one quantity's code wrong: the quantity, and the code."""
    order = find_assignment_order(graph)
    for place, index in enumerate(order):
        tree = ast.parse(express(graph, index), mode="eval").body
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        known = {name_variable(graph.quantities[other]) for other in order[:place]}
        for wrong in _mutate(tree, kind, sorted(known - read)):
            yield index, ast.unparse(wrong)


def _mutate(tree: ast.expr, kind: ErrorKind, others: Sequence[str]) -> Iterator[ast.expr]:
    """Every expression that differs from one in a single operator, operand or number. others: variables that may
    stand for an operand."""
    match tree:
        case ast.BinOp(left, symbol, right):
            if kind == "operator":
                wrong = [other() for other in WRONG_OPERATORS if not isinstance(symbol, other)]
                yield from (ast.BinOp(left, other, right) for other in wrong)
            yield from (ast.BinOp(other, symbol, right) for other in _mutate(left, kind, others))
            yield from (ast.BinOp(left, symbol, other) for other in _mutate(right, kind, others))
        case ast.Name() if kind == "operand":
            yield from (ast.Name(name) for name in others)
        case ast.Constant(int(value)) if kind == "number":
            yield from (ast.Constant(value - 1), ast.Constant(value + 1))


def _misread(graph: Graph, relations: Sequence[str]) -> Iterator[Graph]:
    """Every graph in which one needed sentence says another relation of the same form, or a number of another
    sentence."""
    numbers = {literal for quantity in graph.quantities for literal in quantity.literals}
    for index in find_needed(graph):
        quantity = graph.quantities[index]
        form = _describe_form(quantity.relation)
        for name in relations:
            if name != quantity.relation and _describe_form(name) == form:
                yield _change(graph, index, replace(quantity, relation=name))
        for place in range(len(quantity.literals)):
            for number in sorted(numbers - set(quantity.literals)):
                literals = (*quantity.literals[:place], number, *quantity.literals[place + 1 :])
                yield _change(graph, index, replace(quantity, literals=literals))


def _describe_form(name: str) -> tuple[int, bool, bool, tuple[str, str] | None]:
    """What two relations must share for one sentence to be taken for the other."""
    relation = BY_NAME[name]
    return relation.num_inputs, "{n}" in relation.code, "{m}" in relation.code, relation.converts


def _change(graph: Graph, index: int, quantity: Quantity) -> Graph:
    return Graph((*graph.quantities[:index], quantity, *graph.quantities[index + 1 :]), graph.asked)


def _evaluate(program: _Program) -> int | None:
    """The answer; None if a value is no positive whole number, or a division leaves something over."""
    graph, values = program.graph, dict[str, int]()
    for index in find_assignment_order(graph):
        code = program.replaced.get(index) or express(graph, index)
        value = _compute(ast.parse(code, mode="eval").body, values)
        if value is None or value < 1:
            return None
        values[name_variable(graph.quantities[index])] = value
    return values[name_variable(graph.quantities[graph.asked])]


def _compute(tree: ast.expr, values: Mapping[str, int]) -> int | None:
    match tree:
        case ast.Constant(int(value)):
            return value
        case ast.Name(name):
            return values[name]
        case ast.BinOp(left, symbol, right):
            a, b = _compute(left, values), _compute(right, values)
            if a is None or b is None:
                return None
            return _apply(symbol, a, b)
    raise AssertionError(ast.dump(tree))


def _apply(symbol: ast.operator, a: int, b: int) -> int | None:
    match symbol:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.FloorDiv():
            return a // b if b and a % b == 0 else None
        case ast.Mod():
            return a % b if b else None
    raise AssertionError(symbol)
