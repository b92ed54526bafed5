// Light, dark, or what the system says; remembered where a page may remember something.

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  // A page inside a notebook's sandbox has no storage.
  try { localStorage.setItem("torchkutils-theme", theme); } catch { /* not remembered */ }
}

function startTheme(choice) {
  let theme = "auto";
  try { theme = localStorage.getItem("torchkutils-theme") ?? "auto"; } catch { /* nothing to remember with */ }
  choice.value = ["auto", "light", "dark"].includes(theme) ? theme : "auto";
  setTheme(choice.value);
  choice.addEventListener("change", () => setTheme(choice.value));
}
