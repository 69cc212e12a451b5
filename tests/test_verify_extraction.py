"""Finding the answer in a solution."""

import time

import pytest

from ponderosa.records import Step
from ponderosa.verify import answer_from_attempt, extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{1} and later, after more work, \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 7", "7"),
        ("She has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7", "7"),
        ("Working...\nA: 26", "26"),
        ("The answer is $\\frac{1}{2}$. I hope it is correct.", r"$\frac{1}{2}$"),
        ("**Final Answer:** 12", "12"),
        ("3\n4\n5", "5"),
        ("She pays 3 dollars for each of 4 eggs, which makes 12 dollars.", "12"),
        ("So I choose (B) in the end", "B"),
    ],
)
def test_the_marked_answer_is_found(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is I.", "I"),
        ("The answer is **C**, as was said", "C"),
        ("The answer is (C), not (A).", "C"),
        ("The answer is C) Cecile", "C"),
        ("The answer is A because it came first", "A"),
        ("The answer is B, I think", "B"),
        ("It is (C), not (A), for the reasons that were given", "C"),
        ("I think that I would pick option D of them all", "D"),
        ("B is correct because water boils sooner up there", "B"),
        ("B. Because water boils at a lower pressure up there", "B"),
        ("Which one? Clearly what the second one on the list says\n\nB", "B"),
        ("For the reasons that were given above, it must surely be B.", "B"),
    ],
)
def test_a_letter_that_stands_as_a_choice_is_read(text, letter):
    assert extract_answer(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "I do not know",
        "I am not sure what is asked for here at all",
        "I don't know the answer to this question, sorry about that.",
        "The answer is I do not know.",
        "The answer is I'd rather not say anything about it",
        "The option I prefer is not listed here anywhere",
        "I would rather not say anything about that, said I",
        "A man goes to the shop and nothing else is known",
        "I choose A+B, whatever the question may have been about",
        "Points A, B and C lie on one line and that is all there is to say about it.",
        "Evaluating f(C) and g(B) tells us nothing at all about that",
        "Vitamin C is what sailors lacked on long journeys at sea",
        "The answer is C and D",
        "The answer is A + B",
        "The answer is E = mc^2",
    ],
)
def test_a_letter_in_prose_or_in_a_formula_is_no_choice(text):
    assert extract_answer(text) not in list("ABCDEFGHIJ")


@pytest.mark.parametrize(
    "text", ["", "   ", r"so \boxed{12", r"\boxed{}", "<think>it is 12</think>", "The answer is not 12."]
)
def test_a_text_without_an_answer_has_none(text):
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        r"\boxed{" * 20_000,
        "$" * 50_000,
        "1 " * 200_000,
        "answer is " * 20_000,
        "not (A) " * 9_000,
        "option " + "*" * 20_000,
    ],
)
def test_hostile_text_is_searched_in_no_time(text):
    start = time.process_time()
    extract_answer(text)
    assert time.process_time() - start < 2.0


def test_the_answer_of_code_is_the_last_line_its_last_printing_step_printed():
    steps = (
        Step("", "a = 3\nprint(a)", "3\n", "ok"),
        Step("", "print('so')\nprint(a + 4)", "so\n7\n", "ok"),
        Step("", "b = 1", None, "ok"),
    )
    assert answer_from_attempt("the code says it all", steps) == "7"


def test_a_box_behind_the_last_printing_step_stands_above_what_it_printed():
    steps = (Step("", "print(7)", "7\n", "ok"), Step(r"rounding up gives \boxed{8}"))
    assert answer_from_attempt("", steps) == "8"


def test_a_box_before_the_last_printing_step_or_in_its_code_decides_nothing():
    early, late = r"# try \boxed{3}", r"# surely \boxed{5}"
    steps = (Step(early), Step(f"{late}\nprint(7)", f"{late}\nprint(7)", "7\n", "ok"))
    assert answer_from_attempt(f"{early}\n{late}\nprint(7)\n7", steps) == "7"


def test_a_printed_box_is_read_and_a_printed_error_is_no_failure():
    boxed = (Step("", "print(1)", "\\boxed{9}\n", "ok"), Step("", "b = 2", None, "ok"))
    assert answer_from_attempt("", boxed) == "9"
    assert answer_from_attempt("", (Step("", "print(1)", "error: 4\n", "ok"),)) == "4"


def test_code_that_failed_to_print_gives_no_answer():
    assert (
        answer_from_attempt("# the answer is 7", (Step("", "7 / 0", "ZeroDivisionError", "error"),)) is None
    )


def test_prose_steps_are_read_as_text():
    assert answer_from_attempt("3 and 4 make 7.", (Step("3 and 4 make 7."),)) == "7"
