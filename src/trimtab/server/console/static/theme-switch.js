// The switch between the system's colours, light and dark.

import { h, put } from "./dom.js";
import { icon } from "./icons.js";

const ORDER = ["auto", "light", "dark"];
const PICTURES = { auto: "auto", light: "sun", dark: "moon" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function chosen() {
  return document.documentElement.dataset.theme ?? "auto";
}

function choose(theme) {
  try {
    if (theme === "auto") localStorage.removeItem("trimtab.theme");
    else localStorage.setItem("trimtab.theme", theme);
  } catch {
    // Then it lasts until the page is closed.
  }
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** A button that goes through the three choices and says which one is in force. */
export function themeSwitch() {
  const button = h("button", { class: "plain theme", type: "button" });
  const draw = () => {
    const now = chosen();
    const next = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    put(button, icon(PICTURES[now]));
    button.setAttribute("aria-label", `Colours: ${NAMES[now]}; change to ${NAMES[next]}`);
    button.title = `Colours: ${NAMES[now]}`;
  };
  button.addEventListener("click", () => {
    choose(ORDER[(ORDER.indexOf(chosen()) + 1) % ORDER.length]);
    draw();
  });
  draw();
  return button;
}
