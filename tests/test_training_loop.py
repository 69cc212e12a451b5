"""The optimizer loop: resuming, logging, refusing."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

from ponderosa.data.packing import build_batches
from ponderosa.data.rows import build_row
from ponderosa.errors import DataError, NonFiniteLoss
from ponderosa.training import loop
from ponderosa.training.checkpoints import CHECKPOINT_FILE
from ponderosa.training.loop import METRICS_FILE, FixedBatches, TrainConfig, identify_row, train
from ponderosa.training.optim import OptimizerConfig, ScheduleConfig
from tiny_training import build_run, build_tiny_model, draw_documents


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def kill_after_steps(folder: Path, num_steps: int, rank: int = 0) -> None:
    """Start the tiny run in another process and SIGKILL it once it has logged that many steps."""
    script = Path(__file__).with_name("tiny_training.py")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(rank)], env=environment)
    log = folder / METRICS_FILE
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / CHECKPOINT_FILE).exists() and len(log.read_bytes().splitlines()) >= num_steps:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


@pytest.mark.parametrize("rank", [0, 4], ids=["whole model", "adapters"])
def test_a_run_killed_and_continued_equals_one_left_alone_bit_for_bit(tmp_path: Path, rank: int) -> None:
    model, batches, config = build_run(rank=rank)
    expected = train(model, FixedBatches(batches), config, folder=tmp_path / "alone", seed=0)

    kill_after_steps(tmp_path / "killed", num_steps=5, rank=rank)
    resumed, _, config = build_run(checkpoint_every_s=0.0, rank=rank)
    result = train(resumed, FixedBatches(batches), config, folder=tmp_path / "killed", seed=0)

    assert 0 < len(result.losses) == len(batches)
    assert result.losses == expected.losses
    assert result.ledger.train_flops == expected.ledger.train_flops
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert [line["step"] for line in read_log(tmp_path / "killed")] == list(range(1, len(batches) + 1))


def test_lines_logged_after_the_checkpoint_are_cut_off_on_resuming(tmp_path: Path) -> None:
    model, batches, config = build_run()
    train(model, FixedBatches(batches), config, folder=tmp_path, seed=0)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 99, "loss"')
    result = train(build_tiny_model(seed=1), FixedBatches(batches), config, folder=tmp_path, seed=0)
    assert len(result.losses) == len(read_log(tmp_path)) == len(batches)


def test_checkpoints_come_soon_at_first_and_then_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches, config = build_run(checkpoint_every_s=6.0)
    rows, seconds, saved = list(batches) * 4, count(), []
    monkeypatch.setattr(loop, "save_checkpoint", lambda *arguments: saved.append(arguments[-1].step))
    monkeypatch.setattr(
        loop.time, "monotonic", lambda: next(seconds)
    )  # a step asks three times, saving once more

    train(model, FixedBatches(rows), config, folder=tmp_path, seed=0)

    gaps = [later - earlier for earlier, later in pairwise([0, *saved[:-1]])]
    assert gaps[0] == 1
    assert gaps == sorted(gaps)
    assert set(gaps[2:]) == {2}
    assert saved[-1] == len(rows)


def test_a_finished_run_restores_its_model_without_training_again(tmp_path: Path) -> None:
    model, batches, config = build_run()
    train(model, FixedBatches(batches), config, folder=tmp_path, seed=0)
    fresh = build_tiny_model(seed=1)
    train(fresh, FixedBatches(batches), config, folder=tmp_path, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model, batches, config = build_run()
    train(model, FixedBatches(batches[:2]), config, folder=tmp_path, seed=0)
    with pytest.raises(DataError, match="another configuration"):
        train(model, FixedBatches(batches[:2]), config, folder=tmp_path, seed=1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_training_lowers_the_loss(tmp_path: Path, name: str) -> None:
    rows = draw_documents(4)
    batches = build_batches(rows, tokens_per_step=1000, seed=0, epochs=30)
    config = TrainConfig(optimizer=OptimizerConfig(name=name), schedule=ScheduleConfig(name="cosine"))
    losses = train(build_tiny_model(), FixedBatches(batches), config, folder=tmp_path, seed=0).losses
    assert losses[-1] < 0.7 * losses[0]


def test_a_non_finite_loss_names_the_step_and_the_rows(tmp_path: Path) -> None:
    model = build_tiny_model()
    rows = draw_documents(3)
    batches = [tuple(rows[:2]), tuple(rows[2:])]
    train(model, FixedBatches(batches), TrainConfig(), folder=tmp_path / "fine", seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[rows[0].token_ids[0]] = torch.nan
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*" + identify_row(rows[0])):
        train(model, FixedBatches(batches), TrainConfig(), folder=tmp_path / "broken", seed=0)


def test_a_step_without_any_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="step 1 carries loss"):
        train(
            build_tiny_model(),
            FixedBatches([(build_row([1, 2, 3], [False] * 3),)]),
            TrainConfig(),
            folder=tmp_path,
            seed=0,
        )
