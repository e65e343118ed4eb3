// Shows a page, light or dark: as the system has it, until somebody chooses.

function buildTheme() {
  const button = byId("theme"),
    system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("run-book-theme");
  } catch {
    // a page from a file may have no storage: the system's choice holds
  }
  const show = () => {
    const dark = chosen ? chosen === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "☀ Light" : "☾ Dark";
  };
  button.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("run-book-theme", chosen);
    } catch {
      // not remembered
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** Build a page; where that fails, the page says why. */
function showPage(build) {
  try {
    buildTheme();
    build();
  } catch (error) {
    byId("fault").hidden = false;
    byId("fault").textContent = `This page cannot be shown: ${error.message}`;
    throw error;
  }
}
