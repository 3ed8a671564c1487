// What is asked in a window of its own: the key, a yes or no, and the list of shortcuts.

import { useKey } from "./api.js";
import { fresh, h } from "./dom.js";
import { shortcutsOn, turnShortcuts } from "./keys.js";

const SHORTCUTS = [
  ["Enter", "send the message"],
  ["Shift Enter", "new line"],
  ["Esc", "stop the answer"],
  ["/", "write a message"],
  ["n", "new conversation"],
  ["e", "edit your last message"],
  ["r", "answer again"],
  ["g then c, l, r, m", "chat, live, requests, machine"],
  ["← →", "in a chart or among tokens: the one before, the next"],
  ["?", "this list"],
];

/** Open a window with a form; resolves to what `value` returns, or to null when it was left. */
export function open(title, content, { ok = "OK", danger = false, value = () => true } = {}) {
  const name = fresh("title");
  return new Promise((resolve) => {
    let result = null;
    const form = h(
      "form",
      { method: "dialog", onsubmit: () => (result = value()) },
      h("h2", { id: name }, title),
      content,
      h(
        "div",
        { class: "buttons" },
        ok !== null && h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: danger ? "danger" : "primary" }, ok ?? "Close"),
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": name }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask for the server's key; resolves to it, or to null. */
export async function askForKey(wasWrong) {
  const field = h("input", {
    type: "password",
    name: "key",
    autocomplete: "current-password",
    required: true,
    id: fresh("key"),
    spellcheck: "false",
  });
  const keep = h("input", { type: "checkbox" });
  const content = [
    h(
      "p",
      {},
      wasWrong ? "The server does not know this key." : "This server answers only those who have a key.",
    ),
    h("label", { for: field.id }, "API key"),
    field,
    h("label", { class: "check" }, keep, "Remember it in this browser"),
  ];
  const key = await open("API key", content, { ok: "Use it", value: () => field.value.trim() });
  if (!key) return null;
  useKey(key, keep.checked);
  return key;
}

/** Ask before something is lost. */
export function confirm(question, ok) {
  return open(question, h("p", {}, "This cannot be undone."), { ok, danger: true });
}

/** The list of keys. */
export function showHelp() {
  const on = h("input", {
    type: "checkbox",
    checked: shortcutsOn(),
    onchange: () => turnShortcuts(on.checked),
  });
  return open(
    "Keyboard",
    [
      h(
        "dl",
        { class: "keys" },
        SHORTCUTS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]),
      ),
      h("label", { class: "check" }, on, "Single keys act outside of text fields"),
    ],
    { ok: null },
  );
}
