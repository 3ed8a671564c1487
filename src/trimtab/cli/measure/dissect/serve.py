"""`trimtab measure dissect serve`: where the time of requests goes, from the client to the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.text import Verb, note, print_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\
trimtab measure dissect serve                                one request at a time
trimtab measure dissect serve --batch 8 --prompt-tokens 512  eight together, longer prompts
trimtab measure dissect serve --url http://127.0.0.1:8000    a server that runs already
trimtab measure dissect serve --trace t.json --out d.json    for Perfetto, and for `trimtab measure doctor`
"""


@app.command(cls=Verb, epilog=EXAMPLES)
def serve(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="file, folder, pulled name or hub id")
    ] = "smollm2",
    prompt_tokens: Annotated[int, typer.Option(metavar="N", help="of each request, about")] = 128,
    output_tokens: Annotated[int, typer.Option(metavar="N", help="of each request")] = 64,
    batch: Annotated[int, typer.Option(metavar="N", help="requests under way at a time")] = 1,
    requests: Annotated[
        int | None, typer.Option(metavar="N", help="in all; default: 8, or twice the batch")
    ] = None,
    route: Annotated[str, typer.Option(metavar="chat|completions", help="which way they go in")] = "chat",
    temperature: Annotated[float, typer.Option(metavar="X", min=0, help="0 is greedy")] = 0.0,
    kv_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="KV cache of the server: bf16, int8, f32")
    ] = None,
    format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="weights of the server: auto, bf16, int8, q4, q8")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="of the server; default: all")] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="a trimtab server that runs already; needs an admin key")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a trace for Perfetto or chrome://tracing")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the dissection as JSON, for `measure doctor`")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the dissection as one JSON value")] = False,
) -> None:
    """Record a server while requests run, and say where the time and the memory went.

    Stages of requests, parts of the engine's loop, modules and operators: each with its time, its arithmetic
    and bytes, and the least time the machine's profile allows. The sums are held against what the client saw.
    """
    from trimtab.cli.measure.dissect import tables
    from trimtab.evaluate import dissect
    from trimtab.machine import profile
    from trimtab.machine.dissect import chrome_trace
    from trimtab.machine.dissect.dissection import dissect as dissected

    load = dissect.Load(
        prompt_tokens, output_tokens, batch, requests or max(8, 2 * batch), route, temperature
    )
    chosen = {"--kv-type": kv_type, "--format": format, "--threads": threads}
    flags = [part for name, value in chosen.items() if value is not None for part in (name, str(value))]
    with profile.watched() as watch, dissect.server(model, flags, url) as client:
        recording, seen = dissect.run(client, load, note)
    ceilings, basis, reason = tables.ceilings_for(recording)
    if reason:
        note(f"bounds are of a quick probe: {reason}")
    if trace is not None:
        note(f"wrote {chrome_trace.save(recording, trace)}")
    found = dissected(recording, ceilings, basis=basis, rates=tables.rates_for(recording), seen=seen)
    stamp = watch.section({})
    found["noise"] = {"steal": stamp.steal, "others": stamp.others}
    found["load"] = {name: getattr(load, name) for name in load.__slots__}
    if out is not None:
        note(f"wrote {tables.save(found, out)}")
    if url is None:
        profile.update("dissect", watch.section(found))
    if as_json:
        print_json(found)
    else:
        tables.show(found)
