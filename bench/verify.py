"""Verdicts per second and wrong verdicts, beside math-verify in the same run.

Plain numbers: GSM8K-like integers, decimals and fractions, half of them wrong. Mixed LaTeX: the labelled pairs of
tests/data/grader_cases.jsonl that are answers rather than solutions, without the hostile ones. The peer is math-verify's
`parse` of both sides and `verify`, answers wrapped in dollar signs as its README advises, its time limits on (they
cost nothing while they do not strike). Both run in one process, one pair at a time; our symbolic workers are started
before the clock. The labels of the second set follow docs/grading.md, so what the peer gets wrong there is partly
a difference of conventions.

    python bench/verify.py [--json OUT]
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from math_verify import parse, verify

from ponderosa.verify import Grader
from ponderosa.verify.reading import read_form

ROUNDS = 3
NUM_PLAIN = 300
TARGETS = {"plain": 20.0, "latex": 3.0}
WORK = {"plain": "verdicts, plain numbers", "latex": "verdicts, mixed LaTeX"}
_CASES = Path(__file__).parent.parent / "tests" / "data" / "grader_cases.jsonl"
_NOT_ANSWERS = ("extraction", "hostile")

Pair = tuple[str, str, bool]


def build_plain(num_pairs: int, seed: int) -> list[Pair]:
    """Integers, money with cents and fractions; every second candidate is off by one in the numerator."""
    rng = random.Random(seed)
    pairs: list[Pair] = []
    for index in range(num_pairs):
        value, denominator, equal = (
            rng.randint(-999, 99_999),
            rng.choice((1, 1, 1, 4, 7, 100)),
            index % 2 == 0,
        )
        given = value if equal else value + 1
        if denominator == 100:
            pairs.append((f"{value / 100:.2f}", f"{given / 100:.2f}", equal))
        elif denominator == 1:
            pairs.append((str(value), str(given), equal))
        else:
            pairs.append((f"{value}/{denominator}", f"{given}/{denominator}", equal))
    return pairs


def load_latex() -> list[Pair]:
    cases = [json.loads(line) for line in _CASES.read_text("utf-8").split("\n") if line]
    return [(c["gold"], c["candidate"], c["equal"]) for c in cases if c["topic"] not in _NOT_ANSWERS]


def grade_with_peer(gold: str, candidate: str) -> bool:
    try:
        return bool(verify(parse(f"${gold}$"), parse(f"${candidate}$")))
    except Exception:  # a peer that fails on a pair has not called it equal
        return False


def measure(grade: Callable[[str, str], bool], pairs: list[Pair]) -> tuple[float, int, int]:
    """Seconds per pair, false positives, false negatives."""
    read_form.cache_clear()  # every round reads every answer anew
    start = time.perf_counter()
    verdicts = [grade(gold, candidate) for gold, candidate, _ in pairs]
    seconds = (time.perf_counter() - start) / len(pairs)
    wrong = [verdict for verdict, pair in zip(verdicts, pairs, strict=True) if verdict is not pair[2]]
    return seconds, sum(wrong), len(wrong) - sum(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = []
    with Grader() as grader:
        assert grader.grade(r"\sum_{k=1}^n k", r"\sum_{k=1}^n j").reason  # starts the workers
        ours: Callable[[str, str], bool] = lambda gold, candidate: grader.grade(gold, candidate).correct  # noqa: E731
        for name, pairs in (("plain", build_plain(NUM_PLAIN, seed=1)), ("latex", load_latex())):
            grade_with_peer("1", "1")
            rounds = [(measure(ours, pairs), measure(grade_with_peer, pairs)) for _ in range(ROUNDS)]
            own_s, peer_s = (median(each[side][0] for each in rounds) for side in (0, 1))
            rows.append(
                {
                    "work": WORK[name],
                    "peer": "math-verify",
                    "unit": "verdicts/s",
                    "n": len(pairs),
                    "ours": round(1 / own_s, 1),
                    "theirs": round(1 / peer_s, 1),
                    "ratio": round(median(each[1][0] / each[0][0] for each in rounds), 1),
                    "target": TARGETS[name],
                    "our_wrong": dict(zip(("positive", "negative"), rounds[0][0][1:], strict=True)),
                    "their_wrong": dict(zip(("positive", "negative"), rounds[0][1][1:], strict=True)),
                }
            )
    for row in rows:
        print(json.dumps(row))
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
