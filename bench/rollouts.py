"""Rollouts: the native engine beside transformers `generate`, same model, same dtype, same run.

    python bench/rollouts.py [--json OUT] [--dtype float32 bfloat16] [--threads 2] [--repeats 5]

Peer settings: one batch, its default dynamic cache, SDPA attention, inference mode, no compilation, tokens kept to
the last step for `even`; for `ragged`, where every sample has a length of its own, each row ends by a stopping
criterion at its length and `generate` returns when the longest is done; prompts of equal length, so no padding.
Both sides generate exactly the same number of useful tokens. Rounds alternate between the two; medians of rounds.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import GREEDY, GenerateRequest, Sampling
from ponderosa.engines.scripted import ByteCodec

VOCAB = 2048
PROMPT_TOKENS = 64
NEW_TOKENS = 128
NUM_PROMPTS = 128
TARGETS = {"even": 2.0, "ragged": 3.0}
SAMPLES = 8
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3 8q2kv": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, num_attention_heads=8, num_key_value_heads=2, head_dim=32)
    ),
    "llama 4q4kv": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=4)
    ),
}


class EndAtLength(StoppingCriteria):
    """Ends row b after lengths[b] new tokens."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.ends = torch.tensor(lengths) + PROMPT_TOKENS

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


class Workload:
    """Prompts with the number of tokens each is continued by."""

    def __init__(self, prompts: list[tuple[int, ...]], lengths: list[int], sampling: Sampling) -> None:
        self.prompts, self.lengths, self.sampling = prompts, lengths, sampling

    def run_native(self, engine: NativeEngine) -> None:
        engine.reset()
        for seed, (prompt, length) in enumerate(zip(self.prompts, self.lengths, strict=True)):
            engine.submit(GenerateRequest(prompt, length, seed, self.sampling))
        num_tokens = 0
        while engine.num_pending:
            num_tokens += sum(len(generation.token_ids) for _, generation in engine.tick())
        assert num_tokens == sum(self.lengths)

    def run_transformers(self, model: PreTrainedModel) -> None:
        ids = torch.tensor(self.prompts)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(self.lengths),
                do_sample=self.sampling.temperature > 0,
                top_k=0 if self.sampling.temperature > 0 else None,
                stopping_criteria=StoppingCriteriaList([EndAtLength(self.lengths)]),
                disable_compile=True,
            )
        assert output.shape[1] == PROMPT_TOKENS + max(self.lengths)


def build_workloads() -> dict[str, Workload]:
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(3, VOCAB) for _ in range(PROMPT_TOKENS)) for _ in range(NUM_PROMPTS)]
    shared = [prompts[i // SAMPLES] for i in range(NUM_PROMPTS)]
    ragged = [min(NEW_TOKENS, 16 + int(rng.expovariate(1 / 32))) for _ in range(NUM_PROMPTS)]
    ragged[rng.randrange(NUM_PROMPTS)] = NEW_TOKENS
    return {
        f"{NUM_PROMPTS} prompts x {NEW_TOKENS} tokens": Workload(prompts, [NEW_TOKENS] * NUM_PROMPTS, GREEDY),
        f"{NUM_PROMPTS // SAMPLES} prompts x {SAMPLES} samples, ragged": Workload(
            shared, ragged, Sampling(1.0)
        ),
    }


def measure(run: Callable[[], None], *, on_cpu_time: bool) -> float:
    clock = time.process_time if on_cpu_time else time.perf_counter
    start = clock()
    run()
    return clock() - start


def compare(
    model: PreTrainedModel, engine: NativeEngine, workload: Workload, repeats: int, *, on_cpu_time: bool
) -> dict[str, float]:
    sides = {
        "native": lambda: workload.run_native(engine),
        "transformers": lambda: workload.run_transformers(model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(repeats + 1):
        for name, run in sides.items():
            taken = measure(run, on_cpu_time=on_cpu_time)
            if round_number:
                seconds[name].append(taken)
    ratios = [peer / own for own, peer in zip(seconds["native"], seconds["transformers"], strict=True)]
    num_tokens = sum(workload.lengths)
    return {
        "ours": num_tokens / statistics.median(seconds["native"]),
        "theirs": num_tokens / statistics.median(seconds["transformers"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU seconds: for a busy machine, with --threads 1"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    rows = []
    print(f"{'work':34} {'model':12} {'dtype':9} {'native':>10} {'generate':>10} {'ratio':>6}  (rounds)")
    for name, build in MODELS.items():
        for dtype in arguments.dtype:
            torch.manual_seed(0)
            model = build().to(getattr(torch, dtype)).eval()
            context = PROMPT_TOKENS + NEW_TOKENS
            engine = NativeEngine(
                model, ByteCodec(), model_id="bench", num_slots=NUM_PROMPTS, max_context=context
            )
            for work, workload in build_workloads().items():
                figures = compare(model, engine, workload, arguments.repeats, on_cpu_time=arguments.cpu_time)
                label = {"work": f"rollouts, {work}, {name}, {dtype}", "peer": "transformers generate"}
                target = TARGETS["ragged" if "ragged" in work else "even"]
                rows.append({**label, "unit": "tokens/s", "target": target, **figures})
                print(
                    f"{work:34} {name:12} {dtype:9} {figures['ours']:10.0f} "
                    f"{figures['theirs']:10.0f} {figures['ratio']:6.2f}  "
                    f"({figures['ratio_low']:.2f}-{figures['ratio_high']:.2f})",
                    flush=True,
                )
    if arguments.json:
        settings = {
            "threads": arguments.threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        arguments.json.write_text(
            json.dumps({"schema": 1, "settings": settings, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
