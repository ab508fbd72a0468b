from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model
from peft import LoraConfig, get_peft_model

from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, ModelError
from loracle.training.model.base_model import load_base

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


def run_config(model: object, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": str(model), "data": {"train": "none.jsonl"}, "device": "cpu"} | changes
    )


def test_unknown_models_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: one question to the hub and one of its own library, which else asks for a minute."""
    asked: list[str] = []

    def offline(host: str, *args: Any, **options: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    (tmp_path / "empty").mkdir()
    for name, questions in (("no-such/model", 2), (tmp_path / "none", 0), (tmp_path / "empty", 0)):
        asked.clear()
        with pytest.raises(ModelError, match="model: ") as caught:
            load_base(run_config(name))
        assert "\n" not in str(caught.value)
        assert len(asked) <= questions


def test_incomplete_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="lack weights"):
        load_base(run_config(folder))
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(run_config(folder))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(run_config(folder))


def test_an_adapter_is_no_base_model(tiny_model: Path, tmp_path: Path) -> None:
    own = load_base(run_config(tiny_model))
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        model = get_peft_model(own.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    own.tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="is an adapter"):
        load_base(run_config(tmp_path / "adapter"))


def test_the_output_layer_reads_no_view_with_gaps(tiny_model: Path) -> None:
    base = load_base(run_config(tiny_model, dtype="bfloat16"))
    layer, read = base.model.get_output_embeddings(), list[torch.Tensor]()
    forward = layer.forward
    layer.forward = lambda hidden: (read.append(hidden), forward(hidden))[1]
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    base.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)
    assert read
    assert all(hidden.shape[1] == 1 and hidden.is_contiguous() for hidden in read)


def test_unknown_devices_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"device: 'gpu' is none that PyTorch knows; .*; set device: auto"):
        load_base(run_config(tiny_model, device="gpu"))


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 0}, {"hidden_act": "no such"}, {"num_hidden_layers": "two"}]
)
def test_settings_that_make_no_model_are_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = save_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_base(run_config(folder))
    assert "\n" not in str(caught.value)


def test_a_model_with_an_encoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    content = {"model_type": "bart", "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        load_base(run_config(tmp_path))


# -- the hub ----------------------------------------------------------------------------------------

HUB = """
import http.server, os, ssl, sys, threading
class Quiet(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("localhost", 0), Quiet)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:3])
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"https://localhost:{server.server_port}"
import huggingface_hub
from loracle.training.hub import hub_silence
print(hub_silence())
huggingface_hub.close_session()
os.environ["SSL_CERT_FILE"] = sys.argv[1]
print(hub_silence())
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_the_hub_is_asked_with_the_certificates_that_downloads_have(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    command = [sys.executable, "-c", HUB, str(certificate), str(key)]
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SSL_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=known)
    unknown, trusted = done.stdout.strip().splitlines()[-2:]
    assert "does not answer" in unknown
    assert "SSL_CERT_FILE" in unknown
    assert trusted == "None"
