"""The same rows, prepared by TRL's SFTTrainer and here: the same tokens, and the same that carry loss.

Ours leave out white space behind the last stop token of a row, and never count it behind an earlier one; and
end with a stop token where a chat template writes none.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from small_tokenizers import byte_level
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loracle.config.data.settings import DataConfig
from loracle.config.settings import RunConfig
from loracle.report.recipe import recipe
from loracle.training.dataset.shapes import as_example
from loracle.training.dataset.tokens import encode

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL's and datasets' own

MARKED = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] or '' }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5_training.jinja").read_text(encoding="utf-8")

TOOLS = [{"type": "function", "function": {"name": "add", "description": "two", "parameters": {}}}]
ASK, SAY = {"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": "four"}
SYSTEM, MORE = {"role": "system", "content": "be brief"}, {"role": "user", "content": "and 12 + 30?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
}
RESULT = {"role": "tool", "content": "4"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [ASK, SAY],
    "system": [SYSTEM, ASK, SAY],
    "several turns": [SYSTEM, ASK, SAY, MORE, {"role": "assistant", "content": "42, say"}],
    "begun by the assistant": [SAY, MORE, {"role": "assistant", "content": "42"}],
    "tool call": [ASK, CALL],
    "tool call and answer": [SYSTEM, ASK, CALL, RESULT, SAY],
}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes))


def tokenizer_with(template: str = MARKED, opens: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(byte_level(opens))
    tokenizer.chat_template = template
    tokenizer.pad_token = "<unk>"
    return tokenizer


def theirs(
    row: dict[str, Any], model: Any, tokenizer: Any, folder: Path, **settings: Any
) -> tuple[list[int], list[bool]]:
    """Tokens of a row and which count, by TRL. The first has nothing before it, so it never does."""
    config = trl.SFTConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        max_length=None,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    rows = Dataset.from_list([row])
    trainer = trl.SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    found = trainer.train_dataset[0]
    return found["input_ids"], [False, *(label != -100 for label in found["labels"][1:])]


def ours(row: dict[str, Any], tokenizer: Any, **settings: Any) -> tuple[list[int], list[bool]]:
    config = DataConfig(train=Path("rows.jsonl"), **settings)
    stops = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    encoded = encode(
        [as_example(row, "a:1", config)], tokenizer, 999, stop_ids=stops, learn_all=config.loss_on == "all"
    )
    return encoded.tokens.tolist(), encoded.counted.tolist()


def same(found: tuple[list[int], list[bool]], expected: tuple[list[int], list[bool]], tokenizer: Any) -> None:
    tokens, counted = found
    assert tokens == expected[0][: len(tokens)]
    assert not tokenizer.decode(expected[0][len(tokens) :]).strip()
    assert counted == expected[1][: len(tokens)]
    assert any(counted)


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"prompt": "question: what is 2 + 2 =", "completion": " 4"}, {}),
        ({"prompt": "question: what", "completion": " is that?"}, {}),
        ({"prompt": "question: é", "completion": " ü and 4"}, {}),
        ({"prompt": "what is 2 + 2 =", "completion": " 4"}, {"loss_on": "all"}),
        ({"text": "answer: yes and no, maybe"}, {}),
    ],
)
def test_texts(
    row: dict[str, Any], settings: dict[str, Any], opens: bool, model: Any, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(opens=opens)
    more = {"completion_only_loss": False} if settings else {}
    same(ours(row, tokenizer, **settings), theirs(row, model, tokenizer, tmp_path, **more), tokenizer)


def test_where_a_word_merges_with_the_prompt_trl_leaves_the_end_of_the_prompt_out(
    model: Any, tmp_path: Path
) -> None:
    """Here the prompt keeps the tokens that it has at generation, so nothing is left out of it."""
    tokenizer, row = tokenizer_with(), {"prompt": "what is 2 + 2 = ", "completion": "4"}
    (tokens, counted), (other, their_counted) = (
        ours(row, tokenizer),
        theirs(row, model, tokenizer, tmp_path),
    )
    assert tokenizer.decode(tokens) == tokenizer.decode(other) == "what is 2 + 2 = 4</s>"
    prompt = tokenizer(row["prompt"])["input_ids"]
    assert tokens[: len(prompt)] == prompt != other[: len(prompt)]
    learnt = [
        tokenizer.decode([t for t, c in zip(*p, strict=True) if c])
        for p in ((tokens, counted), (other, their_counted))
    ]
    assert learnt == ["4</s>", " 4</s>"]


@pytest.mark.parametrize("name", CHATS)
def test_chats_of_which_the_assistant_is_learnt(name: str, model: Any, tmp_path: Path) -> None:
    tokenizer, row = tokenizer_with(), {"messages": CHATS[name], "tools": TOOLS if "tool" in name else None}
    expected = theirs(row, model, tokenizer, tmp_path, assistant_only_loss=True)
    same(ours(row, tokenizer), expected, tokenizer)
    same(ours(row, tokenizer, loss_on="assistant"), expected, tokenizer)


@pytest.mark.parametrize("name", CHATS)
def test_chats_of_which_everything_is_learnt(name: str, model: Any, tmp_path: Path) -> None:
    tokenizer, row = tokenizer_with(), {"messages": CHATS[name], "tools": TOOLS if "tool" in name else None}
    same(ours(row, tokenizer, loss_on="all"), theirs(row, model, tokenizer, tmp_path), tokenizer)


@pytest.mark.parametrize("name", CHATS)
def test_chats_given_as_prompt_and_completion(name: str, model: Any, tmp_path: Path) -> None:
    tokenizer, chat = tokenizer_with(), CHATS[name]
    row = {"prompt": chat[:-1], "completion": chat[-1:], "tools": TOOLS if "tool" in name else None}
    expected = theirs(row, model, tokenizer, tmp_path)
    same(ours(row, tokenizer), expected, tokenizer)
    whole = {"messages": chat, "tools": row["tools"]}
    same(ours(whole, tokenizer, loss_on="completion"), expected, tokenizer)


def test_turns_that_end_with_no_stop_token_are_closed_by_one_that_trl_does_not_add(
    model: Any, tmp_path: Path
) -> None:
    tokenizer, row = tokenizer_with(), {"prompt": [ASK], "completion": [SAY]}
    tokens, counted = theirs(row, model, tokenizer, tmp_path)
    found = encode([as_example(row, "a:1")], tokenizer, 999)  # whose stop token is `</s>`
    assert found.tokens.tolist() == [*tokens, tokenizer.eos_token_id]
    assert found.counted.tolist() == [*counted, True]
    assert tokenizer.decode(found.tokens[found.counted]) == "four<|im_end|></s>"


LAST = slice(-1, None)
WINNER = {"rank": 8, "alpha": 16, "batch_size": 4, "learning_rate": 1e-4}
IN_SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {  # of rows by their turns, and settings of data
    "whole": (lambda turns: {"messages": turns}, {}),
    "whole, their last turn": (lambda turns: {"messages": turns}, {"loss_on": "completion"}),
    "whole, all": (lambda turns: {"messages": turns}, {"loss_on": "all"}),
    "in two lists": (lambda turns: {"prompt": turns[:-1], "completion": turns[LAST]}, {}),
    "in two lists, turns of both": (
        lambda turns: {"prompt": turns[:-1], "completion": turns[LAST]},
        {"loss_on": "assistant"},
    ),
    "in two lists, all": (
        lambda turns: {"prompt": turns[:-1], "completion": turns[LAST]},
        {"loss_on": "all"},
    ),
    "two texts": (lambda _: {"prompt": ASK["content"], "completion": SAY["content"]}, {"as_chat": True}),
}


@pytest.mark.parametrize("name", ["one turn", "several turns", "tool call and answer"])
@pytest.mark.parametrize("given", IN_SHAPES)
def test_trl_learns_by_a_runs_recipe_what_the_run_learnt(
    name: str, given: str, model: Any, tmp_path: Path
) -> None:
    """Where TRL cannot count the turns of rows as they are, the recipe says what rows it needs."""
    tokenizer, (made, settings) = tokenizer_with(), IN_SHAPES[given]
    beside = {"tools": TOOLS} if "tool" in name and given != "two texts" else {}
    row = {**made(CHATS[name]), **beside}
    config = RunConfig.model_validate({"model": "org/base", "data": {"train": "rows.jsonl", **settings}})
    said = recipe(config, WINNER, 9, chats="messages" in row)
    turns = [ASK, SAY] if given == "two texts" else CHATS[name]
    rows = {key: eval(value, {"messages": turns}) for key, value in said.get("rows", {}).items()}
    counted = {key: value for key, value in said["sft"].items() if key != "max_length"}
    expected = theirs({**rows, **beside} if rows else row, model, tokenizer, tmp_path, **counted)
    same(ours(row, tokenizer, **settings), expected, tokenizer)


@pytest.mark.parametrize("name", CHATS)
def test_a_template_of_qwen(name: str, model: Any, tmp_path: Path) -> None:
    """TRL counts the line breaks around a turn there, which are no part of what is generated."""
    tokenizer, row = (
        tokenizer_with(QWEN),
        {"messages": CHATS[name], "tools": TOOLS if "tool" in name else None},
    )
    tokens, counted = ours(row, tokenizer)
    their_tokens, their_counted = theirs(row, model, tokenizer, tmp_path, assistant_only_loss=True)
    assert tokens == their_tokens[: len(tokens)]
    for token, here, there in zip(tokens, counted, their_counted, strict=False):
        assert here == there or (there and tokenizer.decode([token]) == "\n")


def test_turns_of_from_and_value(model: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_with()
    turns = [("user", "2 + 2 = ?"), ("assistant", "four"), ("user", "so?"), ("assistant", "yes")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    expected = theirs(
        trl.data_utils.maybe_convert_to_chatml(copy.deepcopy(row)),
        model,
        tokenizer,
        tmp_path,
        assistant_only_loss=True,
    )
    same(ours(row, tokenizer), expected, tokenizer)
    usual = {"user": "human", "assistant": "gpt"}
    row = {"conversations": [{"from": usual[role], "value": text} for role, text in turns]}
    same(ours(row, tokenizer), expected, tokenizer)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "2 + 2 = ?", "completion": "four"}, [ASK, SAY]),
        ({"prompt": "2 + 2 = ?", "response": "four"}, [ASK, SAY]),
        ({"question": "2 + 2 = ?", "answer": "four", "system": "be brief"}, [SYSTEM, ASK, SAY]),
        ({"text": "2 + 2 = ?", "label": "four"}, [ASK, SAY]),
        ({"instruction": "2 + 2 = ?", "input": "", "output": "four"}, [ASK, SAY]),
        (
            {"instruction": "and 12 + 30?", "output": "42", "history": [["2 + 2 = ?", "four"]]},
            [ASK, SAY, MORE, {"role": "assistant", "content": "42"}],
        ),
    ],
)
def test_pairs_that_go_through_the_chat_template(
    row: dict[str, Any], messages: list[dict[str, Any]], model: Any, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with()
    expected = theirs({"prompt": messages[:-1], "completion": messages[-1:]}, model, tokenizer, tmp_path)
    same(ours(row, tokenizer, as_chat=True), expected, tokenizer)


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "2 + 2", "response": " = 4"}, ("2 + 2", " = 4")),
        ({"question": "2 + 2 = ?", "answer": "four"}, ("2 + 2 = ?\n", "four")),
        ({"text": "so so", "label": 0}, ("so so\n", "0")),
        ({"text": "so so", "label": True}, ("so so\n", "true")),
    ],
)
def test_pairs_of_other_names(row: dict[str, Any], pair: tuple[str, str], model: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_with()
    expected = theirs({"prompt": pair[0], "completion": pair[1]}, model, tokenizer, tmp_path)
    same(ours(row, tokenizer), expected, tokenizer)


def test_alpaca(model: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_with()
    row = {"instruction": "add", "input": "2 2", "output": "4"}
    prompt = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nadd\n\n### Input:\n2 2\n\n### Response:\n"
    )
    expected = theirs({"prompt": prompt, "completion": "4"}, model, tokenizer, tmp_path)
    same(ours(row, tokenizer), expected, tokenizer)
