// The one stream of figures that every page reads: connects, reconnects, and rests while nobody looks.

import { ApiError, events, request } from "./api.js";

const KEEP_MS = 10 * 60_000;
const HIDDEN_MS = 5_000;

class Feed extends EventTarget {
  state = "connecting"; // loading, ok, lost, stopping, refused
  hello = null;
  rows = []; // arrays in the order of hello.columns, oldest first
  error = "";
  #columns = {};
  #abort = null;
  #running = false;

  /** Begin; called once. */
  start() {
    let timer = null;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (document.hidden) timer = setTimeout(() => this.#abort?.abort(), HIDDEN_MS);
      else this.#run();
    });
    this.#run();
  }

  /** The newest value of a column, or null. */
  last(name) {
    const row = this.rows.at(-1);
    return row === undefined ? null : row[this.#columns[name]];
  }

  /** Where a column lies in a row. */
  column(name) {
    return this.#columns[name];
  }

  async #run() {
    if (this.#running) return;
    this.#running = true;
    let wait = 400;
    while (!document.hidden) {
      this.#abort = new AbortController();
      try {
        const response = await request("console/api/live", { signal: this.#abort.signal });
        for await (const { event, data } of events(response)) {
          this.#take(event, JSON.parse(data));
          wait = 400;
        }
        if (this.state !== "stopping") this.#change("lost");
      } catch (error) {
        if (error.name === "AbortError" && document.hidden) break;
        this.error = error.message;
        this.#change(error instanceof ApiError && error.status < 500 ? "refused" : "lost");
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 1.6, 5000);
    }
    this.#running = false;
  }

  #take(event, data) {
    if (event === "loading") this.#change("loading");
    else if (event === "bye") this.#change("stopping");
    else if (event === "hello") {
      this.hello = data;
      this.#columns = Object.fromEntries(data.columns.map((name, index) => [name, index]));
      this.#change("ok");
      this.dispatchEvent(new Event("hello"));
    } else if (event === "rows" && data.length) {
      // What the server still knows replaces what we had; what it has forgotten in a restart stays.
      const first = data[0][0];
      const kept = this.rows.filter((row) => row[0] < first);
      const all = kept.concat(data);
      this.rows = all.filter((row) => row[0] >= all.at(-1)[0] - KEEP_MS - 5000);
      this.dispatchEvent(new Event("rows"));
    }
  }

  #change(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const feed = new Feed();

/** Call `update` now and for every change, until `signal` is aborted. */
export function follow(update, signal) {
  for (const name of ["rows", "state", "hello"]) feed.addEventListener(name, update, { signal });
  update();
}
