// Memory as a line: what is taken, what is set aside, and what the budget leaves. To scale, always.

import { h, put } from "./dom.js";
import { feed, follow } from "./feed.js";
import { bytes } from "./format.js";

/** The parts of the budget now: {name, label, size} in the order they are drawn, and the whole. */
export function divide() {
  const { memory, process, promised, pages_total: pages } = feed.hello;
  const page = memory.pages / Math.max(1, pages);
  const held = (feed.last("pages_held") ?? 0) * page;
  const idle = (feed.last("pages_idle") ?? 0) * page;
  const parts = [
    { name: "process", label: "process", size: process ?? 0 },
    { name: "weights", label: "weights", size: memory.weights ?? 0 },
    { name: "scratch", label: "scratch", size: memory.scratch ?? 0 },
    { name: "held", label: "pages in use", size: held },
    { name: "idle", label: "pages kept for sharing", size: idle },
    { name: "free", label: "pages free", size: Math.max(0, memory.pages - held - idle) },
  ];
  const planned = parts.reduce((sum, part) => sum + part.size, 0);
  return { parts, planned, promised, whole: Math.max(planned, promised ?? 0) };
}

/** The hairline at the top of every page; leads to the machine page. */
export function budgetLine(place) {
  const link = h("a", { href: "#/machine" });
  put(place, link);
  follow(() => {
    if (!feed.hello) return;
    const { parts, whole, planned, promised } = divide();
    const text = parts.map(({ label, size }) => `${label} ${bytes(size)}`).join(", ");
    const limit = promised ? ` of ${bytes(promised)} promised` : "";
    link.setAttribute("aria-label", `Memory: ${text}; ${bytes(planned)} planned${limit}`);
    link.title = `${text}; ${bytes(planned)} planned${limit}`;
    put(
      link,
      parts.map(({ name, size }) =>
        h("i", { class: `part-${name}`, style: { "flex-grow": String(size / whole) } }),
      ),
    );
  });
}
