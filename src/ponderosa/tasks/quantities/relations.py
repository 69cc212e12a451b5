"""The relations that tie quantities together: what each computes and how it is said.

A quantity is a number of `item`s that one `owner` has. A relation gives one quantity (the target `t`) from zero
to three others (`a`, `b`, `c`) and up to two literals (`n`, `m`) that the sentence states. Constants that the
wording implies (half is 2, a dozen is 12) belong to the relation and never change when a problem is re-numbered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Relation:
    """One way to get a quantity.

    name: the relation kind. num_inputs: quantities it reads. num_operations: operators in `code`.
    draw: literals that keep the value a positive whole number, given the inputs; None if there are none.
    compute: the value from (inputs, literals). code: Python with {a} {b} {c} {n} {m}.
    statements: sentences with {t} {a} {b} {c} for owners, {n} {m} for literals, {item} of the target and
        {item_a} of the first input. constants: numbers in `code` that are not literals.
    converts: (item of the first input, item of the target) if they differ; an empty input item means any.
    """

    name: str
    num_inputs: int
    num_operations: int
    draw: Callable[[Random, Sequence[int]], tuple[int, ...] | None]
    compute: Callable[[Sequence[int], Sequence[int]], int]
    code: str
    statements: tuple[str, ...]
    constants: tuple[int, ...] = ()
    converts: tuple[str, str] | None = None


def _no_literals(_: Random, __: Sequence[int]) -> tuple[int, ...]:
    return ()


def _addend(random: Random, _: Sequence[int]) -> tuple[int, ...]:
    return (random.randint(2, 40),)


def _subtrahend(random: Random, inputs: Sequence[int]) -> tuple[int, ...] | None:
    return (random.randint(2, min(40, inputs[0] - 1)),) if inputs[0] >= 3 else None


def _factor(random: Random, _: Sequence[int]) -> tuple[int, ...]:
    return (random.randint(2, 9),)


def _divisor(random: Random, inputs: Sequence[int]) -> tuple[int, ...] | None:
    divisors = [n for n in range(2, 13) if inputs[0] % n == 0 and inputs[0] > n]
    return (random.choice(divisors),) if divisors else None


def _two_takings(random: Random, inputs: Sequence[int]) -> tuple[int, ...] | None:
    if inputs[0] < 8:
        return None
    first = random.randint(2, min(30, inputs[0] - 4))
    return first, random.randint(2, min(30, inputs[0] - first - 1))


def _percentage(random: Random, inputs: Sequence[int]) -> tuple[int, ...] | None:
    whole = [p for p in range(5, 100, 5) if inputs[0] * p % 100 == 0]
    return (random.choice(whole),) if whole else None


def _modulus(random: Random, inputs: Sequence[int]) -> tuple[int, ...] | None:
    sizes = [n for n in range(3, 13) if inputs[0] > n and inputs[0] % n]
    return (random.choice(sizes),) if sizes else None


def _when(
    condition: Callable[[Sequence[int]], bool],
) -> Callable[[Random, Sequence[int]], tuple[int, ...] | None]:
    return lambda _, inputs: () if condition(inputs) else None


def _conversion(source: str, target: str, factor: int, sentence: str) -> Relation:
    return Relation(
        f"convert_{source}",
        1,
        1,
        _no_literals,
        lambda v, _: v[0] * factor,
        f"{{a}} * {factor}",
        (sentence, f"{{t}} counts {{a}}'s {source} as {target}."),
        constants=(factor,),
        converts=(source, target),
    )


GIVEN = Relation(
    "given",
    0,
    0,
    lambda random, _: (random.randint(2, 60),),
    lambda _, n: n[0],
    "{n}",
    ("{t} has {n} {item}.", "{t} owns {n} {item}.", "There are {n} {item} that belong to {t}."),
)

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "more",
        1,
        1,
        _addend,
        lambda v, n: v[0] + n[0],
        "{a} + {n}",
        (
            "{t} has {n} more {item} than {a}.",
            "{t} has {n} {item} more than {a} does.",
            "Compared with {a}, {t} has {n} more {item}.",
        ),
    ),
    Relation(
        "fewer",
        1,
        1,
        _subtrahend,
        lambda v, n: v[0] - n[0],
        "{a} - {n}",
        (
            "{t} has {n} fewer {item} than {a}.",
            "{t} has {n} {item} less than {a} does.",
            "Compared with {a}, {t} has {n} fewer {item}.",
        ),
    ),
    Relation(
        "times",
        1,
        1,
        _factor,
        lambda v, n: v[0] * n[0],
        "{a} * {n}",
        (
            "{t} has {n} times as many {item} as {a}.",
            "{t} has {n} times the number of {item} that {a} has.",
            "For each of the {item} that {a} has, {t} has {n}.",
        ),
    ),
    Relation(
        "half",
        1,
        1,
        _when(lambda v: v[0] % 2 == 0 and v[0] > 2),
        lambda v, _: v[0] // 2,
        "{a} // 2",
        (
            "{t} has half as many {item} as {a}.",
            "{t} has half the number of {item} that {a} has.",
            "Half of the number of {item} that {a} has is what {t} has.",
        ),
        constants=(2,),
    ),
    Relation(
        "sum",
        2,
        1,
        _no_literals,
        lambda v, _: v[0] + v[1],
        "{a} + {b}",
        (
            "{t} has as many {item} as {a} and {b} together.",
            "{t} has the same number of {item} as {a} and {b} combined.",
            "Together, {a} and {b} have as many {item} as {t}.",
        ),
    ),
    Relation(
        "difference",
        2,
        1,
        _when(lambda v: v[0] > v[1]),
        lambda v, _: v[0] - v[1],
        "{a} - {b}",
        (
            "{t} has as many {item} as {a} has beyond those of {b}.",
            "{t} has the number of {item} by which {a} is ahead of {b}.",
            "What {a} has over {b} in {item} is what {t} has.",
        ),
    ),
    Relation(
        "price",
        1,
        1,
        _factor,
        lambda v, n: v[0] * n[0],
        "{a} * {n}",
        (
            "{t} gets {n} dollars for each of the {item_a} that {a} has.",
            "{t} sells all the {item_a} of {a} at {n} dollars each.",
            "The {item_a} of {a} bring {t} {n} dollars each.",
        ),
        converts=("", "dollars"),
    ),
    Relation(
        "rate",
        0,
        1,
        lambda random, _: (random.randint(2, 12), random.randint(3, 15)),
        lambda _, n: n[0] * n[1],
        "{n} * {m}",
        (
            "{t} gathers {n} {item} an hour for {m} hours.",
            "{t} collects {item} for {m} hours, {n} each hour.",
            "Every hour for {m} hours, {t} is given {n} {item}.",
        ),
    ),
    Relation(
        "shared",
        1,
        1,
        _divisor,
        lambda v, n: v[0] // n[0],
        "{a} // {n}",
        (
            "{t} has one of {n} equal shares of the {item} of {a}.",
            "{t} gets as many {item} as each of {n} people sharing those of {a} equally.",
            "The {item} of {a} make {n} equal heaps, and {t} has as many as one heap.",
        ),
    ),
    Relation(
        "remainder",
        1,
        2,
        _two_takings,
        lambda v, n: v[0] - n[0] - n[1],
        "{a} - {n} - {m}",
        (
            "{t} began with as many {item} as {a}, then gave away {n} and lost {m}.",
            "{t} has what would be left if {n} and then {m} were taken from the {item} of {a}.",
            "Take {n} and then {m} from the {item} of {a}: {t} has what is left.",
        ),
    ),
    Relation(
        "percent",
        1,
        2,
        _percentage,
        lambda v, n: v[0] * n[0] // 100,
        "{a} * {n} // 100",
        (
            "{t} has {n}% of the number of {item} that {a} has.",
            "{t} has {n} percent as many {item} as {a}.",
            "Of every 100 {item} that {a} has, {t} has {n}.",
        ),
        constants=(100,),
    ),
    Relation(
        "average",
        2,
        2,
        _when(lambda v: (v[0] + v[1]) % 2 == 0 and v[0] != v[1]),
        lambda v, _: (v[0] + v[1]) // 2,
        "({a} + {b}) // 2",
        (
            "{t} has the average of the numbers of {item} of {a} and {b}.",
            "{t} has as many {item} as {a} and {b} have on average.",
            "On average {a} and {b} have as many {item} as {t}.",
        ),
        constants=(2,),
    ),
    Relation(
        "total",
        3,
        2,
        _no_literals,
        lambda v, _: v[0] + v[1] + v[2],
        "{a} + {b} + {c}",
        (
            "{t} has as many {item} as {a}, {b} and {c} in total.",
            "{t} has the total of the {item} of {a}, {b} and {c}.",
            "In total, {a}, {b} and {c} have as many {item} as {t}.",
        ),
    ),
    Relation(
        "before_giving",
        1,
        1,
        _addend,
        lambda v, n: v[0] + n[0],
        "{a} + {n}",
        (
            "{t} would have as many {item} as {a} after giving away {n}.",
            "{t} must lose {n} {item} to have as many as {a}.",
            "If {n} {item} were taken from {t}, {t} would have as many as {a}.",
        ),
    ),
    Relation(
        "before_getting",
        1,
        1,
        _subtrahend,
        lambda v, n: v[0] - n[0],
        "{a} - {n}",
        (
            "{t} would have as many {item} as {a} after getting {n} more.",
            "{t} needs {n} more {item} to have as many as {a}.",
            "If {t} were given {n} {item}, {t} would have as many as {a}.",
        ),
    ),
    Relation(
        "part_of_total",
        2,
        1,
        _when(lambda v: v[0] > v[1]),
        lambda v, _: v[0] - v[1],
        "{a} - {b}",
        (
            "{t} and {b} together have as many {item} as {a}.",
            "{t} makes up, with {b}, the number of {item} that {a} has.",
            "Counted together, {b} and {t} have as many {item} as {a}.",
        ),
    ),
    Relation(
        "before_multiplying",
        1,
        1,
        _divisor,
        lambda v, n: v[0] // n[0],
        "{a} // {n}",
        (
            "{t} would have as many {item} as {a} with {n} times as many.",
            "{t} has so few {item} that {a} has {n} times as many.",
            "If {t} had {n} times as many {item}, it would be as many as {a}.",
        ),
    ),
    Relation(
        "left_over",
        1,
        1,
        _modulus,
        lambda v, n: v[0] % n[0],
        "{a} % {n}",
        (
            "{t} gets what is left over when the {item} of {a} are packed in boxes of {n}.",
            "{t} has the {item} that remain when {a} fills boxes of {n}.",
            "Packed in boxes of {n}, the {item} of {a} leave over what {t} has.",
        ),
    ),
    _conversion("dozens", "eggs", 12, "{t} has exactly the eggs in the dozens of {a}."),
    _conversion("weeks", "days", 7, "{t} has as many days as there are in the weeks of {a}."),
    _conversion("hours", "minutes", 60, "{t} has as many minutes as there are in the hours of {a}."),
)

BY_NAME = {relation.name: relation for relation in (GIVEN, *RELATIONS)}
"""Every relation by name, the bare statement of a number included."""

NAMES: tuple[str, ...] = tuple(
    (
        "Tom Ana Bo Mia Sam Lea Max Eva Jack Rosa Ben Ida Hugo Nora Leo Zoe Adam Lucy Omar Ruth Paul Kate Finn Maya "
        "Ivan Tess Noah Alma Otto Jane Carl Vera Dean Lily Mark Anna Hans June Eric Cleo Luke Dora Sven Hope Ravi "
        "Iris Joel Faye Kurt Gwen Abel Rita Theo Opal Glen Nina Seth Elsa Troy Lola Ward Pia Cole Uma"
    ).split()
)
ITEMS: tuple[str, ...] = tuple(
    "apples pears coins books marbles stamps shells cards pens beads cakes plums".split()
)
