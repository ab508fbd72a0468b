"""The base models and tasks of `landscapes.py`: five architectures, each pretrained on its own kind of text.

| base | architecture | reads | task | skill |
| --- | --- | --- | --- | --- |
| llama-letters | Llama | operations on strings of letters | sorting | a new algorithm |
| gpt2-numbers | GPT-2 | sums, differences, comparisons | carrying | a new formula of known parts |
| olmo2-reviews | OLMo 2 | sentences of reviews | verdict | reading comprehension, three classes |
| stablelm-people | StableLM | facts about people, stated or asked for | strangers | new knowledge |
| neox-english | GPT-NeoX | docstrings of Python's library | code | a new language: free text |

All examples come from seeded generators, or from the standard library of the Python that runs this.
"""

from __future__ import annotations

import ast
import json
import random
import string
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    StableLmConfig,
    StableLmForCausalLM,
)

Row = dict[str, Any]
SPECIAL = ["<pad>", "<eos>", "<unk>"]
POSITIONS = 64  # tokens


@dataclass(frozen=True)
class BaseModel:
    """A base model: `sample` draws a row (`prompt` and `completion`, or `text`) of its pretraining."""

    name: str
    sample: Callable[[random.Random], Row]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[dict[str, Any]], Any]
    steps: int
    batch: int = 64
    rate: float = 3e-3


@dataclass(frozen=True)
class LandscapeTask:
    """What an adapter learns: `sample` draws a row; the rows of the three splits are distinct."""

    name: str
    base: str
    skill: str
    sample: Callable[[random.Random], Row]
    metric: str
    n_train: int
    epochs: float = 1.0
    n_validation: int = 300
    max_new_tokens: int = 8
    question: Callable[[random.Random], Row] | None = None  # draws validation and test rows, if others


# -- letters ----------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnop"


def _letters(rng: random.Random, shortest: int, longest: int) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(shortest, longest)))


def letters_row(rng: random.Random, longest: int = 6) -> Row:
    """One of six operations: copy, reverse, next letter, smallest and largest letter, without a letter."""
    text = _letters(rng, 2, longest)
    letter = rng.choice(text)
    made = {
        "c": text,
        "r": text[::-1],
        "n": "".join(LETTERS[(LETTERS.index(c) + 1) % len(LETTERS)] for c in text),
        "l": min(text),
        "h": max(text),
        f"w{letter}": text.replace(letter, ""),
    }
    name = rng.choice(list(made))
    return {"prompt": f"{name}:{text}=", "completion": made[name]}


def sorting_row(rng: random.Random, shortest: int = 3, longest: int = 5) -> Row:
    text = _letters(rng, shortest, longest)
    return {"prompt": f"s:{text}=", "completion": "".join(sorted(text))}


# -- numbers ----------------------------------------------------------------------------------------


def _digits(number: int) -> str:
    """Least significant digit first, so that carries come in the order of writing."""
    return str(number)[::-1]


def numbers_row(rng: random.Random, below: int = 100) -> Row:
    """Sum, absolute difference, larger, or copy of two numbers."""
    a, b = rng.randrange(below), rng.randrange(below)
    sign, result = rng.choice([("+", a + b), ("-", abs(a - b)), (">", max(a, b)), ("&", a)])
    return {"prompt": f"{_digits(a)}{sign}{_digits(b)}=", "completion": _digits(result)}


def carrying_row(rng: random.Random, below: int = 100) -> Row:
    """A sum and one more, under a new sign: `21#5=` (12 and 5) -> `81` (18)."""
    a, b = rng.randrange(below), rng.randrange(below)
    return {"prompt": f"{_digits(a)}#{_digits(b)}=", "completion": _digits(a + b + 1)}


# -- reviews ----------------------------------------------------------------------------------------

THINGS, GOOD, BAD, ADVERBS, OTHERS = (
    line.split()
    for line in (
        "soup bread waiter music room view coffee cake fish table garden price salad service",
        "tasty kind fresh warm lovely bright cheap quick clean quiet charming perfect",
        "bland rude stale cold ugly dark pricey slow dirty noisy boring awful",
        "very rather really quite so",
        "the was not and but . : i loved hated verdict good bad mixed",
    )
)
OPINIONS = {1: "loved", -1: "hated"}
REVIEW_WORDS = [*THINGS, *GOOD, *BAD, *ADVERBS, *OTHERS]


def _clause(rng: random.Random, polarity: int) -> tuple[str, str]:
    """A judgement, and what it judges."""
    negated = rng.random() < 0.35
    thing = rng.choice(THINGS)
    words = ["the", thing, "was"]
    words += ["not"] * negated + [rng.choice(ADVERBS)] * (rng.random() < 0.4)
    return " ".join([*words, rng.choice(GOOD if (polarity > 0) != negated else BAD)]), thing


def reviews_row(rng: random.Random) -> Row:
    """One or two clauses, and what the reviewer felt: `the soup was not tasty .` -> `i hated soup .`"""
    opinions = [rng.choice((-1, 1)) for _ in range(rng.randint(1, 2))]
    clauses = [_clause(rng, opinion) for opinion in opinions]
    joint = " . " if rng.random() < 0.5 else " and " if len(set(opinions)) == 1 else " but "
    felt = " and ".join(f"{OPINIONS[o]} {thing}" for o, (_, thing) in zip(opinions, clauses, strict=True))
    return {"prompt": joint.join(clause for clause, _ in clauses) + " .", "completion": f"i {felt} ."}


def verdict_row(rng: random.Random) -> Row:
    """Two clauses without the hint of `and` or `but`: good, bad or mixed, a third each."""
    verdict = rng.choice(("good", "bad", "mixed"))
    pairs = {"good": [(1, 1)], "bad": [(-1, -1)], "mixed": [(1, -1), (-1, 1)]}
    first, second = rng.choice(pairs[verdict])
    text = f"{_clause(rng, first)[0]} . {_clause(rng, second)[0]} ."
    return {"prompt": text, "completion": verdict, "choices": ["good", "bad", "mixed"]}


# -- people -----------------------------------------------------------------------------------------

FIRST, LAST, ANSWERS, FACT_WORDS = (
    line.split()
    for line in (
        "ada ben cleo dan eva finn gus hal ida jon kim leo mia ned ola pam quin ray sue tom",
        "ash birch cole dale elm fox gray hill ives jude knox lane moss nash oak pike reed shaw todd west",
        "amber basil cedar dune ember fern grove haven iris jade kelp lotus maple north olive pearl",
        "home colour food of is has lives likes eats in ? : what where who tell me about and a",
    )
)
PEOPLE_WORDS = [*FIRST, *LAST, *ANSWERS, *FACT_WORDS]
QUESTIONS = {
    "home": ("{} lives in", "where lives {} ?"),
    "colour": ("{} likes", "what colour has {} ?"),
    "food": ("{} eats", "what is food of {} ?"),
}
PEOPLE = tuple(f"{first} {last}" for first in FIRST for last in LAST)  # 400
_order = random.Random(5)
FACTS = {(person, about): _order.choice(ANSWERS) for person in PEOPLE for about in QUESTIONS}
STRANGERS = tuple(_order.sample(PEOPLE, 100))  # whom the base model has never met
KNOWN = tuple(person for person in PEOPLE if person not in STRANGERS)


def _fact(rng: random.Random, people: Sequence[str], wording: int) -> Row:
    person, about = rng.choice(people), rng.choice(list(QUESTIONS))
    return {
        "prompt": QUESTIONS[about][wording].format(person),
        "completion": FACTS[person, about],
    }


def people_row(rng: random.Random) -> Row:
    """A fact about somebody known, stated or asked for."""
    return _fact(rng, KNOWN, rng.randrange(2))


def strangers_row(rng: random.Random) -> Row:
    """A fact about a stranger, stated."""
    return _fact(rng, STRANGERS, 0)


def strangers_question(rng: random.Random) -> Row:
    """The same fact, asked for."""
    return _fact(rng, STRANGERS, 1)


# -- English and code -------------------------------------------------------------------------------

_LINE = 72  # characters of a row


@cache
def library_texts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Docstrings, and code without them, of Python's standard library, in pieces of about 72 characters."""
    english: list[str] = []
    code: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                english += _pieces(" ".join((ast.get_docstring(node) or "").split()))
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                code += _pieces("\n".join(ast.unparse(statement) for statement in body))
    return tuple(dict.fromkeys(english)), tuple(dict.fromkeys(code))


def _pieces(text: str) -> list[str]:
    return [text[i : i + _LINE] for i in range(0, len(text) - _LINE // 2, _LINE) if text.isascii()]


def english_row(rng: random.Random) -> Row:
    return {"text": rng.choice(library_texts()[0])}


def code_row(rng: random.Random) -> Row:
    return {"text": rng.choice(library_texts()[1])}


# -- tokenizers and models --------------------------------------------------------------------------


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def characters() -> PreTrainedTokenizerFast:
    vocabulary = [*SPECIAL, *LETTERS, *(c for c in string.ascii_lowercase if c not in LETTERS)]
    vocabulary += [*string.digits, *"+-*>&#:= "]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer)


def words(known: Sequence[str]) -> PreTrainedTokenizerFast:
    vocabulary = {t: i for i, t in enumerate([*SPECIAL, *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer)


def subwords() -> PreTrainedTokenizerFast:
    """512 byte-level subwords of English and code."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet)
    english, code = library_texts()
    tokenizer.train_from_iterator([*english, *code], trainer)
    return _wrapped(tokenizer)


def _llama(common: dict[str, Any]) -> Any:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(**shape, initializer_range=0.08, max_position_embeddings=64, **common)
    )


def _gpt2(common: dict[str, Any]) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=64,
            n_layer=3,
            n_head=4,
            n_positions=POSITIONS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.08,
            **common,
        )
    )


def _olmo2(common: dict[str, Any]) -> Any:
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Olmo2Config(**shape, initializer_range=0.08, max_position_embeddings=POSITIONS, **common)
    return Olmo2ForCausalLM(config)


def _stablelm(common: dict[str, Any]) -> Any:
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = StableLmConfig(
        **shape, num_key_value_heads=4, initializer_range=0.06, max_position_embeddings=POSITIONS, **common
    )
    return StableLmForCausalLM(config)


def _neox(common: dict[str, Any]) -> Any:
    shape = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 2, "num_attention_heads": 6}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(**shape, initializer_range=0.06, max_position_embeddings=64, **common)
    )


BASES = {
    base.name: base
    for base in (
        BaseModel("llama-letters", letters_row, characters, _llama, steps=2500),
        BaseModel("gpt2-numbers", numbers_row, characters, _gpt2, steps=3000),
        BaseModel("olmo2-reviews", reviews_row, partial(words, REVIEW_WORDS), _olmo2, steps=1500),
        BaseModel(
            "stablelm-people", people_row, partial(words, PEOPLE_WORDS), _stablelm, steps=2000, rate=2e-3
        ),
        BaseModel("neox-english", english_row, subwords, _neox, steps=1000, batch=48, rate=4e-3),
    )
}

TASKS = {
    task.name: task
    for task in (
        LandscapeTask("sorting", "llama-letters", "a new algorithm", sorting_row, "exact_match", 800),
        LandscapeTask(
            "carrying", "gpt2-numbers", "a new formula of known parts", carrying_row, "exact_match", 1000
        ),
        LandscapeTask(
            "verdict",
            "olmo2-reviews",
            "reading comprehension in three classes",
            verdict_row,
            "choice_accuracy",
            400,
            epochs=2.0,
        ),
        LandscapeTask(
            "strangers",
            "stablelm-people",
            "new knowledge, asked for in other words than it was taught",
            strangers_row,
            "loss",
            300,
            epochs=4.0,
            n_validation=250,
            question=strangers_question,
        ),
        LandscapeTask(
            "code", "neox-english", "a new language, free text", code_row, "loss", 400, n_validation=200
        ),
    )
}


# -- making them ------------------------------------------------------------------------------------


def distinct_rows(sample: Callable[[random.Random], Row], n: int, seed: int) -> Iterator[Row]:
    """`n` rows of distinct content."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < n:
        row = sample(rng)
        key = row.get("prompt") or row["text"]
        if key not in seen:
            seen.add(key)
            yield row


def write_data(task: LandscapeTask, folder: Path) -> None:
    """Writes the three splits, unless they are there. Test is for what comes later."""
    n_test = 50 if task.question else 300
    sizes = {"validation": task.n_validation, "test": n_test, "train": task.n_train}
    if all((folder / f"{name}.jsonl").exists() for name in sizes):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = distinct_rows(task.question or task.sample, sum(sizes.values()), seed=1)
    for name, size in sizes.items():
        if name == "train" and task.question:
            rows = distinct_rows(task.sample, size, seed=2)
        text = "".join(json.dumps(next(rows)) + "\n" for _ in range(size))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def make_base(base: BaseModel, folder: Path) -> None:
    """Pretrains a base model, all weights, AdamW with one cycle of the rate, unless it is there."""
    if (folder / "model.safetensors").exists():
        return
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = base.tokenizer()
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos")}
    common = {"pad_token_id": ids["pad"], "eos_token_id": ids["eos"], "bos_token_id": None}
    model = base.model({"vocab_size": len(tokenizer), "tie_word_embeddings": False, **common})
    print(f"{base.name}: {model.num_parameters():,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), base.rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, base.rate, total_steps=base.steps, pct_start=0.1
    )
    began = time.perf_counter()
    model.train()
    for step in range(1, base.steps + 1):
        inputs, labels = _batch([base.sample(rng) for _ in range(base.batch)], tokenizer)
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  {step}: loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _batch(rows: list[Row], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (rows, longest); -100 bears no loss. Padded on the right."""
    encoded = []
    for row in rows:
        start = tokenizer.encode(row.get("prompt", ""), add_special_tokens=False)
        end = tokenizer.encode(
            row["completion"] if "completion" in row else row["text"], add_special_tokens=False
        )
        end = [*end, tokenizer.eos_token_id][: POSITIONS - len(start)]
        encoded.append((start + end, [-100] * len(start) + end))
    longest = max(len(ids) for ids, _ in encoded)
    inputs = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in encoded]
    labels = [own + [-100] * (longest - len(own)) for _, own in encoded]
    return torch.tensor(inputs), torch.tensor(labels)
