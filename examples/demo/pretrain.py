"""Pretrains the demo's base model: a small Llama that knows a handful of operations on short strings.

    python examples/demo/pretrain.py --output loracle/demo/base

Takes a few minutes on two CPU cores. Examples are drawn without end from a seeded generator, so no data is
stored. The model reads `sort dbca=` and writes `abcd`; it has never seen the operation of `make_task.py`.
"""

from __future__ import annotations

import argparse
import random
import string
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
CHARACTERS = string.ascii_lowercase + string.digits + " =+-<>,.:;|?"
SHORTEST, LONGEST = 3, 9  # letters of a string


def letters(rng: random.Random) -> str:
    """A string of random length; half of them draw from few letters, so that repeats are common."""
    alphabet = rng.choice([string.ascii_lowercase, "".join(rng.sample(string.ascii_lowercase, 4))])
    return "".join(rng.choices(alphabet, k=rng.randint(SHORTEST, LONGEST)))


def copy(rng: random.Random) -> tuple[str, str]:
    text = letters(rng)
    return f"copy {text}=", text


def reverse(rng: random.Random) -> tuple[str, str]:
    text = letters(rng)
    return f"rev {text}=", text[::-1]


def sort(rng: random.Random) -> tuple[str, str]:
    text = letters(rng)
    return f"sort {text}=", "".join(sorted(text))


def successor(rng: random.Random) -> tuple[str, str]:
    text = letters(rng)
    return f"next {text}=", "".join(chr((ord(c) - 96) % 26 + 97) for c in text)


def count(rng: random.Random) -> tuple[str, str]:
    text = letters(rng)
    letter = rng.choice(text)
    return f"count {letter},{text}=", str(text.count(letter))


def add(rng: random.Random) -> tuple[str, str]:
    a, b = (rng.randrange(10 ** rng.randint(1, 3)) for _ in range(2))
    return f"add {a}+{b}=", str(a + b)


def compare(rng: random.Random) -> tuple[str, str]:
    a = rng.randrange(10 ** rng.randint(1, 4))
    b = rng.choice([a, rng.randrange(10 ** rng.randint(1, 4))])
    return f"cmp {a},{b}=", "<" if a < b else ">" if a > b else "="


TASKS: list[Callable[[random.Random], tuple[str, str]]] = [
    copy,
    reverse,
    sort,
    successor,
    count,
    add,
    compare,
]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; `<bos>` is put in front of every text, `<eos>` is the trainer's business."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """A Llama of the usual shape, made small."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=64,
            initializer_range=0.05,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_batch(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (size, longest); -100 marks what bears no loss. Padded on the right."""
    rows = []
    for _ in range(size):
        prompt, completion = rng.choice(TASKS)(rng)
        start = tokenizer.encode(prompt)
        end = [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append((start + end, [-100] * len(start) + end))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])
    return ids, labels


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> None:
    """Trains all weights with AdamW and a one-cycle learning rate."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    model.train()
    started = time.perf_counter()
    for step in range(1, steps + 1):
        ids, labels = make_batch(tokenizer, rng, batch)
        logits = model(input_ids=ids).logits  # (batch, longest, vocabulary); right padding needs no mask
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0:
            print(
                f"step {step}/{steps}  loss {loss.item():.4f}  {time.perf_counter() - started:.0f} s",
                flush=True,
            )


@torch.no_grad()
def exact_match(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int, seed: int
) -> dict[str, float]:
    """Share of `n` fresh examples of each operation that greedy generation gets right."""
    rng = random.Random(seed)
    model.eval()
    scores = {}
    for task in TASKS:
        prompts, answers = zip(*(task(rng) for _ in range(n)), strict=True)
        inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
        output = model.generate(**inputs, max_new_tokens=LONGEST + 2, do_sample=False)
        written = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        scores[task.__name__] = sum(w == a for w, a in zip(written, answers, strict=True)) / n
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128, help="examples a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, arguments.width, arguments.layers)
    print(f"{model.num_parameters():,} parameters")
    pretrain(
        model,
        tokenizer,
        steps=arguments.steps,
        batch=arguments.batch,
        rate=arguments.rate,
        seed=arguments.seed,
    )
    for name, score in exact_match(model, tokenizer, n=300, seed=arguments.seed + 1).items():
        print(f"{name}: {score:.3f} exact match")
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=False,
    )
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
