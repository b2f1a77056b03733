// The drawer: a cell with its recipe, over the page. Without scripts the same is under "Every cell".
// The address decides which cell is open; see 6-address.js.
const drawer = byId("drawer"), drawerBody = byId("drawer-body");
let borrowed = null, cameFrom = null;

const cellNamed = (name) => { const cell = byId(name); return cell?.matches("details.cell") ? cell : null; };

function showCell(name) {
  const cell = cellNamed(name);
  if (!cell) return hideCell();
  if (!drawer.open) cameFrom = document.activeElement;
  returnBorrowed();
  borrowed = { cell, inside: cell.querySelector(".inside") };
  byId("drawer-title").textContent = cell.querySelector("summary strong").textContent;
  drawerBody.append(borrowed.inside);
  const method = all(".method").find((one) => one.dataset.m === cell.dataset.m);
  const recipe = method?.querySelector(".recipe")?.cloneNode(true);
  if (recipe) drawerBody.append(element("div", { class: "inside" }, recipe));
  if (!drawer.open) drawer.showModal();
  drawer.scrollTop = 0;
}

function returnBorrowed() {
  if (borrowed) borrowed.cell.append(borrowed.inside);
  borrowed = null;
  drawerBody.replaceChildren();
}

function hideCell() {
  if (drawer.open) drawer.close();
}

drawer.addEventListener("close", () => {
  if (drawer.open) return; // opened again before this event came
  returnBorrowed();
  cameFrom?.focus?.({ preventScroll: true });
  if (cellInAddress()) leaveCell(); // closed by the reader, not by the address
});
byId("drawer-close").addEventListener("click", hideCell);
drawer.addEventListener("click", (event) => {
  if (event.target === drawer) hideCell(); // the backdrop
});
