"""What a report says of trials that lose what must not be lost: they scored best, and are spoken well of
nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reported_runs import Made, history_of, made

from loracle.records.trial import GuardReading, History, Trial
from loracle.report.figures import draw
from loracle.report.findings.beliefs import believed_scores, understand
from loracle.report.findings.finding import Subject
from loracle.report.findings.records import Findings
from loracle.report.page.charts import charts
from loracle.report.page.page import page
from loracle.search.observations import rows_of
from loracle.search.presets import get_preset
from loracle.search.propose import ranking


def loses(config: Mapping[str, float]) -> bool:
    """Steps of the size that scores best, and larger ones, forget the guard's text."""
    return config["learning_rate"] * config["alpha_ratio"] >= 0.0025


def watched(run: Made, n: int = 30) -> History:
    def guarded(trial: Trial) -> Trial:
        config = run.space.config(trial.index)
        step = config["learning_rate"] * config["alpha_ratio"]
        change = -float(np.log10(step / 0.0025))  # 0 where the guard is just broken
        text = GuardReading("loss", -1.0, -1.0 + change, change - 0.1, change - 0.2, change - 0.1, 0.1, 50)
        assert trial.outcome is not None
        if trial.outcome.value is None:
            return trial
        assert text.kept is not loses(config) or change == 0
        return replace(trial, outcome=replace(trial.outcome, guards={"text": text}))

    return History(tuple(map(guarded, history_of(run.space, n).trials)))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, History, Findings]:
    folder = tmp_path_factory.mktemp("run")
    run = made(folder, n=1, finished=False)
    history = watched(run)
    run = made(folder, history, finished=False)
    return run, history, run.find()


def test_the_best_so_far_is_of_trials_that_keep_the_guards(found: tuple[Made, History, Findings]) -> None:
    run, history, said = found
    lost = [row for row in said.trials if row.broken]
    kept = [row.score for row in said.trials if row.score is not None and not row.broken]
    assert lost
    assert all(row.broken == ("text",) and row.guards["text"]["kept"] is False for row in lost)
    assert max(row.score or 0.0 for row in lost) > max(kept)
    assert said.progress is not None
    assert said.progress.best[-1] == max(kept)
    leader = next(row for row in said.trials if row.number == said.leader)
    assert not leader.broken
    drawn = {trace["name"]: trace for trace in charts(said)["progress-chart"]["data"]}
    assert drawn["loses a guard"]["x"] == [row.number for row in lost]
    assert max(drawn["highest so far"]["y"]) == pytest.approx(100 * max(kept))
    of_settings = {trace["name"] for trace in charts(said)["parallel-chart"]["data"]}
    assert "loses a guard" in of_settings
    (label,) = [
        text.get_text()
        for text in draw(run.space, history, "exact_match").axes[0].get_legend().get_texts()
        if "guard" in text.get_text()
    ]
    assert label == "loses a guard"


def test_the_page_marks_them_and_says_what_the_marks_are(found: tuple[Made, History, Findings]) -> None:
    said = found[2]
    html = page(said)
    lost = [row for row in said.trials if row.broken]
    assert html.count('<td class="said">loses text</td>') == len(lost)
    assert "Open marks lost a guard and do not count as the highest so far." in html
    assert "believed best now, of what likely keeps the guards" in html
    plain = page(made(Path(said.run), n=4, finished=False).find(whole=False))
    assert not re.search(r"Open marks|likely keeps the guards|grey ones", plain)


def test_a_winner_that_loses_a_guard_is_never_shown_as_good(tmp_path: Path) -> None:
    run = made(tmp_path, n=4)
    assert run.comparison is not None
    for lost, badge in (
        (-0.1, '<p class="badge good">better than the standard settings</p>'),
        (-0.9, '<p class="badge bad">better than the standard settings, but loses what must not be lost</p>'),
    ):
        text = GuardReading("loss", -1.0, -1.0 + lost, lost, lost - 0.1, lost + 0.1, 0.2, 50)
        winner = replace(run.comparison.winner_outcome, guards={"text": text})
        comparison = replace(run.comparison, winner_outcome=winner)
        html = page(replace(run, comparison=comparison).find(whole=False))
        assert badge in html
        assert (comparison.exit_code == 4) == ("badge bad" in html)


def test_what_is_believed_best_and_what_is_as_good_likely_keeps_the_guards(
    found: tuple[Made, History, Findings],
) -> None:
    run, history, said = found
    assert said.prior is not None
    assert not loses(said.prior.favourite_now)
    belief = understand(run.space, history, run.subject.preset, 0, "exact_match", history.succeeded[0].index)
    assert belief is not None
    for one in said.near_equals:
        rows, _ = rows_of(run.space, [run.space.index(one.config)])
        assert belief.likely(rows).all()
        assert one.low <= 0 <= one.high
        assert abs(one.difference) < 0.2
    everything = believed_scores(belief)
    assert everything.keeps is not None
    assert everything.keeps[0] >= 0.5
    assert not loses(run.space.config(int(everything.indices[0])))
    for trial in history.succeeded:
        rows, _ = rows_of(run.space, [trial.index])
        assert trial.outcome is not None
        assert not (trial.outcome.broken and belief.likely(rows).any())


def test_what_leads_where_the_belief_reads_prompts_keeps_the_guards(
    found: tuple[Made, History, Findings],
) -> None:
    run, history, _ = found
    preset = get_preset("language")
    leader = Subject(run.subject.config, run.space, preset).find(history, whole=False).leader
    number = {trial.index: trial.number for trial in reversed(history.succeeded)}
    best = ranking(run.space, history, replace(preset, recommend="observed"))[0]
    assert leader == number[best]
    row = next(trial for trial in history.trials if trial.number == leader)
    assert row.outcome is not None
    assert not row.outcome.broken
