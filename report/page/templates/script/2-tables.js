// Sorting. A first click on a head shows the best end of the column first, a second click the other end, and a third click
// restores the table's own order. Cells without a number come last either way, and equal values keep their order.
const boards = all("table.board").filter((table) => table.querySelector("thead th[data-key]"));
const sorts = new Map(); // name of a table -> { key, descending }
const ownOrder = new Map(boards.map((table) => [table, [...table.tBodies].map((body) => [body, [...body.rows]])]));
const columnOf = new Map(); // cell -> the first column that it covers

function placeCells(rows) {
  const taken = [];
  [...rows].forEach((row, y) => {
    let x = 0;
    for (const cell of row.cells) {
      while (taken[y]?.[x]) x += 1;
      columnOf.set(cell, x);
      for (let down = 0; down < cell.rowSpan; down += 1) {
        taken[y + down] ??= [];
        for (let right = 0; right < cell.colSpan; right += 1) taken[y + down][x + right] = true;
      }
      x += cell.colSpan;
    }
  });
}

function sortValue(row, column) {
  const cell = [...row.cells].find((one) => columnOf.get(one) === column);
  if (!cell) return null; // covered by a cell that begins further left
  const value = cell.dataset[document.querySelector("input[name=view]:checked").value] ?? cell.dataset.v; // what this view shows
  if (value !== undefined) return value === "" ? null : Number(value);
  return cell.matches(".words") || cell.querySelector(".words") ? null : cell.textContent.trim() || null;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function arrange(table) {
  const order = sorts.get(table.dataset.name), own = ownOrder.get(table);
  const head = order && all("thead th[data-key]", table).find((one) => one.dataset.key === order.key);
  all("thead th", table).forEach((one) => one.removeAttribute("aria-sort"));
  if (!head) return own.forEach(([body, rows]) => body.append(...rows));
  head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
  const column = columnOf.get(head);
  const rows = own.flatMap(([, members]) => members).filter((row) => !row.matches(".group"))
    .map((row, place) => ({ row, place, value: sortValue(row, column) }));
  rows.sort((a, b) => (a.value === null) - (b.value === null)
    || (a.value === null ? 0 : (order.descending ? -1 : 1) * compare(a.value, b.value)) || a.place - b.place);
  own[0][0].append(...rows.map((one) => one.row));
}

function sortTables(name, order) {
  if (order) sorts.set(name, order); else sorts.delete(name);
  boards.filter((table) => table.dataset.name === name).forEach(arrange);
  showGroups();
}

boards.forEach((table) => {
  placeCells(table.tHead.rows);
  for (const body of table.tBodies) for (const row of body.rows) placeCells([row]);
  all("thead th[data-key]", table).forEach((head) => {
    const button = element("button", { type: "button" }, ...head.childNodes), column = columnOf.get(head);
    head.append(button);
    const rows = ownOrder.get(table).flatMap(([, members]) => members);
    const numbers = rows.some((row) => typeof sortValue(row, column) === "number");
    const first = numbers && head.dataset.first !== "ascending";
    button.addEventListener("click", () => {
      const now = sorts.get(table.dataset.name);
      const again = now?.key === head.dataset.key;
      const restored = again && now.descending !== first;
      sortTables(table.dataset.name, restored ? null : { key: head.dataset.key, descending: again ? !first : first });
      remember();
    });
  });
});
all("input[name=view]").forEach((input) => input.addEventListener("change", () => boards.forEach(arrange)));

// Filtering: every word must occur in the text of a method. Whatever bears the method's name is hidden with it.
const filter = byId("filter");
all("ol > li[data-m]").forEach((item) => { item.value = [...item.parentElement.children].indexOf(item) + 1; }); // keeps its number

function filtered() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  return (name) => words.every((word) => METHODS.get(name)?.words.includes(word));
}
function applyFilter() {
  const hit = filtered(), names = [...METHODS.keys()], left = names.filter(hit).length;
  all("[data-m]").forEach((one) => { if (!one.closest("tfoot, dialog")) one.toggleAttribute("hidden", !hit(one.dataset.m)); });
  byId("shown").textContent = left < names.length || filter.value.trim() ? `${left} of ${plural(names.length, "method")}` : "";
  showGroups();
}
function showGroups() {
  ownOrder.forEach((bodies, table) => bodies.forEach(([, rows]) => rows.filter((row) => row.matches(".group")).forEach((group) => {
    group.hidden = sorts.has(table.dataset.name) || rows.every((row) => row === group || row.hidden);
  })));
}
filter.addEventListener("input", applyFilter);
