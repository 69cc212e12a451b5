"""Both tiers show the same, and code on which they differ is sent to CPython."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ponderosa.sandbox import Limits, Sandbox, choose_tier, tiers_available
from ponderosa.sandbox.subset import _BUILTINS, _MATH

needs_cpython = pytest.mark.skipif(
    tiers_available()["cpython"] is not None, reason=f"no cpython tier: {tiers_available()['cpython']}"
)

TEXTBOOK = [
    ["# Tom has 4 more apples than Bo.\nbo = 7\ntom = bo + 4", "print(tom, tom - bo, tom * bo, tom / bo)"],
    ["print(7 // 2, -7 // 2, 7 % 3, -7 % 3, 7.5 // 2, -7.5 % 2, divmod(-7, 2))"],
    ["print(2**100, 1e-05, 1e16, 1e22, 123456789.123456789, 5e-324, -0.0, 10**20 / 3)"],
    ["print(0.1 + 0.2, 1 / 3, 100 * 1.1, 3.0, 10 / 2, 2**0.5, 2**-1, float('inf'), float('nan'))"],
    ["print(round(2.5), round(3.5), round(-0.5), int(-3.7), int('12'), float('1e3'), abs(-4.5))"],
    ["price = 19.99\nprint(f'{price:.2f} {price * 3:,.1f} {1234567:,} {0.256:.1%} {7:>5}|{7:<5}|{7:05d}')"],
    ["print('%.2f %d %s %5.1f' % (2.5, 7, 'apples', 3.14159))"],
    ["print('{} and {:.2f}'.format(3, 2.0))"],
    ["def area(width, height=2):\n    return width * height", "print(area(3), area(3, height=4))"],
    [
        "double = lambda x: 2 * x\nprint([double(x) for x in range(5) if x % 2], sum(x * x for x in range(10)))"
    ],
    [
        "counts = {'red': 3, 'blue': 5}\ncounts['green'] = 1",
        "print(counts, sorted(counts.items()), max(counts))",
    ],
    ["for i in range(3):\n    if i == 1:\n        continue\n    print(i, end=' ')\nelse:\n    print('done')"],
    ["n, steps = 27, 0\nwhile n != 1:\n    n = 3 * n + 1 if n % 2 else n // 2\n    steps += 1\nprint(steps)"],
    ["first, *rest = [1, 2, 3]\nprint(first, rest, rest[::-1], (1,), [], {}, 'a' in 'cat')"],
    ["import math\nprint(math.sqrt(2), math.gcd(12, 18), math.comb(10, 3), math.factorial(25), math.pi)"],
    ["from math import floor, ceil\nprint(floor(-2.5), ceil(2.1))"],
    ["print('it\\'s', repr('it\\'s'), ['it\\'s', \"q\\\"\", 'a\\nb', 'é'], 'x' * 3, 'a,b'.split(','))"],
    ["print(None, True and 3, 0 or 'none', not 0, 1 < 2 < 3, 3 if 1 else 4, (y := 5), y)"],
    ["total = sum([12, 7.5, 3])\nprint(total, min(3, 1), max([2, 9]), len('word'), any([0, 1]), all([]))"],
    ["print(bin(10), hex(255), chr(65), ord('A'), pow(2, 10, 1000), str(1.50), list(zip('ab', [1, 2])))"],
    ["x = 5\nx"],
    ["print()\nprint('a', 'b', sep='-')\nprint('no newline', end='')"],
    ["sum = 3 + 4\nprint(sum)"],
]

ERRORS = [
    "1 / 0",
    "print(undefined)",
    "{}['key']",
    "[1][3]",
    "'a' + 1",
    "int('x')",
    "assert 1 == 2",
    "def f():\n    return f()\nf()",
]


@pytest.fixture(scope="module")
def monty() -> Iterator[Sandbox]:
    with Sandbox(tiers=("monty",), limits=Limits(wall_s=0.3), workers=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def cpython() -> Iterator[Sandbox]:
    with Sandbox(tiers=("cpython",), workers=1) as pool:
        yield pool


@needs_cpython
@pytest.mark.parametrize("steps", TEXTBOOK, ids=lambda steps: steps[-1][:30])
def test_both_tiers_show_the_same_for_textbook_steps(
    monty: Sandbox, cpython: Sandbox, steps: list[str]
) -> None:
    assert [choose_tier(code) for code in steps] == ["monty"] * len(steps)
    ours, reference = monty.run_steps(steps), cpython.run_steps(steps)
    assert [(step.outcome, step.output) for step in ours] == [
        (step.outcome, step.output) for step in reference
    ]
    assert {step.outcome for step in ours} == {"ok"}


@needs_cpython
def test_both_tiers_show_the_same_for_gsm8k_calculations(
    monty: Sandbox, cpython: Sandbox, benchmark_data: Path
) -> None:
    with gzip.open(benchmark_data / "gsm8k_train.jsonl.gz", "rt", encoding="utf-8") as lines:
        text = "".join(json.loads(line)["solution"] for line in lines)
    expressions = sorted({match[1] for match in re.finditer(r"<<([0-9.+*/() -]+)=", text)})
    expressions = [expression for expression in expressions if choose_tier(expression) == "monty"][::8]
    assert len(expressions) > 1000
    solutions = [
        ["\n".join(f"print({expression})" for expression in expressions[start : start + 40])]
        for start in range(0, len(expressions), 40)
    ]
    ours, reference = monty.run_many(solutions), cpython.run_many(solutions)
    assert [steps[0].output for steps in ours] == [steps[0].output for steps in reference]


@needs_cpython
@pytest.mark.parametrize("code", ERRORS)
def test_both_tiers_call_an_error_an_error(monty: Sandbox, cpython: Sandbox, code: str) -> None:
    assert monty.execute((), code).outcome == cpython.execute((), code).outcome == "error"


@pytest.mark.parametrize(
    "code",
    [
        "import sympy",
        "import os",
        "from fractions import Fraction",
        "from math import *",
        "import math as m",
        "def squares():\n    yield 1",
        "class Box:\n    pass",
        "try:\n    x = 1\nexcept Exception:\n    pass",
        "with open('f') as f:\n    pass",
        "raise ValueError('x')",
        "del x",
        "round(2.675, 2)",
        "print({3, 1, 2})",
        "print(set([1]))",
        "{x for x in [1]}",
        "input()",
        "eval('1')",
        "exit()",
        "x.__class__",
        "__name__",
        "print(1, file=None)",
        "x is 5",
        "1j",
        "b'x'",
        "f'{1!r}'",
        "'\\ud800'",
        "@f\ndef g():\n    pass",
        "f(**{})",
        "x = = 2",
        "return 5",
        "break",
        "-" * 10_000 + "1",
        "x = 1\0",
        "x = 1\n" * 10_000,
        "async def f():\n    await g()",
        "match 1:\n    case 1: pass",
    ],
    ids=lambda code: code[:30],
)
def test_what_monty_lacks_or_does_otherwise_goes_to_cpython(code: str) -> None:
    assert choose_tier(code) == "cpython"


def test_choosing_a_tier_shows_no_warning_and_runs_nothing() -> None:
    assert choose_tier("x = '\\d'\nx is 5\nprint(2 ** 10 ** 9)") == "cpython"


def test_monty_has_every_builtin_it_is_given(monty: Sandbox) -> None:
    assert monty.execute((), "\n".join(sorted(_BUILTINS))).error is None


def test_monty_has_every_mathematical_function_it_is_given(monty: Sandbox) -> None:
    assert (
        monty.execute((), "import math\n" + "\n".join(f"math.{name}" for name in sorted(_MATH))).outcome
        == "ok"
    )


@needs_cpython
def test_rounding_to_digits_is_right_with_both_tiers() -> None:
    with Sandbox(workers=1) as pool:
        execution = pool.execute((), "print(round(2.675, 2), round(1.005, 2))")
    assert (execution.output, execution.tier) == ("2.67 1.0\n", "cpython")


def test_montys_time_limit_holds_in_a_loop_and_in_one_long_operation(monty: Sandbox) -> None:
    assert monty.execute((), "while True:\n    pass").outcome == "timeout"
    assert monty.execute((), "x = 3 ** 10 ** 7").outcome == "timeout"


@pytest.mark.parametrize(
    "code", ["x = [0] * 10**10", "x = 'a' * 10**10", "x = []\nwhile True:\n    x.append('a' * 10**6)"]
)
def test_montys_memory_limit_holds(code: str) -> None:
    """With time enough: filling the memory takes a busy machine a while."""
    with Sandbox(tiers=("monty",), limits=Limits(wall_s=20.0), workers=1) as patient:
        assert patient.execute((), code).outcome == "memory"


def test_montys_recursion_limit_holds(monty: Sandbox) -> None:
    execution = monty.execute((), "def f():\n    return f()\nf()")
    assert (execution.outcome, execution.error) == (
        "error",
        "RecursionError: maximum recursion depth exceeded",
    )


def test_montys_output_is_limited_at_once(monty: Sandbox) -> None:
    execution = monty.execute((), "while True:\n    print('x' * 99)")
    assert execution.outcome == "output_limit"
    assert len(execution.output) == monty.limits.max_output_bytes


def test_monty_shows_no_files_and_no_environment(monty: Sandbox) -> None:
    assert monty.execute((), "open('/etc/passwd')").outcome == "error"
    assert monty.execute((), "import os\nprint(os.environ)").outcome == "error"


def test_an_exception_that_imitates_montys_limit_is_an_error(monty: Sandbox) -> None:
    code = "raise TimeoutError('feed time limit exceeded: 2.0s > 2.0s')"
    assert monty.execute((), code).outcome == "error"


def test_monty_alone_says_what_it_lacks(monty: Sandbox) -> None:
    execution = monty.execute((), "import sympy")
    assert (execution.outcome, execution.tier) == ("error", "monty")
    assert execution.error == "ModuleNotFoundError: No module named 'sympy'"
