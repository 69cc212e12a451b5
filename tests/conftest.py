"""Shared fixtures. Tests need no network and no GPU."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of real benchmarks: $PONDEROSA_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PONDEROSA_DATA", default))
    if not (folder / "gsm8k_test.jsonl").exists():
        pytest.skip("benchmark data not found: set PONDEROSA_DATA to its folder")
    return folder
