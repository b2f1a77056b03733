// Few tab stops: a group of controls has one, and the arrow keys, Home and End move within it.
const groups = [];

function focusable(item) { return item.checkVisibility() && !item.disabled; }

function group(items) {
  if (items.length < 2) return;
  groups.push(items);
  items.forEach((item) => {
    item.addEventListener("focus", () => stopAt(items, item));
    item.addEventListener("keydown", (event) => {
      const shown = items.filter(focusable), at = shown.indexOf(item);
      const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1 }[event.key];
      if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      shown[Math.min(Math.max(next, 0), shown.length - 1)].focus();
    });
  });
}

const stopAt = (items, stop) => items.forEach((item) => {
  const wanted = item === stop ? 0 : -1;
  if (item.tabIndex !== wanted) item.tabIndex = wanted;
});
function chooseStops() { // reads everything before it writes anything: a write between two reads lays the page out anew
  const shown = (item) => item.checkVisibility();
  const stops = groups.map((items) => items.find((item) => item.tabIndex === 0 && shown(item)) || items.find(shown));
  groups.forEach((items, i) => stopAt(items, stops[i]));
}

// A table is a grid: its heads are one stop, the name in each row another, and the arrow keys reach all the rest.
const inTable = "thead button, tbody a, tbody button, tfoot a";
function moveInTable(event) {
  const table = event.currentTarget, cell = event.target.closest("th, td");
  if (!cell || !event.target.matches(inTable) || event.altKey || event.ctrlKey || event.metaKey) return;
  const shown = all(inTable, table).filter(focusable), at = shown.indexOf(event.target);
  const row = cell.parentElement, inRow = (other) => shown.filter((item) => item.closest("tr") === other);
  const rows = [...new Set(shown.map((item) => item.closest("tr")))];
  const beside = (step) => { const other = shown[at + step]; return other?.closest("tr") === row || row.closest("thead") && other?.closest("thead") ? other : null; };
  const below = (step) => {
    const other = rows[rows.indexOf(row) + step];
    return other && (inRow(other).find((item) => columnOf.get(item.closest("th, td")) === columnOf.get(cell)) || inRow(other)[0]);
  };
  const moves = { ArrowRight: () => beside(1), ArrowLeft: () => beside(-1), ArrowDown: () => below(1), ArrowUp: () => below(-1),
    Home: () => inRow(row)[0], End: () => inRow(row).at(-1) };
  if (!moves[event.key]) return;
  event.preventDefault();
  event.stopPropagation(); // the heads' own group must not move as well
  moves[event.key]()?.focus();
}

all("table.board").forEach((table) => {
  group(all("thead button", table));
  all("tbody tr, tfoot tr", table).forEach((row) => all("a, button", row).forEach((link) => { link.tabIndex = link.closest(".name") ? 0 : -1; }));
  table.addEventListener("keydown", moveInTable, { capture: true });
  table.closest(".scroll")?.removeAttribute("tabindex"); // its links scroll it
});
all("main svg").forEach((plot) => group(all("a", plot)));
all(".files").forEach((files) => group(all("a, button", files)));
all(".places").forEach((places) => group(all("a", places)));
group(all("details.cell > summary"));
chooseStops();
document.addEventListener("change", chooseStops);
filter.addEventListener("input", chooseStops);

// The section in view is marked in the navigation.
const links = new Map(all(".top nav a").map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const link = links.get(target.getAttribute("aria-labelledby"));
    if (isIntersecting) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-30% 0px -69% 0px" });
all("main > section").filter((section) => links.has(section.getAttribute("aria-labelledby"))).forEach((section) => watcher.observe(section));
