"""Graphs in words: the problem's text, its solution in code steps and in prose, and numbers traced back.

Both solutions reason the same way. They first look up what is needed, from the asked quantity backwards, quoting
each sentence; then they go through these quotes from the last to the first and compute. Looking up the right sentence
is the skill that forms slowest in a small model, and quoting from the question backwards turns it into the copying
that attention learns first; which quote is next is read off the quotes too, from the line above. With a step for each
definition there is no second pass: each sentence is quoted and at once written as a function of what is looked up next.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

from ponderosa.records import Step
from ponderosa.tasks.quantities.graph import Graph, Quantity, evaluate_graph
from ponderosa.tasks.quantities.relations import BY_NAME

StepUnit = Literal["operation", "quantity", "definition"]

QUESTIONS = (
    "How many {item} does {t} have?",
    "What is the number of {item} that {t} has?",
    "Find how many {item} {t} has.",
)


def render_statement(graph: Graph, index: int) -> str:
    """The sentence that states one quantity."""
    quantity = graph.quantities[index]
    return _fill(BY_NAME[quantity.relation].statements[quantity.phrasing], graph, quantity)


def render_question(graph: Graph, random: Random, *, max_phrasings: int) -> str:
    """The problem's text: every sentence in shuffled order, then what is asked."""
    order = random.sample(range(len(graph.quantities)), len(graph.quantities))
    asked = graph.quantities[graph.asked]
    question = random.choice(QUESTIONS[:max_phrasings]).format(item=asked.item, t=asked.owner)
    return " ".join([*(render_statement(graph, index) for index in order), question])


def name_variable(quantity: Quantity) -> str:
    return quantity.owner.lower()


def find_lookup_order(graph: Graph) -> list[int]:
    """Needed quantities from the asked one backwards, depth first: the order of looking things up."""
    order: list[int] = []
    stack = [graph.asked]
    while stack:
        index = stack.pop()
        if index not in order:
            order.append(index)
            stack.extend(reversed(graph.quantities[index].inputs))
    return order


def find_assignment_order(graph: Graph) -> list[int]:
    """Needed quantities in the order that code gives them their values: looked up last, assigned first."""
    return find_lookup_order(graph)[::-1]


def express(graph: Graph, index: int) -> str:
    """The code of one quantity's value, from the variables of those it reads."""
    quantity = graph.quantities[index]
    return _substitute(quantity, [name_variable(graph.quantities[read]) for read in quantity.inputs])


def render_code_steps(
    graph: Graph, step_unit: StepUnit = "operation", replaced: Mapping[int, str] | None = None
) -> list[Step]:
    """The reference solution: a step that quotes what is needed, then a step for each operation, which first assigns
    the given numbers that come before it, or a step for each quantity, given ones too; the last prints. Or a step for
    each definition, from the asked quantity backwards; the last calls it.

    replaced: by quantity, code to assign in place of the true one.
    """
    replaced = replaced or {}
    if step_unit == "definition":
        return _render_definitions(graph, replaced)

    def assign(index: int) -> str:
        return f"{name_variable(graph.quantities[index])} = {replaced.get(index) or express(graph, index)}"

    quotes = [f"# {render_statement(graph, index)}" for index in find_lookup_order(graph)]
    steps = ["\n".join(quotes)]
    given: list[str] = []
    for index in find_assignment_order(graph):
        if graph.quantities[index].relation == "given" and step_unit == "operation":
            given.append(assign(index))
        else:
            steps.append("\n".join([*given, f"# {_explain(graph, index)}", assign(index)]))
            given = []
    answer = name_variable(graph.quantities[graph.asked])
    steps[-1] += f"\nprint({answer})"
    return [Step(text=text, code=text) for text in steps]


def _render_definitions(graph: Graph, replaced: Mapping[int, str]) -> list[Step]:
    """Each needed sentence as a function of those that it reads, which are defined further on."""
    steps = []
    for index in find_lookup_order(graph):
        code = re.sub(r"[a-z]+", r"\g<0>()", replaced.get(index) or express(graph, index))
        name = name_variable(graph.quantities[index])
        steps.append(f"# {render_statement(graph, index)}\n{name} = lambda: {code}")
    steps[-1] += f"\nprint({name_variable(graph.quantities[graph.asked])}())"
    return [Step(text=text, code=text) for text in steps]


def render_prose(graph: Graph, step_unit: StepUnit = "operation") -> str:
    """The same reasoning without code: sentences quoted, sums worked out in the text, the answer after ####."""
    values = evaluate_graph(graph)
    lines = [render_statement(graph, index) for index in find_lookup_order(graph)]
    for index in find_assignment_order(graph):
        quantity = graph.quantities[index]
        if quantity.relation != "given":
            lines.append(f"{quantity.owner}: {_arithmetic(graph, quantity, values)} = {values[index]}.")
        elif step_unit == "quantity":
            lines.append(f"{quantity.owner}: {values[index]}.")
    return f" {' '.join(lines)}\n#### {values[graph.asked]}"


def substitute_literals(text: str, mapping: Mapping[int, int]) -> str:
    """Code or a question with each whole number replaced by what it became in a re-numbered problem."""
    return re.sub(r"(?<![\w.])\d+(?!\w|\.\d)", lambda match: str(mapping.get(int(match[0]), match[0])), text)


def _fill(template: str, graph: Graph, quantity: Quantity) -> str:
    names = dict(zip("abc", (graph.quantities[index].owner for index in quantity.inputs), strict=False))
    numbers = dict(zip("nm", quantity.literals, strict=False))
    item_a = graph.quantities[quantity.inputs[0]].item if quantity.inputs else ""
    return template.format(t=quantity.owner, item=quantity.item, item_a=item_a, **names, **numbers)


def _arithmetic(graph: Graph, quantity: Quantity, values: Sequence[int]) -> str:
    return _substitute(quantity, [str(values[read]) for read in quantity.inputs])


def _substitute(quantity: Quantity, inputs: Sequence[str]) -> str:
    names = dict(zip("abc", inputs, strict=False))
    numbers = dict(zip("nm", quantity.literals, strict=False))
    return BY_NAME[quantity.relation].code.format(**names, **numbers)


def _explain(graph: Graph, index: int) -> str:
    quantity = graph.quantities[index]
    return f"{quantity.owner}: {quantity.relation.replace('_', ' ')}"
