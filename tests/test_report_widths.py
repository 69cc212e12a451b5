"""The report in a browser as narrow as a phone: wide tables scroll in boxes of their own, the page never sideways."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ponderosa.artifacts import read_json, write_json
from ponderosa.report import write_report
from synthetic_comparison import build_comparison
from synthetic_run import build_run
from synthetic_sweep import build_sweep

MEASURE = """<script>
onload = () => parent.postMessage(JSON.stringify({
  page: document.documentElement.scrollWidth - innerWidth,
  boxes: [...document.querySelectorAll(".numbers")].map(table => {
    const box = table.parentElement, before = table.rows[1].cells[0].getBoundingClientRect().x;
    box.scrollLeft = 9999;
    return {hidden: box.scrollWidth - box.clientWidth, scrolled: box.scrollLeft,
            moved: table.rows[1].cells[0].getBoundingClientRect().x - before};
  }),
}), "*")
</script>"""


def build_wide_run(folder: Path) -> Path:
    """A run whose reasons for leaving problems out are long."""
    run = build_run(folder)
    path = next(run.glob("stages/sft-*")) / "manifest.json"
    manifest = read_json(path)
    manifest["counts"] = {"kept": 9, "dropped": {"gsm8k: answer not computed": 105, "unbroken" * 20: 7}}
    write_json(path, manifest)
    return run


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("build", [build_wide_run, build_sweep, build_comparison])
@pytest.mark.parametrize("width", [390, 1280])
def test_chromium_scrolls_wide_tables_and_not_the_page(
    width: int, build: Callable[[Path], Path], tmp_path: Path
) -> None:
    text = write_report(build(tmp_path / "run")).read_text("utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</head>", f"{MEASURE}</head>")
    (tmp_path / "measured.html").write_text(text, "utf-8")
    # A window has a least width; a frame has none.
    (tmp_path / "frame.html").write_text(
        "<!doctype html><script>onmessage = event => document.body.append(`SAID${event.data}SAID`)</script>"
        f'<body><iframe src="measured.html" style="width: {width}px; height: 800px"></iframe>'
    )
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"),
        *(f"--user-data-dir={tmp_path}/profile", "--window-size=1400,900"),
        (tmp_path / "frame.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said = json.loads(done.stdout.split("SAID")[-2])

    assert said["page"] <= 0
    assert said["boxes"]
    assert any(box["hidden"] for box in said["boxes"]) or width > 390
    for box in said["boxes"]:
        assert abs(box["scrolled"] - box["hidden"]) <= 1
        assert abs(box["moved"]) <= 1, "the first column stays in sight"
