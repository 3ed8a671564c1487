// The frame around the pages: which one is shown, where the focus goes, what the strip on top says.

import { askWith } from "./api.js";
import { budgetLine } from "./budget.js";
import { askForKey, showHelp } from "./dialogs.js";
import { h, put, say } from "./dom.js";
import { feed, follow } from "./feed.js";
import { short } from "./format.js";
import { icon, mark } from "./icons.js";
import { listen } from "./keys.js";
import { themeSwitch } from "./theme-switch.js";
import * as chat from "./chat.js";
import * as live from "./live.js";
import * as machine from "./machine.js";
import * as requests from "./requests.js";

const PAGES = { chat, live, requests, machine };
const TITLES = { chat: "Chat", live: "Live", requests: "Requests", machine: "Machine" };
const STATES = {
  connecting: "connecting",
  loading: "loading the model",
  ok: "ready",
  lost: "no connection, trying again",
  stopping: "server is stopping",
  refused: "refused",
};

const main = document.getElementById("main");
const links = {};
let shown = null;

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return { name: name in PAGES ? name : "chat", rest };
}

function show(first) {
  const { name, rest } = route();
  if (shown?.name === name && PAGES[name].moved) {
    PAGES[name].moved(rest);
    return;
  }
  shown?.over.abort();
  shown = { name, over: new AbortController() };
  for (const [one, link] of Object.entries(links)) {
    if (one === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[name]} · trimtab`;
  main.className = `page-${name}`;
  put(main);
  PAGES[name].open(main, rest, shown.over.signal);
  // A page that was asked for takes the focus; the first one leaves it where the browser starts.
  if (!first && !main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

function header() {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const model = h("span", { class: "model" });
  const state = h("span", { class: "state" });
  const rate = h("span", { class: "rate" });
  const nav = h(
    "nav",
    { "aria-label": "Pages" },
    Object.keys(PAGES).map(
      (name) => (links[name] = h("a", { href: `#/${name}` }, icon(name), h("span", {}, TITLES[name]))),
    ),
  );
  put(
    document.getElementById("head"),
    h(
      "a",
      { class: "brand", href: "#/chat", "aria-label": "trimtab, to the chat" },
      mark(),
      h("span", {}, "trimtab"),
    ),
    nav,
    h("div", { class: "status", role: "status" }, dot, model, state),
    h("div", { class: "right" }, rate, themeSwitch(), helpButton()),
  );
  follow(() => {
    dot.dataset.state = feed.state;
    say(model, feed.hello?.model ?? "");
    say(state, feed.state === "refused" ? feed.error : STATES[feed.state]);
    const speed = feed.state === "ok" ? (feed.last("decode") ?? 0) + (feed.last("prefill") ?? 0) : 0;
    say(rate, speed > 0 ? `${short(speed)} tok/s` : "");
  });
}

function helpButton() {
  return h(
    "button",
    {
      class: "plain",
      type: "button",
      "aria-label": "Keyboard shortcuts",
      title: "Keyboard shortcuts (?)",
      onclick: showHelp,
    },
    icon("help"),
  );
}

askWith(askForKey);
header();
budgetLine(document.getElementById("budget"));
window.addEventListener("hashchange", () => show(false));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the page's, not the target's
  main.focus();
});
listen((page) => (location.hash = `#/${page}`));
feed.start();
show(true);
