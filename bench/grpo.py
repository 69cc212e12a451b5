"""A GRPO step beside TRL 1.16: sample 8 prompts x 8 completions, reward, one update; a 3M-parameter model.

    python bench/grpo.py [--steps 6] [--repeats 3] [--json OUT]

Fairness: the same Llama, tokenizer, prompts, reward (a count of characters), AdamW, temperature 1, no reference model, one
update for each drawing, completions of at most 51 tokens (with random weights nearly all are that long). TRL samples
with transformers `generate` and runs without gradient checkpointing and logging, in float32 and in bfloat16; the
faster is the row's peer. Ours samples in float32 and updates in float32, as the `rl` stage does by default, or in
bfloat16, with everything that stage does: the journal of attempts on disk, log, checkpoint. Repeats are interleaved; rows show medians of the seconds for one step, the first step not counted.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ponderosa.artifacts import Journal, read_jsonl, write_json
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.native import NativeEngine
from ponderosa.formats import PLAIN_PROSE
from ponderosa.records import Verdict
from ponderosa.rewards.recipe import Component, RewardSum
from ponderosa.rewards.reward import RewardContext
from ponderosa.sandbox import Sandbox
from ponderosa.search.driver import build_context
from ponderosa.search.solution import Limits
from ponderosa.stages import rl
from ponderosa.stages.problem_sources import ProblemSource
from ponderosa.stages.training_stage import Learner
from ponderosa.tasks.registry import get_task
from ponderosa.training.loop import TrainConfig, train
from ponderosa.training.optim import OptimizerConfig, ScheduleConfig
from ponderosa.training.policy_loss import PolicyGradient
from ponderosa.training.tokenizer import train_tokenizer

PROMPTS, SAMPLES, MAX_TOKENS = 8, 8, 51
LR = 1e-5
PROBLEMS = list(get_task("quantities", Path()).generate(64, 0, "train", max_operations=2))
TOKENIZER = train_tokenizer([PLAIN_PROSE.render_plain(problem.question) for problem in PROBLEMS], 1024)
Contestant = Callable[[int], float]
"""Steps to do in; seconds for one of them, the first left out."""


def build_model() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1024,
            hidden_size=256,
            intermediate_size=576,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            attn_implementation="sdpa",
            bos_token_id=None,
            eos_token_id=TOKENIZER.eos_token_id,
            pad_token_id=TOKENIZER.pad_token_id,
        )
    )


def count_early_letters(text: str) -> float:
    return sum("a" <= character < "n" for character in text) / 100


def run_ponderosa(
    steps: int, *, share_prompts: bool = True, dtype: Literal["float32", "bfloat16"] = "float32"
) -> float:
    """The batch source and the loop of the `rl` stage."""
    config = rl.Config(
        sources=(ProblemSource(task="quantities", count=len(PROBLEMS)),),
        preset="grpo",
        iterations=steps,
        prompts=PROMPTS,
        samples=SAMPLES,
        temperature=rl.Annealing(start=1.0, end=1.0),
        dynamic_sampling=False,
        share_prompts=share_prompts,
        max_tokens=MAX_TOKENS,
        train=TrainConfig(
            optimizer=OptimizerConfig(name="adamw", learning_rate=LR),
            schedule=ScheduleConfig(name="constant"),
            dtype=dtype,
        ),
    )
    learner = Learner(build_model(), TOKENIZER, PLAIN_PROSE, HFCodec(TOKENIZER))
    engine = NativeEngine(
        learner.model, learner.codec, model_id="policy", num_slots=PROMPTS * SAMPLES, max_context=512
    )
    letters = Component("letters", 1.0, lambda attempt, verdict, context: count_early_letters(attempt.text))
    with (
        tempfile.TemporaryDirectory() as name,
        Sandbox(workers=1) as sandbox,
        Journal(Path(name) / "journal.jsonl") as journal,
    ):
        environment = rl.Environment(
            engine=engine,
            sandbox=sandbox,
            judge=lambda asked: [Verdict(False, "wrong_answer", "none@1")] * len(asked),
            context=build_context(engine, PLAIN_PROSE, limits=Limits(max_tokens=MAX_TOKENS)),
            rewards=RewardSum((letters,), RewardContext(MAX_TOKENS, PLAIN_PROSE)),
            num_threads=torch.get_num_threads(),
        )
        source = rl.build_source(config, learner, PROBLEMS, environment, journal, seed=0)
        loss = PolicyGradient(config.build_policy_gradient())
        train(learner.model, source, config.train, loss=loss, folder=Path(name), seed=0)
        entries = read_jsonl(Path(name) / "metrics.jsonl")
    return statistics.fmean(entry["step_tokens"] / entry["tokens_per_s"] for entry in entries[1:])


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ended_at: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended_at.append(time.perf_counter())


def run_trl(steps: int, *, bf16: bool) -> float:
    """GRPOTrainer, whose completions come from transformers `generate`."""
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as name:
        config = GRPOConfig(
            output_dir=name,
            use_cpu=True,
            bf16=bf16,
            gradient_checkpointing=False,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=MAX_TOKENS,
            max_steps=steps,
            learning_rate=LR,
            lr_scheduler_type="constant",
            temperature=1.0,
            loss_type="grpo",
            beta=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        prompts = [{"prompt": PLAIN_PROSE.render_plain(problem.question)} for problem in PROBLEMS]
        trainer = GRPOTrainer(
            model=build_model(),
            args=config,
            train_dataset=Dataset.from_list(prompts),
            processing_class=TOKENIZER,
            reward_funcs=lambda completions, **_: [count_early_letters(text) for text in completions],
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return (timer.ended_at[-1] - timer.ended_at[0]) / (steps - 1)


CONTESTANTS: dict[str, Contestant] = {
    "ponderosa, float32": lambda steps: run_ponderosa(steps),
    "ponderosa, float32, prompts written out": lambda steps: run_ponderosa(steps, share_prompts=False),
    "ponderosa, bfloat16 update": lambda steps: run_ponderosa(steps, dtype="bfloat16"),
    "TRL float32": lambda steps: run_trl(steps, bf16=False),
    "TRL bfloat16": lambda steps: run_trl(steps, bf16=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.repeats):
        for name, run in CONTESTANTS.items():
            seconds[name].append(run(arguments.steps))
            print(f"{name:40} {seconds[name][-1]:.2f} s a step", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peer = min((name for name in medians if name.startswith("TRL")), key=medians.__getitem__)
    rows = []
    for name in (name for name in medians if name.startswith("ponderosa")):
        ratios = [theirs / ours for ours, theirs in zip(seconds[name], seconds[peer], strict=True)]
        rows.append(
            {
                "work": f"GRPO step, {PROMPTS} prompts x {SAMPLES} completions"
                + name.removeprefix("ponderosa"),
                "peer": peer,
                "unit": "steps/s",
                "ours": 1 / medians[name],
                "theirs": 1 / medians[peer],
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "target": 4.0,
            }
        )
        print(f"{rows[-1]['work']}: {rows[-1]['ratio']:.1f} times {peer}")
    if arguments.json:
        write_json(arguments.json, {"schema": 1, "rows": rows})


if __name__ == "__main__":
    main()
