"""Scores of a trained model, with the result of every item, and how sure one can be of them.

One forward pass over the references gives the loss and tells which of them greedy generation would write
token by token: where the reference is the most likely token everywhere, generation gives the reference.
Only the other items are generated. Where the model chooses (`choices.py`), the right choice has the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loracle.config.metrics import METRICS, Metric, Needs
from loracle.config.settings import ScoringConfig
from loracle.errors import ConfigError, DataError
from loracle.records.objective import Progress
from loracle.text.patterns import Pattern
from loracle.training.choices import can_be_continued, continued_losses, shared_lengths
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.generation import generate, written_text
from loracle.training.intervals import Item
from loracle.training.model.base_model import Base, batches, collate
from loracle.training.model.output.loss import counted_losses
from loracle.training.model.positions import length_breaks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What a model scores on a set of examples.

    Attributes:
        value: larger is better: the mean of what items get, or the negative loss.
        metrics: `loss` (nats per completion token) and the metric asked for, by name.
        items: one record an example: `index` (its position in the split), `loss`, `tokens`, and where
            answers are judged `correct` (or how much, from 0 to 1) and `prediction`.
    """

    value: float
    metrics: Mapping[str, float]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Questions:
    """Examples ready to be scored, made once and used by every trial.

    Attributes:
        encoded: the examples with their references.
        references: what each should give, in the order of `encoded`; empty for free text. Where the model
            writes, as generation would write it.
        choices: where the model chooses, every example with every choice in place of its reference.
        owner: (number of choices,) which example each belongs to.
        options: (number of choices,) the text of each.
        shared: tokens that all choices of an example begin with.
        right: which choice is the reference of each example; None where their losses may differ.
    """

    encoded: Encoded
    references: tuple[str, ...]
    choices: Encoded | None = None
    owner: npt.NDArray[np.int64] | None = None
    options: tuple[str, ...] = ()
    shared: npt.NDArray[np.int64] | None = None
    right: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def select(self, chosen: npt.NDArray[np.int64]) -> Questions:
        """Some of the examples, in the given order."""
        some = replace(
            self,
            encoded=self.encoded.select(chosen),
            references=tuple(self.references[i] for i in chosen),
        )
        if self.choices is None or self.owner is None or self.shared is None:
            return some
        groups = [np.flatnonzero(self.owner == i) for i in chosen]
        kept = np.concatenate(groups)
        first = np.cumsum([0, *map(len, groups)])[:-1]
        return replace(
            some,
            choices=self.choices.select(kept),
            owner=np.repeat(np.arange(len(chosen)), [len(group) for group in groups]),
            options=tuple(self.options[i] for i in kept),
            shared=self.shared[chosen],
            right=None
            if self.right is None
            else first + self.right[chosen] - np.array([group[0] for group in groups]),
        )


# -- preparation ------------------------------------------------------------------------------------


def check_scoring(examples: Sequence[Example], settings: ScoringConfig) -> None:
    """Checks that the metric fits the examples; needs no model.

    Raises:
        ConfigError: a metric that needs answers on free text, or a malformed answer pattern.
        DataError: a reference without an answer, or one that is not among its choices.
    """
    metric = METRICS[settings.metric]
    if not metric.judges:
        return
    if examples[0].form == "text":
        raise ConfigError(
            f"scoring.metric: {metric.name} needs rows with an answer (prompt and completion, or "
            "messages); rows of text allow loss"
        )
    if metric.needs == "writing":
        pattern = answer_pattern(settings)
        for example in examples:
            reference = example.reference
            if reference is not None and answer(reference, pattern) is None:
                raise DataError(
                    f"{example.source}: scoring.answer_pattern {settings.answer_pattern!r} finds no answer "
                    "in the reference"
                )
        return
    for example in examples:
        options = example.choices or tuple(settings.choices or ())
        if len(set(options)) < 2 or len(set(options)) < len(options):
            raise DataError(
                f"{example.source}: {metric.name} needs two or more different choices; give rows a list "
                "`choices`, or name them in scoring.choices"
            )
        if example.reference not in options:
            raise DataError(
                f"{example.source}: the reference {example.reference!r} is not one of its choices "
                f"{list(options)}"
            )


def prepare(
    examples: Sequence[Example], encoded: Encoded, base: Base, settings: ScoringConfig, max_length: int
) -> Questions:
    """Makes questions of the examples that `encoded` kept. Call `check_scoring` first.

    Raises:
        ConfigError: a reference that `max_new_tokens` would cut off, or more of them than the model reads.
        DataError: a choice that does not fit in `max_length` tokens, or a reference whose tokens, turned into
            text as those of a prediction are, hold no answer.
    """
    kept = [examples[i] for i in encoded.positions]
    references = tuple(example.reference or "" for example in kept)
    needs = METRICS[settings.metric].needs
    if needs == "writing":
        references = _written_references(kept, encoded, base, settings)
        longest = encoded.lengths - encoded.prompt_lengths
        cut = int((longest > settings.max_new_tokens).sum())
        if cut:
            raise ConfigError(
                f"scoring.max_new_tokens: {cut} of {len(kept)} references are longer than "
                f"{settings.max_new_tokens} tokens and could never be matched; raise it to "
                f"{int(longest.max())} or more"
            )
        longest_prompt = int(encoded.prompt_lengths.max())
        if base.max_positions is not None and longest_prompt + settings.max_new_tokens > base.max_positions:
            raise ConfigError(
                f"scoring.max_new_tokens: {settings.max_new_tokens} after a prompt of {longest_prompt} "
                f"tokens are more than the {base.max_positions} that the model reads; lower it, or "
                "data.max_length"
            )
    if needs != "choices":
        return Questions(encoded, references)
    return _with_choices(Questions(encoded, references), kept, base, settings, max_length)


def _with_choices(
    questions: Questions, kept: Sequence[Example], base: Base, settings: ScoringConfig, max_length: int
) -> Questions:
    options = [example.choices or tuple(settings.choices or ()) for example in kept]
    variants = [_with_reference(e, o) for e, own in zip(kept, options, strict=True) for o in own]
    choices = encode(variants, base.tokenizer, max_length, "error", stop_ids=base.stop_ids)
    owner = np.repeat(np.arange(len(kept)), [len(own) for own in options])
    shared = shared_lengths(choices, owner)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    places = [own.index(reference) for own, reference in zip(options, questions.references, strict=True)]
    right = starts + np.array(places, dtype=np.int64)
    return replace(
        questions,
        choices=choices,
        owner=owner,
        options=tuple(option for own in options for option in own),
        shared=shared,
        right=right if _are_references(questions.encoded, choices.select(right), shared) else None,
    )


def _are_references(encoded: Encoded, right: Encoded, shared: npt.NDArray[np.int64]) -> bool:
    """Whether choices have the tokens of the references, with none that counts in what all choices share."""
    return all(
        np.array_equal(encoded.tokens[a:b], right.tokens[c:d])
        and np.array_equal(encoded.counted[a:b], right.counted[c:d])
        and not right.counted[c : c + own].any()
        for a, b, c, d, own in zip(
            encoded.starts, encoded.ends, right.starts, right.ends, shared, strict=True
        )
    )


def answer_pattern(settings: ScoringConfig) -> Pattern | None:
    """The compiled answer pattern. Raises ConfigError where it is malformed."""
    if settings.answer_pattern is None:
        return None
    return Pattern(settings.answer_pattern, "scoring.answer_pattern")


def answer(text: str, pattern: Pattern | None) -> str | None:
    """The answer in a text: the last match of the pattern (its first group, if it has one), stripped.

    Raises:
        ConfigError: the pattern takes too long on this text.
    """
    found = text if pattern is None else pattern.last(text)
    return None if found is None else found.strip()


def _written_references(
    kept: Sequence[Example], encoded: Encoded, base: Base, settings: ScoringConfig
) -> tuple[str, ...]:
    """What generation would write if it wrote the references: compared with what it does write."""
    pattern = answer_pattern(settings)
    texts = []
    for i, example in enumerate(kept):
        start = encoded.starts[i] + encoded.prompt_lengths[i]
        texts.append(written_text(base, encoded.tokens[start : encoded.ends[i]].tolist()))
        if answer(texts[-1], pattern) is None:
            raise DataError(
                f"{example.source}: scoring.answer_pattern {settings.answer_pattern!r} finds no answer in "
                f"what the tokenizer makes of the reference: {texts[-1][:80]!r}"
            )
    return tuple(texts)


def _with_reference(example: Example, reference: str) -> Example:
    if example.messages:
        last = replace(example.messages[-1], content=reference)
        return replace(example, messages=(*example.messages[:-1], last))
    return replace(example, completion=reference)


# -- scoring ----------------------------------------------------------------------------------------


def score(
    base: Base, questions: Questions, settings: ScoringConfig, progress: Progress | None = None
) -> Score:
    """Scores the model as it is, adapter included, by the metric of the settings.

    `loss` is the mean over all tokens that count. `progress` is told of examples, batch by batch.
    """
    metric = METRICS[settings.metric]
    with torch.inference_mode():
        losses, predictions = _predict(base, questions, settings, metric.needs, progress)
    verdicts = _judge(metric, questions, settings, predictions)
    tokens = questions.encoded.counts
    loss = float(losses.sum() / tokens.sum())
    items: list[Item] = []
    for i, verdict in enumerate(verdicts):
        position = int(questions.encoded.positions[i])
        own = {"index": position, "loss": float(losses[i] / tokens[i]), "tokens": int(tokens[i])}
        items.append(own | verdict)
    metrics = {"loss": loss}
    value = -loss
    if metric.judges:
        value = float(np.mean([item["correct"] for item in items]))
        metrics[metric.name] = value
    return Score(value, metrics, tuple(items))


def _predict(
    base: Base, questions: Questions, settings: ScoringConfig, needs: Needs, progress: Progress | None
) -> tuple[Floats, list[str] | None]:
    """Summed loss of each reference, (n,); and what the model writes, or which choice it takes, for each
    example, None where nothing is judged."""
    if needs == "choices":
        return _choose(base, questions, settings.batch_size, progress)
    losses, matched = _reference_pass(base, questions.encoded, settings.batch_size, progress)
    if needs != "writing":
        return losses, None
    predictions = list(questions.references)
    open_ones = np.flatnonzero(~matched | questions.encoded.goes_on)  # generation ends at the first stop
    wanted = None
    if METRICS[settings.metric].whole and settings.answer_pattern is None:
        wanted = [questions.references[i] for i in open_ones]
    written = generate(base, questions.encoded.select(open_ones), settings, wanted, progress)
    for i, text in zip(open_ones, written, strict=True):
        predictions[i] = text
    return losses, predictions


def _judge(
    metric: Metric, questions: Questions, settings: ScoringConfig, predictions: list[str] | None
) -> list[dict[str, Any]]:
    """`correct` and `prediction` of each example, as the metric has it."""
    if predictions is None:
        return [{} for _ in questions.references]
    find: Callable[[str], str | None] = str  # choices are answers as they are
    if metric.needs == "writing":
        find = partial(answer, pattern=answer_pattern(settings))
    return [
        {"correct": metric.judge(find(prediction), find(reference)), "prediction": prediction}
        for prediction, reference in zip(predictions, questions.references, strict=True)
    ]


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
) -> tuple[Floats, list[str]]:
    """Summed loss of each reference, and the most likely choice of each example; ties go to the first."""
    choices, owner, shared = questions.choices, questions.owner, questions.shared
    if choices is None or owner is None or shared is None:
        raise ValueError("these questions were prepared for another metric")
    right = np.zeros(0, dtype=np.int64) if questions.right is None else questions.right
    # What all choices share, such as earlier turns of a chat, is the same for all, so it cancels.
    if can_be_continued(base, choices, shared):
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
    return losses, [questions.options[best[i]] for i in range(len(questions))]
