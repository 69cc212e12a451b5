"""Isolated code steps per second, end to end, beside a fresh `python -I` process per step, in one run.

    python bench/sandbox.py [--rounds N] [--workers N] [--json OUT]

Each round times the peer and then each way of using the sandbox, so that a busy machine slows both; the figures
are medians over rounds. The peer runs with as many processes at once as the sandbox has workers, and does less:
it has no limits and no confinement, only a namespace of its own. Every step of ours is checked for its output.
The last row sets two ways of ours beside one another: a step that continues a prefix, and prefix and step as one.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from ponderosa.sandbox import Sandbox, Tier, tiers_available

STEP = "# Tom has 4 more apples than Bo.\nbo = {number}\ntom = bo + 4\nprint(tom)"
NUM_STEPS = {"monty": 2000, "cpython": 200}
NUM_PEER_STEPS = 30
STEPS_PER_SOLUTION = 5
TARGET = 100.0


def measure_peer(workers: int) -> float:
    """Steps per second of one `python -I` process per step."""

    def run_step(number: int) -> None:
        code = STEP.format(number=number)
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == f"{number + 4}\n"

    with ThreadPoolExecutor(workers) as threads:
        began = perf_counter()
        list(threads.map(run_step, range(NUM_PEER_STEPS)))
        return NUM_PEER_STEPS / (perf_counter() - began)


def measure_fresh(sandbox: Sandbox, num_steps: int) -> float:
    """Steps per second, each in a namespace of its own."""
    solutions = [[STEP.format(number=number)] for number in range(num_steps)]
    began = perf_counter()
    results = sandbox.run_many(solutions)
    seconds = perf_counter() - began
    assert [steps[0].output for steps in results] == [f"{number + 4}\n" for number in range(num_steps)]
    return num_steps / seconds


def measure_solutions(sandbox: Sandbox, num_steps: int) -> float:
    """Steps per second in solutions of several steps, each solution in a namespace of its own."""
    solutions = [
        [STEP.format(number=number)] * STEPS_PER_SOLUTION for number in range(num_steps // STEPS_PER_SOLUTION)
    ]
    began = perf_counter()
    results = sandbox.run_many(solutions)
    seconds = perf_counter() - began
    assert all(len(steps) == STEPS_PER_SOLUTION for steps in results)
    return num_steps / seconds


def measure_search(sandbox: Sandbox, num_steps: int) -> float:
    """Steps per second when each continues the state of a prefix that was run before, as search does."""
    prefixes = [(STEP.format(number=number),) for number in range(num_steps // 4)]
    sandbox.execute_many([((), prefix[0]) for prefix in prefixes])
    requests = [(prefix, f"print(tom * {sibling})") for prefix in prefixes for sibling in range(4)]
    began = perf_counter()
    results = sandbox.execute_many(requests)
    seconds = perf_counter() - began
    assert all(result.outcome == "ok" for result in results)
    return len(requests) / seconds


def measure_continued(sandbox: Sandbox, num_steps: int) -> float:
    """Steps per second when each continues a prefix of several steps, which the sandbox keeps or runs again."""
    prefix = (STEP.format(number=1),) * STEPS_PER_SOLUTION
    sandbox.execute_many([(prefix, "print(tom)")])
    began = perf_counter()
    results = sandbox.execute_many([(prefix, f"print(tom * {number})") for number in range(num_steps)])
    seconds = perf_counter() - began
    assert [result.output for result in results] == [f"{5 * number}\n" for number in range(num_steps)]
    return num_steps / seconds


def measure_whole(sandbox: Sandbox, num_steps: int) -> float:
    """The same steps per second when each is the last of a solution that holds the prefix."""
    prefix = [STEP.format(number=1)] * STEPS_PER_SOLUTION
    began = perf_counter()
    results = sandbox.run_many([[*prefix, f"print(tom * {number})"] for number in range(num_steps)])
    seconds = perf_counter() - began
    assert [steps[-1].output for steps in results] == [f"{5 * number}\n" for number in range(num_steps)]
    return num_steps / seconds


MEASURES: dict[str, Callable[[Sandbox, int], float]] = {
    "fresh step": measure_fresh,
    f"{STEPS_PER_SOLUTION}-step solution": measure_solutions,
    "step after a prefix": measure_search,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    tiers: list[Tier] = [tier for tier, problem in tiers_available().items() if problem is None]
    peers: list[float] = []
    ours: dict[str, list[float]] = {f"{tier}, {name}": [] for tier in tiers for name in MEASURES}
    sandboxes = {tier: Sandbox(tiers=(tier,), workers=options.workers) for tier in tiers}
    for tier, sandbox in sandboxes.items():
        measure_fresh(sandbox, NUM_STEPS[tier] // 10)  # start every worker
    continued: list[float] = []
    whole: list[float] = []
    for _ in range(options.rounds):
        peers.append(measure_peer(options.workers))
        continued.append(measure_continued(sandboxes["monty"], NUM_STEPS["monty"]))
        whole.append(measure_whole(sandboxes["monty"], NUM_STEPS["monty"]))
        for tier, sandbox in sandboxes.items():
            for name, measure in MEASURES.items():
                ours[f"{tier}, {name}"].append(measure(sandbox, NUM_STEPS[tier]))
    for sandbox in sandboxes.values():
        sandbox.close()
    print("name, ours (steps/s), peer: python -I per step (steps/s), ratio")
    rows = []
    for name, rates in ours.items():
        ratio = statistics.median(rate / peer for rate, peer in zip(rates, peers, strict=True))
        row = {
            "work": f"isolated code steps: {name}",
            "peer": "python -I per step",
            "unit": "steps/s",
            "ours": statistics.median(rates),
            "theirs": statistics.median(peers),
            "ratio": ratio,
            "target": TARGET if name.startswith("monty") else None,
        }
        print(f"{name}, {row['ours']:.0f}, {row['theirs']:.1f}, {ratio:.0f}x")
        rows.append(row)
    rows.append(
        {
            "work": f"a step after {STEPS_PER_SOLUTION} cheap ones, as search asks for it",
            "peer": "the six as one solution",
            "unit": "steps/s",
            "ours": statistics.median(continued),
            "theirs": statistics.median(whole),
            "ratio": statistics.median(a / b for a, b in zip(continued, whole, strict=True)),
            "target": None,
        }
    )
    print(f"{rows[-1]['work']}: {rows[-1]['ratio']:.1f} times {rows[-1]['peer']}")
    if options.json:
        settings = {"workers": options.workers, "rounds": options.rounds}
        options.json.write_text(
            json.dumps({"schema": 1, "settings": settings, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
