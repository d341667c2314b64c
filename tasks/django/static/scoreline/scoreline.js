// Loads live parts of a page again while they are seen, and says aloud when a job ends. Pages can be read without it.
(() => {
  "use strict";
  const seen = new Set();
  const due = new WeakMap();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) {
        seen.delete(entry.target);
      } else if (entry.target.hasAttribute("data-load")) {
        watcher.unobserve(entry.target);
        entry.target.removeAttribute("data-load");
        htmx.trigger(entry.target, "scoreline:seen");
      } else {
        seen.add(entry.target);
      }
    }
  });
  const watch = (root) => {
    for (const part of root.querySelectorAll("[data-every], [data-load]")) watcher.observe(part);
  };
  const refresh = () => {
    if (document.visibilityState !== "visible") return;
    const now = Date.now();
    for (const part of seen) {
      if (!part.isConnected) {
        seen.delete(part);
      } else if (now >= (due.get(part) ?? now + 1)) {
        due.set(part, now + 1000 * Number(part.dataset.every));
        htmx.trigger(part, "scoreline:refresh");
      } else if (!due.has(part)) {
        due.set(part, now + 1000 * Number(part.dataset.every));
      }
    }
  };
  const stateOf = () => document.querySelector("[data-state]")?.dataset.state;
  let state;
  addEventListener("DOMContentLoaded", () => {
    state = stateOf();
    const ended = sessionStorage.getItem("scoreline:was");
    sessionStorage.removeItem("scoreline:was");
    if (ended === location.pathname && state) {
      document.getElementById("announce").textContent = `The job is ${state}.`;
    }
    setInterval(refresh, 500);
    document.addEventListener("visibilitychange", refresh);
  });
  addEventListener("htmx:load", () => watch(document)); // before that, htmx does not know the parts
  addEventListener("htmx:afterSettle", () => {
    const now = stateOf();
    if (now && now !== state) document.getElementById("announce").textContent = `The job is ${now}.`;
    state = now;
  });
  addEventListener("htmx:beforeOnLoad", (event) => {
    if (event.detail.xhr.getResponseHeader("HX-Refresh") === "true") {
      sessionStorage.setItem("scoreline:was", location.pathname);
    }
  });
})();
