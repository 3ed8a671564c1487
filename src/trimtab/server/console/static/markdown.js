// Markdown as models write it, to elements. Markup in the text stays text; links open only the web and mail.
//
// Every loop moves forward and nesting is bounded, so no text takes longer than its length allows.

import { copy, h } from "./dom.js";
import { icon } from "./icons.js";

const DEEPEST = 6;
const LONGEST_INLINE = 20_000;
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s{0,12})([-*+]|\d{1,9}[.)])(?:\s+(.*)|\s*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The elements of a text. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

/** Where the part of a growing text ends that will not change any more: after the last closed paragraph. */
export function settled(text) {
  let at = 0;
  let end = 0;
  let fence = null;
  let list = false; // a list may go on after a blank line
  let fresh = true;
  for (const line of text.split("\n").slice(0, -1)) {
    const mark = line.match(FENCE);
    if (fence) {
      if (closes(line, fence)) fence = null;
    } else if (mark) fence = mark[2];
    else if (line.trim() === "") fresh = true;
    if (fresh && line.trim() !== "") {
      if (!ITEM.test(line) && !/^\s/.test(line)) list = false;
      if (!list) end = at;
      if (ITEM.test(line)) list = true;
      fresh = false;
    }
    at += line.length + 1;
  }
  return end;
}

const closes = (line, fence) => {
  const bare = line.trim();
  return bare.length >= fence.length && bare === fence[0].repeat(bare.length);
};

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (line.trim() === "") at += 1;
    else if ((match = line.match(FENCE))) {
      let end = at + 1;
      while (end < lines.length && !closes(lines[end], match[2])) end += 1;
      made.push(code(lines.slice(at + 1, end).join("\n"), match[3]));
      at = end + 1;
    } else if ((match = line.match(HEADING))) {
      // The page has its own headings: those of an answer are paragraphs that look like it.
      made.push(h("p", { class: `heading heading-${match[1].length}` }, inline(match[2])));
      at += 1;
    } else if (RULE.test(line)) {
      made.push(h("hr"));
      at += 1;
    } else if (depth < DEEPEST && QUOTE.test(line)) {
      const inner = [];
      while (at < lines.length && QUOTE.test(lines[at])) inner.push(lines[at++].match(QUOTE)[1]);
      made.push(h("blockquote", {}, blocks(inner, depth + 1)));
    } else if (depth < DEEPEST && ITEM.test(line)) {
      const [list, next] = items(lines, at, depth);
      made.push(list);
      at = next;
    } else if (
      line.includes("|") &&
      at + 1 < lines.length &&
      lines[at + 1].includes("-") &&
      DIVIDER.test(lines[at + 1])
    ) {
      const [table, next] = rows(lines, at);
      made.push(table);
      at = next;
    } else {
      const start = at;
      at += 1;
      while (at < lines.length && !interrupts(lines[at], depth)) at += 1;
      made.push(
        h(
          "p",
          {},
          inline(
            lines
              .slice(start, at)
              .map((one) => one.trimStart())
              .join("\n"),
          ),
        ),
      );
    }
  }
  return made;
}

function interrupts(line, depth) {
  if (line.trim() === "" || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
}

function items(lines, at, depth) {
  const [, indent, first] = lines[at].match(ITEM);
  const ordered = /\d/.test(first);
  const list = h(ordered ? "ol" : "ul", {
    start: ordered && parseInt(first, 10) !== 1 ? parseInt(first, 10) : null,
  });
  while (at < lines.length) {
    const match = lines[at].match(ITEM);
    if (!match || match[1].length > indent.length + 1 || /\d/.test(match[2]) !== ordered) break;
    if (match[1].length < indent.length) break;
    const inner = [match[3] ?? ""];
    const margin = match[1].length + match[2].length + 1;
    at += 1;
    while (at < lines.length) {
      const next = lines[at];
      const inside = next.search(/\S/) >= Math.min(margin, indent.length + 2);
      const goesOn =
        next.trim() !== "" && !ITEM.test(next) && inner.at(-1).trim() !== "" && !FENCE.test(next);
      if (next.trim() === "" ? !blankGoesOn(lines, at, indent.length) : !(inside || goesOn)) break;
      inner.push(next.trim() === "" ? "" : next.slice(Math.min(margin, Math.max(0, next.search(/\S/)))));
      at += 1;
    }
    list.append(item(inner, depth));
  }
  return [list, at];
}

function item(inner, depth) {
  const children = blocks(inner, depth + 1);
  // A list without blank lines is set tight.
  if (children[0]?.tagName === "P" && !inner.includes("")) children.splice(0, 1, ...children[0].childNodes);
  return h("li", {}, children);
}

/** Whether what follows blank lines still belongs to the list. */
function blankGoesOn(lines, at, indent) {
  const next = lines.slice(at, at + 3).find((line) => line.trim() !== "");
  if (next === undefined) return false;
  const match = next.match(ITEM);
  return match ? match[1].length >= indent : next.search(/\S/) > indent + 1;
}

function rows(lines, at) {
  const cells = (line) =>
    line
      .trim()
      .replace(/^\|/, "")
      .replace(/(^|[^\\])\|$/, "$1")
      .split(/(?<!\\)\|/)
      .map((one) => one.trim().replace(/\\\|/g, "|"));
  const sides = cells(lines[at + 1]).map((one) =>
    one.endsWith(":") ? (one.startsWith(":") ? "center" : "right") : "left",
  );
  const row = (line, tag) =>
    h(
      "tr",
      {},
      cells(line)
        .slice(0, 64)
        .map((one, i) => h(tag, { class: `align-${sides[i] ?? "left"}` }, inline(one))),
    );
  const head = row(lines[at], "th");
  const body = [];
  at += 2;
  while (at < lines.length && lines[at].includes("|")) body.push(row(lines[at++], "td"));
  return [
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" },
      h("table", {}, h("thead", {}, head), h("tbody", {}, body)),
    ),
    at,
  ];
}

function code(text, language) {
  const button = h(
    "button",
    { class: "plain small", type: "button", onclick: () => copy(text, button) },
    icon("copy"),
    h("span", { class: "label" }, "Copy"),
  );
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", {}, language || "text"), button),
    h("pre", { tabindex: 0, "aria-label": `Code, ${language || "text"}` }, h("code", {}, text)),
  );
}

// --- inside a paragraph -----------------------------------------------------------------------------------

/** The nodes of one paragraph: code, emphasis, links, line breaks. */
function inline(text, depth = 0) {
  if (text.length > LONGEST_INLINE || depth > DEEPEST) return [text];
  const made = [];
  const missing = {}; // marks that nothing closes: looked for once, not for each opening
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) made.push(plain);
    plain = "";
  };
  const pair = (mark, build) => {
    if (missing[mark]) return false;
    const end = text.indexOf(mark, at + mark.length);
    if (end < 0) missing[mark] = true;
    if (end <= at + mark.length) return false;
    const inner = text.slice(at + mark.length, end);
    if (/^\s|\s$/.test(inner) && mark[0] !== "`") return false;
    flush();
    made.push(build(inner));
    at = end + mark.length;
    return true;
  };
  while (at < text.length) {
    const letter = text[at];
    if (letter === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (letter === "`" && pair(text.slice(at).match(/^`{1,3}/)[0], (inner) => h("code", {}, inner)))
      continue;
    else if (
      letter === "*" &&
      text[at + 1] === "*" &&
      pair("**", (inner) => h("strong", {}, inline(inner, depth + 1)))
    )
      continue;
    else if (
      letter === "_" &&
      text[at + 1] === "_" &&
      edge(text, at) &&
      pair("__", (inner) => h("strong", {}, inline(inner, depth + 1)))
    )
      continue;
    else if (
      letter === "*" &&
      text[at + 1] !== "*" &&
      pair("*", (inner) => h("em", {}, inline(inner, depth + 1)))
    )
      continue;
    else if (letter === "_" && edge(text, at) && pair("_", (inner) => h("em", {}, inline(inner, depth + 1))))
      continue;
    else if (
      letter === "~" &&
      text[at + 1] === "~" &&
      pair("~~", (inner) => h("s", {}, inline(inner, depth + 1)))
    )
      continue;
    else if ((letter === "[" || (letter === "!" && text[at + 1] === "[")) && link()) continue;
    else if (letter === "h" && bare()) continue;
    else if (letter === "\n") {
      flush();
      made.push(h("br"));
      at += 1;
    } else {
      plain += letter;
      at += 1;
    }
  }
  flush();
  return made;

  function link() {
    const start = at + (letter() === "!" ? 2 : 1);
    if (missing.link) return false;
    const close = text.indexOf("](", start);
    const end = close < 0 ? -1 : text.indexOf(")", close + 2);
    if (end < 0) missing.link = true;
    if (end < 0 || close - start > 1000 || end - close > 2000) return false;
    const address = safe(
      text
        .slice(close + 2, end)
        .trim()
        .split(/\s/, 1)[0],
    );
    const label = text.slice(start, close);
    if (address === null || label.includes("[")) return false;
    flush();
    // A picture would have to be fetched from elsewhere: it becomes a link.
    made.push(anchor(address, letter() === "!" ? [`picture: ${label}`] : inline(label, depth + 1)));
    at = end + 1;
    return true;
  }

  function bare() {
    const match = text.slice(at, at + 500).match(/^https?:\/\/[^\s<>"'`*]+[^\s<>"'`*.,;:!?)\]}]/);
    const address = match && safe(match[0]);
    if (!address || /\w$/.test(plain)) return false;
    flush();
    made.push(anchor(address, [match[0]]));
    at += match[0].length;
    return true;
  }

  function letter() {
    return text[at];
  }
}

/** An underscore inside a word is a letter. */
const edge = (text, at) => at === 0 || /[\s\p{P}]/u.test(text[at - 1]);

function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(address, children) {
  return h(
    "a",
    { href: address, target: "_blank", rel: "noopener noreferrer nofollow", title: address },
    children,
  );
}
