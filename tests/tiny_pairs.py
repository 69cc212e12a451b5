"""A model and the folder of a rollout stage that asked it, small enough to pair and train on in a test."""

import random
from dataclasses import asdict
from pathlib import Path

from ponderosa.artifacts import write_json
from ponderosa.engines.codec import load_codec
from ponderosa.formats import PLAIN_CODE
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import save_model
from ponderosa.records import Attempt, Cost, GradedAttempt, Problem, Verdict
from ponderosa.stages.attempt_tables import save_graded, save_problems
from ponderosa.stages.policy import describe_policy
from ponderosa.stages.rollout import ATTEMPTS, POLICY, PROBLEMS, VERDICTS
from tiny_training import TOKENIZER, build_tiny_model


def save_tiny_model(folder: Path, *, seed: int = 0, context: int = 64) -> Path:
    """A stage folder that holds a tiny model."""
    save_model(folder / "model", build_tiny_model(seed, context=context), TOKENIZER, PLAIN_CODE)
    return folder


def save_tiny_rollouts(folder: Path, model: Path, *, num_problems: int = 8, samples: int = 6) -> Path:
    """Rollouts of that model as a rollout stage leaves them, a third of them correct; no engine is asked."""
    source = random.Random(0)
    codec = load_codec(model / "model")
    problems = [Problem(f"Ann has {n} apples. Ben has 3.", str(n)) for n in range(num_problems)]
    graded = []
    for problem in problems:
        prompt = tuple(codec.encode_prompt(PLAIN_CODE, problem.question))
        for sample in range(samples):
            is_correct = sample % 3 == 0
            written = codec.encode(f"\n{source.randrange(100)}") + codec.encode(" Ben" * source.randint(1, 3))
            observed = codec.encode(f" {sample}")
            token_ids = (*written, *observed, codec.eos_id)
            sampled = (*[True] * len(written), *[False] * len(observed), True)
            attempt = Attempt(
                problem_id=problem.id,
                sample=sample,
                prompt_ids=prompt,
                token_ids=token_ids,
                sampled=sampled,
                model_logprobs=(0.0,) * len(token_ids),
                sampling_logprobs=(0.0,) * len(token_ids),
                finish="stop",
                text="",
                steps=(),
                answer=None,
                answer_key=None,
                cost=Cost(),
                strategy="sample",
                model_id="m",
                seed=0,
            )
            reason = "correct" if is_correct else "wrong_answer"
            graded.append(GradedAttempt(attempt, Verdict(is_correct, reason, "answer@1")))
    save_problems(folder / PROBLEMS, problems)
    save_graded(folder / ATTEMPTS, folder / VERDICTS, graded)
    policy = describe_policy(codec, PLAIN_CODE, hash_directory(model / "model"))
    write_json(folder / POLICY, asdict(policy))
    return folder
