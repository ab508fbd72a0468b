"""What nobody but the user shall read: passwords in storage URLs, and values of variables with secret names.

Nothing here is ever shown or recorded as it was given: `shown` masks a URL, `scrubbed` the texts of other
libraries about it, and `recorded` and `recorded_value` give what a file of the run may keep. `${NAME}` stands
for an environment variable, is resolved where the value is used, and is recorded as it is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, unquote

from loracle.errors import ConfigError

MASK = "***"

# Upper case alone, so that `${learning_rate}` stays a dollar sign and a placeholder.
_REFERENCE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")
# A password may hold what should have been escaped: it ends at the last `@`.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://"
    r"(?:(?P<user>[^:/@?#]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:/@?#\[\]]*)(?::(?P<port>\d*))?"
    r"(?P<database>/[^?#@]*)?(?:\?(?P<query>[^@]*))?",
    re.DOTALL,
)
_SECRET_KEYS = re.compile(r"passw|secret|token|credential", re.IGNORECASE)  # not passfile, sslkey
_SECRET_NAMES = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|DSN)(?:_|$|\d)"
    r"|PASSWORD|SECRET|APIKEY",
    re.IGNORECASE,
)
_MARKS = re.compile(r"(?:pad|eos|bos|unk|sep|cls|mask|stop)_token", re.IGNORECASE)  # of a tokenizer
_KEYS = re.compile(
    r"\b(?:sk|hf|ghp|gho|glpat|xox[bp])[-_][A-Za-z0-9_-]{16,}"
)  # as well-known services make them
_PASSWORD_IN_A_URL = re.compile(r"://[^/\s@]*:[^/\s]*@")
_HARMLESS = re.compile(r"[\w. /\\~%+-]+")


def shown(url: str) -> str:
    """A storage URL for people: without its password, and without the values of its parameters."""
    base, question, query = url.partition("?")
    if base.startswith("sqlite:///"):
        return f"{base}?{MASK}" if question else base
    found = _URL.fullmatch(url)
    if found is None:
        scheme, there, _ = url.partition("://")
        if there:
            return f"{scheme}://{MASK}" if re.fullmatch(r"[\w+.-]+", scheme) else MASK
        if _HARMLESS.fullmatch(url) or _REFERENCE.fullmatch(url):
            return url
        word = re.match(r"\w+(?=:)", url)
        return f"{word.group()}:{MASK}" if word else MASK
    user = "" if found["user"] is None else f"{_harmless(found['user'])}@"
    if found["password"] is not None:
        user = f"{user[:-1]}:{MASK}@"
    port = f":{found['port']}" if found["port"] else ""
    names = [part.partition("=") for part in (found["query"] or "").split("&") if part]
    query = "&".join(f"{_harmless(name)}={MASK}" if equals else MASK for name, equals, _ in names)
    place = f"{found['host']}{port}{_harmless(found['database'] or '')}"
    return f"{found['scheme']}://{user}{place}" + (f"?{query}" if query else "")


def scrubbed(text: str, url: str) -> str:
    """What another library says about `url`, with nothing in it that `shown` leaves out."""
    text = text.replace(url, shown(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        # A short one stands in many words; there it is masked where it stands alone.
        pattern = re.escape(secret) if len(secret) > 3 else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(pattern, MASK, text)
    text = re.sub(r"(://[^/\s:@]*):[^\s]*@", rf"\1:{MASK}@", text)
    return re.sub(r"(?i)\b(\w*pass\w*\s*=\s*)(?:'[^']*'|\S+)", rf"\1{MASK}", text)


def recorded(url: str) -> str:
    """A storage URL for a file: references as they are, but no password; the client finds it elsewhere."""
    if _REFERENCE.fullmatch(url):
        return url
    base, _, query = url.partition("?")
    if base.startswith("sqlite:///"):
        return base + _kept(query)
    found = _URL.fullmatch(url)
    if found is None:
        return shown(url)
    password = found["password"] or ""
    user = "" if found["user"] is None else f"{found['user']}@"
    if _REFERENCE.fullmatch(password):
        user = f"{user[:-1]}:{password}@"
    end = len(url) if found["query"] is None else found.start("query") - 1
    return f"{found['scheme']}://{user}{url[found.start('host') : end]}{_kept(found['query'] or '')}"


def checked(url: str) -> str:
    """`url`, where a client is sure to read it as it is meant.

    Raises:
        ConfigError: it holds characters that have to be escaped. The message shows none of it.
    """
    found = _URL.fullmatch(url)
    if found is None or "@" in (found["password"] or ""):
        raise ConfigError(
            f"execution.storage: {shown(url)} cannot be understood; write postgresql://user@host:5432/name, "
            "keep the password in ~/.pgpass, or write %40 for an @ in a password, %2F for /, %3F for ?"
        )
    return url


def expanded(text: str, setting: str, between: Callable[[str], str] = str) -> str:
    """`text` with the values of the environment variables that it refers to as `${NAME}`.

    Args:
        text: with references.
        setting: says where it comes from.
        between: what becomes of the text around the references.

    Raises:
        ConfigError: a variable is not set here.
    """
    parts = _REFERENCE.split(text)  # text and names, alternating
    for place in range(1, len(parts), 2):
        if parts[place] not in os.environ:
            raise ConfigError(f"{setting}: the environment variable {parts[place]} is not set; export it")
    return "".join(os.environ[part] if i % 2 else between(part) for i, part in enumerate(parts))


def without_references(text: str) -> str:
    """`text` with a space for every `${NAME}`: what is left may hold placeholders."""
    return _REFERENCE.sub(" ", text)


def refers(text: str) -> bool:
    """Whether `text` names an environment variable."""
    return _REFERENCE.search(text) is not None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name, with this value, is not to be recorded."""
    return bool(_SECRET_NAMES.search(name) or _PASSWORD_IN_A_URL.search(value))


def recorded_value(name: str, value: str) -> str:
    """The value of a variable for a file: a secret one becomes a reference to the variable of that name."""
    return f"${{{_variable(name)}}}" if is_secret(name, value) and not refers(value) else value


def recorded_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command for a file: masked where a value follows a secret name or looks like a key.

    A value with a placeholder is a knob's, whatever the name before it.
    """
    found, before = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and _names_a_secret(name) and "{" not in value:
            argument = f"{name}={MASK}"
        elif before.startswith("-") and "=" not in before and _names_a_secret(before):
            argument = argument if argument.startswith("-") or "{" in argument else MASK
        before = argument
        argument = re.sub(r"(://[^/\s:@]*):[^/\s{]*@", rf"\1:{MASK}@", argument)
        found.append(_KEYS.sub(MASK, argument))
    return found


def lacks_secrets(arguments: Sequence[str]) -> bool:
    """Whether these are arguments as a file keeps them, with masks in the place of secrets."""
    unmasked = [argument.replace(MASK, "secret") for argument in arguments]
    triples = zip(arguments, unmasked, recorded_arguments(unmasked), strict=True)
    return any(MASK in argument and argument == kept != given for argument, given, kept in triples)


def _names_a_secret(flag: str) -> bool:
    name = flag.lstrip("-").replace("-", "_")
    return bool(_SECRET_NAMES.search(name)) and not _MARKS.search(name)


def _harmless(text: str) -> str:
    return text if not text or _HARMLESS.fullmatch(text) else MASK


def _kept(query: str) -> str:
    """The parameters that a file may keep."""
    parts = [part.partition("=") for part in query.split("&") if part]
    kept = [
        name + equals + value
        for name, equals, value in parts
        if equals and (_REFERENCE.fullmatch(value) or not _SECRET_KEYS.search(name))
    ]
    return f"?{'&'.join(kept)}" if kept else ""


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _secrets(url: str) -> set[str]:
    """Everything in `url` that may be secret, as it is written and as it is meant."""
    found = _URL.fullmatch(url)
    if found is None:
        rest = url.partition("://")[2] or url
        parts = {rest, *re.split(r"[:/@?#&=\s]", rest)}
    else:
        password = found["password"] or ""
        parts = {password, *re.split(r"[/@?#]", password)}
        parts |= {value for _, value in parse_qsl(found["query"] or "")}
        parts |= {part.partition("=")[2] for part in (found["query"] or "").split("&")}
    return {part for part in parts | {unquote(part) for part in parts} if part}
