"""What every request passes on its way in: is the server staying, who asks, and is it within its limits.

An ASGI layer around the application. It gives each request its `Call`, counts it while it runs, and tells
those who want to know when it is over: logs, metrics and traces.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from typing import TYPE_CHECKING

from trimtab.server.access.keys import Keys, Tenant, WrongKey
from trimtab.server.call import Call, over_limit, retry_after
from trimtab.server.errors import ApiError, from_api

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trimtab.server.operations import Operations

# Answered to everybody: what tells nothing about anyone.
PUBLIC = frozenset({"/", "/health", "/ready", "/openapi.json", "/favicon.ico", "/robots.txt"})
_PAGES = "/console/"
_PAGES_DATA = "/console/api/"

BECAUSE_DRAINING = "the server is shutting down; ask another one, or this one again in a moment"


class Gate:
    """The layer itself."""

    def __init__(self, app: ASGIApp, operations: Operations) -> None:
        self.app = app
        self.operations = operations
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        operations = self.operations
        call = _call(scope, operations.patience_s)
        call.number = next(self._numbers)
        scope.setdefault("state", {}).update(call=call, tenant=call.tenant)
        entered: set[str] = set()
        deadline = None

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(message, call)]
            await send(message)

        try:
            try:
                self._enter(scope, call, entered)
            except ApiError as error:
                await from_api(error)(scope, receive, told)
                return
            if operations.request_s < math.inf:
                deadline = asyncio.get_running_loop().call_later(operations.request_s, call.expire)
            await self.app(scope, receive, told)
        except asyncio.CancelledError:
            call.status = call.status or 503
            raise
        except BaseException:
            call.status = 500
            raise
        finally:
            if deadline is not None:
                deadline.cancel()
            if "active" in entered:
                operations.lifecycle.active -= 1
            if "running" in entered:
                call.quota.running -= 1
            call.route = _route(scope)
            operations.over(call)

    def _enter(self, scope: Scope, call: Call, entered: set[str]) -> None:
        """Let it in, noting in `entered` what has been counted up.

        Raises
        ------
        ApiError : 401, 403, 429 or 503
        """
        operations, path = self.operations, call.path
        if path in PUBLIC or (path.startswith(_PAGES) and not path.startswith(_PAGES_DATA)):
            return
        watches = path == "/metrics" or path.startswith(_PAGES)
        if operations.lifecycle.draining and not watches:
            error = ApiError(503, BECAUSE_DRAINING, code="shutting_down")
            error.headers = {**retry_after(5), "Connection": "close"}
            raise error
        if operations.keys.required and not (path == "/metrics" and operations.open_metrics):
            call.tenant = scope["state"]["tenant"] = tenant = _authenticated(scope, operations.keys)
            call.quota = operations.quotas.of(tenant.name, tenant.limits)
            if path == "/metrics" and not tenant.admin:
                raise ApiError(403, "these figures are about everybody; they take a key made with --admin")
        if watches:
            return
        if call.method == "POST":
            self._within_limits(call)
            call.quota.running += 1
            entered.add("running")
        operations.lifecycle.active += 1
        entered.add("active")

    def _within_limits(self, call: Call) -> None:
        quota = call.quota
        most = quota.limits.max_concurrent
        if most is not None and quota.running >= most:
            error = ApiError(
                429, f"Too many requests at a time: Limit {most}, Running {quota.running}, Requested 1.",
                code="rate_limit_exceeded",
            )  # fmt: skip
            error.kind, error.headers = "requests", retry_after(1)
            raise error
        bucket = quota.requests
        if bucket is not None:
            with quota.lock:
                if wait := bucket.wait_s(1):
                    raise over_limit("requests", "requests per min (RPM)", bucket, 1, wait)
                bucket.take(1)


def _call(scope: Scope, patience_s: float) -> Call:
    client = scope.get("client")
    traceparent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    return Call(
        patience_s=patience_s,
        id=f"req_{secrets.token_hex(12)}",
        method=scope["method"],
        path=scope["path"],
        client=client[0] if client else "",
        traceparent=traceparent.decode("latin-1"),
    )


def _route(scope: Scope) -> str:
    """`/v1/files/{file_id}`; known once the application has found out where the request goes."""
    if "endpoint" not in scope and scope["path"] not in PUBLIC:
        return ""
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        path = path.replace(f"/{value}", f"/{{{name}}}", 1)
    return path


def _authenticated(scope: Scope, keys: Keys) -> Tenant:
    """Whose key the request carries.

    Raises
    ------
    ApiError : 401, worded as OpenAI does
    """
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, key = header.decode("latin-1").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header "
            "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        error = ApiError(401, message)
    else:
        try:
            return keys.find(key)
        except WrongKey as wrong:
            shown = f"{key[:6]}****" if len(key) > 20 else "****"
            error = ApiError(401, f"Incorrect API key provided: {shown}; {wrong}.", code="invalid_api_key")
    error.kind = "invalid_request_error"
    error.headers = {"WWW-Authenticate": "Bearer"}
    raise error


def _headers(message: Message, call: Call) -> list[tuple[bytes, bytes]]:
    """What every answer carries, beside its own."""
    found = [(name.encode(), value.encode()) for name, value in call.quota.headers().items()]
    if not any(name == b"x-request-id" for name, _ in message.get("headers", ())):
        found.append((b"x-request-id", call.id.encode()))
    return found
