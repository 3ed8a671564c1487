"""The driver of one model and cache type of `trimtab bench dissect`: a process that records itself."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

from protocol import serve
from trimtab_peer import Trimtab

from trimtab.engine import recording
from trimtab.evaluate import operators
from trimtab.machine import probe
from trimtab.machine.dissect.dissection import dissect
from trimtab.machine.dissect.operator_rates import OperatorRates, Rate
from trimtab.machine.dissect.step_cost import arithmetic_seconds, probed
from trimtab.machine.dissect.steps import steps_of
from trimtab.machine.dissect.work import work
from trimtab.machine.profile import Profile
from trimtab.machine.roofline import Ceilings

WARM = 3


class ServeCell(Trimtab):
    def rates(self, kv_type: str, threads: int, quick: bool) -> dict[str, Any]:
        """What to expect of operations here and now, from the reference model."""
        forms = [(format, kv_type) for format in ("q4", "q8")]
        return operators.measure(threads, quick=quick, forms=forms)

    def ceilings(self, profile: str, threads: int) -> dict[str, Any]:
        """Read the machine profile; a quick probe where there is none."""
        self._ceilings, basis = probed(probe.measure(threads, 0.2)), "probe"
        if Path(profile).exists():
            self._ceilings = Ceilings.of(Profile.from_json(Path(profile)), threads, allow_noisy=True)
            basis = "profile"
        return {"basis": basis}

    def cell(self, prompts: list[list[int]], tokens: int, rates: dict[str, Any]) -> dict[str, Any]:
        """Run the requests under the recorder, and hold the budget and the prediction against the clock."""
        recorder = self._engine.recorder
        recorder.start()
        began = time.perf_counter()
        self.batch(prompts, tokens)
        outside = time.perf_counter() - began
        recorder.stop()
        made = recording.take(self._engine)
        found = dissect(made, self._ceilings)
        expected = OperatorRates({name: Rate(**each) for name, each in rates["rates"].items()})
        steps, rows = steps_of(made), []
        for stage in ("prefill", "decode"):
            chosen = [
                place
                for place, shape in enumerate(steps.shapes)
                if shape.kind == stage and (stage != "decode" or shape.rows == len(prompts))
            ]
            chosen = chosen[WARM:] if len(chosen) > 2 * WARM else chosen
            if not chosen:
                continue
            shapes = [steps.shapes[place] for place in chosen]
            counted = [[work(each, shape) for each in made.operations] for shape in shapes]
            rows.append({
                "stage": stage, "steps": len(chosen), "rows": shapes[0].rows,
                "measured_s": statistics.median(float(steps.run_s[place]) for place in chosen),
                "predicted_s": statistics.median(
                    expected.step_seconds(made.operations, shape) for shape in shapes
                ),
                "by_flops_s": statistics.median(arithmetic_seconds(each, self._ceilings) for each in counted),
                "modules_of_step": float(
                    sum(steps.seconds[place].sum() for place in chosen)
                    / sum(steps.run_s[place] for place in chosen)
                ),
            })  # fmt: skip
        engine = sum(row["seconds"] for row in found["engine"]["rows"])
        return {
            "seconds": outside, "stages": rows, "engine_of_outside": engine / outside,
            "memory": found["memory"]["closure"], "left_out": steps.left_out,
            "modules": [
                {key: row[key] for key in ("stage", "name", "share", "of_bound", "class")}
                for row in found["modules"]
            ],
        }  # fmt: skip

    def turns(self, prompts: list[list[int]], tokens: int, phase_s: float) -> dict[str, Any]:
        """When decode steps ended while the recorder goes on and off every so often, and when it went."""
        recorder, switched = self._engine.recorder, [time.monotonic()]
        ended = threading.Event()

        def switch() -> None:
            while not ended.wait(phase_s):
                recorder.stop() if recorder.on else recorder.start()
                switched.append(time.monotonic())

        thread = threading.Thread(target=switch)
        thread.start()
        try:
            ends = self.times(prompts, tokens)["ends"]
        finally:
            ended.set()
            thread.join()
            recorder.stop()
            recorder.take()
        return {"ends": ends, "switched": switched}

    def close(self) -> dict[str, Any]:
        self._engine.close()
        return {}


if __name__ == "__main__":
    serve(ServeCell())
