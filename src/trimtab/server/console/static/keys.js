// Keys that work everywhere. Single letters act only outside of fields, and can be turned off.

import { showHelp } from "./dialogs.js";

const GO = { c: "chat", l: "live", r: "requests", m: "machine" };
const OFF = "trimtab.shortcuts";
const actions = new Map();

export function shortcutsOn() {
  try {
    return localStorage.getItem(OFF) !== "off";
  } catch {
    return true;
  }
}

export function turnShortcuts(on) {
  try {
    if (on) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "off");
  } catch {
    // Nothing is kept then.
  }
}

/** A page's own key, until `signal` is aborted: `onKey("n", newConversation, signal)`. */
export function onKey(key, action, signal) {
  actions.set(key, action);
  signal.addEventListener("abort", () => actions.get(key) === action && actions.delete(key));
}

/** Start to listen; `go` opens a page by name. */
export function listen(go) {
  let prefix = 0;
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (!document.querySelector("dialog[open]")) actions.get("Escape")?.(event);
      return;
    }
    if (!shortcutsOn() || writing(event.target) || document.querySelector("dialog[open]")) return;
    const going = event.timeStamp - prefix < 1500 && GO[event.key];
    prefix = 0;
    if (going) go(going);
    else if (event.key === "g") prefix = event.timeStamp;
    else if (event.key === "?") showHelp();
    else if (actions.has(event.key)) actions.get(event.key)(event);
    else return;
    event.preventDefault();
  });
}

const writing = (target) => target.matches?.("input, textarea, select, [contenteditable]");
