"""`/health`: the process lives. `/ready`: send it work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse, Response

from trimtab.server.call import retry_after

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trimtab.server.lifecycle import Lifecycle
    from trimtab.server.served import Loading


def add_routes(app: FastAPI, loading: Loading, lifecycle: Lifecycle) -> None:
    """Add both addresses."""

    def status() -> str:
        if lifecycle.draining:
            return "draining"
        return "ok" if loading.ready else "loading"

    @app.get("/health", response_model=None, summary="200 as long as the process lives")
    async def health() -> Response:
        return JSONResponse({"status": status()})

    @app.get("/ready", response_model=None, summary="200 while new requests are taken, else 503")
    async def ready() -> Response:
        now = status()
        return (
            JSONResponse({"status": now})
            if now == "ok"
            else JSONResponse({"status": now}, 503, retry_after(1))
        )
