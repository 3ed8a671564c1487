// The tokens of an answer as chips: the less probable the model found one, the warmer it is.

import { fresh, h, put, say } from "./dom.js";
import { duration, percent } from "./format.js";

const FIRST = 1500; // chips drawn at once; the rest when asked for
const STEPS = [1, 0.5, 0.2, 0.05, 0.01];

/** How warm a token is, 0 (certain) to 1 (one in a hundred or less); on a scale of logarithms. */
export const heat = (logprob) => Math.min(1, Math.max(0, -logprob / Math.log(100)));

/** White space, made visible. */
export const visible = (text) =>
  text.replace(/ /g, "·").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");

/**
 * The chips with a legend and a line that tells about the chosen one; `chosen(index)` is called for each.
 *
 * One stop for the tab key, arrows inside.
 */
export function tokenView(track, chosen) {
  const { texts, tokens, logprobs, top, times_ms: times } = track;
  const about = h("div", { class: "about", id: fresh("about"), role: "status" });
  const list = h("div", {
    class: "tokens",
    role: "listbox",
    "aria-label": "Tokens of the answer",
    "aria-orientation": "horizontal",
  });
  const chips = [];
  let current = -1;

  function more() {
    const from = chips.length;
    for (let i = from; i < Math.min(texts.length, from + FIRST); i += 1) chips.push(chip(i));
    for (const one of chips.slice(from)) {
      list.append(one);
      if (one.textContent.includes("⏎")) list.append(h("br"));
    }
    rest.hidden = chips.length >= texts.length;
    say(rest, `Show ${Math.min(FIRST, texts.length - chips.length)} more of ${texts.length}`);
  }

  function chip(i) {
    const warm = logprobs?.[i] === undefined || logprobs[i] === null ? null : heat(logprobs[i]);
    const label = `${texts[i]}${warm === null ? "" : `, ${percent(Math.exp(logprobs[i]))}`}`;
    const made = h("span", {
      class: warm === null ? "chip" : "chip scored",
      role: "option",
      tabindex: i === 0 ? 0 : -1,
      "aria-label": label,
      "aria-selected": "false",
      "data-index": i,
      style: warm === null ? {} : { "--heat": warm.toFixed(3) },
    });
    made.append(visible(texts[i]));
    return made;
  }

  function choose(i, focus) {
    if (i < 0 || i >= texts.length) return;
    while (chips.length <= i) more();
    chips[current]?.setAttribute("aria-selected", "false");
    chips[current]?.setAttribute("tabindex", "-1");
    current = i;
    chips[i].setAttribute("aria-selected", "true");
    chips[i].setAttribute("tabindex", "0");
    if (focus) chips[i].focus();
    put(about, facts(i));
    chosen(i);
  }

  function facts(i) {
    const since = times.length > i ? times[i] / 1000 : null;
    const gap = i > 0 && times.length > i ? (times[i] - times[i - 1]) / 1000 : null;
    const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    return [
      h(
        "dl",
        {},
        pair(`Token ${i + 1} of ${texts.length}`, h("code", {}, visible(texts[i]))),
        pair("Id", tokens[i]),
        logprobs && pair("Probability", percent(Math.exp(logprobs[i]))),
        logprobs && pair("Log-probability", logprobs[i].toFixed(3)),
        since !== null && pair("Came after", duration(since)),
        gap !== null && pair("Waited", gap === 0 ? "same step" : duration(gap)),
      ),
      top?.[i] &&
        h(
          "ol",
          { class: "alternatives", "aria-label": "Likeliest tokens here" },
          top[i].map(([text, logprob]) => alternative(text, logprob, text === texts[i])),
        ),
    ];
  }

  function alternative(text, logprob, taken) {
    const share = Math.exp(logprob);
    return h(
      "li",
      { class: taken ? "taken" : null },
      h("code", {}, visible(text)),
      h("span", { class: "bar" }, h("i", { style: { width: `${share * 100}%` } })),
      h("span", { class: "share" }, percent(share)),
    );
  }

  list.addEventListener(
    "click",
    (event) => event.target.dataset.index && choose(Number(event.target.dataset.index), true),
  );
  list.addEventListener("focusin", (event) => {
    const i = Number(event.target.dataset.index);
    if (event.target.dataset.index && i !== current) choose(i, false);
  });
  list.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: current - 1,
      ArrowRight: current + 1,
      Home: 0,
      End: texts.length - 1,
      ArrowUp: line(-1),
      ArrowDown: line(1),
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(texts.length - 1, to)), true);
  });

  /** The chip above or below the current one. */
  function line(direction) {
    const here = chips[current]?.getBoundingClientRect();
    if (!here) return 0;
    for (let i = current + direction; i >= 0 && i < chips.length; i += direction) {
      const there = chips[i].getBoundingClientRect();
      const beyond =
        direction > 0
          ? there.top > here.top + 4 && there.right > here.left
          : there.top < here.top - 4 && there.left <= here.left;
      if (beyond) return i;
    }
    return current;
  }

  const rest = h("button", { type: "button", class: "more", onclick: more });
  more();
  const view = h("div", { class: "token-view" }, logprobs && legend(), list, rest, about);
  view.choose = (i) => choose(i, false);
  if (texts.length)
    put(about, h("p", {}, "Choose a token to see its figures: click, or Tab and the arrow keys."));
  return view;
}

function legend() {
  return h(
    "div",
    {
      class: "legend",
      role: "img",
      "aria-label": "Colour: from certain, without colour, to one in a hundred or less, warm",
    },
    h("span", {}, "probability"),
    STEPS.map((share) =>
      h(
        "span",
        { class: "chip scored", style: { "--heat": String(heat(Math.log(share))) } },
        share === 0.01 ? "≤ 1 %" : `${share * 100} %`,
      ),
    ),
  );
}
