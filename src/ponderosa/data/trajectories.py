"""Trajectories: the ways through a search tree that ended, as attempts, and which of them are trained on.

Enters: graded trees. Leaves: one attempt for each verdict, with the search's value of each of its steps; of these the
right ones of highest value (rStar-Math, arXiv 2501.04519, section 3.2), and for every other one its reason: those of
`data.rollouts`, and

    error_step   a step of it failed, so it would teach a mistake and its repair
    suspicious   a search came to doubt its problem's gold answer
    held_out     its problem is kept for reward models to be measured on
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field

from ponderosa.config import Config
from ponderosa.data.rollouts import DISTINCT, Distinct, RolloutSelection, join_selections, take_correct
from ponderosa.records import Attempt, Cost, GradedAttempt, GradedTree, Node, Tree


class Trajectory(NamedTuple):
    """A graded attempt and the value Q of each node on its way."""

    graded: GradedAttempt
    values: tuple[float, ...]

    @property
    def rank(self) -> tuple[float, float]:
        """What trajectories are ordered by: the mean of their values, then the least."""
        return fmean(self.values), min(self.values)

    @property
    def is_faulty(self) -> bool:
        """Whether it is right although a step of it failed."""
        attempt, verdict = self.graded
        return verdict.correct and any(step.outcome not in (None, "ok") for step in attempt.steps)


class TrajectoryRules(Config):
    """Which right trajectories are taken: those of the highest mean value first, then of the highest least value."""

    per_problem: int | None = Field(
        2,
        ge=1,
        description="most trajectories of one problem from one search, all its trees together; null takes all",
    )
    distinct: Distinct = Field("program", description=DISTINCT)
    allow_errors: bool = Field(False, description="take those with a step that failed, too")


def list_trajectories(graded: GradedTree) -> list[Trajectory]:
    """Every way through a tree that has a verdict, in the order in which their last nodes were made."""
    trajectories = []
    for place, verdict in sorted(graded.verdicts.items()):
        path = [graded.tree.nodes[step] for step in graded.tree.list_path(place)]
        attempt = _build_attempt(graded.tree, path, place)
        trajectories.append(Trajectory(GradedAttempt(attempt, verdict), tuple(node.value for node in path)))
    return trajectories


def select_trajectories(
    trajectories: Iterable[Trajectory],
    rules: TrajectoryRules,
    *,
    eos_ids: frozenset[int],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> RolloutSelection:
    """The trajectories of every problem that the rules take.

    eos_ids: what ends a solution of the model that wrote them. left_out: problems that nothing is taken of, and why.
    """
    groups: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for one in trajectories:
        groups[one.graded.attempt.problem_id].append(one)
    return join_selections(
        RolloutSelection((), tuple((one.graded.attempt, left_out[problem_id]) for one in group))
        if problem_id in left_out
        else _select_of_problem(group, rules, eos_ids)
        for problem_id, group in groups.items()
    )


def _select_of_problem(
    group: Sequence[Trajectory], rules: TrajectoryRules, eos_ids: frozenset[int]
) -> RolloutSelection:
    ranked = sorted(group, key=lambda one: one.rank, reverse=True)
    faulty = [one.graded.attempt for one in ranked if one.is_faulty and not rules.allow_errors]
    sound = [one.graded for one in ranked if rules.allow_errors or not one.is_faulty]
    taken = take_correct(sound, rules.per_problem, rules.distinct, eos_ids=eos_ids)
    return join_selections(
        [taken, RolloutSelection((), tuple((attempt, "error_step") for attempt in faulty))]
    )


def _build_attempt(tree: Tree, path: Sequence[Node], place: int) -> Attempt:
    """A path as an attempt, numbered by its last node's place. Its cost is the tree's, so it has none of its own."""
    last = path[-1]
    steps = tuple(node.step for node in path if node is not last or node.step.text)
    return Attempt(
        problem_id=tree.problem_id,
        sample=place,
        prompt_ids=tree.prompt_ids,
        token_ids=tuple(token_id for node in path for token_id in node.token_ids),
        sampled=tuple(is_sampled for node in path for is_sampled in node.sampled),
        model_logprobs=tuple(logprob for node in path for logprob in node.model_logprobs),
        sampling_logprobs=tuple(logprob for node in path for logprob in node.sampling_logprobs),
        finish=last.finish or "stop",
        text="\n".join(part for step in steps for part in (step.text, step.observation) if part),
        steps=steps,
        answer=last.answer,
        answer_key=last.answer_key,
        cost=Cost(),
        strategy=tree.strategy,
        model_id=tree.model_id,
        seed=tree.seed,
    )
