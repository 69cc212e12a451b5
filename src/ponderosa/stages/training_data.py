"""Which solutions a stage trains on, and the rows made of them: worked ones, and what an earlier model wrote.

A worked solution is written in the trained model's format and encoded. The token ids of a rollout, or of a trajectory
of a search tree, are taken as they were sampled, so they must come from a model of the same tokenizer and prompt
format; rejection sampling decides which. Trajectories may be rewritten instead: their steps encoded as worked ones are.

Writes rejected.parquet: each rollout and trajectory that is not trained on, and why; none where nothing was rejected.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from ponderosa.artifacts import write_table
from ponderosa.config import Config
from ponderosa.data.rollouts import RolloutRules, RolloutSelection, select_rollouts
from ponderosa.data.rows import build_attempt_row, build_solution_row
from ponderosa.data.trajectories import TrajectoryRules, select_trajectories
from ponderosa.data.tree_outcomes import is_held_out
from ponderosa.engines.codec import HFCodec
from ponderosa.errors import ConfigError
from ponderosa.formats import PromptFormat
from ponderosa.identity import derive_seed
from ponderosa.records import Problem, Row
from ponderosa.stages.attempt_tables import load_problems
from ponderosa.stages.policy import check_same_format, check_same_ids, load_policy
from ponderosa.stages.rollout import POLICY, PROBLEMS, load_rollouts
from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Need
from ponderosa.stages.tree_tables import load_doubted, load_trajectories
from ponderosa.steps import Segment, render_steps
from ponderosa.tasks.worked import WorkedSolution

REJECTED = "rejected.parquet"


class SolutionData(Config):
    """Which solutions a stage trains on."""

    solutions: tuple[str, ...] = Field((), description="solutions stages to read")
    rollouts: tuple[str, ...] = Field(
        (), description="rollout stages to read, of a model with the same tokenizer and prompt format"
    )
    select: RolloutRules = RolloutRules()
    trees: tuple[str, ...] = Field(
        (), description="search stages to read, of a model with the same tokenizer and prompt format"
    )
    trajectories: TrajectoryRules = TrajectoryRules()
    held_out_frac: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the trees' problems that is not trained on. Give it the `held_out_frac` of the reward "
        "models that begin as this policy: what they are measured on, it has then not seen either",
    )
    rewrite_trees: bool = Field(
        False,
        description="encode the trees' solutions anew, so that they may come from a model with another tokenizer",
    )
    min_operations: int = Field(1, description="easiest problem to use, where problems have operations")
    max_operations: int | None = Field(None, description="hardest problem to use")
    limit: int | None = Field(None, ge=1, description="use this many, drawn at random; unset uses all")
    few_shot_frac: float = Field(
        0.15,
        ge=0,
        le=1,
        description="share of worked solutions' prompts with the format's worked examples; the others have none",
    )

    @model_validator(mode="after")
    def _check(self) -> "SolutionData":
        if not (self.solutions or self.rollouts or self.trees):
            raise ConfigError(
                "there is nothing to train on: give `solutions`, `rollouts` or `trees`, names of stages"
            )
        if self.select != RolloutRules() and not self.rollouts:
            raise ConfigError("`select` chooses among `rollouts`, and none are named")
        about_trees = {"trajectories", "rewrite_trees", "held_out_frac"} & self.model_fields_set
        if about_trees and not self.trees:
            raise ConfigError(f"about `trees` is {', '.join(sorted(about_trees))}, and none are named")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            *(Need(name, "solutions") for name in self.solutions),
            *(Need(name, "rollouts") for name in self.rollouts),
            *(Need(name, "trees") for name in self.trees),
        )

    def takes(self, problem: Problem) -> bool:
        operations = problem.meta.get("operations", self.min_operations)
        return bool(self.min_operations <= operations <= (self.max_operations or operations))


class TrainingRows(NamedTuple):
    """Rows in an order drawn by seed, and how many rollouts and trajectories were rejected for each reason."""

    rows: list[Row]
    dropped: dict[str, int]


class Rejection(NamedTuple):
    """An attempt that is not trained on: the stage that left it, which it is there, and why."""

    stage: str
    problem_id: str
    sample: int
    reason: str


class _Choice(NamedTuple):
    """A solution that may be trained on; `order` decides which a limit keeps."""

    order: int
    build: Callable[[], Row]


def build_training_rows(
    data: SolutionData,
    prompt_format: PromptFormat,
    codec: HFCodec,
    context: Context,
    *,
    question_weight: float = 0.0,
) -> TrainingRows:
    """One row for each chosen solution, loss on what the model writes; the table of those rejected is written.

    Raises ConfigError if there is none, or if attempts were written by a model of another tokenizer or format.
    """
    worked = _list_worked(data, prompt_format, codec, context, question_weight)
    sampled, rejections = _list_sampled(data, prompt_format, codec, context, question_weight)
    if rejections:
        write_table(context.folder / REJECTED, [one._asdict() for one in rejections])
    dropped = dict(Counter(f"{one.stage}: {one.reason}" for one in rejections).most_common())
    choices = sorted([*worked, *sampled], key=lambda choice: choice.order)
    if not choices:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        raise ConfigError(
            f"no solution of {', '.join((*data.solutions, *data.rollouts, *data.trees))} has {data.min_operations} to "
            f"{data.max_operations or 'any number of'} operations; change min_operations or max_operations"
            + (f", or roll out more: rejected were {reasons}" if reasons else "")
        )
    return TrainingRows([choice.build() for choice in choices[: data.limit]], dropped)


def _list_worked(
    data: SolutionData, prompt_format: PromptFormat, codec: HFCodec, context: Context, question_weight: float
) -> list[_Choice]:
    bare = prompt_format.model_copy(update={"few_shot": ()})
    choices = []
    for name in data.solutions:
        for problem, worked in load_solutions(context.inputs[name]):
            if data.takes(problem):
                order = derive_seed("choose", context.name, context.seed, problem.id)
                is_shown = order % 10_000 < data.few_shot_frac * 10_000
                build = partial(
                    _build_worked_row,
                    problem.question,
                    worked,
                    prompt_format if is_shown else bare,
                    codec,
                    0.0 if is_shown else question_weight,
                )
                choices.append(_Choice(order, build))
    return choices


def _build_worked_row(
    question: str, worked: WorkedSolution, prompt_format: PromptFormat, codec: HFCodec, prompt_weight: float
) -> Row:
    return build_solution_row(
        codec.encode_prompt(prompt_format, question),
        render_solution(worked.steps, worked.prose, prompt_format),
        codec.encode,
        eos_id=codec.eos_id,
        prompt_weight=prompt_weight,
    )


def render_solution(steps: Sequence[Any], prose: str, prompt_format: PromptFormat) -> list[Segment]:
    """A worked solution in the kind the format asks for."""
    if prompt_format.solution == "code":
        return render_steps(steps, prompt_format.delimiters)
    return [Segment(f" {prose.strip()}", True)]


def _list_sampled(
    data: SolutionData, prompt_format: PromptFormat, codec: HFCodec, context: Context, question_weight: float
) -> tuple[list[_Choice], list[Rejection]]:
    """The attempts the rules take, and why others are not. Worked examples in a prompt carry no loss."""
    prompt_weight = 0.0 if prompt_format.few_shot else question_weight
    choices = []
    rejections: list[Rejection] = []
    doubted = load_doubted(context.inputs[name] for name in data.trees)
    for name in (*data.rollouts, *data.trees):
        folder = context.inputs[name]
        policy = load_policy(folder / POLICY)
        is_rewritten = data.rewrite_trees and name in data.trees
        if is_rewritten:
            check_same_format(policy, prompt_format, where=name)
        else:
            check_same_ids(policy, codec, prompt_format, where=name)
        eos_ids = frozenset(policy.eos_ids)
        if name in data.trees:
            selection = _select_trajectories(data, folder, eos_ids, doubted)
        else:
            selection = _select_rollouts(data, folder, eos_ids, context.seed)
        rejections += [
            Rejection(name, attempt.problem_id, attempt.sample, reason)
            for attempt, reason in selection.rejected
        ]
        questions = {one.id: one.question for one in load_problems(folder / PROBLEMS)} if is_rewritten else {}
        for attempt in selection.kept:
            order = derive_seed("choose", context.name, context.seed, attempt.problem_id, attempt.sample)
            if is_rewritten:
                worked = WorkedSolution(attempt.steps, attempt.text)
                question = questions[attempt.problem_id]
                build = partial(_build_worked_row, question, worked, prompt_format, codec, prompt_weight)
            else:
                build = partial(build_attempt_row, attempt, prompt_weight=prompt_weight)
            choices.append(_Choice(order, build))
    return choices, rejections


def _select_rollouts(
    data: SolutionData, folder: Path, eos_ids: frozenset[int], seed: int
) -> RolloutSelection:
    groups = [group for group in load_rollouts(folder) if data.takes(group.problem)]
    return select_rollouts(groups, data.select, eos_ids=eos_ids, seed=seed)


def _select_trajectories(
    data: SolutionData, folder: Path, eos_ids: frozenset[int], doubted: Iterable[str]
) -> RolloutSelection:
    taken = {problem.id for problem in load_problems(folder / PROBLEMS) if data.takes(problem)}
    trajectories = [one for one in load_trajectories(folder) if one.graded.attempt.problem_id in taken]
    held_out = [one for one in taken if is_held_out(one, data.held_out_frac)]
    left_out = {**dict.fromkeys(held_out, "held_out"), **dict.fromkeys(doubted, "suspicious")}
    return select_trajectories(trajectories, data.trajectories, eos_ids=eos_ids, left_out=left_out)
