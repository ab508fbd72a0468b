from __future__ import annotations

import json
from pathlib import Path

from loracle.records.space import Knob, SearchSpace, default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.proxy import Correlation, FractionResult, ProxyResult, proxy_table
from loracle.report.tables import comparison_json, comparison_rows, history_json, history_table
from loracle.report.verdict import Comparison

SPACE = default_space()
NAN = Failure(FailureKind.DIVERGED, "loss is NaN", "tail")
STOPPED = Failure(FailureKind.INTERRUPTED, "stopped by the user")
HISTORY = History(
    (
        Trial(0, 40, Outcome(0.25, {"test_loss": 1.5}, seconds=2.0)),
        Trial(1, 900, Outcome(None, seconds=1.5, failure=NAN)),
        Trial(2, 77),
        Trial(3, 78, Outcome(None, failure=STOPPED)),
    )
)
# Names that tables and JSON have themselves.
SPACE_FOLDER = Path("/data/NaN/run")
CLASHING = SearchSpace(tuple(Knob(name, (1, 2)) for name in ("trial", "score", "seconds", "value", "state")))


def test_the_table_of_trials_says_score_failure_or_running() -> None:
    titles, *rows = history_table(SPACE, HISTORY, "exact_match")
    assert titles[0] == "trial"
    assert titles[-2:] == ["score", "seconds"]
    assert [row[-2] for row in rows] == ["25.0 %", "diverged", "running", "interrupted"]
    assert [row[-1] for row in rows] == ["2.0", "1.5", "", "0.0"]


def test_programs_get_numbers_and_a_state() -> None:
    first, second, third, fourth = json.loads(json.dumps(history_json(SPACE, HISTORY, "exact_match")))
    assert first == {
        "trial": 0,
        "state": "succeeded",
        "config": SPACE.config(40),
        "value": 0.25,
        "score": 0.25,
        "metrics": {"test_loss": 1.5},
        "guards": {},
        "seconds": 2.0,
        "curve": None,
        "failure": None,
    }
    assert (second["state"], second["score"], second["seconds"]) == ("failed", None, 1.5)
    assert second["failure"] == {"kind": "diverged", "message": "loss is NaN"}
    assert (third["state"], third["score"], third["seconds"]) == ("running", None, None)
    assert fourth["state"] == "interrupted"
    (loss,) = history_json(SPACE, History((Trial(0, 40, Outcome(-1.25)),)), "loss")
    assert (loss["value"], loss["score"]) == (-1.25, 1.25)


def test_a_knob_never_takes_the_place_of_a_column() -> None:
    history = History((Trial(7, 0, Outcome(0.5, seconds=3.0)),))
    titles, row = history_table(CLASHING, history, "value")
    assert titles == [
        *("trial", "trial (knob)", "score (knob)", "seconds (knob)", "value", "state"),
        *("score", "seconds"),
    ]
    assert row == ["7", "1", "1", "1", "1", "1", "0.5", "3.0"]
    (plain,) = history_json(CLASHING, history, "value")
    assert (plain["trial"], plain["score"], plain["seconds"]) == (7, 0.5, 3.0)
    assert plain["config"] == dict.fromkeys(CLASHING.names, 1)
    config = CLASHING.config(0)
    rows = comparison_rows(Comparison(config, None, Outcome(9.0), None), "value")
    assert [row for row in rows if row[0].startswith("value")] == [("value (knob)", "1"), ("value", "9")]


def test_an_empty_history_has_its_titles() -> None:
    assert history_table(SPACE, History(), "loss") == [
        ["trial", "rank", "alpha", "dropout", "batch_size", "learning_rate", "score", "seconds"]
    ]


def test_the_loss_on_test_data_stands_beside_the_metric() -> None:
    winner, standard = Outcome(0.9, {"test_loss": 0.25}), Outcome(0.6, {"test_loss": 0.5})
    found = Comparison(SPACE.config(1), SPACE.config(2), winner, standard)
    rows = comparison_rows(found, "exact_match")
    assert rows[-2:] == [("test exact match", "90.0 %", "60.0 %"), ("test loss", "0.2500", "0.5000")]
    rows = comparison_rows(Comparison(SPACE.config(1), None, Outcome(-0.2, {"test_loss": 0.2}), None), "loss")
    assert [row[0] for row in rows].count("test loss") == 1


def test_the_comparison_for_programs() -> None:
    failed = Comparison(SPACE.config(1), SPACE.config(2), Outcome(None, failure=NAN), Outcome(-0.5))
    content = comparison_json(failed, "loss")
    assert content["winner"]["failure"] == "diverged"
    assert (content["standard"]["test_value"], content["standard"]["score"]) == (-0.5, 0.5)
    assert (content["standing"], content["best"], content["metric"]) == ("not_compared", "standard", "loss")


def test_coefficients_of_scores_that_do_not_vary_are_no_numbers() -> None:
    nan = float("nan")
    found = tuple(
        Correlation(kind, among, nan if kind == "pearson" else 0.5, nan, nan)
        for kind in ("pearson", "spearman", "kendall")
        for among in ("all", "better half")
    )
    result = ProxyResult(
        SPACE_FOLDER, ({"rank": 1},), (nan,), (FractionResult(0.1, 5, (nan,), 1.0, found, ""),)
    )
    text = str(proxy_table(result))
    assert "nan" not in text
    assert "none: too few configs, or scores that do not vary" in text
    plain = result.as_json()
    assert plain["full"] == [None]
    assert plain["folder"] == "/data/NaN/run"  # only numbers become null
