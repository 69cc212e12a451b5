"""A policy whose next step is a function of the prompt's steps and the request's seed, and trees drawn as text."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from ponderosa.engines.protocol import GenerateRequest, Sampling
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.formats import PLAIN_CODE
from ponderosa.records import Attempt, Problem, Tree, Verdict
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.requests import Judge
from ponderosa.search.solution import Limits
from ponderosa.search.strategies import Searcher
from search_fakes import FakeSandbox, FakeScorer, judge_each

STEP = "<|end_of_step|>"
END = "<|endoftext|>"


class SeededPolicy(ScriptedEngine):
    """Each reply is drawn with the request's own seed, so the order of requests decides nothing.

    It writes `length` steps, of `num_texts` texts each with equal chance, and then an answer, the number of the last
    step's text; with chance `fail` a step fails, with chance `stop` a solution ends early.
    """

    def __init__(
        self, *, length: int = 2, num_texts: int = 4, fail: float = 0.0, stop: float = 0.0, **options: Any
    ) -> None:
        super().__init__([], **options)
        self._length, self._num_texts = length, num_texts
        self._fail, self._stop = fail, stop

    def _next_text(self, request: GenerateRequest) -> str:
        random = Random(request.seed)
        prompt = self.codec.decode(request.prompt_ids)
        number = random.randrange(self._num_texts)
        draw = random.random()
        if prompt.count(STEP) >= self._length or draw < self._stop:
            return f"So \\boxed{{{number}}}{END}"
        return f"fail(){STEP}" if draw > 1 - self._fail else f"x = {number}{STEP}"


@judge_each
def judge(problem: Problem, attempt: Attempt) -> Verdict:
    """Right, wrong, or killed."""
    if attempt.answer is None:
        return Verdict(False, "code_error", "fake@1")
    is_right = attempt.answer == problem.answer
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "fake@1")


def grow(
    searcher: Searcher,
    engine: ScriptedEngine | Mapping[str, Sequence[str]],
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    limits: Limits | None = None,
    scorer: FakeScorer | None = None,
    judge: Judge | None = judge,
) -> list[Any]:
    """What a searcher makes of each problem."""
    engine = engine if isinstance(engine, ScriptedEngine) else ScriptedEngine(engine)
    context = build_context(engine, PLAIN_CODE, seed=seed, sampling=Sampling(), limits=limits, scorer=scorer)
    return run_searches(engine, FakeSandbox(), problems, searcher, context, scorer=scorer, judge=judge)


def draw(tree: Tree) -> str:
    """A line for each node, under the one it continues: text, how often it was drawn, N, Q, and score and answer if any."""
    lines: list[str] = []

    def visit(parent: int | None, depth: int) -> None:
        for place, node in enumerate(tree.nodes):
            if node.parent != parent:
                continue
            line = f"{'  ' * depth}{node.step.text} x{node.multiplicity} N={node.visits} Q={node.value:+.2f}"
            line += "" if node.score is None else f" score={node.score:+.2f}"
            line += "" if node.answer is None else f" answer={node.answer}"
            lines.append(line)
            visit(place, depth + 1)

    visit(None, 0)
    return "\n".join(lines)
