"""Search methods that read texts, for the published method and for ablations of its parts.

Texts are read by the real sentence encoder (MiniLM), once a landscape and prompt; vectors are kept in
`results/features/` and made anew where absent. Reading a full grid of 42,336 texts takes a quarter of an hour
to an hour, so these methods run on `rows` and `table` landscapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from search_methods import LoracleMethod, Method, Start

from loracle.config.settings import LanguageConfig
from loracle.language.features import FixedFeatures
from loracle.language.prompt import load_prompt
from loracle.language.reader import load_language_model
from loracle.language.sentence_reader import SentenceReader
from loracle.search.presets import GOOD_PRACTICE, PRESETS, Preset, SurrogateSettings

FEATURES = Path(__file__).parent / "results" / "features"
Pooling = Literal["mean", "first"]


@cache
def language_model() -> SentenceReader:
    """The real sentence encoder, loaded once a process."""
    model = load_language_model(LanguageConfig(model="minilm"), tuned=None, device="cpu")
    assert isinstance(model, SentenceReader)
    return model


def _encode(texts: list[str], layer: int, pooling: Pooling) -> torch.Tensor:
    """Vectors (n, 384): the encoder's own (last layer, mean, length 1), or another layer or pooling."""
    reader = language_model()
    if layer == -1 and pooling == "mean":
        return reader.encode(texts)
    network, parts = reader.model[0].auto_model, []
    for start in range(0, len(texts), 32):
        inputs = reader.model.tokenizer(texts[start : start + 32], padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = network(**inputs, output_hidden_states=True).hidden_states[layer]
        mask = inputs["attention_mask"][..., None].float()
        pooled = hidden[:, 0] if pooling == "first" else (hidden * mask).sum(1) / mask.sum(1)
        parts.append(torch.nn.functional.normalize(pooled, dim=-1))
    return torch.cat(parts)


def text_features(start: Start, prompt: str, layer: int = -1, pooling: Pooling = "mean") -> FixedFeatures:
    """Features of all candidates of a landscape, (N, 384)."""
    name = f"{start.landscape.name}-{prompt}-{layer}-{pooling}".replace("/", "_").replace(":", "_")
    path = FEATURES / f"{name}.npy"
    if not path.exists():
        written = load_prompt(prompt, start.space, n_examples=start.landscape.n_train)
        texts = [written.text(start.space.config(int(index))) for index in start.space.candidates]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, _encode(texts, layer, pooling).numpy())
        partial.replace(path)
    return FixedFeatures(torch.from_numpy(np.load(path)))


def shuffled(start: Start, features: FixedFeatures) -> FixedFeatures:
    """The control: every config gets the vector of some other config."""
    order = np.random.default_rng([start.seed, 99]).permutation(len(features.matrix))
    return FixedFeatures(features.matrix[torch.from_numpy(order)])


def random_projection(start: Start) -> FixedFeatures:
    """Knobs on their own scales through a random linear map to 384 numbers: the metric without language."""
    coordinates = torch.from_numpy(start.space.coordinates(start.space.candidates)).float()
    generator = torch.Generator().manual_seed(start.seed)
    return FixedFeatures(coordinates @ torch.randn(coordinates.shape[1], 384, generator=generator))


def _with(preset: Preset, **changes: Any) -> Preset:
    assert isinstance(preset.surrogate, SurrogateSettings)
    return replace(preset, surrogate=replace(preset.surrogate, learnable_token=False, **changes))


def language_methods() -> dict[str, Callable[[Start], Method]]:
    """Makers by name. `paper`: settings as published, read by MiniLM and without the learnable token.

    `language...`: the published kernel beside one on numbers, half-rank outputs, priors, seed configs, with
    one part changed at a time.
    """
    paper, language = PRESETS["paper"], PRESETS["language"]
    careful = replace(_with(paper, output="half_rank"), seed_configs=GOOD_PRACTICE)

    def make(preset: Preset, read: Callable[[Start], FixedFeatures]) -> Callable[[Start], Method]:
        return lambda start: LoracleMethod(start, preset, read(start))

    def texts(prompt: str, **how: Any) -> Callable[[Start], FixedFeatures]:
        return lambda start: text_features(start, prompt, **how)

    both, alone = _with(language), _with(language, numeric=False)
    derived = texts("derived-v1")
    return {
        "paper": make(_with(paper), texts("lora-v1")),
        "paper+ours": make(careful, texts("lora-v1")),
        "language": make(both, derived),
        "language:domain": make(both, texts("lora-v1")),
        "language:plain": make(both, texts("plain-v1")),
        "language:shuffled": make(both, lambda start: shuffled(start, derived(start))),
        "language:random": make(both, random_projection),
        "language:none": lambda start: LoracleMethod(start, _with(language, language=False)),
        "language:layer3": make(both, texts("derived-v1", layer=3)),
        "language:first": make(both, texts("derived-v1", pooling="first")),
        "text": make(alone, derived),
        "text:domain": make(alone, texts("lora-v1")),
        "text:plain": make(alone, texts("plain-v1")),
        "text:shuffled": make(alone, lambda start: shuffled(start, derived(start))),
        "text:random": make(alone, random_projection),
        "text:p8": make(_with(language, numeric=False, projection=8), derived),
    }
