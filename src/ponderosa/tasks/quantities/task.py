"""The `quantities` task: problems of a wanted difficulty, in splits that no seed can mix.

A problem belongs to a split by a hash of its graph and numbers, wording removed: `train`, `selection` and `test`
never share one, whatever the seeds. Problems in `structural` have shapes (relations and how they connect) that
occur in no other split. `meta` carries the graph, so a problem can be re-numbered: a right answer from a wrong
program is told apart because it disagrees with the true program on other numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from ponderosa.config import Config, parse_config, suggest
from ponderosa.errors import ConfigError
from ponderosa.identity import content_hash, derive_seed, split_bucket
from ponderosa.records import Problem
from ponderosa.tasks.quantities.graph import (
    Graph,
    GraphOptions,
    Quantity,
    count_operations,
    describe_content,
    describe_shape,
    draw_structure,
    evaluate_graph,
    find_needed,
    number_graph,
)
from ponderosa.tasks.quantities.relations import ITEMS, NAMES, RELATIONS
from ponderosa.tasks.quantities.wording import (
    StepUnit,
    render_code_steps,
    render_prose,
    render_question,
    substitute_literals,
)
from ponderosa.tasks.worked import WorkedSolution

Split = Literal["train", "selection", "test", "structural"]
STRUCTURAL_FRAC = 0.1
SPLIT_ENDS: dict[str, float] = {"train": 0.8, "selection": 0.9, "test": 1.0}
MAX_DRAWS = 20_000
MAX_NUMBERINGS = 50
"""Numbers tried on one shape before another is drawn; a shape with few numberings may have none in a split."""
MAX_RENUMBERINGS = 1_000


class QuantitiesOptions(Config):
    """What problems to draw."""

    relations: tuple[str, ...] = Field(
        tuple(relation.name for relation in RELATIONS),
        min_length=1,
        description="relation kinds that may occur",
    )
    min_operations: int = Field(1, ge=1, le=12, description="fewest operations the asked quantity needs")
    max_operations: int = Field(3, ge=1, le=12, description="most operations; difficulties are drawn evenly")
    max_distractors: int = Field(2, ge=0, le=6, description="most quantities that are not needed")
    max_value: int = Field(1000, ge=50, description="largest value of any quantity")
    num_names: int = Field(len(NAMES), ge=8, le=len(NAMES), description="how many different owners")
    num_items: int = Field(len(ITEMS), ge=1, le=len(ITEMS), description="how many different items")
    num_phrasings: int = Field(3, ge=1, le=3, description="how many ways of saying each relation")
    step_unit: StepUnit = Field(
        "operation",
        description="what a step of a worked solution is: an operation and the given numbers before it; any one quantity; "
        "or any one quantity's definition, from the asked one backwards, with nothing computed before the last",
    )

    @model_validator(mode="after")
    def _check(self) -> "QuantitiesOptions":
        names = [relation.name for relation in RELATIONS]
        for name in self.relations:
            if name not in names:
                raise ConfigError(f"no relation {name!r}{suggest(name, names)}")
        if self.min_operations > self.max_operations:
            raise ConfigError(
                f"min_operations {self.min_operations} is above max_operations {self.max_operations}"
            )
        return self

    def build_graph_options(self) -> GraphOptions:
        relations = tuple(relation for relation in RELATIONS if relation.name in self.relations)
        return GraphOptions(
            relations=relations,
            names=NAMES[: self.num_names],
            items=ITEMS[: self.num_items],
            max_value=self.max_value,
            max_phrasings=self.num_phrasings,
        )


@dataclass(frozen=True)
class QuantitiesTask:
    """Draws problems; an item depends on (seed, split, index, options) alone."""

    options: QuantitiesOptions
    name: str = "quantities"
    source_hash: str = ""

    @cached_property
    def _graph_options(self) -> GraphOptions:
        return self.options.build_graph_options()

    def generate(self, count: int, seed: int, split: str, **options: Any) -> Iterator[Problem]:
        """`count` problems of one split; difficulties min..max_operations in turn.

        Raises ConfigError if the options leave a split without problems.
        """
        task = self.with_options(**options) if options else self
        if split not in get_args(Split):
            raise ConfigError(f"no split {split!r}{suggest(split, get_args(Split))}")
        difficulties = range(task.options.min_operations, task.options.max_operations + 1)
        for index in range(count):
            random = Random(derive_seed("quantities", seed, split, index))
            yield task.draw(random, split, difficulties[index % len(difficulties)])

    def work_out(self, problem: Problem) -> WorkedSolution:
        """The reference solution of a problem this task drew."""
        graph, step_unit = load_graph(problem), find_step_unit(problem)
        return WorkedSolution(tuple(render_code_steps(graph, step_unit)), render_prose(graph, step_unit))

    def with_options(self, **options: Any) -> "QuantitiesTask":
        merged = {**self.options.model_dump(), **options}
        return QuantitiesTask(parse_config(QuantitiesOptions, merged, where="quantities"))

    def draw(self, random: Random, split: str, operations: int) -> Problem:
        """One problem of `split` that needs `operations` operations."""
        graph = self.draw_graph(random, split, operations)
        question = render_question(graph, random, max_phrasings=self.options.num_phrasings)
        return build_problem(graph, question, split, self.options.step_unit)

    def draw_graph(self, random: Random, split: str, operations: int) -> Graph:
        """One graph of `split`: a shape drawn alike for every split that shares it, then numbers until they fit.

        Raises ConfigError if the options leave the split without any.
        """
        for _ in range(MAX_DRAWS):
            distractors = random.randint(0, self.options.max_distractors)
            structure = draw_structure(
                random, self._graph_options, operations=operations, distractors=distractors
            )
            if structure is None or is_held_out(structure) != (split == "structural"):
                continue
            graph = self._draw_numbers(structure, random, split)
            if graph is not None:
                return graph
        raise ConfigError(
            f"these options leave no problems with {operations} operations in split {split!r}: "
            "allow more relations, more names or larger values"
        )

    def _draw_numbers(self, structure: Graph, random: Random, split: str) -> Graph | None:
        for _ in range(MAX_NUMBERINGS):
            graph = number_graph(structure, random, self.options.max_value)
            if graph is None or split == "structural" or find_content_split(graph) == split:
                return graph
        return None


def find_split(graph: Graph) -> str:
    """The one split a graph belongs to."""
    return "structural" if is_held_out(graph) else find_content_split(graph)


def is_held_out(graph: Graph) -> bool:
    """Is the shape kept for the structural split? A relation on its own never is: those are the alphabet."""
    derived = [index for index in find_needed(graph) if graph.quantities[index].relation != "given"]
    return len(derived) > 1 and split_bucket(["shape", *describe_shape(graph)]) < STRUCTURAL_FRAC


def find_content_split(graph: Graph) -> str:
    """The split that a graph's shape and numbers fall in, if its shape is not held out."""
    bucket = split_bucket(["content", *describe_content(graph)])
    return next(split for split, end in SPLIT_ENDS.items() if bucket < end)


def build_problem(graph: Graph, question: str, split: str, step_unit: StepUnit = "operation") -> Problem:
    """The problem record of a graph; `meta` is enough to rebuild the graph and write its solution."""
    quantities = [
        [q.owner, q.item, q.relation, list(q.inputs), list(q.literals), q.phrasing] for q in graph.quantities
    ]
    return Problem(
        question=question,
        answer=str(evaluate_graph(graph)[graph.asked]),
        source="quantities",
        split=split,
        solution=render_prose(graph, step_unit).strip(),
        meta={
            "operations": count_operations(graph),
            "shape": content_hash(describe_shape(graph)),
            "graph": {"quantities": quantities, "asked": graph.asked},
            **({"step_unit": step_unit} if step_unit != "operation" else {}),
        },
    )


def find_step_unit(problem: Problem) -> StepUnit:
    """What a step of the problem's worked solution is."""
    step_unit: StepUnit = problem.meta.get("step_unit", "operation")
    return step_unit


def load_graph(problem: Problem) -> Graph:
    """The graph a problem was made from."""
    stored = problem.meta["graph"]
    quantities = tuple(
        Quantity(owner, item, relation, tuple(inputs), tuple(literals), phrasing)
        for owner, item, relation, inputs, literals, phrasing in stored["quantities"]
    )
    return Graph(quantities, stored["asked"])


def renumber_problem(problem: Problem, seed: int) -> tuple[Problem, dict[int, int]] | None:
    """The same problem with other numbers, its true answer, and what each literal became.

    The wording keeps its order, so only numbers differ. None if no other numbers were found in many tries.
    """
    graph = load_graph(problem)
    random = Random(derive_seed("renumber", problem.id, seed))
    max_value = max(1000, *evaluate_graph(graph))
    tries = (number_graph(graph, random, max_value) for _ in range(MAX_RENUMBERINGS))
    numbered = next((other for other in tries if other is not None and other != graph), None)
    if numbered is None:
        return None
    mapping = {
        old: new
        for before, after in zip(graph.quantities, numbered.quantities, strict=True)
        for old, new in zip(before.literals, after.literals, strict=True)
    }
    question = substitute_literals(problem.question, mapping)
    return build_problem(numbered, question, problem.split, find_step_unit(problem)), mapping


QUANTITIES = QuantitiesTask(QuantitiesOptions())
