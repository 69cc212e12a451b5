"""Compare strategies at equal budget: one model on one suite, by every strategy with each of its reward models.

    draw the suite's problems by a seed kept for reporting
    for each token budget:
        each strategy with each of its reward models solves them unit by unit and is graded
        each but the first is tested against the first, on the same problems under the same budget
    all these tests are one family for Holm's correction

A budget is what a problem's search may compute: tokens prefilled, sampled and scored. What it came to, in tokens, FLOPs
and seconds, is in the rows of each strategy, reward model and budget.

Writes rows.json, tests.json, attempts/ANSWERS.parquet, verdicts/ANSWERS.parquet.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from ponderosa.artifacts import read_json, spent_seconds, write_json
from ponderosa.config import Config as BaseConfig
from ponderosa.engines.protocol import Sampling
from ponderosa.errors import ConfigError
from ponderosa.evaluation.budget_rows import compare_answers, summarise_answers
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import Row, RowContext, build_results, correct_family
from ponderosa.ledger import Ledger
from ponderosa.records import GradedAttempt
from ponderosa.search.registry import check_reward_model, check_takes_budget, get_strategy
from ponderosa.search.solution import Limits
from ponderosa.search.strategies import Strategy
from ponderosa.stages.attempt_tables import count_costs, save_graded
from ponderosa.stages.measuring import Measuring, open_measuring
from ponderosa.stages.stage import Context, Draw, Need, Outcome, StageConfig
from ponderosa.stages.suite_config import DrawnSuite, draw_suite

VERSION = 3


class ComparedStrategy(BaseConfig):
    """A strategy, and the reward models it is tried with."""

    strategy: str = Field(description="how solutions are looked for, see docs/search.md")
    label: str | None = Field(None, description="what to call it in results; default: the strategy's name")
    reward_models: tuple[str | None, ...] = Field(
        (), description="stages whose reward models score solutions, one after the other; null is none"
    )
    samples: int = Field(
        256, ge=1, description="as in an evaluate stage; so many that the budget is what ends a search"
    )
    search: dict[str, Any] = Field(
        default_factory=dict, description="the strategy's own parameters; they go before `samples`"
    )
    tokens_per: dict[str, int] = Field(
        default_factory=dict,
        description="parameters that grow with the budget, and the tokens that one of each is taken to cost: of "
        "{samples: 300} a budget of 1000 makes 3 samples; never fewer than 1",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_takes_budget(self.strategy)
        if any(tokens < 1 for tokens in self.tokens_per.values()):
            raise ConfigError(f"tokens_per is {self.tokens_per}; allowed: at least 1 token each")
        if "token_budget" in self.search:
            raise ConfigError(f"{self.name}: leave token_budget out of `search`; `token_budgets` are for all")
        if both := sorted(self.search.keys() & self.tokens_per.keys()):
            raise ConfigError(f"{self.name}: {', '.join(both)} is in `search` and in `tokens_per`; keep one")
        return self

    @property
    def name(self) -> str:
        return self.label or self.strategy

    def get_strategy(self, token_budget: int) -> Strategy:
        """The strategy under a budget."""
        grown = {name: max(1, token_budget // tokens) for name, tokens in self.tokens_per.items()}
        return get_strategy(
            self.strategy, self.samples, {**self.search, **grown, "token_budget": token_budget}
        )


class Contender(NamedTuple):
    """A strategy with one reward model, or with none."""

    entry: ComparedStrategy
    reward_model: str | None

    @property
    def name(self) -> str:
        return f"{self.entry.name} with {self.reward_model}" if self.reward_model else self.entry.name

    def count_samples(self, token_budget: int) -> int:
        """Solutions that its work comes to at most."""
        return self.entry.get_strategy(token_budget).num_attempts


class Config(StageConfig):
    """Which model, on what, by which strategies, under which budgets."""

    model: str = Field(description="stage whose model is asked")
    suite: DrawnSuite
    strategies: tuple[ComparedStrategy, ...] = Field(
        min_length=2, description="what to compare; the first is what the others are tested against"
    )
    token_budgets: tuple[int, ...] = Field(
        min_length=1, description="tokens of a problem, prefilled, sampled and scored"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 leaves nothing out")
    max_tokens: int = Field(256, ge=1, description="most new tokens of a solution, observations included")
    max_steps: int = Field(32, ge=1, description="most steps of a solution: the depth of a tree")
    num_slots: int = Field(128, ge=1, description="solutions sampled at once")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(budget < 1 for budget in self.token_budgets):
            raise ConfigError(f"token_budgets are {list(self.token_budgets)}; allowed: 1 and more")
        names = [str(budget) for budget in self.token_budgets]
        names += [contender.name for contender in self.list_contenders()]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"named twice: {', '.join(repeated)}; give a strategy a `label` of its own")
        for contender in self.list_contenders():
            for budget in self.token_budgets:
                strategy = contender.entry.get_strategy(budget)
                check_reward_model(strategy, is_given=contender.reward_model is not None)
        return self

    def list_contenders(self) -> list[Contender]:
        """Every strategy with each of its reward models, in the order given."""
        return [Contender(one, name) for one in self.strategies for name in one.reward_models or (None,)]

    def needs(self) -> tuple[Need, ...]:
        scorers = dict.fromkeys(one.reward_model for one in self.list_contenders() if one.reward_model)
        return (Need(self.model, "model"), *(Need(name, "reward_model") for name in scorers))

    def keep_problems(self, seed: int) -> Self:
        return self.model_copy(update={"suite": self.suite.keep_problems(seed)})

    def hash_inputs(self, base: Path) -> dict[str, str]:
        source_hash = self.suite.hash_source(base)
        return {self.suite.suite: source_hash} if source_hash else {}

    def draws(self) -> tuple[Draw, ...]:
        return (self.suite.describe_draw(),)


def run(config: Config, context: Context) -> Outcome:
    suite = draw_suite(config.suite, context)
    contenders = config.list_contenders()
    ledger = Ledger()
    rows: list[Row] = []
    tests: list[Row] = []
    reward_models = {one.reward_model for one in contenders}
    with open_measuring(config.model, reward_models, context, num_slots=config.num_slots) as measuring:
        for budget in config.token_budgets:
            first: list[GradedAttempt] = []
            for one in contenders:
                graded, row_context = measure(one, budget, suite, config, measuring)
                rows += summarise_answers(row_context, suite.problems, graded, one.count_samples(budget))
                if first:
                    pair = (contenders[0].name, first), (one.name, graded)
                    tests.append(compare_answers(suite.problems, *pair, row_context))
                first = first or graded
                count_costs(ledger, graded)
    write_json(context.folder / "rows.json", build_results(rows))
    write_json(context.folder / "tests.json", correct_family(tests))
    dropped = Counter(row.reason for row in suite.quarantined)
    return Outcome(ledger=ledger, kept=len(rows), dropped=dict(dropped))


def measure(
    contender: Contender, token_budget: int, suite: Suite, config: Config, measuring: Measuring
) -> tuple[list[GradedAttempt], RowContext]:
    """The answer to every problem, graded and saved, and what its rows share."""
    context = measuring.context
    name = f"{contender.name}-{token_budget}".replace("/", "_").replace(" ", "-")
    with spent_seconds(context.folder / f"seconds-{name}.json") as read_seconds:
        graded = measuring.measure(
            suite,
            contender.entry.get_strategy(token_budget),
            sampling=Sampling(temperature=config.temperature, top_p=config.top_p),
            limits=Limits(config.max_tokens, config.max_steps),
            reward_model=contender.reward_model,
            label=f"{contender.name}, {token_budget:,} tokens",
        )
        eval_s = read_seconds()
    save_graded(
        context.folder / "attempts" / f"{name}.parquet",
        context.folder / "verdicts" / f"{name}.parquet",
        graded,
    )
    return graded, describe_rows(contender, token_budget, suite, config, measuring, eval_s)


def describe_rows(
    contender: Contender,
    token_budget: int,
    suite: Suite,
    config: Config,
    measuring: Measuring,
    eval_s: float,
) -> RowContext:
    """What the rows share. The problems go by the name of the comparison, so that its answers are never taken for
    those of an evaluation; `suite_hash` tells which problems they are."""
    context = measuring.context
    trained = read_json(context.inputs[config.model] / "manifest.json")["ledger"]
    return RowContext(
        stage=config.model,
        model=config.model,
        model_id=measuring.engine.model_id,
        suite=context.name,
        suite_hash=suite.content_hash,
        strategy=contender.entry.name,
        reward_model=contender.reward_model,
        token_budget=token_budget,
        seed=context.seed,
        train_flops=trained["train_flops"],
        stage_s=trained["seconds"],
        eval_s=eval_s,
    )
