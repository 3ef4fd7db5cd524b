// Parts of the page are replaced as the server sends them. Without this script the page is read by reloading it.
"use strict";
(() => {
  const STALE_MS = 10000, HERE_MS = 60000;
  const age = document.getElementById("age");
  const main = document.getElementById("content");
  let heard = Date.now(), said = 0;

  function words(milliseconds) {
    const seconds = Math.round(milliseconds / 1000);
    return seconds < 120 ? age.dataset.s.replace("{n}", seconds) : age.dataset.min.replace("{n}", Math.round(seconds / 60));
  }

  function tellAge() {
    const passed = Date.now() - heard, late = passed > STALE_MS;
    const text = (late ? age.dataset.late : age.dataset.live).replace("{age}", words(passed));
    age.lastElementChild.textContent = text;
    age.classList.toggle("late", late);
    age.classList.toggle("done", !late);
    age.querySelector("use").setAttribute("href", late ? "#i-late" : "#i-done");
    main.classList.toggle("stale", late);
    age.setAttribute("aria-live", late ? "polite" : "off"); // ticks are not news
  }

  // Whoever is typing, or has opened a box that asks, is not disturbed.
  function busy(part) {
    if (part.querySelector("details.ask[open]")) return true;
    const focused = document.activeElement;
    for (const one of part.querySelectorAll("input:not([type=hidden]), textarea")) {
      if (one.value !== one.defaultValue || one.checked !== one.defaultChecked || one === focused) return true;
    }
    return part.contains(focused) && !focused.id;
  }

  function replace(id, html) {
    const old = document.getElementById(id);
    if (!old || busy(old)) return false;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const open = [...old.querySelectorAll("details")].map(one => one.open);
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const fresh = holder.content.firstElementChild;
    old.className = fresh.className;
    old.replaceChildren(...fresh.childNodes);
    const folds = [...old.querySelectorAll("details")];
    if (folds.length === open.length) folds.forEach((one, place) => { one.open = open[place]; });
    const again = focused && document.getElementById(focused);
    if (again) again.focus();
    dress(old);
    return true;
  }

  // How long ago, beside each moment that stands alone.
  function ago(moment) {
    const passed = Math.max(0, (Date.now() - Date.parse(moment.dateTime)) / 1000);
    const [size, unit] = passed < 3600 ? [60, "minute"] : passed < 86400 ? [3600, "hour"] : [86400, "day"];
    const format = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
    let told = moment.nextElementSibling;
    if (!told || !told.classList.contains("ago")) {
      told = document.createElement("span");
      told.className = "ago";
      moment.after(told);
    }
    told.textContent = " · " + format.format(-Math.floor(passed / size), unit);
  }

  function dress(root) {
    root.querySelectorAll("dd > time, .soft > time").forEach(ago);
  }

  function watch() {
    const source = new EventSource("/live?mark=" + encodeURIComponent(age.dataset.mark));
    const held = new Map();
    source.addEventListener("parts", event => {
      heard = Date.now();
      tellAge();
      for (const [id, html] of Object.entries(JSON.parse(event.data))) held.set(id, html);
      for (const [id, html] of [...held]) if (replace(id, html)) held.delete(id);
    });
    source.addEventListener("gone", () => { source.close(); location.reload(); });
  }

  // A person who reads is here as much as one who clicks: once a minute at most the server is told.
  function here() {
    if (Date.now() - said < HERE_MS) return;
    said = Date.now();
    fetch("/here", { method: "POST", body: new URLSearchParams({ seal: age.dataset.here }) }).catch(() => {});
  }

  if (!age) return;
  dress(document);
  tellAge();
  setInterval(tellAge, 1000);
  setInterval(() => dress(document), 30000);
  for (const kind of ["keydown", "pointerdown", "wheel"]) addEventListener(kind, here, { passive: true });
  watch();
})();
