// Tells those who hear the page what arrives, a sentence at a time: word by word nobody could follow.

import { h } from "./dom.js";

const QUIET_MS = 1500;

/** A live region for a growing text: `say(text, over)` with all of the text so far. */
export function announcer() {
  const region = h("div", {
    class: "offscreen",
    role: "log",
    "aria-live": "polite",
    "aria-label": "Answer as it arrives",
  });
  let told = 0;
  let last = 0;
  region.begin = () => {
    region.replaceChildren();
    told = 0;
    last = performance.now();
  };
  region.say = (text, over = false) => {
    const now = performance.now();
    if (!over && now - last < QUIET_MS) return;
    const rest = text.slice(told);
    const end = over
      ? rest.length
      : Math.max(...[". ", "! ", "? ", ":\n", ".\n", "\n\n"].map((mark) => rest.lastIndexOf(mark))) + 1;
    if (end <= 0) return;
    region.append(h("p", {}, rest.slice(0, end)));
    told += end;
    last = now;
  };
  return region;
}
