"""The command line: exit codes, what errors say, and that model text never steers the terminal."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

from ponderosa.api import DEFAULT_TEMPERATURE
from ponderosa.artifacts import lock_folder
from ponderosa.catalogue import CATALOGUES
from ponderosa.cli import app, main
from tiny_runs import GROWN, run_tiny, save_foreign_model

Cli = Callable[..., tuple[int, str, str]]
"""Runs a command in this process: arguments to exit code, output and errors."""
RECIPE = """
name: small
stages:
- {name: problems, use: solutions, sources: [{task: quantities, count: 20}]}
- {name: textbook, use: textbook, chapters: [{parts: [{kind: arithmetic, documents: 5}]}]}
"""


def call(
    arguments: list[str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, output and errors of one command, run in this process, which has the heavy modules loaded."""
    monkeypatch.setattr(sys, "argv", ["ponderosa", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return lambda *arguments: call(list(arguments), monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny grown model that has learned nothing."""
    out = tmp_path_factory.mktemp("cli") / "run"
    run_tiny(out, *GROWN)
    (stage,) = (out / "stages").glob("base-*")
    return stage / "model"


def test_help_imports_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys\nfrom ponderosa import cli\nsys.argv = ['ponderosa', '--help']\n"
        "try: cli.main()\nexcept SystemExit as end: assert end.code == 0\n"
        "print({'torch', 'pyarrow', 'transformers', 'numpy', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("set()\n")
    for command in ("run", "solve", "evaluate", "grade", "sandbox", "report", "list", "doctor"):
        assert command in done.stdout


def test_every_commands_help_shows_one_example_that_it_understands() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    for name, command in commands.items():
        (example,) = re.findall(r"^\s*Example: (.+)$", command.help, re.MULTILINE)
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("ponderosa", name)
        command.make_context(name, arguments)


def test_the_help_names_the_temperature_of_the_library() -> None:
    (option,) = [
        part for part in typer.main.get_command(app).commands["solve"].params if part.name == "temperature"
    ]  # type: ignore[attr-defined]

    assert f"default: {DEFAULT_TEMPERATURE}," in option.help


# Exit codes


def test_done_is_0(cli: Cli) -> None:
    assert cli("list", "strategies")[0] == 0


def write_task(folder: Path, body: str) -> Path:
    """A recipe whose task does this when it is asked for problems."""
    (folder / "own.py").write_text(
        f"class Own:\n    def generate(self, *_, **__):\n        {body}\n        yield\n"
        "    def work_out(self, problem): ...\nown = Own()\n"
    )
    (folder / "r.yaml").write_text(RECIPE.replace("task: quantities", "task: 'own.py:own'"))
    return folder / "r.yaml"


def test_failed_work_is_1(cli: Cli, tmp_path: Path) -> None:
    recipe = write_task(tmp_path, "from ponderosa.errors import WorkError; raise WorkError('it broke')")

    code, output, errors = cli("run", recipe, "--out", tmp_path / "run", "-q")

    assert (code, output, errors) == (1, "", "error: it broke\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "quickstrat"], ["no recipe 'quickstrat'", "did you mean 'quickstart'"]),
        (["run", "quickstart-tiny", "--set", "seed"], ["--set 'seed'", "write path=value"]),
        (
            ["run", "quickstart-tiny", "--dry-run", "--set", "stages.sft.epocs=2"],
            ["unknown key 'epocs'", "did you mean 'epochs'"],
        ),
        (["run", "quickstart-tiny", "--set", "stages.stf.epochs=2"], ["did you mean 'sft'"]),
        (["run", "nowhere.yaml"], ["no such file: nowhere.yaml; nearest in "]),
        (
            ["run", "quickstart-tiny", "--set", "stages.sft.epochs=two"],
            ["stage 'sft'", "'epochs' (passes over the solutions) must be a whole number, seen 'two'"],
        ),
        (
            ["run", "quickstart-tiny", "--set", "stages.evaluate-sft.suites.0.suite=quantites"],
            ["no suite 'quantites'; did you mean 'quantities'"],
        ),
        (["run", "quickstart-tiny", "--device", "tpu", "--out", "/dev/null/x"], ["'tpu'", "cpu"]),
        (["run", "quickstart-tiny", "--track", "tensorbord"], ["did you mean 'tensorboard'", "wandb"]),
        (["run", "quickstart-tiny", "--dtype", "int8"], ["no dtype 'int8'", "bfloat16"]),
        (["solve", "nowhere", "1 + 1?"], ["no such model directory: nowhere"]),
        (["evaluate", "nowhere", "--suite", "quantities"], ["no such model directory: nowhere"]),
        (["list", "task"], ["nothing is listed under 'task'", "did you mean 'tasks'"]),
        (["sandbox", "nowhere.py"], ["cannot read nowhere.py"]),
        (["sandbox", "x.py", "--tier", "mnoty"], ["no sandbox tier 'mnoty'", "did you mean 'monty'"]),
        (["report", "nowhere"], ["no such run folder: nowhere"]),
        (["report", "."], [". is no run folder: it has no stages", "runs/RECIPE"]),
        (
            ["evaluate", "m"],
            ["Missing option '--suite'", "quickstart, quantities, gsm8k", "list suites", "FILE.jsonl"],
        ),
        (["solve"], ["Missing argument", "A model directory", "`ponderosa solve --help`"]),
        (["grade", "nowhere.jsonl", "--out", "x"], ["nowhere.jsonl"]),
        (["grade"], ["file"]),
        (["solve", "a", "b", "--max-tokens", "0"], ["--max-tokens"]),
        (["evaluate", "a", "--suite", "b", "--temperature", "-1"], ["--temperature"]),
        (
            ["frobnicate"],
            ["frobnicate", "Commands: run, solve, evaluate, grade, sandbox, report, list, doctor"],
        ),
        (["solve", "a", "b", "--samples", "0"], ["--samples", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_request_is_2_and_says_what_was_seen_and_what_is_allowed(
    arguments: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = call(list(arguments), monkeypatch, capsys)

    assert code == 2, errors
    assert output == ""
    assert "Traceback" not in errors
    for words in said:
        assert words in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize("where", [None, "nowhere"])
def test_a_run_whose_data_are_absent_is_2_before_anything_is_created(
    where: str | None, dry: list[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delenv("PONDEROSA_DATA", raising=False)
    if where:
        monkeypatch.setenv("PONDEROSA_DATA", where)

    code, output, errors = cli("run", "gsm8k", "--out", tmp_path / "run", *dry)

    assert (code, output) == (2, "")
    looked_in = (
        "PONDEROSA_DATA=nowhere, which is no folder" if where else "PONDEROSA_DATA, the folder to look in, is"
    )
    for words in (looked_in, "gsm8k_train.jsonl", ".[hub]", "gsm8k (train), gsm8k (test), svamp (test)"):
        assert words in errors
    assert list(tmp_path.iterdir()) == []


def test_a_problem_file_without_the_split_that_is_asked_for_is_2_before_anything_is_created(
    cli: Cli, tmp_path: Path
) -> None:
    rows = [{"question": f"{n}?", "answer": n, "split": "train"} for n in range(3)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = "- {name: measured, use: evaluate, model: base, suites: [{suite: own.jsonl}]}\n"
    (tmp_path / "r.yaml").write_text(f"name: r\nextends: quickstart-tiny\nstages:\n{measured}")

    code, _, errors = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run")

    assert code == 2
    assert "own.jsonl has no problem of split 'test'; its rows say train" in errors
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_its_downloaded_data_no_more(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = ModuleType("datasets")
    rows = [
        {"question": f"{n} + 2?", "answer": f"{n}+2=<<{n}+2={n + 2}>>{n + 2}\n#### {n + 2}"}
        for n in range(600)
    ]
    hub.load_dataset = lambda path, config, split: rows  # type: ignore[attr-defined]
    hub.config = SimpleNamespace(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE=False)  # type: ignore[attr-defined]
    monkeypatch.delenv("PONDEROSA_DATA", raising=False)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("task: quantities", "task: gsm8k"))

    codes = []
    for package in (hub, None):
        monkeypatch.setitem(sys.modules, "datasets", package)
        codes.append(cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run", "-q")[0])

    assert codes == [0, 0]


def test_a_second_run_in_the_same_folder_is_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    with lock_folder(tmp_path / "run"):
        code, _, errors = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run")

    assert code == 2
    assert "choose another folder with --out" in errors


def test_a_run_folder_that_is_a_file_is_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)

    for out in (tmp_path / "r.yaml", tmp_path / "r.yaml" / "run"):
        code, _, errors = cli("run", tmp_path / "r.yaml", "--out", out)
        assert code == 2
        assert "is no folder" in errors
        assert "choose another with --out" in errors


def test_a_disk_that_refuses_is_1_without_a_traceback(cli: Cli, tmp_path: Path) -> None:
    recipe = write_task(tmp_path, "raise OSError(28, 'No space left on device', 'solutions.parquet')")

    code, _, errors = cli("run", recipe, "--out", tmp_path / "run", "-q")

    assert code == 1
    assert errors == "error: [Errno 28] No space left on device: 'solutions.parquet'\n"


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_can_be_continued(
    sent: signal.Signals, expected: int, cli: Cli, tmp_path: Path
) -> None:
    recipe = write_task(tmp_path, f"import signal; signal.raise_signal({int(sent)})")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output, errors = cli("run", recipe, "--out", tmp_path / "run", "-q")
    finally:
        signal.signal(signal.SIGINT, handler)

    assert code == expected
    assert "the same command goes on from what was saved last" in errors
    assert "Traceback" not in errors
    assert output == ""


# Commands


def test_a_dry_run_shows_the_stages_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    code, output, _ = cli("run", "quickstart-tiny", "--dry-run", "--out", tmp_path / "run")

    lines = [line.split() for line in output.splitlines()]
    assert code == 0
    assert lines[0][:4] == ["stage", "kind", "state", "folder"]
    assert lines[1][:4] == ["problems", "solutions", "to", "do"]
    assert lines[10][0] == "total"
    assert len(lines) == 12
    assert not (tmp_path / "run").exists()


def test_a_run_shows_its_table_and_a_finished_one_is_not_done_again(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    first = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run")
    second = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run")
    dry = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run", "--dry-run")

    assert first[0] == second[0] == 0
    assert "[1/2] problems (solutions)" in first[2]
    assert "[2/2] textbook: finished earlier" in second[2]
    assert str(tmp_path / "run" / "report.html") in first[1]
    assert "finished" in dry[1]
    assert "to do" not in dry[1]
    assert cli("report", tmp_path / "run")[0] == 0


def test_a_quiet_run_says_only_its_result(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)

    code, output, errors = cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run", "-q")

    assert (code, errors) == (0, "")
    assert "summary" in output


def test_a_verbose_run_says_why_each_stage_is_run_or_skipped(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run")
    assert caplog.messages == []

    for arguments in (["--dry-run"], []):
        caplog.clear()
        cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run", "-v", *arguments)
        first, second = caplog.messages
        assert first.startswith("problems: key ")
        assert first.endswith("; skipped: finished earlier")
        assert "reads nothing" in second
    caplog.clear()
    cli("run", tmp_path / "r.yaml", "--out", tmp_path / "run", "--dry-run", "-v", "--set", "seed=1")
    assert "to do: nothing has this key; other keys: problems-" in caplog.messages[0]


def test_only_a_verbose_command_shows_where_an_error_arose() -> None:
    code = "import sys; from ponderosa.cli import main; sys.argv = ['ponderosa', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "sandbox", "no\x1bwhere.py"]
    quiet, verbose = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        for more in ([], ["-v"])
    )

    assert (quiet.returncode, verbose.returncode) == (2, 2)
    assert quiet.stderr.count("\n") == 1
    assert verbose.stderr.startswith("ponderosa: where the error arose\nTraceback")
    assert "RequestError: cannot read no⟨U+001B⟩where.py" in verbose.stderr
    assert verbose.stderr.endswith(quiet.stderr)


@pytest.mark.parametrize(
    ("source", "tier", "outcome"),
    [
        ("print(2**100)", "monty", "ok"),
        ("print(2**100)", None, "ok"),
        ("x = 1 / 0", "monty", "error"),
    ],
)
def test_sandbox_prints_one_json_object(
    cli: Cli, source: str, tier: str | None, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "step.py").write_text(source)

    code, output, _ = cli("sandbox", tmp_path / "step.py", *(["--tier", tier] if tier else []))

    shown = json.loads(output)
    assert code == 0
    assert list(shown) == ["outcome", "output", "error", "ms", "tier"]
    assert shown["outcome"] == outcome
    if outcome == "ok":
        assert shown["output"] == f"{2**100}\n"


def test_grade_adds_its_keys_keeps_the_rest_and_exits_1_for_rows_it_cannot_grade(
    cli: Cli, tmp_path: Path
) -> None:
    rows = [{"id": 7, "gold": "1/2", "candidate": "0.5"}, {"gold": "3", "candidate": "4", "note": "é"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")

    code, output, errors = cli("grade", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")

    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 1
    assert output.startswith("2 rows, 1 equal, 0 undecided, 1 more not graded, written to ")
    assert errors.startswith("not graded in.jsonl:3: not JSON")
    assert "not JSON" in graded.pop()["error"]
    assert [row["equal"] for row in graded] == [True, False]
    (tmp_path / "good.jsonl").write_text(json.dumps(rows[0]) + "\n")
    code, output, errors = cli("grade", tmp_path / "good.jsonl", "--out", tmp_path / "new" / "out.jsonl")
    assert (code, errors) == (0, "")
    assert "not graded" not in output
    for row, source in zip(graded, rows, strict=True):
        assert {key: row[key] for key in source} == source
        assert set(row) == {*source, "equal", "reason", "ms"}


@pytest.mark.parametrize("what", CATALOGUES)
def test_everything_there_is_to_choose_from_is_listed(what: str, cli: Cli) -> None:
    code, output, _ = cli("list", what)

    names = [line.split()[0] for line in output.splitlines()]
    assert code == 0
    assert names == list(CATALOGUES[what]())
    expected = {
        "tasks": "quantities",
        "suites": "gsm8k",
        "strategies": "greedy",
        "engines": "native",
        "stages": "pretrain",
        "recipes": "quickstart",
    }
    assert expected[what] in names


def test_list_alone_says_what_there_is_to_list_and_how(cli: Cli) -> None:
    code, output, errors = cli("list")

    *kinds, empty, hint = output.splitlines()
    assert (code, errors, empty) == (0, "", "")
    assert [line.split()[0] for line in kinds] == list(CATALOGUES)
    assert "`ponderosa list recipes`" in hint


def test_doctor_says_what_the_machine_can_do(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "svamp_test.jsonl").touch()
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    code, output, _ = cli("doctor")
    monkeypatch.delenv("PONDEROSA_DATA")

    assert code == 0
    assert output.endswith("benchmark data     svamp_test\n")
    assert "gsm8k_train, gsm8k_test, svamp_test, math500 (.jsonl or .jsonl.gz)" in cli("doctor")[1]
    for finding in ("machine", "cuda", "sandbox monty", "sandbox cpython", "reasoning_gym", "benchmark data"):
        assert f"\n{finding} " in f"\n{output}"


def test_solve_shows_an_answer_or_none(model: Path, cli: Cli) -> None:
    code, output, errors = cli("solve", model, "Tom has 3 apples. How many?", "--max-tokens", "8")

    assert (code, errors) == (0, "")
    assert output.splitlines()[-1].startswith("answer: ")


def test_evaluate_writes_its_rows(model: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    arguments = [
        "--limit",
        "3",
        "--max-tokens",
        "8",
        "--strategy",
        "majority",
        "--samples",
        "2",
        "--json",
        out,
    ]

    code, output, errors = cli("evaluate", model, "--suite", "quantities", *arguments, "-q")

    assert (code, errors) == (0, "")
    assert "pass@1" in output
    rows = json.loads(out.read_text())["rows"]
    assert {row["n"] for row in rows if row["slice"] == "all"} == {3}
    assert {row["samples"] for row in rows} == {2}
    assert all(row["eval_s"] > 0 for row in rows)


def test_evaluate_says_which_rows_of_a_file_it_leaves_out(
    model: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}?", "answer": n, "split": split} for n, split in enumerate(("test", "train"))]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"answer": 1}]))

    code, _, errors = cli("evaluate", model, "--suite", "rows.jsonl", "--max-tokens", "8")

    assert code == 0
    assert errors.splitlines()[:3] == [
        "left out rows.jsonl:3: 'question' is missing or empty",
        "left out 1 malformed in all; the figures are of 1 problem",
        "left out rows.jsonl: 1 of 3 rows are of split train, not test",
    ]


def test_evaluate_takes_the_options_of_a_task(model: Path, cli: Cli, tmp_path: Path) -> None:
    arguments = ["evaluate", model, "--suite", "quantities", "--limit", "4", "--max-tokens", "4", "-q"]
    options = ["--set", "min_operations=5", "--set", "relations=[more, fewer]"]

    assert cli(*arguments, *options, "--json", tmp_path / "rows.json")[0] == 0
    wrong = [cli(*arguments, "--set", text) for text in ("max_operation=2", "max_operations=0", "5")]

    slices = {row["slice"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert {name for name in slices if name.startswith("operations")} == {"operations=5", "operations=6"}
    assert [code for code, _, _ in wrong] == [2, 2, 2]
    for (_, _, errors), said in zip(
        wrong,
        ("did you mean 'max_operations'", "greater than or equal to 1", "write path=value"),
        strict=True,
    ):
        assert said in errors


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--format", "plian", "unknown prompt format 'plian'"),
        ("--strategy", "greddy", "did you mean 'greedy'"),
        ("--dtype", "int8", "unknown dtype 'int8'"),
        ("--device", "gpu", "no device 'gpu'; allowed: auto, cpu, cuda, mps (on this machine: auto, cpu"),
    ],
)
def test_a_wrong_option_of_solve_is_2(option: str, value: str, said: str, model: Path, cli: Cli) -> None:
    code, _, errors = cli("solve", model, "1 + 1?", option, value)

    assert code == 2
    assert said in errors


def test_a_question_longer_than_the_context_is_2(model: Path, cli: Cli) -> None:
    code, _, errors = cli("solve", model, "apples " * 2000)

    assert code == 2
    assert "context" in errors


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_2(question: str, model: Path, cli: Cli) -> None:
    code, output, errors = cli("solve", model, question)

    assert (code, output) == (2, "")
    assert "the question is empty" in errors


def test_a_suite_that_is_no_suite_is_2(model: Path, cli: Cli) -> None:
    code, _, errors = cli("evaluate", model, "--suite", "quantites")

    assert code == 2
    assert "no suite 'quantites'; did you mean 'quantities'? (allowed: gsm8k, " in errors
    assert errors.endswith("also gym/NAME, FILE.jsonl, FILE.py:NAME\n")


def test_a_folder_around_a_model_and_a_misspelt_one_are_2_and_name_the_model(model: Path, cli: Cli) -> None:
    stage, run = model.parent, model.parents[2]
    for seen, said in (
        (stage, f"inside it there is {model}"),
        (run, f"inside it there is {run / 'models' / 'base'}"),
        (run / "models" / "bsae", f"did you mean '{run / 'models' / 'base'}'?"),
        (run / "modles" / "base", f"did you mean '{run / 'models' / 'base'}'?"),
        (model / "config.json", "no model directory"),
    ):
        code, _, errors = cli("solve", seen, "1 + 1?")
        assert code == 2
        assert said in errors


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version") == (0, f"ponderosa {version('ponderosa')}\n", "")


def test_a_record_of_a_run_gets_no_report(cli: Cli, tmp_path: Path) -> None:
    for name in ("manifest.json", "summary.json"):
        (tmp_path / name).write_text("{}")

    code, output, errors = cli("report", tmp_path)

    assert (code, output) == (2, "")
    assert "is a record" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "summary.json"]


HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]bold\u202e\r\x9b31m"


def test_hostile_model_text_is_escaped_on_the_terminal(
    model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ponderosa import api
    from ponderosa.records import Step

    class Hostile:
        def __enter__(self) -> "Hostile":
            return self

        def __exit__(self, *_: object) -> None: ...

        def solve(self, *_: object, **__: object) -> api.Solution:
            steps = (
                Step(text=HOSTILE, code=HOSTILE, observation=HOSTILE, outcome="ok"),
                Step(text="x", code="x", observation=HOSTILE, outcome="error"),
            )
            return api.Solution(HOSTILE, steps, ())

    monkeypatch.setattr(api, "load", lambda *_, **__: Hostile())
    code, output, _ = cli("solve", model, "1 + 1?")

    assert code == 0
    assert "[red]bold" in output
    assert all(char == "\n" or char.isprintable() for char in output), ascii(output)


def test_a_hostile_name_is_escaped_in_an_error(cli: Cli) -> None:
    code, _, errors = cli("list", HOSTILE)

    assert code == 2
    assert all(char == "\n" or char.isprintable() for char in errors)


def test_a_foreign_directory_is_asked_through_its_chat_template(cli: Cli, tmp_path: Path) -> None:
    folder = save_foreign_model(tmp_path / "foreign")

    code, output, errors = cli("solve", folder, "1 + 1?", "--max-tokens", "6")

    assert (code, errors) == (0, "")
    assert "answer: " in output
