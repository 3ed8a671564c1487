// The live page: six figures and six charts of the last minutes, from the one feed.

import { timeChart } from "./chart.js";
import { h, put, say } from "./dom.js";
import { feed, follow } from "./feed.js";
import { bytes, count, milliseconds, percent, short } from "./format.js";
import { icon } from "./icons.js";

const SPANS = [
  ["1 min", 60_000],
  ["3 min", 180_000],
  ["10 min", 600_000],
];
let span = 180_000;

const at = (name) => (row) => row[feed.column(name)];
const mean = (rows, name) =>
  rows.reduce((sum, row) => sum + (at(name)(row) ?? 0), 0) / Math.max(1, rows.length);
const highest = (rows, name) => rows.reduce((most, row) => Math.max(most, at(name)(row) ?? 0), 0);
const rate = (value) => short(value);
const whole = (value) => (Number.isInteger(value) ? count(value) : "");

/** Draw the page into `place`, until `signal` is aborted. */
export function open(place, rest, signal) {
  const figures = h("dl", { class: "figures" });
  const charts = makeCharts();
  const note = h("p", { class: "notice", role: "status" });
  let held = null; // the moment at which the view was stopped

  const draw = () => {
    const rows = held ? held.rows : feed.rows;
    const now = held ? held.now : (rows.at(-1)?.[0] ?? Date.now());
    if (!feed.hello) return;
    numbers(figures);
    for (const chart of charts) chart.draw(rows, now, span);
  };
  const pause = h("button", { type: "button", class: "pause", "aria-pressed": "false" });
  const drawPause = () => put(pause, icon(held ? "play" : "pause"), held ? "Go on" : "Hold");
  pause.addEventListener("click", () => {
    held = held ? null : { rows: feed.rows.slice(), now: feed.rows.at(-1)?.[0] ?? Date.now() };
    pause.setAttribute("aria-pressed", String(held !== null));
    drawPause();
    draw();
  });
  drawPause();

  put(
    place,
    h(
      "div",
      { class: "sheet" },
      h(
        "div",
        { class: "sheet-head" },
        h("h1", {}, "Live"),
        h("div", { class: "controls" }, spans(draw), pause),
      ),
      note,
      figures,
      h("div", { class: "charts" }, charts),
    ),
  );
  follow(() => {
    say(note, message());
    draw();
  }, signal);
  const watch = new ResizeObserver(draw);
  watch.observe(place);
  signal.addEventListener("abort", () => watch.disconnect());
}

function message() {
  if (feed.state === "lost")
    return "No connection to the server. These are the last figures; they go on when it answers again.";
  if (feed.state === "refused") return feed.error;
  if (feed.state === "loading") return "The model is loading. Figures begin when it is there.";
  if (feed.state === "stopping") return "The server is stopping: what runs is being finished.";
  if (!feed.hello) return "Connecting…";
  const quiet = feed.rows.every((row) => at("steps")(row) === 0);
  return quiet
    ? "Nothing has run in the last ten minutes. Send a message in the chat or call the API, and watch."
    : "";
}

function spans(changed) {
  const group = h("fieldset", { class: "choice" }, h("legend", { class: "offscreen" }, "Time shown"));
  for (const [label, value] of SPANS) {
    const input = h("input", { type: "radio", name: "span", value, checked: value === span });
    input.addEventListener("change", () => {
      span = value;
      changed();
    });
    group.append(h("label", {}, input, h("span", {}, label)));
  }
  return group;
}

function numbers(place) {
  const { pages_total: pages, max_running: most, max_waiting: queue, promised } = feed.hello;
  const last = (name) => feed.last(name);
  const held = last("pages_held") ?? 0;
  const pair = (label, value, note) =>
    h("div", {}, h("dt", {}, label), h("dd", {}, value, note && h("small", {}, note)));
  put(
    place,
    pair("Decode", short(last("decode") ?? 0), "tok/s"),
    pair("Prefill", short(last("prefill") ?? 0), "tok/s"),
    pair("Running", count(last("running") ?? 0), `of ${count(most)}`),
    pair("Waiting", count(last("waiting") ?? 0), `of ${count(queue)}`),
    pair("TTFT, median", milliseconds(last("ttft_p50")), "last minute"),
    pair("TPOT, median", milliseconds(last("tpot_p50")), "last minute"),
    pair("KV pages", percent(held / pages), `${count(held)} of ${count(pages)}`),
    pair("Memory", bytes(last("resident")), promised ? `of ${bytes(promised)} promised` : "resident"),
  );
}

function makeCharts() {
  const lines = (...names) => names.map(([name, label, more]) => ({ name, label, value: at(name), ...more }));
  const now = (rows, name) => at(name)(rows.at(-1)) ?? 0;
  const latency = (title, what, stem) =>
    timeChart({
      title,
      unit: "ms, last minute",
      format: (value) => (value === 0 ? "0" : milliseconds(value).replace(" ms", "")),
      series: lines([`${stem}_p50`, "p50"], [`${stem}_p90`, "p90"], [`${stem}_p99`, "p99"]),
      summary: (rows) => {
        const row = rows.findLast((one) => at(`${stem}_p50`)(one) !== null);
        if (!row) return `No request has ended in this time.`;
        return `${what}: half within ${milliseconds(at(`${stem}_p50`)(row))}, nine in ten within ${milliseconds(at(`${stem}_p90`)(row))}, 99 in 100 within ${milliseconds(at(`${stem}_p99`)(row))}.`;
      },
    });
  return [
    timeChart({
      title: "Tokens",
      unit: "a second",
      format: rate,
      series: lines(["decode", "decode"], ["prefill", "prefill"]),
      summary: (rows) =>
        `Decode ${short(now(rows, "decode"))} tok/s now, ${short(mean(rows, "decode"))} on average, ${short(highest(rows, "decode"))} at most; prefill ${short(highest(rows, "prefill"))} at most.`,
    }),
    timeChart({
      title: "Requests",
      unit: "at a time",
      format: whole,
      most: () => 2,
      series: lines(["running", "running", { step: true }], ["waiting", "waiting", { step: true }]),
      summary: (rows) =>
        `${count(now(rows, "running"))} running and ${count(now(rows, "waiting"))} waiting; at most ${count(highest(rows, "running"))} and ${count(highest(rows, "waiting"))}. ${count(rows.reduce((sum, row) => sum + at("ended")(row), 0))} ended, ${count(rows.reduce((sum, row) => sum + at("refused")(row), 0))} refused.`,
    }),
    latency("Time to first token", "From arrival to the first token", "ttft"),
    latency("Time per output token", "Between two tokens of an answer", "tpot"),
    timeChart({
      title: "KV pages",
      unit: "of 16 tokens",
      format: whole,
      most: () => 8,
      series: lines(
        ["pages_held", "in use", { stacked: true }],
        ["pages_idle", "kept for sharing", { stacked: true }],
      ),
      summary: (rows) => {
        const total = feed.hello.pages_total;
        return `${count(now(rows, "pages_held"))} of ${count(total)} pages in use (${percent(now(rows, "pages_held") / total)}), at most ${percent(highest(rows, "pages_held") / total)}.`;
      },
    }),
    timeChart({
      title: "Process memory",
      unit: "",
      format: bytes,
      binary: true,
      most: () => feed.hello.promised ?? 0,
      series: [
        { name: "resident", label: "resident", value: at("resident") },
        {
          name: "promised",
          label: "promised",
          dashed: true,
          optional: true,
          value: () => feed.hello.promised,
        },
      ],
      summary: (rows) => {
        const { promised } = feed.hello;
        const most = `${bytes(now(rows, "resident"))} now, ${bytes(highest(rows, "resident"))} at most`;
        return promised
          ? `${most}; ${bytes(promised)} is promised, ${percent(highest(rows, "resident") / promised)} of it was used.`
          : `${most}; no ceiling was promised (--memory).`;
      },
    }),
  ];
}
