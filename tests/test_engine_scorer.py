"""The native scorer against transformers' own forward pass of the same classifier."""

import random
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from engine_models import ARCHITECTURES, LONGROPE, SHAPE, draw_prompts
from ponderosa.engines.loading import load_scorer
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PLAIN_CODE
from ponderosa.model_directory import save_model
from ponderosa.reward_model_directory import Calibration, RewardFile, save_reward_file
from tiny_training import TOKENIZER

Sequences = list[tuple[int, ...]]
AS_IT_IS = Calibration(scores=(-100.0, 100.0), values=(-1.0, 1.0))
"""Raw scores divided by 100."""


def build_classifier(architecture: str, **overrides: object) -> PreTrainedModel:
    config_class, _, extra = ARCHITECTURES[architecture]
    config: PreTrainedConfig = config_class(**{**SHAPE, **extra, **overrides}, num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


def build_scorer(model: PreTrainedModel, **options: object) -> NativeScorer:
    return NativeScorer(model, AS_IT_IS, **{"model_id": "tiny", "max_context": 192, **options})


def score_raw(scorer: NativeScorer, sequences: Sequences) -> list[float]:
    return [100 * scored.score for scored in scorer.score(sequences)]


def score_by_transformers(model: PreTrainedModel, sequences: Sequences) -> list[float]:
    with torch.inference_mode():
        return [float(model(torch.tensor([sequence])).logits) for sequence in sequences]


def write_solutions(num_problems: int, num_steps: int = 4) -> list[Sequences]:
    """Partial solutions of each problem: its prompt, then each step added to those before it."""
    prompts = draw_prompts(num_problems, low=10, high=40)
    steps = [draw_prompts(num_steps, low=2, high=15, seed=1 + seed) for seed in range(num_problems)]
    return [
        list(accumulate([prompt, *tails], lambda a, b: a + b))
        for prompt, tails in zip(prompts, steps, strict=True)
    ]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gemma2"])
def test_scores_equal_those_of_transformers_whether_cached_or_not(architecture: str) -> None:
    model = build_classifier(architecture)
    solutions = write_solutions(6)
    expected = score_by_transformers(model, [part for parts in solutions for part in parts])
    assert max(expected) - min(expected) > 0.5
    scorer = build_scorer(model)
    step_by_step = [score_raw(scorer, list(level)) for level in zip(*solutions, strict=True)]
    by_solution = [score for scores in zip(*step_by_step, strict=True) for score in scores]
    at_once = score_raw(build_scorer(model), [part for parts in solutions for part in parts])
    assert by_solution == pytest.approx(expected, abs=1e-4)
    assert at_once == pytest.approx(expected, abs=1e-4)


def test_only_what_was_added_is_computed_and_counted() -> None:
    scorer = build_scorer(build_classifier("qwen3"))
    parts = write_solutions(1)[0]
    added = [len(parts[0]), *(len(b) - len(a) for a, b in pairwise(parts))]
    assert [scorer.score([part])[0].scored_tokens for part in parts] == added
    assert [scored.scored_tokens for scored in scorer.score(parts)] == [0] * len(parts)
    scorer.reset()
    assert [scored.scored_tokens for scored in scorer.score(parts)] == [0] * (len(parts) - 1) + [sum(added)]


def test_siblings_share_the_prefix_they_continue() -> None:
    model = build_classifier("llama")
    scorer = build_scorer(model)
    (parent,) = draw_prompts(1, low=30, high=31)
    children = [(*parent, token, 5, 6) for token in range(10, 18)]
    fresh = scorer.score(children)
    assert sum(scored.scored_tokens for scored in fresh) == 30 + 8 * 3
    assert [100 * scored.score for scored in fresh] == pytest.approx(
        score_by_transformers(model, children), abs=1e-4
    )
    grandchildren = [(*child, 7) for child in children]
    assert [scored.scored_tokens for scored in scorer.score(grandchildren)] == [1] * 8


def test_a_score_does_not_depend_on_what_is_scored_beside_it() -> None:
    model = build_classifier("qwen3")
    sequences = [part for parts in write_solutions(5) for part in parts]
    alone = [score_raw(build_scorer(model), [sequence])[0] for sequence in sequences]
    shuffled = random.Random(0).sample(range(len(sequences)), len(sequences))
    together = score_raw(build_scorer(model), [sequences[index] for index in shuffled])
    assert together == pytest.approx([alone[index] for index in shuffled], abs=1e-5)


def test_any_mixture_of_shared_prefixes_and_evictions_gives_the_scores_of_a_fresh_pass() -> None:
    model = build_classifier("llama")
    scorer = build_scorer(model, num_rows=3)
    rng = random.Random(0)
    known: Sequences = draw_prompts(4, low=20, high=30)
    for _ in range(5):
        tails = draw_prompts(7, low=1, high=12, seed=rng.randrange(1000))
        sequences = [(*rng.choice(known)[: rng.randrange(9, 30)], *tail) for tail in tails]
        sequences += [rng.choice(sequences), rng.choice(sequences)[:10], rng.choice(known)]
        assert score_raw(scorer, sequences) == pytest.approx(
            score_by_transformers(model, sequences), abs=1e-4
        )
        known = sequences[:5]


def test_a_sequence_past_the_longrope_threshold_is_scored_by_the_long_factors_alone() -> None:
    model = build_classifier("phi3", **LONGROPE)
    scorer = build_scorer(model, max_context=60)
    (longest,) = draw_prompts(1, low=50, high=51)
    sequences = [longest[:length] for length in (12, 20, 24, 25, 33, 50)]
    expected = score_by_transformers(model, sequences)
    assert score_raw(scorer, sequences) == pytest.approx(expected, abs=1e-4)
    assert [score_raw(scorer, [one])[0] for one in sequences] == pytest.approx(expected, abs=1e-4)


def test_scores_are_calibrated_by_the_monotone_map() -> None:
    model = build_classifier("llama")
    sequences = draw_prompts(12)
    raw = score_by_transformers(model, sequences)
    low, high = sorted(raw)[3], sorted(raw)[8]
    calibration = Calibration(scores=(low, high), values=(-0.5, 0.75))
    scorer = NativeScorer(model, calibration, model_id="tiny", max_context=192)
    for value, scored in zip(raw, scorer.score(sequences), strict=True):
        share = min(1, max(0, (value - low) / (high - low)))
        assert scored.score == pytest.approx(-0.5 + 1.25 * share, abs=1e-4)


def test_what_does_not_fit_is_refused_and_never_cut() -> None:
    scorer = build_scorer(build_classifier("llama"), max_context=20)
    fitting, too_long = (5,) * 20, (5,) * 21
    assert scorer.score([fitting])[0].scored_tokens == 20
    with pytest.raises(ConfigError, match="21 tokens does not fit the reward model's context of 20"):
        scorer.score([fitting, too_long])
    for wrong in ((), (5, SHAPE["vocab_size"])):
        with pytest.raises(ConfigError, match="is empty or holds token ids outside"):
            scorer.score([wrong])


def test_a_reset_forgets_what_was_computed_with_older_weights() -> None:
    model = build_classifier("llama")
    scorer = build_scorer(model)
    sequences = draw_prompts(3, low=20)
    scorer.score(sequences)
    with torch.no_grad():
        model.score.weight.mul_(-1)
    scorer.reset()
    assert score_raw(scorer, sequences) == pytest.approx(score_by_transformers(model, sequences), abs=1e-4)


def test_a_directory_is_loaded_with_its_calibration_and_known_by_its_content(tmp_path: Path) -> None:
    model = build_classifier("qwen3", vocab_size=512)
    save_model(tmp_path, model, TOKENIZER, PLAIN_CODE)
    save_reward_file(tmp_path, RewardFile(kind="ppm", calibration=AS_IT_IS))
    scorer = load_scorer(tmp_path, "cpu", "float32")
    sequences = draw_prompts(4)
    assert score_raw(scorer, sequences) == pytest.approx(score_by_transformers(model, sequences), abs=1e-4)
    assert scorer.flops_per_token > 0
    half = load_scorer(tmp_path, "cpu", "bfloat16")
    assert score_raw(half, sequences) == pytest.approx(score_by_transformers(model, sequences), abs=0.3)
    save_reward_file(tmp_path, RewardFile(kind="orm", calibration=AS_IT_IS))
    assert load_scorer(tmp_path, "cpu").model_id != scorer.model_id == half.model_id
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        load_scorer(tmp_path, "cpu", "int8")


def test_a_model_the_scorer_cannot_run_is_refused_by_name() -> None:
    overrides = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    with pytest.raises(DataError, match="LlamaForSequenceClassification"):
        build_scorer(build_classifier("llama", **overrides))
