"""Tasks of lm-evaluation-harness, run on the model that is in memory.

The harness is imported, and its tasks are loaded, once a worker. Documents of a task are divided: trials are
scored on some, the final trainings on the others, so that the final score is of documents that the settings
were not chosen by.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loracle.config.metrics import Item, metric_of
from loracle.config.metrics.elsewhere import HarnessTask
from loracle.config.metrics.metric import note_rating
from loracle.config.metrics.settings import HarnessConfig, ScoringConfig
from loracle.errors import ConfigError, suggest
from loracle.records.contents import text_hash
from loracle.records.failures import raised
from loracle.text.escape import printable
from loracle.training.dataset.template import frame_of
from loracle.training.judging.random_state import kept_random_state
from loracle.training.model.base_model import Base

_FEWSHOT_SEED = 1234  # the harness' own
_FEWEST = 2  # documents on either side


@dataclass(frozen=True)
class Documents:
    """What a model got on the documents of a task.

    Attributes:
        scores: by the names of the metrics, as they read.
        items: one record a document: `index`, its place in the task, `prediction`, and what it got by each
            metric, as `scoring.score` writes it; empty where no score is a mean over documents.
    """

    scores: Mapping[str, float]
    items: tuple[Item, ...]


def harness_tasks(settings: ScoringConfig) -> dict[str, list[HarnessTask]]:
    """Metrics of the harness by task."""
    found: dict[str, list[HarnessTask]] = {}
    for name in settings.all_metrics:
        metric = metric_of(name)
        if isinstance(metric, HarnessTask):
            found.setdefault(metric.task, []).append(metric)
    return found


def check_tasks(settings: ScoringConfig) -> None:
    """Loads all tasks and their documents.

    Raises:
        ConfigError: there is no such task or metric, it cannot be loaded, it runs code that was not allowed,
            or has too few documents.
    """
    for task, metrics in harness_tasks(settings).items():
        loaded = loaded_task(task, settings.lm_eval)
        if getattr(loaded, "UNSAFE_CODE", False) and not settings.allow_code_execution:
            raise ConfigError(
                f"scoring.metric: the task {task} runs code that the model writes; set "
                "scoring.allow_code_execution: true if that may happen here"
            )
        for split in ("validation", "test"):
            if len(places := documents_of(loaded, settings.lm_eval, split)) < _FEWEST:
                raise ConfigError(
                    f"scoring.lm_eval: the task {task} has {len(loaded.eval_docs)} documents, "
                    f"{len(places)} of them for {split}; {_FEWEST} are the least"
                )
        known = _higher_is_better(loaded)
        for metric in metrics:
            measure = metric.measure.partition(",")[0] or next(iter(known))
            if measure not in known:
                there = suggest(measure, list(known))
                raise ConfigError(f"scoring.metric: the task {task} has no metric {measure!r}{there}")
            if known[measure] == metric.less_is_better:
                right = f"minimize {metric.source}" if metric.source == metric.name else metric.source
                raise ConfigError(
                    f"scoring.metric: {measure} of the task {task} is better when it is "
                    f"{'more' if known[measure] else 'less'}; write {right!r}"
                )


def task_contents(settings: ScoringConfig) -> dict[str, str]:
    """Hashes of the documents of all tasks, by name."""
    return {
        f"documents of {task}": text_hash(
            json.dumps(list(loaded_task(task, settings.lm_eval).eval_docs), sort_keys=True, default=str)
        )
        for task in harness_tasks(settings)
    }


def documents_of(task: Any, settings: HarnessConfig, split: str) -> list[int]:
    """Places of the documents that a split is scored on, in ascending order; the same in every run."""
    n = len(task.eval_docs)
    order = np.random.default_rng(0).permutation(n)
    first = round(n * settings.validation_share)
    chosen = order[:first] if split == "validation" else order[first:]
    return sorted(chosen[: settings.limit].tolist())


def run_tasks(base: Base, settings: ScoringConfig, split: str) -> dict[str, Documents]:
    """Runs all tasks of the settings on the model as it is, adapter included, without its dropout.

    Global random states, and the mode of every module, are afterwards what they were.
    """
    tasks = harness_tasks(settings)
    if not tasks:  # then the harness need not be there
        return {}
    loaded = {name: loaded_task(name, settings.lm_eval) for name in tasks}
    samples = {name: documents_of(task, settings.lm_eval, split) for name, task in loaded.items()}
    evaluate = _harness()[0]
    resting = _resting(base, chats=settings.lm_eval.chat_template)
    with kept_random_state(), resting, _silence() as said, torch.inference_mode(), base.precision():
        for task in loaded.values():
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        try:
            found = evaluate(
                _language_model(base, settings),
                {"tasks": loaded, "groups": {}},
                samples=samples,
                bootstrap_iters=0,  # the intervals are Loracle's own, of the same kind for all metrics
                log_samples=True,
                apply_chat_template=settings.lm_eval.chat_template,
                confirm_run_unsafe_code=settings.allow_code_execution,
            )
        except Exception as error:  # of any kind: it goes on, with what the harness printed
            if printed := said.getvalue().strip():
                error.add_note(printed[-2000:])
            raise
    return {
        name: _documents(metrics, found["results"][name], found["samples"][name], settings)
        for name, metrics in tasks.items()
    }


def _documents(
    metrics: Sequence[HarnessTask],
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    settings: ScoringConfig,
) -> Documents:
    scores: dict[str, float] = {}
    items: dict[int, dict[str, Any]] = {}
    for metric in metrics:
        key = _result_key(metric, results)
        scores[metric.name] = float(results[key])
        measure, _, filtered = key.partition(",")
        own = [sample for sample in samples if sample["filter"] == filtered]
        ratings = [_number(sample.get(measure)) for sample in own]
        if not ratings or not np.isclose(np.mean(ratings), scores[metric.name], rtol=1e-6, atol=1e-9):
            continue  # the task makes its score in another way
        for sample, rating in zip(own, ratings, strict=True):
            item = items.setdefault(int(sample["doc_id"]), {"index": int(sample["doc_id"])})
            item["prediction"] = printable(str(sample["filtered_resps"]), 2000)
            note_rating(item, metric.name, rating, optimised=metric.name == settings.metric)
    return Documents(scores, tuple(items[index] for index in sorted(items)))


def _result_key(metric: HarnessTask, results: Mapping[str, Any]) -> str:
    """`acc,none` of `acc`; the first where the metric names none."""
    keys = [key for key in results if "," in key and not key.partition(",")[0].endswith("_stderr")]
    wanted = [key for key in keys if metric.measure in ("", key, key.partition(",")[0])]
    if not wanted:
        raise ConfigError(f"scoring.metric: {metric.name}: the task gives {', '.join(keys)}")
    return wanted[0]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float | np.number) else float("nan")


# -- the harness ------------------------------------------------------------------------------------


@cache
def _harness() -> tuple[Any, Any, Any]:
    """`evaluate`, `TaskManager` and the class of models, imported once."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _silence():
        from lm_eval import utils
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        # It compiles each of a task's templates anew for each document, which is most of its own time.
        if not hasattr(utils.env.from_string, "cache_info"):
            utils.env.from_string = lru_cache(maxsize=1000)(utils.env.from_string)

    return evaluate, TaskManager, HFLM


@cache
def _load_from(name: str, folder: Path | None, fewshot: int | None) -> Any:
    where = folder if folder is not None else _shipped(name)
    with kept_random_state(), _silence():
        manager = _harness()[1](include_defaults=False, include_path=str(where))
        if name not in manager.all_subtasks:
            if name in manager.all_tasks:
                raise ConfigError(
                    f"scoring.metric: {name} is a group of tasks of lm-evaluation-harness; name one"
                )
            names = list(manager.all_subtasks)
            raise ConfigError(
                f"scoring.metric: there is no task {name!r} in {where}"
                + (suggest(name, names[:20]) if names else "; it holds none")
            )
        try:
            (task,) = manager.load([name])["tasks"].values()
            if fewshot is not None:
                task.set_config(key="num_fewshot", value=fewshot)
            len(task.eval_docs)
        except Exception as error:  # foreign code, data that are not there
            raise ConfigError(f"scoring.metric: the task {name} cannot be loaded: {raised(error)}") from None
    return task


def loaded_task(name: str, settings: HarnessConfig) -> Any:
    """A task by its name, loaded once. Raises ConfigError."""
    return _load_from(name, settings.folder, settings.fewshot)


def _shipped(name: str) -> Path:
    """The folder of the harness' own tasks that a task is in: all 14,000 take half a minute to index."""
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    spelt = re.compile(rf"^task:\s*[\"']?{re.escape(name)}[\"']?\s*$", re.MULTILINE)
    for path in sorted(tasks.rglob("*.yaml")):
        if spelt.search(path.read_text(encoding="utf-8", errors="replace")):
            return path.parent
    raise ConfigError(
        f"scoring.metric: lm-evaluation-harness has no task {name!r}; scoring.lm_eval.folder names a folder "
        "of your own tasks"
    )


def _higher_is_better(task: Any) -> dict[str, bool]:
    """The task's metrics, and which way they are better."""
    return {str(name): value is not False for name, value in task.higher_is_better().items()}


def _language_model(base: Base, settings: ScoringConfig) -> Any:
    """The model as the harness knows it. It changes tokenizers, so it has a copy."""
    return _harness()[2](
        pretrained=base.model,
        tokenizer=copy.deepcopy(base.tokenizer),
        batch_size=settings.batch_size,
        max_length=base.max_positions,
    )


@contextlib.contextmanager
def _resting(base: Base, *, chats: bool) -> Iterator[None]:
    """No dropout, and weights stay as tied as they are; afterwards every module is in the mode it was in.

    `chats`: whether what is written also ends where the chat template ends a turn.
    """
    settings, ends = base.model.generation_config, base.model.generation_config.eos_token_id
    if chats:
        settings.eos_token_id = frame_of(base.tokenizer).stops(base.stop_ids)
    modes = {module: module.training for module in base.model.modules()}
    base.model.eval()
    base.model.tie_weights = lambda *_, **__: None  # the harness asks for it; an adapter may be on
    try:
        yield
    finally:
        settings.eos_token_id = ends
        del base.model.tie_weights
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _silence() -> Iterator[io.StringIO]:
    """Takes what the harness prints and logs."""
    said = io.StringIO()
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        logger.setLevel(level)
