"""What is wrong with how a solution is written, whatever its answer.

unclosed_step      code was begun that never ran: its step was not closed, or holds nothing
no_executed_step   a code format, and nothing ran at all
broken_thought     a prose format, and a think block that is not closed once with a solution behind it
no_work            there is an answer, and nothing was done to get it (`work` says what can be told)
"""

from typing import Literal

from ponderosa.records import Attempt, Step
from ponderosa.rewards.reward import RewardContext
from ponderosa.rewards.work import computes_its_answer, reasons_in_prose
from ponderosa.steps import Delimiters

Fault = Literal["unfinished", "unclosed_step", "no_executed_step", "broken_thought", "no_work"]


def find_fault(attempt: Attempt, context: RewardContext) -> Fault | None:
    """The first fault of a solution, None if there is none."""
    if attempt.finish != "stop":
        return "unfinished"
    if context.prompt_format.solution == "code":
        if any(_is_unclosed(step, context.prompt_format.delimiters) for step in attempt.steps):
            return "unclosed_step"
        if all(step.outcome is None for step in attempt.steps):
            return "no_executed_step"
        shows_work = computes_its_answer(attempt.steps)
    else:
        if _has_broken_thought(attempt.text):
            return "broken_thought"
        shows_work = reasons_in_prose(attempt.text)
    is_unearned = context.requires_work and attempt.answer is not None and not shows_work
    return "no_work" if is_unearned else None


def _is_unclosed(step: Step, delimiters: Delimiters) -> bool:
    """Code that was begun and is none. Where nothing opens code, all text but blanks begins it."""
    return step.code is None and delimiters.start_of_code in step.text and bool(step.text.strip())


def _has_broken_thought(text: str) -> bool:
    """A chat template may have opened the block, so a missing opening is no fault; nor is a missing block."""
    thought, closed, solution = text.partition("</think>")
    if not closed:
        return "<think>" in text
    return thought.count("<think>") > 1 or "think>" in solution or not solution.strip()
