// Sorting: a click or the Enter key on a head; words come last in either direction, and equal values keep their order.
const sorted = { table: null, key: null, descending: false };

function valueOf(row, column, key) {
  const cell = [...row.cells].find((one) => one.dataset.column === String(column));
  if (!cell) return null;
  const drops = byId("view-drop").checked && cell.dataset.d !== undefined && key !== "drop";
  const value = drops ? cell.dataset.d : cell.dataset.v;
  if (value !== undefined) return Number(value);
  return cell.matches(".words") || cell.querySelector(".words") ? null : cell.textContent.trim() || null;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table, head, descending) {
  const column = head.cellIndex, body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, value: valueOf(row, column, head.dataset.key) }));
  rows.sort((a, b) => (a.value === null) - (b.value === null)
    || (a.value === null ? 0 : (descending ? -1 : 1) * compare(a.value, b.value)) || a.place - b.place);
  body.append(...rows.map((one) => one.row));
  all("thead th", table).forEach((one) => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

all("table.board").forEach((table) => {
  for (const row of table.tBodies[0].rows) {
    let column = 0; // a cell that spans several columns belongs to the first
    for (const cell of row.cells) { cell.dataset.column = column; column += cell.colSpan; }
  }
  all("thead th", table).forEach((head) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = !table.querySelector("tbody td[data-v]") || head.cellIndex < 2 ? "ascending" : "descending";
      const now = head.getAttribute("aria-sort");
      const descending = now ? now === "ascending" : first === "descending";
      sortBy(table, head, descending);
      Object.assign(sorted, { table: table.dataset.name, key: head.dataset.key || String(head.cellIndex), descending });
      remember();
    });
  });
});

// Filtering: every word must occur in the text of the row's method.
const filter = byId("filter");
function applyFilter() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = DATA.methods.map((method) => words.every((word) => method.words.includes(word)));
  all("[data-m]").forEach((one) => {
    if (!one.matches("tfoot *")) one.toggleAttribute("hidden", !hits[one.dataset.m]);
  });
  const left = hits.filter(Boolean).length;
  byId("shown").textContent = words.length ? `${left} of ${hits.length} methods` : "";
}
filter.addEventListener("input", () => { applyFilter(); remember(); });
all("input[type=radio]").forEach((input) => input.addEventListener("change", () => remember()));

// Every method against a chosen one: the tests were computed with the page.
const against = byId("against");
against.addEventListener("change", () => { showAgainst(); remember(); });
all("td.change, td.p").forEach((cell) => { cell.original = [...cell.childNodes].map((node) => node.cloneNode(true)); cell.was = cell.dataset.v; });

function showAgainst() {
  const chosen = against.value;
  all(".against-name").forEach((head) => {
    (head.querySelector("button") || head).textContent = chosen === "" ? "From the reference" : `From ${DATA.methods[chosen].title}`;
  });
  all("table[data-task]").forEach((table) => {
    const found = chosen === "" ? [] : DATA.pairs[table.dataset.task][chosen];
    for (const row of table.tBodies[0].rows) {
      const [change, p] = [row.querySelector(".change"), row.querySelector(".p")];
      if (!change) continue;
      const pair = found[row.dataset.m];
      if (chosen === "") {
        change.replaceChildren(...change.original.map((node) => node.cloneNode(true)));
        p.replaceChildren(...p.original.map((node) => node.cloneNode(true)));
        if (change.was === undefined) delete change.dataset.v; else change.dataset.v = change.was;
      } else if (pair) {
        const [difference, probability] = pair;
        change.textContent = signed(difference);
        change.dataset.v = difference;
        p.textContent = probability < 0.001 ? "< 0.001" : probability > 0.99 ? "> 0.99" : `= ${probability}`;
      } else {
        change.replaceChildren(element("span", { class: "words" }, row.dataset.m === chosen ? "itself" : "not compared"));
        p.replaceChildren(element("span", { class: "words" }, "no test"));
        delete change.dataset.v;
      }
    }
  });
}
