// The chat: conversations on the left, the talk in the middle, its settings on the right.

import { json } from "./api.js";
import { confirm } from "./dialogs.js";
import { add, fresh, h, put, say, toast } from "./dom.js";
import { feed, follow } from "./feed.js";
import { ago } from "./format.js";
import { icon } from "./icons.js";
import { onKey } from "./keys.js";
import { fit, messageView } from "./message.js";
import { optionsForm } from "./options.js";
import { announcer } from "./speech.js";
import { store, title } from "./store.js";
import { answer } from "./talk.js";

const EXAMPLES = [
  "Explain in three sentences how a sailing boat can move against the wind.",
  "Write a Python function that checks whether a word is a palindrome.",
  "List five things to check before a long bicycle tour.",
];

let talk = null; // the conversation on the page; survives a visit to another page
let running = null; // {message, abort, view} while an answer comes
let page = null; // the elements of the open page

/** Draw the page into `place`, until `signal` is aborted. */
export function open(place, rest, signal) {
  talk = (rest[0] && load(rest[0])) || talk || load(store.list()[0]?.id) || store.make();
  page = parts();
  add(place, [page.side, page.middle, page.panel]);
  onKey("Escape", stop, signal);
  onKey("n", () => begin(store.make()), signal);
  onKey("/", () => page.field.focus(), signal);
  onKey("e", editLast, signal);
  onKey("r", () => again(talk.messages.at(-1)), signal);
  follow(readiness, signal);
  feed.addEventListener("hello", models, { signal });
  window.addEventListener("storage", (event) => event.key === "trimtab.chats" && conversations(), { signal });
  models();
  draw();
  if (matchMedia("(pointer: fine)").matches) page.field.focus();
}

/** The address has changed within the page: another conversation. */
export function moved(rest) {
  const next = rest[0] && rest[0] !== talk.id && load(rest[0]);
  if (next) begin(next);
}

function load(id) {
  const found = id ? store.get(id) : null;
  // An answer that had not begun when the page was closed is none.
  if (
    found?.messages.at(-1)?.role === "assistant" &&
    !found.messages.at(-1).content &&
    !found.messages.at(-1).error
  )
    found.messages.pop();
  return found;
}

// A page that is closed in the middle of an answer keeps what has come.
window.addEventListener("pagehide", () => running && talk?.messages.length && store.save(talk));

// --- the parts --------------------------------------------------------------------------------------------

function parts() {
  const list = h("ul", { class: "list" });
  const side = h(
    "aside",
    { class: "side", id: "conversations", "aria-label": "Conversations" },
    h(
      "div",
      { class: "side-head" },
      h("h2", {}, "Conversations"),
      h(
        "button",
        {
          type: "button",
          class: "plain",
          title: "New conversation (n)",
          "aria-label": "New conversation",
          onclick: () => begin(store.make()),
        },
        icon("plus"),
      ),
      closer("side"),
    ),
    list,
  );
  const panel = h("aside", { class: "panel", id: "settings", "aria-label": "Settings of this conversation" });
  const thread = h("div", { class: "thread", role: "region", "aria-label": "Messages", tabindex: 0 });
  const speech = announcer();
  const latest = h(
    "button",
    { type: "button", class: "latest", hidden: true, onclick: () => bottom(true) },
    icon("down"),
    "To the end",
  );
  const field = h("textarea", {
    id: fresh("write"),
    rows: 1,
    placeholder: "Message",
    "aria-label": "Message",
    enterkeyhint: "send",
  });
  const model = h("select", { "aria-label": "Model", class: "model-choice" });
  const send = h("button", { type: "submit", class: "primary send" });
  const hint = h("span", { class: "hint" });
  const form = h(
    "form",
    { class: "composer" },
    field,
    h(
      "div",
      { class: "tools" },
      opener("side", "conversations", "list", "Conversations"),
      model,
      opener("panel", "settings", "tune", "Settings"),
      hint,
      send,
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else submit();
  });
  field.addEventListener("input", () => fit(field));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running) submit();
    } else if (event.key === "ArrowUp" && field.value === "" && !running) {
      event.preventDefault();
      editLast();
    }
  });
  model.addEventListener("change", () => {
    talk.model = model.value;
    if (talk.messages.length) keep();
  });
  thread.addEventListener("scroll", () => (latest.hidden = atEnd()));
  return {
    side,
    list,
    panel,
    thread,
    speech,
    latest,
    field,
    model,
    send,
    hint,
    form,
    middle: h("section", { class: "talk", "aria-label": "Conversation" }, thread, latest, speech, form),
  };
}

/** A button that opens a side part; on a wide page it shows and hides it. */
function opener(which, target, picture, label) {
  const button = h(
    "button",
    {
      type: "button",
      class: `plain open-${which}`,
      title: label,
      "aria-label": label,
      "aria-controls": target,
      "aria-expanded": "false",
    },
    icon(picture),
  );
  button.addEventListener("click", () => toggle(which));
  return button;
}

function closer(which) {
  return h(
    "button",
    { type: "button", class: "plain close", "aria-label": "Close", onclick: () => toggle(which, false) },
    icon("close"),
  );
}

function toggle(which, to) {
  const part = which === "side" ? page.side : page.panel;
  const button = page.form.querySelector(`.open-${which}`);
  const on = part.classList.toggle("open", to);
  button.setAttribute("aria-expanded", String(on));
  if (on) part.querySelector("button, textarea, a")?.focus();
  else button.focus();
}

function draw() {
  conversations();
  put(
    page.panel,
    h("div", { class: "side-head" }, h("h2", {}, "Settings"), closer("panel")),
    optionsForm(talk, () => talk.messages.length && keep()),
  );
  messages();
  sendButton();
  choose();
  bottom(true);
}

function conversations() {
  const lines = store.list();
  put(
    page.list,
    lines.map((line) =>
      h(
        "li",
        { class: line.id === talk.id ? "current" : null },
        h(
          "a",
          {
            href: `#/chat/${line.id}`,
            "aria-current": line.id === talk.id ? "true" : null,
            onclick: () => begin(load(line.id)),
          },
          h("span", { class: "name" }, line.title || "Untitled"),
          h("span", { class: "when" }, ago(line.updated)),
        ),
        h(
          "button",
          {
            type: "button",
            class: "plain remove",
            "aria-label": `Delete “${line.title || "Untitled"}”`,
            title: "Delete",
            onclick: () => remove(line),
          },
          icon("trash"),
        ),
      ),
    ),
    lines.length === 0 && h("li", { class: "none" }, "None yet. They stay in this browser."),
  );
}

function messages() {
  if (talk.messages.length === 0) {
    put(page.thread, welcome());
    return;
  }
  put(page.thread, h("div", { class: "messages" }, talk.messages.map(view)));
}

function view(message) {
  const made = messageView(message, { again, saved });
  message.view = made;
  Object.defineProperty(message, "view", { enumerable: false, writable: true });
  if (running?.message === message) {
    running.view = made;
    made.update(true);
  }
  return made;
}

function welcome() {
  return h(
    "div",
    { class: "welcome" },
    h("h1", {}, feed.hello ? `Talk to ${feed.hello.model}` : "Talk to the model"),
    h("p", {}, "It runs on this server. What you write stays in this browser and on that machine."),
    h(
      "ul",
      {},
      EXAMPLES.map((text) =>
        h("li", {}, h("button", { type: "button", class: "example", onclick: () => submit(text) }, text)),
      ),
    ),
  );
}

function readiness() {
  const words = {
    loading: "The model is loading; a message waits for it.",
    lost: "No connection to the server.",
    stopping: "The server is stopping.",
    connecting: "Connecting…",
  };
  say(page.hint, words[feed.state] ?? "");
  const heading = page.thread.querySelector(".welcome h1");
  if (heading && feed.hello) say(heading, `Talk to ${feed.hello.model}`);
}

async function models() {
  try {
    const { data } = await json("v1/models", { quiet: true });
    put(
      page.model,
      data.map(({ id }) => h("option", { value: id }, id)),
    );
    choose();
  } catch {
    // The list comes with the next connection; until then the server's default answers.
  }
}

function choose() {
  const known = [...page.model.options].map((option) => option.value);
  if (known.includes(talk.model)) page.model.value = talk.model;
  page.model.hidden = known.length === 0;
}

// --- what a person does -----------------------------------------------------------------------------------

function begin(next) {
  if (!next || next.id === talk.id) return;
  stop();
  talk = next;
  page.side.classList.remove("open");
  const address = talk.messages.length ? `#/chat/${talk.id}` : "#/chat";
  if (location.hash !== address) history.replaceState(null, "", address);
  draw();
  page.field.focus();
}

async function remove(line) {
  if (!(await confirm(`Delete “${line.title || "Untitled"}”?`, "Delete"))) return;
  store.remove(line.id);
  if (line.id === talk.id) {
    talk.messages = [];
    begin(load(store.list()[0]?.id) ?? store.make());
  } else conversations();
}

function submit(text = page.field.value) {
  const content = text.trim();
  if (!content || running) return;
  page.field.value = "";
  fit(page.field);
  talk.title ||= title(content);
  talk.messages.push({ role: "user", content });
  ask();
}

/** Answer again: the answer, and all that follows it, is replaced. */
function again(message) {
  const at = talk.messages.indexOf(message);
  if (running || at < 0) return;
  talk.messages.length = message.role === "assistant" ? at : at + 1;
  if (talk.messages.length) ask();
}

/** A message was edited. A question is asked again; an answer only changes. */
function saved(message, content) {
  if (running) return;
  message.content = content;
  if (message.role === "user") again(message);
  else {
    keep();
    messages();
  }
}

function editLast() {
  if (!running) talk.messages.findLast((message) => message.role === "user")?.view?.edit();
}

function stop() {
  running?.abort.abort();
}

async function ask() {
  const message = { role: "assistant", content: "", model: page.model.value || feed.hello?.model };
  const asked = [...talk.messages].filter((one) => one.content);
  const mine = talk;
  mine.model = page.model.value || null;
  mine.messages.push(message);
  const current = (running = { message, abort: new AbortController(), view: null });
  messages();
  sendButton();
  bottom(true);
  page.speech.begin();
  keep();
  let due = false;
  await answer(
    mine,
    asked,
    message,
    () => {
      if (due) return;
      due = true;
      // A frame for many tokens; a hidden page gets no frames and needs none.
      requestAnimationFrame(() => {
        due = false;
        if (running !== current) return;
        const follows = atEnd();
        current.view?.update(true);
        page.speech.say(message.content);
        if (follows) bottom();
      });
    },
    current.abort.signal,
  );
  running = null;
  if (message.stats.finish === "stopped" && !message.content)
    mine.messages.splice(mine.messages.indexOf(message), 1);
  if (mine.messages.length) store.save(mine);
  if (mine !== talk || !page.form.isConnected) return;
  const follows = atEnd();
  messages();
  conversations();
  sendButton();
  page.speech.say(message.error ?? message.content, true);
  if (follows) bottom();
}

function keep() {
  store.save(talk);
  conversations();
  if (store.full)
    toast(
      "This browser keeps no more conversations: delete some, or they last only until the page is closed.",
    );
}

function sendButton() {
  put(page.send, icon(running ? "stop" : "send"), h("span", {}, running ? "Stop" : "Send"));
  page.send.title = running ? "Stop (Esc)" : "Send (Enter)";
  page.send.classList.toggle("stopping", Boolean(running));
}

function atEnd() {
  const { scrollTop, clientHeight, scrollHeight } = page.thread;
  return scrollHeight - clientHeight - scrollTop < 48;
}

function bottom(now = false) {
  page.thread.scrollTo({ top: page.thread.scrollHeight, behavior: now ? "instant" : "auto" });
  page.latest.hidden = true;
}
