"""What a user may set about a model and its server: one definition for flags, environment and Python.

The command line makes its options from these fields (`--kv-type` from `kv_type`, `--memory` from
`memory_bytes`), with `TRIMTAB_KV_TYPE` and the like as their environment variables. Nothing here opens a
model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    from trimtab.engine.budget import parse_size

    return parse_size(value)


Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""A number of bytes, or a text such as `400MB` or `1.5GiB`."""


class ModelSettings(BaseModel):
    """Which model, and how it is held and run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    format: Literal["auto", "bf16", "int8", "q4", "q8"] = Field(
        "auto", description="weight format in memory; auto keeps what the file has"
    )
    device: str = Field("cpu", description="cpu, or a torch device such as cuda")

    @property
    def served_name(self) -> str:
        """What to call the model: MODEL without folders and extension."""
        return self.model.rstrip("/").rpartition("/")[2].removesuffix(".gguf") or self.model


class ServeSettings(ModelSettings):
    """The model and the HTTP server around it."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    name: str | None = Field(None, min_length=1, description="what the API calls the model; default: MODEL")
    max_queue: int = Field(256, ge=1, description="requests that may wait; more are refused with 429")
    max_body_bytes: Bytes = Field(32 * 2**20, description="longest request body; e.g. 32MiB")
    drain_seconds: int = Field(60, ge=0, description="how long running requests may go on after SIGTERM")
    log_level: Literal["error", "warning", "info", "debug"] = Field(
        "warning", description="what goes to stderr; info adds one line a request"
    )

    @property
    def served_name(self) -> str:
        return self.name or super().served_name
