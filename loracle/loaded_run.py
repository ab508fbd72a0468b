"""`loracle.load_run`: a run, finished or not, for notebooks and scripts; nothing in its folder is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.records.notices import Notice, read_notices
from loracle.records.space import Config, SearchSpace, Value
from loracle.records.trial import History
from loracle.report.findings.beliefs import believed_scores, understand
from loracle.report.findings.finding import Subject
from loracle.report.findings.records import Findings
from loracle.report.objectives import front_json
from loracle.report.page import markup
from loracle.report.tables import history_table
from loracle.report.verdict.stored import Finished, read_finished
from loracle.run.folder import open_run
from loracle.run.search import run_preset
from loracle.run.storage.opening import begun_with, read_history
from loracle.search.presets import Preset

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LoadedRun:
    """What a run folder holds, as it was when it was read.

    Attributes:
        config: with absolute paths.
        space: that is searched.
        history: all trials.
        finished: how the run ended; None: it has not.
        notices: what the user must see.
    """

    config: RunConfig
    space: SearchSpace
    history: History
    finished: Finished | None
    notices: tuple[Notice, ...]

    @cached_property
    def preset(self) -> Preset:
        """How its configs are chosen."""
        return run_preset(self.config, begun_with(self.config.output, self.config.execution.storage))

    @cached_property
    def findings(self) -> Findings:
        """Everything that the report of the run says, as records."""
        subject = Subject(self.config, self.space, self.preset)
        if self.finished is None:
            return subject.find(self.history, notices=self.notices)
        return subject.find(
            self.history, self.finished.comparison, self.finished.stopped, notices=self.notices
        )

    @property
    def verdict(self) -> str:
        """The result in sentences, or how far the search is."""
        return " ".join(self.findings.verdict)

    @property
    def trials(self) -> pandas.DataFrame:
        """A row a trial, by its number: knobs, score, state, failure, seconds, of each guard its reading, as
        its metric reads, and whether it is kept, and every metric.

        Raises:
            StudyError: pandas is not installed.
        """
        rows = [
            {
                "trial": row.number,
                **row.config,
                "score": row.score,
                "state": row.state,
                "failure": row.failure,
                "message": row.message,
                "seconds": row.seconds,
                **{f"guard {name}": _reading(guard) for name, guard in row.guards.items()},
                **{f"keeps {name}": guard["kept"] for name, guard in row.guards.items()},
                **{f"metric: {name}": value for name, value in row.metrics.items()},
            }
            for row in self.findings.trials
        ]
        return _pandas().DataFrame(rows, columns=None if rows else ["trial"]).set_index("trial")

    @property
    def pareto_set(self) -> pandas.DataFrame:
        """The trials than which none is better by one objective and as good by all, on validation data: a row
        a trial, by its number, with its knobs, and its score by each objective as that reads.

        Of a run with one objective: the best score.

        Raises:
            StudyError: pandas is not installed.
        """
        objectives = self.config.objectives or (self.config.metric,)
        front = front_json(self.space, self.history, objectives)
        rows = [{"trial": one["trial"], **one["config"], **one["scores"]} for one in front]
        return _pandas().DataFrame(rows, columns=None if rows else ["trial"]).set_index("trial")

    def belief(self, configs: Iterable[Mapping[str, Value]] | None = None) -> pandas.DataFrame:
        """What the search believes of some configs: their knobs, `score`, `low` and `high` (95 %).

        Scores read as the metric reads, of several objectives the first. Presets that read prompts are
        answered for by the belief of `default` on numbers, as in the report.

        Args:
            configs: of the space; None: every candidate, the best believed first; with guards, those that
                likely lose one come last, and `keeps` is the probability that a config keeps them all.

        Raises:
            StudyError: no trial has succeeded, or pandas is not installed.
            SpaceError: a config is none of the space.
        """
        if not self.history.succeeded:
            raise StudyError(f"{self.config.output}: no trial has succeeded, so nothing is believed yet")
        indices = None if configs is None else np.array([self.space.index(config) for config in configs], int)
        understood = understand(
            self.space,
            self.history,
            self.preset,
            self.config.search.seed,
            self.config.metric,
            self.history.succeeded[0].index,
        )
        assert understood is not None  # a trial has succeeded
        found = believed_scores(understood, indices)
        shown: list[Config] = [self.space.config(int(index)) for index in found.indices]
        table = _pandas().DataFrame(shown)
        table = table.assign(score=found.score, low=found.low, high=found.high)
        return table if found.keeps is None else table.assign(keeps=found.keeps)

    def figure(self) -> Figure:
        """The scores in the order of trials, and against each knob; a figure of matplotlib."""
        from loracle.report.figures import draw

        return draw(self.space, self.history, self.config.metric)

    def html(self) -> str:
        """The verdict and the trials: what a notebook shows of a run."""
        rows = history_table(self.space, self.history, self.config.metric, self.config.objectives)
        return markup.paragraph(self.verdict) + markup.table(rows, "trials")

    _repr_html_ = html


def load_run(folder: str | Path) -> LoadedRun:
    """Reads a run, finished or not, while it may be going on.

    Args:
        folder: of the run, or the config file that names it.

    Raises:
        LoracleError: there is no run, or it cannot be read.
    """
    config, space = open_run(Path(folder))
    history = read_history(config.output, space, config.execution.storage)
    try:
        finished = read_finished(config.output, history, config.execution.storage)
    except StudyError:  # it is not over
        finished = None
    return LoadedRun(config, space, history, finished, tuple(read_notices(config.output)))


# -- helpers ----------------------------------------------------------------------------------------


def _reading(guard: Mapping[str, Any]) -> float:
    return metric_of(guard["metric"]).read(guard["value"])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise StudyError("tables of a run are pandas' own; pip install 'loracle[notebook]'") from None
    return pandas
