"""The whole model, the adapter merged into its weights: safetensors, compared with the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.errors import ModelError
from loracle.export.winner.reading import Winner
from loracle.export.winner.rows import encoded_rows, turn_stops

if TYPE_CHECKING:
    import torch

LOADS_MODELS = True

_ROWS = 16  # validation rows that both are compared on
_TOLERANCE = 0.02  # of the loss: rounding to bfloat16 stays far below it

# What differs between the card of an adapter and that of a whole model.
_CARD = {
    "library_name: peft": "library_name: transformers",
    "LoRA adapter of": "LoRA adapter, merged into its base model",
    "from peft import AutoPeftModelForCausalLM\n": "",
    "from transformers import AutoTokenizer": "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "AutoPeftModelForCausalLM": "AutoModelForCausalLM",
    "  # needs its base model at the same path": "",
}


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes model, tokenizer, card and recipe. Raises ModelError: merging changed what the model does."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    rows = encoded_rows(winner, winner.splits.validation[:_ROWS])
    tokens = [rows.tokens[a:b] for a, b in zip(rows.starts, rows.ends, strict=True)]
    counted = [rows.counted[a:b] for a, b in zip(rows.starts, rows.ends, strict=True)]
    model = PeftModel.from_pretrained(_loaded(winner, winner.model), str(winner.adapter)).eval()
    before = _logits(model, tokens)
    merged = model.merge_and_unload(safe_merge=True)
    if stops := turn_stops(winner):
        merged.generation_config.eos_token_id = stops
    merged.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(winner.adapter).save_pretrained(str(folder))
    del model, merged
    after = _logits(_loaded(winner, str(folder)), tokens)
    for name in ("recipe.yaml", "README.md"):
        if (winner.adapter / name).exists():
            shutil.copyfile(winner.adapter / name, folder / name)
    _rewrite_card(folder / "README.md")
    return [_compared(before, after, tokens, counted)]


def _loaded(winner: Winner, name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from loracle.config.device import pick_device

    dtype = "auto" if winner.dtype == "auto" else getattr(torch, winner.dtype)
    trust = winner.config.trust_remote_code
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=trust
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model: {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
    model.eval()
    if winner.config.execution.shard_model:  # it fits no device, so all of this takes place on the CPU
        return model
    return model.to(pick_device(winner.config.device))


def _logits(model: Any, rows: Sequence[Any]) -> list[torch.Tensor]:
    """Of each row, (tokens - 1, words), in float32 on the CPU."""
    import torch

    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor(row.tolist(), device=model.device)[None]
            found.append(model(input_ids=ids, use_cache=False).logits[0, :-1].float().cpu())
    return found


def _compared(
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    tokens: Sequence[Any],
    counted: Sequence[Any],
) -> str:
    import torch

    losses, largest, same, total = [0.0, 0.0], 0.0, 0, 0
    for old, new, ids, counts in zip(before, after, tokens, counted, strict=True):
        at = torch.tensor(counts[1:])
        targets = torch.tensor(ids[1:].tolist())[at]
        for i, logits in enumerate((old, new)):
            losses[i] += float(torch.nn.functional.cross_entropy(logits[at], targets, reduction="sum"))
        largest = max(largest, float((old - new)[at].abs().max()))
        same += int((old[at].argmax(-1) == new[at].argmax(-1)).sum())
        total += len(targets)
    adapter, merged = (loss / total for loss in losses)
    said = (
        f"merged against adapter on {len(tokens)} validation rows: loss {merged:.4f} against {adapter:.4f}, "
        f"the same likeliest word at {same:,} of {total:,} tokens, logits differ by {largest:.2g} at most"
    )
    if not abs(merged - adapter) <= _TOLERANCE * max(1.0, adapter):
        raise ModelError(f"merging changes the model ({said}); use the adapter beside its base: --to peft")
    return said


def _rewrite_card(path: Path) -> None:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    for old, new in _CARD.items():
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
