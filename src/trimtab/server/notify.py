"""Tell the service manager how far the server is: systemd's protocol, one datagram a word."""

from __future__ import annotations

import os
import socket


def notify(word: str) -> None:
    """Send `READY=1`, `STOPPING=1` or the like to whoever started this process and wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(word.encode())
    except OSError:  # nobody listens any more: not our concern
        return
