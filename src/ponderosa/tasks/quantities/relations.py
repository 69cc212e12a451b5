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
    converts: (item of the first input, item of the target) if they differ; an empty input item means any of ITEMS.
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


def _conversion(name: str, factor: int, converts: tuple[str, str], statements: tuple[str, ...]) -> Relation:
    return Relation(
        name,
        1,
        1,
        _no_literals,
        lambda v, _: v[0] * factor,
        f"{{a}} * {factor}",
        statements,
        constants=(factor,),
        converts=converts,
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
            "{t} has {n} {item} fewer than {a} does.",
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
            "For every one of {a}'s {item}, {t} has {n}.",
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
            "{a} has twice as many {item} as {t}.",
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
            "{t} has as many {item} as the difference between {a}'s and {b}'s.",
            "{t} has the number of {item} by which {a} is ahead of {b}.",
            "{a} has more {item} than {b}, and the difference is what {t} has.",
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
            "{t} sells all of {a}'s {item_a} for {n} dollars each.",
            "Each of {a}'s {item_a} earns {t} {n} dollars.",
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
            "{t} has one of {n} equal shares of {a}'s {item}.",
            "{t} has as many {item} as each of {n} people who share {a}'s equally.",
            "If {a} made {n} equal heaps of {item}, each heap would hold as many as {t} has.",
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
            "{t} has what would be left if {n} and then {m} were taken from {a}'s {item}.",
            "Take {n} and then {m} from {a}'s {item}, and as many are left as {t} has.",
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
            "For every 100 {item} that {a} has, {t} has {n}.",
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
            "{t} has the average of {a}'s and {b}'s numbers of {item}.",
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
            "{t} has as many {item} as {a}, {b} and {c} put together.",
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
            "{t} would have to lose {n} {item} to have as many as {a}.",
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
            "{t} has as many {item} as {b} would need to catch up with {a}.",
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
            "{t} would need {n} times as many {item} to match {a}.",
            "{t} has so few {item} that {a} has {n} times as many.",
            "{a} has {n} times as many {item} as {t}.",
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
            "{t} has the {item} left over when {a}'s are packed in boxes of {n}.",
            "{t} has the {item} that remain after {a} fills all the boxes of {n} that can be filled.",
            "When {a} packs {item} in boxes of {n}, as many are left over as {t} has.",
        ),
    ),
    _conversion(
        "convert_dozens",
        12,
        ("cartons of a dozen eggs", "eggs"),
        (
            "{t} has exactly the eggs in {a}'s cartons of a dozen.",
            "{t} unpacks all the eggs from {a}'s cartons of a dozen.",
            "The eggs in {a}'s cartons of a dozen are as many as {t} has.",
        ),
    ),
    _conversion(
        "convert_weeks",
        7,
        ("weeks of leave", "days of leave"),
        (
            "{t} has as many days of leave as there are in {a}'s weeks of leave.",
            "{t} has the same leave as {a}, counted in days and not in weeks.",
            "Counted in days, {a}'s weeks of leave are as many as {t} has.",
        ),
    ),
    _conversion(
        "convert_hours",
        60,
        ("hours of music", "minutes of music"),
        (
            "{t} has as many minutes of music as there are in {a}'s hours of music.",
            "{t} has the same music as {a}, counted in minutes and not in hours.",
            "Counted in minutes, {a}'s hours of music are as many as {t} has.",
        ),
    ),
)

BY_NAME = {relation.name: relation for relation in (GIVEN, *RELATIONS)}
"""Every relation by name, the bare statement of a number included."""

NAMES: tuple[str, ...] = tuple(
    (
        "Tom Ana Bo Mia Sam Lea Gus Eva Jack Rosa Ben Ida Hugo Nora Leo Zoe Adam Lucy Omar Ruth Paul Kate Finn Maya "
        "Ivan Tess Noah Alma Otto Jane Carl Vera Dean Lily Mark Anna Hans June Eric Cleo Luke Dora Sven Hope Ravi "
        "Iris Joel Faye Kurt Gwen Abel Rita Theo Opal Glen Nina Seth Elsa Troy Lola Ward Pia Cole Uma"
    ).split()
)
ITEMS: tuple[str, ...] = tuple(
    "apples pears coins books marbles stamps shells cards pens beads cakes plums".split()
)
