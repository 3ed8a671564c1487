"""The networks of the pipelines: where their files are, whether they are the right ones, how they run.

The files come out of an installed package and are checked by hash; nothing is downloaded. ONNX Runtime
executes them, with its own threads kept to what the pipeline's plan says: several workers that each bring a
pool of threads would fight for the same cores.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trimtab.errors import BadFile, UnknownName, UsageError
from trimtab.server.pipeline.buffers import Array

HINT = "install them with `pip install 'trimtab[vision]'`"


@dataclass(frozen=True, slots=True)
class Known:
    """A network file in a package: its place, its hash, and what it is."""

    package: str
    file: str
    sha256: str
    about: str


NETWORKS = {
    "ppocr-detect": Known(
        "rapidocr", "models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f", "text detector, PP-OCRv6 small",
    ),
    "ppocr-direction": Known(
        "rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c", "upside down or not, PP-OCR",
    ),
    "ppocr-recognise": Known(
        "rapidocr", "models/PP-OCRv6_rec_small.onnx",
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884", "text recogniser, PP-OCRv6 small",
    ),
}  # fmt: skip


def file_of(name: str) -> Path:
    """The checked file of a network.

    Raises
    ------
    UnknownName : there is no such network
    UsageError : its package is not installed
    BadFile : the file is not the one that was released
    """
    if name not in NETWORKS:
        raise UnknownName(f"no network {name!r}", f"there is {', '.join(NETWORKS)}", "network")
    known = NETWORKS[name]
    found = find_spec(known.package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"the network {name!r} is in the package `{known.package}`, which is not here", HINT)
    path = Path(found.submodule_search_locations[0]) / known.file
    if not path.is_file():
        raise UsageError(f"`{known.package}` has no {known.file}", "rapidocr 3.10 has it; " + HINT)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != known.sha256:
        raise BadFile(path, f"its sha256 is {digest}, not {known.sha256}", hint="install rapidocr 3.10 anew")
    return path


class Network:
    """One network, loaded; several threads may run it at a time.

    Parameters
    ----------
    threads : inside one run
    spinning : its threads wait for work without sleeping: best for one run after the other with nothing
        beside, and the worst beside other workers, whose cores they hold
    """

    def __init__(self, name: str, threads: int = 1, *, spinning: bool = False) -> None:
        path = file_of(name)
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise UsageError("pipelines need ONNX Runtime, which is not here", HINT) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self.session.get_inputs()[0].name

    def run(self, batch: Array) -> Array:
        """The first output for a batch; Python goes on meanwhile."""
        outputs: list[Any] = self.session.run(None, {self._input: batch})
        found: Array = outputs[0]
        return found

    @property
    def characters(self) -> list[str]:
        """What a recogniser's classes stand for, as its file says; the blank comes first, the space last."""
        listed = self.session.get_modelmeta().custom_metadata_map.get("character", "")
        return ["", *listed.splitlines(), " "]
