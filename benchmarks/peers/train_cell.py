"""The driver of one cell of the training dissection: a process with one model, stepped when asked."""

from __future__ import annotations

from typing import Any

from protocol import serve

from trimtab.formats.source import open_source
from trimtab.models.config import config_from
from trimtab.train.cell import Cell, operators_of, table_of
from trimtab.train.costs import StepCosts
from trimtab.train.reference_steps import measure
from trimtab.train.shapes import llama_shape
from trimtab.train.trainer import Techniques


class Driver:
    """Operations of the protocol; see `trimtab.train.cell`."""

    cell: Cell | None = None

    def load(
        self, techniques: str, batch: int, length: int, threads: int, model: str = "", shape: Any = None
    ) -> dict[str, Any]:
        """Build the cell on a checkpoint or on random weights of a shape, and take its first steps."""
        if self.cell is not None:
            self.cell.close()
        self.cell = None  # its memory goes before the next takes any
        source = open_source(model) if model else None
        config = config_from(source) if source is not None else llama_shape(**shape)
        self.cell = Cell(
            config, source, Techniques.of(techniques), batch=batch, length=length, threads=threads
        )
        return {"losses": self.cell.warm()}

    def step(self) -> dict[str, Any]:
        return {"seconds": self.cell.step_seconds()}

    def recorded(self) -> dict[str, Any]:
        """A step under the recorder: how long it was, and what its modules explain."""
        self.last = self.cell.dissection()
        return {"seconds": self.last.step_seconds, "closure": self.last.closure}

    def memory(self) -> dict[str, Any]:
        return self.cell.memory()

    def costs(self) -> dict[str, Any]:
        return measure()

    def predict(self, costs: dict[str, Any]) -> dict[str, Any]:
        rates, trace = StepCosts.of(costs), self.cell.trace()
        return {
            "seconds": rates.step_seconds(trace), "arithmetic_seconds": rates.arithmetic_seconds(trace),
            "bytes": trace.total_bytes, "modules": table_of(self.last, "module")[:12],
            "operators": operators_of(self.last, trace, rates)[:12],
        }  # fmt: skip


if __name__ == "__main__":
    serve(Driver())
