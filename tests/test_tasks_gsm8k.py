"""GSM8K rationales become programs that give the gold answer."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from ponderosa.records import Problem, Step
from ponderosa.sandbox import Sandbox
from ponderosa.tasks.gsm8k import (
    REJECT_REASONS,
    Rejected,
    convert_rationale,
    load_gsm8k_splits,
    render_prose,
)


def convert(question: str, *lines: str) -> list[str] | Rejected:
    steps = convert_rationale(Problem(question, solution="\n".join(lines)))
    return steps if isinstance(steps, Rejected) else [step.text for step in steps]


def run(steps: list[Step]) -> str:
    with Sandbox() as sandbox:
        return sandbox.run_steps([str(step.code) for step in steps])[-1].output.strip()


def test_a_rationale_becomes_steps_whose_later_ones_use_earlier_results_by_name() -> None:
    steps = convert(
        "Natalia sold clips to 48 friends in April, and half as many in May. How many altogether?",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.",
        "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.",
        "#### 72",
    )
    assert steps == [
        "# Natalia sold b clips in May.\nb = 48 / 2",
        "# Natalia sold c clips altogether in April and May.\nc = 48 + b\nprint(c)",
    ]


def test_a_question_without_words_is_read() -> None:
    assert convert("2 + 3 = ?", "2+3 = <<2+3=5>>5", "#### 5") == ["b = 2 + 3\nprint(b)"]


def test_a_result_said_before_its_arithmetic_is_said_by_name() -> None:
    steps = convert(
        "He has 2 pizzas of 16 slices. How many slices?",
        "He eats 32 slices because 2 x 16 = <<2*16=32>>32",
        "#### 32",
    )
    assert steps == ["# He eats b slices because 2 * 16\nb = 2 * 16\nprint(b)"]


def test_arithmetic_the_calculator_did_not_mark_is_found_when_it_is_true() -> None:
    steps = convert(
        "There are 40 judges, 10% under 30. Each hears 5 cases. How many?",
        "Under 30: 40(.10)=4",
        "Cases: 4 judges * 5 cases/judge = 20 cases",
        "#### 20",
    )
    assert steps == ["# Under 30: b\nb = 40 * 0.1", "# Cases: c cases\nc = b * 5\nprint(c)"]


def test_prose_waits_for_the_next_equation_and_closing_prose_gets_the_print() -> None:
    steps = convert(
        "A pen costs $3. How much are 1,200 pens?",
        "We multiply.",
        "That is 1,200 x $3 = $<<1200*3=3600>>3,600.",
        "So the pens cost $3600.",
        "#### 3,600",
    )
    assert steps == [
        "# We multiply.\n# That is b.\nb = 1200 * 3",
        "# So the pens cost b.\nprint(b)",
    ]


def test_a_line_without_words_joins_the_step_before_it() -> None:
    steps = convert("5 and 6?", "First 5+6=<<5+6=11>>11 it is.", "11*2=<<11*2=22>>22", "#### 22")
    assert steps == ["# First b it is.\nb = 5 + 6\nc = b * 2\nprint(c)"]


def test_a_computed_percentage_used_as_a_fraction_is_traced() -> None:
    steps = convert(
        "20% are brown and 15% green. How many of 40 are neither?",
        "100-20-15 = <<100-20-15=65>>65% are neither",
        "That is 40*.65 = <<40*.65=26>>26",
        "#### 26",
    )
    assert not isinstance(steps, Rejected)
    assert steps[-1] == "# That is c\nc = 40 * (b / 100)\nprint(c)"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("It is 7.", "#### 7"), "no_equation"),
        (("It is 5+2=<<5+2=8>>8.", "#### 8"), "wrong_mark"),
        (("It is 5+2=<<5+2=7>>7.", "So half a dozen.", "#### 6"), "answer_not_computed"),
        (("It is 5+777=<<5+777=782>>782.", "#### 782"), "untraced_number"),
        (("x=<<37=37>>37", "#### 37"), "untraced_number"),
        (("It is 5+2=<<5+2=7>>7.",), "no_solution"),
        ((*("So 5+2=<<5+2=7>>7.",) * 40, "#### 7"), "too_long"),
    ],
)
def test_what_cannot_be_converted_says_why(lines: tuple[str, ...], reason: str) -> None:
    rejected = convert("He has 5 and 2. How many?", *lines)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == reason
    assert reason in REJECT_REASONS


@pytest.mark.parametrize(
    "expression", ["9**9**9", "__import__('os')", "(1).real", "5/0", "1e999", "5 if 1 else 2"]
)
def test_a_mark_that_is_not_plain_arithmetic_is_refused_unevaluated(expression: str) -> None:
    rejected = convert("He has 5.", f"It is <<{expression}=5>>5", "#### 5")
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "wrong_mark"


def test_prose_keeps_the_words_and_the_final_line() -> None:
    problem = Problem("q", solution="So 48/2 = <<48/2=24>>24 clips.\n#### 24")
    assert render_prose(problem) == "So 48/2 = 24 clips.\n#### 24"


def test_the_selection_split_is_500_problems_that_depend_on_content_alone(
    benchmark_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    splits = load_gsm8k_splits()
    assert (len(splits.train), len(splits.selection), splits.quarantined) == (6973, 500, [])
    assert not {p.question for p in splits.train} & {p.question for p in splits.selection}
    assert {p.split for p in splits.selection} == {"selection"}
    assert splits.selection[0].id == "gsm8k-train-00041"


def test_real_rationales_run_to_their_gold_answers(
    benchmark_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the 500 selection problems: at least 92% convert, and no converted program prints anything but the gold answer."""
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    converted = 0
    with Sandbox() as sandbox:
        for problem in load_gsm8k_splits().selection:
            steps = convert_rationale(problem)
            if isinstance(steps, Rejected):
                continue
            converted += 1
            last = sandbox.run_steps([str(step.code) for step in steps])[-1]
            assert (last.outcome, last.error) == ("ok", None)
            gold = Fraction(str(problem.answer).replace(",", ""))
            assert float(last.output) == pytest.approx(float(gold), rel=1e-9)
            code = "\n".join(str(step.code) for step in steps)
            assert not re.search(r"^\s*([a-z]) = .*\b\1\b", code, re.MULTILINE), "a name is never reused"
    assert converted >= 460
