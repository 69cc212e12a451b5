"""Pivotal tokens found and falsely called so, on policies whose chance of success is known after every token.

    python bench/pivotal.py [--problems N] [--seed N] [--json OUT]

The policies are tests/planted_policy.py's: planted tokens change p by 0.3, all others by at most 0.05; p often goes
back and forth. Ours is the search at its defaults with 96 fresh rollouts a side, a minimum effect of 0.05 and a
false-discovery rate of 0.1. The peers are run by the same code: `recursion alone` is Phi-4's (no split of segments
whose ends agree), confirmed as ours is; `10 rollouts` calls a token pivotal when p changes by 0.2 in ten rollouts
a prefix, untested, the defaults of the one public implementation (codelion/pts). Nothing is timed and no model is
asked, so the figures are the same on every machine. Neighbours that cancel are counted apart.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ponderosa.engines.protocol import Sampling
from ponderosa.formats import PLAIN_PROSE
from ponderosa.metrics import compute_wilson_interval
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.pivotal import PivotalSearch, SearchedProblem
from ponderosa.search.pivotal_findings import Finding, choose_pair, judge_candidates

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import planted_policy as planting

NUM_PROBLEMS = 64
MIN_EFFECT, FDR, MIN_COUNT = 0.05, 0.1, 4
OURS = PivotalSearch(n_confirm=96)
PEERS = {
    "recursion alone": PivotalSearch(n_confirm=96, max_nats=None),
    "10 rollouts": PivotalSearch(n_screen=10, n_confirm=2, p_gap=0.2, max_nats=None),
}


@dataclass(frozen=True)
class Score:
    """Tokens by what they are and whether they were called pivotal."""

    planted: int
    found: int
    called: int
    false: int
    cancelling: int
    cancelling_found: int
    rollouts: int
    pairs: int
    pairs_right: int


class NoSandbox:
    """The policies write no code."""

    def execute_many(self, requests: Sequence[Any]) -> list[Any]:
        raise AssertionError("nothing to execute")


def measure(search: PivotalSearch, num_problems: int, seed: int, *, is_tested: bool) -> Score:
    """One search over all problems, compared with the truth."""
    planted = planting.plant_problems(num_problems, seed=seed)
    engine = planting.PlantedEngine(planted)
    context = build_context(engine, PLAIN_PROSE, sampling=Sampling(), seed=seed)
    context = replace(context, read_answer=planting.read_answer)
    problems = planting.build_problems(planted)
    searched: list[SearchedProblem] = run_searches(
        engine, NoSandbox(), problems, search, context, judge=planting.judge
    )
    findings = judge_candidates(searched, min_effect=MIN_EFFECT, fdr=FDR, p_gap=search.p_gap)
    called = [one for one in findings if one.is_pivotal or not is_tested]
    keys = {find_key(one) for one in called}
    truth = planting.know_truth(planted, [one.attempt for found in searched for one in found.attempts])
    pairs = [
        (one, pair)
        for one in called
        if is_tested and (pair := choose_pair(one, min_count=MIN_COUNT)) is not None
    ]
    phases = ("question", "screen", *["confirm"] * is_tested)
    return Score(
        planted=len(truth.pivotal),
        found=len(keys & truth.pivotal),
        called=len(keys),
        false=len(keys - truth.pivotal - truth.cancelling),
        cancelling=len(truth.cancelling),
        cancelling_found=len(keys & truth.cancelling),
        rollouts=sum(one.num_rollouts.get(phase, 0) for one in searched for phase in phases),
        pairs=len(pairs),
        pairs_right=sum(
            read_p(planted, one, pair.chosen.token_id) > read_p(planted, one, pair.rejected.token_id)
            for one, pair in pairs
        ),
    )


def find_key(finding: Finding) -> planting.Key:
    return finding.problem_id, (*finding.candidate.prefix_ids[1:], finding.candidate.token_id)


def read_p(planted: Sequence[planting.PlantedProblem], finding: Finding, token_id: int) -> float:
    """The true p behind a token at a finding's prefix."""
    token_ids = (*finding.candidate.prefix_ids[1:], token_id)
    return planted[int(finding.problem_id)].compute_values((*token_ids, 0, 0))[-1]


def build_rows(ours: Score, peers: dict[str, Score]) -> list[dict[str, Any]]:
    """Each figure in per cent beside each peer's; none for what was not planted."""
    figures = {
        "planted pivotal tokens found": lambda one: (one.found, one.planted),
        "true ones among tokens called pivotal": lambda one: (one.called - one.false, one.called),
        "planted neighbours that cancel found": lambda one: (one.cancelling_found, one.cancelling),
    }
    rows = []
    for work, count in figures.items():
        if not count(ours)[1]:
            continue
        interval = compute_wilson_interval(*count(ours))
        for peer, theirs in peers.items():
            shares = [100 * hits / max(1, total) for hits, total in (count(ours), count(theirs))]
            rows.append(
                {
                    "work": work,
                    "peer": peer,
                    "unit": "%",
                    "ours": round(shares[0], 1),
                    "theirs": round(shares[1], 1),
                    "ratio": round(shares[0] / max(shares[1], 1e-9), 2),
                    "target": None,
                    "n": count(ours)[1],
                    "their_n": count(theirs)[1],
                    "low": round(100 * interval.low, 1),
                    "high": round(100 * interval.high, 1),
                    "rollouts": ours.rollouts,
                    "their_rollouts": theirs.rollouts,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=NUM_PROBLEMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    ours = measure(OURS, options.problems, options.seed, is_tested=True)
    peers = {
        name: measure(search, options.problems, options.seed, is_tested=search.n_confirm > 2)
        for name, search in PEERS.items()
    }
    rows = build_rows(ours, peers)
    print("figure, ours (%), peer (%), peer")
    for row in rows:
        print(f"{row['work']} (n = {row['n']}), {row['ours']}, {row['theirs']}, {row['peer']}")
    print(f"{ours.pairs_right} of {ours.pairs} pairs prefer the better token; {ours.rollouts:,} rollouts")
    if options.json:
        settings = {
            "problems": options.problems,
            "seed": options.seed,
            "min_effect": MIN_EFFECT,
            "fdr": FDR,
            "budget": options.problems * OURS.max_rollouts,
            "pairs": ours.pairs,
            "pairs_right": ours.pairs_right,
        }
        options.json.write_text(
            json.dumps({"schema": 1, "settings": settings, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
