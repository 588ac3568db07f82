// Before the first paint: a chosen theme must not flash.
(() => {
  const key = "tanda-theme";
  const stored = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const theme = stored();
  if (theme) document.documentElement.dataset.theme = theme;
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const dark = () => (document.documentElement.dataset.theme
      ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      const next = dark() ? "light" : "dark";
      document.documentElement.dataset.theme = next;
      button.setAttribute("aria-pressed", String(next === "dark"));
      try { localStorage.setItem(key, next); } catch { /* a page from disk may have no storage */ }
    });
  });
})();
