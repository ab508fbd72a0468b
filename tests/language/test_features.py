"""Features of a whole space: rows belong to candidates, are kept on disk, and mend themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from places import BENCHMARKS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from loracle.config.settings import LanguageConfig
from loracle.errors import ModelError, PromptError
from loracle.language.causal_reader import CausalReader
from loracle.language.feature_cache import read_matrix
from loracle.language.features import (
    FixedFeatures,
    ShortlistFeatures,
    TreeFeatures,
    build_features,
    noise_floor,
    refuse_half_precision,
)
from loracle.language.prompt import Prompt, load_prompt
from loracle.language.reader import load_language_model
from loracle.language.sentence_reader import SentenceReader
from loracle.records.space import Knob, SearchSpace, default_space
from loracle.records.trial import History, Outcome, Trial
from loracle.search.language_gp import fit_surrogate
from loracle.search.presets import PRESETS
from loracle.search.propose import propose

SPACE = SearchSpace(
    (
        Knob("rank", (4, 8, 16), "log2"),
        Knob("alpha_ratio", (1, 2), "log2"),
        Knob("batch_size", (8, 16, 128), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 3e-4), "log10"),
    ),
    constraints=("alpha * learning_rate <= 4e-3",),
)


def tiny_reader(
    positions: int = 256, family: type[Any] = transformers.LlamaConfig, **options: Any
) -> CausalReader:
    vocabulary = 400
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    prompt = load_prompt("lora-v1", SPACE)
    raw.train_from_iterator([prompt.text(SPACE.config(index)) for index in range(0, SPACE.size, 5)], trainer)
    torch.manual_seed(0)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        **options,
    }
    dtype = settings.pop("dtype", torch.float32)
    model = transformers.AutoModelForCausalLM.from_config(family(**settings), dtype=dtype)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw)
    return CausalReader(model, tokenizer, "tiny")


@pytest.fixture(scope="module")
def reader() -> CausalReader:
    return tiny_reader()


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return load_prompt("plain-v1", SPACE)


class CountingReader:
    """A reader that counts the texts it encodes."""

    token = None
    limit = None
    dimension = 3
    name = "counting"
    dtype = torch.float32
    fingerprint = "counting"

    def __init__(self) -> None:
        self.encoded = 0

    def token_ids(self, texts: Any) -> list[list[int]]:
        return [[1]] * len(texts)

    def encode(self, texts: Any, token: Tensor | None = None) -> Tensor:
        self.encoded += len(texts)
        return torch.tensor([[len(text), hash(text) % 97, 1.0] for text in texts])


@pytest.mark.parametrize("learnable", [False, True])
def test_rows_belong_to_candidates(reader: CausalReader, prompt: Prompt, learnable: bool) -> None:
    features = build_features(SPACE, prompt, reader, learnable_token=learnable, cache_dir=None)
    token = features.token
    assert (token is not None) == learnable
    everything = features.all(token)
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    assert len(SPACE.candidates) < SPACE.size  # the constraint cuts some
    torch.testing.assert_close(everything, reader.encode(texts, token), rtol=1e-5, atol=1e-6)
    assert everything.shape == (len(texts), features.dimension)
    assert not everything.requires_grad
    positions = torch.tensor([5, 0, 11, 5])
    torch.testing.assert_close(features.rows(positions, token), everything[positions], rtol=1e-5, atol=1e-6)


def test_rows_are_differentiable_in_the_token(reader: CausalReader, prompt: Prompt) -> None:
    features = build_features(SPACE, prompt, reader, learnable_token=True, cache_dir=None)
    assert features.token is not None
    token = (features.token + 0.1).requires_grad_()
    positions = torch.tensor([3, 1, 20])
    direction = torch.randn(3, features.dimension)
    (gradient,) = torch.autograd.grad((features.rows(positions, token) * direction).sum(), token)
    texts = [prompt.text(SPACE.config(int(SPACE.candidates[p]))) for p in positions]
    (expected,) = torch.autograd.grad((reader.encode(texts, token) * direction).sum(), token)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_features_are_the_same_every_time(reader: CausalReader, prompt: Prompt) -> None:
    first, second = (
        build_features(SPACE, prompt, reader, learnable_token=False, cache_dir=None).all(None)
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_frozen_features_are_kept_on_disk(prompt: Prompt, tmp_path: Path) -> None:
    reader, n = CountingReader(), len(SPACE.candidates)
    first = build_features(SPACE, prompt, reader, learnable_token=False, cache_dir=tmp_path).all(None)
    second = build_features(SPACE, prompt, reader, learnable_token=False, cache_dir=tmp_path).all(None)
    assert reader.encoded == n
    assert torch.equal(first, second)
    other = load_prompt("derived-v1", SPACE)
    build_features(SPACE, other, reader, learnable_token=False, cache_dir=tmp_path)
    assert reader.encoded == 2 * n  # another prompt is another entry
    assert len(list(tmp_path.iterdir())) == 2  # and nothing else is left there


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "garbage"])
def test_damaged_entries_mend_themselves(prompt: Prompt, tmp_path: Path, damage: str) -> None:
    reader = CountingReader()
    first = build_features(SPACE, prompt, reader, learnable_token=False, cache_dir=tmp_path).all(None)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    flipped = bytes(content)
    path.write_bytes(
        {"cut": flipped[:-9], "flipped": flipped, "empty": b"", "garbage": b"garbage" * 9}[damage]
    )
    again = build_features(SPACE, prompt, reader, learnable_token=False, cache_dir=tmp_path).all(None)
    assert torch.equal(first, again)
    assert reader.encoded == 2 * len(first)
    stored = read_matrix(path, (len(first), 3))
    assert stored is not None
    assert np.array_equal(stored, first.numpy())


def test_long_prompts_name_the_config(prompt: Prompt) -> None:
    reader = tiny_reader(positions=64)
    with pytest.raises(PromptError, match=r"tokens, at most 64 \({'rank': \d+"):
        build_features(SPACE, load_prompt("lora-v1", SPACE), reader, learnable_token=False, cache_dir=None)


def test_learnable_token_needs_a_model_that_can_have_one(prompt: Prompt) -> None:
    with pytest.raises(ModelError, match="counting cannot have a learnable token"):
        build_features(SPACE, prompt, CountingReader(), learnable_token=True, cache_dir=None)


def test_a_decoder_is_read_as_a_tree(reader: CausalReader) -> None:
    prompt = load_prompt("lora-v1", SPACE)
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    longer = tiny_reader(positions=1024)
    features = build_features(SPACE, prompt, longer, learnable_token=True, cache_dir=None)
    assert isinstance(features, TreeFeatures)
    torch.testing.assert_close(
        features.all(features.token), longer.encode(texts, features.token), rtol=1e-4, atol=1e-5
    )
    assert features.tree.computed * 5 < features.tree.trie.plain_tokens


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        (transformers.BloomConfig, {"n_layer": 2, "n_head": 4}),  # ALiBi: positions from the mask, not given
        (transformers.MambaConfig, {}),  # no keys and values
    ],
)
def test_models_that_cannot_be_read_as_a_tree_are_read_plainly_and_it_is_said(
    prompt: Prompt, family: type[Any], options: dict[str, Any], learnable: bool
) -> None:
    reader = tiny_reader(family=family, **options)
    with pytest.warns(
        UserWarning, match=r"tiny cannot read the prompts as a tree \(.*every text is read by itself"
    ):
        features = build_features(SPACE, prompt, reader, learnable_token=learnable, cache_dir=None)
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    expected = reader.encode(texts, features.token)
    torch.testing.assert_close(features.all(features.token), expected, rtol=1e-4, atol=1e-5)


class BlurredReader(CountingReader):
    """A reader whose features depend on how many texts it reads at once, as rounding does."""

    dtype = torch.bfloat16

    def __init__(self, blur: float):
        super().__init__()
        self.blur = blur

    def encode(self, texts: Any, token: Tensor | None = None) -> Tensor:
        return super().encode(texts) * (1 + self.blur * len(texts))


def test_a_dtype_that_blurs_neighbours_is_refused(prompt: Prompt) -> None:
    build_features(SPACE, prompt, BlurredReader(1e-4), learnable_token=False, cache_dir=None)
    with pytest.raises(ModelError, match=r"in bfloat16 cannot tell neighbouring configs apart: .*float32"):
        build_features(SPACE, prompt, BlurredReader(0.5), learnable_token=False, cache_dir=None)
    half = tiny_reader(dtype=torch.bfloat16)
    build_features(SPACE, prompt, half, learnable_token=True, cache_dir=None)  # sharp enough


def test_noise_floor_compares_ways_of_reading() -> None:
    exact = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    noise, distance = noise_floor([(0, 2), (3, 2)], lambda rows: exact[rows], lambda rows: exact[rows] * 1.01)
    assert noise == pytest.approx(0.01, rel=1e-4)
    assert distance == pytest.approx(0.5)  # |1 - 2| over 2, the neighbour's own length


def test_half_precision_keys_and_values_may_blur_too(prompt: Prompt) -> None:
    reader = tiny_reader(initializer_range=0.2)
    options: dict[str, Any] = {"learnable_token": True, "cache_dir": None, "half_precision_cache": True}
    features = build_features(SPACE, prompt, reader, **options)
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    expected = reader.encode(texts, features.token)
    features.all(features.token)  # the second reading is against what was stored
    relative = (features.all(features.token) - expected).norm(dim=1) / expected.norm(dim=1)
    assert 0 < float(relative.max()) < 0.03
    near = torch.tensor([[1.0, 0.0], [1.01, 0.0]])
    with pytest.raises(ModelError, match=r"half_precision_cache: it moves features by .*; set it to false"):
        refuse_half_precision(near * 1.005, near, [(0, 1)], [0, 1])


# -- encoders with a learnable token ------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> SentenceReader:
    model = load_language_model(LanguageConfig(model="minilm"), tuned=None, device="cpu")
    assert isinstance(model, SentenceReader)
    return model


def test_an_encoder_reads_all_once_and_a_shortlist_exactly(
    minilm: SentenceReader, prompt: Prompt, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"learnable_token": True, "cache_dir": tmp_path}
    features = build_features(SPACE, prompt, minilm, **options)
    assert isinstance(features, ShortlistFeatures)
    assert minilm.token is not None
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    start = features.all(minilm.token)
    torch.testing.assert_close(start, minilm.encode(texts, minilm.token), rtol=0, atol=1e-5)
    assert not start.requires_grad

    generator = torch.Generator().manual_seed(0)
    token = (minilm.token + 0.05 * torch.randn(384, generator=generator)).requires_grad_()
    positions = torch.tensor([3, 1, 20, 3])
    direction = torch.randn(4, 384, generator=generator)
    rows, expected = features.rows(positions, token), minilm.encode([texts[p] for p in positions], token)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad((rows * direction).sum(), token)
    (plain,) = torch.autograd.grad((expected * direction).sum(), token)
    torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(features.all(token), start)
    assert not torch.allclose(rows, start[positions], atol=1e-3)
    assert torch.equal(features.rows(positions, None), start[positions])

    build_features(SPACE, prompt, minilm, learnable_token=False, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # with and without the token are two entries
    again = build_features(SPACE, prompt, minilm, progress=lambda *now: pytest.fail("read again"), **options)
    assert torch.equal(again.all(None), start)


def test_the_paper_preset_runs_on_an_encoder_with_a_learnable_token(
    minilm: SentenceReader, prompt: Prompt
) -> None:
    features = build_features(SPACE, prompt, minilm, learnable_token=True, cache_dir=None)
    features.shortlist = 5
    before = {name: value.clone() for name, value in minilm.model.state_dict().items()}
    texts = [prompt.text(SPACE.config(int(index))) for index in SPACE.candidates]
    coordinates, rows, y = SPACE.coordinates(SPACE.candidates), np.array([2, 30]), np.array([0.7, -0.7])
    surrogate = fit_surrogate(PRESETS["paper"].surrogate, coordinates, features, rows, y, 0)
    model, shortlist = surrogate.model, surrogate.shortlist
    assert shortlist is not None
    assert {2, 30} < set(shortlist.rows)
    assert len(shortlist.rows) == 2 + 5
    with torch.no_grad():
        direct = minilm.encode([texts[row] for row in shortlist.rows], model.token)
        torch.testing.assert_close(shortlist.inputs, model.inputs(direct, None), rtol=0, atol=1e-5)
    assert (model.token - minilm.token).abs().max() > 1e-3
    assert np.isfinite(surrogate.belief([0]).mean).all()

    trials = tuple(Trial(i, int(SPACE.candidates[row]), Outcome(float(y[i]))) for i, row in enumerate(rows))
    chosen = [propose(SPACE, History(trials), PRESETS["paper"], features=features)[0] for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert chosen[0] not in SPACE.candidates[rows]
    assert all(torch.equal(value, before[name]) for name, value in minilm.model.state_dict().items())


def test_progress_counts_candidates(reader: CausalReader, prompt: Prompt) -> None:
    seen: list[tuple[int, int]] = []
    build_features(
        SPACE, prompt, reader, learnable_token=False, cache_dir=None, progress=lambda *now: seen.append(now)
    )
    n = len(SPACE.candidates)
    assert seen[-1] == (n, n)


def test_fixed_features() -> None:
    matrix = torch.arange(6.0).reshape(3, 2)
    features = FixedFeatures(matrix)
    assert features.dimension == 2
    assert features.token is None
    assert torch.equal(features.rows(torch.tensor([2, 0]), None), matrix[[2, 0]])
    assert features.all(None) is matrix


@pytest.mark.slow
def test_benchmark_prints_a_table_and_json() -> None:
    script = BENCHMARKS / "features.py"
    options = ["--model", "tiny", "--space", "default", "--sample", "4", "--threads", "1", "--json"]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=True)
    *table, last = done.stdout.strip().splitlines()
    result = json.loads(last)
    assert any(line.startswith("refresh of the token") for line in table)
    assert result["tokens_plain"] > 50 * result["tokens_first"]
    assert result["tokens_plain"] > 200 * result["tokens_refresh"]
    assert result["max_relative_difference"] < 1e-5
    assert result["candidates"] == len(default_space().candidates)
    for key in ("speedup_first", "speedup_refresh", "bound_ratio", "peak_extra_bytes", "model_parameters"):
        assert result[key] > 0
