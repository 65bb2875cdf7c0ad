// The worklist by keyboard: go up and down its studies, and to its other pages.

import { onKeys } from "./keys.js";

const links = () => [...document.querySelectorAll("#worklist a.row-link")];

function step(by) {
  const all = links();
  if (!all.length) return false;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

const follow = (id) => () => {
  const link = document.getElementById(id);
  if (!link) return false;
  link.click();
};

onKeys({
  j: () => step(1),
  ArrowDown: () => step(1),
  k: () => step(-1),
  ArrowUp: () => step(-1),
  n: follow("later"),
  p: follow("earlier"),
});

// A phone shows studies first; filters that are in use stay in view.
const more = document.getElementById("more-filters");
const inUse = [...more.querySelectorAll("input, select")].some((field) =>
  field.type === "checkbox" ? field.checked : field.value !== "",
);
if (window.matchMedia("(max-width: 44rem)").matches && !inUse) more.removeAttribute("open");
