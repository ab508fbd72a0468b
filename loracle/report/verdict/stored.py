"""The file that keeps a run's verdict: written when the run ends, read by commands that look at it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.records.codec import from_plain, json_text, to_plain
from loracle.records.notices import Notice
from loracle.records.notices import as_json as notices_as_json
from loracle.records.space import SearchSpace
from loracle.records.trial import History
from loracle.report.findings.search_cost import search_cost
from loracle.report.objectives import front_json
from loracle.report.tables import comparison_json
from loracle.report.verdict.comparison import Comparison
from loracle.report.verdict.sentences import headline, verdict
from loracle.report.wording import nothing_succeeded
from loracle.text.files import write_atomically

FILE = "verdict.json"

_NOT_FINISHED = "the run is not finished; the same loracle tune goes on with it"
_NOT_HERE = (
    "the run was not finished in this folder: its database has the trials, and the final trainings and the "
    "verdict are where loracle tune ended; here, the same loracle tune makes them again"
)


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        comparison: winner and standard settings.
        stopped: why the search ended.
        trials: how many counted then.
    """

    comparison: Comparison
    stopped: str
    trials: int


def write_finished(folder: Path, finished: Finished) -> bool:
    """Keeps how the run in this folder ended; whether that is anything new."""
    path, text = folder / FILE, json_text(to_plain(finished))
    new = not path.exists() or path.read_bytes() != text.encode()
    write_atomically(path, text)
    return new


def read_finished(folder: Path, history: History, storage: str | None = None) -> Finished:
    """How the run in this folder ended; `storage` is its database, which many machines may share.

    Raises:
        StudyError: it has not ended, has gone on since, or nothing can be read of it.
    """
    try:
        finished = from_plain(Finished, json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        if (folder / "report.md").exists():
            raise StudyError(
                f"{folder}: it is finished, and there is no {FILE} (deleted, or the run is of an earlier "
                "version that kept none); the same loracle tune writes it and trains nothing again"
            ) from None
        nothing = nothing_succeeded(history)
        why = f"{nothing[:1].lower()}{nothing[1:]}" or (_NOT_FINISHED if storage is None else _NOT_HERE)
        raise StudyError(f"{folder}: {why}") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder / FILE}: cannot be read; the same loracle tune makes it again") from error
    if len(history.counted) != finished.trials:
        raise StudyError(
            f"{folder}: {len(history.counted)} trials are done and the verdict is of {finished.trials}, so "
            f"{_NOT_FINISHED}"
        )
    return finished


def verdict_json(
    config: RunConfig, space: SearchSpace, finished: Finished, history: History, notices: Sequence[Notice]
) -> dict[str, Any]:
    """Everything that the verdict says, for programs; docs/json.md describes it."""
    comparison, metric = finished.comparison, config.metric
    front: dict[str, Any] = {}
    cost = search_cost(trial.outcome for trial in history.finished if trial.outcome)
    if config.objectives:
        winner = space.index(comparison.winner)
        front["pareto_set"] = front_json(space, history, config.objectives, winner)
    return (
        front
        | comparison_json(comparison, metric)
        | {
            "run": str(config.output),
            "cost": None if cost is None else to_plain(cost),
            "stopped": finished.stopped,
            "exit_code": comparison.exit_code,
            "headline": headline(comparison, metric, history),
            "verdict": verdict(comparison, metric, history),
            "notices": notices_as_json(notices),
        }
    )
