"""What a model writes, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from loracle.config.metrics.settings import ScoringConfig
from loracle.records.objective import Progress
from loracle.training.dataset.template import BARE, Frame
from loracle.training.dataset.tokenizer import Reading
from loracle.training.dataset.tokens import Encoded
from loracle.training.model.base_model import Base, batches, filled_left
from loracle.training.model.positions import length_breaks


def generate(
    base: Base,
    encoded: Encoded,
    settings: ScoringConfig,
    wanted: Sequence[str] | None = None,
    progress: Progress | None = None,
    frame: Frame = BARE,
) -> tuple[list[str], int]:
    """What the model writes after each prompt, greedily, until a stop token or `max_new_tokens`, without what
    the chat template writes around it; and how many tokens are written, stop tokens and padding left out.

    With the texts that are `wanted`, (n,), a text also ends once it has as many tokens as the reference and
    cannot become the one that is wanted, white space around it aside. `progress` is told of examples, also
    within a batch: of as many of it as there is of the longest that its texts may get.
    """
    texts = [""] * len(encoded)
    longest = int(encoded.prompt_lengths.max(initial=0)) + settings.max_new_tokens
    how = base.writing
    if how == "padded" and any(b < longest for b in length_breaks(base.model)):
        how = "equal"  # each would reach the break at the step of the longest
    done = count = 0
    for chosen in batches(encoded.prompt_lengths, settings.batch_size, how):
        starts, lengths = encoded.starts[chosen], encoded.prompt_lengths[chosen]
        prompts = [encoded.tokens[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        ids, mask = filled_left(base, prompts)
        width = ids.shape[1]
        ends: list[StoppingCriteria] = []
        if wanted is not None:
            least = (encoded.lengths - encoded.prompt_lengths)[chosen].tolist()
            ends.append(_Departed(base, width, [wanted[i] for i in chosen], least, frame))
        if progress is not None:
            ends.append(_Told(progress, done, len(chosen), len(encoded), width, settings.max_new_tokens))
        with base.precision():
            written = base.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=settings.max_new_tokens,
                stopping_criteria=StoppingCriteriaList(ends),
                eos_token_id=frame.stops(base.stop_ids),
            )[:, width:].tolist()
        for i, tokens in zip(chosen, written, strict=True):
            kept = _kept(base, tokens, frame)
            texts[i], count = frame.answer(_decoded(base, kept)), count + len(kept)
        done += len(chosen)
        if progress is not None:
            progress(done, len(encoded), None, "writing")
    return texts, count


class _Departed(StoppingCriteria):  # type: ignore[misc]
    """Ends the texts that can no longer become what is wanted, once they have their `least` tokens."""

    def __init__(
        self, base: Base, width: int, wanted: Sequence[str], least: Sequence[int], frame: Frame
    ) -> None:
        self._base, self._width, self._frame = base, width, frame
        self._wanted = [frame.spellings(text) for text in wanted]
        self._least = least

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows of (b, width + written) end, (b,)."""
        rows = input_ids[:, self._width :].tolist()
        found = [self._departs(*row) for row in zip(rows, self._wanted, self._least, strict=True)]
        return torch.tensor(found, device=input_ids.device)

    def _departs(self, tokens: list[int], wanted: tuple[str, ...], least: int) -> bool:
        if len(tokens) < least:
            return False
        # A character of which only some bytes are written yet, and spaces that a tokenizer may still take
        # away before what comes next, say nothing.
        text = _decoded(self._base, _kept(self._base, tokens, self._frame))
        text = "".join(text.rstrip("\N{REPLACEMENT CHARACTER}").split())
        return not any(one.startswith(text) for one in wanted)


class _Told(StoppingCriteria):  # type: ignore[misc]
    """Tells how much of a batch is written, and ends nothing."""

    def __init__(self, progress: Progress, before: int, size: int, total: int, width: int, most: int) -> None:
        self._progress, self._before, self._size, self._total = progress, before, size, total
        self._width, self._most = width, most

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """No row of (b, width + written) ends, (b,)."""
        written = self._size * (input_ids.shape[1] - self._width) // self._most
        self._progress(self._before + written, self._total, None, "writing")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def written_text(texts: Reading | Base, tokens: Sequence[int], frame: Frame = BARE) -> str:
    """The text of generated tokens, up to the first stop token, without padding and what the chat template
    writes around it.

    Other special tokens are part of it: they are part of an answer that the data write with them.
    """
    return frame.answer(_decoded(texts, _kept(texts, tokens, frame)))


def _kept(texts: Reading | Base, tokens: Sequence[int], frame: Frame) -> list[int]:
    """Those before the first stop token, without padding."""
    stops = frame.stops(texts.stop_ids)
    end = next((n for n, token in enumerate(tokens) if token in stops), len(tokens))
    padding = texts.tokenizer.pad_token_id
    return [token for token in tokens[:end] if token != padding]


def _decoded(texts: Reading | Base, kept: Sequence[int]) -> str:
    return str(texts.tokenizer.decode(kept, skip_special_tokens=False))
