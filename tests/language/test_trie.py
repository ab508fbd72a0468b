"""The trie of texts, and that reading it gives the features of one forward for every text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from loracle.errors import ModelError
from loracle.language.causal_reader import CausalReader
from loracle.language.token_trie import build_trie
from loracle.language.trie_forward import TreeReader

texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=30)


# -- the trie -----------------------------------------------------------------------------------------


@given(texts)
def test_every_text_is_recovered_from_its_leaf(ids: list[list[int]]) -> None:
    trie = build_trie(ids)
    assert [trie.text(number) for number in range(len(ids))] == ids
    assert trie.plain_tokens == sum(len(row) for row in ids)
    assert trie.longest == max(len(row) for row in ids)


@given(texts)
def test_no_token_is_computed_twice(ids: list[list[int]]) -> None:
    trie = build_trie(ids)
    p = len(trie.prefix)
    beginnings = {tuple(row[:length]) for row in ids for length in range(p + 1, len(row) + 1)}
    assert len(trie) == len(beginnings)
    for row in ids:
        assert row[:p] == trie.prefix.tolist()
        assert len(row) > p


@given(texts)
def test_the_prefix_is_the_longest_possible(ids: list[list[int]]) -> None:
    p = len(build_trie(ids).prefix)
    assert p == min(len(row) for row in ids) - 1 or len({row[p] for row in ids}) > 1


@given(texts)
def test_ancestors_are_what_the_ranges_say(ids: list[list[int]]) -> None:
    trie = build_trie(ids)
    node = np.arange(len(trie))
    above = (node[None, :] <= node[:, None]) & (node[:, None] < trie.ends[None, :])
    for v in node:
        assert np.flatnonzero(above[v]).tolist() == [*trie.ancestors(v).tolist(), v]
        assert trie.depths[v] == len(trie.ancestors(v))
        assert trie.parents[v] < v


@given(texts, st.data())
def test_a_subset_holds_its_own_texts(ids: list[list[int]], data: st.DataObject) -> None:
    trie = build_trie(ids)
    chosen = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=5))
    part = trie.subset(chosen)
    assert [part.text(number) for number in range(len(chosen))] == [ids[number] for number in chosen]
    assert len(part) <= len(trie)


@pytest.mark.parametrize("ids", [[], [[]], [[1], []]])
def test_empty_texts_are_refused(ids: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one text"):
        build_trie(ids)


# -- reading it ---------------------------------------------------------------------------------------

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
FAMILIES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=None),
    "mistral, window shorter than the texts": lambda: transformers.MistralConfig(**GROUPED, sliding_window=7),
    "gemma": lambda: transformers.GemmaConfig(**GROUPED, head_dim=8),
    "gemma 2, eager": lambda: transformers.Gemma2Config(
        **GROUPED, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, attn_implementation="eager"
    ),
    "gemma 3, mixed windows": lambda: transformers.Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=6, query_pre_attn_scalar=8
    ),
    "phi": lambda: transformers.PhiConfig(**SHAPE),
    "phi 3": lambda: transformers.Phi3Config(**GROUPED),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**SHAPE),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        bos_token_id=0, eos_token_id=0,
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=50, hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32,
    ),
}  # fmt: skip


class Letters:
    """A tokenizer with one token a letter."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) - ord("a") + 1 for letter in text] for text in texts]}


def reader_of(config: Any, layer: int = -1, dtype: torch.dtype = torch.float32) -> CausalReader:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the usual tiny start would hide differences
            if parameter.ndim > 1:
                parameter.mul_(4)
    return CausalReader(model, Letters(), "tiny", layer)


def some_texts(n: int = 60) -> list[str]:
    """Texts with a prefix, shared beginnings, duplicates, and some that continue others."""
    generator = np.random.default_rng(0)
    knobs = [["ab", "abc", "d"], ["e", "ff", "efgh"], ["i", "j", "ik", "jjj"]]
    return [
        "theprefix"
        + "".join(knob[generator.integers(len(knob))] for knob in knobs[: generator.integers(1, 4)])
        for _ in range(n)
    ]


def tree_of(reader: CausalReader, texts: list[str], **options: Any) -> TreeReader:
    settings = {"keep": True, "memory_bytes": 1e9, "chunk": 32, **options}
    return TreeReader(reader, build_trie(reader.token_ids(texts)), **settings)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative difference of a row."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_equals_one_forward_a_text(family: str) -> None:
    reader, texts = reader_of(FAMILIES[family]()), some_texts()
    tree = tree_of(reader, texts)
    assert reader.token is not None
    token = reader.token.clone().requires_grad_()
    other = token.detach() + 0.3
    assert difference(tree.read(None), reader.encode(texts)) < 1e-5
    assert difference(tree.read(token), reader.encode(texts, token).detach()) < 1e-5
    assert difference(tree.read(other), reader.encode(texts, other)) < 1e-5  # against stored keys and values

    numbers = [5, 0, 33, 5]
    direction = torch.randn(4, reader.dimension)
    rows, plain = tree.rows(numbers, token), reader.encode([texts[number] for number in numbers], token)
    assert difference(rows.detach(), plain.detach()) < 1e-5
    (found,) = torch.autograd.grad((rows * direction).sum(), token)
    (expected,) = torch.autograd.grad((plain * direction).sum(), token)
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert difference(tree.rows(numbers, None), plain_rows(reader, texts, numbers)) < 1e-5
    assert all(parameter.grad is None for parameter in reader.model.parameters())


def plain_rows(reader: CausalReader, texts: list[str], numbers: list[int]) -> torch.Tensor:
    return reader.encode([texts[number] for number in numbers])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tree_reads_inner_layers(layer: int) -> None:
    reader, texts = reader_of(FAMILIES["llama"](), layer), some_texts()
    tree = tree_of(reader, texts)
    assert difference(tree.read(None), reader.encode(texts)) < 1e-5
    assert difference(tree.read(reader.token), reader.encode(texts, reader.token)) < 1e-5


def test_each_node_is_computed_once_and_a_refresh_computes_one_position_a_text() -> None:
    reader, texts = reader_of(FAMILIES["qwen2"]()), some_texts()
    tree = tree_of(reader, texts)
    distinct = len(set(texts))
    assert tree.computed == len(tree.trie.prefix)
    first = tree.read(reader.token)
    assert tree.computed == len(tree.trie.prefix) + len(tree.trie) + distinct
    before = tree.computed
    again = tree.read(reader.token)
    assert tree.computed - before == distinct
    assert difference(again, first) < 1e-5
    before = tree.computed
    tree.rows([1, 2, 3], reader.token)
    before_step = tree.computed
    tree.rows([1, 2, 3], reader.token)
    assert tree.computed - before_step <= 3  # the same texts again: their nodes are kept
    assert before_step - before <= 3 + len(tree.trie)


def test_what_does_not_fit_is_computed_again() -> None:
    reader, texts = reader_of(FAMILIES["qwen2"]()), some_texts()
    expected = reader.encode(texts, reader.token)
    whole = tree_of(reader, texts)
    fixed = len(texts) * 32 * 4 + len(whole.trie) * 48 + whole.work_bytes(32)
    node = 2 * 3 * 2 * 8 * 4  # bytes: 2 sides, 3 layers, 2 heads of width 8, float32
    half = tree_of(reader, texts, memory_bytes=fixed + 40 * node)
    assert half.capacity == 40 < len(half.trie)
    for _ in range(2):
        assert difference(half.read(reader.token), expected) < 1e-5
    assert 0 < half.stored <= 40
    none = tree_of(reader, texts, keep=False)
    for _ in range(2):
        assert difference(none.read(reader.token), expected) < 1e-5
    assert none.stored == none.capacity == 0


def test_half_precision_keys_and_values_take_half_the_memory() -> None:
    reader, texts = reader_of(FAMILIES["llama"]()), some_texts()
    half = tree_of(reader, texts, half_precision=True)
    half.read(reader.token)
    assert difference(half.read(reader.token), reader.encode(texts, reader.token)) < 0.03
    memory_bytes = len(texts) * 32 * 4 + len(half.trie) * 48 + half.work_bytes(32) + 8_000
    whole, half = (
        tree_of(reader, texts, memory_bytes=memory_bytes, half_precision=small) for small in (False, True)
    )
    assert 0 < whole.capacity < len(whole.trie)
    assert half.capacity in (2 * whole.capacity, 2 * whole.capacity + 1)


def test_features_do_not_depend_on_the_chunks() -> None:
    reader, texts = reader_of(FAMILIES["gpt-neox"]()), some_texts()
    small, large = tree_of(reader, texts, chunk=32), tree_of(reader, texts, chunk=512)
    assert small.chunk < large.chunk
    assert difference(small.read(reader.token), large.read(reader.token)) < 1e-5
    assert torch.equal(small.read(None), tree_of(reader, texts, chunk=32).read(None))


def test_too_small_a_budget_says_how_much_it_takes() -> None:
    reader, texts = reader_of(FAMILIES["llama"]()), some_texts()
    with pytest.raises(ModelError, match=r"language.memory_gb: tiny needs 0\.\d+ GB beyond the model"):
        tree_of(reader, texts, memory_bytes=1000)


def test_a_single_text_and_texts_without_a_common_token() -> None:
    reader = reader_of(FAMILIES["llama"]())
    for texts in (["abc"], ["a"], ["abc", "bcd", "cc"]):
        tree = tree_of(reader, texts)
        for token in (None, reader.token):
            assert difference(tree.read(token), reader.encode(texts, token)) < 1e-5


def test_progress_counts_texts() -> None:
    reader, texts = reader_of(FAMILIES["llama"]()), some_texts()
    seen: list[tuple[int, int]] = []
    tree_of(reader, texts).read(None, lambda *now: seen.append(now))
    assert seen[-1] == (60, 60)
    assert seen == sorted(seen)


def test_the_model_is_left_as_found() -> None:
    reader = reader_of(FAMILIES["llama"]())
    reader.model.train()
    reader.backbone.config._attn_implementation = "flash_attention_2"  # takes no mask of this form
    tree = tree_of(reader, some_texts())
    tree.read(None)
    tree.rows([1], reader.token)
    assert reader.backbone.config._attn_implementation == "flash_attention_2"
    assert reader.model.training
    assert all(parameter.requires_grad for parameter in reader.model.parameters())
