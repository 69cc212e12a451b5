"""The library: `load` a model, `solve` a question, `evaluate` on a suite, `run` a recipe.

import ponderosa
with ponderosa.load("path/to/model") as reasoner:
    print(reasoner.solve("Tom has 3 apples. Ana has 4 more apples than Tom. How many apples does Ana have?").answer)
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ponderosa.artifacts import Journal
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import build_engine, load_trunk
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import RequestError
from ponderosa.evaluation.protocol import evaluate_model
from ponderosa.evaluation.suites import load_suite
from ponderosa.evaluation.summary import RowContext, summarise
from ponderosa.formats import PromptFormat, get_format, load_format
from ponderosa.model_directory import check_model_directory
from ponderosa.pipeline import RunOptions, run_recipe
from ponderosa.planning import find_base, find_recipe, load_recipe
from ponderosa.progress import SILENT, Progress
from ponderosa.records import Attempt, Problem, Step
from ponderosa.sandbox import Sandbox
from ponderosa.search.driver import build_context, run_unit
from ponderosa.search.registry import check_reward_model, find_token_budget, get_strategy
from ponderosa.search.requests import SearchResult
from ponderosa.search.solution import Limits, SearchContext, Watch
from ponderosa.search.strategies import Strategy
from ponderosa.shown_trees import ShownTree, locate_ending
from ponderosa.stages.policy import describe_policy, load_scorer_for
from ponderosa.verify import Grader

DEFAULT_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True)
class Solution:
    """What a strategy settled on: the answer, the steps of the attempt it came from, and every attempt.

    tree: what it grew, if it grows a tree, with the place where the attempt ends.
    """

    answer: str | None
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    tree: ShownTree | None = None


class RewardModel(NamedTuple):
    """A loaded reward model and what results call it."""

    scorer: NativeScorer
    name: str


class Reasoner:
    """A loaded model with its sandbox and grader; a context manager."""

    def __init__(
        self,
        engine: NativeEngine,
        prompt_format: PromptFormat,
        name: str,
        workers: int,
        reward_model: RewardModel | None = None,
    ) -> None:
        self.engine = engine
        self.prompt_format = prompt_format
        self.name = name
        self.reward_model = reward_model
        self.sandbox = Sandbox(workers=workers)
        self.grader = Grader(num_workers=workers)

    def __enter__(self) -> "Reasoner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sandbox.close()
        self.grader.close()

    def solve(
        self,
        question: str,
        *,
        strategy: str = "greedy",
        samples: int = 8,
        search: Mapping[str, Any] | None = None,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int = 512,
        watch: Watch | None = None,
    ) -> Solution:
        """Solve one question; its code steps run in the sandbox. Raises RequestError if there is nothing to solve, or
        the strategy and the reward model do not go together.

        search: the strategy's own parameters (docs/search.md).
        watch: is told each time before the tree grows on, by strategies that grow one.
        """
        if not question.strip():
            raise RequestError('the question is empty; say what to solve, for example "What is 3 + 4?"')
        problem = Problem(question=question)
        context = replace(self._build_context(seed, temperature, max_tokens), watch=watch)
        chosen = self._get_strategy(strategy, samples, search)
        (result,) = run_unit(self.engine, self.sandbox, [problem], chosen, context, scorer=self._scorer)
        shown = result.chosen or result.attempts[0]
        if shown.finish == "error":
            raise RequestError(shown.error or "the engine refused the question")
        return Solution(result.answer, shown.steps, result.attempts, _show_tree(question, result))

    def evaluate(
        self,
        suite: str,
        *,
        strategy: str = "greedy",
        samples: int = 8,
        search: Mapping[str, Any] | None = None,
        limit: int | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int = 512,
        progress: Progress = SILENT,
    ) -> list[dict[str, Any]]:
        """Result rows of a suite (a name or FILE.jsonl): every metric and slice with its interval.

        search: the strategy's own parameters (docs/search.md). options: the task's own, as a recipe gives them in
        `options:`.
        """
        chosen = self._get_strategy(strategy, samples, search)
        started_at = time.monotonic()
        drawn = load_suite(suite, seed=seed, limit=limit, options=options, base=Path())
        for line in drawn.left_out:
            progress.say(f"left out {line}")
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
            graded = evaluate_model(
                self.engine,
                self.sandbox,
                self.grader,
                drawn,
                chosen,
                self._build_context(seed, temperature, max_tokens),
                journal,
                scorer=self._scorer,
                progress=progress,
            )
        context = RowContext(
            stage=self.name,
            model=self.name,
            model_id=self.engine.model_id,
            suite=suite,
            suite_hash=drawn.content_hash,
            strategy=strategy,
            reward_model=self.reward_model and self.reward_model.name,
            token_budget=find_token_budget(chosen),
            seed=seed,
            eval_s=time.monotonic() - started_at,
        )
        settled_from = chosen.num_attempts if chosen.settles else None
        return summarise(context, drawn.problems, graded, drawn.slice_keys, settled_from)

    @property
    def _scorer(self) -> NativeScorer | None:
        return self.reward_model and self.reward_model.scorer

    def _get_strategy(self, name: str, samples: int, parameters: Mapping[str, Any] | None) -> Strategy:
        strategy = get_strategy(name, samples, parameters)
        check_reward_model(strategy, is_given=self.reward_model is not None)
        return strategy

    def _build_context(self, seed: int, temperature: float | None, max_tokens: int) -> SearchContext:
        sampling = Sampling(temperature=DEFAULT_TEMPERATURE if temperature is None else temperature)
        limits = Limits(max_tokens=max_tokens)
        return build_context(
            self.engine,
            self.prompt_format,
            seed=seed,
            sampling=sampling,
            limits=limits,
            scorer=self._scorer,
        )


def _show_tree(question: str, result: SearchResult) -> ShownTree | None:
    if result.tree is None:
        return None
    chosen = None if result.chosen is None else locate_ending(result.tree, result.chosen.token_ids)
    return ShownTree(question, result.tree, chosen=chosen)


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    prompt_format: str | None = None,
    reward_model: str | Path | None = None,
    workers: int = 2,
) -> Reasoner:
    """Load a local model directory: safetensors only, no network, no remote code.

    prompt_format: a shipped format's name; default, the one the directory was saved with. reward_model: a directory of
    one that was trained from a model of the same family, for the strategies that use one.
    Raises DataError if a folder holds no model, ConfigError for an unknown format or device, or a reward model to which
    the model's token ids mean something else, or that is an adapter on a policy which is not to be found.
    """
    folder = Path(model)
    check_model_directory(folder)
    chosen = get_format(prompt_format) if prompt_format else load_format(folder)
    dtype = "float32" if dtype == "auto" else dtype
    trunk = load_trunk(folder, device=device, dtype=dtype)
    engine = build_engine(trunk)
    loaded = None
    if reward_model is not None:
        policy = describe_policy(load_codec(folder), chosen, engine.model_id)
        reward_dir = Path(reward_model)
        scorer = load_scorer_for(
            policy, reward_dir, where=str(reward_dir), device=device, dtype=dtype, in_use=trunk
        )
        loaded = RewardModel(scorer, reward_dir.name)
    return Reasoner(engine, chosen, folder.name, workers, loaded)


def solve(model: str | Path, question: str, **options: Any) -> Solution:
    """Solve one question with a model directory; options as in `Reasoner.solve`."""
    with load(model) as reasoner:
        return reasoner.solve(question, **options)


def evaluate(model: str | Path, suite: str, **options: Any) -> list[dict[str, Any]]:
    """Evaluate a model directory on a suite; options as in `Reasoner.evaluate`."""
    with load(model) as reasoner:
        return reasoner.evaluate(suite, **options)


def run(
    recipe: str | Path,
    *,
    assignments: Sequence[str] = (),
    out: str | Path | None = None,
    options: RunOptions | None = None,
) -> Path:
    """Run a recipe (a shipped name or a file); the path of its `summary.json`."""
    path = find_recipe(str(recipe))
    loaded = load_recipe(path, assignments)
    return run_recipe(
        loaded, find_base(path), Path(out or Path("runs") / loaded.name), options or RunOptions()
    )
