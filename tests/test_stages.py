"""Stages: what each reads and writes, and that an interrupted one continues to the same result."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ponderosa.artifacts import Journal, read_json, read_table, write_json
from ponderosa.data.rows import build_row
from ponderosa.engines.codec import HFCodec
from ponderosa.errors import ConfigError, DataError, RequestError
from ponderosa.formats import CHAT_CODE, load_format
from ponderosa.planning import plan_recipe
from ponderosa.progress import SILENT
from ponderosa.records import Problem, Step
from ponderosa.sandbox import Sandbox
from ponderosa.stages import evaluate, import_model, midtrain, sft, solutions, textbook
from ponderosa.stages.solutions import load_solutions, work_out_problems
from ponderosa.stages.stage import PRODUCTS, STAGES, Context, get_stage
from ponderosa.stages.training_data import SolutionData, build_training_rows
from ponderosa.stages.training_stage import leave_out_long
from ponderosa.steps import Example
from ponderosa.tasks.worked import Unsolved, WorkedSolution
from ponderosa.training.tokenizer import train_tokenizer
from tiny_runs import (
    BASE,
    EVALUATE_BASE,
    FAMILY,
    GROWN,
    MIDTRAINED,
    PROBLEMS,
    SFT,
    TEXTBOOK,
    TOKENIZER,
    build_recipe,
    find_stage,
    run_tiny,
    save_foreign_model,
)


def build_context(folder: Path, inputs: dict[str, Path] | None = None, **changes: Any) -> Context:
    settings = {
        "name": "stage",
        "folder": folder,
        "inputs": inputs or {},
        "base": folder,
        "seed": 0,
        "device": "cpu",
        "dtype": "auto",
        "workers": 1,
        "progress": SILENT,
    }
    return Context(**{**settings, **changes})


class Flawed:
    """Works problems out, some of them badly."""

    name, source_hash = "flawed", ""

    def generate(self, count: int, seed: int, split: str, **_: Any) -> Iterable[Problem]:
        return []

    def work_out(self, problem: Problem) -> WorkedSolution | Unsolved:
        if problem.question == "refused":
            return Unsolved("too_hard")
        steps = [Step(text=code, code=code) for code in problem.question.split(";")]
        return WorkedSolution(tuple(steps), "")


class CountingSandbox:
    """A sandbox that counts the solutions it runs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.num_run = sandbox, 0

    def run_many(self, codes: Sequence[Sequence[str]]) -> Any:
        self.num_run += len(codes)
        return self.sandbox.run_many(codes)


@pytest.fixture(scope="module")
def sandbox() -> Iterable[Sandbox]:
    with Sandbox(workers=1) as box:
        yield box


@pytest.fixture(scope="module")
def grown_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "grown"
    run_tiny(out, *GROWN)
    return out


@pytest.mark.parametrize("kind", STAGES)
def test_every_kind_of_stage_has_what_a_stage_needs(kind: str) -> None:
    stage = get_stage(kind)

    assert stage.VERSION >= 1
    assert stage.Config.__doc__
    assert callable(stage.run)
    assert kind in PRODUCTS


# Solutions


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("print(2)", None),
        ("refused", "too_hard"),
        ("print(3)", "wrong_answer"),
        ("x = 2", "wrong_answer"),
        ("x = 1;print(y)", "step_error"),
    ],
)
def test_every_problem_is_kept_or_dropped_with_its_reason(
    question: str, reason: str | None, sandbox: Sandbox
) -> None:
    problem = Problem(question=question, answer="2")

    (record,) = work_out_problems(Flawed(), [problem], sandbox)  # type: ignore[arg-type]

    assert record.get("reason") == reason
    assert record["id"] == problem.id


def test_kept_solutions_carry_what_their_steps_printed(grown_run: Path) -> None:
    kept = list(load_solutions(find_stage(grown_run, "problems")))

    assert len(kept) == 40
    for problem, worked in kept:
        assert [step.outcome for step in worked.steps] == ["ok"] * len(worked.steps)
        assert worked.steps[-1].observation == problem.answer
        assert problem.meta["operations"] in (1, 2)
        assert worked.prose.endswith(f"#### {problem.answer}")


def test_solutions_found_in_the_journal_are_not_worked_out_again(tmp_path: Path, sandbox: Sandbox) -> None:
    source = solutions.Source(task="quantities", count=1200, options=FAMILY)
    context = build_context(tmp_path)
    counting = CountingSandbox(sandbox)
    with Journal(tmp_path / "journal.jsonl") as journal:
        solutions._work_source(0, source, context, journal, counting)  # type: ignore[arg-type]
        whole = dict(journal.units)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:800]))

    counting.num_run = 0
    with Journal(tmp_path / "journal.jsonl") as journal:
        solutions._work_source(0, source, context, journal, counting)  # type: ignore[arg-type]
        assert journal.units == whole

    assert [len(records) for records in whole.values()] == [500, 500, 200]
    assert counting.num_run == 700


def test_a_malformed_row_is_counted_and_never_dropped_in_silence(tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").write_text(
        '{"question": "1 + 1?", "answer": "2", "split": "test"}\n{"answer": 3}\n'
    )
    run_tiny(tmp_path / "run", *GROWN, {**EVALUATE_BASE, "suites": [{"suite": "exam.jsonl"}]}, base=tmp_path)

    (dropped,) = read_json(find_stage(tmp_path / "run", "evaluate-base") / "manifest.json")["counts"][
        "dropped"
    ].items()

    assert dropped[0].startswith("exam.jsonl: ")
    assert dropped[1] == 1


# Textbook and tokenizer


def test_a_textbook_page_is_the_prompt_and_its_prose(grown_run: Path) -> None:
    ((documents),) = textbook.load_chapters(find_stage(grown_run, "textbook"))
    told = {problem.question for problem, _ in load_solutions(find_stage(grown_run, "problems"))}

    assert len(documents) == 30
    for question, prose in documents[:20]:
        assert question.removeprefix("Question: ").removesuffix("\nSolution:") in told
        assert prose.startswith(" ")
    assert not any("<|" in piece for pieces in documents for piece in pieces)


def test_pages_without_their_solutions_are_refused(tmp_path: Path) -> None:
    part = textbook.Part(kind="pages", documents=1)

    with pytest.raises(ConfigError, match="needs `solutions: STAGE`"):
        list(textbook.write_part(part, {}, 0))


def test_a_grown_prompt_ends_where_a_document_has_a_token_boundary(grown_run: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_stage(grown_run, "tokenizer") / "tokenizer")
    codec = HFCodec(tokenizer)
    prompt_format = load_format(find_stage(grown_run, "base") / "model")
    ((documents),) = textbook.load_chapters(find_stage(grown_run, "textbook"))
    question = documents[0][0].removeprefix("Question: ").removesuffix("\nSolution:")

    assert codec.encode_prompt(prompt_format, question) == codec.encode(documents[0][0])


# Training


def test_training_data_without_a_fitting_problem_is_refused(grown_run: Path) -> None:
    data = SolutionData(solutions=("problems",), min_operations=9)
    context = build_context(grown_run, {"problems": find_stage(grown_run, "problems")})
    codec = HFCodec(train_tokenizer(["a"], 320))

    with pytest.raises(ConfigError, match="no solution of problems has 9 to any number of operations"):
        build_training_rows(data, CHAT_CODE, codec, context)


def test_the_dtype_of_a_run_is_the_one_trained_in(grown_run: Path, tmp_path: Path) -> None:
    inputs = {name: find_stage(grown_run, name) for name in ("base", "problems")}
    config = sft.Config(model="base", data=SolutionData(solutions=("problems",), limit=4))

    for dtype in ("float32", "bfloat16"):
        outcome = sft.run(config, build_context(tmp_path / dtype, inputs, dtype=dtype))
        assert outcome.facts["dtype"] == dtype


def test_packed_rows_longer_than_the_models_context_are_refused(grown_run: Path, tmp_path: Path) -> None:
    inputs = {name: find_stage(grown_run, name) for name in ("base", "problems")}
    config = midtrain.Config(data=SolutionData(solutions=("problems",)), row_length=513)

    with pytest.raises(ConfigError, match=r"row_length 513 .* context of 512 tokens; allowed: 2 to 512"):
        midtrain.run(config, build_context(tmp_path, inputs))
    with pytest.raises(ConfigError, match="row_length 513"):
        plan_recipe(build_recipe(PROBLEMS, TEXTBOOK, TOKENIZER, {**BASE, "row_length": 513}), tmp_path)


def test_a_solution_longer_than_the_context_is_left_out_and_counted() -> None:
    rows = [build_row([5] * length, [True] * length) for length in (8, 9, 10, 9)]

    assert leave_out_long(rows, 9) == ([rows[0], rows[1], rows[3]], {"longer_than_context": 1})
    assert leave_out_long(rows, 10) == (rows, {})
    with pytest.raises(DataError, match="none of the 4 solutions fits the model's context of 7 tokens"):
        leave_out_long(rows, 7)


def test_fine_tuning_trains_on_no_row_longer_than_the_context(grown_run: Path, tmp_path: Path) -> None:
    problems, base = find_stage(grown_run, "problems"), find_stage(grown_run, "base")
    codec = HFCodec(AutoTokenizer.from_pretrained(base / "model"))
    data = SolutionData(solutions=("problems",))
    context = build_context(tmp_path, {"problems": problems, "base": tmp_path / "short"})
    lengths = [
        len(row.token_ids)
        for row in build_training_rows(data, load_format(base / "model"), codec, context).rows
    ]
    shutil.copytree(base / "model", tmp_path / "short" / "model")
    settings = read_json(tmp_path / "short" / "model" / "config.json")
    settings["max_position_embeddings"] = sorted(lengths)[20]
    write_json(tmp_path / "short" / "model" / "config.json", settings)

    outcome = sft.run(sft.Config(model="base", data=data), context)

    num_long = sum(length > sorted(lengths)[20] for length in lengths)
    assert outcome.dropped == {"longer_than_context": num_long}
    assert outcome.kept == outcome.facts["documents"] == 40 - num_long


def test_a_stage_killed_after_its_last_step_keeps_its_model(grown_run: Path, tmp_path: Path) -> None:
    inputs = {name: find_stage(grown_run, name) for name in ("base", "problems")}
    config = sft.Config(model="base", data=SolutionData(solutions=("problems",), limit=8))
    context = build_context(tmp_path, inputs)
    first = sft.run(config, context)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    log = (tmp_path / "metrics.jsonl").read_bytes()

    again = sft.run(config, context)

    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert again.ledger == first.ledger
    assert again.facts == first.facts


def test_few_shot_prompts_are_shown_to_the_share_that_was_asked_for(grown_run: Path) -> None:
    prompt_format = CHAT_CODE.model_copy(
        update={"layout": "plain", "system": None, "few_shot": (Example("q", "s" * 400),)}
    )
    context = build_context(grown_run, {"problems": find_stage(grown_run, "problems")})
    codec = HFCodec(AutoTokenizer.from_pretrained(find_stage(grown_run, "tokenizer") / "tokenizer"))

    for frac in (0.0, 0.5, 1.0):
        data = SolutionData(solutions=("problems",), few_shot_frac=frac)
        rows, _ = build_training_rows(data, prompt_format, codec, context)
        share = sum("ssss" in codec.decode(row.token_ids) for row in rows) / len(rows)
        assert share == pytest.approx(frac, abs=0.25 if frac == 0.5 else 0)


# Evaluation


def test_an_evaluation_killed_after_its_table_writes_the_same_one(grown_run: Path, tmp_path: Path) -> None:
    inputs = {"base": find_stage(grown_run, "base")}
    values = {key: value for key, value in EVALUATE_BASE.items() if key not in ("name", "use")}
    config = evaluate.Config.model_validate(values)
    tables = []
    for _ in range(2):
        evaluate.run(config, build_context(tmp_path, inputs))
        rows = read_json(tmp_path / "rows.json")["rows"]
        tables.append([{**row, "eval_s": 0.0} for row in rows])

    assert tables[0] == tables[1]
    attempts = read_table(tmp_path / "attempts" / "quantities-greedy.parquet")
    verdicts = read_table(tmp_path / "verdicts" / "quantities-greedy.parquet")
    assert [a["problem_id"] for a in attempts] == [v["problem_id"] for v in verdicts]


def test_the_seconds_of_an_interrupted_evaluation_are_counted_suite_by_suite(
    grown_run: Path, tmp_path: Path
) -> None:
    suites = [{**EVALUATE_BASE["suites"][0], "label": label} for label in ("killed", "fresh")]  # type: ignore[index]
    config = evaluate.Config.model_validate({"model": "base", "suites": suites, "max_tokens": 4})
    write_json(tmp_path / "seconds-killed-greedy.json", 1000.0)

    evaluate.run(config, build_context(tmp_path, {"base": find_stage(grown_run, "base")}))

    spent = {row["suite"]: row["eval_s"] for row in read_json(tmp_path / "rows.json")["rows"]}
    assert 1000 < spent["killed"] < 1060
    assert 0 < spent["fresh"] < 60


def test_an_evaluation_that_lacks_the_suite_cannot_be_compared_with(grown_run: Path) -> None:
    other = {**EVALUATE_BASE, "name": "other", "compare_to": "evaluate-base"}
    other["suites"] = [{**EVALUATE_BASE["suites"][0], "label": "another"}]  # type: ignore[index]

    with pytest.raises(ConfigError, match="that evaluation has no suite 'another'"):
        run_tiny(grown_run, *GROWN, EVALUATE_BASE, other)


# Somebody else's checkpoint


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_foreign_checkpoint_goes_through_midtraining_and_fine_tuning(
    architecture: str, tmp_path: Path
) -> None:
    source = save_foreign_model(tmp_path / "foreign", architecture)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    out = tmp_path / "run"
    solved = {**EVALUATE_BASE, "name": "evaluate-sft", "model": "sft"}

    imported = {"name": "base", "use": "import_model", "path": str(source)}

    run_tiny(out, PROBLEMS, imported, MIDTRAINED, SFT, solved)

    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    for name in ("base", "midtrained", "sft"):
        model_dir = find_stage(out, name) / "model"
        assert load_format(model_dir) == CHAT_CODE
        assert AutoTokenizer.from_pretrained(model_dir).chat_template
        assert AutoModelForCausalLM.from_pretrained(model_dir).config.model_type == architecture
    assert read_json(out / "summary.json")["rows"]


def test_rows_for_a_foreign_model_are_its_chat_prompt_and_fenced_steps(
    grown_run: Path, tmp_path: Path
) -> None:
    source = save_foreign_model(tmp_path / "foreign")
    codec = HFCodec(AutoTokenizer.from_pretrained(source))
    context = build_context(tmp_path, {"problems": find_stage(grown_run, "problems")})
    data = SolutionData(solutions=("problems",), few_shot_frac=0)

    rows, _ = build_training_rows(data, CHAT_CODE, codec, context)

    for row in rows:
        text = codec.decode(row.token_ids)
        assert text.startswith("[system] Solve the problem step by step.")
        written = "".join(
            codec.decode([token])
            for token, weight in zip(row.token_ids, row.loss_weights, strict=True)
            if weight and token != codec.eos_id
        )
        assert written.startswith("\n```python\n# ")
        assert written.endswith("\n```\n")
        assert "```output" in text
        assert "```output" not in written
        assert "[user]" not in written
        assert row.token_ids[-1] == codec.eos_id
        assert row.loss_weights[-1] > 0


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "has no config.json"), (("config.json", "pytorch_model.bin"), r"holds no \*\.safetensors")],
)
def test_a_folder_that_is_no_safe_checkpoint_is_refused(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")

    with pytest.raises(RequestError, match=message):
        import_model.find_checkpoint(".", tmp_path)


def test_importing_again_after_a_kill_gives_the_same_folder(tmp_path: Path) -> None:
    source = save_foreign_model(tmp_path / "foreign")
    config = import_model.Config(path=str(source), format="chat")
    context = build_context(tmp_path / "stage")
    (tmp_path / "stage" / ".model.tmp").mkdir(parents=True)

    for _ in range(2):
        import_model.run(config, context)

    assert {path.name for path in (tmp_path / "stage").iterdir()} == {"model"}
    assert load_format(tmp_path / "stage" / "model").name == "chat"


def test_the_single_stage_control_trains_on_code_solutions_too() -> None:
    control = {**BASE, "name": "control", "also": {"solutions": ["problems"]}}

    stages = {stage.name: stage for stage in plan_recipe(build_recipe(*GROWN, control), Path())}

    assert stages["control"].needs == ("textbook", "tokenizer", "problems")
