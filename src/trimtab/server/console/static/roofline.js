// What this machine can do at most, and where it is now: operations a second over operations a byte.

import { h, put, s, say } from "./dom.js";
import { percent, short, si } from "./format.js";

const LEFT = 54;
const RIGHT = 16;
const TOP = 14;
const BOTTOM = 34;
const HIGH = 320;
const BATCHES = [1, 4, 16, 64];

/** Bytes and operations a second of one row of the feed, from the model's shape; null when nothing ran. */
export function operating(work, row, at) {
  const steps = at(row, "steps");
  if (!steps || !work.row_ops) return null;
  const pages = at(row, "pages_held");
  const rows = at(row, "rows");
  const running = Math.max(1, at(row, "running"));
  const position = (pages * 16) / running;
  const read = steps * (work.step_bytes + pages * work.page_bytes);
  const wanted = Math.min(rows, at(row, "decode"));
  const ops = rows * (work.row_ops + work.position_ops * position) + wanted * work.wanted_ops;
  return { bytes: read, ops, intensity: ops / read, decode: at(row, "decode"), steps };
}

/** The most operations a second at an intensity. */
export const roof = (limits, intensity) =>
  Math.min(limits.read_bytes_per_s * intensity, limits.int8_ops_per_s);

/** The plot as an element with `draw(limits, work, points)`; points are oldest first, the last is now. */
export function rooflinePlot() {
  const svg = s("svg", { class: "plot roofline", height: HIGH, "aria-hidden": "true" });
  const note = h("p", { class: "summary", id: "roofline-note" });
  const frame = h(
    "div",
    {
      class: "frame",
      role: "img",
      "aria-label": "Roofline",
      "aria-describedby": "roofline-note",
      tabindex: 0,
    },
    svg,
  );
  const box = h("div", {}, frame, note);
  box.draw = (limits, work, points) => {
    const width = frame.clientWidth;
    if (width < 120) return;
    svg.setAttribute("width", width);
    const axes = scales(limits, work, width);
    put(svg, grid(axes, width), roofs(limits, axes), batches(limits, work, axes), trail(points, axes));
    say(note, sentence(limits, points));
  };
  return box;
}

function scales(limits, work, width) {
  const ridge = limits.int8_ops_per_s / limits.read_bytes_per_s;
  const least = Math.floor(Math.log2(Math.max(0.25, Math.min(ridge / 4, perByte(work, 1) / 2))));
  const most = Math.ceil(Math.log2(Math.max(perByte(work, 512), ridge * 4)));
  const high = Math.ceil(Math.log10(limits.int8_ops_per_s * 1.3) * 2) / 2;
  const low = Math.floor(Math.log10(roof(limits, 2 ** least)) * 2 - 1) / 2;
  return {
    least,
    most,
    low,
    high,
    x: (value) => LEFT + ((Math.log2(value) - least) / (most - least)) * (width - LEFT - RIGHT),
    y: (value) => TOP + (1 - (Math.log10(value) - low) / (high - low)) * (HIGH - TOP - BOTTOM),
    right: width - RIGHT,
  };
}

/** Operations a byte of a decode step with so many sequences, each short. */
const perByte = (work, batch) =>
  work.row_ops ? (batch * (work.row_ops + work.wanted_ops)) / work.step_bytes : batch;

function grid({ least, most, low, high, x, y, right }) {
  const parts = [];
  const every = most - least > 9 ? 2 : 1;
  for (let power = least; power <= most; power += every) {
    const at = Math.round(x(2 ** power)) + 0.5;
    parts.push(s("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: HIGH - BOTTOM }));
    parts.push(
      s(
        "text",
        { class: "tick", x: at, y: HIGH - BOTTOM + 14, "text-anchor": "middle" },
        power < 0 ? `1/${2 ** -power}` : 2 ** power,
      ),
    );
  }
  for (let power = Math.ceil(low); power <= high; power += 1) {
    const at = Math.round(y(10 ** power)) + 0.5;
    parts.push(s("line", { class: "grid", x1: LEFT, x2: right, y1: at, y2: at }));
    parts.push(
      s(
        "text",
        { class: "tick", x: LEFT - 7, y: at + 3.5, "text-anchor": "end" },
        `${10 ** (power % 3)}${["", "k", "M", "G", "T", "P"][Math.floor(power / 3)]}`,
      ),
    );
  }
  parts.push(
    s("line", { class: "axis", x1: LEFT, x2: right, y1: HIGH - BOTTOM + 0.5, y2: HIGH - BOTTOM + 0.5 }),
  );
  parts.push(
    s(
      "text",
      { class: "tick name", x: right, y: HIGH - 4, "text-anchor": "end" },
      "operations for each byte read →",
    ),
  );
  parts.push(s("text", { class: "tick name", x: LEFT + 6, y: TOP + 4 }, "operations a second ↑"));
  return parts;
}

function roofs(limits, axes) {
  const { x, y, least, right } = axes;
  const line = (rate, top, name) => {
    const ridge = top / rate;
    const start = 2 ** least;
    return s("path", {
      class: `roof roof-${name}`,
      d: `M${x(start)} ${y(rate * start)}L${x(ridge)} ${y(top)}L${right} ${y(top)}`,
    });
  };
  const flat = (top, name, text) =>
    s("text", { class: `roof-label roof-${name}`, x: right - 4, y: y(top) - 6, "text-anchor": "end" }, text);
  const mid = 2 ** (least + 0.35);
  const slope = Math.atan2(
    y(limits.read_bytes_per_s * mid * 2) - y(limits.read_bytes_per_s * mid),
    x(mid * 2) - x(mid),
  );
  const degrees = (slope * 180) / Math.PI;
  return [
    line(limits.read_bytes_per_s, limits.float_ops_per_s, "float"),
    line(limits.read_bytes_per_s, limits.int8_ops_per_s, "int8"),
    flat(limits.int8_ops_per_s, "int8", `int8 ${si(limits.int8_ops_per_s, "op/s")}`),
    flat(
      limits.float_ops_per_s,
      "float",
      `${limits.float_kind.includes("bf16") ? "bf16" : "float"} ${si(limits.float_ops_per_s, "op/s")}`,
    ),
    s(
      "text",
      {
        class: "roof-label",
        transform: `translate(${x(mid)} ${y(limits.read_bytes_per_s * mid) - 7}) rotate(${degrees})`,
      },
      `memory ${si(limits.read_bytes_per_s, "B/s")}`,
    ),
  ];
}

/** Where decoding with so many sequences could be at most. */
function batches(limits, work, { x, y, right }) {
  if (!work.row_ops) return null; // a model whose shape is not known
  return BATCHES.map((batch) => {
    const intensity = perByte(work, batch);
    const at = x(intensity);
    const top = y(roof(limits, intensity));
    return [
      s("line", { class: "batch", x1: at, x2: at, y1: top, y2: HIGH - BOTTOM }),
      s("circle", { class: "batch", cx: at, cy: top, r: 3.5 }),
      s(
        "text",
        { class: "tick batch", x: at + 4, y: HIGH - BOTTOM - 6 },
        batch === 1 && right > 600 ? "1 sequence" : batch,
      ),
    ];
  });
}

function trail(points, { x, y }) {
  const inside = ({ intensity, ops }) => intensity > 0 && ops > 0 && y(ops) <= HIGH - BOTTOM && x(intensity) >= LEFT;
  const seen = points.filter((point) => point && inside(point));
  const now = points.at(-1);
  return [
    seen.map((point, i) =>
      s("circle", {
        class: "past",
        cx: x(point.intensity),
        cy: y(point.ops),
        r: 2.5,
        opacity: (0.15 + (0.5 * i) / seen.length).toFixed(2),
      }),
    ),
    now &&
      inside(now) && [
        s("circle", { class: "halo", cx: x(now.intensity), cy: y(now.ops), r: 10 }),
        s("circle", { class: "now", cx: x(now.intensity), cy: y(now.ops), r: 5 }),
      ],
  ];
}

function sentence(limits, points) {
  const now = points.at(-1);
  const ridge = limits.int8_ops_per_s / limits.read_bytes_per_s;
  const machine = `Below ${short(ridge)} operations a byte memory sets the pace, above it arithmetic.`;
  if (!now) return `Nothing runs now. ${machine}`;
  const share = now.ops / roof(limits, now.intensity);
  const bound = now.intensity < ridge ? "memory" : "arithmetic";
  return `Now: ${short(now.decode)} tok/s in ${short(now.steps)} steps a second read ${si(now.bytes, "B/s")} and compute ${si(now.ops, "op/s")}, ${short(now.intensity)} operations a byte: ${percent(share)} of what ${bound} allows here. ${machine}`;
}
