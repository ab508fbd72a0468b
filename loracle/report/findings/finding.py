"""Everything that a report says about a run, found in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loracle import __version__
from loracle.config.data.sources import described
from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.config.search.limits import least_trials
from loracle.config.settings import RunConfig
from loracle.config.training.plan import plan_training
from loracle.errors import ConfigError
from loracle.records.notices import Notice
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import History
from loracle.report.findings import trials as of_trials
from loracle.report.findings.beliefs import Understanding, prior_knobs, understand
from loracle.report.findings.cliff import cliff
from loracle.report.findings.curves import CurveReader
from loracle.report.findings.examples import examples
from loracle.report.findings.recipes import DataAgain
from loracle.report.findings.records import Findings, HeldLikely, TrialRow
from loracle.report.findings.search_cost import affordable, search_cost
from loracle.report.folders import final_folder
from loracle.report.objectives import show_scores, weighed
from loracle.report.tables import comparison_json, comparison_rows
from loracle.report.verdict import Comparison, verdict_lines
from loracle.report.wording import nothing_succeeded, prior_knobs_line, show_config
from loracle.search.presets import Preset
from loracle.search.propose import recommend

_NOT_YET = "It is written when the search is over and the final trainings are done."


@dataclass
class Subject:
    """A run that is reported on. What never changes is kept between one report and the next.

    Attributes:
        config, space: of the run.
        preset: how its configs are chosen.
        curves: of its trials.
    """

    config: RunConfig
    space: SearchSpace
    preset: Preset
    curves: CurveReader = field(init=False)

    def __post_init__(self) -> None:
        self.curves = CurveReader(self.config.output)

    def find(
        self,
        history: History,
        comparison: Comparison | None = None,
        stopped: str | None = None,
        *,
        notices: Sequence[Notice] = (),
        whole: bool = True,
    ) -> Findings:
        """What the run shows after these trials.

        Args:
            history: all trials.
            comparison: of the final trainings; None before the end.
            stopped: why the search ended.
            notices: what the user must see.
            whole: False leaves out what takes more than a moment: importance and what is as good but cheaper.
        """
        config, space, metric = self.config, self.space, self.config.metric
        rows = of_trials.trial_rows(space, history, metric)
        leader = self._leader(history, comparison)
        winner = _number(space, rows, leader)
        standard = _number(space, rows, of_trials.standard_index(config, space))
        found = Findings(
            **self._head(history, comparison, stopped, winner, rows),
            notices=tuple(f"{notice.about}: {notice.text}" for notice in notices),
            trials=rows,
            pareto=of_trials.scored_by_each(history, config.objectives, standard),
            progress=of_trials.progress(rows, None if standard is None else rows[standard], metric),
            curves=self.curves.curves(history, rows, winner, standard),
            cliff=cliff(rows),
            proxy=of_trials.proxy_pairs(space, history, comparison, metric),
            cost=of_trials.cost(config, history, comparison),
            provenance=_provenance(config),
            prior_knobs=prior_knobs(space) if self.preset.informed else None,
        )
        found = self._with_belief(found, history, leader, whole=whole)
        if comparison is not None:
            data = DataAgain(config)
            trial = None if found.ran_again else winner
            pairs = None if comparison.same else examples(config.output, metric, data.test_texts(), trial)
            recipes, without = data.recipes()
            found = replace(found, recipes=recipes, without_recipe=without, examples=pairs)
        return replace(found, left_out=_left_out(found, comparison, whole=whole))

    def _head(
        self,
        history: History,
        comparison: Comparison | None,
        stopped: str | None,
        winner: int | None,
        rows: Sequence[TrialRow],
    ) -> dict[str, Any]:
        config, metric = self.config, self.config.metric
        of_metric = metric_of(metric)
        done, budget = len(history.counted), _trials(config, history)
        if comparison is None:
            said: Sequence[str] = _so_far(config, history, winner, rows)
            table: Sequence[tuple[str, ...]] = ()
        else:
            said = verdict_lines(comparison, metric, history)
            table = comparison_rows(comparison, metric, config.scoring.all_metrics)
        return {
            "run": str(config.output),
            "name": Path(config.model).name or config.model or config.output.name,
            "metric": metric,
            "title": metric if metric in OWN_METRICS else of_metric.title,
            "less_is_better": of_metric.less_is_better,
            "scale": of_metric.scale,
            "unit": "%" if of_metric.proportion else "",
            "done": done,
            "budget": budget,
            "finished": comparison is not None,
            "ran_again": config.objective is None or final_folder(config.output, "winner").exists(),
            "verdict": tuple(said),
            "standing": None if comparison is None else comparison.standing,
            "knobs": self.space.names,
            "comparison": tuple(tuple(row) for row in table),
            "comparison_data": None if comparison is None else comparison_json(comparison, metric),
            "leader": winner,
            "stopped": stopped,
            "candidates": len(self.space.candidates),
        }

    def _leader(self, history: History, comparison: Comparison | None) -> int | None:
        """Index of the config that won, or would if the search ended now; None before the first success."""
        if comparison is not None:
            return self.space.nearest({name: comparison.winner[name] for name in self.space.names})
        if not history.succeeded:
            return None
        alike = weighed(history, self.config.objectives)
        if self.preset.reads:  # its belief needs the model that reads
            observed = replace(self.preset, recommend="observed")
            return recommend(self.space, alike, observed, seed=self.config.search.seed)
        return recommend(self.space, alike, self.preset, seed=self.config.search.seed)

    def _with_belief(self, found: Findings, history: History, leader: int | None, *, whole: bool) -> Findings:
        if leader is None:
            return found
        seed = self.config.search.seed
        belief = understand(self.space, history, self.preset, seed, found.metric, leader)
        if belief is None:
            return found
        prior = belief.prior if belief.own else None
        if found.pareto is not None:  # the belief is of the first objective, and what leads is of all
            prior = None
        chosen = None if found.pareto is not None else belief.chosen
        held = belief.held if found.pareto is None else None
        found = replace(
            found,
            own_belief=belief.own,
            slices=belief.slices,
            surface=belief.surface(whole=whole),
            prior=prior,
            chosen=chosen,
            held=held,
        )
        if not whole:
            return found
        found = replace(found, importance=belief.importance)
        if found.pareto is not None:
            return found
        return replace(found, near_equals=belief.near_equals(self._steps(found, belief)))

    def held(self, history: History, comparison: Comparison) -> HeldLikely | None:
        """What became of what the user holds likely; None where that is nothing, or cannot be said."""
        leader = self._leader(history, comparison)
        if not self.config.beliefs.said or leader is None or self.config.objectives:
            return None
        seed = self.config.search.seed
        belief = understand(self.space, history, self.preset, seed, self.config.metric, leader)
        return None if belief is None else belief.held

    def _steps(self, found: Findings, belief: Understanding) -> Callable[[Config], int | None]:
        """How many steps a trial of a config takes; nobody knows those of a trainer of the user's own."""
        name = "n_blocks" if self.config.data.packing else "n_examples"
        counts = [row.metrics[name] for row in found.trials if name in row.metrics]
        if self.config.objective is not None or not counts:
            return lambda config: None
        rows, settings = int(max(counts)), self.config.training

        def steps(config: Config) -> int | None:
            try:
                return plan_training(config, settings, rows).steps
            except ConfigError:
                return None

        return steps


# -- helpers ----------------------------------------------------------------------------------------


def _number(space: SearchSpace, rows: Sequence[TrialRow], index: int | None) -> int | None:
    """Number of the best trial of a config; None where none succeeded."""
    if index is None:
        return None
    wanted = space.config(index)
    own = [row for row in rows if row.value is not None and row.config == wanted]
    return max(own, key=lambda row: row.value or 0.0).number if own else None


def _so_far(
    config: RunConfig, history: History, winner: int | None, rows: Sequence[TrialRow]
) -> tuple[str, ...]:
    done, budget = len(history.counted), _trials(config, history)
    limited = budget < config.search.trials or (config.search.budget is not None and not done)
    about = ("at most " if not done else "about ") if limited else ""  # as a budget may end it
    said = f"The search is not over: {done} of {about}{budget} trials are done."
    if done >= budget:  # final trainings are going on, were cut off, or are an earlier version's
        said = f"All {budget} trials are done, the final comparison is not: the same loracle tune makes it."
    if winner is not None:
        row = next(row for row in rows if row.number == winner)
        outcome = next(trial.outcome for trial in history.succeeded if trial.number == winner)
        assert outcome is not None
        shown = show_scores(outcome, config.metric, config.objectives)
        lost = f", though it loses {' and '.join(row.broken)}, as all do," if row.broken else ""
        said += f" Trial {winner} leads with {shown} in its trial{lost}: {show_config(row.config)}."
        where = "" if config.metric in OWN_METRICS else " on test data"
        return (said, f"Nothing has been compared{where} yet.")
    nothing = nothing_succeeded(history)
    if done >= budget:
        return (f"All {budget} trials are done.", f"{nothing}.")
    if nothing and not done:
        return (said, f"{nothing}.")
    return (said, "No trial has succeeded so far.") if done else (said,)


def _trials(config: RunConfig, history: History) -> int:
    """How many trials there will be, as far as those tell that are done."""
    counted, search = history.counted, config.search
    cost = search_cost(trial.outcome for trial in counted if trial.outcome)
    if search.budget is None or cost is None:
        return search.trials
    enough = affordable(search.budget, cost.trainings / len(counted), least_trials(search))
    return min(search.trials, max(enough, len(counted)))


def _provenance(config: RunConfig) -> Mapping[str, Any]:
    """What the final training recorded, or the first trial; with what the config says."""
    recorded: dict[str, Any] = {}
    for folder in (final_folder(config.output, "winner"), *sorted(config.output.glob("trials/*"))[:3]):
        try:
            content = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            recorded = content
            break
    wanted = ("versions", "device", "dtype", "quantization", "attention", "threads", "model", "data")
    return {
        "run": str(config.output),
        "model": config.model,
        "training data": described(config.data.train) if config.objective is None else "",
        "preset": config.search.preset,
        "seed": config.search.seed,
        "report by": f"Loracle {__version__}",
        "recorded": {name: recorded[name] for name in wanted if name in recorded},
    }


def _left_out(found: Findings, comparison: Comparison | None, *, whole: bool) -> dict[str, str]:
    """By part: why it cannot be said."""
    succeeded = any(row.state == "succeeded" for row in found.trials)
    nothing = "No trial has succeeded, so there is no belief."
    later = "It takes a moment to compute; `loracle report` and the end of the run add it."
    said: dict[str, str] = {}
    if not found.progress:
        said["progress"] = "No trial has finished."
    if not found.curves:
        said["curves"] = "The trials left no losses by step."
    if not found.slices:
        said["slices"] = nothing if not succeeded else "No knob has more than one value."
    if found.surface is None:
        varied = [one.knob for one in found.slices]
        alone = "Only one knob has several values, so there are no two to look at together."
        none = "No interaction of two knobs can be told, so none is shown." if whole else later
        said["surface"] = nothing if not succeeded else none if len(varied) > 1 else alone
    if found.importance is None:
        flat = "The belief is flat: no knob makes a difference that it can tell."
        said["importance"] = nothing if not succeeded else flat if whole else later
    if found.prior is None:
        none = f"The preset {_preset_name(found)} searches without a prior that was fitted to other tasks."
        silent = found.prior_knobs is not None and found.prior_knobs.silent
        said["prior"] = prior_knobs_line(found.prior_knobs) if silent else none if succeeded else nothing
    if not found.near_equals:
        why = "No cheaper config is believed to be as good within noise."
        said["near_equals"] = nothing if not succeeded else why if whole else later
    if found.pareto is not None and succeeded:
        several = "It is of one score, and this search has several objectives."
        said |= dict.fromkeys(("prior", "near_equals"), several)
    if found.cliff is None:
        said["cliff"] = "No size of steps separates trials that broke from trials that did well."
    if comparison is None:
        said |= dict.fromkeys(("recipes", "examples", "proxy"), _NOT_YET)
    else:
        if not found.proxy:
            said["proxy"] = "No config was trained both in a trial and on all data."
        if comparison.same:
            said["examples"] = "The winner is the standard settings, so no item tells them apart."
        elif found.examples is None:
            said["examples"] = "There are no results of single items to compare."
        if not found.recipes:
            said["recipes"] = "No final training succeeded, so there is no recipe."
    if found.cost is None:
        said["cost"] = "Nothing has been trained."
    elif found.cost.search is None:
        why = "Not all trials say what they took in tokens" if succeeded else "No trial has succeeded"
        said["search_cost"] = f"{why}, so what the search cost in full trainings is not known."
    return said


def _preset_name(found: Findings) -> str:
    return str(found.provenance.get("preset", ""))
