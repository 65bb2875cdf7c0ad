// Keyboard shortcuts of one key. Typed text, open dialogs and the keys of a slider are left alone.

const OFF = "shortcuts-off";
const SLIDER_KEYS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"]);

export function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // Without storage, a choice lasts as long as the page.
  }
}

export const shortcutsAreOn = () => read(OFF) === null;

export function switchShortcuts(on) {
  keep(OFF, on ? null : "1");
}

function belongsTo(element, key) {
  if (!(element instanceof Element)) return false;
  if (element.matches("input[type=range]")) return SLIDER_KEYS.has(key);
  return element.matches("input:not([type=checkbox]), select, textarea, [contenteditable]");
}

/** Call the action of a pressed key; an action that returns false lets the browser have the key. */
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    const action = actions[event.key];
    if (!action || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (belongsTo(event.target, event.key) || document.querySelector("dialog[open]")) return;
    if (event.key !== "?" && !shortcutsAreOn()) return;
    if (action(event) !== false) event.preventDefault();
  });
}
