"""Pictures of what Loracle shows: the report of a finished run, and the live view of its search.

    python benchmarks/report_pictures.py --make shown   # data and config of the run that the pages show
    loracle tune shown/shown.yaml
    python benchmarks/report_pictures.py shown/run      # writes docs/figures/report-*.png and live.svg

The demo's model learns the demo's task from its 6,000 rows and 600 of sorting, which it knew before; that it
still sorts is guarded, and a belief is stated.

The page is opened in Debian's Chromium (apt-get install chromium). The live view is what `loracle watch`
showed when two thirds of the trials were done, on a terminal of 80 columns, drawn by Rich; it needs a
run that told its events (`.events.jsonl` of its folder).
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import shutil
import string
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from loracle.commands.terminal.display import Display
from loracle.loaded_run import load_run
from loracle.records.events import Step, TrialFinished, TrialStarted
from loracle.report.page.page import write_page
from loracle.run.storage.event_file import Told, follow

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
DEMO = Path(__file__).parents[1] / "loracle" / "demo"
COLOURS = 64  # of a picture: few are on the page, and a small file loads at once
COLUMNS, LINES_ABOVE = 80, 7  # of the terminal; trials that stand above the bars
WAIT_MS = 400  # until charts are drawn

# Name of the file: width, colour scheme, first and last part of the page that it shows.
PARTS = {
    "report-light": (1100, "light", "verdict", "verdict"),
    "report-charts": (1100, "light", "progress", "curves"),
    "report-dark": (1100, "dark", "parallel", "importance"),
    "report-390": (390, "light", "verdict", "verdict"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="write data and config of the run shown")
    parser.add_argument("--to", type=Path, default=FIGURES, help="folder of the pictures")
    arguments = parser.parse_args()
    if arguments.make is not None:
        make(arguments.make)
        return
    if arguments.run is None:
        parser.error("name the folder of a finished run, or --make FOLDER")
    loaded = load_run(arguments.run)
    arguments.to.mkdir(parents=True, exist_ok=True)
    page = arguments.to / "report.html"
    write_page(loaded.findings, page)
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            photograph(browser, page, arguments.to)
            browser.close()
    finally:
        page.unlink()
    live(list(follow(loaded.config.output)), loaded.config.metric, arguments.to / "live.svg")
    for path in (*(arguments.to / f"{name}.png" for name in PARTS), arguments.to / "live.svg"):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def make(folder: Path) -> None:
    """Writes data and config of the run that the pages show."""
    shutil.copytree(DEMO / "base", folder / "base")
    for name in ("validation.jsonl", "test.jsonl"):
        shutil.copy(DEMO / name, folder / name)
    chance = random.Random(5)
    words: dict[str, None] = {}
    while len(words) < 900:
        words["".join(chance.choice(string.ascii_lowercase) for _ in range(chance.randint(4, 8)))] = None
    sorting = [{"prompt": f"sort {word}=", "completion": "".join(sorted(word))} for word in words]
    rows = [json.loads(line) for line in (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    rows += sorting[:600]
    chance.shuffle(rows)
    for name, some in (("train.jsonl", rows), ("sorting.jsonl", sorting[600:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    config = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
    guard = {"data": "sorting.jsonl", "metric": "exact_match", "tolerance": 0.1, "max_new_tokens": 10}
    config |= {"guard": {"sorting": guard}, "beliefs": {"learning_rate": "around 1e-3"}}
    config |= {"search": {"preset": "thorough"}, "execution": {"cost_per_hour": 2.5, "watts": 300}}
    (folder / "shown.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def photograph(browser: Browser, report: Path, to: Path) -> None:
    """Writes a picture of each of `PARTS`."""
    for name, (width, scheme, first, last) in PARTS.items():
        page = opened(browser, report, width, scheme)
        top = 0 if first == "verdict" else edge(page, first, "top")
        clip = {"x": 0, "y": top, "width": width, "height": edge(page, last, "bottom") - top}
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))  # type: ignore[arg-type]
        picture.convert("RGB").quantize(COLOURS).save(to / f"{name}.png", optimize=True)
        page.context.close()


def opened(browser: Browser, report: Path, width: int, scheme: Any) -> Page:
    """The page with all its charts, which are drawn when they come near."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.goto(report.resolve().as_uri())
    for place in page.locator(".chart").all():
        place.scroll_into_view_if_needed()
        page.wait_for_timeout(WAIT_MS / 4)
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    page.wait_for_timeout(WAIT_MS)
    return page


def edge(page: Page, part: str, side: str) -> float:
    """Distance of the edge of a part from the top of the page, in pixels."""
    return float(page.evaluate(f"document.getElementById('{part}').getBoundingClientRect().{side}")) + (
        16 if side == "bottom" else 0
    )


def live(told: Sequence[Told], metric: str, to: Path) -> None:
    """Draws the live view at the last step of the trial that ran when two thirds were done."""
    budget = next(one.event.budget for one in told if isinstance(one.event, TrialStarted))
    finished = [i for i, one in enumerate(told) if isinstance(one.event, TrialFinished)]
    after = finished[2 * budget // 3]
    end = next(i for i in range(after + 1, len(told)) if isinstance(told[i].event, TrialFinished))
    steps = [i for i in range(after, end) if isinstance(told[i].event, Step)]
    last = steps[-2] if len(steps) > 1 else end - 1
    shift = time.time() - told[last].at - 1  # the bars count from now
    screen = Console(record=True, width=COLUMNS, force_terminal=True, file=io.StringIO(), markup=False)
    display = Display(metric, screen)  # not entered: nothing is drawn anew four times a second
    for i, one in enumerate(told[: last + 1]):
        if i == finished[2 * budget // 3 - LINES_ABOVE] + 1:
            screen.export_text()  # forgets what has scrolled away
        display.show(one.event, one.at + shift)
    screen.print(display.bars)
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # fonts of a server
    svg = screen.export_svg(title="loracle watch run", theme=DIMMED_MONOKAI, code_format=plain)
    to.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
