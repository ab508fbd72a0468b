"""What a run shows, in runs of all kinds."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from reported_runs import CLIFF, KNOBS, history_of, made, outcome, write_logs

from loracle.config.settings import build_space
from loracle.records.codec import finite, to_plain
from loracle.records.space import default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.explanation.held import held_lines
from loracle.report.explanation.reasons import Reasons
from loracle.report.explanation.sentences import sentences as explain_sentences
from loracle.report.findings.beliefs import understand
from loracle.report.findings.curves import read_curve
from loracle.report.findings.finding import Subject
from loracle.report.findings.records import Findings
from loracle.report.page.page import page
from loracle.run.search import run_preset
from loracle.search.presets import get_preset


def crashed(kind: FailureKind, text: str = "it broke") -> Outcome:
    return Outcome(None, seconds=1.0, failure=Failure(kind, text))


def test_a_finished_run_shows_everything(tmp_path: Path) -> None:
    run = made(tmp_path)
    found = run.find()
    assert found.finished
    assert found.standing == "better"
    assert found.leader is not None
    assert found.progress is not None
    assert found.progress.seconds[-1] == pytest.approx(sum(row.seconds or 0 for row in found.trials))
    assert {curve.role for curve in found.curves} >= {"winner", "failed", "other"}
    assert [one.knob for one in found.slices][:3] == ["learning_rate", "alpha_ratio", "rank"]
    assert found.importance is not None
    assert found.prior is not None
    assert len(found.prior.expected) == len(run.history.trials)
    assert found.cost is not None
    assert found.cost.tokens == 4000 * (len(run.history.succeeded) + 2)
    assert found.cost.finals_seconds == 80.0
    assert found.examples is not None
    assert (found.examples.n_won, found.examples.n_lost) == (40, 1)
    assert len(found.examples.won) == 20
    assert found.cost.money is None
    assert json.dumps(finite(to_plain(found)))


def test_the_best_so_far_only_rises_and_counts_what_failed(tmp_path: Path) -> None:
    progress = made(tmp_path).find().progress
    assert progress is not None
    known = [score for score in progress.best if score is not None]
    assert known == sorted(known)
    assert len(progress.numbers) == 20


def test_money_and_energy_are_those_of_all_workers_together(tmp_path: Path) -> None:
    run = made(tmp_path, n=4, execution={"workers": 2, "cost_per_hour": 3.0, "watts": 500})
    cost = run.find().cost
    assert cost is not None
    hours = (cost.trials_seconds + cost.finals_seconds) / 2 / 3600
    assert cost.money == pytest.approx(3.0 * hours)
    assert cost.kilowatt_hours == pytest.approx(0.5 * hours)


def test_slices_hold_the_trials_that_they_are_about(tmp_path: Path) -> None:
    """On the leading config itself the belief is near what was measured."""
    run = made(tmp_path, n=40)
    found = run.find()
    leader = next(row for row in found.trials if row.number == found.leader)
    for one in found.slices:
        (here,) = [point for point in one.points if point.value == pytest.approx(one.at)]
        assert here.low <= here.score <= here.high
        assert leader.score is not None
        assert here.low - 0.1 <= leader.score <= here.high + 0.1


def test_the_surface_is_the_belief_over_learning_rate_and_alpha_ratio(tmp_path: Path) -> None:
    """Through the leading config it is the slices, and nowhere is a score outside its interval."""
    found = made(tmp_path, n=30).find()
    one = found.surface
    assert one is not None
    assert one.knobs == ("learning_rate", "alpha_ratio")
    assert one.keeps is None
    across, up = one.values
    assert (len(across), len(up), len(one.scores), len(one.scores[0])) == (6, 5, 5, 6)
    by_name = {slice_.knob: slice_ for slice_ in found.slices}
    row = one.scores[up.index(one.at[1])]
    assert row == pytest.approx([point.score for point in by_name["learning_rate"].points])
    column = [scores[across.index(one.at[0])] for scores in one.scores]
    assert column == pytest.approx([point.score for point in by_name["alpha_ratio"].points])
    for lows, scores, highs in zip(one.lows, one.scores, one.highs, strict=True):
        for low, score, high in zip(lows, scores, highs, strict=True):
            assert low is not None
            assert score is not None
            assert high is not None
            assert low <= score <= high
    assert made(tmp_path / "live", n=30).find(whole=False).surface == one


def test_a_surface_has_gaps_where_the_space_has_no_candidate(tmp_path: Path) -> None:
    space = {"base": "empty", "knobs": KNOBS, "constraints": ["learning_rate * alpha_ratio < 0.02"]}
    one = made(tmp_path, n=20, space=space).find().surface
    assert one is not None
    for ratio, scores, highs in zip(one.values[1], one.scores, one.highs, strict=True):
        for rate, score, high in zip(one.values[0], scores, highs, strict=True):
            assert (score is None) == (high is None) == (float(rate) * float(ratio) >= 0.02)


def test_the_surface_of_ones_own_trainer_is_of_the_strongest_interaction(tmp_path: Path) -> None:
    """Here of a width and a name; of one knob alone there is none, and that is said."""

    def found_of(knobs: dict[str, Any], **options: Any) -> Findings:
        asked = " ".join(f"{{{name}}}" for name in knobs)
        own = {"objective": {"command": f"train {asked}", "direction": "maximize"}, "standard": None}
        space = {"base": "empty", "knobs": {name: {"values": values} for name, values in knobs.items()}}
        folder = tmp_path / f"{len(knobs)}{len(options)}"
        there = made(folder, History(), finished=False, space=space, **own).subject.space
        score = lambda config: (config["width"] - 2.5) * (1 if config.get("style") == "odd" else -1)  # noqa: E731
        history = history_of(there, min(14, len(there.candidates)), score=score)
        return made(folder, history, finished=False, space=space, **own).find(**options)

    knobs = {"width": [1, 2, 3, 4], "depth": [1, 2], "style": ["plain", "odd"]}
    one = found_of(knobs).surface
    assert one is not None
    assert set(one.knobs) == {"width", "style"}
    assert one.named[one.knobs.index("style")]
    early = found_of(knobs, whole=False)
    assert early.surface is None
    assert "the end of the run add it" in early.left_out["surface"]
    alone = found_of({"width": [1, 2, 3, 4]})
    assert alone.surface is None
    assert alone.left_out["surface"] in page(alone)
    assert alone.left_out["surface"].startswith("Only one knob has several values")


def test_near_equals_are_cheaper_and_within_their_interval(tmp_path: Path) -> None:
    run = made(tmp_path, n=60)
    found = run.find()
    leader = next(row for row in found.trials if row.number == found.leader)
    assert found.near_equals
    for one in found.near_equals:
        assert one.rank is not None
        assert one.steps is not None
        steps = 200 // leader.config["batch_size"]
        assert one.rank < leader.config["rank"] or one.steps < steps
        assert one.rank <= leader.config["rank"]
        assert one.low <= 0 <= one.high


def test_a_cheaper_config_that_scored_the_same_is_as_good() -> None:
    """Where there are only two scores, and where items leave more noise than the belief sees in them."""
    space, tried = default_space(), [(128, 1e-4), (64, 1e-4), (128, 2e-4), (128, 3e-4)]

    def as_good(scores: tuple[float, ...], items: int) -> set[int | None]:
        trials = []
        for number, ((rank, rate), score) in enumerate(zip(tried, scores, strict=True)):
            config = {"rank": rank, "alpha_ratio": 2, "dropout": 0.0, "batch_size": 16, "learning_rate": rate}
            half = 1.96 * math.sqrt(score * (1 - score) / items)
            told = {"low": score - half, "high": score + half}
            trials += [Trial(2 * number + i, space.index(config), Outcome(score, told)) for i in range(2)]
        preset, history = get_preset("default"), History(tuple(trials))
        belief = understand(space, history, preset, 0, "exact_match", trials[0].index)
        assert belief is not None
        return {one.rank for one in belief.near_equals(lambda config: 10)}

    assert 64 in as_good((0.79, 0.79, 0.62, 0.62), 100)
    few, many = as_good((0.79, 0.77, 0.71, 0.65), 20), as_good((0.79, 0.77, 0.71, 0.65), 10**6)
    assert many < few


def test_the_cliff_is_said_where_trials_show_it_and_nowhere_else(tmp_path: Path) -> None:
    found = made(tmp_path / "steep", n=60).find().cliff
    assert found is not None
    assert found.of == "learning_rate x alpha_ratio"
    assert found.holds < CLIFF <= found.breaks
    run = made(tmp_path / "flat", n=2)
    even = history_of(run.space, 30, score=lambda config: 0.5 + 0.001 * config["rank"])
    assert made(tmp_path / "flat", even).find().cliff is None


def test_a_run_without_a_trial_says_so_in_every_part(tmp_path: Path) -> None:
    found = made(tmp_path, History(), finished=False).find()
    assert found.trials == ()
    assert "0 of 30 trials are done" in found.verdict[0]
    assert {"progress", "curves", "slices", "importance", "prior", "recipes", "cost"} <= set(found.left_out)
    assert all(said.endswith(".") for said in found.left_out.values())


def test_a_run_of_one_trial(tmp_path: Path) -> None:
    found = made(tmp_path, n=1, finished=False).find()
    assert len(found.trials) == 1
    assert found.progress is not None


def test_a_run_in_which_all_failed(tmp_path: Path) -> None:
    run = made(tmp_path, History(), finished=False)
    kinds = [*FailureKind, FailureKind.DIVERGED]
    trials = tuple(Trial(i, int(run.space.candidates[i]), crashed(kind)) for i, kind in enumerate(kinds))
    found = made(tmp_path, History(trials), finished=False).find()
    assert found.leader is None
    assert found.verdict[-1] == "No trial has succeeded so far."
    assert [row.failure for row in found.trials] == [str(kind) for kind in kinds]
    assert found.left_out["slices"] == "No trial has succeeded, so there is no belief."


def test_a_run_that_was_interrupted_and_one_that_goes_on(tmp_path: Path) -> None:
    run = made(tmp_path, n=6, finished=False)
    more = (
        Trial(6, int(run.space.candidates[0]), crashed(FailureKind.INTERRUPTED, "stopped by the user")),
        Trial(7, int(run.space.candidates[1])),
    )
    found = made(tmp_path, History((*run.history.trials, *more)), finished=False).find()
    assert [row.state for row in found.trials[-2:]] == ["interrupted", "running"]
    assert "6 of 30 trials are done" in found.verdict[0]
    assert f"Trial {found.leader} leads" in found.verdict[0]
    assert "1 interrupted trial is not in it" in page(found)
    assert "interrupted trial" not in page(run.find())


def test_a_search_that_is_over_is_not_said_to_go_on(tmp_path: Path) -> None:
    found = made(tmp_path, n=30, finished=False).find()
    assert found.verdict[0].startswith("All 30 trials are done, the final comparison is not")


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_trainer_of_ones_own_with_one_knob(tmp_path: Path, direction: str) -> None:
    space = {"base": "empty", "knobs": {"temperature": {"values": [0.1, 0.2, 0.5, 1.0]}}}
    own = {"objective": {"command": "train {temperature}", "direction": direction}, "standard": None}
    there = build_space(made(tmp_path, History(), finished=False, space=space, **own).subject.config.space)
    trials = tuple(Trial(i, i, outcome(-((i - 2.0) ** 2))) for i in range(len(there.candidates)))
    found = made(tmp_path, History(trials), finished=False, space=space, **own).find()
    assert found.metric == ("value" if direction == "maximize" else "cost")
    assert [one.knob for one in found.slices] == ["temperature"]
    assert found.importance is not None
    assert found.importance.interaction is None
    assert found.importance.knobs[0].share == pytest.approx(1.0)
    scores = [row.score for row in found.trials]
    assert scores == ([-4.0, -1.0, 0.0, -1.0] if direction == "maximize" else [4.0, 1.0, 0.0, 1.0])


def test_standard_settings_that_are_none_of_the_space_have_no_line(tmp_path: Path) -> None:
    knobs = {name: knob for name, knob in KNOBS.items() if name != "dropout"}
    progress = made(tmp_path, n=5, space={"base": "empty", "knobs": knobs}).find().progress
    assert progress is not None
    assert progress.standard is None


def test_values_of_any_size_are_no_obstacle(tmp_path: Path) -> None:
    space = {"base": "empty", "knobs": {"x": {"values": [1, 2, 3, 4, 5, 6]}}}
    own = {"objective": {"command": "train {x}", "direction": "maximize"}, "standard": None}
    values = [1e308, -1e308, 0.0, 1.0, 1e-300, 5.0]
    trials = tuple(Trial(i, i, Outcome(value)) for i, value in enumerate(values))
    found = made(tmp_path, History(trials), finished=False, space=space, **own).find()
    assert json.dumps(finite(to_plain(found)), allow_nan=False)


def test_a_preset_that_reads_prompts_is_shown_with_the_belief_on_numbers(tmp_path: Path) -> None:
    found = made(tmp_path, n=8, finished=False, preset="paper").find()
    assert found.slices
    assert found.prior is None
    assert "without a prior" in found.left_out["prior"]


def test_a_prior_that_knows_none_of_the_knobs_is_said_to_and_not_drawn(tmp_path: Path) -> None:
    knobs = {
        "lr": {"values": [1e-4, 1e-3, 1e-2], "scale": "log10"},
        "width": {"values": [1, 2, 4]},
        "style": {"values": ["plain", "odd"]},
    }
    own = {"objective": {"command": "train {lr} {width} {style}", "direction": "maximize"}, "standard": None}
    space = {"base": "empty", "knobs": knobs}
    there = build_space(made(tmp_path, History(), finished=False, space=space, **own).subject.config.space)
    trials = history_of(there, 8, score=lambda config: config["width"] / 4)
    beliefs = {"beliefs": {"lr": "around 1e-3", "width": "probably 2", "style": "probably odd"}}
    config = made(tmp_path, trials, finished=False, space=space, **own, **beliefs).subject.config
    preset = run_preset(config)
    found = Subject(config, there, preset).find(trials)
    assert found.prior is None
    assert found.prior_knobs is not None
    assert found.prior_knobs.unknown == ("lr", "width", "style")
    said = found.left_out["prior"]
    assert said.startswith("The prior knows nothing of what is searched here (lr, width and style)")
    assert "Score of each trial against what the prior expected" not in page(found)
    assert said in page(found)
    assert found.held is not None
    lines = list(held_lines(found.held))
    assert "Before the first trial, that spoke most for lr 1e-3, width 2, style odd." in lines
    explained = Reasons(config, there, preset).explain(trials, (7,))
    assert explained.proposals[0].prior is None
    assert said in list(explain_sentences(explained))


def test_a_prior_that_knows_some_of_the_knobs_says_which_it_does_not(tmp_path: Path) -> None:
    space = {"base": "empty", "knobs": {"style": {"values": ["plain", "odd"]}, **KNOBS}}
    found = made(tmp_path, n=12, space=space).find()
    assert found.prior is not None
    assert "style" not in found.prior.favourite
    assert "style" in found.prior.favourite_now
    shown = page(found)
    assert "The prior knows nothing of style: what it says is of rank, alpha_ratio, dropout, " in shown
    (row,) = re.findall(r"the prior&#x27;s own choice</bdi></th>(.*?)</tr>", shown)
    assert re.findall(r"<bdi>(.*?)</bdi>", row)[0] == "any"
    whole = made(tmp_path / "usual", n=12).find()
    assert whole.prior_knobs is not None
    assert whole.prior_knobs.unknown == ()
    assert "The prior knows nothing of" not in page(whole)


# -- curves ------------------------------------------------------------------------------------------


def test_a_curve_has_at_most_sixty_points_and_ends_where_the_loss_is_no_number(tmp_path: Path) -> None:
    write_logs(tmp_path, History((Trial(0, 0),)))
    path = tmp_path / "trials/0000/log.txt"
    steps, losses = read_curve(path)
    assert (len(steps), steps[-1], losses[0]) == (60, 100.0, pytest.approx(5.0, rel=0.4))
    path.write_text("# x\nstep\tloss\tlr\tnorm\n1\t2.0\t0\t0\n2\tnan\t0\t0\n3\t1.0\t0\t0\nhalf a li")
    assert read_curve(path) == ((1.0,), (2.0,))


@pytest.mark.parametrize("content", ["", "what a command printed\n", "step\tloss\t", "\x00\x01\x02"])
def test_what_is_no_table_of_losses_gives_no_curve(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.txt").write_text(content)
    assert read_curve(tmp_path / "log.txt") == ((), ())
    assert read_curve(tmp_path / "missing.txt") == ((), ())
