"""Rewards: the paper's numbers, properties of length, hacks through the real grader, a user's own."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.engines.scripted import EOS, ScriptedEngine
from ponderosa.errors import ConfigError, InvalidReward, RequestError
from ponderosa.formats import CHAT_CODE, PLAIN_CODE, PLAIN_PROSE, PromptFormat, get_format
from ponderosa.records import Attempt, Cost, Finish, Problem, Step, Verdict
from ponderosa.rewards import RewardConfig, RewardContext, RewardSum, build_reward_sum, hash_rewards
from ponderosa.rewards.accuracy import CosineAccuracy, LengthAwareAccuracy
from ponderosa.rewards.faults import find_fault
from ponderosa.rewards.repetition import Repetition
from ponderosa.rewards.work import computes_its_answer, reasons_in_prose
from ponderosa.sandbox import Sandbox
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.solution import Limits
from ponderosa.search.strategies import Greedy
from ponderosa.tasks.quantities.task import QUANTITIES
from ponderosa.verify import Grader, verdict_for

PAPER = RewardContext(31_744, PLAIN_CODE)
RIGHT, WRONG = Verdict(True, "correct", "answer@1"), Verdict(False, "wrong_answer", "answer@1")
HONEST_STEPS = (Step("x = 3 + 4\nprint(x)", "x = 3 + 4\nprint(x)", "7", "ok"),)


def build_attempt(
    token_ids: Any = range(100),
    sampled: Any = None,
    *,
    steps: tuple[Step, ...] = HONEST_STEPS,
    finish: Finish = "stop",
    answer: str | None = "7",
    text: str = "x = 3 + 4\nprint(x)",
) -> Attempt:
    """A well-formed code solution of so many tokens, all different unless given."""
    token_ids = tuple(token_ids)
    zeros = (0.0,) * len(token_ids)
    sampled = (True,) * len(token_ids) if sampled is None else tuple(sampled)
    return Attempt(
        *("p1", 0, (1, 2), token_ids, sampled, zeros, zeros, finish, text, steps, answer, answer),
        *(Cost(), "greedy", "m", 0),
    )


def build_sum(*uses: str | dict[str, Any], context: RewardContext = PAPER, base: Path = Path()) -> RewardSum:
    configs = [RewardConfig(use=use) if isinstance(use, str) else RewardConfig(**use) for use in uses]
    return build_reward_sum(configs, context, base)


# The paper's numbers


@pytest.mark.parametrize(
    ("verdict", "num_tokens", "expected"),
    [
        (RIGHT, 0, 1.0),
        (RIGHT, 25_600, 1.0),
        (RIGHT, 28_672, 0.75),
        (RIGHT, 31_744, 0.5),
        (WRONG, 0, -1.0),
        (WRONG, 1_851, -0.75),
        (WRONG, 3_702, -0.5),
        (WRONG, 31_744, -0.5),
    ],
)
def test_length_aware_accuracy_has_the_papers_values(
    verdict: Verdict, num_tokens: int, expected: float
) -> None:
    assert LengthAwareAccuracy()(build_attempt(range(num_tokens)), verdict, PAPER) == pytest.approx(expected)


@pytest.mark.parametrize("verdict", [RIGHT, WRONG])
def test_overrides_do_not_depend_on_the_answer(verdict: Verdict) -> None:
    reward = LengthAwareAccuracy()
    assert reward(build_attempt(range(31_744), finish="length"), verdict, PAPER) == -0.5
    assert reward(build_attempt(range(9_000), steps=(Step("x = 3"),)), verdict, PAPER) == -1.0


def test_a_short_solution_whose_room_was_filled_by_output_earns_what_a_wrong_one_does() -> None:
    printed = build_attempt(range(31_744), [t < 1_851 for t in range(31_744)], finish="length")
    assert LengthAwareAccuracy()(printed, WRONG, PAPER) == pytest.approx(-0.75)


def test_repetition_has_the_values_of_its_formula() -> None:
    def compute(token_ids: list[int]) -> float:
        return Repetition()(build_attempt(token_ids), WRONG, PAPER)

    assert compute([1, 2, 3, 4, 5] * 5) == 0.0  # no 5-gram occurs more than five times
    assert compute([1, 2, 3, 4, 5] * 6) == -1.0  # one occurs six times and fills it
    assert compute([1, 2, 3, 4, 5] * 6 + list(range(6, 76))) == pytest.approx(-6 / (100 / 5))
    assert compute([7] * 10) == -1.0  # five times one token overlaps itself; cut at 1
    # Six distinct 5-grams of 105 occur six times each: their share, 6 / 105, is less than 6 / (109 / 5).
    looped = [token for turn in range(6) for token in [*range(1, 11), 100 + turn]]
    assert compute([*looped, *range(200, 243)]) == pytest.approx(-6 / (109 / 5))
    assert compute([]) == compute([1, 2]) == 0.0
    interrupted = build_attempt([1, 2, 3, 4, 5, 0] * 6, [True, True, True, True, True, False] * 6)
    assert Repetition()(interrupted, WRONG, PAPER) == -1.0


def test_the_papers_sum_weighs_accuracy_eight_to_one() -> None:
    score = build_sum("phi4_reasoning_plus").score(build_attempt([1, 2, 3, 4, 5] * 6), RIGHT)
    assert score.components == {"length_aware_accuracy": 1.0, "repetition": -1.0}
    assert score.total == pytest.approx(8 / 13 - 1 / 13)
    assert build_sum("phi4_reasoning_plus").score(build_attempt(), RIGHT).total == pytest.approx(
        0.6154, abs=1e-4
    )


# Length

lengths = st.integers(0, 3_000)
contexts = st.integers(1, 3_000)
accuracies = st.sampled_from([LengthAwareAccuracy(), CosineAccuracy()])


def at(num_tokens: int) -> Attempt:
    return build_attempt(range(num_tokens))


@given(accuracies, lengths, lengths, contexts)
def test_right_answers_never_gain_by_length_and_wrong_ones_never_lose(
    reward: LengthAwareAccuracy, a: int, b: int, max_tokens: int
) -> None:
    context = RewardContext(max_tokens, PLAIN_CODE)
    short, long = at(min(a, b)), at(max(a, b))
    assert reward(short, RIGHT, context) >= reward(long, RIGHT, context)
    assert reward(short, WRONG, context) <= reward(long, WRONG, context)


@given(accuracies, lengths, lengths, contexts)
def test_a_well_formed_right_answer_earns_at_least_one_more_than_a_wrong_one(
    reward: LengthAwareAccuracy, a: int, b: int, max_tokens: int
) -> None:
    context = RewardContext(max_tokens, PLAIN_CODE)
    assert 0.5 <= reward(at(a), RIGHT, context) <= 1.0
    assert -1.0 <= reward(at(b), WRONG, context) <= -0.5


@given(lengths, contexts)
def test_plateaus_are_exactly_flat_and_nothing_else_is(num_tokens: int, max_tokens: int) -> None:
    context = RewardContext(max_tokens, PLAIN_CODE)
    reward = LengthAwareAccuracy()
    on_right_plateau = num_tokens * 31_744 <= 25_600 * max_tokens
    on_wrong_plateau = num_tokens * 31_744 >= 3_702 * max_tokens
    assert (reward(at(num_tokens), RIGHT, context) == 1.0) == on_right_plateau
    assert (reward(at(num_tokens), WRONG, context) == -0.5) == on_wrong_plateau


@given(st.lists(st.integers(60, 400), min_size=2, max_size=8), st.sampled_from([RIGHT, WRONG]))
def test_groups_all_right_or_all_wrong_and_long_are_exactly_tied(group: list[int], verdict: Verdict) -> None:
    score = build_sum("phi4_reasoning_plus", context=RewardContext(512, PLAIN_CODE)).score
    assert len({score(at(num_tokens), verdict).total for num_tokens in group}) == 1
    if len(set(group)) > 1:
        cosine = build_sum("phi4_cosine", context=RewardContext(512, PLAIN_CODE)).score
        assert len({cosine(at(num_tokens), verdict).total for num_tokens in group}) > 1


@given(accuracies, st.integers(0, 300), st.integers(1, 300), st.integers(2, 9))
def test_rewards_depend_on_the_share_of_the_context_alone(
    reward: LengthAwareAccuracy, num_tokens: int, max_tokens: int, factor: int
) -> None:
    small, large = RewardContext(max_tokens, PLAIN_CODE), RewardContext(factor * max_tokens, PLAIN_CODE)
    for verdict in (RIGHT, WRONG):
        expected = reward(at(num_tokens), verdict, small)
        assert reward(at(factor * num_tokens), verdict, large) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80))
def test_what_the_interpreter_wrote_has_no_length_and_no_repetition(tokens: list[tuple[int, bool]]) -> None:
    mixed = build_attempt([t for t, _ in tokens], [is_sampled for _, is_sampled in tokens])
    alone = build_attempt([t for t, is_sampled in tokens if is_sampled])
    context = RewardContext(50, PLAIN_CODE)
    for use in ("phi4_reasoning_plus", "phi4_cosine"):
        score = build_sum(use, context=context).score
        assert score(mixed, WRONG) == score(alone, WRONG)


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.sampled_from([RIGHT, WRONG]),
    st.sampled_from(["stop", "length"]),
)
def test_the_papers_sum_stays_within_its_bounds(ids: list[int], verdict: Verdict, finish: Finish) -> None:
    total = build_sum("phi4_reasoning_plus").score(build_attempt(ids, finish=finish), verdict).total
    assert -9 / 13 - 1e-12 <= total <= 8 / 13 + 1e-12
    if not verdict.correct:
        assert total <= -4 / 13 + 1e-12  # what an honest wrong attempt of some length earns


# Hacks

HACKS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "reward_hacks.jsonl").read_text("utf-8").splitlines()
]
PROBLEM = Problem("Tom has 3 apples. Ana has 4 more apples than Tom. How many apples does Ana have?", "7")
MAX_TOKENS = 512
CLOSINGS = re.compile(r"(?<=<\|end_of_step\|>)|(?<=\n```\n)|(?<=<\|endoftext\|>)")


class Judged:
    """Texts as a model would write them: run, answered and graded by the real code."""

    def __init__(self, sandbox: Sandbox, grader: Grader) -> None:
        self._sandbox, self._grader = sandbox, grader
        self._judged: dict[tuple[str, str], tuple[Attempt, Verdict]] = {}

    def judge(self, row: dict[str, Any]) -> tuple[Attempt, Verdict]:
        key = (row["format"], row["text"])
        if key not in self._judged:
            replies = [reply for reply in CLOSINGS.split(row["text"]) if reply]
            engine = ScriptedEngine([*replies, EOS])
            context = build_context(engine, get_format(row["format"]), limits=Limits(max_tokens=MAX_TOKENS))
            (result,) = run_searches(engine, self._sandbox, [PROBLEM], Greedy(), context)
            attempt = result.attempts[0]
            self._judged[key] = (attempt, verdict_for(PROBLEM, attempt, self._grader))
        return self._judged[key]


@pytest.fixture(scope="module")
def judged() -> Iterator[Judged]:
    with Sandbox(workers=1) as sandbox, Grader(num_workers=1) as grader:
        yield Judged(sandbox, grader)


def name_row(row: dict[str, Any]) -> str:
    return f"{row['kind']}: {row['name']}"


@pytest.mark.parametrize("row", HACKS, ids=name_row)
def test_every_way_of_writing_has_the_fault_it_should_have(judged: Judged, row: dict[str, Any]) -> None:
    attempt, _ = judged.judge(row)
    assert find_fault(attempt, RewardContext(MAX_TOKENS, get_format(row["format"]))) == row["fault"]


@pytest.mark.parametrize("use", ["correctness", "phi4_reasoning_plus"])
@pytest.mark.parametrize("row", HACKS, ids=name_row)
def test_a_hack_earns_no_more_than_an_honest_wrong_attempt(
    judged: Judged, row: dict[str, Any], use: str
) -> None:
    score = build_sum(use, context=RewardContext(MAX_TOKENS, get_format(row["format"]))).score
    honest = {
        other["kind"]: judged.judge(other)
        for other in HACKS
        if other["format"] == row["format"] and other["kind"].startswith("honest")
    }
    reward = score(*judged.judge(row)).total
    if row["kind"] == "honest_right":
        assert reward == {"correctness": 1.0, "phi4_reasoning_plus": 8 / 13}[use]
    else:
        assert reward <= score(*honest["honest_wrong"]).total < score(*honest["honest_right"]).total


def test_the_set_holds_hacks_that_the_grader_alone_would_pay_for(judged: Judged) -> None:
    paid = {row["kind"] for row in HACKS if judged.judge(row)[1].correct}
    assert paid >= {"copied_gold", "every_number", "repetition", "unterminated_code"}


def test_a_plain_cosine_pays_a_wrong_attempt_for_going_on_without_end(judged: Judged) -> None:
    score = build_sum("phi4_cosine", context=RewardContext(MAX_TOKENS, PLAIN_CODE)).score
    rows = {row["name"]: row for row in HACKS if row["format"] == "plain-code"}
    assert score(*judged.judge(rows["without end"])).total > score(*judged.judge(rows["subtracts"])).total


def test_work_can_be_left_unasked() -> None:
    attempt = build_attempt(steps=(Step("print(7)", "print(7)", "7", "ok"),))
    assert build_sum("correctness").score(attempt, RIGHT).total == -1.0
    lenient = RewardContext(100, PLAIN_CODE, requires_work=False)
    assert build_sum("correctness", context=lenient).score(attempt, RIGHT).total == 1.0


def test_reference_solutions_show_their_work() -> None:
    for problem in QUANTITIES.generate(60, 5, "train"):
        solution = QUANTITIES.work_out(problem)
        steps = [Step(s.text, s.code, "9" if "print" in s.text else None, "ok") for s in solution.steps]
        assert computes_its_answer(steps)
        assert reasons_in_prose(solution.prose)


@pytest.mark.parametrize(
    "code",
    [
        "print('yes' if 3 > 2 else 'no')",
        "if 3 > 2:\n    print('yes')",
        "for n in [4, 5]:\n    print(n)",
        "total = 3\ntotal += 4\nprint(total)",
        "def show(x):\n    print(x)\nshow(3 + 4)",
        "print(max([3, 4]))",
        "print('{}'.format(7))",
        "tom, ana = 3, 4\nprint(f'{tom + ana}')",
        "print(-(3 - 10))",
        "import sys\nsys.stdout.write('7')",
    ],
)
def test_whatever_may_be_work_counts_as_work(code: str) -> None:
    assert computes_its_answer([Step(code, code, "7", "ok")])


def test_work_in_a_step_that_failed_does_not_count() -> None:
    steps = [Step("", "x = 7", None, "ok"), Step("", "x = 3 + 4\nfail()", None, "error")]
    assert not computes_its_answer([*steps, Step("", "print(x)", "7", "ok")])


def test_code_that_cannot_be_read_is_given_the_benefit_of_the_doubt() -> None:
    assert computes_its_answer([Step("", "print(7\0)", "7", "ok")])


# Recipes

OWN = """
from dataclasses import dataclass
import math

def shorter(attempt, verdict, context, scale=1.0):
    return -scale * sum(attempt.sampled) / context.max_tokens

@dataclass(frozen=True)
class Bonus:
    name: str = "bonus"
    size: float = 0.5
    def __call__(self, attempt, verdict, context):
        return self.size if verdict.correct else 0

def agrees(attempt, verdict, context):
    return verdict.correct

def fails(attempt, verdict, context):
    raise KeyError("no such\\nkey")

def is_nan(attempt, verdict, context):
    return math.nan

def is_huge(attempt, verdict, context):
    return 10**400

def is_large(attempt, verdict, context):
    return 1e308

def is_text(attempt, verdict, context):
    return "1.0"

def is_none(attempt, verdict, context):
    pass

def makes_nothing():
    pass

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_rewards.py").write_text(OWN, "utf-8")
    return tmp_path


def test_a_users_rewards_are_weighed_and_named_beside_the_shipped_ones(folder: Path) -> None:
    rewards = build_sum(
        {"use": "correctness", "options": {"wrong": 0.0}},
        {"use": "my_rewards.py:shorter", "weight": 0.1, "options": {"scale": 2.0}},
        {"use": "my_rewards.py:Bonus", "weight": 2.0, "options": {"size": 0.25}},
        {"use": "my_rewards.py:agrees"},
        context=RewardContext(200, PLAIN_CODE),
        base=folder,
    )
    score = rewards.score(build_attempt(), RIGHT)
    assert score.components == {
        "correctness": 1.0,
        "my_rewards.py:shorter": -1.0,
        "bonus": 0.25,
        "my_rewards.py:agrees": 1.0,
    }
    assert score.total == pytest.approx(1.0 - 0.1 + 0.5 + 1.0)
    assert rewards.score(build_attempt(), WRONG).total == pytest.approx(-0.1)


def test_an_installed_reward_is_named_by_its_module() -> None:
    score = build_sum("ponderosa.rewards.repetition:Repetition").score(build_attempt([1] * 20), WRONG)
    assert score.components == {"repetition": -1.0}


def test_the_source_of_a_users_reward_is_part_of_the_hash(folder: Path) -> None:
    configs = [RewardConfig(use="correctness"), RewardConfig(use="my_rewards.py:shorter")]
    before = hash_rewards(configs, folder)
    assert list(before) == ["my_rewards.py:shorter"]
    (folder / "my_rewards.py").write_text(OWN + "\n", "utf-8")
    assert hash_rewards(configs, folder) != before


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("fails", r"raised KeyError: "),
        ("is_nan", "gave 'nan'; a reward must be finite"),
        ("is_huge", "a reward must be finite"),
        ("is_large", "gave '1e+308'; a reward must be finite"),
        ("is_text", "which is no number"),
        ("is_none", "gave 'None', which is no number"),
    ],
)
def test_a_reward_that_fails_stops_the_run_and_shows_the_attempt(
    folder: Path, name: str, complaint: str
) -> None:
    rewards = build_sum("correctness", {"use": f"my_rewards.py:{name}", "weight": 1e3}, base=folder)
    attempt = build_attempt(text="print(1)\x1b[2J\n" + 5_000 * "x" + "the end")
    with pytest.raises(InvalidReward) as raised:
        rewards.score(attempt, RIGHT)
    message = str(raised.value)
    assert complaint in message
    assert f"my_rewards.py:{name}" in message
    assert "problem p1, sample 0" in message
    assert r"'print(1)\x1b[2J\nxxx" in message
    assert "the end'" in message
    assert message.isprintable()
    assert len(message) < 1_500


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ({"use": "corectness"}, "did you mean 'correctness'"),
        ({"use": "correctness", "options": {"corect": 1}}, "did you mean 'correct'"),
        ({"use": "correctness", "options": {"correct": "much"}}, "'correct'"),
        ({"use": "phi4_reasoning_plus", "options": {"ngram": 4}}, "has no options"),
        ({"use": "my_rewards.py:Bonus", "options": {"sise": 1}}, "does not take the options"),
        ({"use": "my_rewards.py:number"}, "neither a function"),
        ({"use": "my_rewards.py:gone"}, "defines no 'gone'"),
        ({"use": "absent.py:gone"}, "no such file"),
    ],
)
def test_a_wrong_recipe_is_explained(folder: Path, use: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        build_sum(use, base=folder)


def test_no_rewards_and_rewards_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="no rewards"):
        build_sum()
    with pytest.raises(ConfigError, match="named twice: repetition"):
        build_sum("phi4_reasoning_plus", "repetition")
    third = {"use": "repetition", "options": {"name": "trigrams", "ngram": 3}}
    assert len(build_sum("phi4_reasoning_plus", third).components) == 3


def test_a_sums_weight_multiplies_its_parts() -> None:
    half = build_sum({"use": "phi4_reasoning_plus", "weight": 0.5}).score(build_attempt(), RIGHT)
    assert half.total == pytest.approx(4 / 13)


def test_a_shipped_sum_is_finite_for_every_attempt() -> None:
    for prompt_format in (PLAIN_CODE, PLAIN_PROSE, CHAT_CODE, PromptFormat(name="x", solution="code")):
        context = RewardContext(1, prompt_format)
        for steps in ((), HONEST_STEPS, (Step(""), Step("\n"))):
            attempt = build_attempt([], steps=steps, answer=None, text="")
            for use in ("correctness", "phi4_reasoning_plus", "phi4_cosine"):
                assert math.isfinite(build_sum(use, context=context).score(attempt, WRONG).total)
