// Where the time of a request went: waiting, prefill, decode, as bars on one clock.

import { h, s } from "./dom.js";
import { count, duration, short } from "./format.js";

/** The phases of one output: {name, label, from, to, note}; a phase that has not come is left out. */
export function phases(track) {
  const started = track.started_s ?? (track.first_s === null ? track.total_s : 0);
  const found = [{ name: "queue", label: "Queue", from: 0, to: started, note: "" }];
  if (track.started_s !== null) {
    const end = track.first_s ?? track.total_s;
    const tokens = track.prompt_tokens - track.cached_tokens;
    const speed = end > started ? `, ${short(tokens / (end - started))} tok/s` : "";
    const shared = track.cached_tokens ? `, ${count(track.cached_tokens)} shared` : "";
    found.push({
      name: "prefill",
      label: "Prefill",
      from: started,
      to: end,
      note: `${count(tokens)} tokens${shared}${speed}`,
    });
  }
  if (track.first_s !== null) {
    const seconds = track.total_s - track.first_s;
    const speed =
      track.output_tokens > 1 && seconds > 0 ? `, ${short((track.output_tokens - 1) / seconds)} tok/s` : "";
    found.push({
      name: "decode",
      label: "Decode",
      from: track.first_s,
      to: track.total_s,
      note: `${count(track.output_tokens)} tokens${speed}`,
    });
  }
  return found;
}

/** The bars of all outputs with a table of the same figures. */
export function waterfall(tracks) {
  const whole = Math.max(...tracks.map((track) => track.total_s), 1e-9);
  return h(
    "table",
    { class: "waterfall" },
    h(
      "thead",
      { class: "offscreen" },
      h(
        "tr",
        {},
        ["Phase", "From start to end", "Time", "Work"].map((text) => h("th", {}, text)),
      ),
    ),
    tracks.map((track, index) =>
      h(
        "tbody",
        {},
        tracks.length > 1 && h("tr", { class: "which" }, h("th", { colspan: 4 }, `Output ${index + 1}`)),
        phases(track).map((phase) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, phase.label),
            h("td", { class: "bar" }, bar(phase, whole)),
            h("td", { class: "time" }, duration(phase.to - phase.from)),
            h("td", { class: "note" }, phase.note),
          ),
        ),
      ),
    ),
    h(
      "tfoot",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "row" }, "Total"),
        h("td", { class: "bar" }, scale(whole)),
        h("td", { class: "time" }, duration(whole)),
        h("td", { class: "note" }),
      ),
    ),
  );
}

function bar({ name, from, to }, whole) {
  const width = Math.max(0.35, ((to - from) / whole) * 100);
  const left = Math.min(100 - width, (from / whole) * 100);
  return h("i", { class: `phase-${name}`, style: { left: `${left}%`, width: `${width}%` } });
}

function scale(whole) {
  return [0.25, 0.5, 0.75].map((share) =>
    h("span", { style: { left: `${share * 100}%` } }, duration(whole * share)),
  );
}

/** Time between tokens as small columns; `choose(index)` shows one of them. */
export function intervals(times, choose) {
  const gaps = times.slice(1).map((moment, i) => moment - times[i]);
  const sorted = gaps.toSorted((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  const late = sorted[Math.floor(sorted.length * 0.99)];
  const top = Math.max(late * 1.15, middle * 2, 1e-6); // one long pause must not flatten the rest
  const wide = 1000;
  const high = 64;
  const step = wide / gaps.length;
  const columns = gaps.map((gap, i) => {
    const height = Math.max(1, Math.min(1, gap / top) * high);
    return s("rect", {
      class: gap > top ? "over" : null,
      x: i * step,
      width: Math.max(0.6, step * (step > 3 ? 0.82 : 1)),
      y: high - height,
      height,
      "data-index": i + 1,
    });
  });
  const line = high - (middle / top) * high;
  const svg = s(
    "svg",
    {
      class: "intervals",
      viewBox: `0 0 ${wide} ${high}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    columns,
    s("line", { class: "median", x1: 0, x2: wide, y1: line, y2: line }),
  );
  svg.addEventListener(
    "pointermove",
    (event) => event.target.dataset.index && choose(Number(event.target.dataset.index)),
  );
  svg.addEventListener(
    "click",
    (event) => event.target.dataset.index && choose(Number(event.target.dataset.index)),
  );
  svg.choose = (index) => columns.forEach((column, i) => column.classList.toggle("chosen", i + 1 === index));
  const ms = (value) => duration(value / 1000);
  const drafted = gaps.filter((gap) => gap < middle * 0.05).length;
  const more = drafted
    ? ` ${count(drafted)} came in the same step as the one before: drafts that were right.`
    : "";
  const text = `Between tokens: median ${ms(middle)}, 99 in 100 within ${ms(late)}, longest ${ms(sorted.at(-1))}.${more}`;
  return { svg, text };
}
