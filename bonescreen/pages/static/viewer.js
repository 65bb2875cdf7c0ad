// The images of a study: zoom, pan, window and heat map; and the page's keys.

import { keep, onKeys, read } from "./keys.js";

const MOST_ZOOM = 16;
const STEP = 1.3;
const GRAY = 255;
// The server reduces larger images to this many pixels, unless asked for all of them.
const REDUCED_TO = 2048;

const viewer = document.querySelector(".viewer");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** One image with its place, zoom and window. */
class Stage {
  constructor(element) {
    this.element = element;
    this.figure = element.closest(".image");
    this.radiograph = element.querySelector(".radiograph");
    this.heat = element.querySelector(".heat");
    this.values = element.querySelector(".values");
    this.transfer = document.getElementById(`window-${this.figure.dataset.image}`);
    this.pointers = new Map();
    this.reset();
    this.radiograph.addEventListener("error", () => this.sayWhyNot());
    if (this.radiograph.complete && !this.radiograph.naturalWidth) this.sayWhyNot();
    element.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.onDown(event));
    element.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.onUp(event));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("dblclick", () => this.reset());
    element.addEventListener("keydown", (event) => this.onKey(event));
  }

  reset() {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.width = GRAY;
    this.level = GRAY / 2;
    this.place();
    this.applyWindow();
  }

  place() {
    const { clientWidth, clientHeight } = this.element;
    this.x = clamp(this.x, clientWidth * (1 - this.zoom), 0);
    this.y = clamp(this.y, clientHeight * (1 - this.zoom), 0);
    this.element.style.setProperty("--x", `${this.x}px`);
    this.element.style.setProperty("--y", `${this.y}px`);
    this.element.style.setProperty("--zoom", this.zoom);
    this.element.classList.toggle("zoomed", this.zoom > 1);
    this.sayValues();
    if (this.zoom > 1) this.loadAllPixels();
  }

  /** Gray levels from level - width / 2 to level + width / 2 go from black to white, linearly. */
  applyWindow() {
    const slope = GRAY / this.width;
    const intercept = 0.5 - this.level / this.width;
    for (const channel of this.transfer.querySelectorAll("[type=linear]")) {
      channel.setAttribute("slope", slope);
      channel.setAttribute("intercept", intercept);
    }
    const changed = this.width !== GRAY || this.level !== GRAY / 2;
    this.radiograph.classList.toggle("windowed", changed);
    this.radiograph.style.filter = changed ? `url("#${this.transfer.id}")` : "";
    this.sayValues();
  }

  sayValues() {
    const parts = [];
    if (this.zoom > 1) parts.push(`zoom ${this.zoom.toFixed(1)}`);
    if (this.width !== GRAY || this.level !== GRAY / 2) {
      parts.push(`window ${Math.round(this.width)}, level ${Math.round(this.level)}`);
    }
    this.values.textContent = parts.join(" · ");
  }

  /** Zoom so that the point at (x, y), in pixels of the stage, stays where it is. */
  zoomAt(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const zoom = clamp(this.zoom * factor, 1, MOST_ZOOM);
    this.x = x - ((x - this.x) * zoom) / this.zoom;
    this.y = y - ((y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.place();
  }

  panBy(x, y) {
    this.x += x;
    this.y += y;
    this.place();
  }

  windowBy(x, y) {
    this.width = clamp(this.width + x, 1, 2 * GRAY);
    this.level = clamp(this.level + y, 0, GRAY);
    this.applyWindow();
  }

  at(event) {
    const box = this.element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  onWheel(event) {
    event.preventDefault();
    const { x, y } = this.at(event);
    this.zoomAt(Math.exp(-clamp(event.deltaY, -200, 200) / 400), x, y);
  }

  onDown(event) {
    if (event.button !== 0 && event.button !== 2) return;
    this.pointers.set(event.pointerId, this.at(event));
    this.windows = event.button === 2 || viewer.dataset.tool === "window";
    this.element.setPointerCapture(event.pointerId);
    this.element.classList.add("moving");
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.at(event);
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y);
      this.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
      this.zoomAt(distance(now) / Math.max(distance(before), 1), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (this.windows) {
      this.windowBy(now.x - before.x, now.y - before.y);
    } else {
      this.panBy(now.x - before.x, now.y - before.y);
    }
    this.pointers.set(event.pointerId, now);
  }

  onUp(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.element.classList.remove("moving");
  }

  onKey(event) {
    const by = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (!by || !event.shiftKey) return;
    event.preventDefault();
    if (viewer.dataset.tool === "window") this.windowBy(-by[0] / 8, -by[1] / 8);
    else this.panBy(...by);
  }

  loadAllPixels() {
    const { naturalWidth, naturalHeight } = this.radiograph;
    if (Math.max(naturalWidth, naturalHeight) < REDUCED_TO || this.radiograph.dataset.full === undefined) return;
    this.radiograph.src = this.radiograph.dataset.full;
    delete this.radiograph.dataset.full;
  }

  async sayWhyNot() {
    const message = this.element.querySelector(".message");
    let text = "";
    try {
      const answer = await fetch(this.radiograph.src);
      if (!answer.ok) text = (await answer.json()).detail;
    } catch {
      // What answers is no JSON, or nothing answers.
    }
    message.textContent = typeof text === "string" && text ? text : "The server does not answer; reload the page.";
    message.hidden = false;
    this.figure.classList.add("without-image");
  }

  showOwnScale(own) {
    this.heat.src = own ? this.heat.dataset.own : this.heat.dataset.fixed;
    this.element.querySelector(".own-scale").hidden = !own;
  }
}

const stages = [...document.querySelectorAll(".stage:not(.without)")].map((element) => new Stage(element));
window.addEventListener("resize", () => stages.forEach((stage) => stage.place()));

/** The stages that a button or a key is for: the one that has the focus, or all. */
function meant() {
  const focused = stages.filter((stage) => stage.element === document.activeElement);
  return focused.length ? focused : stages;
}

const zoomIn = () => meant().forEach((stage) => stage.zoomAt(STEP));
const zoomOut = () => meant().forEach((stage) => stage.zoomAt(1 / STEP));
const reset = () => stages.forEach((stage) => stage.reset());

function chooseTool(tool) {
  viewer.dataset.tool = tool;
  for (const button of viewer.querySelectorAll("[data-tool-button]")) {
    button.setAttribute("aria-pressed", String(button.dataset.toolButton === tool));
  }
  for (const stage of stages) stage.element.classList.toggle("windowing", tool === "window");
}

const heatButton = document.getElementById("heat-map");
const opacity = document.getElementById("opacity");

function showHeatMap(on) {
  viewer.classList.toggle("plain", !on);
  heatButton.setAttribute("aria-pressed", String(on));
  opacity.disabled = !on;
  keep("heat-map", on ? "on" : "off");
}

const switchHeatMap = () => showHeatMap(viewer.classList.contains("plain"));

function applyOpacity() {
  viewer.style.setProperty("--heat-opacity", opacity.value / 100);
  opacity.setAttribute("aria-valuetext", `${opacity.value} %`);
  keep("heat-map-opacity", opacity.value);
}

function showOnly(figure) {
  const frame = viewer.querySelector(".images");
  const alone = figure && !figure.classList.contains("chosen");
  frame.classList.toggle("single", Boolean(alone));
  for (const each of frame.querySelectorAll(".image")) {
    const chosen = Boolean(alone) && each === figure;
    each.classList.toggle("chosen", chosen);
    const button = each.querySelector("[data-enlarge]");
    button?.setAttribute("aria-pressed", String(chosen));
  }
  stages.forEach((stage) => stage.place());
}

if (stages.length) {
  chooseTool("pan");
  document.getElementById("zoom-in").addEventListener("click", zoomIn);
  document.getElementById("zoom-out").addEventListener("click", zoomOut);
  document.getElementById("reset").addEventListener("click", reset);
  for (const button of viewer.querySelectorAll("[data-tool-button]")) {
    button.addEventListener("click", () => chooseTool(button.dataset.toolButton));
  }
  for (const button of viewer.querySelectorAll("[data-enlarge]")) {
    button.addEventListener("click", () => showOnly(button.closest(".image")));
  }
}

if (heatButton) {
  opacity.value = read("heat-map-opacity") ?? "100";
  applyOpacity();
  showHeatMap(read("heat-map") !== "off");
  heatButton.addEventListener("click", switchHeatMap);
  opacity.addEventListener("input", applyOpacity);
  for (const button of viewer.querySelectorAll("[data-own-scale]")) {
    const stage = stages.find((each) => each.figure === button.closest(".image"));
    button.addEventListener("click", () => {
      const own = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(own));
      stage.showOwnScale(own);
      if (own) showHeatMap(true);
    });
  }
}

const follow = (id) => () => {
  const link = document.getElementById(id);
  if (!link?.href) return false;
  link.click();
};
const decide = (decision) => () => {
  const button = document.querySelector(`.review button[value="${decision}"]`);
  if (!button) return false;
  button.click();
};
const unlessShift = (action) => (event) => (event.shiftKey ? false : action());

onKeys({
  j: follow("next-study"),
  ArrowRight: unlessShift(follow("next-study")),
  k: follow("previous-study"),
  ArrowLeft: unlessShift(follow("previous-study")),
  l: follow("to-worklist"),
  a: decide("agree"),
  d: decide("disagree"),
  u: decide("unsure"),
  n: () => document.getElementById("note")?.focus(),
  h: () => (heatButton ? switchHeatMap() : false),
  w: () => chooseTool(viewer.dataset.tool === "window" ? "pan" : "window"),
  "+": zoomIn,
  "=": zoomIn,
  "-": zoomOut,
  0: reset,
  Escape: () => showOnly(null),
  ...Object.fromEntries(
    [...document.querySelectorAll(".images .image")].slice(0, 9).map((figure, at) => [at + 1, () => showOnly(figure)]),
  ),
});

// A review is stored once, however often its button is pressed.
const form = document.querySelector(".review form");
form?.addEventListener("submit", (event) => {
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
});
window.addEventListener("pageshow", () => delete form?.dataset.sent);
document.getElementById("note")?.addEventListener("keydown", (event) => {
  if (event.key === "Escape") event.target.blur();
});
// The name is typed, and the keys decide again.
document.getElementById("name")?.addEventListener("keydown", (event) => {
  if (["Enter", "Escape"].includes(event.key)) event.target.blur();
});
const stay = document.getElementById("stay");
if (stay) {
  stay.checked = read("stay") === "1";
  stay.addEventListener("change", () => keep("stay", stay.checked ? "1" : null));
}
