"""What must hold on an accelerator as it does on the CPU. `make test-gpu`; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from ponderosa.training.loop import FixedBatches, train
from tiny_training import build_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here"),
]


def test_training_in_float32_follows_the_same_loss_curve_as_on_the_cpu(tmp_path: Path) -> None:
    curves = []
    for device in ("cpu", "cuda"):
        model, batches, config = build_run()
        config = config.model_copy(update={"dtype": "float32"})
        result = train(model.to(device), FixedBatches(batches), config, folder=tmp_path / device, seed=0)
        curves.append(torch.tensor(result.losses))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-3, atol=1e-3)
