"""Answers and verdicts: where the answer of a solution is, whether it is right, and why not.

    extract_answer, answer_from_attempt   the final answer of a solution
    compare_answers, grade                the layers that run in this process
    Grader                                the same, with math-verify in killable workers behind them
    canonical_key                         equal for answers that are the same, to count votes without a gold answer
    get_verifier, register_verifier       checkers by name, as problems refer to them
    verdict_for                           the verdict on a whole attempt
    grade_file                            a file of pairs, as `ponderosa grade` does it

Conventions are decided in docs/grading.md, whose table is a test. Nothing here runs model-written code.
"""

from ponderosa.verify.canonical import canonical_key
from ponderosa.verify.equivalence import compare_answers
from ponderosa.verify.extraction import answer_from_attempt, extract_answer
from ponderosa.verify.files import grade_file
from ponderosa.verify.grader import Grader, grade
from ponderosa.verify.verifiers import Verifier, get_verifier, list_verifiers, register_verifier, verdict_for

__all__ = [
    "Grader",
    "Verifier",
    "answer_from_attempt",
    "canonical_key",
    "compare_answers",
    "extract_answer",
    "get_verifier",
    "grade",
    "grade_file",
    "list_verifiers",
    "register_verifier",
    "verdict_for",
]
