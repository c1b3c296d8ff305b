"use strict";
(() => {
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  tip.setAttribute("aria-hidden", "true");
  const tooltips = new Map();
  for (const chart of document.querySelectorAll("svg.chart")) {
    chart.classList.add("active");
    chart.setAttribute("role", "group"); // makes the legend reachable by keyboard
    for (const title of chart.querySelectorAll("title")) {
      tooltips.set(title.parentNode, title.textContent);
      title.remove();
    }
  }
  const show = (event) => {
    let element = event.target instanceof Element ? event.target : null;
    while (element && !tooltips.has(element)) element = element.parentElement;
    tip.hidden = !element;
    if (!element) return;
    tip.textContent = tooltips.get(element);
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    const below = event.clientY + 14 + tip.offsetHeight > innerHeight;
    tip.style.left = Math.max(4, event.clientX + (right ? -14 - tip.offsetWidth : 14)) + "px";
    tip.style.top = Math.max(4, event.clientY + (below ? -14 - tip.offsetHeight : 14)) + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;
  const toggle = (number) => {
    let off = false;
    for (const group of document.querySelectorAll(`[data-variant="${number}"]`)) off = group.classList.toggle("hidden");
    for (const key of document.querySelectorAll(`[data-key="${number}"]`)) {
      key.classList.toggle("off", off);
      key.setAttribute("aria-pressed", String(!off));
    }
  };
  for (const key of document.querySelectorAll("[data-key]")) {
    key.setAttribute("role", "button");
    key.setAttribute("tabindex", "0");
    key.setAttribute("aria-pressed", "true");
    key.setAttribute("aria-label", "show " + key.querySelector("text").textContent);
    key.addEventListener("click", () => toggle(key.dataset.key));
    key.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle(key.dataset.key);
    });
  }
})();
