"""The merged model is the adapter on its base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loracle.errors import ModelError
from loracle.export import export


def test_predictions_are_those_of_the_adapter(run: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "out", "merged")
    (said,) = made.notes
    assert said.startswith("merged against adapter on 6 validation rows: loss ")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("copy:abc=", return_tensors="pt")["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    adapter = AutoPeftModelForCausalLM.from_pretrained(run / "best")
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, adapter(ids).logits, atol=1e-5)
        base = adapter.get_base_model()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert base is not merged
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers"
    assert "from transformers import AutoModelForCausalLM, AutoTokenizer" in card.text
    assert "peft import" not in card.text


def test_an_adapter_that_merging_breaks_is_refused(run: Path, tmp_path: Path) -> None:
    """One that is as it was written, as there are no checksums that say otherwise."""
    weights = run / "best" / "adapter_model.safetensors"
    noted = {path: path.read_bytes() for path in (weights, *run.glob("final/*/checksums.json"))}
    spoilt = {name: value * float("nan") for name, value in load_file(weights).items()}
    save_file(spoilt, weights, metadata={"format": "pt"})
    try:
        for path in noted:
            if path != weights:
                path.unlink()
        with pytest.raises((ModelError, ValueError)):
            export(run, tmp_path / "out", "merged")
    finally:
        for path, content in noted.items():
            path.write_bytes(content)
    assert list(tmp_path.iterdir()) == []
