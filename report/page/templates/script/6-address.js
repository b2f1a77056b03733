// What the reader has set is kept in the address, by name, so that a link shows the same and Back undoes what was opened:
// #sort=glue.rte.desc&filter=lsq&axis=file&cell=lsq_4bit_rte. Every input with data-state takes part.
const settings = new Map(); // name -> its inputs
all("[data-state]").forEach((input) => settings.set(input.name, [...(settings.get(input.name) || []), input]));
const isTick = (input) => input.type === "checkbox" || input.type === "radio";

function ownValue(input) {
  if (input.tagName !== "SELECT") return input.defaultValue;
  return (all("option", input).find((one) => one.defaultSelected) || input.options[0])?.value;
}

function address(cell = null, place = null) {
  const state = new URLSearchParams();
  for (const [name, order] of sorts) state.append("sort", `${name}.${order.key}.${order.descending ? "desc" : "asc"}`);
  for (const [name, inputs] of settings) {
    const ticks = inputs.filter(isTick);
    if (ticks.some((input) => input.checked !== input.defaultChecked)) {
      const chosen = ticks.filter((input) => input.checked);
      for (const value of chosen.length ? chosen.map((input) => input.value) : ["none"]) state.append(name, value);
    }
    for (const input of inputs) if (!isTick(input) && input.value !== ownValue(input)) state.append(name, input.value);
  }
  if (cell) state.set("cell", cell);
  if (place) state.set("at", place);
  return state.size ? `#${state}` : location.pathname + location.search;
}

const inAddress = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const cellInAddress = () => cellNamed(inAddress().get("cell"));
const remember = () => history.replaceState(history.state, "", address(inAddress().get("cell")));

// Sets an input to what the address says, or to its own value; returns whether that changed it.
function set(input, state) {
  const values = state.getAll(input.name), before = isTick(input) ? input.checked : input.value;
  if (isTick(input)) {
    const known = values[0] === "none" || settings.get(input.name).some((one) => values.includes(one.value));
    input.checked = known ? values.includes(input.value) : input.defaultChecked;
  } else {
    const allowed = values.length && (input.tagName !== "SELECT" || all("option", input).some((one) => one.value === values[0]));
    input.value = allowed ? values[0] : ownValue(input);
  }
  return (isTick(input) ? input.checked : input.value) !== before;
}

let restoring = false;
function restore() {
  let anchor = location.hash.slice(1);
  try { anchor = decodeURIComponent(anchor); } catch { return; } // somebody's broken address
  if (anchor && !anchor.includes("=")) {
    if (cellNamed(anchor)) history.replaceState(history.state, "", address(anchor)); // a plain link to a cell
    else hideCell();
    const details = byId(anchor)?.closest("details:not(.cell)");
    if (details) details.open = true;
    return showCell(inAddress().get("cell"));
  }
  const state = inAddress();
  restoring = true;
  const changed = [...settings.values()].flat().filter((input) => set(input, state));
  for (const name of ["input", "change"]) changed.forEach((input) => input.dispatchEvent(new Event(name, { bubbles: true })));
  const wanted = new Map();
  for (const text of state.getAll("sort")) {
    const [first, last] = [text.indexOf("."), text.lastIndexOf(".")];
    if (last > first) wanted.set(text.slice(0, first), { key: text.slice(first + 1, last), descending: text.slice(last) === ".desc" });
  }
  for (const name of new Set(boards.map((table) => table.dataset.name))) {
    const order = wanted.get(name);
    const known = order && boards.some((table) => table.dataset.name === name && all("th[data-key]", table).some((one) => one.dataset.key === order.key));
    if (known || sorts.has(name)) sortTables(name, known ? order : null);
  }
  restoring = false;
  showCell(state.get("cell"));
}

// The depth counts the cells that were opened one from another: closing the drawer goes back to where the first was opened.
const depth = () => history.state?.depth || 0;
function visitCell(name) {
  history.pushState({ depth: depth() + 1 }, "", address(name));
  showCell(name);
}
let leaving = false;
function leaveCell() {
  leaving = depth() > 0;
  if (leaving) history.go(-depth());
  else history.replaceState(null, "", address());
}
addEventListener("popstate", () => {
  if (leaving && cellInAddress()) history.replaceState(null, "", address()); // the page was opened at a cell
  leaving = false;
  restore();
});

function goTo(place) {
  place.scrollIntoView();
  if (!place.matches("a, button, input, summary")) place.tabIndex = -1;
  place.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const name = decodeURIComponent(link.getAttribute("href").slice(1)), place = byId(name);
  if (!place) return;
  event.preventDefault();
  if (cellNamed(name)) return visitCell(name);
  const kept = address(null, name);
  history.pushState(null, "", kept === `#at=${encodeURIComponent(name)}` ? `#${name}` : kept);
  if (drawer.open) { // a link out of the drawer leads to the page below it
    cameFrom = null;
    hideCell();
  }
  goTo(place);
});
document.addEventListener("input", (event) => { if (!restoring && event.target.matches("[data-state]")) remember(); });
restore();
const start = byId(inAddress().get("at"));
if (start) start.scrollIntoView({ behavior: "instant" });
