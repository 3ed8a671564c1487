// The inspector: the last requests as a list, and one of them opened up into time and tokens.

import { ApiError, json } from "./api.js";
import { copy, fresh, h, put, say } from "./dom.js";
import { ago, clock, count, duration } from "./format.js";
import { icon } from "./icons.js";
import { tokenView } from "./tokens.js";
import { intervals, waterfall } from "./waterfall.js";

const EVERY_MS = 2000;
const RUNNING = ["queued", "prefill", "decode"];
const WORDS = {
  stop: "done",
  length: "at limit",
  cancelled: "cancelled",
  failed: "failed",
  refused: "refused",
  queued: "queued",
  prefill: "prefill",
  decode: "decoding",
};
const FILTERS = [
  ["all", "All"],
  ["running", "Running"],
  ["done", "Done"],
  ["wrong", "Failed or refused"],
];
const KINDS = [
  ["chatcmpl", "chat"],
  ["cmpl", "completion"],
  ["resp", "response"],
  ["embd", "embedding"],
  ["batch", "batch"],
];

const state = { filter: "all", find: "", id: null, rows: null, page: null };

/** Draw the page into `place`, until `signal` is aborted. */
export function open(place, rest, signal) {
  const body = h("tbody");
  const note = h("p", { class: "notice", role: "status" });
  const list = h(
    "div",
    { class: "request-list" },
    tools(() => rowsInto(body, note)),
    note,
    table(body),
  );
  const detail = h("section", { class: "request-detail", "aria-label": "Request", tabindex: -1 });
  put(
    place,
    h(
      "div",
      { class: "sheet requests" },
      h("div", { class: "sheet-head" }, h("h1", {}, "Requests")),
      h("div", { class: "split" }, list, detail),
    ),
  );
  state.page = { place, body, note, detail, signal, drawn: null, timer: null };
  moved(rest);
  poll();
  signal.addEventListener("abort", () => clearTimeout(state.page.timer));
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const links = [...body.querySelectorAll("a")];
    const to = step && links[links.indexOf(document.activeElement) + step];
    if (to) {
      event.preventDefault();
      to.focus();
    }
  });
}

/** The address has changed within the page: another request. */
export function moved(rest) {
  const { place, body, note, detail } = state.page;
  state.id = rest[0] || null;
  state.page.drawn = null;
  place.classList.toggle("detail-open", state.id !== null);
  rowsInto(body, note);
  if (state.id === null) {
    put(
      detail,
      h(
        "p",
        { class: "none" },
        "Choose a request to see where its time went and how sure the model was of each token.",
      ),
    );
    return;
  }
  put(detail, h("p", { class: "none" }, "Loading…"));
  loadDetail();
  if (matchMedia("(max-width: 900px)").matches) detail.focus({ preventScroll: true });
}

async function poll() {
  const { signal } = state.page;
  while (!signal.aborted) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => (state.page.timer = setTimeout(resolve, EVERY_MS)));
  }
}

async function refresh() {
  const { body, note, signal } = state.page;
  try {
    const { data } = await json("console/api/requests", { signal });
    state.rows = data;
    state.error = null;
    if (RUNNING.includes(state.page.drawn?.status)) loadDetail();
  } catch (error) {
    if (signal.aborted) return;
    state.error = error instanceof ApiError && error.status === 404 ? `${error.message}.` : error.message;
  }
  rowsInto(body, note);
}

// --- the list ---------------------------------------------------------------------------------------------

function tools(changed) {
  const find = h("input", {
    type: "search",
    id: fresh("find"),
    placeholder: "Find by id or tenant",
    "aria-label": "Find by id or tenant",
    value: state.find,
  });
  find.addEventListener("input", () => {
    state.find = find.value.trim().toLowerCase();
    changed();
  });
  const group = h("fieldset", { class: "choice" }, h("legend", { class: "offscreen" }, "Show"));
  for (const [value, label] of FILTERS) {
    const input = h("input", { type: "radio", name: "filter", value, checked: value === state.filter });
    input.addEventListener("change", () => {
      state.filter = value;
      changed();
    });
    group.append(h("label", {}, input, h("span", {}, label)));
  }
  return h("div", { class: "controls" }, group, find);
}

function table(body) {
  const heads = ["Status", "Kind", "When", "Prompt", "Output", "Queue", "TTFT", "TPOT", "Total"];
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "rows" },
      h("caption", { class: "offscreen" }, "Recent requests, newest first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((text, i) => h("th", { scope: "col", class: i > 2 ? "number" : null }, text)),
        ),
      ),
      body,
    ),
  );
}

function rowsInto(body, note) {
  const rows = (state.rows ?? []).filter(wanted);
  // Whoever is on a row by key stays on it.
  const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  put(body, rows.map(line));
  if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  body.closest("table").hidden = rows.length === 0;
  let text = "";
  if (state.error) text = state.error;
  else if (state.rows === null) text = "Loading…";
  else if (state.rows.length === 0) text = "No request yet. Send a message in the chat, or call the API.";
  else if (rows.length === 0) text = "No request is like this.";
  say(note, text);
}

function wanted(row) {
  const kinds = { running: RUNNING, done: ["stop", "length"], wrong: ["failed", "refused", "cancelled"] };
  if (state.filter !== "all" && !kinds[state.filter].includes(row.status)) return false;
  return (
    !state.find || row.id.toLowerCase().includes(state.find) || row.tenant.toLowerCase().includes(state.find)
  );
}

function line(row) {
  const number = (text) => h("td", { class: "number" }, text);
  const kind = KINDS.find(([prefix]) => row.id.startsWith(prefix))?.[1] ?? "request";
  return h(
    "tr",
    { class: row.id === state.id ? "current" : null },
    h("td", {}, badge(row.status)),
    h(
      "td",
      {},
      h(
        "a",
        { href: `#/requests/${row.id}`, title: row.id, "aria-current": row.id === state.id ? "true" : null },
        kind,
        row.outputs > 1 && ` × ${row.outputs}`,
      ),
      row.tenant && h("span", { class: "tenant" }, row.tenant),
    ),
    h("td", { class: "when", title: clock(row.created * 1000) }, ago(row.created * 1000)),
    number([
      count(row.prompt_tokens),
      row.cached_tokens > 0 && h("small", { title: "shared, not computed" }, ` ${count(row.cached_tokens)}`),
    ]),
    number(count(row.output_tokens)),
    number(duration(row.queue_s)),
    number(duration(row.ttft_s)),
    number(duration(row.tpot_s)),
    number(duration(row.total_s)),
  );
}

const badge = (status) => h("span", { class: `badge status-${status}` }, WORDS[status] ?? status);

// --- one of them ------------------------------------------------------------------------------------------

async function loadDetail() {
  const { detail, signal } = state.page;
  const id = state.id;
  if (!id) return;
  try {
    const found = await json(`console/api/requests/${encodeURIComponent(id)}`, { signal });
    if (id === state.id) draw(found);
  } catch (error) {
    if (signal.aborted || id !== state.id) return;
    const text =
      error instanceof ApiError && error.status === 404
        ? "This request is not remembered any more."
        : error.message;
    put(detail, back(), h("p", { class: "none", role: "alert" }, text));
  }
}

const back = () => h("a", { class: "back plain", href: "#/requests" }, icon("back"), "All requests");

function draw(found) {
  const { detail } = state.page;
  // A finished request does not change: what a person has chosen in it stays.
  if (
    state.page.drawn?.id === found.id &&
    state.page.drawn.status === found.status &&
    !RUNNING.includes(found.status)
  )
    return;
  state.page.drawn = found;
  const copying = h(
    "button",
    { type: "button", class: "plain small", title: "Copy the id", onclick: () => copy(found.id, copying) },
    icon("copy"),
    h("span", { class: "label" }, "Copy"),
  );
  put(
    detail,
    back(),
    h(
      "header",
      {},
      h("h2", {}, badge(found.status), h("code", {}, found.id), copying),
      h("p", {}, clock(found.created * 1000), asked(found)),
    ),
    found.error && h("p", { class: "error" }, found.error),
    h("h3", {}, "Where the time went"),
    waterfall(found.tracks),
    found.tracks.map((track, index) => output(found, track, index)),
    prompts(found),
  );
}

function asked({ asked: given }) {
  const usual = {
    top_p: 1,
    top_k: 0,
    min_p: 0,
    repetition_penalty: 1,
    presence_penalty: 0,
    frequency_penalty: 0,
    n: 1,
    seed: null,
  };
  const shown = Object.entries(given).filter(([name, value]) => usual[name] !== value && value !== null);
  return h(
    "span",
    { class: "asked" },
    shown.map(([name, value]) =>
      h(
        "span",
        {},
        `${name.replaceAll("_", " ")} ${typeof value === "number" ? Number(value.toPrecision(6)) : value}`,
      ),
    ),
  );
}

function output(found, track, index) {
  const name = found.tracks.length > 1 ? `Output ${index + 1}` : "Output";
  const parts = [];
  let chips = null;
  let columns = null;
  const choose = (i) => {
    columns?.svg.choose(i);
  };
  if (track.texts?.length) chips = tokenView(track, choose);
  if (track.times_ms.length > 2) {
    columns = intervals(track.times_ms, (i) => chips?.choose(i));
    parts.push(
      h("h3", {}, `${name}: time between tokens`),
      h("div", { class: "intervals-box" }, columns.svg),
      h("p", { class: "summary" }, columns.text),
    );
  }
  if (chips) {
    parts.push(h("h3", { class: "with-button" }, `${name}: tokens`, scoring(found, track, index)), chips);
  } else if (track.output_tokens > 0) parts.push(h("p", { class: "summary" }, why(found)));
  return parts;
}

function why(found) {
  if (found.content === "trimmed") return "Its tokens are not kept any more: newer requests needed the room.";
  return "Tokens are not shown: the server keeps figures only, or is another machine. It takes --inspect full.";
}

function scoring(found, track, index) {
  if (RUNNING.includes(found.status)) return null;
  if (track.logprobs)
    return h("small", {}, track.scored ? "scored afterwards, at temperature 1" : "as the request asked for");
  const button = h("button", { type: "button", class: "score" }, "Score them");
  button.title = "Compute how probable each token was: one prefill of prompt and answer";
  button.addEventListener("click", async () => {
    button.disabled = true;
    say(button, "Scoring…");
    try {
      const fresh = await json(`console/api/requests/${encodeURIComponent(found.id)}/score?output=${index}`, {
        method: "POST",
      });
      state.page.drawn = null;
      draw(fresh);
      state.page.detail.querySelectorAll(".token-view .chip[tabindex='0']")[index]?.focus();
    } catch (error) {
      button.disabled = false;
      say(button, "Score them");
      button.after(h("small", { class: "wrong", role: "alert" }, error.message));
    }
  });
  return button;
}

function prompts(found) {
  return (found.prompts ?? []).map((prompt, index, all) =>
    h(
      "details",
      { class: "prompt" },
      h(
        "summary",
        {},
        `Prompt${all.length > 1 ? ` ${index + 1}` : ""}, as the model saw it`,
        h("small", {}, `${count(prompt.tokens)} tokens`),
      ),
      h("pre", { tabindex: 0 }, prompt.text),
    ),
  );
}
