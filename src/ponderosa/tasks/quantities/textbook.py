"""Running text for a base model: words to copy, and arithmetic facts.

A solution quotes the sentences it needs, so the first thing a base model needs is to copy: to find what followed
last time and write it again (induction heads, Olsson et al. 2022, arXiv 2209.11895). In problems alone that skill
takes millions of tokens to form, because guessing from the template is nearly as good; a list of random words
said twice has no template. With many different words one word back tells what comes next; with few, a longer match is
needed, as in sentences that share their words. LOG.md has the measurements.
"""

from random import Random

from ponderosa.tasks.quantities.graph import GraphOptions

FACTS_PER_DOCUMENT = 12
COPIED_WORDS = (10, 40)
COMMON_WORDS = tuple("has owns more fewer than times as many half of the and together number is".split())
DIGITS = tuple("0123456789")


def write_copying(random: Random, options: GraphOptions, *, distinct_words: tuple[int, int]) -> str:
    """A list of random words, said twice; `distinct_words` bounds how many different ones it may use."""
    words = (*options.names, *options.items, *COMMON_WORDS, *DIGITS)
    fewest, most = (min(bound, len(words)) for bound in distinct_words)
    allowed = random.sample(words, random.randint(fewest, most))
    said = " ".join(random.choices(allowed, k=random.randint(*COPIED_WORDS)))
    return f" {said}. {said}."


def write_arithmetic(random: Random, *, max_value: int) -> str:
    """A list of sums as they occur in prose solutions, every value whole and at most `max_value`."""
    facts: list[str] = []
    while len(facts) < FACTS_PER_DOCUMENT:
        left, right = random.randint(2, max_value), random.randint(2, 60)
        symbol, value = random.choice(_results(left, right))
        if 1 <= value <= max_value:
            facts.append(f"{left} {symbol} {right} = {value}.")
    return " ".join(facts)


def _results(left: int, right: int) -> list[tuple[str, int]]:
    results = [("+", left + right), ("-", left - right)]
    if right <= 12:
        results.append(("*", left * right))
        if left % right == 0:
            results.append(("//", left // right))
    return results
