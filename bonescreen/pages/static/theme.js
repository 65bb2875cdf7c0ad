// Loaded before the page is drawn, so that a dark room never sees a white flash.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage, the theme is the system's.
}
