"""Preferences between steps, from search trees: what a process preference model learns from.

Enters: trees with the verdicts on their solutions. Leaves: comparisons by the rule of rStar-Math (arXiv 2501.04519,
section 3.3), and a counted reason for every node and every problem that gave none.

    at each node with right and wrong solutions behind it:  its best children that a right solution goes through, by Q,
        against its worst that a wrong one goes through, if Q and text are far enough apart; they share their prefix
    for each problem:  the right solutions of highest mean Q against the wrong ones of lowest; they share the prompt

The released code goes further down only through children with both kinds of solution behind them, which is the same,
since no other node has both to set against each other. Its check that the best continuations agree is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress, product
from statistics import fmean
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from ponderosa.config import Config
from ponderosa.data.edit_distance import compute_edit_distance
from ponderosa.data.tree_outcomes import Failures, Tally, judge_ends, tally_nodes
from ponderosa.records import GradedTree, Node, Tree

Level = Literal["step", "solution"]
LEVELS: tuple[Level, ...] = get_args(Level)


class StepPairRules(Config):
    """Which steps are set against which."""

    positives: int = Field(2, ge=1, description="most children of a node that are preferred")
    negatives: int = Field(2, ge=1, description="most children of a node that others are preferred to")
    against_one: int | None = Field(
        None,
        ge=1,
        description="most of either side where the other has one child alone; unset takes as many as elsewhere "
        "(rStar-Math's released code: 4)",
    )
    min_q_gap: float = Field(0.5, ge=0, le=2, description="Q values of a pair differ by at least this")
    min_edit_distance: int = Field(20, ge=0, description="texts of a pair differ in at least this many units")
    edit_unit: Literal["characters", "tokens"] = Field(
        "characters", description="what the edit distance counts, of what the model wrote"
    )
    failures: Failures = Field(
        "answered",
        description="which solutions are wrong: those that answered wrongly, or any that is not right",
    )
    final_positives: int = Field(2, ge=1, description="most right solutions of a problem that are preferred")
    final_negatives: int = Field(
        2, ge=1, description="most wrong solutions of a problem that others are preferred to"
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Continuations of one prefix (token ids): each of `chosen` is preferred to each of `rejected`.

    level: steps of one node, or whole solutions of one problem.
    """

    problem_id: str
    level: Level
    prefix_ids: tuple[int, ...]
    chosen: tuple[tuple[int, ...], ...]
    rejected: tuple[tuple[int, ...], ...]

    @property
    def num_pairs(self) -> int:
        return len(self.chosen) * len(self.rejected)


@dataclass(frozen=True, slots=True)
class StepPairSelection:
    """Comparisons, and what gave none.

    nodes: inner nodes (the prompt is one) without a pair, problems: those without a pair of whole solutions, both by
        reason: unjudged (no solution behind it is right or wrong), all_right, all_wrong, no_counterpart (one child is
        all there is on both sides), q_gap, too_alike, longer_than_context; and of problems paired_as_steps.
    """

    comparisons: tuple[Comparison, ...]
    nodes: Counter[str]
    problems: Counter[str]


class _End(NamedTuple):
    """A solution: the tree it is in, that tree's number among the problem's, and its last node."""

    tree: Tree
    number: int
    place: int

    @property
    def mean_q(self) -> float:
        return fmean(self.tree.nodes[step].value for step in self.tree.list_path(self.place))

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.tree.join_tokens(self.place)[len(self.tree.prompt_ids) :]


_Pair = tuple[int, int]
_Check = tuple[str, Callable[[_Pair], bool]]


def select_step_pairs(
    graded: Iterable[GradedTree], rules: StepPairRules, *, max_length: int | None = None
) -> StepPairSelection:
    """The comparisons of every problem, problems in the order in which they are first met.

    max_length: of prefix and continuation together, in tokens. Trees of one problem give pairs of solutions together.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[GradedTree]] = {}
    for one in graded:
        groups.setdefault((one.tree.problem_id, one.tree.prompt_ids), []).append(one)
    comparisons: list[Comparison] = []
    nodes: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    for group in groups.values():
        paired: set[tuple[int, int, int]] = set()
        for number, one in enumerate(group):
            tally = tally_nodes(one.tree, judge_ends(one, rules.failures))
            for parent, children in one.tree.group_children().items():
                found = _pair_children(one.tree, children, tally, rules, max_length)
                if isinstance(found, str):
                    nodes[found] += 1
                    continue
                paired |= {(number, *pair) for pair in found}
                prefix = one.tree.join_tokens(parent)
                steps = {child: one.tree.nodes[child].token_ids for child in children}
                comparisons += _build_comparisons(one.tree, "step", prefix, steps, found)
        ends, finals = _pair_solutions(group, rules, paired, max_length)
        if isinstance(finals, str):
            problems[finals] += 1
            continue
        tree = group[0].tree
        comparisons += _build_comparisons(tree, "solution", tree.prompt_ids, dict(enumerate(ends)), finals)
    return StepPairSelection(tuple(comparisons), nodes, problems)


def _pair_children(
    tree: Tree, children: Sequence[int], tally: Sequence[Tally], rules: StepPairRules, max_length: int | None
) -> list[_Pair] | str:
    """The pairs among one node's children, or why there is none."""
    # A step that nothing was backed up through has no Q; its value says 0.
    values = {child: tree.nodes[child].value for child in children if tree.nodes[child].visits}
    right = sorted((child for child in values if tally[child].right), key=lambda child: -values[child])
    wrong = sorted((child for child in values if tally[child].wrong), key=values.__getitem__)
    if not (right and wrong):
        return _explain_missing_side(bool(right), bool(wrong))
    num_right = rules.against_one if rules.against_one and len(wrong) == 1 else rules.positives
    num_wrong = rules.against_one if rules.against_one and len(right) == 1 else rules.negatives
    checks: list[_Check] = [
        ("no_counterpart", lambda pair: pair[0] != pair[1]),
        ("q_gap", lambda pair: values[pair[0]] - values[pair[1]] >= max(rules.min_q_gap, 1e-9)),
        ("too_alike", lambda pair: _differ(tree.nodes[pair[0]], tree.nodes[pair[1]], rules)),
        ("longer_than_context", lambda pair: all(_fits(tree, place, max_length) for place in pair)),
    ]
    return _sift(product(right[:num_right], wrong[:num_wrong]), checks)


def _sift(pairs: Iterable[_Pair], checks: Iterable[_Check]) -> list[_Pair] | str:
    """The pairs that pass all checks, or the name of the check that let none through."""
    left = list(pairs)
    for name, passes in checks:
        left = [pair for pair in left if passes(pair)]
        if not left:
            return name
    return left


def _explain_missing_side(has_right: bool, has_wrong: bool) -> str:
    if not (has_right or has_wrong):
        return "unjudged"
    return "all_right" if has_right else "all_wrong"


def _differ(first: Node, second: Node, rules: StepPairRules) -> bool:
    if not rules.min_edit_distance:
        return True
    texts = [
        tuple(compress(node.token_ids, node.sampled))
        if rules.edit_unit == "tokens"
        else [ord(character) for character in node.step.text]
        for node in (first, second)
    ]
    return compute_edit_distance(*texts) >= rules.min_edit_distance


def _fits(tree: Tree, place: int, max_length: int | None) -> bool:
    return max_length is None or len(tree.join_tokens(place)) <= max_length


def _pair_solutions(
    group: Sequence[GradedTree],
    rules: StepPairRules,
    paired: Set[tuple[int, int, int]],
    max_length: int | None,
) -> tuple[list[tuple[int, ...]], list[_Pair] | str]:
    """Token ids of whole solutions in the trees of one problem, and their pairs, or why there is none.

    paired: the tree's number and the nodes of each pair of steps; two last steps are not set against each other twice.
    """
    sides: dict[bool, list[_End]] = {True: [], False: []}
    for number, one in enumerate(group):
        for place, is_right in judge_ends(one, rules.failures).items():
            if one.tree.nodes[place].visits:  # As in `_pair_children`: no visits, no Q.
                sides[is_right].append(_End(one.tree, number, place))
    if not (sides[True] and sides[False]):
        return [], _explain_missing_side(bool(sides[True]), bool(sides[False]))
    right = sorted(sides[True], key=lambda end: -end.mean_q)[: rules.final_positives]
    wrong = sorted(sides[False], key=lambda end: end.mean_q)[: rules.final_negatives]
    ends = [*right, *wrong]

    def is_new(pair: _Pair) -> bool:
        chosen, rejected = (ends[place] for place in pair)
        is_one_tree = chosen.number == rejected.number
        return not (is_one_tree and (chosen.number, chosen.place, rejected.place) in paired)

    checks: list[_Check] = [
        ("paired_as_steps", is_new),
        (
            "longer_than_context",
            lambda pair: all(_fits(ends[end].tree, ends[end].place, max_length) for end in pair),
        ),
    ]
    pairs = product(range(len(right)), range(len(right), len(ends)))
    return [end.token_ids for end in ends], _sift(pairs, checks)


def _build_comparisons(
    tree: Tree,
    level: Level,
    prefix_ids: tuple[int, ...],
    continuations: Mapping[int, tuple[int, ...]],
    pairs: Sequence[_Pair],
) -> list[Comparison]:
    return [
        Comparison(
            tree.problem_id,
            level,
            prefix_ids,
            chosen=tuple(continuations[place] for place in chosen),
            rejected=tuple(continuations[place] for place in rejected),
        )
        for chosen, rejected in group_pairs(pairs)
    ]


def group_pairs(pairs: Sequence[_Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The same pairs as comparisons of all with all: those preferred to the same ones stand together."""
    rejected_by: dict[int, list[int]] = {}
    for chosen, rejected in pairs:
        rejected_by.setdefault(chosen, []).append(rejected)
    chosen_over: dict[tuple[int, ...], list[int]] = {}
    for chosen, rejected_ones in rejected_by.items():
        chosen_over.setdefault(tuple(rejected_ones), []).append(chosen)
    return [(tuple(chosen), rejected) for rejected, chosen in chosen_over.items()]
