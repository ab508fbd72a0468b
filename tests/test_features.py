"""Features of a whole space: rows belong to candidates, are kept on disk, and mend themselves."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from loracle.errors import ModelError, PromptError
from loracle.features import FixedFeatures, build_features, read_matrix, write_matrix
from loracle.language import CausalReader
from loracle.prompt import Prompt, load_prompt
from loracle.space import Knob, SearchSpace

SPACE = SearchSpace(
    (
        Knob("rank", (4, 8, 16), "log2"),
        Knob("alpha_ratio", (1, 2), "log2"),
        Knob("batch_size", (8, 16, 128), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 3e-4), "log10"),
    ),
    constraints=("alpha * learning_rate <= 4e-3",),
)


def tiny_reader(vocabulary: int = 400, positions: int = 256, seed: int = 0) -> CausalReader:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    prompt = load_prompt("lora-v1", SPACE)
    raw.train_from_iterator([prompt.text(SPACE.config(index)) for index in range(0, SPACE.size, 5)], trainer)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw)
    return CausalReader(transformers.LlamaForCausalLM(config), tokenizer, "tiny")


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
    assert torch.equal(stored, first)


def write_often(path: Path) -> None:
    matrix = torch.arange(4000.0).reshape(1000, 4)
    for _ in range(30):
        write_matrix(path, matrix)


def test_processes_may_share_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "entry.safetensors"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        matrix = read_matrix(path, (1000, 4))
        assert matrix is None or matrix[-1, -1] == 3999
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["entry.safetensors"]


def test_long_prompts_name_the_config(prompt: Prompt) -> None:
    reader = tiny_reader(positions=64)
    with pytest.raises(PromptError, match=r"tokens, at most 64 \({'rank': \d+"):
        build_features(SPACE, load_prompt("lora-v1", SPACE), reader, learnable_token=False, cache_dir=None)


def test_learnable_token_needs_a_model_that_can_have_one(prompt: Prompt) -> None:
    with pytest.raises(ModelError, match="counting cannot have a learnable token"):
        build_features(SPACE, prompt, CountingReader(), learnable_token=True, cache_dir=None)


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
