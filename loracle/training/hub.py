"""Whether the hub of Hugging Face can be asked."""

from __future__ import annotations

from huggingface_hub import constants, get_session, is_offline_mode

from loracle.records.failures import one_line


def hub_silence() -> str | None:
    """Why the hub is not to be asked; None if it answers.

    One short question, with the certificates and proxies that downloads have. Without it, transformers
    retries for a minute before it looks into the cache.
    """
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=5)  # the hub's own client
    except Exception as error:  # of its own kinds: httpx or another, by the version of huggingface_hub
        reason = one_line(error)
        if "certificate" in reason.lower():
            reason += " (name your own certificates in SSL_CERT_FILE)"
        return f"{constants.ENDPOINT} does not answer, {reason}"
    return None
