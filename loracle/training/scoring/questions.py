"""Examples made ready to be scored, and what does not fit them refused before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from loracle.config.metrics import Metric, Needs, metric_of
from loracle.config.metrics.normalisation import normalised
from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError, DataError
from loracle.training.choices import shared_lengths
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.template import BARE, Frame, frame_of
from loracle.training.dataset.tokenizer import Reading
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.generation import written_text
from loracle.training.judging.harness import check_tasks, harness_tasks
from loracle.training.judging.judge import asked, judge_of
from loracle.training.judging.random_state import kept_random_state
from loracle.training.model.base_model import Base
from loracle.training.scoring.answers import comparable, finder


@dataclass(frozen=True)
class Questions:
    """Examples ready to be scored, made once and used by every trial.

    Attributes:
        encoded: the examples with their references.
        examples: the rows themselves, in the order of `encoded`.
        references: what each should give; empty for free text. Where the model writes, as generation would
            write it.
        labels: those that there are, as answers are compared; where a metric is of labels.
        n_bytes: (n,) of the text of the tokens that count.
        choices: where the model chooses, every example with every choice in place of its reference.
        owner: (number of choices,) which example each belongs to.
        options: (number of choices,) the text of each.
        shared: tokens that all choices of an example begin with.
        right: which choice is the reference of each example; None where their losses may differ.
        frame: what the chat template writes around an answer, beside the model's own stop tokens; where the
            model writes.
    """

    encoded: Encoded
    examples: tuple[Example, ...]
    references: tuple[str, ...]
    labels: tuple[str, ...] = ()
    n_bytes: npt.NDArray[np.int64] | None = None
    choices: Encoded | None = None
    owner: npt.NDArray[np.int64] | None = None
    options: tuple[str, ...] = ()
    shared: npt.NDArray[np.int64] | None = None
    right: npt.NDArray[np.int64] | None = None
    frame: Frame = BARE

    def __len__(self) -> int:
        return len(self.encoded)

    def select(self, chosen: npt.NDArray[np.int64]) -> Questions:
        """Some of the examples, in the given order."""
        some = replace(
            self,
            encoded=self.encoded.select(chosen),
            examples=tuple(self.examples[i] for i in chosen),
            references=tuple(self.references[i] for i in chosen),
            n_bytes=None if self.n_bytes is None else self.n_bytes[chosen],
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


def metrics_of(settings: ScoringConfig) -> list[Metric]:
    """The metric that is optimised, and those that are recorded beside it."""
    return [metric_of(name) for name in settings.all_metrics]


def needs_of(settings: ScoringConfig) -> set[Needs]:
    """What all of them need of a model."""
    return {metric.needs for metric in metrics_of(settings)}


def ends_with_reference(settings: ScoringConfig) -> bool:
    """Whether nobody asks for more of an answer once it can no longer be its reference."""
    writing = [metric for metric in metrics_of(settings) if metric.needs == "writing"]
    return all(metric.whole for metric in writing) and not settings.answer_pattern and not settings.normalise


# -- what fits together -----------------------------------------------------------------------------


def check_splits(parts: Mapping[str, Sequence[Example]], settings: ScoringConfig) -> None:
    """Checks that the metrics fit the examples of each split; see `check_scoring`."""
    for name, examples in parts.items():
        check_scoring(examples, settings, judged=name != "train")


def check_scoring(examples: Sequence[Example], settings: ScoringConfig, *, judged: bool = True) -> None:
    """Checks that the metrics fit the examples; needs no model.

    `judged`: whether they are scored; who judges is not tried on rows that are trained on alone, which need
    no tests, say.

    Raises:
        ConfigError: a metric whose package is not there, one that needs answers on free text or labels on
            answers that all differ, or a malformed answer pattern.
        DataError: a reference without an answer, one that is no label, or one that is not among its choices.
    """
    metrics = metrics_of(settings)
    for metric in metrics:
        if metric.package is not None and find_spec(metric.package[0]) is None:
            package, extra = metric.package
            raise ConfigError(
                f"scoring.metric: {metric.name} needs the package {package}, which is not installed here: "
                f"pip install 'loracle[{extra}]'"
            )
    for metric in metrics:
        if metric.judges and examples[0].form == "text":
            raise ConfigError(
                f"scoring.metric: {metric.name} needs rows with an answer (prompt and completion, or "
                "messages); rows of text allow loss"
            )
        if metric.needs == "choices":
            _check_choices(metric, examples, settings)
        if metric.needs == "writing":
            _check_references(metric, examples, settings)
        if metric.labels:
            _check_labels(metric, examples, settings)
        if metric.judge_module and judged:
            told = [asked(example, i) for i, example in enumerate(examples)]
            with kept_random_state():
                judge_of(metric, settings).check(told)
    check_tasks(settings)


def _check_choices(metric: Metric, examples: Sequence[Example], settings: ScoringConfig) -> None:
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


def _check_references(metric: Metric, examples: Sequence[Example], settings: ScoringConfig) -> None:
    find = finder(settings)
    for example in examples:
        if example.reference is None:
            continue
        found = find(example.reference)
        if found is None:
            raise DataError(
                f"{example.source}: scoring.answer_pattern {settings.answer_pattern!r} finds no answer "
                "in the reference"
            )
        if problem := metric.reference_problem(found):
            raise DataError(
                f"{example.source}: scoring.metric: {metric.name} compares with references, and this one "
                f"{problem}: {found[:80]!r}"
            )


def _check_labels(metric: Metric, examples: Sequence[Example], settings: ScoringConfig) -> None:
    find = comparable(metric, settings)
    references = [find(example.reference) for example in examples if example.reference is not None]
    different = set(references)
    if settings.labels is None:
        if metric.needs == "writing" and len(different) > max(2, len(references) / 2):
            raise ConfigError(
                f"scoring.metric: {metric.name} is of labels, and {len(different)} of {len(references)} "
                "answers differ; name the labels in scoring.labels, or take another metric"
            )
        return
    known = {normalised(label.strip(), settings.normalise) for label in settings.labels}
    for example in examples:
        if example.reference is not None and find(example.reference) not in known:
            raise DataError(
                f"{example.source}: the answer {find(example.reference)!r} is none of scoring.labels "
                f"{settings.labels}"
            )


# -- preparation ------------------------------------------------------------------------------------


def prepare(
    examples: Sequence[Example],
    encoded: Encoded,
    texts: Reading | Base,
    settings: ScoringConfig,
    max_length: int,
) -> Questions:
    """Makes questions of the examples that `encoded` kept. Call `check_scoring` first.

    `texts`: the tokenizer, with the model or without it.

    Raises:
        ConfigError: a reference that `max_new_tokens` would cut off, or more of them than the model reads.
        DataError: a choice that does not fit in `max_length` tokens, or a reference whose tokens, turned into
            text as those of a prediction are, hold no answer.
    """
    kept = [examples[i] for i in encoded.positions]
    references = tuple(example.reference or "" for example in kept)
    metrics, needs = metrics_of(settings), needs_of(settings)
    frame = frame_of_answers(kept, texts, settings)
    if "writing" in needs:
        references = _written_references(kept, encoded, texts, settings, frame)
        _check_written(metrics, kept, references, settings)
        _check_lengths(encoded, texts, settings, frame)
    labels = _labels(metrics, references, settings)
    questions = Questions(encoded, tuple(kept), references, labels, frame=frame)
    if any(metric.counts_bytes for metric in metrics):
        questions = replace(questions, n_bytes=_counted_bytes(encoded, texts))
    return _with_choices(questions, texts, settings, max_length) if "choices" in needs else questions


def frame_of_answers(examples: Sequence[Example], texts: Reading | Base, settings: ScoringConfig) -> Frame:
    """What the chat template writes around answers, beside the model's own stop tokens; nothing where no
    metric gets answers of chats."""
    if "writing" in needs_of(settings) and examples[0].messages:
        return frame_of(texts.tokenizer).beside(texts.stop_ids)
    if settings.lm_eval.chat_template and harness_tasks(settings):  # the harness goes by the token alone
        return Frame(stop=frame_of(texts.tokenizer).beside(texts.stop_ids).stop)
    return BARE


def _check_lengths(encoded: Encoded, texts: Reading | Base, settings: ScoringConfig, frame: Frame) -> None:
    """Raises ConfigError where what should be written cannot be."""
    ends = np.flatnonzero(np.isin(encoded.tokens, frame.stops(texts.stop_ids))) + 1
    first = np.searchsorted(ends, encoded.starts + encoded.prompt_lengths, side="right")
    longest = ends[first] - encoded.starts - encoded.prompt_lengths  # each row has a stop token
    cut = int((longest > settings.max_new_tokens).sum())
    imitate = any(metric.needs == "writing" and metric.imitates for metric in metrics_of(settings))
    if cut and imitate:
        raise ConfigError(
            f"scoring.max_new_tokens: {cut} of {len(encoded)} references are longer than "
            f"{settings.max_new_tokens} tokens and could never be matched; raise it to "
            f"{int(longest.max())} or more"
        )
    longest_prompt = int(encoded.prompt_lengths.max())
    if texts.max_positions is not None and longest_prompt + settings.max_new_tokens > texts.max_positions:
        raise ConfigError(
            f"scoring.max_new_tokens: {settings.max_new_tokens} after a prompt of {longest_prompt} "
            f"tokens are more than the {texts.max_positions} that the model reads; lower it, or "
            "data.max_length"
        )


def _labels(metrics: Sequence[Metric], references: Sequence[str], settings: ScoringConfig) -> tuple[str, ...]:
    """All labels as answers are compared."""
    of_labels = [metric for metric in metrics if metric.labels and metric.needs == "writing"]
    if not of_labels:
        return ()
    if settings.labels is not None:
        return tuple(sorted({normalised(label.strip(), settings.normalise) for label in settings.labels}))
    find = comparable(of_labels[0], settings)
    return tuple(sorted({found for text in references if (found := find(text)) is not None}))


def _counted_bytes(encoded: Encoded, texts: Reading | Base) -> npt.NDArray[np.int64]:
    """Bytes in UTF-8 of what the tokens that count spell, special tokens aside, (n,)."""
    counted = [
        texts.tokenizer.decode(encoded.tokens[a:b][encoded.counted[a:b]].tolist(), skip_special_tokens=True)
        for a, b in zip(encoded.starts, encoded.ends, strict=True)
    ]
    return np.array([len(text.encode("utf-8", "replace")) for text in counted], dtype=np.int64)


def _with_choices(
    questions: Questions, texts: Reading | Base, settings: ScoringConfig, max_length: int
) -> Questions:
    kept = questions.examples
    options = [example.choices or tuple(settings.choices or ()) for example in kept]
    variants = [_with_reference(e, o) for e, own in zip(kept, options, strict=True) for o in own]
    choices = encode(variants, texts.tokenizer, max_length, "error", stop_ids=texts.stop_ids)
    owner = np.repeat(np.arange(len(kept)), [len(own) for own in options])
    shared = shared_lengths(choices, owner)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    places = [own.index(example.reference or "") for own, example in zip(options, kept, strict=True)]
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


def _written_references(
    kept: Sequence[Example],
    encoded: Encoded,
    texts: Reading | Base,
    settings: ScoringConfig,
    frame: Frame,
) -> tuple[str, ...]:
    """What generation would write if it wrote the references: compared with what it does write."""
    find = finder(settings)
    found = []
    for i, example in enumerate(kept):
        start = encoded.starts[i] + encoded.prompt_lengths[i]
        found.append(written_text(texts, encoded.tokens[start : encoded.ends[i]].tolist(), frame))
        if find(found[-1]) is None:
            raise DataError(
                f"{example.source}: scoring.answer_pattern {settings.answer_pattern!r} finds no answer in "
                f"what the tokenizer makes of the reference: {found[-1][:80]!r}"
            )
    return tuple(found)


def _check_written(
    metrics: Sequence[Metric], kept: Sequence[Example], references: Sequence[str], settings: ScoringConfig
) -> None:
    """Raises DataError where no answer could be right, as what is written of a fit reference is not."""
    known = {normalised(label.strip(), settings.normalise) for label in settings.labels or ()}
    for metric in (metric for metric in metrics if metric.needs == "writing"):
        find = comparable(metric, settings)
        for example, text in zip(kept, references, strict=True):
            found = find(text) or ""
            problem = metric.reference_problem(found)
            if problem is None and metric.labels and known and found not in known:
                problem = "is none of scoring.labels"
            if problem is not None:
                raise DataError(
                    f"{example.source}: scoring.metric: {metric.name} compares with what the model would "
                    f"write, and for this row that {problem}: {found[:80]!r}; scoring.answer_pattern says "
                    "where the answer stands in it"
                )


def _with_reference(example: Example, reference: str) -> Example:
    if example.messages:
        last = replace(example.messages[-1], content=reference)
        return replace(example, messages=(*example.messages[:-1], last))
    return replace(example, completion=reference)
