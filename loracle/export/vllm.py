"""vLLM: the adapter, and the command that serves it beside its base model."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loracle.errors import StudyError
from loracle.export.winner.files import header, write_texts
from loracle.export.winner.reading import Winner

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

# vllm/config/lora.py, MaxLoRARanks, vLLM 0.33: a rank is served in slots of one of these sizes.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_NAME = "tuned"
NEEDS_ROWS = False


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `serve.sh` and `adapter/`. Raises StudyError: vLLM cannot serve this adapter beside its base."""
    texts, notes = settings(winner, ())
    write_texts(folder, texts)
    (folder / "serve.sh").chmod(0o755)
    shutil.copytree(winner.adapter, folder / "adapter")
    return notes


def settings(winner: Winner, rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The command in a script, and what it cannot say; raises as `write`. No row matters."""
    _require_servable(winner)
    rank = int(winner.saved["r"])
    slots = next(size for size in _RANKS if size >= rank)
    arguments = ["vllm", "serve", winner.model, "--enable-lora", "--max-lora-rank", str(slots)]
    arguments += ["--max-loras", "1", "--lora-modules", f"{_NAME}=adapter", "--tokenizer", "adapter"]
    arguments += ["--dtype", winner.dtype, "--max-model-len", str(winner.context)]
    if winner.config.trust_remote_code:
        arguments.append("--trust-remote-code")
    notes = [
        f"rank {rank} takes the slots of --max-lora-rank {slots}: vLLM reserves memory for that much",
        f"requests name the model {_NAME!r}; {winner.model!r} is the untuned base",
        f"--max-model-len is what the run trained on and wrote at most ({winner.context} tokens); raise it "
        "for longer chats, as far as the model reads",
    ]
    head = header(winner, "Run in this folder with `sh serve.sh`, where vLLM is installed.", notes)
    text = f'#!/bin/sh\n{head}cd "$(dirname "$0")" || exit 1\nexec {shlex.join(arguments)} "$@"\n'
    return {"serve.sh": text}, notes


def _require_servable(winner: Winner) -> None:
    """vllm/lora/peft_helper.py, `_validate_features`, vLLM 0.33."""
    saved, rank = winner.saved, int(winner.saved["r"])
    problem = None
    if rank > _RANKS[-1]:
        problem = f"vLLM serves adapters up to rank {_RANKS[-1]}, and this one has {rank}"
    elif saved.get("use_dora"):
        problem = "vLLM serves no DoRA adapters"
    elif saved.get("modules_to_save"):
        problem = f"vLLM serves no adapters with whole modules ({', '.join(saved['modules_to_save'])})"
    elif saved.get("bias", "none") != "none":
        problem = "vLLM serves no adapters with biases"
    elif isinstance(init := saved.get("init_lora_weights"), str) and init.lower() not in _HARMLESS:
        problem = f"vLLM serves no adapters that begin with {init}"
    if problem is not None:
        raise StudyError(f"{problem}; export --to merged, which it serves as a model of its own")


_HARMLESS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # `_init_is_supported`, in the same file
