// Builds elements. Text only ever becomes a text node: there is no way here to turn a string into markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: `h("p", {class: "note", onclick: f}, "text", child)`. Empty children are left out. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element, like `h`. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style")
      for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "data") for (const [key, one] of Object.entries(value)) element.dataset[key] = one;
    else if (name === "value" || name === "checked" || name === "disabled" || name === "open")
      element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

/** Append children: nodes, texts, numbers, arrays of these; null and false are left out. */
export function add(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false || child === "") continue;
    if (Array.isArray(child)) add(element, child);
    else element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Put these children in the place of all others. */
export function put(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

/** Set an element's text if it differs: unchanged text must not be announced again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let serial = 0;
/** An id that no other element has. */
export const fresh = (stem) => `${stem}-${(serial += 1)}`;

/** A short message that goes away by itself. */
export function toast(text) {
  const note = h("div", { class: "toast" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 5000);
}

/** Copy text, and say on the button that it has happened. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https the clipboard is closed to scripts, but not to a selection.
    const area = h("textarea", { value: text, class: "offscreen", readonly: true });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.querySelector(".label");
  if (!label || button.dataset.copied) return;
  const before = label.textContent;
  button.dataset.copied = "yes";
  label.textContent = "Copied";
  setTimeout(() => {
    label.textContent = before;
    delete button.dataset.copied;
  }, 1600);
}
