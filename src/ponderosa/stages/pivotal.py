"""Pivotal tokens (Phi-4, arXiv 2412.08905, section 4.3): single tokens over which a model's chance of success changes.

    draw problems from tasks, or take those of solutions stages; none that is kept for reports
    for each unit of problems:  search them (`ponderosa.search.pivotal`), every rollout executed and graded; commit
    over all problems: test every candidate on its own fresh rollouts against |change of p| <= min_effect, adjust the
        p-values for a false-discovery rate, set each pivotal token against one drawn at the same prefix that moved p
        the other way

p is that of the model sampled as configured here, and the pairs are on-policy at this checkpoint alone: a `dpo` stage
takes them for no other. p before and after, their intervals and the test rest on the fresh rollouts only; those of the
question serve for its p and for the attempts that are searched, those of the screening for the choice of candidates.

Writes tokens.parquet (every candidate), pairs.parquet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from ponderosa.artifacts import write_table
from ponderosa.data.pair_rows import ScoredPair
from ponderosa.engines.loading import load_engine
from ponderosa.engines.protocol import Codec, Engine, Sampling
from ponderosa.errors import ConfigError
from ponderosa.evaluation.units import Record, commit_units, describe_setting
from ponderosa.formats import load_format
from ponderosa.identity import derive_seed
from ponderosa.ledger import Ledger
from ponderosa.progress import Progress
from ponderosa.records import Cost, Pair, Problem, to_record
from ponderosa.search.driver import build_context, run_unit
from ponderosa.search.pivotal import Candidate, FirstToken, PivotalSearch, SearchedProblem
from ponderosa.search.pivotal_findings import Finding, TokenPair, choose_pair, judge_candidates
from ponderosa.search.pivotal_statistics import Tally
from ponderosa.search.solution import Limits, SearchContext
from ponderosa.stages.labelling import open_labelling
from ponderosa.stages.pairs import save_pairs
from ponderosa.stages.problem_sources import ProblemConfig, draw_problems
from ponderosa.stages.stage import Context, Need, Outcome
from ponderosa.stages.training_stage import MODEL

VERSION = 4
TOKENS = "tokens.parquet"
UNIT_PROBLEMS = 8
"""Problems of a unit: one alone has some hundred rollouts to draw at a time, which fill the slots."""
SHOWN_TOKENS = 24
"""Tokens before a candidate that its row spells."""


class Config(ProblemConfig):
    """Which model, on which problems, and what counts as pivotal."""

    model: str = Field(description="stage whose model is searched; the pairs are for it alone")
    search: PivotalSearch = PivotalSearch()
    min_effect: float = Field(
        0.05, ge=0, lt=1, description="a token is pivotal if p is shown to change by more than this"
    )
    fdr: float = Field(
        0.1, gt=0, lt=1, description="share of false ones allowed among the tokens called pivotal"
    )
    min_count: int = Field(
        4, ge=1, description="fresh rollouts that must have begun with the other token of a pair"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 leaves nothing out")
    max_tokens: int = Field(256, ge=1, description="most new tokens of a solution, observations included")
    num_slots: int = Field(128, ge=1, description="solutions sampled at once")
    seed: int | None = Field(None, description="draws problems and solutions; unset takes the recipe's seed")

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *super().needs())


def run(config: Config, context: Context) -> Outcome:
    seed = context.seed if config.seed is None else config.seed
    model_dir = context.inputs[config.model] / MODEL
    problems, dropped = draw_problems(config, context, purpose="pivotal", seed=seed)
    engine = load_engine(
        model_dir,
        device=context.device,
        dtype="float32" if context.dtype == "auto" else context.dtype,
        num_slots=config.num_slots,
    )
    search_context = build_context(
        engine,
        load_format(model_dir),
        seed=derive_seed("pivotal", "sampling", seed),
        sampling=Sampling(config.temperature, top_p=config.top_p),
        limits=Limits(max_tokens=config.max_tokens),
    )
    max_rollouts = len(problems) * config.search.max_rollouts
    context.progress.say(f"{len(problems)} problems, at most {max_rollouts:,} rollouts")
    searched = search_problems(engine, problems, config.search, search_context, context)
    findings = judge_candidates(
        searched, min_effect=config.min_effect, fdr=config.fdr, p_gap=config.search.p_gap
    )
    pairs = [
        (finding, choose_pair(finding, min_count=config.min_count))
        for finding in findings
        if finding.is_pivotal
    ]
    if findings:
        write_table(context.folder / TOKENS, [describe_finding(one, engine.codec) for one in findings])
    scored = [build_pair(finding, pair) for finding, pair in pairs if pair is not None]
    facts = summarise_search(searched, findings)
    if not scored:
        raise ConfigError(
            f"{len(problems)} problems gave no pair: {facts}; ask more problems, of another difficulty, or raise "
            "search.n_screen and search.n_confirm"
        )
    save_pairs(context.folder, scored)
    left_out = Counter(one.left_out for one in searched if one.left_out)
    unpaired = {"no token at the prefix moved p the other way": len(pairs) - len(scored)}
    return Outcome(
        ledger=count_search(searched),
        kept=len(scored),
        dropped={**dropped, **left_out, **{reason: count for reason, count in unpaired.items() if count}},
        facts={"reference": engine.model_id, "max_rollouts": max_rollouts, **facts, "pairs": len(scored)},
    )


def search_problems(
    engine: Engine,
    problems: Sequence[Problem],
    search: PivotalSearch,
    search_context: SearchContext,
    context: Context,
    *,
    unit_problems: int = UNIT_PROBLEMS,
) -> list[SearchedProblem]:
    """What was found in every problem, committed in units; the attempts that were searched are not kept."""
    with open_labelling(context) as (sandbox, judge, journal):

        def solve(part: Sequence[Problem], progress: Progress) -> list[Record]:
            found = run_unit(engine, sandbox, part, search, search_context, judge=judge, progress=progress)
            return [to_record(replace(one, attempts=())) for one in found]

        records = commit_units(
            problems,
            solve,
            journal,
            setting=describe_setting([search.model_dump(mode="json")], search_context),
            unit_size=unit_problems,
            label=f"pivotal {context.name}",
            progress=context.progress,
        )
    return [parse_searched(record) for record in records]


def parse_searched(record: Record) -> SearchedProblem:
    """What `to_record` wrote, without attempts."""
    return SearchedProblem(
        **{
            **record,
            "question": Tally(*record["question"]),
            "attempts": (),
            "candidates": tuple(map(_parse_candidate, record["candidates"])),
            "cost": Cost(**record["cost"]),
        }
    )


def _parse_candidate(record: Record) -> Candidate:
    return Candidate(
        **{
            **record,
            "prefix_ids": tuple(record["prefix_ids"]),
            "screened": tuple(Tally(*one) for one in record["screened"]),
            "confirmed": tuple(Tally(*one) for one in record["confirmed"]),
            "alternatives": tuple(
                FirstToken(token_id, logprob, Tally(*tally))
                for token_id, logprob, tally in record["alternatives"]
            ),
        }
    )


def build_pair(finding: Finding, tokens: TokenPair) -> ScoredPair:
    """Two tokens that may follow one prefix, scored by the engine as it drew them."""
    pair = Pair(
        problem_id=finding.problem_id,
        prompt_ids=finding.candidate.prefix_ids,
        chosen_ids=(tokens.chosen.token_id,),
        rejected_ids=(tokens.rejected.token_id,),
        chosen_weights=(1.0,),
        rejected_weights=(1.0,),
    )
    return ScoredPair(pair, (tokens.chosen.logprob,), (tokens.rejected.logprob,))


def describe_finding(finding: Finding, codec: Codec) -> dict[str, Any]:
    """A candidate as a row: where it is, what the fresh rollouts say of p before and after it, and its test."""
    candidate = finding.candidate
    row: dict[str, Any] = {
        "problem_id": finding.problem_id,
        "sample": candidate.sample,
        "position": candidate.position,
        "token_id": candidate.token_id,
        "token": codec.decode([candidate.token_id]),
        "written": codec.decode(candidate.prefix_ids[-SHOWN_TOKENS:]),
        "logprob": candidate.logprob,
        "change": finding.change,
        "p_value": finding.p_value,
        "adjusted_p": finding.adjusted_p,
        "is_pivotal": finding.is_pivotal,
        "by_truncation": finding.by_truncation,
        "cancels_neighbour": finding.cancels_neighbour,
    }
    for place, side in enumerate(("before", "after")):
        tally = candidate.confirmed[place]
        row |= {f"p_{side}": tally.rate, f"p_{side}_finished": tally.finished_rate}
        row |= {f"p_{side}_low": tally.interval.low, f"p_{side}_high": tally.interval.high}
        row[f"truncated_{side}"] = tally.truncated_frac
        for phase, counts in (("screen", candidate.screened[place]), ("confirm", tally)):
            row |= {f"{phase}_{side}_{name}": count for name, count in counts._asdict().items()}
    return row


def summarise_search(searched: Sequence[SearchedProblem], findings: Sequence[Finding]) -> dict[str, Any]:
    """What was spent, phase by phase, what was found, and what the budget left undone."""
    num_rollouts: Counter[str] = Counter()
    num_truncated: Counter[str] = Counter()
    for one in searched:
        num_rollouts.update(one.num_rollouts)
        num_truncated.update(one.num_truncated)
    return {
        "problems": len(searched),
        "searched": sum(one.left_out is None for one in searched),
        "rollouts": dict(num_rollouts),
        "truncated_frac": {phase: num_truncated[phase] / count for phase, count in num_rollouts.items()},
        "candidates": len(findings),
        "pivotal": sum(one.is_pivotal for one in findings),
        "pivotal_by_truncation_alone": sum(one.by_truncation for one in findings),
        "cancel_a_neighbour": sum(one.cancels_neighbour for one in findings),
        "segments_left_whole": sum(one.num_unsplit for one in searched),
        "tokens_left_untested": sum(one.num_unconfirmed for one in searched),
    }


def count_search(searched: Sequence[SearchedProblem]) -> Ledger:
    """What all rollouts cost."""
    total = sum((one.cost for one in searched), Cost())
    return Ledger(
        prompt_tokens=total.prompt_tokens,
        prefill_tokens=total.prefill_tokens,
        generated_tokens=total.generated_tokens,
        executions=total.executions,
        eval_flops=total.flops,
    )
