"""Builds what benchmarks compare with: STREAM in other ways, the kernels on other executors or unrecorded.

Everything goes into `build/rivals` of the repository and is kept until its source, the compiler or the flags
change. What cannot be built is refused with what is missing and how to get it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.errors import UsageError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
FLAGS = ("-O3", "-march=native", "-fopenmp")
"""The flags of both STREAM programs: what the reference recommends to a user of gcc."""

EXECUTORS = ("openmp", "async")


def openmp_stream(numbers: int) -> Path:
    """STREAM in C with OpenMP over arrays of so many doubles."""
    return _program("openmp_stream.c", "gcc", (*FLAGS, f"-DSTREAM_N={numbers}"), ("-lm",))


def par_stream(numbers: int) -> Path:
    """STREAM with std::execution::par, which runs on oneTBB."""
    prefix = _tbb_prefix()
    include, lib = prefix / "include", prefix / "lib"
    own = () if prefix == Path("/usr") else (f"-I{include}", f"-L{lib}", f"-Wl,-rpath,{lib}")
    return _program("par_stream.cpp", "g++", ("-std=c++20", *FLAGS, f"-DSTREAM_N={numbers}"), (*own, "-ltbb"))


def parallel_for() -> Path:
    """A library with empty regions through torch's parallel_for."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        raise UsageError("torch is not installed", "pip install trimtab[torch]")
    torch = Path(next(iter(found.submodule_search_locations)))
    flags = ("-std=c++20", "-O3", "-fopenmp", "-shared", "-fPIC", f"-I{torch / 'include'}")
    libraries = (f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-ltorch_cpu", "-lc10")
    return _program("parallel_for.cpp", "g++", flags, libraries)


def executors(say: Callable[[str], None]) -> dict[str, Path]:
    """trimtab's native module once for each rival executor, by name; its kernels are the same objects."""
    say("building the kernels on OpenMP and on std::async, a few minutes the first time")
    folder = _module("executors", f"-DTRIMTAB_EXECUTOR={';'.join(EXECUTORS)}")
    return {name: next((folder / name).glob("_native*.so")) for name in EXECUTORS}


def without_recorder(say: Callable[[str], None]) -> Path:
    """trimtab's native module in which nothing is left of the span recorder."""
    say("building the native module without its recorder, a few minutes the first time")
    return next(_module("no-recorder", "-DTRIMTAB_RECORDER=OFF").glob("_native*.so"))


def _module(name: str, option: str) -> Path:
    """The folder of a build of the native module with one option of its own."""
    folder = REPOSITORY / "build" / "rivals" / name
    for needed in ("cmake", "g++"):
        if shutil.which(needed) is None:
            raise UsageError(f"no `{needed}` on the path", "install the compiler and CMake of your system")
    if importlib.util.find_spec("nanobind") is None:
        raise UsageError("nanobind is not installed", "pip install nanobind")
    cache = folder / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_CACHEFILE_DIR:INTERNAL={folder}\n" not in cache.read_text(encoding="utf-8"):
        shutil.rmtree(folder)  # the clone has been moved, and CMake works in no folder that was
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    generator = ["-G", "Ninja"] if shutil.which("ninja") and not cache.exists() else []
    _run(
        ["cmake", "-S", str(REPOSITORY), "-B", str(folder), *generator, "-DCMAKE_BUILD_TYPE=Release",
         f"-DPython_EXECUTABLE={sys.executable}", option, *launcher]
    )  # fmt: skip
    _run(["cmake", "--build", str(folder), "--parallel", "2"])
    return folder


def stores_of(program: Path) -> str:
    """How a program's loops write, from its disassembly; empty where it cannot be looked at."""
    if shutil.which("objdump") is None:
        return ""
    code = _run(["objdump", "-d", "--no-show-raw-insn", str(program)])
    found = sorted(set(re.findall(r"\bv?movnt(?:pd|ps|dq)\b", code)))
    if re.search(r"(?:call|jmp)\s+\w+ <mem(?:cpy|move)@plt>", code):
        found.append("memcpy for the copy")
    return ", ".join(found) or "plain stores"


def compiler() -> str:
    """The compiler of both STREAM programs."""
    return _run(["gcc", "--version"]).partition("\n")[0]


def _program(source: str, compiler_name: str, flags: Sequence[str], libraries: Sequence[str]) -> Path:
    if shutil.which(compiler_name) is None:
        raise UsageError(f"no `{compiler_name}` on the path", "install GCC: `apt-get install g++`")
    text = b"".join(path.read_bytes() for path in (HERE / source, HERE / "worker.h"))
    mark = hashlib.sha256(text + " ".join((compiler_name, *flags, *libraries)).encode()).hexdigest()[:12]
    folder = REPOSITORY / "build" / "rivals"
    path = folder / f"{Path(source).stem}-{mark}{'.so' if '-shared' in flags else ''}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run([compiler_name, *flags, str(HERE / source), "-o", f"{path}.new", *libraries])
        Path(f"{path}.new").replace(path)
    return path


def _tbb_prefix() -> Path:
    for prefix in (Path(sys.prefix), Path("/usr"), Path("/usr/local")):
        if (prefix / "include" / "tbb" / "parallel_for.h").exists():
            return prefix
    raise UsageError(
        "oneTBB's headers are not here", "`pip install tbb-devel` or `apt-get install libtbb-dev`"
    )


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise UsageError(f"`{' '.join(command[:2])} …` failed: {tail}", "is the compiler complete?")
    return done.stdout
