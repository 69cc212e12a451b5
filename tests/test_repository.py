"""What the repository promises about itself: its pages, commands, recipes and recorded figures."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ponderosa.artifacts import read_json
from ponderosa.cli import app
from ponderosa.errors import DataError
from ponderosa.planning import RECIPES, list_recipes, load_recipe, plan_recipe, plan_runs
from synthetic_comparison import build_comparison
from synthetic_run import build_run, write_json
from synthetic_sweep import ARMS, build_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
HEAVY = ("torch", "transformers", "pyarrow", "numpy", "sympy")


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.fixture(scope="module")
def recording() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "bench" / "record.py"))


def list_commands(text: str) -> list[str]:
    """Every `ponderosa` line of a page's shell blocks, comments and the virtual environment's path removed."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix(".venv/bin/") for block in blocks for line in block.split("\n")]
    return [line for line in lines if line.startswith("ponderosa ")]


COMMANDS = [(page.name, line) for page in PAGES for line in list_commands(page.read_text("utf-8"))]


def test_help_imports_no_heavy_package() -> None:
    code = f"""
import sys
from ponderosa.cli import main
sys.argv = ["ponderosa", "--help"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_import_ponderosa_imports_no_heavy_package() -> None:
    code = f"import ponderosa, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:50]}" for page, line in COMMANDS])
def test_every_documented_command_is_understood(page: str, line: str) -> None:
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)


def test_the_readme_documents_every_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in names if f"| `{name}` |" not in readme] == []


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_plans_without_data(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    stages = plan_recipe(recipe, RECIPES)
    assert recipe.name == name
    assert recipe.description
    assert {recipe.headline["metric"]} <= {"pass@1", "pass@8", "majority@8"}
    assert set(recipe.headline["models"]) <= {stage.name for stage in stages}


def test_the_recipe_in_the_documentation_plans_with_every_stage_shown_behind_it(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    recipe, sweep, *more = re.findall(r"^```yaml\n(.*?)^```", text, re.S | re.M)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    assert len(plan_recipe(load_recipe(path), tmp_path)) == 7
    path.write_text(recipe + "".join(more))
    assert len(plan_recipe(load_recipe(path), tmp_path)) == 7 + sum(part.count("use: ") for part in more)
    path.write_text(recipe.replace("seed: 0\n", sweep))
    assert len(plan_runs(load_recipe(path), tmp_path)) == 3 * (7 + 2)


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md", "docs/results.md", "docs/search.md"])
def test_generated_tables_are_what_would_be_generated(page: str, tables: dict[str, Any]) -> None:
    text = (ROOT / page).read_text("utf-8")
    to_root = tables["find_root"](page)
    assert tables["fill_regions"](text, ROOT / "results", to_root) == text, "run `make tables`"


def test_plots_of_recorded_comparisons_are_what_would_be_drawn(tables: dict[str, Any]) -> None:
    for path, text in tables["draw_plots"](ROOT / "results").items():
        assert path.read_text("utf-8") == text, "run `make tables`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_recorded_result_a_page_names_is_committed_whole(page: Path) -> None:
    names = set(re.findall(r"results/([a-z0-9][a-z0-9_-]*)", page.read_text("utf-8")))
    for name in names:
        for file in ("summary.json", "manifest.json"):
            assert (ROOT / "results" / name / file).is_file(), f"{page.name} names results/{name}"


def test_every_log_entry_says_where_its_figures_are() -> None:
    log = (ROOT / "LOG.md").read_text("utf-8")
    entries = re.split(r"^## ", log, flags=re.MULTILINE)[1:]
    assert entries
    silent = [
        one.split("\n")[0] for one in entries if not re.search(r"`results/[a-z]|no figures were kept", one)
    ]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_no_tracked_file_holds_a_path_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    foreign = re.compile(r"/(?:work|root|home|Users)/")
    found = [
        name
        for name in listed.decode().split("\0")
        if name and (ROOT / name).is_file() and foreign.search((ROOT / name).read_text("utf-8", "replace"))
    ]
    assert found == []


def test_a_recorded_run_becomes_a_line_for_each_model(
    tables: dict[str, Any], recording: dict[str, Any], tmp_path: Path
) -> None:
    run = build_run(tmp_path / "demo")
    folder = recording["record_run"](run, tmp_path / "results")
    rows = [row for row in read_json(run / "summary.json")["rows"] if row["slice"] == "all"]
    expected = {row["model"] for row in rows if row["metric"] == "pass@1"}
    lines = tables["render_run"](folder).split("\n")
    assert all(any(f"| {model}" in line for line in lines) for model in expected)
    assert lines[-1].startswith("Run: [`results/demo`]")

    suite = rows[0]["suite"]
    of_one = tables["render_run"](folder, [suite]).split("\n")[2:-2]
    assert of_one == [line for line in lines[2:-2] if re.match(rf"\| {suite}( |,)", line)]


def test_a_recorded_sweep_becomes_a_table_of_its_arms(
    tables: dict[str, Any], recording: dict[str, Any], tmp_path: Path
) -> None:
    folder = recording["record_run"](build_sweep(tmp_path / "demo"), tmp_path / "results")
    lines = tables["render_run"](folder).split("\n")
    assert lines[0] == "**midtrain on quantities (greedy), pass@1**"
    assert [line.split(" | ")[0] for line in lines[4:7]] == [f"| {arm}" for arm in ARMS]

    summary = read_json(folder / "summary.json")
    del summary["sweep"]
    write_json(folder / "summary.json", summary)
    header, _, base, first, *_ = tables["render_run"](folder).split("\n")
    assert "| seeds |" in header
    assert re.search(r"\| base \|.*\| 3: [\d.]+–[\d.]+% \|", base)
    assert re.search(r"points \[[\d.]+, [\d.]+\], p = ", first)
    assert first.endswith("| 1 min 33 s | 0 |")


def test_a_recorded_comparison_becomes_a_table_and_a_plot_beside_its_results(
    tables: dict[str, Any], recording: dict[str, Any], tmp_path: Path
) -> None:
    folder = recording["record_run"](build_comparison(tmp_path / "demo"), tmp_path / "results")
    title, *_, plot, _, source = tables["render_run"](folder, ["strategies"], "../").split("\n")
    assert title == "**strategies: policy-4, 400 problems**"
    assert plot == "![Accuracy by strategy over tokens](../results/demo/strategies.svg)"
    assert source.startswith("Run: [`results/demo`](../results/demo/manifest.json)")
    assert list(tables["draw_plots"](tmp_path / "results")) == [folder / "strategies.svg"]
    assert "strategies" not in tables["render_run"](folder, ["quantities"])


def test_a_run_that_is_not_finished_is_not_recorded(recording: dict[str, Any], tmp_path: Path) -> None:
    run = build_run(tmp_path / "demo")
    done = next(run.glob("stages/*/DONE"))
    done.unlink()
    with pytest.raises(DataError, match=done.parent.name):
        recording["record_run"](run, tmp_path / "results")


def test_a_benchmark_shows_the_peer_that_comes_closest(
    tables: dict[str, Any], recording: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "demo.py"
    script.write_text(
        "import json, sys\n"
        "row = {'work': 'digging', 'unit': 'm/s', 'ours': 8, 'target': 2}\n"
        "peers = [('spoon', 1), ('spade', 4)]\n"
        "rows = [{**row, 'peer': peer, 'theirs': speed, 'ratio': 8 / speed} for peer, speed in peers]\n"
        "json.dump({'schema': 1, 'rows': rows}, open(sys.argv[-1], 'w'))\n"
    )
    recording["record_benchmark"](script, [], tmp_path / "results")
    rendered = tables["render_bench"](tmp_path / "results")
    assert "| digging | spade | 4 m/s | 8 m/s | **2×** | 2× |" in rendered
    assert "spoon" not in rendered
    assert "| digging | spade | **2×** | 2× |" in tables["render_aims"](tmp_path / "results")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-C", str(ROOT), f"PYTHON={old}", f"VENV={tmp_path}/venv", "quickstart"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11 or later" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (tmp_path / "venv").exists()
