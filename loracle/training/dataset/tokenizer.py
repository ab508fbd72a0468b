"""The tokenizer of a model without the model: what rows become, before weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from loracle.config.settings import RunConfig
from loracle.errors import LoracleError, ModelError
from loracle.records.failures import one_line
from loracle.training.dataset.template import give_template
from loracle.training.hub import hub_silence


@dataclass(frozen=True)
class Reading:
    """A tokenizer with what a model says about texts.

    Attributes:
        stop_ids: tokens that end a completion, as of the loaded model.
        max_positions: tokens that the model can read, if it says so.
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    max_positions: int | None


def load_reading(config: RunConfig) -> Reading:
    """Loads the tokenizer, and of the model its settings alone. Raises ModelError or DataError."""
    name = config.model
    offline = None if Path(name).is_dir() else hub_silence()
    options = {"trust_remote_code": config.trust_remote_code, "local_files_only": offline is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        give_template(tokenizer, config.data.template)
        settings = AutoConfig.from_pretrained(name, **options).get_text_config(decoder=True)
        try:
            ends: Any = GenerationConfig.from_pretrained(name, **options).eos_token_id
        except OSError:  # a model that ships none has that of its settings
            ends = settings.eos_token_id
    except LoracleError:
        raise
    except Exception as error:  # of any kind: files, settings and code of other people
        silence = f" The hub was not asked: {offline}." if offline else ""
        raise ModelError(
            f"model: the tokenizer of {name!r} cannot be loaded; give a folder, or the id of a model on the "
            f"hub.{silence} {one_line(error)}"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model: the tokenizer of {name!r} has no end-of-sequence token")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    stops = tuple(dict.fromkeys([int(tokenizer.eos_token_id), *map(int, ends)]))
    return Reading(tokenizer, stops, getattr(settings, "max_position_embeddings", None))
