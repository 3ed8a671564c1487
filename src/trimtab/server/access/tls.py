"""HTTPS: the certificate, who may connect, and a new certificate without a restart."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import UsageError

if TYPE_CHECKING:
    from trimtab.server.settings import ServeSettings

_log = logging.getLogger("trimtab.server")


class Certificate:
    """The context that every connection uses; connections made after a `refresh` have the new certificate.

    Raises
    ------
    UsageError : a file is missing or is not what it should be
    """

    def __init__(self, certificate: Path, key: Path | None, client_ca: Path | None) -> None:
        self._files = [path for path in (certificate, key) if path is not None]
        self._pair = (certificate, key or certificate)
        self._stamp = self._stamps()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        try:
            self.context.load_cert_chain(*self._pair, password=_nobody_to_ask)
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(map(str, self._files))
            hint = "it takes a chain and its key in PEM, the key without a password"
            raise UsageError(f"cannot use {files} for HTTPS: {_words(error)}", hint, "tls_cert") from error
        if client_ca is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            try:
                self.context.load_verify_locations(client_ca)
            except (OSError, ssl.SSLError) as error:
                message = f"cannot use {client_ca} as certificate authorities: {_words(error)}"
                raise UsageError(message, "", "tls_client_ca") from error

    @classmethod
    def of(cls, settings: ServeSettings) -> Certificate | None:
        """As the settings say; None without HTTPS."""
        if settings.tls_cert is None:
            if settings.tls_key is not None or settings.tls_client_ca is not None:
                raise UsageError("--tls-key and --tls-client-ca go with --tls-cert", param="tls_cert")
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def refresh(self) -> None:
        """Take over files that have changed; what cannot be used is said and left."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            # Tried on the side first: half a change, a new chain with the old key, must spoil nothing.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._pair, password=_nobody_to_ask)
            self.context.load_cert_chain(*self._pair, password=_nobody_to_ask)
        except (OSError, ssl.SSLError) as error:
            _log.error("the certificate stays as it was: %s", _words(error))

    def _stamps(self) -> list[int]:
        stamps = []
        for path in self._files:
            try:
                stamps.append(path.stat().st_mtime_ns)
            except OSError:
                stamps.append(0)
        return stamps


def _nobody_to_ask() -> str:
    raise OSError("the key has a password")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
