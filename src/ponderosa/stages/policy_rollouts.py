"""Batches drawn from the policy as it is: the batch source of reinforcement learning.

    iteration:  ask prompts, a group of attempts each; run their steps, grade them, reward them
                with rebalancing: ask hard prompts again, keep as many wrong attempts as right ones
                drop groups that teach nothing, ask other prompts in their place
                give what is left as rows, in equal parts for the iteration's optimizer steps

An iteration is committed work, its attempts as one unit and what the model says of them, before it is updated, as
another: after a kill they are read back, or computed again with the same weights, and the curve goes on as if nothing
had happened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

from ponderosa.artifacts import Journal
from ponderosa.data.groups import Group, build_group_rows, rebalance_group
from ponderosa.data.packing import Batch
from ponderosa.engines.protocol import Engine, Sampling
from ponderosa.evaluation.units import parse_graded, record_graded
from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import GradedAttempt, Problem, Row
from ponderosa.rewards.recipe import RewardSum
from ponderosa.search.budgets import Budget
from ponderosa.search.driver import StepRunner, run_unit
from ponderosa.search.requests import Judge
from ponderosa.search.solution import SearchContext
from ponderosa.training.gradients import use_threads

Advantages = Callable[[Sequence[float]], Sequence[float]]
"""Rewards of a group to the advantages of its attempts."""

TokenWeights = Callable[[Sequence[int]], Sequence[float]]
"""Lengths of completions to the weight of each of their tokens."""

ComputeColumns = Callable[[Sequence[Row]], Sequence[Mapping[str, Sequence[float]]]]
"""Rows to the columns of each that take a model to compute."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Groups easier than `max_accuracy` are dropped; a prompt without a correct attempt is asked again until it has
    one, or `max_samples` attempts."""

    max_accuracy: float
    max_samples: int


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How an iteration's groups are drawn.

    temperatures: of each iteration. max_waves: drawings of an iteration, the first included; with one, groups that
    teach nothing are not replaced. drops_flat_groups: leave out groups whose attempts all earned the same.
    """

    temperatures: tuple[float, ...]
    updates: int
    prompts: int
    samples: int
    max_waves: int
    drops_flat_groups: bool
    rebalance: Rebalance | None
    shares_prompts: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """What attempts are made with, and what judges them."""

    engine: Engine
    sandbox: StepRunner
    judge: Judge
    context: SearchContext
    rewards: RewardSum
    num_threads: int
    """Threads that sampling may use; the loop trains with one for each worker."""


class Kept(NamedTuple):
    """A group to train on: whole as it was asked, and what is trained on of it."""

    whole: Group
    group: Group


class PolicyRollouts:
    """A `training.loop.BatchSource` whose batches are sampled from the model in training.

    compute_advantages: rewards of a group to advantages. compute_token_weights: lengths of completions to the weight
    of each of their tokens. compute_columns: with the policy as it sampled; `old_logprobs` are the engine's if it
    leaves them out.
    """

    num_tokens: int | None = None

    def __init__(
        self,
        plan: RolloutPlan,
        problems: Sequence[Problem],
        environment: Environment,
        journal: Journal,
        *,
        compute_advantages: Advantages,
        compute_token_weights: TokenWeights,
        compute_columns: ComputeColumns,
        seed: int,
    ) -> None:
        self._plan, self._problems, self._environment, self._journal = plan, problems, environment, journal
        self._compute_advantages, self._compute_token_weights = compute_advantages, compute_token_weights
        self._compute_columns = compute_columns
        self._seed = seed
        self._number = -1
        self._asked: list[Group] = []
        self._kept: list[Kept] = []
        self._batches: list[Batch] = []
        self.num_steps = len(plan.temperatures) * plan.updates
        self.identity = content_hash([repr(plan), [problem.id for problem in problems], seed])

    def draw(self, step: int) -> Batch:
        number, part = divmod(step, self._plan.updates)
        if number != self._number:
            self._number = number
            self._asked = self._read(number) or self._sample(number)
            self._kept = self._select(self._asked)
            self._batches = self._complete(self._build_batches())
        return self._batches[part]

    def describe(self, step: int) -> dict[str, Any]:
        """Of the iteration: accuracy before anything was dropped, lengths, and what each reward gave."""
        graded = [item for group in self._asked for item in group.graded]
        scores = [self._environment.rewards.score(item.attempt, item.verdict) for item in graded]
        return {
            "accuracy": fmean(item.verdict.correct for item in graded),
            "length": fmean(item.attempt.num_sampled for item in graded),
            "truncated_frac": fmean(item.attempt.finish == "length" for item in graded),
            "flat_frac": fmean(group.is_flat for group in self._asked),
            "asked_groups": len(self._asked),
            "kept_groups": len(self._kept),
            "attempts": len(graded),
            "baseline": fmean(score.total for score in scores),
            "kept_baseline": fmean([reward for kept in self._kept for reward in kept.group.rewards] or [0.0]),
            **self._describe_rebalancing(),
            "temperature": self._plan.temperatures[self._number],
            "rewards": {
                name: fmean(score.components[name] for score in scores) for name in scores[0].components
            },
        }

    def list_graded(self) -> list[GradedAttempt]:
        """Every attempt of the iterations that are committed, in their order."""
        numbers = range(len(self._plan.temperatures))
        groups = [group for number in numbers for group in self._journal.units.get(_name_unit(number), [])]
        return [parse_graded(item) for group in groups for item in group["graded"]]

    def _describe_rebalancing(self) -> dict[str, float]:
        """The mean baseline of the groups that are trained on, over all that was asked and over what is kept of it."""
        if not self._plan.rebalance or not self._kept:
            return {}
        return {
            "full_baseline": fmean(fmean(kept.whole.rewards) for kept in self._kept),
            "rebalanced_baseline": fmean(fmean(kept.group.rewards) for kept in self._kept),
        }

    def _read(self, number: int) -> list[Group] | None:
        """The groups of an iteration that was committed; None if it was not."""
        records = self._journal.units.get(_name_unit(number))
        if records is None:
            return None
        return [self._reward([parse_graded(item) for item in record["graded"]]) for record in records]

    def _sample(self, number: int) -> list[Group]:
        """Ask, and commit what was answered."""
        position = sum(len(self._journal.units[_name_unit(earlier)]) for earlier in range(number))
        asked: list[Group] = []
        with use_threads(self._environment.num_threads):
            for wave in range(self._plan.max_waves):
                num_missing = self._plan.prompts - len(self._select(asked))
                if num_missing > 0:
                    problems = [self._pick_problem(position + len(asked) + i) for i in range(num_missing)]
                    asked += self._ask(problems, number, wave)
        records = [{"graded": [record_graded(item) for item in group.graded]} for group in asked]
        self._journal.append(_name_unit(number), records)
        return asked

    def _pick_problem(self, position: int) -> Problem:
        """The queue goes through all problems, each time in another order."""
        epoch, index = divmod(position, len(self._problems))
        order = list(range(len(self._problems)))
        Random(derive_seed("prompts", self._seed, epoch)).shuffle(order)
        return self._problems[order[index]]

    def _ask(self, problems: Sequence[Problem], number: int, wave: int) -> list[Group]:
        environment, plan = self._environment, self._plan
        budget = Budget("rl", plan.samples, wave=plan.samples)
        if plan.rebalance:
            budget = replace(budget, max_attempts=max(plan.samples, plan.rebalance.max_samples), target=1)
        context = replace(
            environment.context,
            seed=derive_seed("rl", self._seed, number, wave),
            sampling=Sampling(temperature=plan.temperatures[number]),
        )
        answers = run_unit(
            environment.engine, environment.sandbox, problems, budget, context, judge=environment.judge
        )
        return [self._reward(graded) for graded in answers]

    def _reward(self, graded: Sequence[GradedAttempt]) -> Group:
        score = self._environment.rewards.score
        return Group(tuple(graded), tuple(score(item.attempt, item.verdict).total for item in graded))

    def _select(self, asked: Sequence[Group]) -> list[Kept]:
        """The groups that are trained on."""
        balance = self._plan.rebalance
        kept: list[Kept] = []
        for whole in asked:
            group: Group | None = whole
            if balance:
                group = rebalance_group(whole, max_accuracy=balance.max_accuracy, seed=self._seed)
            if group and not (group.is_flat and self._plan.drops_flat_groups):
                kept.append(Kept(whole, group))
        return kept

    def _build_batches(self) -> list[list[Row]]:
        """The rows of each optimizer step. A step without a group gets one without advantages: only the KL term, if there
        is one, has a gradient then, and the optimizer goes on by its momentum and decay."""
        groups = [kept.group for kept in self._kept]
        idle = replace(self._asked[0], rewards=(0.0,) * len(self._asked[0].rewards))
        parts = [groups[update :: self._plan.updates] or [idle] for update in range(self._plan.updates)]
        return [self._build_batch(part) for part in parts]

    def _complete(self, batches: Sequence[Sequence[Row]]) -> list[Batch]:
        """Rows with all columns. Those a model computes are of the policy that sampled, so they are committed: after a
        kill between two updates that policy is gone."""
        unit = f"columns {self._number}"
        if unit not in self._journal.units:
            records = [{"rows": self._compute_columns(rows)} for rows in batches]
            self._journal.append(unit, records)
        return [
            tuple(
                _add_columns(row, columns, update) for row, columns in zip(rows, record["rows"], strict=True)
            )
            for update, (rows, record) in enumerate(zip(batches, self._journal.units[unit], strict=True))
        ]

    def _build_batch(self, groups: Sequence[Group]) -> list[Row]:
        """One step's rows. Weights are times the tokens of the step, by which the loop divides."""
        lengths = [item.attempt.num_sampled for group in groups for item in group.graded]
        weights = iter(self._compute_token_weights(lengths))
        rows: list[Row] = []
        for group in groups:
            rows += self._build_rows(group, [sum(lengths) * next(weights) for _ in group.graded])
        return rows

    def _build_rows(self, group: Group, token_weights: Sequence[float]) -> list[Row]:
        return build_group_rows(
            group,
            self._compute_advantages(group.rewards),
            token_weights,
            self._plan.temperatures[self._number],
            shares_prompt=self._plan.shares_prompts,
        )


def _add_columns(row: Row, computed: Mapping[str, Sequence[float]], update: int) -> Row:
    """A row with the columns a model computed, and how many updates ago it was sampled."""
    columns = {
        **row.columns,
        "old_logprobs": row.columns["sampling_logprobs"],
        "staleness": (float(update),) * len(row.token_ids),
        **{name: tuple(values) for name, values in computed.items()},
    }
    return replace(row, columns=columns)


def _name_unit(number: int) -> str:
    return f"iteration {number}"
