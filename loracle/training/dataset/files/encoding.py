"""Text files of any encoding, compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import charset_normalizer

from loracle.errors import DataError

COMPRESSED = (".gz", ".zst")
OR_NAMED = ", or name the encoding of the whole file in data.encoding"  # what else is to be done

# What files are in that are not UTF-8: with fewer to choose from, short texts are recognised more often.
_LIKELY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "koi8_r"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
)
_LATIN = ("cp1252", "cp1250")  # alike in most letters; the first is by far the more common
_FEW = 10  # bytes beyond ASCII, below which nothing can be recognised by its letters
_SAMPLE = 200_000  # bytes of lines that are looked at
_BLOCK = 1 << 20
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as Python spells them
_BEYOND_ASCII = re.compile("[^\x00-\x7f]")
_SHOWN = 30  # characters around the first that is not ASCII


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file as it is when unpacked. Raises DataError where it cannot be read or unpacked."""
    damaged: tuple[type[Exception], ...] = (OSError, EOFError)
    if path.suffix.lower() == ".zst":
        import pyarrow  # 28 MB, which other files do not need

        damaged += (pyarrow.ArrowException,)
    try:
        with _opened(path) as file:
            yield file
    except damaged as error:
        kind = f"not a {path.suffix} file, or damaged" if path.suffix.lower() in COMPRESSED else "unreadable"
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: {kind}: {reason}") from None


def _opened(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


@contextmanager
def open_text(path: Path, encoding: str, *, newline: str | None = None) -> Iterator[IO[str]]:
    """A file as text. Raises DataError where it is not in this encoding."""
    with open_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding=encoding, newline=newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            where, byte = str(path), error.object[error.start]
            if encoding.startswith("utf-8") and (first := _against_utf8(path).first) is not None:
                where, byte = f"{path}:{first[0]}", first[1]
            raise DataError(
                f"{where}: is not {encoding} text: byte 0x{byte:02x}; see data.encoding"
            ) from None
        finally:
            text.detach()


def encoding_of(path: Path, named: str | None) -> tuple[str, str | None]:
    """The encoding of a text file, and how its first letter beyond ASCII is read where that is a guess.

    UTF-8, or what its marks and zeros say; else what its letters make likely.

    Raises:
        DataError: it is in none that is known, or in UTF-8 but for some bytes: letters of other encodings
            hardly ever make one of UTF-8, so these bytes are damage, and read in another encoding every
            other letter of the file would be wrong.
    """
    if named is not None:
        return ("utf-8-sig" if codecs.lookup(named).name == "utf-8" else named), None
    with open_bytes(path) as file:
        start = file.read(4)
    if wide := _wide(start):
        return wide, None
    if _is_utf8(path):
        return "utf-8-sig", None
    as_utf8 = _against_utf8(path)
    if as_utf8.first is not None and as_utf8.letters > as_utf8.bad:
        line, byte = as_utf8.first
        some = "a byte is" if as_utf8.bad == 1 else f"{as_utf8.bad:,} bytes are"
        raise DataError(
            f"{path}:{line}: byte 0x{byte:02x} is no UTF-8, as which all else of the file reads "
            f"({as_utf8.letters:,} letters beyond ASCII; {some} not): correct it{OR_NAMED}"
        )
    sample = _sample(path)
    found = _recognised(sample)
    if found is None:
        raise DataError(
            f"{path}: is not UTF-8 text, nor in an encoding that is recognised; name it in data.encoding"
        )
    text = _decoded(sample, found)
    first = next(i for i, letter in enumerate(text) if not letter.isascii())
    return found, text[max(0, first - _SHOWN) : first + _SHOWN].strip()


def _wide(start: bytes) -> str | None:
    """UTF-16 and UTF-32. Without a mark, zeros tell: a file begins with a letter of ASCII here, a brace or
    the name of a column."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = "".join("0" if byte == 0 else "x" for byte in start)
    kinds = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
    return kinds.get(zeros)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(path) as file:
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@dataclass(frozen=True)
class _Utf8:
    """A file read as UTF-8: how many letters beyond ASCII it has, how many bytes make none, and the first
    of these, its line and what it is."""

    letters: int
    bad: int
    first: tuple[int, int] | None


def _against_utf8(path: Path) -> _Utf8:
    letters = bad = 0
    first = None
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isascii():
                continue
            text = line.decode("utf-8", errors="surrogateescape")
            wrong = _ESCAPED.findall(text)
            if wrong and first is None:
                first = number, ord(wrong[0]) - 0xDC00
            bad += len(wrong)
            letters += len(_BEYOND_ASCII.findall(text)) - len(wrong)
    return _Utf8(letters, bad, first)


def _sample(path: Path) -> bytes:
    """Lines with letters beyond ASCII."""
    found = bytearray()
    with open_bytes(path) as file:
        for line in file:
            if not line.isascii():
                found += line
            if len(found) > _SAMPLE:
                break
    return bytes(found)


def _recognised(sample: bytes) -> str | None:
    if sum(byte > 127 for byte in sample) < _FEW and _decodes(sample, _LATIN[0]):
        return _LATIN[0]
    found = charset_normalizer.from_bytes(sample, cp_isolation=list(_LIKELY))
    best = found.best()
    if best is None:
        return None
    usual = _LATIN[0]
    alike = usual in [match.encoding for match in found] or _decoded(sample, usual) == str(best)
    return usual if best.encoding == _LATIN[1] and alike and _decodes(sample, usual) else str(best.encoding)


def _decoded(sample: bytes, encoding: str) -> str:
    return sample.decode(encoding, errors="replace")


def _decodes(sample: bytes, encoding: str) -> bool:
    return "\ufffd" not in _decoded(sample, encoding)
