// Sets the chosen colours before anything is painted; a module would come too late and flash.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("trimtab.theme");
  } catch {
    // Storage may be forbidden: then the system's own preference rules.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
