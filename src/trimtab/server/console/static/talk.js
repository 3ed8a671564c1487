// One answer from the server: asks for it, reads it as it comes, and takes the time.

import { ApiError, Unreachable, events, request } from "./api.js";

/** Fields of the settings that go into a request as they are, when they are not empty. */
const FIELDS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "max_tokens",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
  "seed",
];

function body(conversation, messages) {
  const { settings, system, model } = conversation;
  const asked = { stream: true, stream_options: { include_usage: true } };
  if (model) asked.model = model;
  for (const name of FIELDS) if (typeof settings[name] === "number") asked[name] = settings[name];
  const stops = (settings.stop ?? "").split("\n").filter(Boolean);
  if (stops.length) asked.stop = stops;
  asked.messages = messages.map(({ role, content }) => ({ role, content }));
  if (system.trim()) asked.messages.unshift({ role: "system", content: system });
  return asked;
}

/**
 * Answer a conversation into `message` (its `content` grows); `changed` is called for every piece.
 *
 * The message ends with `stats`: ttft_ms, tokens, tokens_per_s, finish, request. Stopping keeps what came.
 */
export async function answer(conversation, messages, message, changed, signal) {
  const start = performance.now();
  let first = null;
  let last = null;
  let usage = null;
  let pieces = 0;
  let finish = "cut off";
  let id = null;
  try {
    const response = await request("v1/chat/completions", {
      method: "POST",
      body: body(conversation, messages),
      signal,
    });
    id = response.headers.get("x-request-id");
    for await (const { data } of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message);
      usage = chunk.usage ?? usage;
      id ??= chunk.id;
      const choice = chunk.choices[0];
      if (!choice) continue;
      if (choice.delta.content) {
        last = performance.now();
        first ??= last;
        pieces += 1;
        message.content += choice.delta.content;
        changed();
      }
      finish = choice.finish_reason ?? finish;
    }
    if (finish === "cut off") throw new Unreachable();
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else {
      finish = "failed";
      message.error = first === null ? error.message : `The answer was cut off. ${error.message}`;
      if (error.retryAfter) message.error += ` Try again in ${error.retryAfter} s.`;
    }
  }
  const tokens = usage?.completion_tokens ?? pieces;
  message.stats = {
    ttft_ms: first === null ? null : first - start,
    total_ms: performance.now() - start,
    tokens,
    prompt_tokens: usage?.prompt_tokens ?? null,
    cached_tokens: usage?.prompt_tokens_details?.cached_tokens ?? null,
    tokens_per_s: tokens > 1 && last > first ? ((tokens - 1) * 1000) / (last - first) : null,
    finish,
    request: id,
  };
}
