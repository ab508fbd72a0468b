"""A chat template of the user's own, and what is told of special tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import trl
from small_tokenizers import CHATML, byte_level, make_tokenizer

from loracle.errors import DataError
from loracle.training.dataset.notices import about_tokens
from loracle.training.dataset.shapes import as_example
from loracle.training.dataset.template import BARE, Frame, frame_of, give_template
from loracle.training.dataset.tokens import Encoded, encode

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def bare() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_a_template_is_given_to_a_tokenizer_that_has_none(tmp_path: Path) -> None:
    tokenizer, path = bare(), tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(DataError, match=r"no chat template; name a file with one in data.template"):
        encode([as_example(CHAT, "a:1")], tokenizer, 50)
    give_template(tokenizer, None)
    assert tokenizer.chat_template is None
    give_template(tokenizer, path)
    encoded = encode([as_example(CHAT, "a:1")], tokenizer, 50)
    assert tokenizer.decode(encoded.tokens) == "user:a<eos>assistant:b<eos>"
    assert tokenizer.decode(encoded.tokens[encoded.counted]) == "b<eos>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{% for m in messages %}", r"mine.jinja:1: not a chat template: Unexpected end of template"),
        (b"User: {{ question }}", r"mine.jinja names no messages"),
        (b"\xff", r"mine.jinja cannot be read: it is not UTF-8 text"),
        (None, r"mine.jinja cannot be read: No such file"),
    ],
)
def test_what_is_no_template_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"data.template: .*{message}") as caught:
        give_template(bare(), path)
    assert "\n" not in str(caught.value)


def told(rows: list[dict[str, Any]], tokenizer: Any) -> dict[str, int | None]:
    examples = [as_example(row, f"a:{i}") for i, row in enumerate(rows)]
    encoded: Encoded = encode(examples, tokenizer, 500)
    notices = about_tokens({"train": encoded.remarks}, {"train": examples})
    return {notice.name: notice.count for notice in notices}


def test_special_tokens_that_are_doubled_or_missing_are_told() -> None:
    opens = byte_level(True)
    pair = {"prompt": "a", "completion": "b"}
    assert told([pair], opens) == {}
    assert told([pair, {**pair, "prompt": "<s>a"}, {**pair, "prompt": "<s><s>a"}], opens) == {
        "special_tokens_doubled": 1
    }
    assert told([CHAT, CHAT], opens) == {"special_tokens_missing": 2}
    assert opens.chat_template == CHATML
    assert told([CHAT], byte_level()) == {}


def test_every_token_but_the_first_can_be_learnt(tokenizer: Any) -> None:
    row = as_example({"prompt": "ab", "completion": "c"}, "a:1")
    encoded = encode([row], tokenizer, 50, learn_all=True)
    assert encoded.counted.tolist() == [False, True, True, True]
    assert encoded.prompt_lengths.tolist() == [2]


# -- what a template writes around an answer -------------------------------------------------------------

SHIPPED = Path(trl.__file__).parent / "chat_templates"
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}ENDING{% endfor %}"
ASKED = "{% if add_generation_prompt %}assistant: {% endif %}"
THOUGHTLESS = "<think>\n\n</think>\n\n"
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def tokenizer_of(template: str) -> Any:
    """With the tokens of the templates tried here, special or not, and `</s>` as end of sequence."""
    found = copy.deepcopy(byte_level())
    found.add_tokens(["<|eot_id|>", "<end_of_turn>", "<|end|>", "<|return|>", "<think>", "</think>"])
    found.chat_template = template
    return found


@pytest.mark.parametrize(
    ("template", "opening", "ending", "stop"),
    [
        (CHATML, "", "", "<|im_end|>"),
        ("qwen2_5", "", "", "<|im_end|>"),
        ("qwen3", THOUGHTLESS, "", "<|im_end|>"),
        ("llama3", "", "", "<|eot_id|>"),
        ("gemma3", "", "", "<end_of_turn>"),
        ("phi3", "", "", "<|end|>"),
        ("gptoss", "<|channel|>final<|message|>", "", "<|return|>"),
        ("idefics3", " ", "<end_of_utterance>\n", None),  # which reads parts alone
        (MISTRAL, " ", "", "</s>"),
        (TURNS.replace("ENDING", "</turn>\n") + ASKED, "", "</turn>\n", None),
        (TURNS.replace("ENDING", "\n") + ASKED, "", "\n", None),
        ("{{ messages[0].content }}{{ raise_exception('no') }}", "", "", None),
    ],
)
def test_a_template_says_itself_what_it_writes_around_an_answer(
    template: str, opening: str, ending: str, stop: str | None
) -> None:
    source = template if "{" in template else (SHIPPED / f"{template}.jinja").read_text(encoding="utf-8")
    tokenizer = tokenizer_of(source)
    token = None if stop is None else tokenizer.convert_tokens_to_ids(stop)
    assert frame_of(tokenizer) == Frame(opening, ending, token)


def test_without_a_template_nothing_is_written_around_an_answer() -> None:
    assert frame_of(bare()) == BARE
    assert not BARE.marks
    assert BARE.answer(" neg\n") == " neg\n"


def test_only_what_the_template_writes_goes_from_an_answer() -> None:
    thoughts = Frame(THOUGHTLESS, "", 4)
    assert thoughts.answer(THOUGHTLESS + "neg") == thoughts.answer("neg") == "neg"
    assert thoughts.answer("<think>\nwell\n</think>\n\nneg") == "<think>\nwell\n</think>\n\nneg"
    mark = Frame("", "</turn>\n")
    assert [mark.answer(text) for text in ("neg</turn>\n", "neg", "</turn> neg", "", "</turn>")] == [
        *("neg", "neg", "</turn> neg", "", "")
    ]
    assert [Frame(" ", " ").answer(text) for text in (" neg ", "  neg", "neg")] == ["neg", " neg", "neg"]
    assert Frame(stop=4).stops((2, 3)) == [2, 3, 4]
    assert Frame(stop=3).beside((2, 3)) == BARE
