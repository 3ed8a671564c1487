"""What a user may set about a model and its server: one definition for flags, environment, file and Python.

The command line makes its options from these fields (`--kv-type` from `kv_type`, `--memory` from
`memory_bytes`), with `TRIMTAB_KV_TYPE` and the like as their environment variables and `kv_type = "int8"` as
the line of a configuration file. A class is a group of the help page, under its title. Nothing here opens a
model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    from trimtab.engine.budget import parse_size

    return parse_size(value)


Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""A number of bytes, or a text such as `400MB` or `1.5GiB`."""


def key_of(field: str) -> str:
    """What people call a field, in a file and, with dashes, as a flag: `memory` for `memory_bytes`."""
    return field.removesuffix("_bytes")


class ModelSettings(BaseModel):
    """Which model, and how it is held and run."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Model", defer_build=True)

    model: str = Field(
        "smollm2", description="pulled name, .gguf file, safetensors folder or hub id", examples=["smollm2"]
    )
    memory_bytes: Bytes | None = Field(
        None, description="hard ceiling for the whole process, weights and KV cache included; e.g. 400MB"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="worker threads; default: the processors it may use"
    )
    pin: bool = Field(False, description="bind every worker thread to a processor of its own")
    context: int | None = Field(
        None, ge=16, description="longest sequence, in tokens; default: what fits, up to 8192"
    )
    kv_type: Literal["bf16", "int8", "f32"] = Field("bf16", description="number type of the KV cache")
    format: Literal["auto", "bf16", "int8", "q8", "q4/16", "q4", "q4-sym"] = Field(
        "auto", description="weight format in memory; auto keeps what the file has"
    )
    device: str = Field("cpu", description="cpu, or a torch device such as cuda")
    sharing: bool = Field(True, description="compute equal prompt beginnings once; off to measure")
    drafting: bool = Field(True, description="guess tokens by prompt look-up where that pays; off to measure")

    @property
    def served_name(self) -> str:
        """What to call the model: MODEL without folders and extension."""
        return self.model.rstrip("/").rpartition("/")[2].removesuffix(".gguf") or self.model


class PrefixSettings(BaseModel):
    """What survives a restart."""

    model_config = ConfigDict(title="Prefixes on disk", defer_build=True)

    prefix_dir: Path | None = Field(
        None, description="folder in which long prompts that come again survive a restart; default: none do"
    )
    prefix_disk_bytes: Bytes = Field(10**9, description="most that they take on disk; e.g. 1GB")


class AddressSettings(BaseModel):
    """Where the server is found, and over what."""

    # Built once, with the class that joins all groups.
    model_config = ConfigDict(title="Address", defer_build=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    name: str | None = Field(None, min_length=1, description="what the API calls the model; default: MODEL")
    tls_cert: Path | None = Field(
        None, description="certificate chain (PEM) for HTTPS; read again when it changes"
    )
    tls_key: Path | None = Field(
        None, description="private key (PEM) of --tls-cert; default: in the same file"
    )
    tls_client_ca: Path | None = Field(
        None, description="only clients with a certificate of these authorities (PEM) may connect"
    )
    cors_origin: tuple[str, ...] = Field(
        (), description="web page that may call from a browser, such as https://a.example; * for all; repeat"
    )


class KeySettings(BaseModel):
    """Who may ask."""

    model_config = ConfigDict(title="Keys", defer_build=True)

    keys_file: Path | None = Field(
        None, description="where `trimtab keys` keeps its keys; default: keys.json in the user's state folder"
    )
    api_key: SecretStr | None = Field(
        None, min_length=16, description="one more key, without limits; best set as TRIMTAB_API_KEY"
    )
    insecure_open: bool = Field(
        False, description="serve everybody who can connect, even from other machines, when there is no key"
    )
    open_metrics: bool = Field(
        False, description="answer /metrics without a key, for a Prometheus that has none"
    )


class LimitSettings(BaseModel):
    """What one client may cost the others."""

    model_config = ConfigDict(title="Limits", defer_build=True)

    max_queue: int = Field(256, ge=1, description="requests that may wait; more are refused with 429")
    max_queue_per_key: int = Field(64, ge=1, description="those of one key; more are refused with 429")
    max_wait_seconds: float = Field(
        60.0, ge=0, description="a request that has waited this long to start is refused with 429; 0: never"
    )
    slo_ttft_ms: float | None = Field(
        None, gt=0,
        description="refuse a request whose first token would take longer, as `trimtab measure llm` predicts",
    )  # fmt: skip
    slo_tpot_ms: float | None = Field(
        None, gt=0, description="refuse one beside which a step would take longer, by the same prediction"
    )  # fmt: skip
    stream_gap_ms: float | None = Field(
        None, ge=0,
        description="least time between pieces of a stream; by default 2 for each other stream, at most 80",
    )  # fmt: skip
    request_seconds: float = Field(
        0.0, ge=0, description="a request that has taken this long is ended; 0: never"
    )
    max_prompts: int = Field(256, ge=1, description="prompts of one request, times its choices")
    max_body_bytes: Bytes = Field(32 * 2**20, description="longest request body; e.g. 32MiB")
    max_connections: int = Field(
        1024, ge=1, description="open at a time; beyond, one that has asked nothing is closed"
    )
    header_seconds: float = Field(20.0, gt=0, description="for a client to send a request's head")
    body_seconds: float = Field(
        30.0, gt=0, description="for a client to send a body, and a second more for each KiB that came"
    )
    idle_seconds: float = Field(75.0, gt=0, description="until an unused connection is closed")
    stall_seconds: float = Field(60.0, gt=0, description="until a client that reads no answer is given up")
    drain_seconds: int = Field(60, ge=0, description="how long running requests may go on after SIGTERM")


class StateSettings(BaseModel):
    """What outlives the server."""

    model_config = ConfigDict(title="State", defer_build=True)

    state_dir: Path | None = Field(
        None, description="where files, batches and kept responses are; default: the user's state folder"
    )
    max_file_bytes: Bytes = Field(200 * 2**20, description="largest uploaded file; e.g. 200MiB")
    max_stored_bytes: Bytes = Field(10 * 2**30, description="all files together; e.g. 10GiB")
    response_days: int = Field(
        30, ge=0, description="how long answers of /v1/responses can be continued; 0 keeps none"
    )


class WatchSettings(BaseModel):
    """What the server tells about itself."""

    model_config = ConfigDict(title="Logs and traces", defer_build=True)

    log_level: Literal["error", "warning", "info", "debug"] = Field(
        "warning", description="what goes to stderr; info adds one line a request"
    )
    log_format: Literal["text", "json"] = Field("text", description="one line of text or one JSON object")
    inspect: Literal["off", "meta", "full"] | None = Field(
        None,
        description="what the console may show of recent requests, kept in memory only: nothing, figures, or "
        "tokens too; default: full where only this machine can connect and there is no key, else meta",
    )
    log_prompts: bool = Field(False, description="log prompts and answers too; they may be private")
    otlp_endpoint: str | None = Field(
        None, description="send traces there, such as http://127.0.0.1:4318; takes trimtab[otel]"
    )


class ServeSettings(
    ModelSettings,
    PrefixSettings,
    AddressSettings,
    KeySettings,
    LimitSettings,
    StateSettings,
    WatchSettings,
):
    """The model and the HTTP server around it."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Server", defer_build=False)

    @property
    def served_name(self) -> str:
        return self.name or super().served_name


def fields_of(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields group by group, in the order in which `kind` names its groups."""
    parents = [base for base in kind.__mro__[1:] if hasattr(base, "model_fields")]
    names = [name for base in (*parents, kind) for name in inspect.get_annotations(base)]
    return {name: kind.model_fields[name] for name in names if name in kind.model_fields}


def group_of(kind: type[BaseModel], field: str) -> str:
    """The title of the class that a field comes from."""
    owner = next(base for base in kind.__mro__ if field in inspect.get_annotations(base))
    return str(getattr(owner, "model_config", {}).get("title") or "")
