"""Fill the generated regions of the documentation: `<!-- NAME -->` to `<!-- /NAME -->`.

    python docs/tables.py            write them
    python docs/tables.py --check    exit 1, naming the files, if one is not what would be written

`run NAME [SUITE,...]` is the stage table of results/NAME, all of it or some suites, or of a sweep its arms; then its comparisons of strategies, each
with a plot that is written beside the results (SUITE then is the comparing stage). `bench` (linked from docs/) the rows of every
results/bench-*, `aims` those that have an aim in one table, `stages` the configuration of every stage kind, `strategies` the parameters of every strategy. What has
not been measured says so.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ponderosa.artifacts import read_json
from ponderosa.report.arms import list_arm_tables
from ponderosa.report.coverage import list_coverage
from ponderosa.report.numbers import (
    MISSING,
    format_amount,
    format_count,
    format_duration,
    format_interval,
    format_p,
    format_percent,
    format_points,
    format_range,
)
from ponderosa.report.strategies import Comparison, draw_plot, list_comparisons
from ponderosa.report.table import StageLine, list_shown_rows, list_stage_lines
from ponderosa.report.terminal import render_arm_table, render_comparison, render_coverage
from ponderosa.search.registry import CLASSES
from ponderosa.stages.stage import STAGES, get_stage
from ponderosa.tasks.quantities.task import QuantitiesOptions

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/recipes.md", "docs/results.md", "docs/search.md", "docs/speed.md")
NOT_MEASURED = "*Not measured yet.*"

Rows = Sequence[Sequence[str]]


def fill_regions(text: str, results: Path, to_root: str = "") -> str:
    """The text with every generated region written anew. to_root: what leads from the page to the README's folder."""
    pattern = re.compile(
        r"<!-- (run \S+(?: \S+)?|bench|aims|stages|strategies) -->\n.*?<!-- /\1 -->", re.DOTALL
    )
    return pattern.sub(
        lambda match: (
            f"<!-- {match[1]} -->\n{render_region(match[1], results, to_root)}\n<!-- /{match[1]} -->"
        ),
        text,
    )


def render_region(name: str, results: Path, to_root: str = "") -> str:
    """The Markdown of one region."""
    kind, _, argument = name.partition(" ")
    if kind == "run":
        name, _, suites = argument.partition(" ")
        return render_run(results / name, suites.split(",") if suites else None, to_root)
    if kind == "bench":
        return render_bench(results)
    if kind == "aims":
        return render_aims(results)
    return "\n\n".join(render_stages() if kind == "stages" else render_strategies())


def render_run(folder: Path, suites: Sequence[str] | None = None, to_root: str = "") -> str:
    """A recorded run: one line for each model and suite, its slices beside it; of a sweep, the tables of its arms; what
    its searches covered, and its comparisons of strategies.

    suites: the only ones to show.
    """
    if not (folder / "summary.json").exists():
        return NOT_MEASURED
    summary, manifest = read_json(folder / "summary.json"), read_json(folder / "manifest.json")
    metric = manifest["recipe"].get("headline", {}).get("metric", "pass@1")
    arms = list_arm_tables(summary["rows"], summary.get("sweep", {}))
    blocks = [render_arm_table(table, layout="markdown") for table in arms]
    if suites:
        summary["rows"] = [row for row in summary["rows"] if row["suite"] in suites]
    if not blocks and list_stage_lines(summary["rows"], summary["tests"], metric):
        blocks = [render_run_stages(summary, metric)]
    if covered := list_coverage(summary["rows"], summary["tests"]):
        blocks.append(render_coverage(covered, layout="markdown"))
    for one in list_comparisons(summary["rows"], summary["tests"]):
        plot = f"![Accuracy by strategy over tokens]({to_root}results/{folder.name}/{name_plot(one)})"
        blocks += [render_comparison(one, layout="markdown"), plot]
    source = (
        f"Run: [`results/{folder.name}`]({to_root}results/{folder.name}/manifest.json). {describe(manifest)}"
    )
    return "\n\n".join([*blocks, source])


def draw_plots(results: Path) -> dict[Path, str]:
    """Every file that plots a recorded comparison of strategies, with its content."""
    plots: dict[Path, str] = {}
    for path in sorted(results.glob("*/summary.json")):
        summary = read_json(path)
        for one in list_comparisons(summary["rows"], summary.get("tests", ())):
            plots[path.parent / name_plot(one)] = f"{draw_plot(one)}\n"
    return plots


def name_plot(comparison: Comparison) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", f"{comparison.name} {comparison.arm}".strip().lower()) + ".svg"


def render_run_stages(summary: Mapping[str, Any], metric: str) -> str:
    """The stage table of a run; over several training seeds where it has them, costs then of one."""
    lines = list_stage_lines(summary["rows"], summary["tests"], metric)
    shown = list_shown_rows(summary["rows"])
    slices = {
        name: [find_slice(shown, line, name) for line in lines] for name in list_slices(shown, lines[0].suite)
    }
    counts = {name: {row["n"] for row in found if row} for name, found in slices.items()}
    is_even = all(len(of_slice) == 1 for of_slice in counts.values())  # then the heading says n
    has_seeds = any(line.seed_values for line in lines)
    header = [
        "suite",
        "model",
        f"{metric} [95% interval]",
        *(["seeds"] if has_seeds else []),
        "n",
        *(name.replace("=", " ") + (render_count(*counts[name]) if is_even else "") for name in slices),
        "against the model before",
        "grown in, a seed" if has_seeds else "grown in",
        "training FLOPs",
    ]
    rows = [
        [
            line.suite if line.strategy == "greedy" else f"{line.suite}, {line.strategy}",
            line.label,
            f"**{format_percent(line.row['value'])}** {format_interval(line.row['low'], line.row['high'])}",
            *([f"{len(line.seed_values)}: {format_range(line.seed_values)}"] if has_seeds else []),
            format_count(line.row["n"]),
            *(render_slice(found[place], with_count=not is_even) for found in slices.values()),
            render_test(line),
            format_duration(line.compute_cost("stage_s")),
            format_amount(line.compute_cost("train_flops")),
        ]
        for place, line in enumerate(lines)
    ]
    return render_table(header, rows)


def list_slices(rows: Sequence[Mapping[str, Any]], suite: str) -> list[str]:
    """The slices of a suite, in the order of its rows."""
    return list(
        dict.fromkeys(row["slice"] for row in rows if row["suite"] == suite and row["slice"] != "all")
    )


def find_slice(rows: Sequence[Mapping[str, Any]], line: StageLine, name: str) -> Mapping[str, Any] | None:
    same = ("stage", "model", "suite", "strategy", "metric", "seed", "arm")
    of_line = (row for row in rows if all(row[key] == line.row[key] for key in same))
    return next((row for row in of_line if row["slice"] == name), None)


def render_slice(row: Mapping[str, Any] | None, *, with_count: bool) -> str:
    if row is None:
        return MISSING
    return format_percent(row["value"]) + (render_count(row["n"]) if with_count else "")


def render_count(count: int) -> str:
    return f" (n = {format_count(count)})"


def render_test(line: StageLine) -> str:
    if line.test is None:
        return MISSING
    has_seeds = bool(line.test.get("seeds"))
    interval = f" {format_interval(line.test['low'], line.test['high'])}" if has_seeds else ""
    return f"{format_points(line.difference)} points{interval}, {format_p(line.test['p_value'])}"


def render_bench(results: Path) -> str:
    """Every recorded benchmark: for each piece of work, its strongest peer with an aim, and without one."""
    header = ["work", "strongest peer", "peer", "Ponderosa", "ratio", "aim"]
    blocks = []
    for folder in sorted(results.glob("bench-*")):
        rows = [
            [
                row["work"],
                row["peer"],
                f"{format_amount(row['theirs'])} {row['unit']}",
                f"{format_amount(row['ours'])} {row['unit']}",
                *render_ratio(row),
            ]
            for row in list_strongest(folder)
        ]
        source = f"[`results/{folder.name}`](../results/{folder.name}/manifest.json)"
        machine = describe(read_json(folder / "manifest.json"))
        blocks.append(f"{render_table(header, rows)}\n\n{source}. {machine}")
    return "\n\n".join(blocks) or NOT_MEASURED


def render_aims(results: Path) -> str:
    """Of every recorded benchmark the rows that have an aim, and the machines they were measured on."""
    folders = sorted(results.glob("bench-*"))
    rows = [
        [row["work"], row["peer"], *render_ratio(row)]
        for folder in folders
        for row in list_strongest(folder)
        if row.get("target")
    ]
    machines = dict.fromkeys(describe(read_json(folder / "manifest.json")) for folder in folders)
    return "\n\n".join([render_table(["work", "strongest peer", "ratio", "aim"], rows), *machines])


def list_strongest(folder: Path) -> list[Mapping[str, Any]]:
    """A benchmark's rows: for each piece of work the peer that comes closest, with an aim and without one."""
    strongest: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for row in read_json(folder / "summary.json")["rows"]:
        key = (row["work"], row.get("target") is not None)
        if key not in strongest or row["ratio"] < strongest[key]["ratio"]:
            strongest[key] = row
    return list(strongest.values())


def render_ratio(row: Mapping[str, Any]) -> list[str]:
    return [f"**{row['ratio']:.3g}×**", f"{row['target']:g}×" if row.get("target") else MISSING]


def describe(manifest: Mapping[str, Any]) -> str:
    """The machine and versions of a manifest in one sentence."""
    hardware, versions = manifest["hardware"], manifest["versions"]
    machine = f"{hardware['processor']}, {hardware['cores']} cores, {hardware['system']}"
    return (
        f"Machine: {machine}, Python {hardware['python']}, "
        f"torch {versions['torch']}, transformers {versions['transformers']}."
    )


def render_stages() -> Iterator[str]:
    """A section for each stage kind, then one for each configuration inside them and for the task options."""
    shared: dict[str, type[BaseModel]] = {"QuantitiesOptions": QuantitiesOptions}
    for kind, description in STAGES.items():
        model = get_stage(kind).Config
        yield f"### `{kind}`\n\n{capitalise(description)}.\n\n{render_fields(model, shared)}"
    yield from render_shared(shared)


def render_strategies() -> Iterator[str]:
    """A section for each strategy that has parameters, then one for each configuration inside them."""
    shared: dict[str, type[BaseModel]] = {}
    for name, strategy in CLASSES.items():
        if strategy.model_fields:
            yield f"### `{name}`\n\n{render_fields(strategy, shared)}"
    yield from render_shared(shared)


def render_shared(shared: dict[str, type[BaseModel]]) -> Iterator[str]:
    """A section for each of these configurations and for those inside them."""
    done: set[str] = set()
    while pending := [name for name in shared if name not in done]:
        for name in pending:
            done.add(name)
            yield f"### {name}\n\n{get_doc(shared[name])}\n\n{render_fields(shared[name], shared)}"


def render_fields(model: type[BaseModel], shared: dict[str, type[BaseModel]]) -> str:
    """A table of a configuration's keys; configurations inside it are added to `shared`."""
    rows = []
    for name, field in model.model_fields.items():
        type_words = render_type(field.annotation, shared)
        linked = re.search(r"\[(\w+)\]", type_words)
        meaning = field.description or (get_doc(shared[linked[1]]).partition("\n")[0] if linked else "")
        rows.append([f"`{name}`", type_words, render_default(field), capitalise(meaning)])
    return render_table(["key", "type", "default", "meaning"], rows)


def render_type(annotation: Any, shared: dict[str, type[BaseModel]]) -> str:
    """A type in words; a configuration is a link to its own table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        shared[annotation.__name__] = annotation
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (UnionType, Union):
        return " or ".join(render_type(one, shared) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {render_type(arguments[0], shared)}"
    if is_dataclass(annotation):
        return f"mapping of {', '.join(f'`{field.name}`' for field in fields(annotation))}"
    words = {str: "text", int: "whole number", float: "number", bool: "yes or no", dict: "mapping"}
    return words[origin or annotation]


def render_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or field.default in ((), None):
        return MISSING
    if isinstance(field.default, BaseModel):
        return "its own"
    if isinstance(field.default, tuple):
        return ", ".join(f"`{item}`" for item in field.default)
    return f"`{str(field.default).lower()}`"


def capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:].removesuffix(".")


def get_doc(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip()


def render_table(header: Sequence[str], rows: Rows) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (header, *rows)]
    rule = " | ".join(["---"] * len(header))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def list_files() -> dict[Path, str]:
    """Every page and plot, with what it should say."""
    pages = {}
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        pages[ROOT / page] = fill_regions(text, ROOT / "results", find_root(page))
    return {**pages, **draw_plots(ROOT / "results")}


def find_root(page: str) -> str:
    """What leads from a page to the README's folder."""
    return "../" * page.count("/")


def main() -> None:
    files = list_files()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" not in sys.argv[1:]:
        for path in stale:
            path.write_text(files[path], "utf-8")
    elif stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"out of date: {names}; run `make tables`")


if __name__ == "__main__":
    main()
