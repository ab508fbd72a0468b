"""How fast a report of 300 trials opens, and what drawing its charts late is worth.

    python benchmarks/report_opening.py                        # a minute; prints, and writes results/
    python benchmarks/report_opening.py --before report.html   # beside a page that another version made

The run is made up (`tests/reported_runs.py`). Each way opens the same page in Debian's Chromium, in turns and
in a new context: as it is, where charts are drawn when they come near, and with a stand-in for the browser's
observer that says at once that all are near. `open` is the end of the load event, by the page's own clock;
`work` is the main thread's time until a second later. Times depend on the machine; the ratios less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reported_runs import history_of, made

from loracle.report.page.page import page

RESULTS = Path(__file__).parent / "results" / "report_opening.json"
TRIALS, ROUNDS = 300, 7
WAIT_MS = 1000
ALL_ARE_NEAR = """
window.IntersectionObserver = class {
  constructor(told) { this.told = told; }
  observe(target) { this.told([{ target, isIntersecting: true }]); }
  unobserve() {}
};
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="a page of the same run that another version made")
    parser.add_argument("--keep", type=Path, help="where to keep the page, to be the `--before` of another")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(many_trials(Path(folder)), encoding="utf-8")
        if arguments.keep:
            shutil.copy(path, arguments.keep)
        ways = {"as it is": (path, ""), "all charts at once": (path, ALL_ARE_NEAR)}
        if arguments.before:
            ways["before"] = (arguments.before.resolve(), "")
        measured = measure(ways)
        size = path.stat().st_size
    first = measured["as it is"]
    for way, times in measured.items():
        ratios = {f"{name}_ratio": round(times[name] / first[name], 2) for name in ("open_ms", "work_ms")}
        times |= ratios
        print(f"{way}: {times}")
    print(f"{size / 1e6:.2f} MB")
    content = {
        "trials": TRIALS,
        "rounds": ROUNDS,
        "bytes": size,
        "ways": measured,
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def many_trials(folder: Path) -> str:
    """The page of a run of 300 trials, with the curves of all of them."""
    space = made(folder, n=2).space
    return page(made(folder, history_of(space, TRIALS)).find())


def measure(ways: dict[str, tuple[Path, str]]) -> dict[str, dict[str, float]]:
    """Medians over rounds in which each way has its turn, in milliseconds."""
    seen: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(ROUNDS):
            for way, (path, script) in ways.items():
                seen[way].append(once(browser, path, script))
        browser.close()
    names = ("painted_ms", "open_ms", "work_ms", "charts")
    return {
        way: {
            name: round(statistics.median(values))
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }
        for way, rows in seen.items()
    }


def once(browser: Browser, path: Path, script: str) -> tuple[float, ...]:
    """First paint, end of the load event, work of the main thread, and how many charts were drawn."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    if script:
        context.add_init_script(script)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(path.as_uri())
    page.wait_for_timeout(WAIT_MS)
    metrics: dict[str, Any] = {
        one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]
    }
    painted, opened = page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime, "
        "performance.getEntriesByType('navigation')[0].loadEventEnd]"
    )
    charts = page.evaluate("document.querySelectorAll('.chart .plot-container').length")
    context.close()
    return painted, opened, 1000 * metrics["TaskDuration"], charts


if __name__ == "__main__":
    main()
