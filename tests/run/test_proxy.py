from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.records.contents import ANSWERS
from loracle.records.events import Event, Noticed, PhaseStarted
from loracle.records.space import Knob, SearchSpace, default_space
from loracle.report.proxy import proxy_table
from loracle.run.proxy import COEFFICIENTS, check_proxy, correlate, parse_fractions, spread_configs


def test_fractions_are_parsed_or_refused() -> None:
    assert parse_fractions("0.1, 0.05,0.1") == [0.05, 0.1]
    for text in ("", "a", "0", "1", "0.5,1.5"):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            parse_fractions(text)


def test_configs_are_spread_over_step_sizes() -> None:
    space = default_space()
    indices = spread_configs(space, 10, seed=1)
    steps = [space.config(i)["alpha"] * space.config(i)["learning_rate"] for i in indices]
    assert steps == sorted(steps)
    assert steps[-1] > 20 * steps[0]
    assert spread_configs(space, 10, seed=1) == indices
    with pytest.raises(ConfigError, match="only 2 candidates"):
        spread_configs(SearchSpace((Knob("rank", (1, 2)),)), 3, seed=0)


def test_correlations_of_a_perfect_and_a_reversed_proxy() -> None:
    full = np.arange(12.0)
    same = {(c.kind, c.among): c for c in correlate(2 * full + 1, full, seed=0)}
    assert all(c.estimate == pytest.approx(1) and c.low == pytest.approx(1) for c in same.values())
    assert {among for _, among in same} == {"all", "better half"}
    assert all(c.estimate == pytest.approx(-1) for c in correlate(-full, full, seed=0))


def test_few_configs_look_no_more_certain_than_they_are() -> None:
    full = np.arange(4.0)
    found = {(c.kind, c.among): c for c in correlate(2 * full + 1, full, seed=0)}
    assert all(np.isnan(c.estimate) for (_, among), c in found.items() if among == "better half")  # of two
    assert all(c.estimate == pytest.approx(1) for (_, among), c in found.items() if among == "all")
    assert all(np.isnan(c.low) and np.isnan(c.high) for c in found.values())


def test_failed_configs_are_left_out_and_intervals_contain_the_estimate() -> None:
    random = np.random.default_rng(0)
    full = random.normal(size=40)
    part = full + random.normal(size=40)
    part[3] = np.nan
    for c in correlate(part, full, seed=0):
        assert c.low <= c.estimate <= c.high
    assert np.isnan(correlate(np.ones(5), np.arange(5.0), seed=0)[0].estimate)


@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_agree_with_scipy(ties: bool) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(2, 15))
    if ties:
        x, y = np.round(x), np.round(y)
    expected = {"pearson": pearsonr, "spearman": spearmanr, "kendall": kendalltau}
    for kind, coefficient in COEFFICIENTS.items():
        assert coefficient(x[None], y[None])[0] == pytest.approx(expected[kind](x, y).statistic)


def test_check_proxy_trains_each_config_once(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    events: list[Event] = []
    first = check_proxy(config, 5, [0.4], events.append)
    trainings = sum(isinstance(e, PhaseStarted) and ": rank" in e.text for e in events)
    assert trainings == 15
    assert len(first.full) == len(first.configs) == 5
    sizes = [(part.n_examples, part.of_trials) for part in first.fractions]
    assert sizes == [(math.ceil(0.4 * 48), False), (24, True)]  # what a trial of the run has, too
    assert [row[0] for row in proxy_table(first)[1::3]] == ["40 %", "50 % (a trial)"]
    again: list[Event] = []
    assert check_proxy(config, 5, [0.4], again.append).as_json() == first.as_json()
    assert not any(isinstance(e, PhaseStarted) and ": rank" in e.text for e in again)


def test_trials_on_all_data_leave_nothing_to_measure(run_config: Callable[..., Path]) -> None:
    events: list[Event] = []
    config = load_config(run_config(data={"proxy_minimum": 1000}))
    found = check_proxy(config, 4, [0.4], events.append)
    assert [part.of_trials for part in found.fractions] == [False]
    (said,) = [event.notice.text for event in events if isinstance(event, Noticed)]
    assert said.startswith("a trial of this config trains on all 48 examples")


def test_too_few_configs_that_train(run_config: Callable[..., Path]) -> None:
    knobs = {
        "rank": {"values": [2, 4, 8]},
        "alpha_ratio": {"values": [1e37, 1e38]},  # overflows in the first step
        "dropout": {"values": [0.0]},
        "batch_size": {"values": [4]},
        "learning_rate": {"values": [50.0, 100.0]},
    }
    config = load_config(run_config(space={"base": "empty", "knobs": knobs}))
    with pytest.raises(StudyError, match="fewer than 4 of 4 configs train"):
        check_proxy(config, 4, [0.5], lambda event: None)


def test_trainings_of_other_data_model_or_settings_are_refused_by_name(
    run_config: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    search = {"trials": 5, "seed": 3}
    config = load_config(run_config(model=str(model), search=search))
    first = check_proxy(config, 4, [0.4], lambda event: None)

    rows = config.data.train.read_text()
    lines = rows.splitlines()
    config.data.train.write_text("\n".join([lines[0].replace("copy:", "copie:"), *lines[1:]]) + "\n")
    with pytest.raises(StudyError, match=r"proxy: changed since this run began: .* rows; its trials"):
        check_proxy(config, 4, [0.4], lambda event: None)
    config.data.train.write_text(rows)

    template = model / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + "{# another #}")
    with pytest.raises(StudyError, match="changed since this run began: chat template; "):
        check_proxy(config, 4, [0.4], lambda event: None)
    template.write_text(text)

    for changes, said in (
        ({"training": {"epochs": 2}}, "training.epochs=1.0, here it is 2.0"),
        ({"search": search | {"seed": 4}}, "search.seed=3, here it is 4"),
    ):
        with pytest.raises(StudyError, match=said):
            check_proxy(load_config(run_config(model=str(model), **changes)), 4, [0.4], lambda event: None)

    # What the check is made for: to choose the share of a trial.
    shared = {"train": "train.jsonl", "proxy": 0.4, "proxy_minimum": 5}
    again: list[Event] = []
    chosen = load_config(run_config(model=str(model), search=search, data=shared))
    second = check_proxy(chosen, 4, [0.4], again.append)
    assert [part.of_trials for part in second.fractions] == [True]
    assert second.fractions[0].scores == first.fractions[0].scores
    assert not any(isinstance(e, PhaseStarted) and ": rank" in e.text for e in again)

    (config.output / "proxy" / "identity.json").unlink()  # as earlier versions left it
    heard: list[Event] = []
    check_proxy(config, 4, [0.4], heard.append)
    assert [e.notice.name for e in heard if isinstance(e, Noticed)] == ["contents_recorded_late"]


def test_trainings_that_were_scored_by_answers_with_marks_around_them_are_refused(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    """As earlier versions did, which recorded nothing of it."""
    (tmp_path / "marked.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}#{% endif %}{% endfor %}"
    )
    data = {"train": "train.jsonl", "proxy": 0.5, "as_chat": True, "template": "marked.jinja"}
    scoring = {"metric": "exact_match", "max_new_tokens": 6}
    config = load_config(run_config(data=data, scoring=scoring, training={"max_steps": 1}))
    check_proxy(config, 4, [0.5], lambda event: None)
    path = config.output / "proxy" / "identity.json"
    known = json.loads(path.read_text())
    assert known["contents"].pop(ANSWERS)
    path.write_text(json.dumps(known))
    with pytest.raises(StudyError, match="changed since this run began: what counts as an answer"):
        check_proxy(config, 4, [0.5], lambda event: None)
