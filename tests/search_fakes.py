"""A sandbox that understands `print(number)`, `print(x)`, `fail()` and `loop()`, a reward model that is a function of the text, a
judge that is a function of the attempt, and a way to solve one problem."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ponderosa.engines.protocol import Scored
from ponderosa.engines.scripted import ByteCodec, ScriptedEngine
from ponderosa.formats import PLAIN_CODE, PromptFormat
from ponderosa.records import Attempt, Outcome, Problem, Verdict
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.requests import Judge
from ponderosa.search.solution import Limits
from ponderosa.search.strategies import Greedy

PROBLEM = Problem("What is 2 + 3?", "5")


@dataclass(frozen=True)
class FakeExecution:
    outcome: Outcome
    output: str
    error: str | None


class FakeSandbox:
    """Notes every request in the order it came."""

    def __init__(self) -> None:
        self.requests: list[tuple[tuple[str, ...], str]] = []
        self.batch_sizes: list[int] = []

    def execute_many(self, requests: Sequence[tuple[Sequence[str], str]]) -> list[FakeExecution]:
        self.batch_sizes.append(len(requests))
        self.requests += [(tuple(prefix), code) for prefix, code in requests]
        return [self._execute(prefix, code) for prefix, code in requests]

    def _execute(self, prefix: Sequence[str], code: str) -> FakeExecution:
        if "fail()" in code:
            return FakeExecution("error", "", "ValueError: failed")
        if "loop()" in code:
            return FakeExecution("timeout", "", "TimeoutError: 2 s")
        printed = re.search(r"print\((\w+)\)", code)
        if printed is None:
            return FakeExecution("ok", "", None)
        values = dict(step.split(" = ") for step in prefix if " = " in step)
        return FakeExecution("ok", values.get(printed[1], printed[1]) + "\n", None)


class FakeScorer:
    """Scores the text of a partial solution, prompt included; every token of it counts as scored."""

    model_id = "fake-scorer"
    max_context = 4096
    flops_per_token = 10.0

    def __init__(self, score_text: Callable[[str], float]) -> None:
        self.score_text = score_text
        self.batches: list[list[str]] = []
        self.num_resets = 0
        self._codec = ByteCodec()

    def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        texts = [self._codec.decode(sequence) for sequence in sequences]
        self.batches.append(texts)
        return [Scored(self.score_text(text), len(ids)) for text, ids in zip(texts, sequences, strict=True)]

    def reset(self) -> None:
        self.num_resets += 1


def judge_each(judge_one: Callable[[Problem, Attempt], Verdict]) -> Judge:
    """The judge of many attempts that judges each by itself."""

    def judge(asked: Sequence[tuple[Problem, Attempt]]) -> list[Verdict]:
        return [judge_one(problem, attempt) for problem, attempt in asked]

    return judge


def solve(
    script: Sequence[str] | ScriptedEngine,
    prompt_format: PromptFormat = PLAIN_CODE,
    limits: Limits | None = None,
) -> tuple[Attempt, ScriptedEngine, FakeSandbox]:
    """One greedy attempt at one problem."""
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    sandbox = FakeSandbox()
    context = build_context(engine, prompt_format, limits=limits)
    (result,) = run_searches(engine, sandbox, [PROBLEM], Greedy(), context)
    return result.attempts[0], engine, sandbox
