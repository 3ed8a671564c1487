// One message on the page: its text, what can be done with it, and what it cost.

import { copy, h, put } from "./dom.js";
import { count, milliseconds, short } from "./format.js";
import { icon } from "./icons.js";
import { markdown, settled } from "./markdown.js";

const ENDS = {
  length: ["reached the token limit", "The answer is as long as “Most tokens” allows, or fills the context."],
  stopped: ["stopped", "You ended it."],
  tool_calls: ["calls a tool", "The model wants a tool that the console does not have."],
};

/** A message as an element with `update(streaming)`; `actions` has edit, again, and saved. */
export function messageView(message, actions) {
  const user = message.role === "user";
  const text = h("div", { class: "text" });
  const foot = h("div", { class: "foot" });
  const article = h(
    "article",
    { class: `message ${message.role}`, "aria-label": user ? "You" : "Answer" },
    h("h2", { class: "who" }, user ? "You" : (message.model ?? "Answer")),
    text,
    foot,
  );
  const body = user ? null : growing(text);
  article.update = (streaming) => {
    if (user) put(text, message.content);
    else body(message.content, streaming);
    article.classList.toggle("streaming", Boolean(streaming));
    put(
      foot,
      streaming
        ? waiting(message)
        : [failure(message, actions), cost(message), buttons(message, actions, article)],
    );
  };
  article.edit = () => edit(message, actions, article, text, foot);
  article.update(false);
  return article;
}

/** Draws a text that grows: paragraphs that are complete stay, only the last one is drawn again. */
function growing(place) {
  let done = "";
  let kept = 0;
  return (content, streaming) => {
    if (!streaming || !content.startsWith(done)) {
      put(place, markdown(content));
      done = "";
      kept = 0;
      if (!streaming) return;
    }
    const end = settled(content);
    while (place.childNodes.length > kept) place.lastChild.remove();
    if (end > done.length) {
      place.append(...markdown(content.slice(done.length, end)));
      done = content.slice(0, end);
      kept = place.childNodes.length;
    }
    place.append(...markdown(content.slice(end)));
  };
}

function waiting(message) {
  return message.content === "" && h("span", { class: "thinking" }, "Waiting for the first token");
}

function failure(message, actions) {
  if (!message.error) return null;
  return h(
    "p",
    { class: "error", role: "alert" },
    message.error,
    " ",
    h("button", { type: "button", class: "link", onclick: () => actions.again(message) }, "Try again"),
  );
}

function cost({ stats }) {
  if (!stats || stats.ttft_ms === null) return null;
  const parts = [
    `${count(stats.tokens)} ${stats.tokens === 1 ? "token" : "tokens"}`,
    `TTFT ${milliseconds(stats.ttft_ms)}`,
  ];
  if (stats.tokens_per_s) parts.push(`${short(stats.tokens_per_s)} tok/s`);
  const [end, why] = ENDS[stats.finish] ?? [];
  return h(
    "span",
    { class: "cost", title: "TTFT: time to first token, measured in this browser" },
    parts.map((part) => h("span", {}, part)),
    end && h("span", { class: "end", title: why }, end),
  );
}

function buttons(message, actions, article) {
  const user = message.role === "user";
  const copying = button("copy", "Copy", () => copy(message.content, copying));
  return h(
    "span",
    { class: "actions" },
    copying,
    button("edit", "Edit", () => article.edit()),
    !user && button("again", "Again", () => actions.again(message), "Answer again"),
    !user &&
      message.stats?.request &&
      h(
        "a",
        {
          class: "plain small",
          href: `#/requests/${message.stats.request}`,
          title: "Where the time went, and how sure the model was",
        },
        icon("inspect"),
        h("span", { class: "label" }, "Inspect"),
      ),
  );
}

function button(picture, label, action, title = label) {
  return h(
    "button",
    { type: "button", class: "plain small", title, onclick: action },
    icon(picture),
    h("span", { class: "label" }, label),
  );
}

function edit(message, actions, article, text, foot) {
  const user = message.role === "user";
  const area = h("textarea", { class: "editing", value: message.content, "aria-label": "Message", rows: 3 });
  const leave = () => {
    article.classList.remove("edited");
    article.update(false);
    article.querySelector(".actions button")?.focus();
  };
  const save = () => {
    const content = area.value.trim();
    if (!content) return leave();
    article.classList.remove("edited");
    return actions.saved(message, content);
  };
  area.addEventListener("input", () => fit(area));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      leave();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (user && !event.shiftKey))) {
      event.preventDefault();
      save();
    }
  });
  article.classList.add("edited");
  put(text, area);
  put(
    foot,
    h(
      "span",
      { class: "buttons" },
      h("button", { type: "button", onclick: leave }, "Cancel"),
      h("button", { type: "button", class: "primary", onclick: save }, user ? "Send again" : "Keep"),
    ),
  );
  fit(area);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

/** Make a text area as high as its text. */
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
