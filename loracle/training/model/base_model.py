"""The base model: loaded once, frozen, kept in memory; and batches for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils import is_flash_attn_2_available

from loracle.config.device import pick_device, pick_dtype
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, LoracleError, ModelError
from loracle.records.contents import MODEL_SETTINGS, WEIGHTS
from loracle.records.failures import one_line, refuse_no_memory
from loracle.training.dataset.tokenizer import Place, Reading, reading_of
from loracle.training.dataset.tokens import Encoded
from loracle.training.model.checksum import (
    settings_hash,
    tokenizer_checksums,
    weights_checksum,
    weights_fingerprint,
)
from loracle.training.model.output.layer import OutputLayer, observed_output
from loracle.training.model.positions import alike
from loracle.training.parallel.shards import ShardedLayers

# How sequences are put into one batch: filled up to one length, of equal length alone, or one by one.
Batching = Literal["padded", "equal", "single"]

QUANTIZED_ON = ("cuda",)  # kinds of devices; bitsandbytes has others, which are slow or were not tried


@dataclass(frozen=True)
class Base:
    """A frozen base model with its tokenizer.

    Attributes:
        name: folder or hub id.
        fingerprint, checksum: of all weights as loaded; see `checksum.py`.
        stop_ids: tokens that end a completion.
        pad_id: fills batches up.
        max_positions: tokens that the model can read, if it says so.
        masked_logits: whether the model computes logits at chosen positions only.
        reading, writing: how sequences share a batch in a forward pass and in generation, so that each gets
            what it would get alone; `batching.observed` finds out.
        continuing: how prompts share a batch where each is continued several times from its keys and values;
            None where the model cannot be continued so, or nobody asked.
        packing: how rows of several examples (`dataset/blocks.py`) share a batch; None: the model does not
            keep examples of a row apart, or nobody asked.
        output: how the model makes logits of what its output layer gives, if that is understood.
        layers: those that are divided between processes, if they are.
        checked: of what was read, by the names of a run's contents: the fingerprint, and quick checksums of
            the tokenizer, of its template and of the settings.
    """

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    checksum: str
    stop_ids: tuple[int, ...]
    pad_id: int
    max_positions: int | None
    masked_logits: bool
    reading: Batching = "padded"
    writing: Batching = "padded"
    continuing: Batching | None = None
    packing: Batching | None = None
    output: OutputLayer | None = None
    layers: ShardedLayers | None = None
    checked: Mapping[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> Reading:
        """What it makes of texts."""
        return Reading(self.tokenizer, self.stop_ids, self.max_positions)

    @property
    def counted_alone(self) -> bool:
        """Whether the output layer sees counted positions alone."""
        return self.masked_logits or self.output is not None

    @property
    def held_bytes(self) -> int:
        """Of all weights that this process holds."""
        if self.layers is not None:
            return self.layers.held_bytes
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def place_of(self, weight: torch.Tensor) -> tuple[int | None, int]:
        """Where its values are: the same for weights that share them, and for no others."""
        return None if self.layers is None else self.layers.layer_of(weight), weight.data_ptr()

    def checksum_now(self) -> str:
        """What `checksum` is as long as no weight has changed."""
        return weights_checksum(self.model) if self.layers is None else self.layers.checksum()

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the model computes: autocast for a base in bfloat16 or float16."""
        if self.dtype != torch.float32:
            return torch.autocast(self.device.type, dtype=self.dtype)
        return nullcontext()


Divide = Callable[[Any, torch.device], ShardedLayers]


def load_base(config: RunConfig, divide: Divide | None = None, tokenizer: Any | None = None) -> Base:
    """Loads and freezes a model, safetensors only; sets the process's CPU threads if the config does.

    `divide` brings it to its device divided between processes; else it is moved there whole. `tokenizer` is
    its own, where it is loaded already.

    Raises:
        ConfigError: the device does not exist here, or is none for quantised weights.
        ModelError: the model is unknown, incomplete, or cannot be used to train and generate.
    """
    device = pick_device(config.device)
    check_quantization(config, device)
    check_attention(config, device)
    dtype = pick_dtype(config.dtype, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    place = Place.of(config)
    name = place.name
    try:
        _check_kind(name, place.options)
        settings = _settings(name, place.options)
        if tokenizer is None:
            tokenizer = place.tokenizer(config)
        asked = place.options | _asked_of_the_model(config, device, dtype)
        model, report = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, **asked
        )
        _check_loaded(name, model, report)
        model.requires_grad_(False)
        model.eval()
        layers = None if divide is None else divide(model, device)
        if config.quantization is None:  # else it is there already, and cannot be moved
            model.to(device)
        return _base(name, model, tokenizer, device, dtype, layers, settings)
    except LoracleError:
        raise
    except Exception as error:  # of any kind: files, settings and code of other people
        refuse_no_memory(error, f"model: {name!r} does not fit into memory on {device}")
        if config.attention is not None and repr(config.attention)[1:-1] in str(error):
            raise ConfigError(
                f"attention: {config.attention} cannot be had for {name!r}; leave it out, or set sdpa or "
                f"eager. {one_line(error)}"
            ) from None
        raise ModelError(
            f"model: {name!r} cannot be loaded; give a folder, or the id of a model on the "
            f"hub.{place.silence} {one_line(error)}"
        ) from None


def check_quantization(config: RunConfig, device: torch.device) -> None:
    """Raises ConfigError where weights cannot be quantised: without a GPU, or without bitsandbytes."""
    if config.quantization is None:
        return
    if device.type not in QUANTIZED_ON:
        raise ConfigError(
            f"quantization: {config.quantization} needs a CUDA device, and trials run on {device} here; "
            "leave quantization out, or run where there is one"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization: {config.quantization} needs the package bitsandbytes, which is not installed; "
            "pip install bitsandbytes, or leave quantization out"
        )


def check_attention(config: RunConfig, device: torch.device) -> None:
    """Raises ConfigError where an attention of GPUs alone is to run elsewhere, or its package is missing."""
    name = config.attention
    if name is None or "flash" not in name:
        return
    if device.type in ("cpu", "mps"):
        raise ConfigError(
            f"attention: {name} needs a GPU of CUDA's kind, and trials run on {device} here; leave attention "
            "out, or set sdpa or eager"
        )
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            f"attention: {name} needs the package flash-attn, which is not installed; install it, "
            "or leave attention out"
        )


def _asked_of_the_model(config: RunConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told of attention and weights: in 4 bits as QLoRA has them (Dettmers et al.
    2023, arXiv 2305.14314), normal floats whose scales are quantised, too."""
    asked: dict[str, Any] = {}
    if config.attention is not None:
        asked["attn_implementation"] = config.attention
    if config.quantization == "4bit":
        asked["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif config.quantization == "8bit":
        asked["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if config.quantization is not None:
        asked["device_map"] = {"": device}
    return asked


def _base(
    name: str,
    model: Any,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    layers: ShardedLayers | None,
    settings: str,
) -> Base:
    """The model as trials use it."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    reading = reading_of(name, tokenizer, ends, model.config.get_text_config(decoder=True))
    known = int(model.get_input_embeddings().weight.shape[0])
    # Padding is never looked at, so where the tokenizer's own has no embedding any other token does.
    padding = (tokenizer.pad_token_id, tokenizer.eos_token_id, *reading.stop_ids, 0)
    pad_id = next(int(i) for i in padding if i is not None and i < known)
    # A plain one: penalties and samplers that a model ships would make generation differ from its logits.
    model.generation_config = GenerationConfig(eos_token_id=list(reading.stop_ids), pad_token_id=pad_id)
    if (output_layer := model.get_output_embeddings()) is not None:
        output_layer.register_forward_pre_hook(_contiguous)
    fingerprint = weights_fingerprint(model, None if layers is None else layers.load_of)
    return Base(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        fingerprint=fingerprint,
        checksum=weights_checksum(model) if layers is None else layers.checksum(),
        stop_ids=reading.stop_ids,
        pad_id=pad_id,
        max_positions=reading.max_positions,
        masked_logits=_has_masked_logits(model, device),
        output=observed_output(model, device),
        layers=layers,
        checked={WEIGHTS: fingerprint, MODEL_SETTINGS: settings, **tokenizer_checksums(tokenizer)},
    )


def _contiguous(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What the output layer reads, in one piece.

    Generation reads the last token of each row, a view with gaps. On a CPU, torch multiplies such a view in
    bfloat16 hundreds of times as slowly: 21 s against 0.06 s for 16 rows and 262,144 words.
    """
    return tuple(argument.contiguous() for argument in arguments)


def _check_kind(name: str, options: Mapping[str, Any]) -> None:
    """Refuses what would load as a part of itself, before its weights are loaded."""
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError):  # an adapter has none; loading says what is wrong
        return
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model: {name!r} ({config.model_type}) has an encoder and a decoder; choose a model that writes "
            "from left to right"
        )


def _settings(name: str, options: Mapping[str, Any]) -> str:
    """Hash of the settings in its file, read before the weights; empty where there is none."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(name, local_files_only=options["local_files_only"])
    except (OSError, ValueError):  # as `_check_kind`
        return ""
    return settings_hash(content)


def _check_loaded(name: str, model: Any, report: Mapping[str, Any]) -> None:
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"model: the files of {name!r} lack weights ({some}); a base model needs all")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"model: {name!r} is an adapter; name its base model")


def _has_masked_logits(model: Any, device: torch.device) -> bool:
    """Whether `logits_to_keep` takes a mask (in transformers' own models, lately): asks the model itself."""
    ids = torch.zeros((1, 3), dtype=torch.long, device=device)
    keep = torch.tensor([[True, False, True]], device=device)
    with torch.inference_mode():
        try:
            some = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        except Exception:  # of any kind: older models use the argument as a number
            return False
        every = model(input_ids=ids, use_cache=False).logits
    return some.shape == every[keep].shape and torch.allclose(some, every[keep], rtol=1e-2, atol=1e-2)


def forked_random(device: torch.device) -> AbstractContextManager[None]:
    """In this block random numbers are drawn apart, on the CPU and on this device."""
    forked: AbstractContextManager[None] = torch.random.fork_rng(
        devices=[device.index or 0] if device.type == "cuda" else []
    )
    return forked


# -- batches and logits -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences. Causal attention never looks right, so no attention mask is needed.

    Attributes:
        inputs: (b, t) token ids.
        keep: (b, t) positions whose next token counts in the loss.
        targets: (k,) those next tokens, row by row.
        rows, columns: (k,) where each target stands in the uncut sequences.
        more: what else the model is given, such as keys and values of what stands before.
        parts: of blocks, which example each token is of and which of its tokens it is, (b, t) each.
    """

    inputs: torch.Tensor
    keep: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    more: Mapping[str, Any] = field(kw_only=True, default_factory=lambda: {"use_cache": False})
    parts: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = field(kw_only=True, default=None)


def batches(
    lengths: npt.NDArray[np.int64], size: int, how: Batching, breaks: tuple[int, ...] = ()
) -> list[npt.NDArray[np.int64]]:
    """Positions in batches of like length, the longest first: memory runs out at once or never.

    `breaks`: see `positions.length_breaks`; no batch goes across one.
    """
    if how == "single":
        size = 1
    groups = alike(lengths, tuple(np.unique(lengths).tolist()) if how == "equal" else breaks)
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def collate(encoded: Encoded, chosen: Sequence[int] | npt.NDArray[np.int64], base: Base) -> Batch:
    """The chosen examples as a batch on the base model's device, padded to the longest."""
    width = int(encoded.lengths[chosen].max())
    ids = np.full((len(chosen), width), base.pad_id, dtype=np.int64)
    counted = np.zeros((len(chosen), width), dtype=np.bool_)
    for row, i in enumerate(chosen):
        start, end = encoded.starts[i], encoded.ends[i]
        ids[row, : end - start] = encoded.tokens[start:end]
        counted[row, : end - start] = encoded.counted[start:end]
    rows, columns = np.nonzero(counted)
    arrays = (ids[:, :-1], counted[:, 1:], ids[rows, columns], rows, columns)
    batch = Batch(*(torch.from_numpy(a).to(base.device, non_blocking=True) for a in arrays))
    if encoded.parts is None:
        return batch
    owners, places = _parts(encoded, chosen, width - 1)
    more = {"use_cache": False, "position_ids": torch.from_numpy(places).to(base.device, non_blocking=True)}
    return replace(batch, more=more, parts=(owners, places))


def _parts(
    encoded: Encoded, chosen: Sequence[int] | npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Owners and places of the tokens of blocks, (b, width) each.

    Models keep apart what has positions that do not follow one another, so what fills a row up goes on from
    its last example.
    """
    assert encoded.parts is not None
    owners, places = (np.zeros((len(chosen), width), dtype=np.int64) for _ in range(2))
    for row, i in enumerate(chosen):
        start, n = encoded.starts[i], min(int(encoded.lengths[i]), width)
        owners[row, :n] = encoded.parts.owners[start : start + n]
        places[row, :n] = encoded.parts.places[start : start + n]
        places[row, n:] = places[row, n - 1] + np.arange(1, width - n + 1)
    return owners, places


def filled_left(
    base: Base, rows: Sequence[Sequence[int] | npt.NDArray[np.integer]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of rows that are to be continued, so that all end together, and their mask; (b, t) each."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), base.pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = row
        mask[place, width - len(row) :] = 1
    return torch.from_numpy(ids).to(base.device), torch.from_numpy(mask).to(base.device)


def counted_logits(base: Base, batch: Batch) -> torch.Tensor:
    """Logits at the positions whose next token counts, shape (k, vocabulary), float32."""
    with base.precision():
        if base.masked_logits:
            kept = base.model(input_ids=batch.inputs, logits_to_keep=batch.keep, **batch.more).logits
        else:
            kept = base.model(input_ids=batch.inputs, **batch.more).logits[batch.keep]
    logits: torch.Tensor = kept.float()
    return logits
