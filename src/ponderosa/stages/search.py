"""Search trees grown on problems whose answers are known, every solution in them graded and kept.

    draw problems from tasks, or take those of solutions stages; none that is kept for reports
    for each unit of problems:  a tree each, by terminal-guided search, or PPM-augmented with a reward model;
                                write the unit's part of the tables, then commit it
    over problems: coverage, what was given up and why, and how many right answers came from wrong programs

A right answer is asked again with other numbers where the task can re-number: a program that then fails is refuted, and
wrong in the tree as in everything made of it. What is trained on is extracted from the trees afterwards, under any rule.

Writes trees/, nodes/, verdicts/ (see `tree_tables`), problems.parquet, policy.json, shown_trees.json, rows.json,
tests.json (empty: what a search is tested against is another search, which the run's summary does).
"""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import Field

from ponderosa.adapter_directory import Trunk
from ponderosa.artifacts import read_json, spent_seconds, write_json
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import build_engine, load_trunk
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import Engine, Sampling, Scorer
from ponderosa.engines.scorer import NativeScorer
from ponderosa.evaluation.summary import RowContext, build_results
from ponderosa.evaluation.tree_summary import build_tree_rows, strip_nodes, summarise_trees
from ponderosa.evaluation.units import Record, commit_units, describe_setting
from ponderosa.formats import load_format
from ponderosa.identity import content_hash, derive_seed
from ponderosa.ledger import Ledger
from ponderosa.progress import Progress
from ponderosa.records import GradedTree, Problem
from ponderosa.search.driver import Meter, build_context, run_unit
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.requests import Gather, ProblemView, Reply, Request
from ponderosa.search.solution import Limits, SearchContext
from ponderosa.shown_trees import save_shown
from ponderosa.stages.attempt_tables import add_cost, save_problems
from ponderosa.stages.labelling import catch_false_positives, open_labelling
from ponderosa.stages.policy import describe_policy, load_scorer_for
from ponderosa.stages.problem_sources import ProblemConfig, draw_problems
from ponderosa.stages.rollout import MODEL, POLICY, PROBLEMS
from ponderosa.stages.stage import Context, Need, Outcome
from ponderosa.stages.tree_samples import select_trees
from ponderosa.stages.tree_tables import iterate_trees, save_trees

VERSION = 8
UNIT_TREES = 64
"""Trees a unit holds at least."""
UNIT_FILLS = 8
"""How often the first expansions of a unit's trees fill the engine's slots, at least: at the end of a unit, when few trees
are left, slots stand idle."""


class Config(ProblemConfig):
    """Which model searches, its steps scored by which reward model, on which problems, how far."""

    model: str = Field(description="stage whose model searches")
    reward_model: str | None = Field(
        None, description="stage whose reward model scores steps; unset leaves it to how solutions end"
    )
    search: TreeSearch = TreeSearch()
    trees: int = Field(1, ge=1, description="trees of each problem, differently seeded")
    renumberings: int = Field(
        3,
        ge=0,
        description="other numbers that the program of a right answer must be right on, where the task can re-number; 0 "
        "takes every right answer",
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 leaves nothing out")
    max_tokens: int = Field(256, ge=1, description="most new tokens of a solution, observations included")
    max_steps: int = Field(16, ge=1, description="most steps of a solution: the depth of a tree")
    max_errors: int = Field(0, ge=0, description="failed steps in a row that do not end a solution")
    num_slots: int = Field(128, ge=1, description="steps sampled at once")
    seed: int | None = Field(None, description="draws problems and steps; unset takes the recipe's seed")

    @property
    def unit_trees(self) -> int:
        """Trees a unit holds: enough to keep the slots busy, little enough to lose when killed."""
        steps_per_tree = self.search.candidates * self.search.leaves
        return max(UNIT_TREES, 2 * self.num_slots, UNIT_FILLS * self.num_slots // steps_per_tree)

    def needs(self) -> tuple[Need, ...]:
        guide = () if self.reward_model is None else (Need(self.reward_model, "reward_model"),)
        return (Need(self.model, "model"), *guide, *super().needs())


def run(config: Config, context: Context) -> Outcome:
    seed = context.seed if config.seed is None else config.seed
    problems, dropped = draw_problems(config, context, purpose="search", seed=seed)
    engine, scorer, search_context = load_search(config, context, seed)
    with spent_seconds(context.folder / "seconds-trees.json") as read_seconds:
        occupancy = grow_trees(
            *(engine, scorer, problems, config, search_context, context),
            unit_trees=config.unit_trees,
        )
        eval_s = read_seconds()
    save_problems(context.folder / PROBLEMS, problems)
    codec = load_codec(context.inputs[config.model] / MODEL)
    policy = describe_policy(codec, search_context.prompt_format, engine.model_id)
    write_json(context.folder / POLICY, asdict(policy))
    by_id = {problem.id: problem for problem in problems}
    save_shown(context.folder, select_trees(by_id, iterate_trees(context.folder)))
    trees = [strip_nodes(graded) for graded in iterate_trees(context.folder)]
    ledger = Ledger()
    for tree in trees:
        add_cost(ledger, tree.cost)
    simulations = config.search.simulations
    row_context = describe_rows(config, context, engine.model_id, problems, eval_s)
    rows = build_tree_rows(
        row_context, problems, trees, simulations=simulations, occupancy=occupancy, seed=seed
    )
    facts = summarise_trees(trees, rows, simulations=simulations)
    facts["occupancy"] = occupancy
    write_json(context.folder / "rows.json", build_results(rows))
    write_json(context.folder / "tests.json", [])
    return Outcome(ledger=ledger, kept=len(trees), dropped=dropped, facts=facts)


def load_search(
    config: Config, context: Context, seed: int
) -> tuple[NativeEngine, NativeScorer | None, SearchContext]:
    """The policy's engine, the reward model that scores its steps, and what every search shares."""
    model_dir = context.inputs[config.model] / MODEL
    dtype = "float32" if context.dtype == "auto" else context.dtype
    trunk = load_trunk(model_dir, device=context.device, dtype=dtype)
    scorer = load_reward_model(config, context, dtype, trunk)
    engine = build_engine(
        trunk, num_slots=config.num_slots, max_context=scorer.max_context if scorer else None
    )
    search_context = build_context(
        engine,
        load_format(model_dir),
        seed=derive_seed("search", "sampling", seed),
        sampling=Sampling(config.temperature, top_p=config.top_p),
        limits=Limits(config.max_tokens, config.max_steps, config.max_errors),
        scorer=scorer,
    )
    return engine, scorer, search_context


def load_reward_model(config: Config, context: Context, dtype: str, trunk: Trunk) -> NativeScorer | None:
    """The reward model of a configuration, for steps of the model in use. Raises ConfigError if token ids mean something
    else to it."""
    if config.reward_model is None:
        return None
    policy = describe_policy(load_codec(trunk.folder), load_format(trunk.folder), trunk.model_id)
    return load_scorer_for(
        policy,
        context.inputs[config.reward_model] / MODEL,
        where=config.reward_model,
        device=context.device,
        dtype=dtype,
        in_use=trunk,
    )


def describe_rows(
    config: Config, context: Context, model_id: str, problems: Sequence[Problem], eval_s: float
) -> RowContext:
    """What the rows share. The policy is the stage that is measured, and the problems go by the name of the search:
    `suite_hash` tells which searches had the same."""
    trained = read_json(context.inputs[config.model] / "manifest.json")["ledger"]
    return RowContext(
        stage=config.model,
        model=config.model,
        model_id=model_id,
        suite=context.name,
        suite_hash=content_hash([problem.id for problem in problems]),
        strategy=config.search.name,
        reward_model=config.reward_model,
        seed=context.seed,
        train_flops=trained["train_flops"],
        stage_s=trained["seconds"],
        eval_s=eval_s,
    )


@dataclass(frozen=True, slots=True)
class Forest:
    """Several trees of each problem, side by side, that differ in their seeds."""

    tree_search: TreeSearch
    num_trees: int
    name: str = "search"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], list[GradedTree]]:
        seeds = [derive_seed("forest", context.seed, number) for number in range(self.num_trees)]
        searches = [self.tree_search.search(replace(context, seed=seed), problem) for seed in seeds]
        (trees,) = yield [Gather(searches)]
        return list(trees)


def grow_trees(
    engine: Engine,
    scorer: Scorer | None,
    problems: Sequence[Problem],
    config: Config,
    search_context: SearchContext,
    context: Context,
    *,
    unit_trees: int,
) -> float:
    """Write the trees of every problem, committed in units; the occupancy over all units, as of the driver's `Meter`.

    A unit's part of the tables is written before the unit is committed; one without the other is written again.
    unit_trees: how many a unit holds.
    """
    forest = Forest(config.search, config.trees)
    first = {problem.id: place * config.trees for place, problem in enumerate(problems)}
    with open_labelling(context) as labelling:
        judge = catch_false_positives(labelling, config.renumberings)

        def grow(part: Sequence[Problem], progress: Progress) -> list[Record]:
            meter = Meter()
            grown = run_unit(
                engine,
                labelling.sandbox,
                part,
                forest,
                search_context,
                scorer=scorer,
                judge=judge,
                meter=meter,
                progress=progress,
            )
            trees = [graded for trees in grown for graded in trees]
            save_trees(context.folder, trees, first=first[part[0].id])
            tokens = sum(graded.tree.cost.generated_tokens for graded in trees)
            return [{"generated_tokens": tokens, "occupancy": meter.occupancy}]

        units = commit_units(
            problems,
            grow,
            labelling.journal,
            setting=describe_setting(
                [config.search.model_dump(mode="json"), config.trees, config.renumberings], search_context
            ),
            unit_size=max(1, unit_trees // config.trees),
            label=f"search {context.name}",
            progress=context.progress,
        )
    return compute_occupancy(units)


def compute_occupancy(units: Sequence[Record]) -> float:
    """Busy slot-steps over all slot-steps. A busy slot-step samples one token, so a unit has tokens / occupancy."""
    num_tokens = sum(unit["generated_tokens"] for unit in units)
    slot_steps = sum(unit["generated_tokens"] / unit["occupancy"] for unit in units if unit["occupancy"])
    return num_tokens / slot_steps if slot_steps else 0.0
