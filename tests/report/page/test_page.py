"""The page as a file: whole, alone, and of nothing but text where texts are foreign."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from reported_runs import KNOBS, history_of, made, quality

from loracle.records.trial import Failure, FailureKind, GuardReading, History, Outcome, Trial
from loracle.report.page.page import page, write_page
from loracle.text.quantities import show_bytes, show_duration, show_money

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "' onmouseover='alert(3)",
    "**bold** [link](javascript:alert(4)) `code`",
    "\u202eright to left\u2066 \u05e9\u05dc\u05d5\u05dd",
    "\x1b[31mred\x1b[0m\x00\x07",
    "&lt;b&gt; &amp; ${7*7} {{7*7}} %{x}",
    "x" * 10_000,
)


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data


def test_a_page_is_one_well_formed_file_that_asks_for_nothing(tmp_path: Path) -> None:
    run = made(tmp_path)
    write_page(run.find(), tmp_path / "report.html")
    read = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert read.open == []
    linked = [value for _, tag in read.tags for name, value in tag.items() if name in ("src", "href")]
    assert all(str(value).startswith(("#", "data:")) for value in linked)
    names = [tag["id"] for _, tag in read.tags if "id" in tag]
    assert len(names) == len(set(names))
    assert {str(value)[1:] for value in linked if str(value).startswith("#")} <= set(names)
    assert "The winner is better than the standard settings" in read.text
    for title in ("Best so far", "Learning curves", "All trials", "Which settings matter", "What it cost"):
        assert title in read.text


def test_every_chart_has_its_place_and_all_that_it_draws_are_numbers_and_texts(tmp_path: Path) -> None:
    read = Reader(page(made(tmp_path).find()))
    charts = json.loads(read.scripts[0], parse_constant=pytest.fail)
    places = {tag.get("id") for _, tag in read.tags}
    assert set(charts) <= places
    assert {"progress-chart", "curves-chart", "parallel-chart", "slice-0", "importance-chart"} <= set(charts)
    for chart in charts.values():
        for trace in chart["data"]:
            assert len(trace["x"]) == len(trace["y"])


def test_squares_of_the_surface_are_larger_where_more_is_known_and_trials_stand_apart(tmp_path: Path) -> None:
    found = made(tmp_path, n=40).find()
    one = found.surface
    assert one is not None
    chart = json.loads(Reader(page(found)).scripts[0])["surface-chart"]
    *squares, leader = chart["layout"]["shapes"]
    assert len(squares) == 30
    assert (leader["x0"] + leader["x1"]) / 2 == one.values[0].index(one.at[0])
    widths = [
        high - low
        for lows, highs in zip(one.lows, one.highs, strict=True)
        for low, high in zip(lows, highs, strict=True)
    ]
    sides = [square["x1"] - square["x0"] for square in squares]
    order = sorted(range(30), key=widths.__getitem__)
    assert [sides[i] for i in order] == sorted(sides, reverse=True)
    scores = [score for row in one.scores for score in row]
    best = squares[scores.index(max(scores))]["fillcolor"]
    assert (best, squares[scores.index(min(scores))]["fillcolor"]) == ("var(--level4)", "var(--level0)")
    hovers = chart["data"][0]["hovertext"]
    assert len(hovers) == 30
    assert all(
        re.match(r"learning_rate \S+, alpha_ratio \d+<br>believed .* \(.* to .*\)$", text) for text in hovers
    )
    shown = [trace for trace in chart["data"] if trace["name"] in ("trials", "failed")]
    spots = [spot for trace in shown for spot in zip(trace["x"], trace["y"], strict=True)]
    assert len(spots) == len(set(spots)) == 40


def test_of_losses_the_least_is_the_best_colour_and_red_outlines_lose_a_guard(tmp_path: Path) -> None:
    def watched(config: Mapping[str, Any]) -> Outcome:
        large = config["learning_rate"] >= 1e-3
        change = -0.5 if large else 0.0
        reading = GuardReading("loss", -2.0, -2.0 + change, change, change, change, 0.1, 50)
        return Outcome(-2.0 + 100 * config["learning_rate"], guards={"general": reading})

    run = made(tmp_path, n=1, scoring={"metric": "loss"}, finished=False)
    drawn = history_of(run.space, 30).trials
    history = History(tuple(Trial(t.number, t.index, watched(run.space.config(t.index))) for t in drawn))
    found = run.subject.find(history)
    one = found.surface
    assert one is not None
    assert one.keeps is not None
    shown = page(found)
    assert "With what is outlined in red a trial likely loses a guard." in shown
    chart = json.loads(Reader(shown).scripts[0])["surface-chart"]
    red = [s for s in chart["layout"]["shapes"] if s["line"].get("color") == "var(--red)"]
    lost = [
        (x, y)
        for y, row in enumerate(one.keeps)
        for x, keeps in enumerate(row)
        if keeps is not None and keeps < 0.5
    ]
    assert lost
    assert [((s["x0"] + s["x1"]) / 2, (s["y0"] + s["y1"]) / 2) for s in red] == lost
    assert all("keeps the guards with" in text for text in chart["data"][0]["hovertext"])
    squares = chart["layout"]["shapes"][:30]
    scores = [score for row in one.scores for score in row]
    assert squares[scores.index(min(scores))]["fillcolor"] == "var(--level4)"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_foreign_texts_are_text(tmp_path: Path, hostile: str) -> None:
    """The page has the same tags and scripts as with a harmless text in their places."""
    pages = []
    for place, said in (("plain", "plain"), ("hostile", hostile)):
        run = made(tmp_path / place, n=4, texts=[said], model=f"org/{said}".replace("\0", ""))
        failure = Failure(FailureKind.CRASHED, said, said)
        trial = Trial(4, int(run.space.candidates[7]), Outcome(None, failure=failure))
        history = History((*run.history.trials, trial))
        found = run.subject.find(history, run.comparison, "done")
        pages.append(Reader(page(found)))
    plain, odd = pages
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in odd.tags]
    assert [sorted(attributes) for _, attributes in plain.tags] == [sorted(a) for _, a in odd.tags]
    assert len(plain.scripts) == len(odd.scripts) == 3
    shown = re.sub(r"[^\x20-\x7e\u05d0-\u05ea]", "", odd.text)
    assert "\x1b" not in odd.text
    assert "\u202e" not in odd.text
    assert hostile[:8] in shown or "\\x1b" in shown or "\\u202e" in shown


def is_a_name(text: str) -> bool:
    return text.isprintable() and len(text) <= 100


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if is_a_name(text)])
def test_a_name_of_a_knob_is_text(tmp_path: Path, hostile: str) -> None:
    pages = []
    for place, name in (("plain", "plain"), ("hostile", hostile)):
        own = {"style": {"values": ["usual", name]}, **KNOBS}
        run = made(tmp_path / place, n=12, space={"base": "empty", "knobs": own})
        pages.append(Reader(page(run.find())))
    plain, other = pages
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in other.tags]
    assert hostile in other.text
    charts = json.loads(other.scripts[0])
    assert not re.search("<(img|script)", json.dumps(charts))
    assert any(chart["layout"]["xaxis"].get("ticktext", [""])[0] == "usual" for chart in charts.values())


def test_names_that_only_trials_have_stand_beside_those_of_the_belief(tmp_path: Path) -> None:
    """A constraint leaves `odd` out around the leading config, and its trials are there all the same."""
    own = {"style": {"values": ["usual", "plain", "odd"]}, **KNOBS}
    space = {"base": "empty", "knobs": own, "constraints": ["style != 'odd' or rank < 8"]}
    found = made(tmp_path, n=40, space=space).find()
    assert "odd" in {row.config["style"] for row in found.trials}
    (chart,) = (c for c in json.loads(Reader(page(found)).scripts[0]).values() if is_of(c, "style"))
    axis = chart["layout"]["xaxis"]
    assert axis["ticktext"] == ["usual", "plain", "odd"]
    assert axis["range"] == [-0.5, 2.5]
    assert {x for trace in chart["data"] for x in trace["x"]} == {0, 1, 2}


def is_of(chart: dict[str, Any], knob: str) -> bool:
    return chart["layout"]["xaxis"].get("title", {}).get("text") == knob


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if not is_a_name(text)])
def test_what_is_no_name_is_refused(tmp_path: Path, hostile: str) -> None:
    own = {"style": {"values": ["usual", hostile]}, **KNOBS}
    with pytest.raises(ValidationError, match="knob 'style': a name"):
        made(tmp_path, space={"base": "empty", "knobs": own})


def test_a_page_of_300_trials_weighs_less_than_5_mb(tmp_path: Path) -> None:
    run = made(tmp_path, n=2)
    history = history_of(run.space, 300)
    found = made(tmp_path, history).find(whole=False)
    assert len(found.trials) == 300
    assert len(found.curves) == 300
    assert len(page(found).encode()) < 5_000_000


def test_odd_runs_have_a_page(tmp_path: Path) -> None:
    for n in (0, 1):
        run = made(tmp_path / str(n), n=n, finished=False)
        read = Reader(page(run.find()))
        assert f"{n} of 30 trials are done" in read.text
        assert "What is not here, and why" in read.text


@pytest.mark.parametrize("preset", ["default", "language", "paper"])
def test_it_says_whose_belief_it_shows(tmp_path: Path, preset: str) -> None:
    read = Reader(page(made(tmp_path, preset=preset).find()))
    said = "The search reads prompts with a language model; the belief on numbers alone stands in for it."
    places = 1 + ("Which settings matter" in read.text) + ("but cheaper" in read.text)
    assert read.text.count(said) == (0 if preset == "default" else 3)
    assert places == 3


def test_the_page_of_a_trainer_of_ones_own_speaks_of_no_validation_rows(tmp_path: Path) -> None:
    own = {
        "objective": {
            "command": "train {learning_rate} {rank} {alpha} {dropout} {batch_size}",
            "direction": "maximize",
        }
    }
    whole = page(made(tmp_path / "own", n=20, finished=False, **own).find())
    assert "leads with" in whole
    assert "in validation" not in whole
    assert "validation rows" not in whole
    assert " in validation; the best of many" in page(made(tmp_path / "rows", n=20, finished=False).find())


def test_costs_read_as_in_the_terminal(tmp_path: Path) -> None:
    price = {"cost_per_hour": 3.0, "watts": 300}
    read = Reader(page(made(tmp_path, n=4, execution=price).find(whole=False)))
    spent = sum(trial.outcome.seconds for trial in made(tmp_path, n=4).history.trials if trial.outcome)
    assert f"{show_duration(spent)}" in read.text
    assert show_money(3.0 * (spent + 80.0) / 3600) in read.text
    assert show_bytes(2.0e9) in read.text
    assert "Not all trials say what they took in tokens, so what the search cost" in read.text


def charts_of(html: str) -> dict[str, Any]:
    charts: dict[str, Any] = json.loads(Reader(html).scripts[0])
    return charts


def test_one_score_far_from_all_others_leaves_a_belief_that_can_be_read(tmp_path: Path) -> None:
    def loss(config: Any) -> float | None:
        good = quality(config)
        return None if good is None else -1e6 if config["rank"] == 4 else good - 2.0

    of_loss = {"scoring": {"metric": "loss"}, "finished": False}
    history = history_of(made(tmp_path, n=1, **of_loss).space, 30, score=loss)
    charts = charts_of(page(made(tmp_path, history, **of_loss).find(whole=False)))
    said = [one["text"] for one in charts["parallel-chart"]["layout"]["annotations"]]
    assert sum(text.endswith("or worse") for text in said) == 1
    slices = [chart for name, chart in charts.items() if name.startswith("slice-")]
    assert slices
    drawn = [y for chart in slices for trace in chart["data"] for y in trace["y"]]
    assert 1 < max(drawn) < 20
    assert min(drawn) > -20


def test_one_knob_alone_is_not_said_to_matter_most(tmp_path: Path) -> None:
    one = {"space": {"base": "empty", "knobs": {"learning_rate": KNOBS["learning_rate"]}}, "finished": False}
    history = history_of(made(tmp_path, n=1, **one).space, 6)
    html = page(made(tmp_path, history, **one).find())
    text = Reader(html).text
    assert "Only learning_rate has more than one value" in text
    assert "explains most by itself" not in text


def test_trials_that_all_failed_stand_on_no_scale(tmp_path: Path) -> None:
    history = history_of(made(tmp_path, n=1, finished=False).space, 4, score=lambda config: None)
    html = page(made(tmp_path, history, finished=False).find())
    assert charts_of(html)["progress-chart"]["layout"]["yaxis"]["visible"] is False
    assert "of both" not in Reader(html).text
