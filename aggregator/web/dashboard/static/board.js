// Parts of the page are replaced as the server sends them. Without this script the page is read by reloading it.
"use strict";
(() => {
  const STALE_MS = 10000;
  const age = document.getElementById("age"), main = document.getElementById("content");
  if (!age || !main) return;
  // The server's clock, carried on by a stopwatch: what this machine's own clock says does not matter.
  let serverNow = Number(age.dataset.now), at = performance.now(), heard = at;
  const now = () => serverNow + (performance.now() - at) / 1000;

  // As medveil.catalogue.Speaker.duration says it.
  function words(seconds) {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= 2 * size || (unit === "min" && seconds >= 60)) {
        return age.dataset[unit].replace("{n}", Math.round(seconds / size));
      }
    }
    return age.dataset.s.replace("{n}", Math.round(seconds));
  }

  function tellMoments() {
    const present = now();
    for (const one of document.querySelectorAll("time[data-ago], time[data-since], time[data-left]")) {
      const { ago, since, left } = one.dataset;
      let text = words(Math.max(0, left ? left - present : present - (ago || since)));
      if (ago) text = age.dataset.ago.replace("{age}", text);
      if (one.textContent !== text) one.textContent = text;
    }
  }

  function tellAge() {
    const passed = performance.now() - heard, late = passed > STALE_MS;
    const text = (late ? age.dataset.late : age.dataset.live).replace("{age}", words(passed / 1000));
    if (age.lastElementChild.textContent !== text) age.lastElementChild.textContent = text;
    age.classList.toggle("late", late);
    age.classList.toggle("done", !late);
    age.querySelector("use").setAttribute("href", late ? "#i-late" : "#i-done");
    main.classList.toggle("stale", late);
    age.setAttribute("aria-live", late ? "polite" : "off"); // ticks are not news
  }

  // ---- new markup is laid over the old one: what is the same stays, and with it focus, selection and scrolling

  const isMoment = node => node.nodeName === "TIME" && (node.dataset.ago || node.dataset.since || node.dataset.left);

  function copyAttributes(old, fresh) {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS") && name !== "hidden") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !(name === "hidden" && old.dataset.copy !== undefined)) old.setAttribute(name, value);
    }
  }

  function lay(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    copyAttributes(old, fresh);
    if (isMoment(old) || old.dataset.keep !== undefined || (old.nodeName === "INPUT" && old === document.activeElement)) return;
    const byId = new Map([...old.children].filter(one => one.id).map(one => [one.id, one]));
    let place = old.firstChild;
    for (const one of [...fresh.childNodes]) {
      const same = one.id && byId.get(one.id);
      if (same && same !== place) old.insertBefore(same, place), place = same;
      if (!place) { old.append(one); continue; }
      const next = place.nextSibling;
      if (!same && place.id && byId.has(place.id) && fresh.querySelector(":scope > #" + CSS.escape(place.id))) { old.insertBefore(one, place); continue; }
      lay(place, one);
      place = next;
    }
    while (place) { const next = place.nextSibling; place.remove(); place = next; }
  }

  function take(parts) {
    for (const [id, html] of Object.entries(parts)) {
      const old = document.getElementById(id);
      if (!old) continue;
      const holder = document.createElement("template");
      holder.innerHTML = html;
      lay(old, holder.content.firstElementChild);
    }
    dress();
    tellMoments();
    document.dispatchEvent(new Event("board")); // charts draw anew
  }

  // ---- what only a script can do

  function dress() {
    if (!navigator.clipboard) return;
    for (const one of document.querySelectorAll("button[data-copy]")) one.hidden = false;
  }

  addEventListener("click", event => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent).then(() => {
      button.textContent = button.dataset.copied;
      setTimeout(() => { button.textContent = button.dataset.copy; }, 2000);
    }, () => {});
  });

  function watch() {
    const address = main.dataset.live;
    const source = new EventSource(address + (address.includes("?") ? "&" : "?") + "mark=" + encodeURIComponent(main.dataset.mark));
    source.addEventListener("parts", event => {
      const told = JSON.parse(event.data);
      serverNow = told.now;
      at = performance.now();
      heard = at - told.age * 1000; // a server that cannot look itself does not make the page young
      take(told.parts);
      tellAge();
    });
    source.addEventListener("gone", () => { source.close(); location.reload(); });
    // A stream that was refused (another leader, a sign-in that is over) is not taken up again by the browser.
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => { fetch(location.href, { headers: { Accept: "application/json" } }).then(
        answer => { if (answer.status === 401) location.reload(); else watch(); }, watch); }, 3000);
    });
  }

  dress();
  tellMoments();
  tellAge();
  setInterval(() => { tellAge(); tellMoments(); }, 1000);
  watch();
})();
