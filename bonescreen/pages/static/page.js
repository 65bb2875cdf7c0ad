// What all pages share: the theme switch, the help, and what is said when a request fails.

import { keep, onKeys, read, shortcutsAreOn, switchShortcuts } from "./keys.js";

const THEMES = { "": "system", dark: "dark", light: "light" };

const switcher = document.getElementById("theme");

function showTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  switcher.querySelector("span").textContent = THEMES[theme];
}

switcher.hidden = false;
showTheme(read("theme") ?? "");
switcher.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  keep("theme", next || null);
  showTheme(next);
});

const help = document.getElementById("help");
const shortcuts = document.getElementById("shortcuts-on");
const openHelp = () => {
  shortcuts.checked = shortcutsAreOn();
  help.showModal();
};
const helpButton = document.getElementById("open-help");
helpButton.hidden = false;
helpButton.addEventListener("click", openHelp);
shortcuts.addEventListener("change", () => switchShortcuts(shortcuts.checked));
help.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});

onKeys({
  "?": openHelp,
  "/": () => {
    const search = document.getElementById("search");
    if (!search) return false;
    search.closest("details")?.setAttribute("open", "");
    search.focus();
    search.select();
  },
});

const bar = document.getElementById("message");
function say(text) {
  bar.textContent = text;
  bar.hidden = !text;
}

document.addEventListener("htmx:responseError", (event) => {
  const { status } = event.detail.xhr;
  say(`The server could not answer (${status}). What you see may be out of date; reload the page.`);
});
document.addEventListener("htmx:sendError", () => say("The server does not answer. What you see may be out of date."));
document.addEventListener("htmx:afterOnLoad", () => say(""));

// Signed out meanwhile: a part of a page was asked for, and where to sign in came back.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (new URL(event.detail.xhr.responseURL).pathname !== "/sign-in") return;
  event.detail.shouldSwap = false;
  location.reload();
});

// Fields that ask for nothing stay out of the address.
document.addEventListener("htmx:configRequest", (event) => {
  const fields = event.detail.parameters;
  for (const [name, value] of [...fields.entries()]) if (value === "") fields.delete(name);
});
document.addEventListener("submit", (event) => {
  if (event.target.method !== "get") return;
  for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
});
// Coming back by the browser's history finds the fields as they were left.
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[method=get] [disabled]")) field.disabled = false;
});
