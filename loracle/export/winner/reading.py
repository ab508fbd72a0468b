"""The winner of a finished run, read from its folder: the adapter, the recipe, and what was recorded."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.config.training.plan import steps_elsewhere
from loracle.config.yaml_file import YamlError, parse, read_text
from loracle.errors import StudyError
from loracle.export.winner.split import Split, split_batch

if TYPE_CHECKING:
    from loracle.training.dataset.splits import Splits

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Winner:
    """What a run found, as dialects read it; each part is read when it is first asked for.

    Attributes:
        output: the run's folder.
        devices: that shall train together.
        micro_batch: sequences on each of them at once; None: the largest that is known to fit.
    """

    output: Path
    devices: int = 1
    micro_batch: int | None = None

    @property
    def adapter(self) -> Path:
        """`best/` of the run: adapter, tokenizer and model card."""
        return self.output / "best"

    @cached_property
    def config(self) -> RunConfig:
        """Of the run. Raises ConfigError."""
        return load_config(self.output / "config.yaml").model_copy(update={"output": self.output})

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """Its `best/recipe.yaml`: see `report/recipe.py`. Raises StudyError: it cannot be read."""
        path = self.adapter / "recipe.yaml"
        try:
            content, _ = parse(read_text(path))
        except YamlError as error:
            raise StudyError(f"{error.place(path)}: {error}; loracle tune makes it again") from None
        sections = ("lora", "training", "sft", "trained")
        if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in sections):
            raise StudyError(f"{path} is no recipe of Loracle; loracle tune makes it again")
        return content

    @cached_property
    def split(self) -> Split:
        """How the effective batch is split. Raises StudyError: it cannot be split as asked."""
        return split_batch(
            int(self.trained["effective_batch"]),
            self.devices,
            largest=int(self.recipe["training"]["per_device_train_batch_size"]),
            micro=self.micro_batch,
        )

    @property
    def model(self) -> str:
        """Hub id, or folder, of the base model."""
        return str(self.recipe["base_model"])

    @property
    def lora(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        return dict(self.recipe["lora"])

    @property
    def training(self) -> dict[str, Any]:
        """Arguments of `transformers.TrainingArguments`: the batch split as asked, and `max_steps` in the
        place of epochs that would make another number of steps there."""
        training, trained = dict(self.recipe["training"]), self.trained
        epochs = training.get("num_train_epochs")
        steps, batch = int(trained["steps"]), int(trained["effective_batch"])
        if epochs is not None and steps_elsewhere(self._rows, float(epochs), batch) != steps:
            # A recipe that was written before recipes did so themselves.
            names = {"num_train_epochs": "max_steps"}
            training = {names.get(name, name): value for name, value in training.items()}
            training["max_steps"] = steps
        split = {
            "per_device_train_batch_size": self.split.micro,
            "gradient_accumulation_steps": self.split.accumulation,
        }
        return training | split

    @property
    def _rows(self) -> int:
        """That an epoch has: examples, or blocks of them."""
        return int(self.trained.get("blocks", self.trained["examples"]))

    @property
    def epochs(self) -> float | None:
        """How often the rows were seen; None: their number of steps was given."""
        found = self.trained.get("epochs", self.recipe["training"].get("num_train_epochs"))
        return None if found is None else float(found)

    @property
    def trained(self) -> Mapping[str, Any]:
        """What was trained, in numbers and words."""
        return dict(self.recipe["trained"])

    @property
    def max_length(self) -> int:
        """Tokens of the longest row."""
        return int(self.recipe["sft"]["max_length"])

    @property
    def packs(self) -> bool:
        """Whether its batches had blocks of several examples."""
        return bool(self.recipe["sft"].get("packing"))

    @property
    def context(self) -> int:
        """Tokens of the longest sequence that the run trained on or wrote, no more than the model reads where
        that was recorded."""
        asked = self.max_length + int(self.config.scoring.max_new_tokens)
        return min(asked, int(self.provenance.get("max_positions") or asked))

    @cached_property
    def saved(self) -> Mapping[str, Any]:
        """What the saved adapter says of itself; its rank may be twice the winner's (PiSSA)."""
        content: dict[str, Any] = json.loads((self.adapter / _ADAPTER[0]).read_text(encoding="utf-8"))
        return content

    @cached_property
    def splits(self) -> Splits:
        """The data as they are now. Raises DataError."""
        from loracle.training.dataset.splits import load_splits

        return load_splits(self.config.data, self.config.search.seed)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """What was recorded of the final training; empty where nothing is left of it."""
        for name in ("winner", "standard"):
            path = self.output / "final" / name / "provenance.json"
            if path.exists():
                content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return content
        return {}

    @property
    def base_model(self) -> Mapping[str, Any]:
        """`settings` of the base model as transformers completed them, and `pad_id` of its tokenizer, as the
        final training recorded them; empty in runs of earlier versions."""
        recorded = self.provenance.get("base_model")
        if not isinstance(recorded, dict) or not isinstance(recorded.get("settings"), dict):
            return {}
        return recorded if "pad_id" in recorded else {}

    @property
    def dtype(self) -> str:
        """Of the base model in training: `bfloat16`, `float32`, ...; `auto` where nobody knows."""
        return str(self.provenance.get("dtype", self.config.dtype))

    @property
    def attention(self) -> str:
        """The implementation of attention that the base model had in training."""
        return str(self.provenance.get("attention") or self.config.attention or "sdpa")

    @property
    def lora_plus_ratio(self) -> float | None:
        """How much faster B learns than A; None: as fast."""
        ratio = self.trained.get("optimizer", {}).get("loraplus_lr_ratio")
        return None if ratio is None else float(ratio)

    def beyond_trainer(self, *, lora_plus: bool = False) -> Iterator[str]:
        """In words, what a trainer built on transformers' does otherwise than Loracle's.

        `lora_plus`: whether it has a word for it.
        """
        trained, training = self.trained, self.training
        yield (
            "rows: its own shuffle; the same seed gives another order than Loracle's, and other dropout masks"
        )
        yield from self.about_warmup()
        if self.epochs is not None and "max_steps" in training:
            made = steps_elsewhere(self._rows, self.epochs, int(trained["effective_batch"]))
            yield (
                f"steps: {trained['steps']} (max_steps) in the place of {self.epochs:g} epochs, of which it "
                f"makes {made}: an epoch here ends with a short batch, Loracle's batches go on over its "
                "end"
            )
        if self.packs:
            yield (
                f"packing: it makes blocks of its own, of other rows than the {trained['blocks']} of "
                "Loracle"
                + ("" if "max_steps" in training else ", so an epoch may have a few steps more or less")
            )
        yield from self.beyond_arguments(lora_plus=lora_plus)

    def about_warmup(self) -> Iterator[str]:
        """In words, how the warm-up of other trainers begins."""
        if (warm := int(self.training.get("warmup_steps", 0))) > 0:
            yield (
                f"warm-up of {warm}: its first step has a learning rate of 0, Loracle's has 1/{warm + 1} of "
                "the full one"
            )

    def beyond_arguments(self, *, lora_plus: bool = False) -> Iterator[str]:
        """In words, what other trainers have no argument for; `lora_plus`: whether it has one for that."""
        for name in ("optimizer", "early_stopping"):
            said = name == "optimizer" and lora_plus and self.lora_plus_ratio is not None
            if name in self.trained and not said:
                how = _words(self.trained[name])
                yield f"{name.replace('_', ' ')}: no argument says it; trained with {how}"
        if self.config.quantization is not None:
            yield (
                f"base model: trained in {self.config.quantization} (quantization); these settings load it "
                "whole, which takes more memory and gives other losses"
            )

    def unsaid(
        self, training: Container[str], lora: Container[str], implied: Mapping[str, Any]
    ) -> Iterator[str]:
        """In words, settings that a dialect has no name for.

        Args:
            training: names of `transformers.TrainingArguments` that it has.
            lora: names of `peft.LoraConfig` that it has.
            implied: what it does anyway; None: said in another way.
        """
        for section, known, content in (
            ("transformers.TrainingArguments", training, self.training),
            ("peft.LoraConfig", lora, self.lora),
        ):
            for name, value in content.items():
                if name in known or (name in implied and implied[name] in (None, value)):
                    continue
                yield f"{name}: trained with {value!r} ({section}), which has no name here"


def require_winner(output: Path) -> None:
    """Raises StudyError: the run in this folder has left no adapter."""
    for name in _ADAPTER:
        if not (output / "best" / name).exists():
            raise StudyError(
                f"{output}: there is no trained adapter yet (no best/{name}); run loracle tune first"
            )


def require_whole_alpha(winner: Winner, trainer: str) -> None:
    """Raises StudyError: alpha is no whole number, and the trainer takes no other."""
    alpha = winner.lora["lora_alpha"]
    if not isinstance(alpha, int):
        raise StudyError(
            f"{trainer} takes whole numbers for lora_alpha, and the winner's is {alpha}; "
            "export --to trl, whose script takes it"
        )


def _words(content: Any) -> str:
    if isinstance(content, Mapping):
        return ", ".join(f"{name} {_words(value)}" for name, value in content.items())
    return str(content)
