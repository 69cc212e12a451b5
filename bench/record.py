"""Put what was measured under results/: a benchmark's rows or a finished run, with what they were made with.

    python bench/record.py bench/sandbox.py [its arguments]     runs it  -> results/bench-sandbox/
    python bench/record.py runs/quickstart                      copies   -> results/quickstart/

Each folder holds summary.json (the rows) and manifest.json (versions, hardware, command or recipe and stages).
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ponderosa.artifacts import read_json, write_json
from ponderosa.errors import DataError
from ponderosa.pipeline import PACKAGES, describe_hardware

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
SCHEMA = 1


def record_benchmark(script: Path, arguments: Sequence[str], results: Path = RESULTS) -> Path:
    """Run a benchmark script and keep its rows. Raises CalledProcessError if it fails; nothing is kept then."""
    folder = results / f"bench-{script.stem}"
    summary = folder / "summary.json"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(script), *arguments, "--json", str(summary)], check=True)
    manifest = {
        "schema": SCHEMA,
        "command": ["python", f"bench/{script.name}", *arguments],
        "versions": {package: version(package) for package in PACKAGES},
        "hardware": describe_hardware(),
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def record_run(run: Path, results: Path = RESULTS) -> Path:
    """Keep a run's rows and counts, its resolved recipe, and every stage's manifest.

    Raises DataError if the run is not finished.
    """
    if not (run / "summary.json").is_file():
        raise DataError(f"{run} is not the folder of a run: it has no summary.json")
    summary: dict[str, Any] = read_json(run / "summary.json")
    unfinished = [name for name in summary["stages"] if not (run / "stages" / name / "DONE").exists()]
    if unfinished:
        raise DataError(f"{run} is not finished ({', '.join(unfinished)}); run it again to continue it")
    stages = {name: read_json(run / "stages" / name / "manifest.json") for name in summary["stages"]}
    first = next(iter(stages.values()))
    manifest = {
        "schema": SCHEMA,
        "recipe": read_json(run / "recipe.json"),
        "versions": first["versions"],
        "hardware": first["hardware"],
        "stages": stages,
    }
    counts = {name: stage["counts"] for name, stage in stages.items() if stage.get("counts")}
    folder = results / run.resolve().name
    write_json(folder / "summary.json", {**summary, "counts": counts})
    write_json(folder / "manifest.json", manifest)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a script of bench/ or a run folder")
    options, arguments = parser.parse_known_args()
    if options.source.suffix == ".py":
        print(record_benchmark(options.source, arguments))
    else:
        print(record_run(options.source))


if __name__ == "__main__":
    main()
