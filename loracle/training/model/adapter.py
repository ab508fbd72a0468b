"""The adapter: put on the base model, taken off without a trace, saved in PEFT's layout and read back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
)
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file

from loracle.config.execution.left_out import QUANTIZER, left_out
from loracle.config.training.plan import Plan
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import VARIANTS
from loracle.errors import ConfigError, ModelError
from loracle.records.failures import one_line, says_no_memory
from loracle.training.dataset.blocks import unpacked
from loracle.training.dataset.tokens import Encoded
from loracle.training.memory.measurement import release
from loracle.training.model.base_model import Base, collate
from loracle.training.model.module_tree import ModuleTree
from loracle.training.model.positions import codes_restored
from loracle.training.model.targets import is_named, linear_modules

_EVA_TOKENS = 512  # in a batch
_EVA_BATCHES = 200  # after which directions count as stable: of few tokens, some never are
_EVA_LAST = 20  # batches more, in which PEFT comes to its end


class AdapterRefused(ConfigError):
    """An adapter that PEFT, torch or the model refuses; `reason` is what the library said."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason = reason


# -- on and off -------------------------------------------------------------------------------------


@contextmanager
def adapted(base: Base, plan: Plan) -> Iterator[Any]:
    """Lends the model with a new, untrained adapter to the `with` block."""
    with restored(base):
        yield attach(base, plan)


@contextmanager
def restored(base: Base) -> Iterator[ModuleTree]:
    """Takes any adapter off at the end; then the base is as before, to the bit, or an error says so.

    The tree that it yields takes an adapter off in between; weights are compared at the end alone.
    """
    tree = ModuleTree(base.model)
    try:
        with codes_restored(base.model):
            yield tree
    finally:
        tree.restore()
        release(base.device)
        if base.layers is not None:
            base.layers.forget()
        if base.checksum_now() != base.checksum:
            raise ModelError(
                f"the weights of {base.name} changed during a training, in memory or as their file was "
                "overwritten, so later ones would not be comparable; start the command again"
            )


def attach(base: Base, plan: Plan) -> Any:
    """The PEFT model of a new, untrained adapter on the base. Call inside `restored`.

    Raises:
        ConfigError: PEFT refuses this adapter on this model.
    """
    if plan.settings.gradient_checkpointing:
        _checkpointing(base)({"use_reentrant": False})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `probe.py` finds out what PEFT warns about
        try:
            if VARIANTS[plan.settings.variant].writes_into_weights:
                _renew_weights(base)
            with _no_quantizer(base):
                model = get_peft_model(base.model, _lora_config(base, plan))
            _require_norms(model)
            for wrapper in model.modules():
                if isinstance(wrapper, ModulesToSaveWrapper):
                    _copy_weights(base, wrapper)
                    wrapper.modules_to_save.float()  # as PEFT has adapters: small steps would be lost
            return model
        except Exception as error:  # of any kind: what PEFT and torch raise here is about the settings
            if says_no_memory(error):
                raise
            settings = plan.settings
            dropout = f", dropout {plan.dropout:g}" if plan.dropout else ""
            reason = one_line(error)
            if "lora_dropout" in reason:
                reason += (
                    "; weights that belong to no linear module are trained without dropout: remove the knob "
                    "dropout from the space and set it to 0 in standard, or leave them out of targets"
                )
            raise AdapterRefused(
                f"training: PEFT refuses this adapter (variant {settings.variant}, targets "
                f"{listed(settings.targets)}{dropout}) on {base.name}",
                reason,
            ) from None


@contextmanager
def _no_quantizer(base: Base) -> Iterator[None]:
    """In this block PEFT, which imports bitsandbytes to ask whether a module is one of its, does not ask of a
    base that nobody has quantised."""
    if getattr(base.model, "is_quantized", False):
        yield
        return
    answers = is_bnb_available, is_bnb_4bit_available  # which PEFT remembers
    try:
        with left_out(QUANTIZER):
            for answer in answers:
                answer.cache_clear()
            yield
    finally:
        for answer in answers:
            answer.cache_clear()


def _copy_weights(base: Base, wrapper: Any) -> None:
    """Gives the copy of a module that is trained whole its weights, where others may lie in their place."""
    if base.layers is not None:
        copies = wrapper.modules_to_save.parameters()
        for copied, weight in zip(copies, wrapper.original_module.parameters(), strict=True):
            if base.layers.load_of(weight):
                copied.data.copy_(weight)


def _require_norms(model: Any) -> None:
    """Raises ValueError where DoRA would divide by a norm of 0, as PEFT does without a word.

    That of a whole row, such as the one for padding of an embedding that the output layer shares.
    """
    for layer in layers_of(model):
        for norm in getattr(layer.module, "lora_magnitude_vector", {}).values():
            if zero := int((norm.weight == 0).sum()):
                some = f"1 row of {layer.name} has" if zero == 1 else f"{zero:,} rows of {layer.name} have"
                raise ValueError(
                    f"{some} nothing but zeros, and DoRA divides by their norm, which makes every loss NaN; "
                    f"leave {layer.name} out of training.targets, or use another variant"
                )


@dataclass(frozen=True)
class Layer:
    """One adapted place of a model.

    Attributes:
        name: of the adapted module, or of the weight where PEFT adapts a weight of its own.
        module: PEFT's.
        weight: the frozen one.
        is_weight: whether it is a weight that belongs to no linear module, as those of stacked experts do.
    """

    name: str
    module: Any
    weight: torch.Tensor
    is_weight: bool

    def trained(self) -> Iterator[torch.nn.Parameter]:
        """The parameters of its adapter."""
        own = self.module.get_base_layer()
        frozen = {id(p) for p in own.parameters()}
        for name in self.module.adapter_layer_names:
            yield from (p for p in getattr(self.module, name).parameters() if id(p) not in frozen)


def layers_of(model: Any) -> list[Layer]:
    """All adapted places of a PEFT model, in the model's order."""
    found = []
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        plain = name.replace(".base_layer", "")  # wrappers of one module's weights stand inside each other
        if own := getattr(module, "parameter_name", None):
            found.append(Layer(f"{plain}.{own}", module, module.get_param(), True))
        else:
            own_layer = module.get_base_layer()
            weight = getattr(own_layer, "weight", None)
            weight = next(own_layer.parameters()) if weight is None else weight
            found.append(Layer(plain, module, weight, False))
    return found


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors, by PEFT's names."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def adapter_start(model: Any, settings: TrainingConfig) -> dict[str, torch.Tensor]:
    """The tensors of an untrained adapter, where what is saved is what was learnt beyond them; else none."""
    return adapter_state(model) if VARIANTS[settings.variant].start_from_weights else {}


def _renew_weights(base: Base) -> None:
    """Copies of what a variant writes into; `ModuleTree.restore` brings the old ones back."""
    for name in linear_modules(base.model):
        weight = base.model.get_submodule(name).weight
        weight.data = weight.data.clone()


def start_from_data(base: Base, model: Any, plan: Plan, encoded: Encoded, order: Iterable[int]) -> None:
    """Gives a new adapter the start that its variant computes from examples, in this order, each as a row.

    EVA (Paischer et al. 2024, arXiv 2410.07170), by PEFT: A is made of the main directions of what each
    module sees of the tokens of the examples, found batch by batch until they stay the same, in 200 batches
    at most. PEFT passes over a batch of fewer tokens than it seeks directions: few examples are repeated.

    Raises:
        AdapterRefused: there are fewer tokens than the rank has directions, or PEFT does not come to an end.
    """
    if not VARIANTS[plan.settings.variant].start_from_data:
        return
    encoded = unpacked(encoded)
    what = f"training: variant {plan.settings.variant} at rank {plan.rank}"
    eva = model.peft_config[model.active_adapter].eva_config
    narrow = min(module.in_features for module in model.modules() if hasattr(module, "lora_A"))
    eva.rho = min(eva.rho, narrow / plan.rank)  # no module has more directions than it reads numbers
    least = round(eva.rho * plan.rank)
    needed, parts, part = max(_EVA_TOKENS, least), list[list[int]](), list[int]()
    for i in order:
        part.append(int(i))
        if encoded.lengths[part].sum() - len(part) >= needed:
            parts, part = [*parts, part], []
    if part and (not parts or encoded.lengths[part].sum() - len(part) >= least):
        parts.append(part)
    tokens = int(encoded.lengths[parts[0]].sum()) - len(parts[0])
    if tokens < plan.rank:
        why = f"the training data of a trial have {tokens}; raise data.proxy"
        raise AdapterRefused(f"{what} needs as many tokens", why)
    parts[0] = parts[0] * -(-least // tokens)
    batches = []
    for chosen in parts:
        width = int(encoded.lengths[chosen].max())
        mask = torch.arange(width - 1) < torch.from_numpy(encoded.lengths[chosen] - 1)[:, None]
        batches.append({"input_ids": collate(encoded, chosen, base).inputs, "attention_mask": mask.long()})
    turns = iter(range(_EVA_BATCHES + _EVA_LAST))

    def forward(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        turn = next(turns, None)
        if turn is None:
            raise AdapterRefused(what, "PEFT finds no directions in the training data; take another variant")
        if turn >= _EVA_BATCHES:
            _call_it_stable(model)
        model(**inputs)

    with base.precision(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        initialize_lora_eva_weights(
            model, batches, forward_fn=forward, show_progress_bar=False, gather_distributed_inputs=False
        )


def _call_it_stable(model: Any) -> None:
    """Has the hooks of PEFT's EVA take the directions of the next batch, however much they change."""
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if hasattr(hook, "sim_thresh"):
                hook.sim_thresh = -1.0


def _checkpointing(base: Base) -> Callable[..., None]:
    """The method that switches recomputation of activations on; transformers is renaming it."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    method = next((getattr(base.model, name) for name in names if hasattr(base.model, name)), None)
    if method is None or not getattr(base.model, "supports_gradient_checkpointing", True):
        raise ConfigError(
            f"training.gradient_checkpointing: {base.name} does not support it; set it to false"
        )
    enable: Callable[..., None] = method
    return enable


def _lora_config(base: Base, plan: Plan) -> LoraConfig:
    settings = plan.settings
    modules: str | list[str] = "all-linear"
    weights: list[str] = []
    if settings.targets != "all-linear":
        names = [name for name, _ in base.model.named_modules()]
        modules = [t for t in settings.targets if any(is_named(name, t) for name in names)]
        weights = [t for t in settings.targets if t not in modules]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.rank,
        lora_alpha=int(plan.alpha) if plan.alpha.is_integer() else plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=modules,
        target_parameters=weights or None,
        modules_to_save=settings.modules_to_save or None,
        **VARIANTS[settings.variant].peft_arguments,
    )


def listed(targets: str | list[str]) -> str:
    """Targets for a message."""
    if isinstance(targets, str):
        return targets
    return ", ".join(targets[:4]) + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")


# -- files ------------------------------------------------------------------------------------------


def save_adapter(model: Any, start: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes the adapter in PEFT's layout.

    PiSSA trains on a base less its start, W - s B0 A0. It is written as a LoRA of twice the rank on W itself:
    s (B A - B0 A0) = s [B, -B0] [A; A0], which any user of the base model can load. A layer narrower than the
    rank has a start of fewer rows; rows and columns of zeros fill it up.
    """
    if not start:
        model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
        return
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = copy.copy(model.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.inference_mode = True
    merged = {}
    for name, tensor in state.items():
        if not {"lora_A", "lora_B"} & set(name.split(".")):  # of a module that is trained whole
            merged[name] = tensor.detach().cpu().contiguous()
            continue
        now, before = tensor.detach().cpu(), start[name]
        is_a = "lora_A" in name
        both = torch.cat([now, before if is_a else -before], dim=0 if is_a else 1)
        missing = config.r - both.shape[0 if is_a else 1]
        merged[name] = torch.nn.functional.pad(both, (0, 0, 0, missing) if is_a else (0, missing))
    save_file(merged, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


@contextmanager
def reloaded(base: Base, folder: Path) -> Iterator[Any]:
    """Lends the base with an adapter as plain PEFT reads it from a folder. Call inside `restored`.

    Raises:
        ModelError: plain PEFT cannot read it.
    """
    tree = ModuleTree(base.model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever asks compares what was read
            try:
                with _no_quantizer(base):
                    model = PeftModel.from_pretrained(base.model, str(folder))
            except Exception as error:  # of any kind, as `attach` has them
                if says_no_memory(error):
                    raise
                raise ModelError(
                    f"the adapter in {folder} cannot be loaded by PEFT: {one_line(error)}"
                ) from None
        yield model.eval()
    finally:
        tree.restore()
