"""The console's files: served from the package as they are, with headers that let nothing foreign run.

There is no build step and no address outside this server. The policy forbids inline scripts and turning text
into markup, so an answer of a model cannot become code even where the console itself had a mistake.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import Response

from trimtab.server.errors import error_answer

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Asked for again each time and answered with 304: a new release is seen at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the console."""

    content: bytes
    kind: str
    etag: str


class Assets:
    """The files of the console by name, read when first asked for."""

    def __init__(self) -> None:
        self._folder = files("trimtab.server.console") / "static"
        self._found: dict[str, Asset] = {}

    def get(self, name: str) -> Asset | None:
        """A file, or None: only plain names of known kinds that the package has."""
        if (found := self._found.get(name)) is not None:
            return found
        stem, _, extension = name.rpartition(".")
        kind = KINDS.get(extension)
        if kind is None or not stem.replace("-", "").isalnum() or not stem.isascii():
            return None
        path = self._folder / name
        if not path.is_file():
            return None
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        self._found[name] = Asset(content, kind, etag)
        return self._found[name]

    def answer(self, request: Request, name: str) -> Response:
        """The file as an HTTP answer; 304 when the browser has it, 404 when there is none."""
        asset = self.get(name)
        if asset is None:
            return error_answer(404, f"no such address: {request.method} {request.url.path}")
        headers = {**HEADERS, "ETag": asset.etag}
        known = request.headers.get("if-none-match", "")
        if asset.etag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.kind)


def add_routes(app: FastAPI) -> None:
    """`/` is the console's page; its other files lie under `/console/`."""
    assets = Assets()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    async def console_page(request: Request) -> Response:
        return assets.answer(request, "index.html")

    @app.api_route("/console/{name}", methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    async def console_file(name: str, request: Request) -> Response:
        return assets.answer(request, name)
