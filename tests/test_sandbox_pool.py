"""The sandbox as its callers see it: order, state, tiers, determinism, lost workers."""

import os
import signal

import pytest

from ponderosa.errors import SandboxUnavailable, WorkerLost
from ponderosa.sandbox import Limits, Sandbox, pool, tiers_available
from ponderosa.sandbox.cpython import ForkServer
from ponderosa.sandbox.monty import StateCache

needs_cpython = pytest.mark.skipif(
    tiers_available()["cpython"] is not None, reason=f"no cpython tier: {tiers_available()['cpython']}"
)


@pytest.fixture(scope="module", params=["monty", "cpython", "both"])
def sandbox(request: pytest.FixtureRequest):
    tiers = ("monty", "cpython") if request.param == "both" else (request.param,)
    if "cpython" in tiers and tiers_available()["cpython"]:
        pytest.skip(str(tiers_available()["cpython"]))
    with Sandbox(tiers=tiers, limits=Limits(wall_s=0.3), workers=2) as opened:
        yield opened


def test_a_solutions_steps_share_a_namespace(sandbox: Sandbox) -> None:
    executions = sandbox.run_steps(["tom = 5 + 4", "print(tom)", "print(tom * 2)"])
    assert [execution.output for execution in executions] == ["", "9\n", "18\n"]
    assert all(execution.error is None for execution in executions)


def test_a_solution_stops_at_its_first_failing_step(sandbox: Sandbox) -> None:
    executions = sandbox.run_steps(["x = 1\nprint('kept')", "print('shown')\n1 / 0", "print(x)"])
    assert [execution.outcome for execution in executions] == ["ok", "error"]
    assert executions[1].output == "shown\n"
    assert executions[1].error == "ZeroDivisionError: division by zero"


def test_solutions_share_nothing_and_keep_their_order(sandbox: Sandbox) -> None:
    assert sandbox.run_steps(["leak = 1"])[0].outcome == "ok"
    solutions = [[f"x = {i}", "print(x)"] for i in range(40)] + [["print(leak)"]]
    *many, last = sandbox.run_many(solutions)
    assert [steps[-1].output for steps in many] == [f"{i}\n" for i in range(40)]
    assert last[0].error == "NameError: name 'leak' is not defined"


def test_a_step_continues_from_its_prefix_and_shows_only_its_own_output(sandbox: Sandbox) -> None:
    prefix = ("x = 3\nprint('first')", "y = x + 1\nprint('second')")
    assert sandbox.execute(prefix, "print(x * y)").output == "12\n"


def test_siblings_never_share_a_namespace(sandbox: Sandbox) -> None:
    prefix = ("items = [1]",)
    assert sandbox.execute((), prefix[0]).outcome == "ok"
    outputs = [sandbox.execute(prefix, f"items.append({i})\nprint(items)").output for i in (2, 3)]
    assert outputs == ["[1, 2]\n", "[1, 3]\n"]


def test_functions_survive_in_the_state_of_a_prefix(sandbox: Sandbox) -> None:
    steps = ("def twice(x):\n    return 2 * x", "base = twice(4)", "print(twice(base))")
    for length in range(3):
        execution = sandbox.execute(steps[:length], steps[length])
    assert execution.output == "16\n"


def test_incremental_and_whole_runs_agree(sandbox: Sandbox) -> None:
    steps = (
        "x = 10",
        "print(x / 4)",
        "import fractions\nprint(x)" if "cpython" in sandbox.tiers else "print(x)",
    )
    whole = sandbox.run_steps(steps)
    single = [sandbox.execute(steps[:i], step) for i, step in enumerate(steps)]
    assert [(e.outcome, e.output, e.tier) for e in whole] == [(e.outcome, e.output, e.tier) for e in single]


def test_a_failing_prefix_gives_the_execution_that_ended_it(sandbox: Sandbox) -> None:
    assert sandbox.execute(("1 / 0", "x = 1"), "print(x)").error == "ZeroDivisionError: division by zero"


def test_a_bare_expression_shows_nothing(sandbox: Sandbox) -> None:
    assert sandbox.execute((), "40 + 2").output == ""


def test_syntax_errors_belong_to_the_code(sandbox: Sandbox) -> None:
    execution = sandbox.execute((), "x = = 2")
    assert execution.outcome == "error"
    assert execution.error is not None
    assert execution.error.startswith("SyntaxError")


def test_nothing_to_run_gives_nothing(sandbox: Sandbox) -> None:
    assert sandbox.run_many([]) == []
    assert sandbox.run_steps([]) == []
    assert sandbox.execute((), "").outcome == "ok"


def test_timeouts_among_other_work_are_found_and_nothing_else_is(sandbox: Sandbox) -> None:
    endless = ["print('on')", "while True:\n    pass"]
    results = sandbox.run_many([["print(1)"], endless, ["print(2)"]])
    assert [[step.outcome for step in steps] for steps in results] == [["ok"], ["ok", "timeout"], ["ok"]]


@pytest.fixture(scope="module")
def cpython():
    with Sandbox(tiers=("cpython",), workers=1) as opened:
        yield opened


@needs_cpython
def test_a_step_that_needs_cpython_replays_its_prefix_there() -> None:
    with Sandbox(workers=1) as both:
        steps = [
            "x = 2\nprint('once')",
            "from fractions import Fraction\nprint(Fraction(1, x))",
            "print(x)",
        ]
        executions = both.run_steps(steps)
    assert [execution.output for execution in executions] == ["once\n", "1/2\n", "2\n"]
    assert [execution.tier for execution in executions] == ["monty", "cpython", "cpython"]


@needs_cpython
def test_errors_are_settled_by_cpython_in_its_own_words() -> None:
    with Sandbox(workers=1) as both:
        execution = both.execute((), "print({}['key'])")
    assert (execution.error, execution.tier) == ("KeyError: 'key'", "cpython")


@needs_cpython
def test_randomness_is_seeded_and_the_clock_stands(cpython: Sandbox) -> None:
    code = (
        "import datetime, random, time\nprint(random.random(), time.time(), time.monotonic_ns())\n"
        "time.sleep(60)\nprint(datetime.datetime.now(), datetime.date.today(), time.strftime('%Y'))\n"
        "print(datetime.datetime.now(datetime.timezone.utc), time.ctime(), {'b', 'a', 'c'})"
    )
    first, second = cpython.execute((), code), cpython.execute((), code)
    assert first.output == second.output
    assert "0.8444218515250481 1704067200.0 1704067200000000000" in first.output
    assert "2024-01-01 00:00:00 2024-01-01 2024" in first.output


@needs_cpython
def test_sets_of_strings_have_one_order_in_every_process() -> None:
    outputs = set()
    for _ in range(2):
        with Sandbox(tiers=("cpython",), workers=1) as fresh:
            outputs.add(fresh.execute((), "print({'pear', 'apple', 'fig', 'plum'})").output)
    assert len(outputs) == 1


@needs_cpython
def test_symbolic_steps_run(cpython: Sandbox) -> None:
    assert cpython.execute((), "import sympy\nprint(sympy.sqrt(8))").output == "2*sqrt(2)\n"


@needs_cpython
def test_exit_without_a_status_is_ok_and_with_one_is_an_error(cpython: Sandbox) -> None:
    assert cpython.execute((), "print(1)\nraise SystemExit").outcome == "ok"
    assert cpython.execute((), "import sys\nsys.exit(3)").error == "SystemExit: 3"


@needs_cpython
def test_an_exception_is_shown_on_one_line(cpython: Sandbox) -> None:
    execution = cpython.execute((), "raise ValueError('two\\nlines ' + 'x' * 10_000)")
    assert execution.error is not None
    assert execution.error.startswith("ValueError: two lines xxx")
    assert len(execution.error) <= 500


@needs_cpython
def test_an_exception_whose_text_raises_still_has_a_name(cpython: Sandbox) -> None:
    code = "class Odd(Exception):\n    def __str__():\n        raise RuntimeError\nraise Odd"
    assert cpython.execute((), code).error == "Odd"


@needs_cpython
def test_a_server_lost_once_is_replaced() -> None:
    server = ForkServer(Limits())
    try:
        assert server.run(["print(1)"])[0].output == "1\n"
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server.run(["print(2)"])[0].output == "2\n"
    finally:
        server.close()


@needs_cpython
def test_a_server_lost_twice_raises() -> None:
    server = ForkServer(Limits(), command=["/bin/false"])
    with pytest.raises(WorkerLost, match="lost twice"):
        server.run(["print(1)"])
    assert server.pid is None


def test_a_monty_worker_killed_from_outside_is_replaced() -> None:
    with Sandbox(tiers=("monty",), workers=1) as opened:
        assert opened._monty is not None
        with opened._monty._pool.checkout() as session:
            os.kill(session.worker_pid, signal.SIGKILL)
        assert opened.execute((), "print(1)").output == "1\n"


def test_states_are_kept_within_their_bound() -> None:
    cache = StateCache(max_bytes=10)
    for name in "abc":
        cache.put((name,), b"1234")
    assert cache.get(("a",)) is None
    assert cache.get(("b",)) == cache.get(("c",)) == b"1234"
    assert cache.num_bytes == 8
    cache.put(("b",), b"12")
    assert cache.num_bytes == 6


def test_no_tier_at_all_is_refused_with_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "tiers_available", lambda: {"monty": "not here", "cpython": "not Linux"})
    with pytest.raises(SandboxUnavailable, match="not Linux"):
        Sandbox()


def test_bad_requests_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="allowed: any of monty, cpython"):
        Sandbox(tiers=("docker",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Sandbox(workers=0)
    with pytest.raises(ValueError, match="must be positive"):
        Limits(wall_s=0)


def test_a_state_is_kept_only_if_it_is_dear_to_reach_again() -> None:
    dear = "x = 0\nfor i in range(100_000):\n    x += i"
    with Sandbox(tiers=("monty",), workers=1) as sandbox:
        assert sandbox._monty is not None
        states = sandbox._monty.states
        sandbox.execute([dear], "y = x")
        assert states.get((dear, "y = x")) is not None
        assert sandbox.execute([dear, "y = x"], "print(y)").output == "4999950000\n"
