"""The page in a real browser: Debian's Chromium without a screen, driven by playwright, started once.

apt-get install chromium
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from processes import PATIENCE
from reported_runs import history_of, made

from loracle.config.settings import build_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.page.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra `dev`")
axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe comes with `dev`")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here: apt-get install chromium"
)

ODD = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202ertl \u05e9\u05dc\u05d5\u05dd",
    "x" * 9000,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished run with failures, and with hostile texts wherever foreign texts come from."""
    folder = tmp_path_factory.mktemp("page")
    run = made(folder, n=40, texts=ODD, model="org/<b>base</b> \u202e" + "y" * 9000)
    failures = tuple(
        Trial(40 + i, int(run.space.candidates[i]), Outcome(None, failure=Failure(FailureKind.CRASHED, text)))
        for i, text in enumerate(ODD)
    )
    history = History((*run.history.trials, *failures))
    write_page(run.subject.find(history, run.comparison, "all 44 trials are done"), folder / "report.html")
    return folder / "report.html"


@dataclass
class Seen:
    """A page that was opened, and what it did meanwhile."""

    page: Any
    faults: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)

    def draw_all(self) -> None:
        """Scrolls through the page: charts are drawn when they come near."""
        height = int(self.page.evaluate("document.body.scrollHeight"))
        for y in range(0, height, 500):
            self.page.evaluate(f"scrollTo({{top: {y}, behavior: 'instant'}})")
            self.page.wait_for_timeout(30)
        self.wait_for(
            "[...document.querySelectorAll('.chart')].every((one) => one.querySelector('.main-svg'))"
        )

    def wait_for(self, condition: str) -> None:
        """Until it is so. Playwright's own `wait_for_function` evaluates text, which the page forbids."""
        end = time.monotonic() + PATIENCE
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(50)


def opened(browser: Any, path: Path, width: int, scheme: str, dark_button: bool = False) -> Seen:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(context.new_page())
    seen.page.on("console", lambda said: seen.faults.append(said.text) if said.type != "log" else None)
    seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.faults.append("a dialog"), dialog.dismiss()))
    seen.page.on("request", lambda request: seen.asked_for.append(request.url))
    seen.page.goto(path.as_uri())
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_opens_without_fault_asks_for_nothing_and_fits(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    seen = opened(browser, report, width, scheme)
    seen.draw_all()
    assert seen.faults == []
    assert [url for url in seen.asked_for if not url.startswith("data:")] == [report.as_uri()]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    seen.page.click("#theme")
    turned = seen.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert turned != dark
    assert seen.faults == []
    found = axe_module.Axe().run(seen.page)
    grave = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    told = [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in grave]
    assert told == []


def test_numbers_in_tables_stay_in_one_piece_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    """Short columns of a trainer of one's own get little room, and `1e-3` was broken after its hyphen."""
    knobs = {"lr": {"values": [1e-5, 1e-4, 1e-3, 1e-2]}, "width": {"values": [1, 2, 4, 8]}}
    own: dict[str, Any] = {"objective": {"command": "train {lr} {width} {style}", "direction": "maximize"}}
    own |= {"standard": None}
    space = {"base": "empty", "knobs": {**knobs, "style": {"values": ["usual", "other"]}}}
    there = build_space(made(tmp_path, History(), finished=False, space=space, **own).subject.config.space)
    history = history_of(there, 12, score=lambda config: round(config["width"] / 9, 3))
    run = made(tmp_path, history, space=space, **own)
    write_page(run.find(), tmp_path / "report.html")
    seen = opened(browser, tmp_path / "report.html", 390, "light")
    lines = (
        "[...document.querySelectorAll('td')].filter((one) => /^[\\d.]+e-\\d+$/.test(one.innerText))"
        ".map((one) => { const text = document.createRange(); text.selectNodeContents(one);"
        " return new Set([...text.getClientRects()].map((box) => box.top)).size; })"
    )
    counts = seen.page.evaluate(lines)
    assert len(counts) > 6
    assert set(counts) == {1}


def test_trials_are_sorted_and_filtered(browser: Any, report: Path) -> None:
    seen = opened(browser, report, 1440, "light")

    def column(number: int) -> list[str]:
        cells = seen.page.locator(f"#trials-table tbody tr:visible > :nth-child({number})")
        return [str(text) for text in cells.all_inner_texts()]

    head = seen.page.locator("#trials-table thead button", has_text="exact match")
    head.click()
    scores = [float(text.split()[0]) for text in column(7) if text]
    assert scores == sorted(scores)
    assert column(7)[-1] == ""  # what has no score comes last
    head.click()
    scores = [float(text.split()[0]) for text in column(7) if text]
    assert scores == sorted(scores, reverse=True)
    assert column(7)[-1] == ""
    assert seen.page.locator("#trials-table thead th[aria-sort=descending]").count() == 1
    seen.page.select_option("#trials-state", "failed")
    causes = column(9)
    assert causes
    assert all(cause.startswith(("diverged", "crashed")) for cause in causes)
    seen.page.fill("#trials-text", "CRASHED")
    assert len(column(9)) == len(ODD)
    assert seen.page.inner_text("#trials-count") == "4 of 44 trials"
    seen.page.fill("#trials-text", "there is no such trial")
    assert column(9) == []
    assert seen.faults == []


def test_hovering_tells_of_a_trial_and_the_axis_changes(browser: Any, report: Path) -> None:
    seen = opened(browser, report, 1440, "light")
    seen.draw_all()
    point = seen.page.locator("#progress-chart .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + 30)
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    # Labels of what the mouse passed on its way may be drawn before.
    label = seen.page.locator("#progress-chart .hoverlayer .hovertext").filter(has_text="trial").first
    label.wait_for(state="attached")
    assert "trial" in label.text_content()
    seen.page.get_by_role("button", name="by time").click()
    title = seen.page.locator("#progress-chart .xtitle").text_content()
    assert title == "seconds of training and scoring, all trials"
    assert seen.faults == []


@pytest.mark.parametrize("width", [390, 1440])
def test_squares_of_the_surface_tell_what_is_believed_there(browser: Any, report: Path, width: int) -> None:
    seen = opened(browser, report, width, "dark")
    seen.draw_all()
    seen.page.locator("#surface-chart").scroll_into_view_if_needed()
    squares = seen.page.locator("#surface-chart .shapelayer path")
    assert squares.count() >= 30
    told = set()
    for i in range(30):
        box = squares.nth(i).bounding_box()
        seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
        seen.page.wait_for_timeout(80)
        told |= set(seen.page.locator("#surface-chart .hoverlayer .hovertext").all_text_contents())
    assert len({text for text in told if re.match("learning_rate.*alpha_ratio.*believed .* to ", text)}) >= 10
    assert any(text.startswith("trial ") for text in told)
    assert seen.faults == []


def test_axes_are_brushed_with_the_keyboard_alone(browser: Any, report: Path) -> None:
    seen = opened(browser, report, 1440, "light")
    seen.page.locator("#parallel-chart").scroll_into_view_if_needed()
    seen.page.locator("#parallel-chart .main-svg").first.wait_for()

    def ranks() -> list[int]:
        cells = seen.page.locator("#trials-table tbody tr:visible > :nth-child(2)").all_inner_texts()
        return [int(text) for text in cells]

    everything = ranks()
    seen.page.locator("#parallel details.by-axis summary").focus()
    seen.page.keyboard.press("Enter")
    seen.page.keyboard.press("Tab")  # rank, from
    assert seen.page.evaluate("document.activeElement.dataset.axis") == "0"
    seen.page.keyboard.type("32")
    seen.page.wait_for_timeout(100)
    assert set(ranks()) == {32, 64}
    assert f"{len(ranks())} of {len(everything)} trials" in seen.page.inner_text("#brush-count")
    seen.page.keyboard.press("Tab")  # to
    seen.page.keyboard.type("32")
    seen.page.wait_for_timeout(100)
    assert set(ranks()) == {32}
    axes = seen.page.evaluate("report.charts['parallel-chart'].layout.xaxis.ticktext.length")
    better = seen.page.locator(f'#parallel select[data-axis="{axes - 1}"]')
    few = len(ranks())
    better.select_option("0.5")
    assert len(ranks()) < few
    found = axe_module.Axe().run(seen.page)
    assert [
        one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")
    ] == []
    seen.page.locator("#brush-reset").focus()
    seen.page.keyboard.press("Enter")
    assert ranks() == everything
    assert better.input_value() == ""
    assert seen.faults == []


def test_brushing_an_axis_keeps_its_trials_in_chart_and_table(browser: Any, report: Path) -> None:
    seen = opened(browser, report, 1440, "light")
    chart = seen.page.locator("#parallel-chart")
    chart.scroll_into_view_if_needed()
    chart.locator(".main-svg").first.wait_for()

    def drag(axis: int, low: float, high: float) -> None:
        place = "const p = document.getElementById('parallel-chart'), b = p.getBoundingClientRect();"
        place += "const {xaxis, yaxis} = p._fullLayout;"
        x, y0, y1 = seen.page.evaluate(
            f"() => {{ {place} return [b.left + xaxis._offset + xaxis.d2p({axis}), "
            f"...[{low}, {high}].map((y) => b.top + yaxis._offset + yaxis.d2p(y))]; }}"
        )
        seen.page.mouse.move(x, y0)
        seen.page.mouse.down()
        seen.page.mouse.move(x, (y0 + y1) / 2, steps=2)
        seen.page.mouse.move(x, y1, steps=2)
        seen.page.mouse.up()
        seen.page.wait_for_timeout(100)

    def ranks() -> list[int]:
        cells = seen.page.locator("#trials-table tbody tr:visible > :nth-child(2)").all_inner_texts()
        return [int(text) for text in cells]

    everything = ranks()
    back = seen.page.locator("#parallel #brush-reset")
    assert back.is_hidden()
    top = chart.bounding_box()["y"]
    drag(0, 0.7, 1.02)  # ranks 32 and 64 of 4 to 64
    assert abs(chart.bounding_box()["y"] - top) < 40
    assert set(ranks()) == {32, 64}
    both = len(ranks())
    assert both == sum(rank >= 32 for rank in everything)
    assert f"{both} of {len(everything)} trials" in seen.page.inner_text("#brush-count")
    assert "Only those kept" in seen.page.inner_text("#trials .fields")
    axes = seen.page.evaluate("report.charts['parallel-chart'].layout.xaxis.ticktext.length")
    drag(axes - 1, 0.5, 1.03)  # the score: the better half of its axis, of those
    assert 0 < len(ranks()) < both
    low, high = seen.page.evaluate(
        "document.getElementById('parallel-chart').layout.shapes.filter((one) => one.type === 'rect')"
        ".map((one) => [one.y0, one.y1])[0]"
    )
    assert (round(low, 1), round(high, 1)) == (0.7, 1.0)
    drag(0, 0.2, 0.2)  # a click lets go
    assert len(ranks()) > 0
    assert set(ranks()) - {32, 64}
    back.click()
    assert ranks() == everything
    assert back.is_hidden()
    assert seen.page.inner_text("#brush-count") == ""
    drag(0, 0.7, 1.02)
    seen.page.get_by_role("button", name="Show all").first.click()
    assert ranks() == everything
    assert seen.faults == []


def test_a_recipe_is_copied_or_selected(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir(parents=True)
    (tmp_path / "best" / "recipe.yaml").write_text("lora: {r: 8}  # <b>\n")
    write_page(made(tmp_path, n=4).find(), tmp_path / "report.html")
    seen = opened(browser, tmp_path / "report.html", 1440, "light")
    button = seen.page.locator("#recipe .copy").first
    button.click()
    seen.wait_for("document.querySelector('#recipe .copy').textContent !== 'Copy'")
    assert button.inner_text() in ("Copied", "Selected")
    assert seen.page.inner_text("#recipe-0").strip() == "lora: {r: 8}  # <b>"


def test_it_prints_with_all_its_charts(browser: Any, report: Path, tmp_path: Path) -> None:
    seen = opened(browser, report, 1440, "dark")
    pdf = seen.page.pdf(path=str(tmp_path / "report.pdf"), print_background=True)
    assert pdf.startswith(b"%PDF")
    drawn = "[...document.querySelectorAll('.chart')].every((one) => one.querySelector('.main-svg'))"
    assert seen.page.evaluate(drawn)
    assert seen.faults == []


def test_pictures_of_a_report_are_small_and_whole(browser: Any, report: Path, tmp_path: Path) -> None:
    pictures = pytest.importorskip("report_pictures")
    pictures.photograph(browser, report, tmp_path)
    kept = ROOT / "docs" / "figures"
    for name, (width, *_) in pictures.PARTS.items():
        for folder in (tmp_path, kept):
            with pictures.Image.open(folder / f"{name}.png") as picture:
                assert picture.width == width
                assert picture.height > 400
            assert (folder / f"{name}.png").stat().st_size < 200_000
    assert "url(http" not in (kept / "live.svg").read_text(encoding="utf-8").replace('"', "")


@pytest.mark.parametrize("n", [0, 1, 300])
def test_few_and_many_trials_open_alike(browser: Any, tmp_path: Path, n: int) -> None:
    run = made(tmp_path, n=1, finished=False)
    history = history_of(run.space, n)
    write_page(made(tmp_path, history, finished=n > 1).find(), tmp_path / "report.html")
    seen = opened(browser, tmp_path / "report.html", 390, "light")
    drawn = seen.page.locator(".chart:has(.main-svg)").count()
    assert drawn < max(1, seen.page.locator(".chart").count())  # the others wait until they come near
    seen.draw_all()
    assert seen.faults == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
