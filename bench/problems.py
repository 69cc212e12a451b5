"""Word problems drawn per second, beside reasoning-gym's `gsm_symbolic`, on one core in one run.

    python bench/problems.py [--rounds N] [--count N] [--json OUT]

Each round times the peer and then `quantities` over 1-6 operations, each split in turn, so that a busy machine
slows all; figures are medians over rounds. A problem counts with its question, answer, worked prose solution and
graph, its split decided; nothing is executed. The peer writes question and answer, at its default difficulty.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

import reasoning_gym

from ponderosa.tasks.quantities.task import QUANTITIES

MAX_OPERATIONS = 6
MIN_OPERATIONS = {"train": 1, "test": 1, "structural": 2}
"""By split: shapes of one operation are never structural."""
TARGET_PER_S = 2_000
"""What is aimed at is a rate: the peer fills templates and works nothing out."""
NUM_PEER_PROBLEMS = 300


def measure_peer(count: int, seed: int) -> float:
    """Problems per second of reasoning-gym's gsm_symbolic."""
    began = perf_counter()
    dataset = reasoning_gym.create_dataset("gsm_symbolic", size=count, seed=seed)
    num_drawn = sum(1 for _ in islice(iter(dataset), count))
    assert num_drawn == count
    return count / (perf_counter() - began)


def measure_quantities(split: str, count: int, seed: int) -> float:
    """Problems per second of one split of `quantities`, difficulties drawn evenly."""
    began = perf_counter()
    problems = QUANTITIES.generate(
        count, seed, split, min_operations=MIN_OPERATIONS[split], max_operations=MAX_OPERATIONS
    )
    num_drawn = sum(1 for _ in problems)
    assert num_drawn == count
    return count / (perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    measure_peer(10, seed=0)
    measure_quantities("train", 10, seed=0)
    peers: list[float] = []
    ours: dict[str, list[float]] = {split: [] for split in MIN_OPERATIONS}
    for number in range(options.rounds):
        peers.append(measure_peer(NUM_PEER_PROBLEMS, number))
        for split, rates in ours.items():
            rates.append(measure_quantities(split, options.count, number))
    print("name, ours (problems/s), peer: reasoning-gym gsm_symbolic (problems/s), ratio")
    rows = []
    for split, rates in ours.items():
        ratio = statistics.median(rate / peer for rate, peer in zip(rates, peers, strict=True))
        low = MIN_OPERATIONS[split]
        row = {
            "work": f"problems drawn: {split}, {low}-{MAX_OPERATIONS} operations",
            "peer": "reasoning-gym gsm_symbolic",
            "unit": "problems/s",
            "ours": statistics.median(rates),
            "theirs": statistics.median(peers),
            "ratio": ratio,
            "target": None,
        }
        print(f"{split}, {row['ours']:.0f}, {row['theirs']:.0f}, {ratio:.2f}x")
        rows.append(row)
    if options.json:
        settings = {"rounds": options.rounds, "count": options.count, "target_per_s": TARGET_PER_S}
        options.json.write_text(
            json.dumps({"schema": 1, "settings": settings, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
