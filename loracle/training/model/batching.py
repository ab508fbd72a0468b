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
from loracle.records.failures import one_line, refuse_no_memory, says_no_memory
from loracle.training.model.base_model import Base, Batching, filled_left
from loracle.training.model.continuation import read_prompts
from loracle.training.model.output.loss import logits_of_few
from loracle.training.model.positions import length_breaks

Tokens = Sequence[int] | npt.NDArray[np.integer]

_LONG = 16  # tokens of the longer of two sequences
_WRITTEN = 3  # tokens generated
# Differences count from this share of the spread of a model's logits up; below is rounding. In float32 it is
# the largest difference of a token's logits. In bfloat16 that grows with the vocabulary, so there it is their
# root mean square: rounding was 0.03 at most (Gemma 3 270M), a mask that is not heeded 0.8 and more.
_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 0.1
# Of examples in one row: what one sees of another is little in a model that was never trained.
_APART = {torch.float32: 1e-4}
_LEAK = 1e-2  # in bfloat16: same kernels on same shapes, so no rounding; random encoders had 0.025 and more


def observed(base: Base, tokens: Tokens, *, writes: bool, chooses: bool = False, packs: bool = False) -> Base:
    """The base with `reading`, and where the run `writes`, `chooses` or `packs` with `writing`, `continuing`
    or `packing`, as the model allows them.

    `tokens` are some of the run's own, one after the other: others might stand for images.

    Raises:
        ModelError: the model cannot read text alone, sees later tokens, cannot write, or does not keep the
            examples of a row apart.
    """
    probe = _Probe.of(base, tokens)
    with torch.inference_mode():
        try:
            alone = [_logits(base, [row])[0] for row in probe.rows]
            _check_causality(base, probe, alone)
            reading = _reading(base, probe, alone)
            writing = _writing(base, probe) if writes else reading
            continuing = _continuing(base, probe, alone) if chooses else None
            packing = _packing(base, probe, alone) if packs else None
        except LoracleError:
            raise
        except Exception as error:  # of any kind: it is the model's own code
            refuse_no_memory(
                error, f"model: {base.name} leaves no memory on {base.device} to read {_LONG} tokens"
            )
            raise ModelError(
                f"model: {base.name} cannot read or write text from token ids alone: {one_line(error)}"
            ) from None
    return replace(base, reading=reading, writing=writing, continuing=continuing, packing=packing)


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
        stream = np.resize(np.asarray(tokens, dtype=np.int64), 2 * long + short)
        rows = [stream[:long], stream[long : 2 * long], stream[2 * long :]]
        for row in rows:
            row[0] = tokens[0]  # as examples begin: without it some models are beside themselves
        first, second, third = (row.tolist() for row in rows)
        return cls((first, second, third), sorted({*first, *second, *third}))


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
        leaks.append(_leaks(base, after[:-1], before[:-1]))
    if leaks and all(leaks):
        raise ModelError(
            f"model: {base.name} ({type(base.model).__name__}) looks at later tokens: what it predicts at a "
            "place changes with the tokens behind it, as with BERT; choose one that writes from left to right"
        )


def _reading(base: Base, probe: _Probe, alone: list[torch.Tensor]) -> Batching:
    """How sequences can be read together where they are filled up on the right, without a mask."""
    first, second, short = probe.rows
    differ = partial(_differ, base)
    together = _logits(base, [first, second])
    if differ(together[0], alone[0]) or differ(together[1], alone[1]):
        return "single"
    filled = _logits(base, [first, short + [base.pad_id] * (len(first) - len(short))])
    same = not differ(filled[0], alone[0]) and not differ(filled[1][: len(short)], alone[2])
    return "padded" if same else "equal"


def _writing(base: Base, probe: _Probe) -> Batching:
    """How sequences can be continued together where they are filled up on the left and masked."""
    first, second, short = probe.rows
    differ = partial(_differ, base)
    alone = [_written(base, [row])[0] for row in probe.rows]
    together = _written(base, [first, second])
    if differ(together[0], alone[0]) or differ(together[1], alone[1]):
        return "single"
    filled = _written(base, [first, short])
    same = not differ(filled[0], alone[0]) and not differ(filled[1], alone[2])
    return "padded" if same else "equal"


def _continuing(base: Base, probe: _Probe, alone: list[torch.Tensor]) -> Batching | None:
    """How prompts can be read together and continued, each in two ways; None where that fails."""
    first, second, short = range(3)
    ways: dict[Batching, list[list[int]]] = {
        "padded": [[first, short]],
        "equal": [[first, second]],
        "single": [[first], [second]],
    }
    for how, groups in ways.items():
        try:
            if all(_continues(base, probe, alone, group) for group in groups):
                return how
        except Exception as error:  # of any kind: it is the model's own code
            if says_no_memory(error):
                raise
    return None


def _continues(base: Base, probe: _Probe, alone: list[torch.Tensor], group: list[int]) -> bool:
    """Whether the ends of some rows, behind what comes before them, get the logits of the whole rows."""
    cut = min(_WRITTEN, min(len(probe.rows[row]) for row in group) - 1)
    if cut < 1:
        return False
    differ = partial(_differ, base)
    whole = [np.array(probe.rows[row]) for row in group]
    read = read_prompts(base, [row[:-cut] for row in whole])
    if read.recurrent:  # several tokens behind a state: exact on some lengths alone, or not at all
        return False
    for _ in range(2):  # from the same keys and values again
        # Each behind itself and, filled up, one token short of it.
        endings = [end for row in whole for end in (row[-cut:], row[-cut:][: max(1, cut - 1)])]
        owners = np.repeat(np.arange(len(group)), 2)
        counted = [np.ones(len(end), dtype=np.bool_) for end in endings]
        batch = read.continued(base, owners, endings, counted)
        found = None if batch is None else logits_of_few(base, batch)
        at = 0
        for owner, end in zip(owners.tolist(), endings, strict=True):
            expected = alone[group[owner]][-cut - 1 :][: len(end)]
            own = read.logits[owner][None]
            if found is not None:
                own = torch.cat([own, found[at : at + len(end) - 1]])
                at += len(end) - 1
            if differ(own, expected):
                return False
    return True


def _packing(base: Base, probe: _Probe, alone: list[torch.Tensor]) -> Batching:
    """How rows of two examples can be read together, where positions begin anew with the second.

    Raises:
        ModelError: examples are read otherwise beside others.
    """
    reason = "what it predicts in an example changes with the one before it"
    ways: tuple[Batching, ...] = ("padded", "single")
    for how in ways:
        try:
            if _keeps_apart(base, probe, alone, at_once=2 if how == "padded" else 1):
                return how
        except Exception as error:  # of any kind: it is the model's own code
            if says_no_memory(error):
                raise
            reason = f"it does not take position_ids ({one_line(error)})"
    heeding = getattr(base.model.config, "_attn_implementation", None) in ("sdpa", "eager")
    raise ModelError(
        f"data.packing: {base.name} ({type(base.model).__name__}) does not keep the examples of a row apart: "
        f"{reason}; leave packing out{'' if heeding else ', or set attention to sdpa'}"
    )


def check_blocks(base: Base, longest: int) -> None:
    """Raises ModelError where examples of blocks of so many tokens would be read otherwise than alone, as
    positions are coded by the longest one beside them."""
    for length in length_breaks(base.model):
        if length < longest:
            raise ModelError(
                f"data.packing: {base.name} reads examples of up to {length} tokens otherwise than longer "
                f"ones (LongRoPE), and so all that share a row; set data.max_length to {length}, or leave "
                "packing out"
            )


def _keeps_apart(base: Base, probe: _Probe, alone: list[torch.Tensor], at_once: int) -> bool:
    """Whether examples in one row get the logits that they get alone, and those of the second stay as they
    are when the first is another one.

    One difference may be a rounding error that sends a token to another expert; one in both rows is not.
    """
    size = max(1, min(len(probe.rows[2]), (base.max_positions or 2 * _LONG) // 2))
    # Of two rows: which examples stand in it, which one comes in the place of the first, the second's tokens.
    pairs = [(0, 2, 1, size), (1, 0, 2, max(1, size - 1))]
    rows = [probe.rows[i][:size] + probe.rows[j][:n] for i, j, _, n in pairs]
    others = [probe.rows[k][:size] + probe.rows[j][:n] for _, j, k, n in pairs]
    rows, others = ([row + [base.pad_id] * (2 * size - len(row)) for row in some] for some in (rows, others))
    places = [[*range(size), *range(size)]] * 2  # what fills a row up goes on from its last example

    def read(some: list[list[int]]) -> list[torch.Tensor]:
        parts = [slice(start, start + at_once) for start in range(0, 2, at_once)]
        return [logits for part in parts for logits in _logits(base, some[part], places[part])]

    for (i, j, _, n), found, again in zip(pairs, read(rows), read(others), strict=True):
        wanted = torch.cat([alone[i][:size], alone[j][:n]])
        second = slice(size, size + n)
        if _is_apart(base, found[: size + n], wanted) and not _leaks(base, again[second], found[second]):
            return True
    return False


def _logits(base: Base, rows: list[list[int]], places: list[list[int]] | None = None) -> torch.Tensor:
    """(b, t, vocabulary) in float32, for rows of one length; `places` are positions of their tokens."""
    ids = torch.tensor(rows, device=base.device)
    more = {} if places is None else {"position_ids": torch.tensor(places, device=base.device)}
    with base.precision():
        logits: torch.Tensor = base.model(input_ids=ids, use_cache=False, **more).logits
    return logits.float()


def _written(base: Base, rows: list[list[int]]) -> torch.Tensor:
    """(b, written, vocabulary): the logits from which each token would be written."""
    ids, mask = filled_left(base, rows)
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


def _differ(base: Base, some: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether logits, (t, vocabulary) each, differ by more than rounding, for most of the tokens.

    For most: where a rounding error sends one token to another expert, that token alone differs.
    """
    if not len(some):
        return False
    return _exceeds(_distances(base, some, others).median(), others, _TOLERANCE.get(base.dtype, _COARSE))


def _is_apart(base: Base, some: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether the logits of no token differ by more than rounding, (t, vocabulary) each."""
    return not _exceeds(_distances(base, some, others).max(), others, _APART.get(base.dtype, _COARSE))


def _distances(base: Base, some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Of the logits of each token, (t,)."""
    error = some - others
    exact = base.dtype in _TOLERANCE
    return error.abs().amax(dim=-1) if exact else error.square().mean(dim=-1).sqrt()


def _leaks(base: Base, some: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether any of the logits of any token differ, (t, vocabulary) each."""
    return len(some) > 0 and _exceeds((some - others).abs().max(), others, _TOLERANCE.get(base.dtype, _LEAK))


def _exceeds(distance: torch.Tensor, logits: torch.Tensor, tolerance: float) -> bool:
    """Whether a distance is more than this share of the spread of a token's logits; what is no number is."""
    return not bool(distance <= tolerance * logits.std(dim=-1).mean())
