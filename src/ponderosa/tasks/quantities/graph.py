"""Problems as graphs of quantities: drawing, evaluating, re-numbering, and telling two graphs apart.

A graph lists its quantities so that each comes after those it reads. Its difficulty is the number of operations
the asked quantity needs, distractors excluded. Literals within a graph are distinct from one another and from
the constants its relations imply, so every number in a solution can be traced to the sentence it came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ponderosa.tasks.quantities.relations import BY_NAME, GIVEN, Relation

MAX_TRIES = 12


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of `item`s that `owner` has, got by `relation` from earlier quantities and literals."""

    owner: str
    item: str
    relation: str
    inputs: tuple[int, ...] = ()
    literals: tuple[int, ...] = ()
    phrasing: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """Quantities in an order in which they can be computed, and the index of the one asked for."""

    quantities: tuple[Quantity, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What graphs may be drawn.

    items: what can be had from the start; what relations turn them into (dollars, eggs) is had besides.
    max_value: all values stay within 1..max_value.
    """

    relations: tuple[Relation, ...]
    names: tuple[str, ...]
    items: tuple[str, ...]
    max_value: int
    max_phrasings: int

    def list_items(self) -> tuple[str, ...]:
        """Everything that can be asked for."""
        return (*self.items, *sorted({r.converts[1] for r in self.relations if r.converts}))


def evaluate_graph(graph: Graph) -> list[int]:
    """The value of every quantity."""
    values: list[int] = []
    for quantity in graph.quantities:
        inputs = [values[index] for index in quantity.inputs]
        values.append(BY_NAME[quantity.relation].compute(inputs, quantity.literals))
    return values


def find_needed(graph: Graph) -> list[int]:
    """Indices of the quantities the asked one depends on, itself included, in computing order."""
    needed = {graph.asked}
    for index in range(graph.asked, -1, -1):
        if index in needed:
            needed.update(graph.quantities[index].inputs)
    return sorted(needed)


def count_operations(graph: Graph) -> int:
    return sum(BY_NAME[graph.quantities[index].relation].num_operations for index in find_needed(graph))


def describe_shape(graph: Graph) -> list[Any]:
    """The needed relations and how they connect; no numbers, no wording."""
    position = {index: place for place, index in enumerate(find_needed(graph))}
    needed = [graph.quantities[index] for index in position]
    return [[quantity.relation, [position[index] for index in quantity.inputs]] for quantity in needed]


def describe_content(graph: Graph) -> list[Any]:
    """The shape with its numbers: what makes two problems the same whatever their wording."""
    needed = [graph.quantities[index] for index in find_needed(graph)]
    return [*describe_shape(graph), [quantity.literals for quantity in needed]]


def draw_structure(
    random: Random, options: GraphOptions, *, operations: int, distractors: int
) -> Graph | None:
    """A graph without its numbers whose asked quantity needs exactly `operations` operations.

    None if the draw ran out of names or met an item that no relation gives in so many operations; draw again.
    """
    builder = _Builder(random, options, max_quantities=2 * operations + 1 + distractors)
    if not builder.add_asked(operations):
        return None
    asked = len(builder.quantities) - 1
    if not all(builder.add_distractor() for _ in range(distractors)):
        return None
    return Graph(tuple(builder.quantities), asked)


def number_graph(graph: Graph, random: Random, max_value: int) -> Graph | None:
    """The same graph with fresh literals; None if none were found that keep every value whole and in range."""
    relations = [BY_NAME[quantity.relation] for quantity in graph.quantities]
    constants = {number for relation in relations for number in relation.constants}
    for _ in range(MAX_TRIES):
        drawn = _draw_literals(graph.quantities, relations, random, max_value, set(constants))
        if drawn is not None:
            numbered = [
                Quantity(q.owner, q.item, q.relation, q.inputs, literals, q.phrasing)
                for q, literals in zip(graph.quantities, drawn, strict=True)
            ]
            return Graph(tuple(numbered), graph.asked)
    return None


def _draw_literals(
    quantities: Sequence[Quantity],
    relations: Sequence[Relation],
    random: Random,
    max_value: int,
    used: set[int],
) -> list[tuple[int, ...]] | None:
    """Literals of each quantity in turn, none of them in `used`; None once a value leaves its range."""
    values: list[int] = []
    drawn: list[tuple[int, ...]] = []
    for quantity, relation in zip(quantities, relations, strict=True):
        inputs = [values[index] for index in quantity.inputs]
        literals = _draw_distinct(relation, inputs, random, used)
        if literals is None:
            return None
        value = relation.compute(inputs, literals)
        if not 1 <= value <= max_value:
            return None
        used.update(literals)
        values.append(value)
        drawn.append(literals)
    return drawn


def _draw_distinct(
    relation: Relation, inputs: Sequence[int], random: Random, used: set[int]
) -> tuple[int, ...] | None:
    for _ in range(MAX_TRIES):
        literals = relation.draw(random, inputs)
        if literals is None:
            return None
        if len(set(literals)) == len(literals) and used.isdisjoint(literals):
            return literals
    return None


class _Builder:
    """Grows the list of quantities of one graph, from the asked quantity down to the given ones."""

    def __init__(self, random: Random, options: GraphOptions, *, max_quantities: int) -> None:
        self.random = random
        self.options = options
        self.quantities: list[Quantity] = []
        self.owners = random.sample(options.names, min(max_quantities, len(options.names)))

    def add_asked(self, operations: int) -> bool:
        """Append the asked quantity and all it needs. Its relation is drawn first, so that every kind is as
        frequent as the others, whatever few items it gives."""
        relation = self._choose_relation(operations)
        if relation is None:
            return False
        item = relation.converts[1] if relation.converts else self.random.choice(self.options.list_items())
        return self._add_derived(relation, operations, item)

    def add_tree(self, operations: int, item: str) -> bool:
        """Append a quantity of `item` that needs `operations` new operations, and what it reads before it."""
        if operations == 0:
            return self._append(GIVEN, item, ())
        relation = self._choose_relation(operations, item)
        return relation is not None and self._add_derived(relation, operations, item)

    def _add_derived(self, relation: Relation, operations: int, item: str) -> bool:
        input_item = self._choose_input_item(relation, item)
        inputs: list[int] = []
        for share in self._share_out(operations - relation.num_operations, relation.num_inputs):
            if not self.add_tree(share, input_item):
                return False
            inputs.append(len(self.quantities) - 1)
        return self._append(relation, item, tuple(inputs))

    def add_distractor(self) -> bool:
        """Append a quantity the asked one does not need: a given number, or one relation away from another."""
        random = self.random
        basis = random.randrange(len(self.quantities))
        item = self.quantities[basis].item
        candidates = [r for r in self.options.relations if r.num_inputs == 1 and r.converts is None]
        if not candidates or random.random() < 0.5:
            return self._append(GIVEN, item, ())
        return self._append(random.choice(candidates), item, (basis,))

    def _append(self, relation: Relation, item: str, inputs: tuple[int, ...]) -> bool:
        if not self.owners:
            return False
        phrasing = self.random.randrange(min(len(relation.statements), self.options.max_phrasings))
        self.quantities.append(Quantity(self.owners.pop(), item, relation.name, inputs, phrasing=phrasing))
        return True

    def _choose_relation(self, operations: int, item: str | None = None) -> Relation | None:
        fitting = [
            relation
            for relation in self.options.relations
            if relation.num_operations <= operations
            and (relation.num_inputs > 0 or relation.num_operations == operations)
            and (item is None or relation.converts is None or relation.converts[1] == item)
        ]
        return self.random.choice(fitting) if fitting else None

    def _choose_input_item(self, relation: Relation, item: str) -> str:
        if relation.converts is None:
            return item
        return relation.converts[0] or self.random.choice(self.options.items)

    def _share_out(self, operations: int, parts: int) -> list[int]:
        """`operations` split at random among `parts` inputs."""
        shares = [0] * parts
        for _ in range(operations if parts else 0):
            shares[self.random.randrange(parts)] += 1
        return shares
