"use strict";
// The columns that `bonescreen review import` reads.
const COLUMNS = ["run", "archive", "study", "model", "model_digest", "status", "label", "score", "decision", "note"];
const articles = [...document.querySelectorAll("article[data-facts]")];
const save = document.getElementById("save");
const said = document.getElementById("said");
let unsaved = false;

function review(article) {
  const chosen = article.querySelector("input:checked");
  return { chosen, decision: chosen ? chosen.value : "", note: article.querySelector("textarea").value.trim() };
}

// A spreadsheet would read a text that begins like a formula as one; an apostrophe in front keeps it a text.
function cell(value) {
  if (value === null) return "";
  const text = String(value);
  const guarded = typeof value === "string" && /^[=+\-@\t\r']/.test(text) ? "'" + text : text;
  return '"' + guarded.replaceAll('"', '""') + '"';
}

function csv(decided) {
  const lines = [COLUMNS.map(cell), ...decided.map((line) => COLUMNS.map((name) => cell(line[name])))];
  // The mark at the beginning tells spreadsheets that the file is UTF-8.
  return "\ufeff" + lines.map((cells) => cells.join(",") + "\r\n").join("");
}

function count() {
  const reviews = articles.map(review);
  const decided = reviews.filter((one) => one.decision).length;
  const lost = reviews.filter((one) => !one.decision && one.note).length;
  said.value = `${decided} of ${articles.length} decided` +
    (unsaved ? ", not saved yet" : "") +
    (lost ? `; a note without a decision is not saved (${lost})` : "");
  save.disabled = decided === 0;
}

function changed() {
  unsaved = true;
  count();
}

for (const article of articles) {
  article.addEventListener("input", changed);
  const clear = article.querySelector("button");
  clear.hidden = false;
  clear.addEventListener("click", () => {
    const { chosen } = review(article);
    if (chosen) chosen.checked = false;
    changed();
  });
}

save.addEventListener("click", () => {
  const decided = articles.map((article) => {
    const { decision, note } = review(article);
    return { ...JSON.parse(article.dataset.facts), decision, note };
  }).filter((line) => line.decision);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(decided)], { type: "text/csv" }));
  link.download = save.dataset.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  count();
  said.value += `, saved as ${save.dataset.name}`;
});

addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});

document.getElementById("reviewing").hidden = false;
count();
