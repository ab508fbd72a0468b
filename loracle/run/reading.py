"""Candidates as a language model reads them: in the worker that has loaded a model, once for a whole run.

Features that stay as they are come back to the driver as a file of arrays. With a learnable token they change
in every fit of the surrogate, so there the driver holds the model that reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from loracle.config.cache_folder import cache_folder
from loracle.config.device import pick_device, pick_dtype
from loracle.config.settings import RunConfig
from loracle.language.causal_reader import CausalReader
from loracle.language.features import Features, FixedFeatures, build_features
from loracle.language.prompt import Prompt, load_prompt
from loracle.language.reader import LanguageModel, load_language_model
from loracle.records.contents import READING, Contents
from loracle.records.events import Listener, PhaseStarted, Step
from loracle.records.objective import Objective, Report
from loracle.records.space import SearchSpace
from loracle.run.search import run_preset, search_space
from loracle.search.presets import Preset, SurrogateSettings

FILE = "features.safetensors"


@dataclass(frozen=True)
class _Reading:
    """A language model, ready to read the candidates of a run."""

    config: RunConfig
    space: SearchSpace
    model: LanguageModel
    prompt: Prompt
    learnable: bool

    @property
    def contents(self) -> dict[str, str]:
        """What it is made of, as part of what a run is made of."""
        return {
            "prompt": self.prompt.fingerprint,
            "model that reads the prompts": self.model.fingerprint,
            READING: f"{self.model.dtype} on {pick_device(self.config.device).type}".removeprefix("torch."),
        }

    def features(self, listen: Listener) -> Features:
        """Reads all candidates."""
        named = f"{self.prompt.version}, {self.model.name}"
        listen(PhaseStarted(f"reading {len(self.space.candidates):,} prompts ({named})"))
        return build_features(
            self.space,
            self.prompt,
            self.model,
            learnable_token=self.learnable,
            cache_dir=cache_folder(),
            progress=lambda done, total: listen(Step(done, total)),
            memory_gb=self.config.language.memory_gb,
            half_precision_cache=self.config.language.half_precision_cache,
        )


class ReadingObjective:
    """An objective that also reads the candidates, where their features stay as they are; see
    `reads_in_worker`."""

    def __init__(self, objective: Objective, config: RunConfig) -> None:
        self.run, self.final = objective.run, objective.final
        self._objective = objective
        self._config = config

    @property
    def contents(self) -> Contents:
        """That of the objective: prompts are read once a run."""
        return self._objective.contents

    def report(self) -> Report:
        """That of the objective, with the features' file and what they are made of."""
        report, config = self._objective.report(), self._config
        base = getattr(self._objective, "base", None)
        dtype = pick_dtype(config.language.dtype, pick_device(config.device))
        shared = base is not None and (dtype == base.dtype or not _own_dtype(config))
        # Else the model is loaded once more, for reading alone.
        tuned = (base.model, base.tokenizer) if base is not None and shared else config.model or None
        space = search_space(config, report.n_rows)
        reading = _prepare(config, space, report.n_rows, tuned)
        found = reading.features(lambda event: None)
        path = config.output / "workers" / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": found.all(None).contiguous()}, path)
        return replace(report, features={"file": str(path), "contents": reading.contents})


def features_of(
    config: RunConfig, space: SearchSpace, preset: Preset, report: Report, listen: Listener
) -> tuple[Features, dict[str, str], Preset]:
    """Features of all candidates, what they are made of, and the preset with what the model can do.

    Raises:
        LoracleError: see `load_language_model`, `load_prompt` and `build_features`.
    """
    assert isinstance(preset.surrogate, SurrogateSettings)
    if report.features is not None:
        path = Path(report.features["file"])
        matrix = load_file(path)["features"]
        path.unlink(missing_ok=True)
        settled = replace(preset, surrogate=replace(preset.surrogate, learnable_token=False))
        return FixedFeatures(matrix), dict(report.features["contents"]), settled
    reading = _prepare(config, space, report.n_rows, config.model or None)
    settled = replace(preset, surrogate=replace(preset.surrogate, learnable_token=reading.learnable))
    return reading.features(listen), reading.contents, settled


def run_prompt(config: RunConfig, space: SearchSpace, model: LanguageModel, n_examples: int | None) -> Prompt:
    """How a run writes its configs. `auto`: with explanations for a causal model; short and derived for a
    sentence encoder, which averages over all words and reads every text by itself.

    Raises:
        PromptError: see `load_prompt`.
    """
    name = config.language.prompt
    if name == "auto":
        name = "lora-v1" if isinstance(model, CausalReader) else "derived-v1"
    return load_prompt(name, space, n_examples=n_examples, epochs=config.training.epochs)


def _prepare(config: RunConfig, space: SearchSpace, n_examples: int | None, tuned: Any) -> _Reading:
    settings, surrogate = config.language, run_preset(config).surrogate
    assert isinstance(surrogate, SurrogateSettings)
    model = load_language_model(
        settings,
        tuned=tuned,
        device=config.device,
        dtype=config.dtype if settings.model == "same" and not _own_dtype(config) else settings.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none`
    # An encoder reads every observed text again in every step of a fit, so there it is opt-in.
    wanted = surrogate.learnable_token and isinstance(model, CausalReader)
    learnable = wanted if settings.learnable_token is None else settings.learnable_token
    return _Reading(config, space, model, run_prompt(config, space, model, n_examples), learnable)


def _own_dtype(config: RunConfig) -> bool:
    """Whether prompts are read in a precision that the settings name, whatever the trainings have."""
    return config.language.dtype != "auto"
