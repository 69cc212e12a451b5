"""Adapters on disk: what is saved, on whose tensors it is loaded, and that no other policy is taken for the one it needs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from engine_models import draw_prompts, run_all
from ponderosa.adapter_directory import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from ponderosa.engines.loading import build_engine, load_scorer, load_trunk
from ponderosa.engines.protocol import GenerateRequest
from ponderosa.errors import ConfigError, DataError
from ponderosa.hash_cache import hash_directory
from ponderosa.lora import find_trained
from ponderosa.model_directory import load_model
from ponderosa.reward_model_directory import (
    REWARD_FILE,
    Calibration,
    RewardFile,
    load_reward_model,
    save_reward_file,
)
from ponderosa.training.output_head import build_shared_reward_model
from tiny_pairs import save_tiny_model
from tiny_training import TOKENIZER

FILE = RewardFile(kind="ppm", calibration=Calibration(scores=(-100.0, 100.0), values=(-1.0, 1.0)))
"""Raw scores divided by 100."""
PROMPTS = draw_prompts(8)


def build_adapted(policy: PreTrainedModel, rank: int = 4) -> PreTrainedModel:
    """A reward model on a policy, moved away from where training begins."""
    model = build_shared_reward_model(
        policy, rank=rank, alpha=8.0, pad_token_id=TOKENIZER.pad_token_id, seed=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in find_trained(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def save_run(root: Path, rank: int = 4) -> tuple[Path, PreTrainedModel]:
    """A run's folder with a policy, and an adapter on it; the adapter's directory and what was saved there."""
    policy = save_tiny_model(root / "stages" / "sft-1")
    adapted = build_adapted(load_model(policy / "model"), rank)
    folder = root / "stages" / "ppm-2" / "model"
    save_adapter(folder, adapted, policy / "model", rank=rank, alpha=8.0)
    save_reward_file(folder, FILE)
    return folder, adapted


def read(model: PreTrainedModel) -> list[float]:
    with torch.no_grad():
        return [float(model(torch.tensor([ids])).logits) for ids in PROMPTS]


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_adapter_scores_as_it_did_in_memory_wherever_the_run_is_moved(
    rank: int, tmp_path: Path
) -> None:
    folder, adapted = save_run(tmp_path / "here", rank)
    assert read(load_reward_model(folder).model) == read(adapted)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / folder.relative_to(tmp_path / "here")
    assert read(load_reward_model(moved).model) == read(adapted)
    assert str(tmp_path) not in (moved / CONFIG_FILE).read_text()
    scores = [100 * one.score for one in load_scorer(moved, "cpu").score(PROMPTS)]
    assert scores == pytest.approx(read(adapted), abs=1e-4)


def test_only_adapters_head_and_calibration_are_saved_under_the_names_of_peft(tmp_path: Path) -> None:
    folder, adapted = save_run(tmp_path)
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, REWARD_FILE}
    tensors = load_file(folder / WEIGHTS_FILE)
    assert len(tensors) == 2 * 7 * 2 + 1
    layer = "base_model.model.model.layers.1"
    assert tensors[f"{layer}.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert tensors[f"{layer}.mlp.gate_proj.lora_B.weight"].shape == (64, 4)
    assert torch.equal(tensors["base_model.model.score.weight"], adapted.score.weight)
    assert json.loads((folder / CONFIG_FILE).read_text()) == {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "../../sft-1/model",
        "revision": hash_directory(tmp_path / "stages" / "sft-1" / "model"),
        "r": 4,
        "lora_alpha": 8.0,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "modules_to_save": ["score"],
        "inference_mode": True,
    }


def test_the_scorer_reads_the_very_tensors_of_the_policys_engine_which_writes_as_before(
    tmp_path: Path,
) -> None:
    folder, adapted = save_run(tmp_path)
    elsewhere = tmp_path / "alone"
    shutil.move(folder, elsewhere)
    trunk = load_trunk(tmp_path / "stages" / "sft-1" / "model", device="cpu")
    requests = [GenerateRequest(ids, 12, seed=seed) for seed, ids in enumerate(PROMPTS)]
    before = run_all(build_engine(trunk, num_slots=4), requests)
    engine, scorer = build_engine(trunk, num_slots=4), load_scorer(elsewhere, "cpu", in_use=trunk)
    scored = scorer.score(PROMPTS)
    assert run_all(engine, requests) == before
    assert [100 * one.score for one in scored] == pytest.approx(read(adapted), abs=1e-4)

    owned = {one.data_ptr() for one in engine._model.get_decoder().state_dict().values()}
    inner = {
        name: one
        for name, one in scorer._model.named_parameters()
        if "lora_" not in name and name != "score.weight"
    }
    assert {one.data_ptr() for one in inner.values()} == owned
    assert len(inner) == len(owned)
    rest = sum(one.numel() for one in scorer._model.parameters()) - sum(one.numel() for one in inner.values())
    assert rest == sum(one.numel() for one in find_trained(adapted).values())


def test_beside_another_policy_the_one_it_names_is_loaded(tmp_path: Path) -> None:
    folder, adapted = save_run(tmp_path)
    other = load_trunk(save_tiny_model(tmp_path / "other", seed=1) / "model", device="cpu")
    model = load_reward_model(folder, in_use=other).model
    assert read(model) == read(adapted)
    assert {one.data_ptr() for one in other.model.parameters()}.isdisjoint(
        one.data_ptr() for one in model.parameters()
    )


def test_another_policy_in_its_place_or_none_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    sft = tmp_path / "stages" / "sft-1"
    wanted = hash_directory(sft / "model")
    shutil.rmtree(sft)
    with pytest.raises(ConfigError, match=rf"hash {wanted}; .*sft-1/model does not exist\. Use it with that"):
        load_scorer(folder, "cpu")
    seen = hash_directory(save_tiny_model(sft, seed=1) / "model")
    trunk = load_trunk(save_tiny_model(tmp_path / "other", seed=2) / "model", device="cpu")
    message = rf"hash {wanted}; .*holds {seen}, and the model in use, .*other/model, holds {trunk.model_id}"
    with pytest.raises(ConfigError, match=message):
        load_scorer(folder, "cpu", in_use=trunk)


def test_an_adapter_that_does_not_fit_or_means_something_else_is_refused(tmp_path: Path) -> None:
    folder, _ = save_run(tmp_path)
    edit_config(folder, r=2)
    with pytest.raises(DataError, match=r"lora_A\.weight has shape torch\.Size\(\[4, "):
        load_reward_model(folder)
    edit_config(folder, r=4, use_rslora=True)
    with pytest.raises(DataError, match="does not describe an adapter"):
        load_reward_model(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"")
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config["use_rslora"]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(DataError, match="does not load"):
        load_reward_model(folder)
