// The machine page: what it runs on, how its memory is divided, and how near it comes to its limits.

import { json } from "./api.js";
import { divide } from "./budget.js";
import { h, put, say } from "./dom.js";
import { feed, follow } from "./feed.js";
import { bytes, count, percent, short, si } from "./format.js";
import { operating, rooflinePlot } from "./roofline.js";

const TRAIL = 60;

/** Draw the page into `place`, until `signal` is aborted. */
export function open(place, rest, signal) {
  const note = h("p", { class: "notice", role: "status" }, "Loading…");
  const memory = h("div", { class: "budget-block" });
  const roofline = h("div");
  const lists = h("div", { class: "facts" });
  const plot = rooflinePlot();
  let facts = null;

  put(
    place,
    h(
      "div",
      { class: "sheet machine" },
      h("div", { class: "sheet-head" }, h("h1", {}, "Machine")),
      note,
      h("section", { "aria-labelledby": "memory-title" }, h("h2", { id: "memory-title" }, "Memory"), memory),
      h(
        "section",
        { "aria-labelledby": "roofline-title" },
        h("h2", { id: "roofline-title" }, "Roofline"),
        roofline,
      ),
      lists,
    ),
  );

  const draw = () => {
    if (feed.hello) put(memory, budget());
    if (facts?.limits) plot.draw(facts.limits, facts.work, points(facts.work));
  };

  async function load() {
    try {
      facts = await json("console/api/machine", { signal });
      say(note, "");
      put(lists, listed(facts));
      rooflineInto();
    } catch (error) {
      if (!signal.aborted) say(note, error.message);
    }
  }

  function rooflineInto() {
    const button = h(
      "button",
      { type: "button", class: facts.limits ? "" : "primary" },
      facts.limits ? "Measure again" : "Measure this machine",
    );
    const why = h("p", { class: "wrong", role: "alert" });
    button.addEventListener("click", async () => {
      button.disabled = true;
      say(button, "Measuring, about a second…");
      try {
        facts.limits = await json("console/api/machine/probe", { method: "POST" });
        rooflineInto();
      } catch (error) {
        button.disabled = false;
        say(button, "Measure");
        say(why, error.message);
      }
    });
    const when = facts.limits
      ? `Measured ${new Date(facts.limits.date).toLocaleString("en-GB")} with ${facts.limits.threads} threads.`
      : "";
    put(
      roofline,
      facts.limits
        ? plot
        : h(
            "p",
            { class: "none" },
            "The limits of this machine are not known yet: how fast it reads memory and multiplies. Measuring takes about a second and 272 MiB, and only while nothing runs.",
          ),
      h("div", { class: "below" }, h("small", {}, when), button),
      why,
    );
    draw();
  }

  follow(() => {
    if (feed.state === "ok" && !facts) load();
    if (feed.state === "lost") say(note, "No connection to the server.");
    else if (facts) say(note, "");
    draw();
  }, signal);
  feed.addEventListener("hello", load, { signal });
  const watch = new ResizeObserver(draw);
  watch.observe(place);
  signal.addEventListener("abort", () => watch.disconnect());
}

function points(work) {
  const at = (row, name) => row[feed.column(name)];
  return feed.rows.slice(-TRAIL).map((row) => operating(work, row, at));
}

// --- memory -----------------------------------------------------------------------------------------------

function budget() {
  const { parts, planned, promised, whole } = divide();
  const spare = Math.max(0, whole - planned);
  const resident = feed.last("resident");
  const all =
    spare > whole / 100 ? [...parts, { name: "spare", label: "left of the promise", size: spare }] : parts;
  return [
    h(
      "div",
      { class: "budget-bar", role: "img", "aria-label": `Memory plan of ${bytes(whole)}` },
      all.map(({ name, size }) =>
        h("i", { class: `part-${name}`, style: { width: `${(size / whole) * 100}%` } }),
      ),
      resident &&
        h("b", {
          class: "resident",
          style: { left: `${Math.min(100, (resident / whole) * 100)}%` },
          title: `resident now: ${bytes(resident)}`,
        }),
    ),
    h(
      "dl",
      { class: "parts" },
      all.map(({ name, label, size }) =>
        h(
          "div",
          {},
          h("dt", {}, h("i", { class: `part-${name}` }), label),
          h("dd", {}, bytes(size), h("small", {}, percent(size / whole))),
        ),
      ),
      h(
        "div",
        { class: "now" },
        h("dt", {}, h("b", { class: "resident" }), "resident now"),
        h("dd", {}, bytes(resident), h("small", {}, percent(resident / whole))),
      ),
    ),
    h(
      "p",
      { class: "summary" },
      promised
        ? `${bytes(promised)} is promised for the whole process; ${bytes(planned)} of it is planned for.`
        : `No ceiling was promised. ${bytes(planned)} is what it takes at most, once every page has been written; --memory makes that a promise.`,
    ),
  ];
}

// --- lists ------------------------------------------------------------------------------------------------

function listed({ processor, kernels, model, memory, work, limits }) {
  const threads = `${kernels.threads} of ${processor.processors}`;
  const caches = Object.entries(processor.caches)
    .map(([name, size]) => `${name} ${size}`)
    .join(", ");
  const list = (title, pairs) =>
    h(
      "section",
      {},
      h("h2", {}, title),
      h(
        "dl",
        {},
        pairs
          .filter(([, value]) => value !== undefined && value !== "")
          .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      ),
    );
  return [
    list("Processor", [
      ["Name", processor.processor],
      ["Threads of a step", threads],
      ["Caches", caches],
      ["Memory of the machine", bytes(processor.memory_bytes)],
      ["System", processor.system],
      [
        "Kernels",
        [
          h("b", {}, kernels.set || "torch"),
          kernels.available.length > 1 && ` of ${kernels.available.join(", ")}`,
        ],
      ],
      [
        "Features found",
        h(
          "span",
          { class: "words" },
          processor.features.map((name) => h("code", {}, name)),
        ),
      ],
    ]),
    list("Model", [
      ["Name", model.name],
      ["Architecture", model.architecture],
      ["Layers", count(model.layers)],
      ["Width", model.hidden && `${count(model.hidden)}, feed-forward ${count(model.mlp)}`],
      [
        "Attention",
        model.heads && `${model.heads} heads of ${model.head_dim}, ${model.kv_heads} for keys and values`,
      ],
      ["Vocabulary", count(model.vocab_size)],
      [
        "Context",
        feed.hello && `${count(feed.hello.context)} tokens here, ${count(model.context)} in the model`,
      ],
    ]),
    list("Work", [
      ["A step reads", `${bytes(work.step_bytes)} of weights`],
      ["A page of 16 tokens", work.page_bytes && bytes(work.page_bytes)],
      ["A token computes", work.row_ops && si(work.row_ops + work.wanted_ops, " operations")],
      ["Most memory so far", bytes(memory.highest)],
      ["The machine has free", bytes(memory.available)],
      [
        "Reads memory at",
        limits && `${si(limits.read_bytes_per_s, "B/s")} (best ${si(limits.best_read_bytes_per_s, "B/s")})`,
      ],
      [
        "One sequence at most",
        limits &&
          work.step_bytes &&
          `${short(limits.read_bytes_per_s / work.step_bytes)} tok/s without drafts`,
      ],
    ]),
  ];
}
