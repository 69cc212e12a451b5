"""A forest of search trees beside the same searches one tree at a time: same policy, reward model and candidates.

    python bench/search.py [--model DIR] [--reward-model DIR] [--candidates 1 8] [--trees 4096 1024] [--sample 32] [--json OUT]

Ours is what the `search` stage does, in its units and with its tables written to disk: every step run in the sandbox
and scored, every solution verified, the program of every right one run on other numbers. One tree at a time is the same
code on the same engine, with nothing written and no cache emptied between trees, on a sample of them: half before ours,
half after it. Rates are of sampled tokens, since a sample's trees are not of average size; how many of them came out
just as in the forest is told (rounding flips a few draws).

The policy must be one that ends its steps, so it is never made up: by default it is the quickstart's. Without a reward
model its place is taken by the policy's decoder under a random head, which costs what a trained one costs.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ponderosa.artifacts import write_json
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import build_engine, load_trunk, select_device
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import Engine, Sampling, Scorer
from ponderosa.engines.scorer import NativeScorer
from ponderosa.evaluation.suites import find_suite
from ponderosa.formats import load_format
from ponderosa.model_directory import get_max_context
from ponderosa.progress import SILENT
from ponderosa.records import Cost, GradedTree, Problem
from ponderosa.reward_model_directory import Calibration
from ponderosa.search import driver
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.solution import Limits, SearchContext
from ponderosa.stages.labelling import Labelling, catch_false_positives, open_labelling
from ponderosa.stages.policy import describe_policy, load_scorer_for
from ponderosa.stages.problem_sources import ProblemSource, draw_problems
from ponderosa.stages.search import Config, Forest, grow_trees
from ponderosa.stages.stage import Context
from ponderosa.stages.tree_tables import load_trees
from ponderosa.training.output_head import build_reward_model

MODEL = Path("runs/quickstart/models/sft")
TARGET_OF_ONE, TARGET = 10.0, 3.0
"""What is aimed at with one candidate an expansion, and with several."""


@dataclass(frozen=True)
class Search:
    """What both sides share."""

    engine: Engine
    scorer: Scorer
    context: SearchContext
    config: Config
    problems: Sequence[Problem]


class Grown(NamedTuple):
    """Trees in problem order, and what growing them took."""

    trees: list[GradedTree]
    seconds: float

    @property
    def cost(self) -> Cost:
        return sum((graded.tree.cost for graded in self.trees), Cost())

    @property
    def rate(self) -> float:
        """Sampled tokens per second."""
        return self.cost.generated_tokens / self.seconds


def grow_forest(search: Search, stage: Context) -> tuple[Grown, float]:
    """Every tree, as the stage grows them, and the engine's occupancy over all units, their tails included."""
    start = time.perf_counter()
    occupancy = grow_trees(
        *(search.engine, search.scorer, search.problems, search.config, search.context, stage),
        unit_trees=search.config.unit_trees,
    )
    seconds = time.perf_counter() - start
    return Grown(load_trees(stage.folder), seconds), occupancy


def grow_alone(search: Search, problems: Sequence[Problem], labelling: Labelling) -> Grown:
    """The trees of some problems, each begun when the one before it is done."""
    judge = catch_false_positives(labelling, search.config.renumberings)
    forest = Forest(search.config.search, search.config.trees)
    search.engine.reset()
    search.scorer.reset()
    trees: list[GradedTree] = []
    start = time.perf_counter()
    for problem in problems:
        (grown,) = driver.run_searches(
            search.engine,
            labelling.sandbox,
            [problem],
            forest,
            search.context,
            scorer=search.scorer,
            judge=judge,
        )
        trees += grown
    return Grown(trees, time.perf_counter() - start)


def compare(search: Search, stage: Context, num_sampled: int) -> dict[str, Any]:
    """One row: half of the sample, the forest, the other half."""
    half = num_sampled // 2
    folders = [stage.folder / name for name in ("alone", "forest")]
    for folder in folders:
        folder.mkdir(parents=True)
    with open_labelling(replace(stage, folder=folders[0])) as labelling:
        grow_alone(search, search.problems[:1], labelling)
        first = grow_alone(search, search.problems[:half], labelling)
        forest, occupancy = grow_forest(search, replace(stage, folder=folders[1]))
        second = grow_alone(search, search.problems[half:num_sampled], labelling)
    alone = Grown([*first.trees, *second.trees], first.seconds + second.seconds)
    ratios = [forest.rate / part.rate for part in (first, second)]
    candidates = search.config.search.candidates
    return {
        "work": f"search trees, {candidates} candidate{'s' * (candidates > 1)} an expansion",
        "peer": "one tree at a time",
        "unit": "tokens/s",
        "ours": forest.rate,
        "theirs": alone.rate,
        "ratio": forest.rate / alone.rate,
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "target": TARGET_OF_ONE if candidates == 1 else TARGET,
        "occupancy": occupancy,
        "trees": len(forest.trees),
        "trees_per_s": len(forest.trees) / forest.seconds,
        "seconds": forest.seconds,
        "cost": asdict(forest.cost),
        "sample": len(alone.trees),
        "their_trees_per_s": len(alone.trees) / alone.seconds,
        "same_trees": sum(
            list_steps(a) == list_steps(b) for a, b in zip(alone.trees, forest.trees, strict=False)
        ),
    }


def list_steps(graded: GradedTree) -> list[tuple[int | None, tuple[int, ...]]]:
    """Every node's parent and tokens."""
    return [(node.parent, node.token_ids) for node in graded.tree.nodes]


def load_models(options: argparse.Namespace) -> tuple[NativeEngine, NativeScorer]:
    """The policy's engine and the reward model's scorer."""
    where = {"device": select_device(options.device), "dtype": options.dtype}
    trunk = load_trunk(options.model, **where)
    engine = build_engine(trunk, num_slots=options.slots)
    if options.reward_model is not None:
        policy = describe_policy(load_codec(options.model), load_format(options.model), engine.model_id)
        name = str(options.reward_model)
        return engine, load_scorer_for(policy, options.reward_model, where=name, **where, in_use=trunk)
    scorer = NativeScorer(
        build_reward_model(trunk.model, pad_token_id=engine.codec.eos_id, seed=0),
        Calibration(scores=(-1.0, 1.0), values=(-1.0, 1.0)),
        model_id="random head",
        max_context=get_max_context(trunk.model),
    )
    return engine, scorer


def build_search(
    options: argparse.Namespace,
    candidates: int,
    num_trees: int,
    engine: NativeEngine,
    scorer: NativeScorer,
    stage: Context,
) -> Search:
    """The same problems, of the family that the quickstart's policy knows, for every number of candidates."""
    low, high = options.operations
    family = {**find_suite("quickstart").options, "min_operations": low, "max_operations": high}
    config = Config(
        model="policy",
        sources=(ProblemSource(task="quantities", count=num_trees, options=family),),
        search=TreeSearch(simulations=options.simulations, candidates=candidates),
        max_tokens=options.max_tokens,
        num_slots=options.slots,
    )
    context = driver.build_context(
        engine,
        load_format(options.model),
        sampling=Sampling(config.temperature),
        limits=Limits(config.max_tokens, config.max_steps),
        scorer=scorer,
    )
    problems = draw_problems(config, stage, purpose="search", seed=0).problems
    return Search(engine, scorer, context, config, problems)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="directory of a trained policy")
    parser.add_argument("--reward-model", type=Path, help="directory of its reward model")
    parser.add_argument(
        "--candidates", type=int, nargs="+", default=[1, 8], help="steps sampled when a node is expanded"
    )
    parser.add_argument(
        "--trees",
        type=int,
        nargs="+",
        default=[4096, 1024],
        help="for each number of candidates; or one number for all",
    )
    parser.add_argument("--sample", type=int, default=32, help="trees grown one at a time")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--simulations", type=int, default=8)
    parser.add_argument("--operations", type=int, nargs=2, default=[3, 8], metavar=("LEAST", "MOST"))
    parser.add_argument("--max-tokens", type=int, default=448, help="of a solution")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if not (options.model / "config.json").is_file():
        parser.error(
            f"there is no model in {options.model}: run `ponderosa run quickstart`, or name one by --model"
        )
    options.trees *= len(options.candidates) if len(options.trees) == 1 else 1
    if len(options.trees) != len(options.candidates):
        parser.error(
            f"--trees {options.trees}; allowed: one number, or one for each of --candidates {options.candidates}"
        )
    if not 2 <= options.sample <= min(options.trees):
        parser.error(f"--sample {options.sample}; allowed: 2 to --trees ({min(options.trees)})")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    engine, scorer = load_models(options)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for candidates, num_trees in zip(options.candidates, options.trees, strict=True):
            stage = Context(
                name="search",
                folder=Path(name) / str(candidates),
                inputs={},
                base=Path(),
                seed=0,
                device=options.device,
                dtype=options.dtype,
                workers=options.workers,
                progress=SILENT,
            )
            row = compare(
                build_search(options, candidates, num_trees, engine, scorer, stage), stage, options.sample
            )
            rows.append(row)
            print(
                f"{row['work']}: {row['ours']:.0f} tokens/s, {row['trees_per_s']:.2f} trees/s; one at a time "
                f"{row['theirs']:.0f} tokens/s, {row['their_trees_per_s']:.2f} trees/s ({row['sample']} trees, "
                f"{row['same_trees']} the same); {row['ratio']:.1f} times ({row['ratio_low']:.1f}-"
                f"{row['ratio_high']:.1f}), occupancy {row['occupancy']:.3f}",
                flush=True,
            )
    if options.json:
        kept = ("slots", "simulations", "operations", "max_tokens", "workers", "dtype")
        settings = {key: getattr(options, key) for key in kept}
        models = {
            "policy": engine.model_id,
            "reward_model": scorer.model_id,
            "threads": torch.get_num_threads(),
        }
        write_json(options.json, {"schema": 1, "settings": {**settings, **models}, "rows": rows})


if __name__ == "__main__":
    main()
