"""One training of one config: in smaller parts where memory runs out, scored, and written into its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

from loracle.config.knobs import without_adapter
from loracle.config.metrics import Item, metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.training.settings import TrainingConfig
from loracle.errors import LoracleError
from loracle.records.codec import json_text
from loracle.records.curves.recorder import HEAD, CurveRecorder, Point, validation_row
from loracle.records.failures import DISK_ERRORS, crash, no_room
from loracle.records.objective import Progress
from loracle.records.space import Config
from loracle.records.trial import Failure, FailureKind, GuardReading, Outcome, Tokens
from loracle.records.trial_files import items_file, write_attempt
from loracle.text.files import write_atomically
from loracle.training.dataset.tokens import Encoded
from loracle.training.guard import Guard
from loracle.training.intervals import confidence_interval
from loracle.training.loop import Step, Trained, TrainingFailed, train_adapter
from loracle.training.memory.measurement import out_of_memory, release
from loracle.training.memory.plan import MemoryModel, halvings
from loracle.training.model.base_model import Base
from loracle.training.model.saved_adapter import SavedAdapter
from loracle.training.parallel.group import ALONE, Group
from loracle.training.scoring import Questions, Score, score
from loracle.training.validation_loss import Watched

Given = TypeVar("Given")
_WHILE_SCORING = "while scoring one example at a time"


@dataclass(frozen=True)
class Watch:
    """What must not be lost, as one training is asked about it: the guard, its questions and how they are
    scored, in batches that fit, and what the base model gives."""

    guard: Guard
    questions: Questions
    scoring: ScoringConfig
    base_items: Sequence[Item]


@dataclass(frozen=True)
class TrialPlan:
    """One training and what it is scored on.

    Attributes:
        base: what is adapted.
        training, scoring: settings; the batch of `scoring` is the largest that fits.
        config, seed: what is trained.
        folder: for the files of the trial.
        split: `validation` or `test`, where `questions` come from.
        train: examples to train on, or blocks of them.
        share: what these are of all training data.
        chosen_by: validation examples that are scored beside, where one of several final trainings is chosen.
        watched: what early stopping goes by or, without it, is read for the learning curve; None: nothing.
        memory: what trainings of this run take.
        micro_batch: the largest that fits, in sequences of each process.
        progress: called after each step, and while scoring.
        adapter: where the adapter is saved; None: nowhere.
        group: the processes that train and score it, this one the first of them.
        guards: what must not be lost.
        full_tokens: that one training on all data with the standard settings trains on.
        n_split: examples of the split, of which `questions` may be some.
    """

    base: Base
    training: TrainingConfig
    scoring: ScoringConfig
    config: Config
    seed: int
    folder: Path
    split: str
    train: Encoded
    questions: Questions
    memory: MemoryModel
    micro_batch: int
    share: float = 1.0
    chosen_by: Questions | None = None
    watched: Watched | None = None
    progress: Progress | None = None
    adapter: Path | None = None
    group: Group = ALONE
    guards: tuple[Watch, ...] = ()
    full_tokens: int = 0
    n_split: int = 0


def run_trial(plan: TrialPlan, provenance: Mapping[str, Any]) -> Outcome:
    """Trains and scores. A training for which memory runs out is repeated with half the micro-batch: the same
    effective batch in smaller parts, which is the same training in less memory.

    Raises:
        LoracleError: a config that no training understands, a damaged base model, or no room on the disk.
    """
    began = time.perf_counter()
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(plan.folder / "provenance.json", json_text(provenance))
    metrics: dict[str, float] = {}
    tried: list[int] = []
    for micro_batch in halvings(plan.micro_batch):
        plan = replace(plan, micro_batch=micro_batch)
        tried.append(micro_batch)
        if len(tried) > 1:
            metrics["attempts"] = float(len(tried))
        curve = CurveRecorder()
        result = _attempt(plan, curve)
        if not _is_out_of_memory(result):
            break
        if result.message.endswith(_WHILE_SCORING):  # the training is not what needs less
            metrics |= _shortage(replace(plan, micro_batch=1))
            break
        metrics |= _shortage(plan)
        if micro_batch > 1:
            so_far = Outcome(None, dict(metrics), time.perf_counter() - began, result)
            write_attempt(plan.folder, len(tried), plan.config, so_far)
    if _is_out_of_memory(result):
        result = replace(result, message=f"{result.message}; {_sizes_tried(plan, tried)}")
    outcome = outcome_of(plan, result, curve, time.perf_counter() - began, metrics)
    release_after(plan)
    return outcome


def outcome_of(
    plan: TrialPlan,
    result: Result | Failure,
    curve: CurveRecorder,
    seconds: float,
    metrics: Mapping[str, float],
) -> Outcome:
    """What a training gave, in so many seconds; `metrics` are more to be kept. Writes results of items."""
    found = curve.curve()
    if isinstance(result, Failure):
        spent = _spent(plan, found.tokens[-1] if found and found.tokens else 0)
        return Outcome(None, {**metrics, **spent}, seconds, result, {"other": seconds}, curve=found)
    parts = dict(result.seconds)
    parts["other"] = seconds - sum(parts.values())
    for table, records in result.items.items():
        text = "".join(json_text(item, None) for item in records)
        write_atomically(items_file(plan.folder, table), text)
    return Outcome(
        result.value,
        {**metrics, **result.metrics},
        seconds,
        seconds_by_part=parts,
        guards=result.guards,
        curve=found,
    )


def release_after(plan: TrialPlan) -> None:
    """Gives memory back, so that what a worker keeps is what leaks."""
    if plan.base.device.type == "cpu":
        release(plan.base.device)


@dataclass(frozen=True)
class Result:
    """What a training that succeeded gave: its value, all that was measured, results of items by table, and
    seconds by part."""

    value: float
    metrics: Mapping[str, float]
    items: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: Mapping[str, float]
    guards: Mapping[str, GuardReading]


def _attempt(plan: TrialPlan, curve: CurveRecorder) -> Result | Failure:
    """Trains and scores with this micro-batch."""
    return attempted(plan, lambda: _train_and_score(plan, curve))


def attempted(plan: TrialPlan, give: Callable[[], Given]) -> Given | Failure:
    """What `give` gives. What goes wrong is a failure, which the search learns from; for what the next trial
    would meet as well, no config is to blame: it is raised.
    """
    try:
        return give()
    except LoracleError:
        raise
    except TrainingFailed as error:
        return error.failure
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise no_room(plan.folder, error.errno) from None
        return out_of_memory(error) or crash(error)


class TrialLog(AbstractContextManager["TrialLog"]):
    """Takes what is told of a training while it goes on: into its `log.txt`, its learning curve, and on to
    who waits for it.

    Attributes:
        readings: how often the validation loss was read.
    """

    def __init__(self, plan: TrialPlan, curve: CurveRecorder) -> None:
        self._progress, self._curve = plan.progress, curve
        self.readings = 0
        self._file = (plan.folder / "log.txt").open("w", encoding="utf-8", buffering=1)
        self.say(f"# {json.dumps(plan.config)} seed={plan.seed} n_examples={plan.train.n_examples}\n" + HEAD)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def say(self, text: str) -> None:
        """Writes text with its line end."""
        self._file.write(text)

    def step(self, step: Step) -> None:
        """A step was made."""
        point = Point(step.number, step.loss, step.learning_rate, step.gradient_norm, step.tokens)
        self.say(point.row)
        self._curve.add(point)
        if self._progress is not None:
            self._progress(step.number, step.total, step.loss)

    def validated(self, step: int, loss: float) -> None:
        """The validation loss after a step was read."""
        self.readings += 1
        self.say(validation_row(step, loss))
        self._curve.validated(step, loss)


def _train_and_score(plan: TrialPlan, curve: CurveRecorder) -> Result:
    settings = plan.training.model_copy(update={"micro_batch": plan.micro_batch})
    with TrialLog(plan, curve) as log:
        saved = None if plan.adapter is None else SavedAdapter(plan.base, plan.train.tokens, plan.adapter)
        with train_adapter(
            plan.base,
            plan.train,
            without_adapter(plan.config),
            settings,
            seed=plan.seed,
            progress=log.step,
            share=plan.share,
            watched=plan.watched,
            measured=log.validated,
            group=plan.group,
        ) as trained:
            result = score_trained(plan, trained, log)
            if saved is not None:
                saved.write(trained.model, trained.start, plan.base.tokenizer)
        if saved is not None:
            saved.finish()
    return result


def score_trained(plan: TrialPlan, trained: Trained, log: TrialLog) -> Result:
    """Scores a trained model, and asks it what must not be lost.

    Raises:
        TrainingFailed: it gives no numbers, or memory ran out.
    """
    began = time.perf_counter()
    scored = _score(plan, plan.questions, plan.scoring)
    watched = [_watched(plan, watch) for watch in plan.guards]
    beside = [] if plan.chosen_by is None else [_score(plan, plan.chosen_by, plan.scoring)]
    seconds = {"training": trained.seconds, "scoring": time.perf_counter() - began}
    log.say(f"# {plan.split}: " + json.dumps(dict(scored.metrics)) + "\n")
    _require_finite(scored, plan.split)
    items = {"": scored.items, **scored.documents}
    items |= {watch.guard.table: found.items for watch, found in zip(plan.guards, watched, strict=True)}
    guards = {
        watch.guard.name: watch.guard.reading(watch.base_items, found.items)
        for watch, found in zip(plan.guards, watched, strict=True)
    }
    for one in beside:
        _require_finite(one, "validation")
    read = sum(one.read_tokens for one in (scored, *watched))
    if plan.watched is not None:
        read += log.readings * int(plan.watched.encoded.lengths.sum())
    generated = sum(one.generated_tokens for one in (scored, *watched))
    left_out = max(0.0, plan.n_split / len(plan.questions.encoded) - 1)
    more = round(left_out * (scored.read_tokens + scored.generated_tokens))
    full = read + generated + more
    read += sum(one.read_tokens for one in beside)
    generated += sum(one.generated_tokens for one in beside)
    spent = _spent(plan, trained.tokens, read, generated, full)
    metrics = {**_metrics(plan, trained, scored), **spent}
    if beside:
        metrics["validation_value"] = beside[0].value
    return Result(scored.value, metrics, items, seconds, guards)


def _watched(plan: TrialPlan, watch: Watch) -> Score:
    """What the trained model makes of a guard. One that gives no number any more has diverged."""
    found = _score(plan, watch.questions, watch.scoring)
    _require_finite(found, f"guard {watch.guard.name}")
    return found


def _score(plan: TrialPlan, questions: Questions, scoring: ScoringConfig) -> Score:
    """Scores the trained model; in smaller batches where memory runs out, down to one example."""
    for batch_size in halvings(scoring.batch_size):
        settings = scoring.model_copy(update={"batch_size": batch_size})
        try:
            return score(plan.base, questions, settings, plan.split, plan.progress, plan.group)
        except (RuntimeError, MemoryError) as error:
            shortage = out_of_memory(error)
            if shortage is None:
                raise
            failure = shortage
        release(plan.base.device)  # here, where the error no longer holds tensors
    raise TrainingFailed(replace(failure, message=f"{failure.message}; {_WHILE_SCORING}"))


def _metrics(plan: TrialPlan, trained: Trained, scored: Score) -> dict[str, float]:
    tail = trained.steps[-max(1, len(trained.steps) // 10) :]
    metrics = {
        **{name: value for name, value in scored.metrics.items() if name != "loss"},
        f"{plan.split}_loss": scored.metrics["loss"],
        "first_loss": trained.steps[0].loss,
        "training_loss": sum(step.loss for step in tail) / len(tail),
        "steps": float(len(trained.steps)),
        "n_examples": float(plan.train.n_examples),
        **({"n_blocks": float(len(plan.train))} if plan.train.parts is not None else {}),
        "micro_batch": float(plan.micro_batch),
    }
    if trained.kept_step is not None:
        metrics["kept_step"] = float(trained.kept_step)
    if trained.peak_memory is not None:
        metrics["peak_memory_bytes"] = float(trained.peak_memory)
        metrics["memory_growth_bytes"] = float(trained.peak_memory - plan.memory.loaded)
        metrics["predicted_growth_bytes"] = plan.memory.predict(plan.config, plan.micro_batch)
    return metrics | {f"{plan.split}_value": scored.value} | _intervals(plan, scored)


def _spent(
    plan: TrialPlan, trained: int, read: int = 0, generated: int = 0, full_scoring: int = 0
) -> Mapping[str, float]:
    """What it took in tokens, as metrics."""
    return Tokens(trained, read, generated, plan.full_tokens, full_scoring).metrics


def _intervals(plan: TrialPlan, scored: Score) -> dict[str, float]:
    """`low` and `high` of the value; on test data of all other metrics too, as they read."""
    names = plan.scoring.all_metrics if plan.split == "test" else [plan.scoring.metric]
    found: dict[str, float] = {}
    for name in names:
        items = scored.items_of(name)
        ends = confidence_interval(items, name) if items else None
        if ends is not None and name == plan.scoring.metric:
            found |= dict(zip(("low", "high"), ends, strict=True))
        elif ends is not None:
            read = sorted(map(metric_of(name).read, ends))
            found |= dict(zip((f"{name}_low", f"{name}_high"), read, strict=True))
    return found


def _require_finite(scored: Score, split: str) -> None:
    for name, value in scored.metrics.items():
        if not np.isfinite(value):
            raise TrainingFailed(Failure(FailureKind.DIVERGED, f"diverged: the {split} {name} is {value:g}"))


# -- where memory runs out ----------------------------------------------------------------------------


def _is_out_of_memory(result: Result | Failure) -> TypeGuard[Failure]:
    return isinstance(result, Failure) and result.kind is FailureKind.OUT_OF_MEMORY


def _shortage(plan: TrialPlan) -> dict[str, float]:
    """What a training that ran out of memory says about memory."""
    predicted = plan.memory.predict(plan.config, plan.micro_batch)
    return {"micro_batch": float(plan.micro_batch), "exceeded_growth_bytes": predicted}


def _sizes_tried(plan: TrialPlan, micro_batches: Sequence[int]) -> str:
    *first, last = map(str, micro_batches)
    tried = f"{', '.join(first)} and then {last}" if first else last
    return (
        f"rank {plan.config['rank']:g}, batch {plan.config['batch_size']:g}, micro-batch {tried}, "
        f"up to {plan.memory.sizes.longest:,} tokens"
    )
