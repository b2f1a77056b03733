// Pointing at a method anywhere, by pointer or by keyboard, lights it up everywhere; a point of a plot shows its tip as well.
const tip = byId("tip");
let lit = null;

function light(name) {
  if (name === lit) return;
  lit = name;
  document.body.classList.toggle("dim", name !== null);
  all("tr[data-m], .point").forEach((one) => one.classList.toggle("lit", name !== null && one.dataset.m === name));
}

function tipOf(point, tapped) {
  const parts = DATA.tips, name = point.dataset.m, scope = point.closest("[data-scope]").dataset.scope;
  const axis = point.closest("[data-axis]").dataset.axis, protocol = point.closest("[data-protocol]").dataset.protocol;
  const facts = parts.methods[name], [time, memory] = parts.costs[scope][name] || [];
  const lines = [...(parts.results[protocol][scope][name] || []), facts.bits, facts[axis] || facts.file];
  if (time) lines.push(`${time} on ${parts.device}`);
  if (memory && axis === "memory") lines.push(memory);
  if (tapped) lines.push("Tap again to open.");
  return [element("strong", {}, facts.title), ...lines.filter(Boolean).map((line) => element("span", {}, line))];
}

let shown = null; // the point whose tip is shown
function showTip(point, tapped = false) {
  shown = point;
  tip.replaceChildren(...tipOf(point, tapped));
  tip.hidden = false;
  placeTip();
}

function placeTip() {
  if (!shown) return;
  const box = shown.querySelector("use").getBoundingClientRect(), above = box.top - tip.offsetHeight - 8;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(box.right + 10, room))}px`;
  tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
}

function hideTip() {
  shown = null;
  tip.hidden = true;
}

function pointAt(event) {
  const target = event.target.closest?.(".point, tbody tr[data-m], .front li[data-m]");
  light(target ? target.dataset.m : null);
  if (target?.matches(".point")) showTip(target, target === tapped); else hideTip();
}
for (const name of ["mouseover", "focusin"]) document.addEventListener(name, pointAt);
document.addEventListener("focusout", () => { light(null); hideTip(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", placeTip, { passive: true });

// A click on a point leads to its method, or in a task's panel to its cell. A finger cannot hover: its first tap shows the
// tip and its second one leads on.
let tapped = null, pointer = "mouse";
document.addEventListener("pointerdown", (event) => { pointer = event.pointerType; }, { capture: true });
document.addEventListener("click", (event) => {
  const point = event.target.closest?.(".point");
  const byFinger = event.detail > 0 && (pointer === "touch" || matchMedia("(hover: none)").matches); // Enter clicks without a count
  if (point && byFinger && point !== tapped) {
    event.preventDefault();
    event.stopPropagation();
    tapped = point;
    light(point.dataset.m);
    showTip(point, true);
    return;
  }
  tapped = null;
  const panel = point?.closest(".panels figure");
  if (!panel) return;
  const cell = cellOf(point.dataset.m, panel.dataset.scope);
  if (cell) location.hash = cell;
}, { capture: true });

function cellOf(method, task) {
  const link = all("table[data-task]").find((table) => table.dataset.task === task);
  const row = link && all("tr[data-m]", link).find((one) => one.dataset.m === method);
  return row?.querySelector("td a")?.getAttribute("href");
}
