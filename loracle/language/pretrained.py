"""What all readers of prompts share: loading that fails in one line, token ids, their number, and a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from loracle.errors import ModelError, PromptError

_WHAT_GOES_WRONG = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError)

_LAST_USE_OF_A_TOKENIZER = ("truncation", "padding")
_NAMES_IN_A_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turns a library's error into one line, and keeps its progress bars off the screen."""
    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except _WHAT_GOES_WRONG as error:
        unknown = isinstance(error, OSError) and not Path(name).is_dir()
        hint = "; there is no such folder, and no model of that name was found" if unknown else ""
        raise ModelError(f"model {name!r} cannot be loaded: {_line(error)}{hint}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Every text as token ids, special tokens included, never cut."""
    if not texts:
        return []  # tokenizers fail on an empty batch
    only_ids = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids: list[list[int]] = tokenizer(list(texts), truncation=False, padding=False, **only_ids)["input_ids"]
    return ids


def refuse_long(
    ids: Sequence[Sequence[int]], limit: int | None, extra: int, name: str, descriptions: Sequence[str]
) -> None:
    """Raises PromptError if a text with `extra` more tokens has more than `limit`; nothing is truncated."""
    if limit is None or not ids:
        return
    row = max(range(len(ids)), key=lambda row: len(ids[row]))
    length = len(ids[row]) + extra
    if length > limit:
        raise PromptError(
            f"the prompt is too long for {name}: {length} tokens, at most {limit} ({descriptions[row]}); "
            "choose a shorter prompt (of those that ship, language.prompt: plain-v1 is the shortest), or a "
            "language.model that reads more"
        )


def fingerprint_of(model: nn.Module, tokenizer: Any, how: str) -> str:
    """A hash of weights (adapters aside), tokenizer, configuration and versions; names and folders aside."""
    digest = hashlib.sha256(
        f"{how}; torch {torch.__version__}; transformers {transformers.__version__}".encode()
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    words = {key: value for key, value in words.items() if key not in _LAST_USE_OF_A_TOKENIZER}
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    settings = {key: value for key, value in settings.items() if key not in _NAMES_IN_A_CONFIG}
    digest.update(json.dumps([words, settings], sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        if "lora_" in name or "modules_to_save" in name:
            continue
        digest.update(f"{name.replace('.base_layer', '')} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.device.type.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
