// Lines over time, as SVG: sharp on every screen, coloured by the style sheet, read by pointer, key and ear.

import { fresh, h, put, s, say } from "./dom.js";
import { clock, ticks } from "./format.js";

const GAP_MS = 2600; // a longer silence is a gap in the line
const LEFT = 46;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 20;

/**
 * A chart as an element with `draw(rows, now, span)`.
 *
 * series: {name, label, value(row) → number or null, stacked, step, dashed, optional}; the colour comes from
 * the class `series-NAME`. `format` writes a value, `summary(rows)` the sentence below. `most(rows)` can set the
 * top; `binary` is for bytes.
 */
export function timeChart({
  title,
  unit,
  series,
  format,
  summary,
  most = null,
  binary = false,
  height = 150,
}) {
  const name = fresh("chart");
  const svg = s("svg", { class: "plot", height, "aria-hidden": "true", focusable: "false" });
  const readout = h("div", { class: "readout" });
  const note = h("p", { class: "summary", id: `${name}-note` });
  const frame = h(
    "div",
    { class: "frame", tabindex: 0, role: "img", "aria-labelledby": name, "aria-describedby": `${name}-note` },
    svg,
  );
  const spoken = h("span", { class: "offscreen", "aria-live": "polite" });
  const figure = h(
    "section",
    { class: "chart", "aria-labelledby": name },
    h("header", {}, h("h2", { id: name }, title, " ", h("small", {}, unit)), readout),
    frame,
    note,
    spoken,
  );
  let state = null; // what was drawn last
  let chosen = null; // the moment under the pointer or chosen by key, else null

  figure.draw = (rows, now, span) => {
    const width = frame.clientWidth;
    if (width < 80) return;
    const seen = rows.filter((row) => row[0] >= now - span);
    state = { seen, now, span, width };
    const top = scale(seen);
    const x = (at) => LEFT + ((at - (now - span)) / span) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top.at(-1)) * (height - TOP - BOTTOM);
    svg.setAttribute("width", width);
    put(svg, grid(top, y, width), times(now, span, x), lines(seen, x, y), cursor(seen, x, y));
    label(seen);
    say(note, seen.length ? summary(seen) : "Nothing has been measured yet.");
  };

  function scale(seen) {
    let highest = most ? most(seen) : 0;
    for (const row of seen) {
      let sum = 0;
      for (const one of series) {
        const value = one.value(row) ?? 0;
        sum = one.stacked ? sum + value : 0;
        highest = Math.max(highest, one.stacked ? sum : value);
      }
    }
    return ticks(highest, height > 120 ? 3 : 2, binary);
  }

  function grid(top, y, width) {
    return top.map((value) => [
      s("line", {
        class: value === 0 ? "axis" : "grid",
        x1: LEFT,
        x2: width - RIGHT,
        y1: snap(y(value)),
        y2: snap(y(value)),
      }),
      s("text", { class: "tick", x: LEFT - 7, y: y(value) + 3.5, "text-anchor": "end" }, format(value)),
    ]);
  }

  function times(now, span, x) {
    const step = span > 300_000 ? 120_000 : span > 90_000 ? 60_000 : 15_000;
    const found = [];
    for (let back = 0; back <= span; back += step) {
      const text = back === 0 ? "now" : step < 60_000 ? `−${back / 1000} s` : `−${back / 60_000} min`;
      const at = snap(x(now - back));
      found.push(s("line", { class: "mark", x1: at, x2: at, y1: height - BOTTOM, y2: height - BOTTOM + 4 }));
      const anchor = back === 0 ? "end" : at < LEFT + 20 ? "start" : "middle";
      found.push(s("text", { class: "tick", x: at, y: height - 4, "text-anchor": anchor }, text));
    }
    return found;
  }

  function lines(seen, x, y) {
    const below = new Float64Array(seen.length);
    return series.map((one) => {
      let path = "";
      let before = null;
      const points = [];
      seen.forEach((row, i) => {
        const value = one.value(row);
        if (value === null || value === undefined) {
          before = null;
          return;
        }
        const base = one.stacked ? below[i] : 0;
        const height = base + value;
        const joined = before !== null && row[0] - before.at <= GAP_MS;
        const at = `${x(row[0]).toFixed(1)} ${y(height).toFixed(1)}`;
        if (!joined) path += `M${at}`;
        else path += one.step ? `H${x(row[0]).toFixed(1)}V${y(height).toFixed(1)}` : `L${at}`;
        points.push([x(row[0]), y(height), y(base)]);
        if (one.stacked) below[i] = height;
        before = { at: row[0] };
      });
      const area =
        one.stacked && points.length > 1
          ? `M${points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L")}L${points
              .toReversed()
              .map(([px, , low]) => `${px.toFixed(1)} ${low.toFixed(1)}`)
              .join("L")}Z`
          : "";
      return s(
        "g",
        { class: `series series-${one.name}${one.dashed ? " dashed" : ""}` },
        area && s("path", { class: "area", d: area }),
        s("path", { class: "line", d: path || "M0 0" }),
      );
    });
  }

  function cursor(seen, x, y) {
    const row = nearest(seen);
    if (!row) return null;
    const at = snap(x(row[0]));
    let sum = 0;
    const dots = series.map((one) => {
      const value = one.value(row);
      if (value === null || value === undefined) return null;
      sum = one.stacked ? sum + value : value;
      return s("circle", { class: `dot series-${one.name}`, cx: x(row[0]), cy: y(sum), r: 3 });
    });
    return [s("line", { class: "cursor", x1: at, x2: at, y1: TOP - 4, y2: height - BOTTOM }), dots];
  }

  function nearest(seen) {
    if (chosen === null || !seen.length) return null;
    return seen.reduce((best, row) => (Math.abs(row[0] - chosen) < Math.abs(best[0] - chosen) ? row : best));
  }

  function label(seen) {
    const row = nearest(seen) ?? seen.at(-1);
    const moment = chosen === null || !row ? null : h("span", { class: "moment" }, clock(row[0]));
    const values = series.map((one) => {
      const value = row ? one.value(row) : null;
      if (one.optional && value === null) return null;
      return h(
        "span",
        { class: `value series-${one.name}${one.dashed ? " dashed" : ""}` },
        h("i"),
        one.label,
        " ",
        h("b", {}, value === null || value === undefined ? "–" : format(value)),
      );
    });
    put(readout, moment, values);
    return row;
  }

  function choose(moment, aloud) {
    chosen = moment;
    if (!state) return;
    figure.draw(state.seen, state.now, state.span);
    const row = nearest(state.seen);
    if (aloud && row) {
      say(
        spoken,
        `${clock(row[0])}: ${series.map((one) => `${one.label} ${one.value(row) === null ? "none" : format(one.value(row))}`).join(", ")}`,
      );
    }
  }

  frame.addEventListener("pointermove", (event) => {
    if (!state) return;
    const { left } = frame.getBoundingClientRect();
    const share = (event.clientX - left - LEFT) / (state.width - LEFT - RIGHT);
    choose(share < -0.02 || share > 1.05 ? null : state.now - state.span * (1 - share), false);
  });
  frame.addEventListener("pointerleave", () => choose(null, false));
  frame.addEventListener("blur", () => choose(null, false));
  frame.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -1e6, End: 1e6 }[
      event.key
    ];
    if (steps === undefined || !state?.seen.length) return;
    event.preventDefault();
    const row = nearest(state.seen) ?? state.seen.at(-1);
    const at = state.seen.indexOf(row) + (chosen === null ? 0 : steps);
    choose(state.seen[Math.max(0, Math.min(state.seen.length - 1, at))][0], true);
  });
  return figure;
}

/** Half pixels make hairlines sharp. */
const snap = (value) => Math.round(value) + 0.5;
