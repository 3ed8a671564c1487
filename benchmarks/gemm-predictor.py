"""The time of a matrix product is predicted within 8 % before it runs, and how it is cut is chosen by that.

Work: some 370 products (every layer of five models at 1 to 2048 rows, a grid between), each in several
formats, blockings and thread counts, as `trimtab measure gemm` times them; a profile younger than a day is
taken as it is. Accuracy is that on products left out by shape, beside the bare roofline and the recipe of
arXiv 2411.16954. Chosen blockings are those of predictors that never saw the product; they, the default,
the naive one and the fastest found are timed again by turns. Then predictors that learned from sides up to
2048 are asked for longer ones, and prompts of SmolLM2 and of a model made up in the sizes of Gemma 3 270M are
predicted and read.

The kernels' default is hand-tuned and near the best for 4-bit weights and bf16, so the naive blocking, one
row and one tile at a time, stands beside it. Power and energy need a meter, and the sweep of GPU kernels
needs a GPU; neither is here.
"""

from __future__ import annotations

import re
import statistics
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from peers.roster import SEED
from trimtab import _native
from trimtab.engine import prefill_time
from trimtab.engine.prefill_time import Planner
from trimtab.errors import NotMeasured
from trimtab.formats import cache
from trimtab.formats.source import open_source
from trimtab.kernels.chooser import KernelChooser
from trimtab.machine import profile
from trimtab.machine.bench import BenchOptions, target
from trimtab.machine.gemm import choice, validate
from trimtab.machine.gemm import measure as measuring
from trimtab.machine.gemm.blocking import NAIVE
from trimtab.machine.gemm.collect import Task, Timer, kernels_of
from trimtab.machine.gemm.model import GemmModel
from trimtab.machine.probe import describe
from trimtab.machine.report import Report, command_line, versions
from trimtab.machine.sampling import in_turns
from trimtab.models.config import ModelConfig, Rope, config_from
from trimtab.models.made import MadeSource

CLAIM = (__doc__ or "").partition("\n")[0]
PROMPTS = (48, 128, 256, 384, 512)
FINALISTS = 4


def run(options: BenchOptions) -> Report:
    bench = Bench(options)
    accuracy = bench.accuracy()
    selection = [] if options.quick else bench.selection()
    extrapolation = [] if options.quick else bench.extrapolation()
    planned = bench.planned()
    whole = {} if options.quick else bench.whole_prefill()
    table = [*accuracy["lines"], *bench.leakage, *extrapolation, *planned]
    targets = [
        *accuracy["targets"], *_leak_targets(bench.leakage), *_selection_targets(selection),
        *_extrapolation_targets(extrapolation), *_planner_targets(planned), *_whole_targets(whole),
    ]  # fmt: skip
    mine = [line for line in accuracy["lines"] if line["predictor"] == "residual trees"]
    return Report(
        name="gemm-predictor-quick" if options.quick else "gemm-predictor", claim=CLAIM,
        machine=asdict(describe()), versions=versions(), command=command_line(), seeds=[SEED],
        samples={"prefill": whole.get("samples", {}), "planner": [line["read_s"] for line in planned]},
        result={
            "threads": bench.threads, "ratio": max((line["median_error"] for line in mine), default=None),
            "unit": "median error of the worst format, of products left out by shape", "limit_fraction": None,
            "quality": {"results": "bit for bit the same in every blocking"},
            "samples": [line["median_error"] for line in mine], "targets": targets, "table": table,
            "selection": selection, "session": bench.data["session"], "libraries": bench.data["libraries"],
            "rows": bench.data["rows"], "noise": bench.noise, "prefill": whole.get("lines", []),
        },
    )  # fmt: skip


class Bench:
    """A measured profile section, and what is asked of it."""

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.threads = options.threads or describe().usable
        section = self._section()
        self.data = section.data
        self.noise = {"steal": section.steal, "others": section.others, "date": section.date}
        self.rows = [row for row in measuring.rows_of(self.data["rows"]) if row.library == "trimtab"]
        self.model = GemmModel.from_json(self.data["model"])
        self.kernels = kernels_of({row.format for row in self.rows})
        self.told = validate.left_out(self.rows, self.kernels, self.model.roofs)
        self.leakage = validate.leakage(self.rows, self.kernels)

    def say(self, text: str) -> None:
        if not self.options.json_only:
            print(f"  {text}", file=sys.stderr, flush=True)

    def _section(self) -> profile.Section:
        if not self.options.quick:
            try:
                known = profile.Profile.load()
                if not known.need(measuring.SECTION, max_age_s=profile.DAY_S)["quick"]:
                    return known.sections[measuring.SECTION]
            except NotMeasured as reason:
                self.say(f"measuring: {reason.message}")
        with profile.watched() as watch:
            data = measuring.measure(quick=self.options.quick, threads=[self.threads], say=self.say) \
                if self.options.quick else measuring.measure(say=self.say)  # fmt: skip
        section = watch.section(data)
        if not self.options.quick:
            measuring.save(section)
        return section

    def accuracy(self) -> dict[str, Any]:
        """Errors of every way to predict, on the same rows, and what was promised of ours."""
        lines = validate.accuracy(self.told, self.kernels)
        targets = []
        for line in lines:
            if line["predictor"] == "residual trees" and line["threads"] == self.threads:
                what = f"{line['format']} on {line['threads']} threads"
                if line["format"] in ("bf16", "int8"):
                    targets += [
                        target(f"{what}: median error", line["median_error"], most=0.08),
                        target(f"{what}: mean error", line["mean_error"], most=0.15),
                    ]
                targets.append(target(f"{what}: R2 of the logarithms", line["r2_log"], least=0.98))
                targets.append(target(f"{what}: R2 of the times", line["r2"], least=0.98))
        return {"lines": lines, "targets": targets}

    def selection(self) -> list[dict[str, Any]]:
        """Chosen blockings, timed again by turns with the default and the fastest others."""
        timer = Timer({row.threads for row in self.rows})
        rounds = max(3, self.options.rounds)
        lines = []
        choices = validate.choices(self.told)
        for number, made in enumerate(choices):
            if number % 20 == 0:
                self.say(f"choices: {number} of {len(choices)} products")
            cases = {
                way: partial(timer.seconds, Task(made.format, made.threads, made.shape, way))
                for way in made.finalists(FINALISTS)
            }
            found = in_turns(cases, rounds, seed=number)
            lines.append(made.line({way: statistics.median(values) for way, values in found.items()}))
        return lines

    def extrapolation(self) -> list[dict[str, Any]]:
        self.say("asking for longer sides than were learned")
        return validate.extrapolation(self.rows, self.kernels, self.model.roofs)

    def planned(self) -> list[dict[str, Any]]:
        """Prompts predicted and read, of the model asked for and of one made up."""
        prompts = PROMPTS[::3] if self.options.quick else PROMPTS
        format = "int8" if self.options.quick else "auto"
        lines = []
        with closing(open_source(cache.resolve(self.options.model, pull=True))) as source:
            lines += self._planned(self.options.model, source, config_from(source), format, prompts)
        if not self.options.quick:
            config = gemma_270m()
            lines += self._planned("made up as Gemma 3 270M", MadeSource(config), config, "int8", prompts)
        return lines

    def _planned(self, name: str, source: Any, config: ModelConfig, format: str, prompts: Any) -> list[Any]:
        planner = Planner(self.model, source, config, format=format, threads=self.threads)
        lines = []
        with closing(prefill_time.open_for(source, config, max(prompts), planner)) as runner:
            told = {}
            for tokens in prompts:
                self.say(f"{name}: a prompt of {tokens} tokens")
                told[tokens] = planner.predict(tokens)
            # By turns: a neighbour's second on the machine spoils a round of each length, not all of one.
            cases = {tokens: partial(_read, runner, planner.step_rows, tokens) for tokens in prompts}
            found = in_turns(cases, max(5, self.options.rounds), seed=SEED)
            for tokens, each in told.items():
                middle = statistics.median(found[tokens])
                lines.append({
                    "model": name, "weights": format, "tokens": tokens, "predicted_s": each.seconds,
                    "low_s": each.low_s, "high_s": each.high_s, "measured_s": middle,
                    "error": each.seconds / middle - 1, "other_share": each.other_s / each.seconds,
                    "read_s": found[tokens],
                })  # fmt: skip
        return lines

    def whole_prefill(self) -> dict[str, Any]:
        """A prompt of 512 tokens with chosen blockings, with the default, and with none; by turns."""
        path = cache.resolve(self.options.model, pull=True)
        lines, samples = [], {}
        table = choice.table(self.model, _native.ROW_CLASSES, self.data["kernels"])
        choosers: dict[str, KernelChooser] = {
            "chosen": KernelChooser(table["threads"][str(self.threads)]), "default": KernelChooser(),
            "naive": Fixed(NAIVE),
        }  # fmt: skip
        for format in ("auto", "int8"):
            with closing(open_source(path)) as source, ExitStack() as stack:
                config = config_from(source)
                cases = {}
                for name, chooser in choosers.items():
                    planner = Planner(
                        self.model, source, config, format=format, threads=self.threads, chooser=chooser
                    )
                    runner = stack.enter_context(
                        closing(prefill_time.open_for(source, config, max(PROMPTS), planner))
                    )
                    cases[name] = partial(_read, runner, planner.step_rows)
                self.say(f"prompts of {max(PROMPTS)} tokens, weights {format}")
                found = in_turns(cases, max(5, 2 * self.options.rounds), seed=SEED)
            middle = {name: statistics.median(values) for name, values in found.items()}
            samples[format] = found
            lines.append({
                "weights": format, "chosen_s": middle["chosen"], "default_s": middle["default"],
                "naive_s": middle["naive"], "over_default": middle["default"] / middle["chosen"],
                "over_naive": middle["naive"] / middle["chosen"],
            })  # fmt: skip
        return {"lines": lines, "samples": samples}


class Fixed(KernelChooser):
    """The same blocking for every layer and every number of rows."""

    def __init__(self, way: Any) -> None:
        super().__init__()
        self.way = way

    def _picked(self, *layer: Any) -> list[Any]:
        return [_native.Blocking(*self.way)] * (len(_native.ROW_CLASSES) + 1)


def gemma_270m() -> ModelConfig:
    """The published sizes of Gemma 3 270M, by its config.json."""
    local = tuple(bool((index + 1) % 6) for index in range(18))
    return ModelConfig(
        architecture="gemma3", name="Gemma 3 270M", vocab_size=262_144, hidden=640, layers=18, heads=4,
        kv_heads=1, head_dim=256, mlp=2048, context=32_768, norm_eps=1e-6, tied=True, activation="gelu_tanh",
        attention_scale=256**-0.5, attention_softcap=0.0, final_softcap=0.0, embed_scale=640**0.5,
        windows=tuple(512 if each else 0 for each in local),
        ropes=(Rope(dim=256, theta=10_000.0), Rope(dim=256, theta=1_000_000.0)),
        rope_of_layer=tuple(0 if each else 1 for each in local), norm_offset=1.0,
    )  # fmt: skip


def _read(runner: Any, rows: int, tokens: int = max(PROMPTS)) -> float:
    return prefill_time.prompt_seconds(runner, tokens, rows, 1)[0]


def _leak_targets(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recipe looks better under its own split than it is: mean error by rows over that by shapes."""
    by = {(line["format"], line["threads"], line["split"]): line for line in lines}
    ratios = [
        by[format, threads, "shapes"]["median_error"] / line["median_error"]
        for (format, threads, split), line in by.items()
        if split == "rows"
    ]
    if not ratios:
        return []
    middle = float(np.exp(np.mean(np.log(ratios))))
    return [target("paper's recipe: median error by shapes over that by rows", middle, least=1.0)]


def _selection_targets(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not lines:
        return []
    many = [line for line in lines if int(re.match(r"\d+", line["shape"])[0]) > 12]  # type: ignore[index]
    whole = [line for line in many if line["format"] == "int8"]
    found = [target("chosen over the best found", validate.mean_of(lines, "over_best") or 0, most=1.05)]
    for name, chosen, key, most in (
        ("chosen over the naive blocking", lines, "over_naive", 0.9),
        ("chosen over the default, int8 and more than 12 rows", whole, "over_default", 0.9),
        ("chosen over the default, all", lines, "over_default", 0.9),
    ):
        value = validate.mean_of(chosen, key)
        if value is not None:
            found.append(target(name, value, most=most))
    return found


def _extrapolation_targets(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        what = f"{line['format']} on {line['threads']}: sides from 4096, learned up to 2048"
        found.append(target(f"{what}, median error", line["median_error"], most=0.2))
    if lines:
        flat = max(line["forest_largest_over_learned"] for line in lines)
        found.append(
            target("largest time a plain forest answers, over the largest it learned", flat, most=1.0)
        )
        worst = min(line["forest_median_error"] / line["median_error"] for line in lines)
        found.append(target("a plain forest's median error there, times ours", worst, least=2.0))
    return found


def _planner_targets(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    models = dict.fromkeys(line["model"] for line in lines)
    return [
        target(
            f"prompts of {name}: largest error of {len(mine)} lengths",
            max(abs(line["error"]) for line in mine), most=0.12,
        )
        for name in models
        if (mine := [line for line in lines if line["model"] == name])
    ]  # fmt: skip


def _whole_targets(whole: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for line in whole.get("lines", []):
        what = f"prefill of 512 tokens, weights {line['weights']}: times the"
        found.append(target(f"{what} default", line["over_default"], least=1.1))
        found.append(target(f"{what} naive blocking", line["over_naive"], least=1.1))
    return found
