from __future__ import annotations

from typing import Any

import pytest
from small_tokenizers import byte_level, exact_tokenizers, make_tokenizer, word_piece
from token_texts import counted_text, whole_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from loracle.errors import DataError, ModelError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import encode


def test_loss_counts_the_completion_and_its_end(tokenizer: Any) -> None:
    examples = [Example("a:1", prompt="1+2=", completion="3"), Example("a:2", prompt="x", completion="yz")]
    encoded = encode(examples, tokenizer, 20)
    assert whole_text(encoded, tokenizer) == "1+2=3<eos>"
    assert counted_text(encoded, tokenizer) == "3<eos>"
    assert counted_text(encoded, tokenizer, 1) == "yz<eos>"
    assert encoded.prompt_lengths.tolist() == [4, 1]
    assert encoded.counts.tolist() == [2, 3]
    second = encoded.select([1])
    assert counted_text(second, tokenizer) == "yz<eos>"
    assert second.lengths.tolist() == [4]


def test_text_is_learnt_whole_but_for_its_first_token(tokenizer: Any) -> None:
    encoded = encode([Example("a:1", text="abc")], tokenizer, 20)
    assert counted_text(encoded, tokenizer) == "bc<eos>"


def test_an_end_in_the_data_is_not_doubled(tokenizer: Any) -> None:
    encoded = encode([Example("a:1", prompt="a", completion="b<eos>")], tokenizer, 20)
    assert whole_text(encoded, tokenizer) == "ab<eos>"


def test_begin_of_sequence_comes_first(tokenizer: Any) -> None:
    dressed = make_tokenizer()
    dressed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<user> $A <eos>", special_tokens=[("<user>", 3), ("<eos>", 1)]
    )
    encoded = encode([Example("a:1", prompt="a", completion="b")], dressed, 20)
    assert whole_text(encoded, tokenizer) == "<user>ab<eos>"
    assert counted_text(encode([Example("a:1", text="ab")], dressed, 20), tokenizer) == "ab<eos>"


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """BPE that merges `=` and `4` into one token."""
    vocabulary = {"<eos>": 0, "2": 1, "=": 2, "4": 3, "=4": 4, "5": 5}
    backend = Tokenizer(models.BPE(vocabulary, [("=", "4")]))
    backend.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_a_merge_across_the_boundary_does_not_change_the_prompt() -> None:
    tokenizer = merging_tokenizer()
    assert tokenizer("2=4")["input_ids"] == [1, 4]
    rows = [Example("a:1", prompt="2=", completion="4"), Example("a:2", prompt="2=4", completion="5")]
    encoded = encode(rows, tokenizer, 20)
    assert encoded.tokens.tolist() == [1, 2, 3, 0, 1, 4, 5, 0]
    assert encoded.counted.tolist() == [False, False, True, True, False, False, True, True]


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"a:1: the tokenizer finds no token in the prompt"):
        encode([Example("a:1", prompt="|", completion="4")], merging_tokenizer(), 20)


def test_long_examples_are_dropped_or_refused(tokenizer: Any) -> None:
    examples = [Example(f"a:{i}", prompt="p" * i, completion="c") for i in (1, 2, 3, 9)]
    encoded = encode(examples, tokenizer, 5)
    assert encoded.dropped == 1
    assert encoded.positions.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"a:9: 11 tokens, but 5 are allowed; .*data.max_length"):
        encode(examples, tokenizer, 5, "error")
    with pytest.raises(DataError, match=r"3 of 4 examples have more than 3 tokens \(the first: a:2\)"):
        encode(examples, tokenizer, 3)
    with pytest.raises(DataError, match="4 of 4 examples"):
        encode(examples, tokenizer, 1)


def test_a_tokenizer_without_end_is_refused() -> None:
    endless = make_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode([Example("a:1", text="abc")], endless, 20)


# -- stop tokens inside a row -----------------------------------------------------------------------


def test_nothing_behind_a_stop_token_is_lost(tokenizer: Any) -> None:
    examples = [
        Example("a:1", text="document one<eos>document two"),
        Example("a:2", prompt="p", completion="a<eos>b"),
        Example("a:3", prompt="p", completion="a<eos>b<eos>"),
    ]
    encoded = encode(examples, tokenizer, 64)
    assert whole_text(encoded, tokenizer) == "document one<eos>document two<eos>"
    assert counted_text(encoded, tokenizer) == "ocument one<eos>document two<eos>"  # all but the first
    assert counted_text(encoded, tokenizer, 1) == counted_text(encoded, tokenizer, 2) == "a<eos>b<eos>"
    assert encoded.goes_on.tolist() == [True, True, True]


def test_white_space_behind_a_stop_token_goes(tokenizer: Any) -> None:
    completions = ("b<eos>", "b<eos>\n", "b<eos> \n  \n", "b<eos>" + " " * 40, "b")
    encoded = encode([Example("a", prompt="a", completion=c) for c in completions], tokenizer, 64)
    assert {whole_text(encoded, tokenizer, i) for i in range(len(completions))} == {"ab<eos>"}
    assert not encoded.goes_on.any()
    late = encode([Example("a", prompt="a", completion="b<eos>" + " " * 40 + "c")], tokenizer, 64)
    assert whole_text(late, tokenizer) == "ab<eos>" + " " * 40 + "c<eos>"


def test_an_unclosed_last_turn_in_a_text_keeps_its_answer() -> None:
    tokenizer = byte_level()
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    asked = "<|im_start|>user\nsay yes<|im_end|>\n<|im_start|>assistant\n"
    encoded = encode([Example("a:1", text=f"{asked}yes, maybe")], tokenizer, 64, stop_ids=stops)
    assert whole_text(encoded, tokenizer) == f"{asked}yes, maybe<|im_end|>"  # closed as the row closes turns
    assert counted_text(encoded, tokenizer).endswith("<|im_start|>assistant\nyes, maybe<|im_end|>")
    closed = encode([Example("a:1", text=f"{asked}yes<|im_end|>\n")], tokenizer, 64, stop_ids=stops)
    assert whole_text(closed, tokenizer) == f"{asked}yes<|im_end|>"


def test_further_stop_tokens_are_no_text_that_goes_on() -> None:
    """Phi 3 ends a turn with two of them."""
    tokenizer = byte_level()
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    encoded = encode(
        [Example("a:1", prompt="p", completion="yes<|im_end|>\n</s>")], tokenizer, 64, stop_ids=stops
    )
    assert counted_text(encoded, tokenizer) == "yes<|im_end|>\n</s>"
    assert not encoded.goes_on.any()


# -- where a prompt ends ----------------------------------------------------------------------------

BOUNDARIES = [
    *(("answer: ", "4"), ("answer: ", "yes"), ("answer:", " yes"), ("answer: ", " yes"), ("ans", "wer")),
    *(
        ("a\n", "\nb"),
        ("say\n", "yes"),
        ("\u00e9", "\u00e9 x"),
        ("x  ", "  y"),
        ("2 + 2 =", " 4"),
        ("2+2=", "4"),
    ),
]


@pytest.mark.parametrize("name", exact_tokenizers())
@pytest.mark.parametrize(("prompt", "completion"), BOUNDARIES)
def test_no_space_appears_where_a_prompt_ends(name: str, prompt: str, completion: str) -> None:
    tokenizer = exact_tokenizers()[name]
    encoded = encode([Example("a:1", prompt=prompt, completion=completion)], tokenizer, 64)
    tokens = encoded.tokens.tolist()
    opening = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens[opening:-1]) == prompt + completion
    alone = tokenizer(prompt)["input_ids"]
    assert tokens[: encoded.prompt_lengths[0]] == alone  # what generation sees
    assert encoded.counted.tolist() == [False] * len(alone) + [True] * (len(tokens) - len(alone))
    assert tokens[-1] == tokenizer.eos_token_id


def test_words_in_pieces_go_on_in_pieces() -> None:
    tokenizer = word_piece()
    encoded = encode([Example("a:1", prompt="ans", completion="wer")], tokenizer, 64)
    assert tokenizer.convert_ids_to_tokens(encoded.tokens.tolist()) == ["an", "##s", "##w", "##er", "</s>"]


def test_words_that_are_known_apart_and_not_together_are_learnt_apart() -> None:
    vocabulary = {"<unk>": 0, "<eos>": 1, "dark": 2, ".": 3, "mixed": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    encoded = encode([Example("a:1", prompt="dark .", completion="mixed")], tokenizer, 64)
    assert encoded.tokens.tolist() == [2, 3, 4, 1]
    assert encoded.counts.tolist() == [2]


def test_a_boundary_that_no_token_can_hold_is_refused() -> None:
    vocabulary = {"<unk>": 0, "<eos>": 1, "ab": 2, "a": 3, "b": 4}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    with pytest.raises(DataError, match=r"a:1: the tokenizer cannot write 'b' behind what stands before it"):
        encode([Example("a:1", prompt="a", completion="b")], tokenizer, 64)


def test_a_row_that_brings_its_opening_is_not_opened_twice() -> None:
    tokenizer = byte_level(True)
    rows = [Example("a:1", text="<s>say yes"), Example("a:2", text="say yes")]
    encoded = encode(rows, tokenizer, 64)
    assert [whole_text(encoded, tokenizer, i) for i in (0, 1)] == ["<s>say yes</s>"] * 2


def test_a_completion_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"a:1: the tokenizer finds no token in the completion"):
        encode([Example("a:1", prompt="4", completion="|")], merging_tokenizer(), 20)


def test_rows_with_unknown_characters_are_counted(tokenizer: Any) -> None:
    rows = [Example("a:1", prompt="a", completion="b"), Example("a:2", prompt="\u00e9", completion="\u00fc")]
    assert encode(rows, tokenizer, 20).remarks.unknown == 1
    assert encode(rows, byte_level(), 20).remarks.unknown == 0
