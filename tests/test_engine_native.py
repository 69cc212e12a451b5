"""The native engine against transformers and against a direct forward pass."""

import random

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel

from engine_models import (
    ARCHITECTURES,
    LONGROPE,
    NumberCodec,
    build_engine,
    build_tiny_model,
    draw_prompts,
    run_all,
)
from ponderosa.engines.protocol import GenerateRequest, Sampling
from ponderosa.errors import DataError
from test_engine_sampling import truncate_by_reference


def compute_logits(model: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits at every position from one uncached pass, [T, V]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.float()


def generate_greedy(
    model: PreTrainedModel, prompts: list[tuple[int, ...]], num_tokens: int
) -> list[tuple[int, ...]]:
    """What transformers generates for a batch padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=num_tokens, do_sample=False
        )
    return [tuple(row) for row in output[:, width:].tolist()]


def assert_greedy(model: PreTrainedModel, prompt: tuple[int, ...], new_ids: tuple[int, ...]) -> None:
    """Every new token is the likeliest one, or within 1e-4 of it."""
    logits = compute_logits(model, prompt + new_ids)[len(prompt) - 1 : -1]
    gaps = logits.amax(dim=-1) - logits[torch.arange(len(new_ids)), list(new_ids)]
    assert float(gaps.max()) < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_equal_those_of_transformers_generate(architecture: str) -> None:
    model = build_tiny_model(architecture)
    model.generation_config.eos_token_id = None
    prompts = draw_prompts(6)
    replies = run_all(build_engine(model), [GenerateRequest(prompt, 64, seed=0) for prompt in prompts])
    for prompt, reply, expected in zip(prompts, replies, generate_greedy(model, prompts, 64), strict=True):
        assert len(reply.token_ids) == 64
        if reply.token_ids != expected:
            assert_greedy(model, prompt, reply.token_ids)


def test_tokens_do_not_depend_on_what_else_is_in_the_batch() -> None:
    model = build_tiny_model("qwen3")
    sampling = Sampling(temperature=1.0, top_p=0.9)
    requests = [
        GenerateRequest(prompt, 12, seed=i, sampling=sampling) for i, prompt in enumerate(draw_prompts(6))
    ]
    together = run_all(build_engine(model, num_slots=3), requests)
    alone = [run_all(build_engine(model), [request])[0] for request in requests]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]


def test_the_same_requests_give_the_same_replies_after_a_reset() -> None:
    engine = build_engine(build_tiny_model("llama"), num_slots=4)
    requests = [GenerateRequest(p, 20, seed=i, sampling=Sampling()) for i, p in enumerate(draw_prompts(12))]
    first = run_all(engine, requests)
    engine.reset()
    assert run_all(engine, requests) == first


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7), Sampling(0.8, top_p=0.8), Sampling(1.3, top_k=5, min_p=0.1)]
)
def test_both_log_probabilities_equal_a_direct_forward_pass(sampling: Sampling) -> None:
    model = build_tiny_model("qwen3")
    prompts = draw_prompts(4)
    requests = [GenerateRequest(prompt, 16, seed=i, sampling=sampling) for i, prompt in enumerate(prompts)]
    for prompt, reply in zip(prompts, run_all(build_engine(model), requests), strict=True):
        logits = compute_logits(model, prompt + reply.token_ids)[len(prompt) - 1 : -1]
        chosen = torch.tensor(reply.token_ids)[:, None]
        model_logprobs = logits.log_softmax(-1).gather(1, chosen).squeeze(1)
        drawn_from = truncate_by_reference(logits / sampling.temperature, sampling).log_softmax(-1)
        sampling_logprobs = drawn_from.gather(1, chosen).squeeze(1)
        torch.testing.assert_close(torch.tensor(reply.model_logprobs), model_logprobs, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            torch.tensor(reply.sampling_logprobs), sampling_logprobs, atol=1e-4, rtol=0
        )


def test_other_seeds_give_other_samples_and_greedy_ignores_the_seed() -> None:
    engine = build_engine(build_tiny_model("llama"))
    (prompt,) = draw_prompts(1)
    samples = run_all(engine, [GenerateRequest(prompt, 16, seed=i, sampling=Sampling()) for i in range(6)])
    assert len({reply.token_ids for reply in samples}) == 6
    assert (
        len(
            {reply.token_ids for reply in run_all(engine, [GenerateRequest(prompt, 16, i) for i in range(3)])}
        )
        == 1
    )


def test_samples_of_one_prompt_share_its_prefill() -> None:
    engine = build_engine(build_tiny_model("llama"))
    prompt = draw_prompts(1, low=30, high=31)[0]
    replies = run_all(engine, [GenerateRequest(prompt, 4, seed=i) for i in range(8)])
    assert [reply.prefill_tokens for reply in replies] == [30] + [1] * 7
    assert len({reply.token_ids for reply in replies}) == 1


def test_a_prompt_that_continues_a_finished_request_computes_only_what_is_new() -> None:
    model = build_tiny_model("qwen3")
    engine = build_engine(model, num_slots=4)
    firsts = [
        GenerateRequest(p, 10, seed=0, stop_ids=frozenset(range(3, 60))) for p in draw_prompts(7, low=20)
    ]
    prompts = [
        (*request.prompt_ids, *reply.token_ids, 5, 6, 7)
        for request, reply in zip(firsts, run_all(engine, firsts), strict=True)
    ]
    continued = run_all(engine, [GenerateRequest(prompt, 20, seed=0) for prompt in prompts])
    fresh = run_all(build_engine(model), [GenerateRequest(prompt, 20, seed=0) for prompt in prompts])
    assert [reply.token_ids for reply in continued] == [reply.token_ids for reply in fresh]
    assert [reply.prefill_tokens for reply in continued] == [4] * 7


def test_any_mixture_of_shared_prefixes_and_evictions_gives_the_tokens_of_a_fresh_prefill() -> None:
    model = build_tiny_model("llama")
    engine = build_engine(model, num_slots=3, num_retained=2)
    rng = random.Random(0)
    known = draw_prompts(3, low=20, high=30)
    for _ in range(4):
        prompts = []
        for tail in draw_prompts(6, low=1, high=9, seed=rng.randrange(1000)):
            base = rng.choice(known)
            prompts.append((*base[: rng.randrange(10, len(base) + 1)], *tail))
        prompts += [rng.choice(prompts), rng.choice(known)]
        replies = run_all(
            engine, [GenerateRequest(prompt, rng.randrange(2, 12), seed=0) for prompt in prompts]
        )
        for prompt, reply in zip(prompts, replies, strict=True):
            assert_greedy(model, prompt, reply.token_ids)
        known = [(*p, *reply.token_ids) for p, reply in zip(prompts, replies, strict=True) if len(p) < 90]


def test_a_reset_forgets_what_was_computed_with_older_weights() -> None:
    model = build_tiny_model("llama")
    engine = build_engine(model)
    requests = [GenerateRequest(prompt, 8, seed=0) for prompt in draw_prompts(3, low=20)]
    run_all(engine, requests)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))
        for parameter in model.model.layers.parameters():
            parameter.mul_(0.5)
    engine.reset()
    assert run_all(engine, requests) == run_all(build_engine(model), requests)


def test_a_copy_in_another_dtype_follows_the_weights_on_reset() -> None:
    model = build_tiny_model("llama")
    engine = build_engine(model, dtype=torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    engine.reset()
    requests = [GenerateRequest(prompt, 8, seed=0) for prompt in draw_prompts(3)]
    assert run_all(engine, requests) == run_all(build_engine(model, dtype=torch.bfloat16), requests)
    assert model.dtype == torch.float32


def test_an_impossible_request_is_an_error_for_itself_alone() -> None:
    engine = build_engine(build_tiny_model("llama"), max_context=32)
    good = GenerateRequest((5, 6, 7), 4, seed=0)
    bad = [
        GenerateRequest((5,) * 32, 4, seed=0),
        GenerateRequest((), 4, seed=0),
        GenerateRequest((5, 96), 4, seed=0),
        GenerateRequest((5,), 0, seed=0),
    ]
    first, *refused, last = run_all(engine, [good, *bad, good])
    assert first.finish == last.finish == "length"
    assert first.token_ids == last.token_ids
    assert [reply.finish for reply in refused] == ["error"] * 4
    assert refused[0].error == "a prompt of 32 tokens leaves no room in a context of 32"


def test_generation_ends_at_the_context() -> None:
    engine = build_engine(build_tiny_model("llama"), max_context=32)
    (reply,) = run_all(engine, [GenerateRequest((5,) * 20, 64, seed=0)])
    assert (len(reply.token_ids), reply.finish) == (12, "length")


def test_a_stop_id_is_kept_and_ends_the_generation() -> None:
    engine = build_engine(build_tiny_model("llama"))
    prompt = draw_prompts(1)[0]
    (whole,) = run_all(engine, [GenerateRequest(prompt, 24, seed=0)])
    stop = whole.token_ids[10]
    (cut,) = run_all(engine, [GenerateRequest(prompt, 24, seed=0, stop_ids=frozenset({stop}))])
    first = whole.token_ids.index(stop)
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert cut.finish == "stop"


def test_a_stop_string_ends_the_generation_where_it_ends() -> None:
    engine = build_engine(build_tiny_model("llama"))
    prompt = draw_prompts(1)[0]
    sampling = Sampling()
    (whole,) = run_all(engine, [GenerateRequest(prompt, 24, seed=0, sampling=sampling)])
    stop = NumberCodec().decode(whole.token_ids[7:10])
    (cut,) = run_all(engine, [GenerateRequest(prompt, 24, 0, sampling=sampling, stop_strings=(stop,))])
    assert cut.token_ids == whole.token_ids[:10]
    assert cut.finish == "stop"


def test_more_requests_than_slots_are_refilled_and_compacted() -> None:
    model = build_tiny_model("llama")
    engine = build_engine(model, num_slots=8, num_retained=8)
    lengths = [3 + 4 * (i % 6) for i in range(40)]
    prompts = draw_prompts(40)
    replies = run_all(engine, [GenerateRequest(p, n, seed=0) for p, n in zip(prompts, lengths, strict=True)])
    assert [len(reply.token_ids) for reply in replies] == lengths
    for prompt, reply in zip(prompts, replies, strict=True):
        assert_greedy(model, prompt, reply.token_ids)
    assert 0.75 < engine.occupancy <= 1


def test_longrope_rows_switch_factors_one_by_one() -> None:
    model = build_tiny_model("phi3", **LONGROPE)
    prompts = draw_prompts(8, low=4, high=40)
    engine = build_engine(model, num_slots=5, max_context=60)
    for prompt, reply in zip(
        prompts, run_all(engine, [GenerateRequest(p, 12, 0) for p in prompts]), strict=True
    ):
        for t, token in enumerate(reply.token_ids):
            last = compute_logits(model, prompt + reply.token_ids[:t])[-1]
            assert float(last.max() - last[token]) < 1e-4, (len(prompt), t)


def test_the_model_is_given_back_as_it_was() -> None:
    model = build_tiny_model("qwen3", attn_implementation="sdpa").train()
    run_all(build_engine(model), [GenerateRequest((5, 6), 4, seed=0)])
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    loss = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "model",
    [
        MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, state_size=4)),
        build_tiny_model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    ],
)
def test_a_model_the_engine_cannot_run_is_refused_by_name(model: PreTrainedModel) -> None:
    with pytest.raises(DataError, match=type(model).__name__):
        build_engine(model)
