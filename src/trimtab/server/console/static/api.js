// Speaks to the server: one key, one kind of error, and server-sent events out of a fetch.

const STORED = "trimtab.key";
let key = read();
let asking = null;
let ask = async () => null;

function read() {
  try {
    return sessionStorage.getItem(STORED) ?? localStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

/** Who asks a person for the key: a function that resolves to one, or to null. */
export function askWith(asker) {
  ask = asker;
}

/** Use a key from now on; kept until the tab closes, or for good. Empty forgets it. */
export function useKey(value, keep = false) {
  key = value;
  try {
    sessionStorage.removeItem(STORED);
    localStorage.removeItem(STORED);
    if (value) (keep ? localStorage : sessionStorage).setItem(STORED, value);
  } catch {
    // It then lives as long as the page.
  }
}

export const hasKey = () => key !== "";

/** What the server answered when it was not what was asked for. */
export class ApiError extends Error {
  constructor(status, message, { code = null, param = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** The server cannot be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

/** Fetch an address of this server. A missing or wrong key is asked for, once for all who wait. */
export async function request(path, { method = "GET", body, signal, quiet = false } = {}) {
  for (;;) {
    const used = key;
    const response = await once(path, method, body, signal);
    if (response.status !== 401) {
      if (response.ok) return response;
      throw await refusal(response);
    }
    if (quiet) throw await refusal(response);
    if (used !== key) continue; // somebody has given a key meanwhile
    asking ??= ask(used !== "").finally(() => (asking = null));
    if ((await asking) === null) throw await refusal(response);
  }
}

/** Like `request`, for JSON. */
export async function json(path, options) {
  return (await request(path, options)).json();
}

async function once(path, method, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
}

async function refusal(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.message, { code: error.code, param: error.param, retryAfter });
  } catch {
    return new ApiError(response.status, `The server answered with status ${response.status}.`, {
      retryAfter,
    });
  }
}

/** The events of a stream as {event, data}; ends with the stream. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const found = parse(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (found) yield found;
      }
    }
  } finally {
    // Leaving early must close the connection: the server then ends what it does for us.
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
    else if (line.startsWith("event:")) event = line.slice(6).trim();
  }
  return data.length ? { event, data: data.join("\n") } : null;
}
