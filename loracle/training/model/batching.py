"""How a model treats the sequences of a batch, found out once by asking it.

A model that writes from left to right must not see later tokens. Most heed the attention mask, so sequences
of different lengths can be filled up and read together; recurrent models often do not, and some mix the rows
of a batch. What a model does is no matter of its name: each is asked with a few tokens of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from loracle.errors import LoracleError, ModelError
from loracle.records.failures import one_line, refuse_no_memory
from loracle.training.model.base_model import Base, Batching

Tokens = Sequence[int] | npt.NDArray[np.integer]

_LONG = 16  # tokens of the longer of two sequences
_WRITTEN = 3  # tokens generated
# Differences count from this share of the spread of a model's logits up; below is rounding.
_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 5e-2
_LEAK = 1e-2  # in bfloat16: same kernels on same shapes, so no rounding; random encoders had 0.025 and more


def observed(base: Base, tokens: Tokens, *, writes: bool) -> Base:
    """The base with `reading` and, where the run `writes`, `writing` as the model allows them.

    `tokens` are some of the run's own, one after the other: others might stand for images.

    Raises:
        ModelError: the model cannot read text alone, sees later tokens, or cannot write.
    """
    probe = _Probe.of(base, tokens)
    with torch.inference_mode():
        try:
            alone = [_logits(base, [row])[0] for row in probe.rows]
            _check_causality(base, probe, alone)
            reading = _reading(base, probe, alone)
            writing = _writing(base, probe) if writes else reading
        except LoracleError:
            raise
        except Exception as error:  # of any kind: it is the model's own code
            refuse_no_memory(
                error, f"model: {base.name} leaves no memory on {base.device} to read {_LONG} tokens"
            )
            raise ModelError(
                f"model: {base.name} cannot read or write text from token ids alone: {one_line(error)}"
            ) from None
    return replace(base, reading=reading, writing=writing)


@dataclass(frozen=True)
class _Probe:
    """Three rows, two of the same length and one shorter, and the distinct tokens that they may have."""

    rows: tuple[list[int], list[int], list[int]]
    known: list[int]

    @classmethod
    def of(cls, base: Base, tokens: Tokens) -> _Probe:
        most = base.max_positions or _LONG + _WRITTEN
        long = max(2, min(_LONG, most - _WRITTEN))
        short = max(1, long // 2 + 1)
        stream = np.resize(np.asarray(tokens, dtype=np.int64), 2 * long + short).tolist()
        rows = (stream[:long], stream[long : 2 * long], stream[2 * long :])
        return cls(rows, sorted(set(stream)))


def _check_causality(base: Base, probe: _Probe, alone: list[torch.Tensor]) -> None:
    """Changes the last token of each row and compares the logits of all tokens before.

    One difference may be a rounding error that sends a token to another expert; one in every row is not.
    """
    leaks = []
    for row, before in zip(probe.rows, alone, strict=True):
        other = next((token for token in probe.known if token != row[-1]), None)
        if len(row) < 2 or other is None:  # the data hold one token alone
            continue
        after = _logits(base, [[*row[:-1], other]])[0]
        tolerance = _TOLERANCE.get(base.dtype, _LEAK)
        leaks.append(_differ(after[:-1], before[:-1], tolerance, anywhere=True))
    if leaks and all(leaks):
        raise ModelError(
            f"model: {base.name} ({type(base.model).__name__}) looks at later tokens: what it predicts at a "
            "place changes with the tokens behind it, as with BERT; choose one that writes from left to right"
        )


def _reading(base: Base, probe: _Probe, alone: list[torch.Tensor]) -> Batching:
    """How sequences can be read together where they are filled up on the right, without a mask."""
    first, second, short = probe.rows
    differ = partial(_differ, tolerance=_TOLERANCE.get(base.dtype, _COARSE))
    together = _logits(base, [first, second])
    if differ(together[0], alone[0]) or differ(together[1], alone[1]):
        return "single"
    filled = _logits(base, [first, short + [base.pad_id] * (len(first) - len(short))])
    same = not differ(filled[0], alone[0]) and not differ(filled[1][: len(short)], alone[2])
    return "padded" if same else "equal"


def _writing(base: Base, probe: _Probe) -> Batching:
    """How sequences can be continued together where they are filled up on the left and masked."""
    first, second, short = probe.rows
    differ = partial(_differ, tolerance=_TOLERANCE.get(base.dtype, _COARSE))
    alone = [_written(base, [row])[0] for row in probe.rows]
    together = _written(base, [first, second])
    if differ(together[0], alone[0]) or differ(together[1], alone[1]):
        return "single"
    filled = _written(base, [first, short])
    same = not differ(filled[0], alone[0]) and not differ(filled[1], alone[2])
    return "padded" if same else "equal"


def _logits(base: Base, rows: list[list[int]]) -> torch.Tensor:
    """(b, t, vocabulary) in float32, for rows of one length."""
    ids = torch.tensor(rows, device=base.device)
    with base.precision():
        logits: torch.Tensor = base.model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _written(base: Base, rows: list[list[int]]) -> torch.Tensor:
    """(b, written, vocabulary): the logits from which each token would be written."""
    width = max(map(len, rows))
    ids = torch.tensor([[base.pad_id] * (width - len(row)) + row for row in rows], device=base.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=base.device)
    with base.precision():
        result = base.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=_WRITTEN,
            max_new_tokens=_WRITTEN,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return torch.stack(result.logits, dim=1).float()


def _differ(some: torch.Tensor, others: torch.Tensor, tolerance: float, *, anywhere: bool = False) -> bool:
    """Whether logits, (t, vocabulary) each, differ by more than rounding, for most of the tokens or anywhere.

    For most: where a rounding error sends one token to another expert, that token alone differs. `tolerance`
    is a share of the spread of a token's logits.
    """
    if not len(some):
        return False
    distances = (some - others).abs().amax(dim=-1)
    distance = distances.max() if anywhere else distances.median()
    return not bool(distance <= tolerance * others.std(dim=-1).mean())  # not a number differs, too
