"""Small tokenizers of the kinds that models have, made here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_BYTES = [f"<0x{i:02X}>" for i in range(256)]
_CORPUS = [
    "answer: yes and no, maybe; the answer is four",
    "question: what is 2 + 2 = 4 and 12 + 30 = 42?",
    "document one and document two\nsay yes, say no\n\n",
] * 4
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 =+-*/.,:;!?#<>()_'\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<eos>\n"
    "{% else %}<user>{{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, so that every expectation in a test can be counted by hand."""
    special = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return _fast(tokenizer, CHAT_TEMPLATE, ["<user>", "<assistant>"], **names)


@cache
def metaspace(scheme: str = "always", opens: bool = False) -> PreTrainedTokenizerFast:
    """Like Llama 2's in its new form: a space becomes a letter, and one is put before the text (`always`,
    `first`) or not (`never`); what is unknown becomes bytes. `opens`: with a begin-of-sequence token."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = _spaces(scheme != "never")
    return _trained(backend, opens, _BYTES)


@cache
def legacy(opens: bool = False) -> PreTrainedTokenizerFast:
    """Like Llama 2's in its first form: the normaliser puts a space before every stretch of text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = _spaces(True)
    return _trained(backend, opens, _BYTES)


@cache
def byte_level(opens: bool = False) -> PreTrainedTokenizerFast:
    """Like those of GPT-2, Llama 3 and Qwen."""
    return taught(_CORPUS, 400, opens)


def taught(texts: Sequence[str], size: int, opens: bool = False) -> PreTrainedTokenizerFast:
    """As `byte_level`, with tokens for what stands in these texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, opens, pre_tokenizers.ByteLevel.alphabet(), texts, size)


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """Like BERT's: words, and pieces that go on from others."""
    pieces = ["answer", "a", "an", "##s", "##w", "##er", "yes", "4", ":"]
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return _fast(backend)


def exact_tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """Those whose tokens spell every text exactly, by name."""
    found = {f"metaspace-{scheme}": metaspace(scheme) for scheme in ("always", "first", "never")}
    found |= {
        "metaspace-always-bos": metaspace("always", True),
        "legacy": legacy(),
        "legacy-bos": legacy(True),
    }
    return found | {"byte-level": byte_level(), "byte-level-bos": byte_level(True)}


def _spaces(strips: bool) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)


def _trained(
    backend: Tokenizer, opens: bool, alphabet: list[str], texts: Sequence[str] = _CORPUS, size: int = 400
) -> PreTrainedTokenizerFast:
    special = [*SPECIAL, *_BYTES] if alphabet is _BYTES else SPECIAL
    letters = [] if alphabet is _BYTES else alphabet
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    if opens:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
        )
    return _fast(backend)


def _fast(
    backend: Tokenizer,
    template: str = CHATML,
    more: Sequence[str] = ("<|im_start|>", "<|im_end|>"),
    **names: str,
) -> PreTrainedTokenizerFast:
    names = names or {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=list(more),
        clean_up_tokenization_spaces=False,
        **names,
    )
    fast.chat_template = template
    return fast
