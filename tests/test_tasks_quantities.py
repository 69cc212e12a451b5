"""The quantities task: solutions that run, splits that never mix, and numbers that can be traced."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from ponderosa.errors import ConfigError
from ponderosa.records import Problem
from ponderosa.sandbox import Sandbox
from ponderosa.stages.solutions import work_out_problems
from ponderosa.tasks.quantities.graph import (
    Graph,
    Quantity,
    count_operations,
    describe_content,
    evaluate_graph,
    find_needed,
)
from ponderosa.tasks.quantities.relations import BY_NAME, ITEMS, NAMES, RELATIONS
from ponderosa.tasks.quantities.task import (
    QUANTITIES,
    QuantitiesOptions,
    build_problem,
    find_split,
    load_graph,
    renumber_problem,
)
from ponderosa.tasks.quantities.textbook import write_arithmetic, write_copying
from ponderosa.tasks.quantities.wording import (
    find_lookup_order,
    render_code_steps,
    render_statement,
    substitute_literals,
)
from ponderosa.tasks.registry import Task
from ponderosa.tasks.worked import WorkedSolution, WorkedTask
from ponderosa.verify import compare_answers, extract_answer

SPLITS = ("train", "selection", "test", "structural")
QUICKSTART = ("more", "fewer", "times", "half", "sum", "difference", "price", "shared")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as box:
        yield box


def draw(count: int, seed: int = 0, split: str = "train", **options: object) -> list[Problem]:
    return list(QUANTITIES.generate(count, seed, split, **options))


def draw_of_every_kind() -> list[Problem]:
    """For each relation kind at least three problems that need nothing else."""
    return [
        problem
        for operations in sorted({relation.num_operations for relation in RELATIONS})
        for problem in draw(300, seed=7, min_operations=operations, max_operations=operations)
    ]


def run_code(problem: Problem, code: str, sandbox: Sandbox) -> str:
    (execution,) = sandbox.run_steps([code])
    assert execution.outcome == "ok", (problem.question, code, execution)
    return execution.output.strip()


def join_code(problem: Problem) -> str:
    worked = QUANTITIES.work_out(problem)
    return "\n".join(step.code or "" for step in worked.steps)


def _asked(graph: Graph) -> Quantity:
    return graph.quantities[graph.asked]


# Solutions


@pytest.mark.parametrize("operations", range(1, 13))
def test_every_reference_solution_runs_and_gives_the_gold_answer(operations: int, sandbox: Sandbox) -> None:
    problems = draw(40, seed=operations, min_operations=operations, max_operations=operations)

    records = work_out_problems(QUANTITIES, problems, sandbox)

    assert [record.get("reason") for record in records] == [None] * len(problems)


def test_every_relation_kind_is_drawn_and_solved(sandbox: Sandbox) -> None:
    problems = draw_of_every_kind()

    kinds = Counter(_asked(load_graph(problem)).relation for problem in problems)
    assert set(kinds) == {relation.name for relation in RELATIONS}
    assert len(kinds) >= 15
    assert min(kinds.values()) >= 3
    assert all("reason" not in record for record in work_out_problems(QUANTITIES, problems, sandbox))


def test_kinds_are_alike_frequent_as_the_last_operation() -> None:
    problems = draw(4000, max_operations=1, relations=QUICKSTART)

    kinds = Counter(_asked(load_graph(problem)).relation for problem in problems)

    assert set(kinds) == set(QUICKSTART)
    assert min(kinds.values()) > 0.5 * max(kinds.values())


def test_a_problem_needs_exactly_the_operations_it_was_drawn_for() -> None:
    for problem in draw(240, max_operations=12):
        tree = ast.parse(join_code(problem))
        operators = sum(isinstance(node, ast.BinOp) for node in ast.walk(tree))
        assert operators == problem.meta["operations"] == count_operations(load_graph(problem))


def test_difficulties_are_drawn_evenly() -> None:
    drawn = Counter(problem.meta["operations"] for problem in draw(60, min_operations=2, max_operations=7))

    assert drawn == dict.fromkeys(range(2, 8), 10)


def test_prose_and_code_solutions_agree_with_the_answer() -> None:
    for problem in draw(200, max_operations=6):
        worked = QUANTITIES.work_out(problem)
        answer = extract_answer(worked.prose)
        assert problem.answer is not None
        assert answer is not None
        assert compare_answers(problem.answer, answer)


def test_each_sum_in_a_prose_solution_is_right() -> None:
    for problem in draw(200, max_operations=6):
        for left, right in re.findall(r": ([^:=]*) = (\d+)\.", QUANTITIES.work_out(problem).prose):
            assert _reckon(ast.parse(left, mode="eval").body) == int(right), problem.solution


def test_every_step_has_a_comment_that_says_why() -> None:
    for problem in draw(100, max_operations=6):
        for step in QUANTITIES.work_out(problem).steps:
            assert step.code is not None
            assert re.search("^# ", step.code, re.MULTILINE)


def test_values_are_whole_and_in_range() -> None:
    for problem in draw(300, max_operations=6, max_value=150):
        assert all(1 <= value <= 150 for value in evaluate_graph(load_graph(problem)))


def test_literals_are_distinct_and_never_a_constant_of_the_wording() -> None:
    for problem in draw(300, max_operations=8):
        quantities = load_graph(problem).quantities
        literals = [literal for quantity in quantities for literal in quantity.literals]
        constants = {number for quantity in quantities for number in BY_NAME[quantity.relation].constants}
        assert len(set(literals)) == len(literals)
        assert constants.isdisjoint(literals)


def test_each_number_of_a_question_is_a_literal_or_a_constant() -> None:
    for problem in draw(300, max_operations=8):
        quantities = load_graph(problem).quantities
        literals = {literal for quantity in quantities for literal in quantity.literals}
        constants = {number for quantity in quantities for number in BY_NAME[quantity.relation].constants}
        numbers = {int(number) for number in re.findall(r"\d+", problem.question)}
        assert literals <= numbers <= literals | constants


def test_distractors_are_stated_and_not_needed() -> None:
    problems = draw(200, max_operations=3, max_distractors=2)

    extra = Counter(len(g.quantities) - len(find_needed(g)) for g in map(load_graph, problems))

    assert set(extra) == {0, 1, 2}


# Splits and seeds


def test_splits_never_share_a_problem_whatever_the_seeds() -> None:
    contents: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (1, 2):
            for problem in draw(300, seed, split, min_operations=2, max_operations=3, max_value=60):
                contents[split].add(repr(describe_content(load_graph(problem))))

    for split in SPLITS:
        others = set().union(*(contents[other] for other in SPLITS if other != split))
        assert contents[split].isdisjoint(others)


def test_a_problem_is_in_the_split_its_graph_says() -> None:
    for split in SPLITS:
        for problem in draw(50, 3, split, min_operations=2, max_operations=4):
            assert problem.split == split == find_split(load_graph(problem))


def test_shapes_of_the_structural_split_occur_nowhere_else() -> None:
    shapes = {
        split: {p.meta["shape"] for p in draw(400, 5, split, min_operations=2, max_operations=4)}
        for split in SPLITS
    }

    held_out = shapes.pop("structural")
    assert held_out
    assert all(held_out.isdisjoint(seen) for seen in shapes.values())


def test_the_structural_split_has_no_one_operation_problems() -> None:
    with pytest.raises(ConfigError, match="leave no problems with 1 operations in split 'structural'"):
        draw(1, split="structural", min_operations=1, max_operations=1)


def test_wording_does_not_move_a_problem_to_another_split() -> None:
    graph = load_graph(draw(1, min_operations=3)[0])
    renamed = Graph(
        tuple(
            Quantity(name, "coins", q.relation, q.inputs, q.literals, 0)
            for name, q in zip(NAMES, graph.quantities, strict=False)
        ),
        graph.asked,
    )

    assert describe_content(renamed) == describe_content(graph)
    assert find_split(renamed) == find_split(graph)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert draw(40, seed=4, max_operations=6) == draw(40, seed=4, max_operations=6)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert draw(60, seed=4)[:20] == draw(20, seed=4)


def test_other_seeds_give_other_problems() -> None:
    ids = [{problem.id for problem in draw(300, seed, min_operations=2)} for seed in (42, 43)]

    assert len(ids[0] & ids[1]) <= 3


# Re-numbering


def test_the_true_program_follows_a_renumbered_problem(sandbox: Sandbox) -> None:
    problems = [*draw(60, seed=8, max_operations=6), *draw_of_every_kind()[::3]]
    for problem in problems:
        for seed in (0, 1):
            renumbered = renumber_problem(problem, seed)
            assert renumbered is not None, problem.question
            other, mapping = renumbered
            code = substitute_literals(join_code(problem), mapping)
            assert run_code(other, code, sandbox) == other.answer


def test_a_renumbered_problem_says_its_numbers_in_the_same_words() -> None:
    for problem in draw(200, seed=9, max_operations=6):
        renumbered = renumber_problem(problem, 0)
        assert renumbered is not None
        other, _ = renumbered
        graph = load_graph(other)
        assert re.sub(r"\d+", "#", other.question) == re.sub(r"\d+", "#", problem.question)
        for index in range(len(graph.quantities)):
            assert render_statement(graph, index) in other.question
        assert (other.meta["shape"], other.meta["operations"]) == (
            problem.meta["shape"],
            problem.meta["operations"],
        )


def test_renumbering_depends_on_its_seed_alone() -> None:
    problem = draw(1, min_operations=3)[0]

    assert renumber_problem(problem, 1) == renumber_problem(problem, 1)
    assert renumber_problem(problem, 1) != renumber_problem(problem, 2)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda problem, code: f"print({problem.answer})", id="the answer as a number"),
        pytest.param(lambda problem, code: _add_where_times(code), id="a sum that equals a product"),
    ],
)
def test_a_right_answer_from_a_wrong_program_is_told_by_renumbering(
    spoil: Callable[[Problem, str], str], sandbox: Sandbox
) -> None:
    problem = _build_four_times_two()
    wrong = spoil(problem, join_code(problem))
    assert run_code(problem, wrong, sandbox) == problem.answer

    disagrees = []
    for seed in range(3):
        renumbered = renumber_problem(problem, seed)
        assert renumbered is not None
        other, mapping = renumbered
        disagrees.append(run_code(other, substitute_literals(wrong, mapping), sandbox) != other.answer)

    assert any(disagrees)


def _build_four_times_two() -> Problem:
    """Tom has 6, Ana 3 times as many: 18, which is also 6 + 12, and 6 + 3 * 4."""
    graph = Graph(
        (
            Quantity("Tom", "apples", "given", literals=(6,)),
            Quantity("Bo", "apples", "given", literals=(12,)),
            Quantity("Ana", "apples", "times", (0,), (3,)),
        ),
        2,
    )
    return build_problem(
        graph, "Tom has 6 apples. Bo has 12. Ana has 3 times as many apples as Tom.", "train"
    )


def _add_where_times(code: str) -> str:
    return code.replace("tom * 3", "tom + 12")


def test_only_whole_numbers_are_substituted() -> None:
    text = "x2 = 2 + 2.5 + 22 # 2% of 2."

    assert substitute_literals(text, {2: 7, 22: 3}) == "x2 = 7 + 2.5 + 3 # 7% of 7."


# Wording


def test_the_first_two_phrasings_of_every_relation_begin_with_the_target() -> None:
    for relation in RELATIONS:
        assert all(statement.startswith("{t} ") for statement in relation.statements[:2]), relation.name
        assert len(relation.statements) == 3


def test_every_phrasing_names_its_inputs_and_literals() -> None:
    for relation in RELATIONS:
        fields = ["{t}", *("{a}", "{b}", "{c}")[: relation.num_inputs]]
        fields += [field for field in ("{n}", "{m}") if field in relation.code]
        for statement in relation.statements:
            assert all(field in statement for field in fields), statement
            assert statement.endswith(".")


def test_sentences_are_shuffled_and_the_question_comes_last() -> None:
    problems = draw(100, min_operations=3)

    firsts = [render_statement(load_graph(problem), 0) for problem in problems]
    is_first = [p.question.startswith(first) for p, first in zip(problems, firsts, strict=True)]

    assert any(is_first)
    assert not all(is_first)
    assert all(problem.question.endswith(("?", "has.")) for problem in problems)


def test_names_are_fit_for_variables() -> None:
    names = [name.lower() for name in NAMES]

    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert set(names).isdisjoint(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
    assert set(ITEMS).isdisjoint(names)


# Options


def test_the_task_is_one_that_works_its_problems_out() -> None:
    assert isinstance(QUANTITIES, Task)
    assert isinstance(QUANTITIES, WorkedTask)
    assert isinstance(QUANTITIES.work_out(draw(1)[0]), WorkedSolution)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relations": ["mroe"]}, "did you mean 'more'"),
        ({"min_operations": 3, "max_operations": 2}, "min_operations 3 is above max_operations 2"),
        ({"max_operation": 2}, "did you mean 'max_operations'"),
        ({"max_operations": 13}, "less than or equal to 12"),
        ({"relations": []}, "at least 1 item"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(1, **options)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        draw(1, split="trian")


def test_options_that_leave_no_problem_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave no problems with 9 operations"):
        draw(1, relations=["sum"], num_names=8, min_operations=9, max_operations=9)


# Running text


def test_a_copying_document_says_its_words_twice_within_the_bound_of_different_ones() -> None:
    options = QuantitiesOptions().build_graph_options()
    for seed in range(20):
        text = write_copying(Random(seed), options, distinct_words=(4, 6))
        first, second = text.removesuffix(".").split(".")
        assert first == second
        assert 10 <= len(first.split()) <= 40
        assert len(set(first.split())) <= 6


def test_sums_in_running_text_are_right() -> None:
    for left, right in re.findall(r"([^.]*) = (\d+)\.", write_arithmetic(Random(3), max_value=200)):
        assert _reckon(ast.parse(left.strip(), mode="eval").body) == int(right)


def _reckon(node: ast.expr) -> int:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp), ast.dump(node)
    left, right = _reckon(node.left), _reckon(node.right)
    results = {
        ast.Add: left + right,
        ast.Sub: left - right,
        ast.Mult: left * right,
        ast.FloorDiv: left // right if right else 0,
        ast.Mod: left % right if right else 0,
    }
    return results[type(node.op)]


def test_the_reference_solution_quotes_only_sentences_of_the_question() -> None:
    for problem in draw(50, max_operations=5):
        first = render_code_steps(load_graph(problem))[0].text
        for quote in re.findall(r"^# (.*\.)$", first, re.MULTILINE):
            assert quote in problem.question


def test_solutions_compute_what_they_quoted_from_the_last_quote_to_the_first() -> None:
    for problem in draw(50, min_operations=2, max_operations=5):
        graph = load_graph(problem)
        owners = {
            render_statement(graph, index): graph.quantities[index].owner
            for index in range(len(graph.quantities))
        }
        worked = QUANTITIES.work_out(problem)
        quoting, *computing = [step.text for step in worked.steps]
        quoted = [owners[line.removeprefix("# ")] for line in quoting.splitlines()]
        assigned = re.findall(r"^(\w+) = ", "\n".join(computing), re.MULTILINE)
        assert assigned == [owner.lower() for owner in reversed(quoted)]
        in_prose = re.findall(r"(\w+): [^.]* = \d+\.", worked.prose)
        assert in_prose == [owner for owner in reversed(quoted) if owner in in_prose]
        assert len(in_prose) == len(computing)


def test_a_step_for_each_quantity_writes_the_same_program_in_more_steps(sandbox: Sandbox) -> None:
    for problem, other in zip(draw(20), draw(20, step_unit="quantity"), strict=True):
        assert (other.id, other.question, other.answer) == (problem.id, problem.question, problem.answer)
        steps, others = (QUANTITIES.work_out(each).steps for each in (problem, other))
        quotes = steps[0].text.splitlines()
        assert len(others) == 1 + len(quotes)
        code = [[step.code for step in each if step.code] for each in (steps, others)]
        programs = [re.findall(r"^[^#].*$", "\n".join(each), re.MULTILINE) for each in code]
        assert programs[0] == programs[1]
        assert run_code(other, "\n".join(code[1]), sandbox) == problem.answer


def test_a_step_for_each_definition_quotes_and_defines_from_the_question_down(sandbox: Sandbox) -> None:
    for problem in draw(20, max_operations=6, step_unit="definition"):
        graph = load_graph(problem)
        steps = [step.text for step in QUANTITIES.work_out(problem).steps]
        quotes = [step.splitlines()[0].removeprefix("# ") for step in steps]
        assert quotes == [render_statement(graph, index) for index in find_lookup_order(graph)]
        assert all(" = lambda: " in step for step in steps)
        assert run_code(problem, "\n".join(steps), sandbox) == problem.answer
