"use strict";
(() => {
  // Copy by the clipboard API where the browser allows it, otherwise by a selection.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "hidden";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await copy(button.parentElement.querySelector("code").textContent);
      button.focus();
      button.textContent = done ? "Copied" : "Copy it by hand";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // Mark the section in view in the navigation.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));

  // Sort and filter the gallery in place.
  const list = document.getElementById("cases");
  if (!list) return;
  const cases = [...list.children];
  const control = (name) => document.getElementById(name);
  const names = new Intl.Collator(undefined, { numeric: true });
  const value = (element, key) => Number(element.dataset[key]);
  const orders = {
    worst: (a, b) => value(a, "place") - value(b, "place"),
    best: (a, b) => value(b, "place") - value(a, "place"),
    high: (a, b) => value(b, "probability") - value(a, "probability"),
    low: (a, b) => value(a, "probability") - value(b, "probability"),
    images: (a, b) => value(b, "images") - value(a, "images"),
    focus: (a, b) => value(a, "effective") - value(b, "effective"),
    name: (a, b) => names.compare(a.dataset.name, b.dataset.name),
  };
  const update = () => {
    const group = control("filter-class").value;
    const outcome = control("filter-outcome").value;
    const words = control("filter-name").value.trim().toLowerCase();
    let shown = 0;
    for (const item of cases) {
      const fits = (group === "all" || item.dataset.label === group)
        && (outcome === "all" || (item.dataset.wrong === "0") === (outcome === "right"))
        && item.dataset.name.toLowerCase().includes(words);
      item.hidden = !fits;
      shown += fits;
    }
    control("shown").textContent = `${shown} of ${cases.length} patients shown`;
  };
  const sort = () => list.append(...cases.sort(orders[control("sort").value]));
  control("sort").addEventListener("change", sort);
  for (const name of ["filter-class", "filter-outcome"]) control(name).addEventListener("change", update);
  control("filter-name").addEventListener("input", update);
  control("controls").hidden = false;
  update();
})();
