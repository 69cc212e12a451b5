"""What a stage needs that measures a model: its engine, reward models, a sandbox, a grader, a journal of finished units."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ponderosa.artifacts import Journal
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import build_engine, load_trunk
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scorer import NativeScorer
from ponderosa.evaluation.protocol import evaluate_model
from ponderosa.evaluation.suites import Suite
from ponderosa.formats import PromptFormat, load_format
from ponderosa.records import GradedAttempt
from ponderosa.sandbox import Sandbox
from ponderosa.search.driver import build_context
from ponderosa.search.solution import Limits
from ponderosa.search.strategies import Strategy
from ponderosa.stages.policy import describe_policy, load_scorer_for
from ponderosa.stages.stage import Context
from ponderosa.verify import Grader

MODEL = "model"


@dataclass(frozen=True, slots=True)
class Measuring:
    """A model with all that measuring it takes. scorers: reward models by the stages that trained them."""

    engine: NativeEngine
    scorers: Mapping[str, NativeScorer]
    prompt_format: PromptFormat
    sandbox: Sandbox
    grader: Grader
    journal: Journal
    context: Context

    def measure(
        self,
        suite: Suite,
        strategy: Strategy,
        *,
        sampling: Sampling,
        limits: Limits,
        reward_model: str | None = None,
        label: str | None = None,
    ) -> list[GradedAttempt]:
        """Every attempt at the suite, graded; of a strategy that settles on an answer, the chosen ones."""
        scorer = self.scorers[reward_model] if reward_model else None
        return evaluate_model(
            self.engine,
            self.sandbox,
            self.grader,
            suite,
            strategy,
            build_context(
                self.engine,
                self.prompt_format,
                seed=self.context.seed,
                sampling=sampling,
                limits=limits,
                scorer=scorer,
            ),
            self.journal,
            scorer=scorer,
            label=label,
            progress=self.context.progress,
        )


@contextmanager
def open_measuring(
    model: str, reward_models: Collection[str | None], context: Context, *, num_slots: int
) -> Iterator[Measuring]:
    """A stage's model, on the engine for the length of a block. Raises ConfigError if token ids mean something else to
    one of the reward models; None among these stands for none."""
    model_dir = context.inputs[model] / MODEL
    prompt_format = load_format(model_dir)
    dtype = "float32" if context.dtype == "auto" else context.dtype
    trunk = load_trunk(model_dir, device=context.device, dtype=dtype)
    engine = build_engine(trunk, num_slots=num_slots)
    policy = describe_policy(load_codec(model_dir), prompt_format, engine.model_id)
    scorers = {
        name: load_scorer_for(
            policy,
            context.inputs[name] / MODEL,
            where=name,
            device=context.device,
            dtype=dtype,
            in_use=trunk,
        )
        for name in reward_models
        if name
    }
    with (
        Sandbox(workers=context.workers) as sandbox,
        Grader(num_workers=context.workers) as grader,
        Journal(context.folder / "journal.jsonl") as journal,
    ):
        yield Measuring(engine, scorers, prompt_format, sandbox, grader, journal, context)
