"""Scores of a trained model, with the result of every item, and how sure one can be of them.

One forward pass over the references gives the loss and tells which of them greedy generation would write
token by token: where the reference is the most likely token everywhere, generation gives the reference.
Only the other items are generated. Where the model chooses (`choices.py`), the right choice has the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loracle.config.metrics import Item, Metric, metric_of
from loracle.config.metrics.metric import note_rating
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.metrics.weighted import WeightedSum
from loracle.records.objective import Progress
from loracle.training.choices import can_be_continued, continued_losses
from loracle.training.dataset.tokens import Encoded
from loracle.training.generation import generate
from loracle.training.judging.harness import run_tasks
from loracle.training.judging.judge import asked, judge_of
from loracle.training.judging.random_state import kept_random_state
from loracle.training.model.base_model import Base, batches, collate
from loracle.training.model.output.loss import counted_losses
from loracle.training.model.positions import length_breaks
from loracle.training.parallel.group import ALONE, Group
from loracle.training.scoring.answers import comparable
from loracle.training.scoring.questions import Questions, ends_with_reference, metrics_of, needs_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What a model scores on a set of examples.

    Attributes:
        metric, value: the one that is optimised, and the score by it; larger is better.
        metrics: `loss` (nats per completion token) and every metric asked for, by name, as it reads.
        items: one record an example: `index` (its position in the split), `loss`, `tokens`; `prediction`
            where the model writes, or chooses (`choice` where it does both); `correct`, what that gets by the
            metric that is optimised, where that is one number; and `scores`, what it gets by all others.
        documents: the same of the documents of each task of lm-evaluation-harness, by its name.
        read_tokens: of references and choices that were read, a prompt that choices share once.
        generated_tokens: of what was written, and of the prompts that it was written behind.
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    items: tuple[Item, ...]
    documents: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    read_tokens: int = 0
    generated_tokens: int = 0

    def items_of(self, metric: str) -> tuple[Item, ...]:
        """The records that a metric's score is made of; empty where it is made in another way."""
        found = metric_of(metric)
        items = self.documents.get(found.table, ()) if found.table else self.items
        if found.needs == "loss":
            return items
        if isinstance(found, WeightedSum):
            return items if all(self.items_of(part.name) for part in found.weights) else ()
        here = items and (
            metric in items[0].get("scores", {}) or (metric == self.metric and "correct" in items[0])
        )
        return items if here else ()


@dataclass(frozen=True)
class _Answers:
    """What a model gives: the summed loss of each reference, (n,), what it writes, and what it chooses; and
    the tokens that this took, see `Score`."""

    losses: Floats
    written: Sequence[str] | None = None
    chosen: Sequence[str] | None = None
    read_tokens: int = 0
    generated_tokens: int = 0


def score(
    base: Base,
    questions: Questions,
    settings: ScoringConfig,
    split: str = "validation",
    progress: Progress | None = None,
    group: Group = ALONE,
) -> Score:
    """Scores the model as it is, adapter included, by all metrics of the settings.

    `loss` is the mean over all tokens that count. `split` says which documents of a task are meant.
    `progress` is told of examples, batch by batch. The processes of a group that has trained share the
    examples; what is made of answers is this one's affair alone.
    """
    metrics = metrics_of(settings)
    answers = _ask_all(base, questions, settings, progress, group)
    items = _items(questions, answers)
    tokens = questions.encoded.counts
    found = {"loss": float(answers.losses.sum() / tokens.sum())}
    for metric in metrics:
        if metric.judges:
            ratings = _rate(metric, questions, settings, answers)
            if isinstance(ratings, list):
                for item, rating in zip(items, ratings, strict=True):
                    note_rating(item, metric.name, rating, optimised=metric is metrics[0])
            else:
                found[metric.name] = ratings
    documents: dict[str, tuple[Item, ...]] = {}
    for task, ran in run_tasks(base, settings, split).items():
        documents[task] = ran.items
        found |= ran.scores
    for metric in metrics:
        if (
            metric.needs != "parts"
            and metric.name not in found
            and (value := metric.score(items)) is not None
        ):
            found[metric.name] = metric.read(value)
    for metric in metrics:
        if isinstance(metric, WeightedSum):
            parts = (w * part.read(found[part.name]) for part, w in metric.weights.items())
            found[metric.name] = sum(parts)
    name = settings.metric
    took = (answers.read_tokens, answers.generated_tokens)
    return Score(name, metrics[0].read(found[name]), found, tuple(items), documents, *took)


def _ask_all(
    base: Base, questions: Questions, settings: ScoringConfig, progress: Progress | None, group: Group
) -> _Answers:
    """Answers to all questions, in their order, whoever gives them."""
    parts = [part for part in group.shares(questions.encoded.lengths) if len(part)]
    if len(parts) < 2:
        return _ask(base, questions, settings, progress)
    here, *elsewhere = map(questions.select, parts)
    found = group.at_once(
        lambda: _ask(base, here, settings, progress), _ask, [(some, settings) for some in elsewhere]
    )
    place = np.argsort(np.concatenate(parts))

    def joined(name: str) -> list[str] | None:
        given = [getattr(answers, name) for answers in found]
        if given[0] is None:
            return None
        every = [one for own in given for one in own]
        return [every[i] for i in place]

    losses = np.concatenate([answers.losses for answers in found])[place]
    read, generated = (
        sum(getattr(answers, name) for answers in found) for name in ("read_tokens", "generated_tokens")
    )
    return _Answers(losses, joined("written"), joined("chosen"), read, generated)


@torch.inference_mode()
def _ask(
    base: Base, questions: Questions, settings: ScoringConfig, progress: Progress | None = None
) -> _Answers:
    """Everything that the metrics need of the model, each once."""
    needs = needs_of(settings)
    losses = chosen = None
    read = 0
    if "choices" in needs:
        losses, chosen, read = _choose(base, questions, settings.batch_size, progress)
    if "writing" not in needs and losses is not None:
        return _Answers(losses, None, chosen, read)
    losses, matched = _reference_pass(base, questions.encoded, settings.batch_size, progress)
    read += int(questions.encoded.lengths.sum())
    if "writing" not in needs:
        return _Answers(losses, read_tokens=read)
    written, generated = _write(base, questions, settings, matched, progress)
    return _Answers(losses, written, chosen, read, generated)


def _write(
    base: Base,
    questions: Questions,
    settings: ScoringConfig,
    matched: npt.NDArray[np.bool_],
    progress: Progress | None,
) -> tuple[list[str], int]:
    """What the model writes for each example, and the tokens that this took, prompts included; where the
    reference is what it would write, it is not asked."""
    predictions = list(questions.references)
    open_ones = np.flatnonzero(~matched | questions.encoded.goes_on)  # generation ends at the first stop
    wanted = None
    if ends_with_reference(settings):
        wanted = [questions.references[i] for i in open_ones]
    asked_again = questions.encoded.select(open_ones)
    written, count = generate(base, asked_again, settings, wanted, progress, questions.frame)
    for i, text in zip(open_ones, written, strict=True):
        predictions[i] = text
    return predictions, count + int(asked_again.prompt_lengths.sum())


def _items(questions: Questions, answers: _Answers) -> list[dict[str, Any]]:
    """The records of all examples, before anything is judged."""
    items: list[dict[str, Any]] = []
    tokens = questions.encoded.counts
    for i, position in enumerate(questions.encoded.positions.tolist()):
        item: dict[str, Any] = {"index": position, "loss": float(answers.losses[i] / tokens[i])}
        item["tokens"] = int(tokens[i])
        if questions.n_bytes is not None:
            item["bytes"] = int(questions.n_bytes[i])
        if answers.written is not None:
            item["prediction"] = answers.written[i]
        if answers.chosen is not None:
            item["choice" if answers.written is not None else "prediction"] = answers.chosen[i]
        items.append(item)
    return items


def _rate(
    metric: Metric, questions: Questions, settings: ScoringConfig, answers: _Answers
) -> list[Any] | float:
    """What each answer gets by a metric; or one number, as it reads, where they are judged together."""
    if metric.needs == "choices":
        assert answers.chosen is not None
        references = [example.reference or "" for example in questions.examples]
        return metric.rate(answers.chosen, references)
    assert answers.written is not None
    if metric.judge_module:
        positions = questions.encoded.positions.tolist()
        told = [asked(e, i) for e, i in zip(questions.examples, positions, strict=True)]
        with kept_random_state():
            return judge_of(metric, settings).rate(answers.written, questions.references, told)
    find = comparable(metric, settings)
    references = [find(reference) or "" for reference in questions.references]
    return metric.rate([find(text) for text in answers.written], references, questions.labels)


def _reference_pass(
    base: Base, encoded: Encoded, batch_size: int, progress: Progress | None
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Summed loss of each example, and whether its last completion is the greedy one; both (n,)."""
    losses = np.zeros(len(encoded))
    matched = np.ones(len(encoded), dtype=np.bool_)
    breaks, done = length_breaks(base.model), 0
    for chosen in batches(encoded.lengths - 1, batch_size, base.reading, breaks):
        batch = collate(encoded, chosen, base)
        of_positions, greedy = counted_losses(base, batch)
        own = torch.zeros(len(chosen), dtype=torch.float32, device=base.device)
        own.index_add_(0, batch.rows, of_positions)
        losses[chosen] = own.double().cpu().numpy()
        rows, columns = batch.rows.cpu().numpy(), batch.columns.cpu().numpy()
        wrong = ~greedy.cpu().numpy()
        wrong &= columns >= encoded.prompt_lengths[chosen][rows]  # earlier turns are given, not written
        matched[chosen[rows[wrong]]] = False
        done += len(chosen)
        if progress is not None:
            progress(done, len(encoded), None, "scoring")
    return losses, matched


def _choose(
    base: Base, questions: Questions, batch_size: int, progress: Progress | None
) -> tuple[Floats, list[str], int]:
    """Summed loss of each reference, and the most likely choice of each example; ties go to the first. And
    how many tokens there are to read: a prompt that is read once counts once, and an ending counts although
    it is not read where another choice is likelier already."""
    choices, owner, shared = questions.choices, questions.owner, questions.shared
    if choices is None or owner is None or shared is None:
        raise ValueError("these questions were prepared for another metric")
    right = np.zeros(0, dtype=np.int64) if questions.right is None else questions.right
    # What all choices share, such as earlier turns of a chat, is the same for all, so it cancels.
    read = int(choices.lengths.sum())
    if can_be_continued(base, choices, shared):
        read -= int((shared * (np.bincount(owner) - 1)).sum())
        of_choices = continued_losses(base, choices, owner, shared, right, batch_size, progress)
    else:
        of_choices, _ = _reference_pass(base, choices, batch_size, progress)
    best: dict[int, int] = {}
    for i, example in enumerate(owner.tolist()):
        if example not in best or of_choices[i] < of_choices[best[example]]:
            best[example] = i
    losses: Floats = of_choices[right]
    if questions.right is None:
        losses, _ = _reference_pass(base, questions.encoded, batch_size, progress)
        read += int(questions.encoded.lengths.sum())
    return losses, [questions.options[best[i]] for i in range(len(questions))], read
