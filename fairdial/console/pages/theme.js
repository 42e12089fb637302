// Light or dark as was chosen here, before anything is drawn; without a choice the system's preference holds (Pico CSS).
// A script of its own and no module: it must run before the first paint.
(() => {
  try {
    const chosen = localStorage.getItem("fairdial-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage is switched off: the system's preference it is.
  }
})();
