// The few pictures of the console, as strokes on a 16 by 16 grid.

import { s } from "./dom.js";

const STROKES = {
  chat: "M2.5 3.5h11v7h-6l-3 2.5v-2.5h-2z",
  live: "M1.5 9h3l2-5 3 8 2-5 1 2h2",
  requests: "M2 4h12M2 8h8M2 12h5",
  machine:
    "M4.5 4.5h7v7h-7zM6.5 1.5v3M9.5 1.5v3M6.5 11.5v3M9.5 11.5v3M1.5 6.5h3M1.5 9.5h3M11.5 6.5h3M11.5 9.5h3",
  plus: "M8 3v10M3 8h10",
  copy: "M5.5 5.5h7.5v7.5h-7.5zM3 10.5v-7.5h7.5",
  edit: "M3 13l.7-3 6.8-6.8 2.3 2.3-6.8 6.8zM9.2 4.5l2.3 2.3",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3",
  inspect: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.3 10.3l3.2 3.2",
  trash: "M3 4.5h10M6 4.5v-2h4v2M4.5 4.5l.6 9h5.8l.6-9M6.8 7v4M9.2 7v4",
  tune: "M2 5h7M12 5h2M2 11h2M7 11h7M10.5 3.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6zM5.5 9.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6z",
  list: "M2 3.5h12v9h-12zM6 3.5v9",
  sun: "M8 5.2a2.8 2.8 0 1 1 0 5.6 2.8 2.8 0 0 1 0-5.6zM8 1.3v1.5M8 13.2v1.5M1.3 8h1.5M13.2 8h1.5M3.3 3.3l1 1M11.7 11.7l1 1M3.3 12.7l1-1M11.7 4.3l1-1",
  moon: "M13 9.6A5.6 5.6 0 0 1 6.4 3a5.6 5.6 0 1 0 6.6 6.6z",
  auto: "M8 2.5a5.5 5.5 0 1 1 0 11zM8 2.5a5.5 5.5 0 1 0 0 11z",
  close: "M4 4l8 8M12 4l-8 8",
  down: "M8 3v9M4 8.5l4 4 4-4",
  send: "M8 13v-9.5M4 7.5l4-4 4 4",
  stop: "M4.5 4.5h7v7h-7z",
  back: "M13 8h-10M7 3.5l-4.5 4.5 4.5 4.5",
  key: "M6 13a3.2 3.2 0 1 1 0-6.4 3.2 3.2 0 0 1 0 6.4zM8.3 7.7l5-5M11 5l1.8 1.8M9.3 6.7l1.3 1.3",
  help: "M6 6a2 2 0 1 1 2.8 1.9c-.5.2-.8.6-.8 1.2v.4M8 12v.4",
  check: "M3 8.5l3.2 3.2L13 4.5",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3.5l7 4.5-7 4.5z",
};

/** A picture beside a text that says the same; hidden from those who hear the page. */
export function icon(name) {
  return s(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", focusable: "false" },
    s("path", { d: STROKES[name] }),
    name === "auto" && s("path", { d: "M8 2.5a5.5 5.5 0 1 1 0 11z", class: "filled" }),
  );
}

/** The mark: a rudder and the small tab that turns it. */
export function mark() {
  return s(
    "svg",
    { class: "mark", viewBox: "0 0 32 32", width: 22, height: 22, "aria-hidden": "true" },
    s("path", { class: "blade", d: "M8 3h9.5c3 0 4.5 1.6 4.5 4.4V17H8z" }),
    s("path", { class: "tab", d: "M8.3 19.2h13.5l3.4 9.8H11.2z" }),
  );
}
