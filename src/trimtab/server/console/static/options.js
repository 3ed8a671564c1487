// What a conversation asks of the model: system prompt and sampling. An empty field leaves it to the server.

import { fresh, h, put } from "./dom.js";

const NUMBERS = [
  [
    "temperature",
    "Temperature",
    0,
    2,
    0.1,
    "0 always takes the likeliest token; 1 is the model's own distribution",
    "1",
  ],
  ["max_tokens", "Most tokens", 1, 1048576, 1, "longest answer", "to the context's end"],
  ["top_p", "Top p", 0, 1, 0.05, "keep the fewest tokens whose probability reaches this share", "1"],
  ["top_k", "Top k", 0, 1000000, 1, "keep this many likeliest tokens; 0 keeps all", "0"],
  ["min_p", "Min p", 0, 1, 0.01, "keep tokens at least this fraction as likely as the likeliest", "0"],
  ["repetition_penalty", "Repetition penalty", 0.1, 100, 0.05, "above 1 discourages what has been said", "1"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, "subtracted once a token has appeared", "0"],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, "subtracted for each time it has appeared", "0"],
  ["seed", "Seed", -9007199254740991, 9007199254740991, 1, "equal seeds give equal answers", "random"],
];

/** The settings of a conversation as a form; `changed` is called after each valid change. */
export function optionsForm(conversation, changed) {
  const form = h("form", { class: "options", onsubmit: (event) => event.preventDefault() });
  const system = h("textarea", {
    id: fresh("system"),
    rows: 4,
    value: conversation.system,
    placeholder: "The model's own",
  });
  system.addEventListener("input", () => {
    conversation.system = system.value;
    changed();
  });
  const stop = h("textarea", {
    id: fresh("stop"),
    rows: 2,
    value: conversation.settings.stop ?? "",
    placeholder: "none",
  });
  stop.addEventListener("input", () => {
    conversation.settings.stop = stop.value;
    changed();
  });
  put(
    form,
    h("div", { class: "field wide" }, h("label", { for: system.id }, "System prompt"), system),
    NUMBERS.map((each) => number(conversation.settings, each, changed)),
    h(
      "div",
      { class: "field wide" },
      h("label", { for: stop.id }, "Stop at"),
      stop,
      h("small", {}, "one text a line; it ends the answer and is not part of it"),
    ),
  );
  return form;
}

function number(settings, [name, label, least, most, step, what, usual], changed) {
  const id = fresh(name);
  const note = `${id}-note`;
  const field = h("input", {
    id,
    name,
    type: "number",
    inputmode: "decimal",
    min: least,
    max: most,
    step: "any",
    placeholder: usual,
    value: settings[name] ?? "",
    "aria-describedby": note,
    "data-step": step,
  });
  const hint = h("small", { id: note }, what);
  field.addEventListener("input", () => {
    const value = field.value === "" && !field.validity.badInput ? null : field.valueAsNumber;
    const whole = step === 1 && value !== null && !Number.isInteger(value);
    const wrong = value !== null && (Number.isNaN(value) || value < least || value > most || whole);
    field.setAttribute("aria-invalid", String(wrong));
    hint.textContent = wrong ? `${whole ? "a whole number" : "a number"} from ${least} to ${most}` : what;
    hint.classList.toggle("wrong", wrong);
    if (wrong) return;
    if (value === null) delete settings[name];
    else settings[name] = value;
    changed();
  });
  // "any" lets every value in; the arrows still move by a sensible step.
  field.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    const from = Number.isNaN(field.valueAsNumber) ? Number(usual) || 0 : field.valueAsNumber;
    const to = from + (event.key === "ArrowUp" ? step : -step);
    field.value = String(Number(Math.min(most, Math.max(least, to)).toPrecision(12)));
    field.dispatchEvent(new Event("input"));
  });
  return h("div", { class: "field" }, h("label", { for: id }, label), field, hint);
}
