"""Models named by hub id, through huggingface_hub and its own cache, where it is installed and reachable."""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import Offline, Unsupported

# Weights, configuration and tokenizer; never code, and never pickles.
WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model")


def fetch_hub(name: str, *, local_only: bool) -> Path:
    """The local folder (or file) of a hub id, downloaded first if that is allowed.

    Parameters
    ----------
    name : `owner/name` for a safetensors folder, `owner/name/file.gguf` for one file
    local_only : look only at what an earlier download left

    Raises
    ------
    Offline : it is not here and cannot be fetched now
    Unsupported : huggingface_hub is not installed
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise Unsupported(
            f"{name!r} looks like a hub id, and huggingface_hub is not installed",
            hint="install it with `pip install 'trimtab[hub]'`, or give the path of a model",
        ) from error
    owner, repository, *files = name.split("/")
    try:
        if files:
            return Path(
                huggingface_hub.hf_hub_download(
                    f"{owner}/{repository}", files[0], local_files_only=local_only
                )
            )
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(WANTED), local_files_only=local_only)
        )
    except Exception as error:  # every release adds kinds: network, not found, gated, offline mode
        detail = " ".join([type(error).__name__, *str(error).split()])[:200]
        raise Offline(
            f"hub model {name!r} is not here and could not be fetched: {detail}",
            hint=f"fetch it where there is a network (`trimtab pull {name}`), or give the path of a model",
        ) from error
