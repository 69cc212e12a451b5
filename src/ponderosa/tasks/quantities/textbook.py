"""Running text for a base model: arithmetic facts, and statements to look up.

A lookup lists statements, then names owners one after another and repeats the sentence that defines each. It is
the reading half of a solution without the reckoning half, and the cheapest way to grow the attention heads that
find the right sentence.
"""

from random import Random

from ponderosa.tasks.quantities.task import QuantitiesTask
from ponderosa.tasks.quantities.wording import render_statement

FACTS_PER_DOCUMENT = 12


def write_lookup(random: Random, task: QuantitiesTask, *, max_operations: int) -> str:
    """Statements of a training problem in shuffled order, then every owner with the sentence that defines it."""
    graph = task.draw_graph(random, "train", random.randint(1, max_operations))
    indices = range(len(graph.quantities))
    listed = " ".join(render_statement(graph, index) for index in random.sample(indices, len(indices)))
    found = [
        f"{graph.quantities[index].owner}: {render_statement(graph, index)}"
        for index in random.sample(indices, len(indices))
    ]
    return "\n".join([listed, *found])


def write_arithmetic(random: Random, *, max_value: int) -> str:
    """A list of sums as they occur in prose solutions, every value whole and at most `max_value`."""
    facts: list[str] = []
    while len(facts) < FACTS_PER_DOCUMENT:
        left, right = random.randint(2, max_value), random.randint(2, 60)
        symbol, value = random.choice(_results(left, right))
        if 1 <= value <= max_value:
            facts.append(f"{left} {symbol} {right} = {value}.")
    return " ".join(facts)


def _results(left: int, right: int) -> list[tuple[str, int]]:
    results = [("+", left + right), ("-", left - right)]
    if right <= 12:
        results.append(("*", left * right))
        if left % right == 0:
            results.append(("//", left // right))
    return results
