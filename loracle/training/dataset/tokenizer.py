"""The tokenizer of a model, with or without the model: what rows become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from loracle.config.data.settings import DataConfig
from loracle.config.settings import RunConfig
from loracle.errors import LoracleError, ModelError
from loracle.records.failures import one_line
from loracle.training.dataset.notices import require_enough
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.template import give_template
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.hub import hub_silence

_NO_LIMIT = 2**31 - 1  # tokens


@dataclass(frozen=True)
class Reading:
    """A tokenizer with what a model says about texts.

    Attributes:
        tokenizer: with the chat template of the settings.
        stop_ids: tokens that end a completion.
        max_positions: tokens that the model can read, if it says so.
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    max_positions: int | None

    def longest(self, data: DataConfig) -> int:
        """Tokens of the longest example allowed: what the settings say, but no more than the model reads."""
        return min(data.max_length, self.max_positions or data.max_length)

    def remedy(self, data: DataConfig) -> str:
        """What helps against examples that are too long."""
        if self.longest(data) < data.max_length:
            return "choose a model that reads more"
        return "raise data.max_length"

    def encoded(self, name: str, examples: Sequence[Example], data: DataConfig) -> Encoded:
        """A split as tokens, without what is too long. Raises DataError, also where too few are left."""
        encoded, longest = self.kept(examples, data), self.longest(data)
        why = f"{encoded.dropped} of {len(examples)} have more than {longest} tokens; {self.remedy(data)}"
        require_enough(name, len(encoded), why)
        return encoded

    def kept(self, examples: Sequence[Example], data: DataConfig) -> Encoded:
        """Examples as tokens, without what is too long. Raises DataError, see `encode`."""
        return self._encode(examples, data, self.longest(data), self.remedy(data))

    def every(self, examples: Sequence[Example], data: DataConfig) -> Encoded:
        """Examples as tokens, those that are too long as well. Raises DataError, see `encode`."""
        return self._encode(examples, data, _NO_LIMIT, "")

    def _encode(self, examples: Sequence[Example], data: DataConfig, longest: int, remedy: str) -> Encoded:
        return encode(
            examples,
            self.tokenizer,
            longest,
            data.too_long,
            stop_ids=self.stop_ids,
            remedy=remedy,
            learn_all=data.loss_on == "all",
        )


@dataclass(frozen=True)
class Place:
    """Where a model is read from.

    Attributes:
        name: folder or hub id.
        options: what all loaders of transformers are told.
        silence: why the hub is not asked, as the end of a message; empty where it is, or need not be.
    """

    name: str
    options: dict[str, Any]
    silence: str

    @classmethod
    def of(cls, config: RunConfig) -> Place:
        """The place that a config names. Raises ModelError where it is a folder that is not there."""
        name = config.model
        if name.startswith((".", "/", "~")) and not Path(name).is_dir():
            raise ModelError(f"model: the folder {name} does not exist")
        silent = None if Path(name).is_dir() else hub_silence()
        options = {"trust_remote_code": config.trust_remote_code, "local_files_only": silent is not None}
        return cls(name, options, f" The hub was not asked: {silent}." if silent else "")

    def tokenizer(self, config: RunConfig) -> Any:
        """The tokenizer, with the chat template of the settings; raises whatever its loader does."""
        tokenizer = AutoTokenizer.from_pretrained(self.name, **self.options)
        _drop_copies(tokenizer)
        give_template(tokenizer, config.data.template)
        return tokenizer


def _drop_copies(tokenizer: Any) -> None:
    """Lets go of the vocabulary and the merges that a fast tokenizer was made from: its backend has its own.

    They are read when it is made and never again. For 262,144 words they are 150 MB, in every worker.
    """
    if tokenizer.is_fast:
        for name in ("_vocab", "_merges"):
            vars(tokenizer).pop(name, None)


def reading_of(name: str, tokenizer: Any, ends: Any, settings: Any) -> Reading:
    """What is read and where it stops: `ends` are a model's own tokens of the end, one or a list or None, and
    `settings` those of its text part. Raises ModelError where nothing could stop.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model: the tokenizer of {name!r} has no end-of-sequence token")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    stops = tuple(dict.fromkeys([int(tokenizer.eos_token_id), *map(int, ends)]))
    return Reading(tokenizer, stops, getattr(settings, "max_position_embeddings", None))


def load_reading(config: RunConfig) -> Reading:
    """Loads the tokenizer, and of the model its settings alone. Raises ModelError or DataError."""
    place = Place.of(config)
    try:
        tokenizer = place.tokenizer(config)
        settings = AutoConfig.from_pretrained(place.name, **place.options).get_text_config(decoder=True)
        try:
            ends: Any = GenerationConfig.from_pretrained(place.name, **place.options).eos_token_id
        except OSError:  # a model that ships none has that of its settings
            ends = settings.eos_token_id
    except LoracleError:
        raise
    except Exception as error:  # of any kind: files, settings and code of other people
        raise ModelError(
            f"model: the tokenizer of {place.name!r} cannot be loaded; give a folder, or the id of a model "
            f"on the hub.{place.silence} {one_line(error)}"
        ) from None
    return reading_of(place.name, tokenizer, ends, settings)
