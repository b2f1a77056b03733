// The reader's settings are kept in the address, so that a link shows the same: #sort=glue.rte.desc&axis=file&filter=lsq
function stateHash() {
  const state = new URLSearchParams();
  if (sorted.table) state.set("sort", [sorted.table, sorted.key, sorted.descending ? "desc" : "asc"].join("."));
  if (filter.value) state.set("filter", filter.value);
  if (against.value) state.set("against", against.value);
  for (const name of ["axis", "protocol", "view"]) {
    const chosen = document.querySelector(`input[name=${name}]:checked`);
    if (chosen && !chosen.defaultChecked) state.set(name, chosen.value);
  }
  const text = state.toString();
  return text ? `#${text}` : location.pathname + location.search;
}
const remember = () => history.replaceState(null, "", stateHash());

function restore() {
  let hash;
  try { hash = decodeURIComponent(location.hash.slice(1)); } catch { return; } // somebody's broken address
  if (!hash) return;
  if (!hash.includes("=")) {
    const target = byId(hash);
    if (target?.closest("details")) target.closest("details").open = true;
    if (!openCell(hash)) target?.scrollIntoView({ behavior: "instant" });
    return;
  }
  const state = new URLSearchParams(location.hash.slice(1));
  for (const name of ["axis", "protocol", "view"]) {
    const wanted = all(`input[name=${name}]`).find((input) => input.value === state.get(name));
    if (wanted) wanted.checked = true;
  }
  filter.value = state.get("filter") || "";
  if (filter.value) applyFilter();
  if (all("option", against).some((option) => option.value === state.get("against"))) {
    against.value = state.get("against");
    showAgainst();
  }
  const [name, key, direction] = (state.get("sort") || "").split(".");
  all("table.board").filter((table) => table.dataset.name === name).forEach((table) => {
    const head = all("thead th", table).find((one) => (one.dataset.key || String(one.cellIndex)) === key);
    if (head) {
      sortBy(table, head, direction === "desc");
      Object.assign(sorted, { table: name, key, descending: direction === "desc" });
    }
  });
  const task = state.get("task");
  if (task) byId(`task-${task}`)?.scrollIntoView();
}
addEventListener("hashchange", restore);
restore();

