// The drawer: a cell with its recipe and its data, over the page. Without scripts the same is under "Every cell".
const drawer = byId("drawer"), drawerBody = byId("drawer-body");
let borrowed = null, cameFrom = null;

function openCell(id) {
  const cell = byId(id);
  if (!cell?.matches("details.cell")) return false;
  closeCell();
  cameFrom = document.activeElement;
  borrowed = { cell, inside: cell.querySelector(".inside") };
  byId("drawer-title").textContent = cell.querySelector("summary strong").textContent;
  drawerBody.append(borrowed.inside);
  const recipe = all(`.method[data-m="${cell.dataset.m}"] .recipe`)[0]?.cloneNode(true);
  if (recipe) drawerBody.append(element("div", { class: "inside" }, recipe));
  drawer.showModal();
  drawer.scrollTop = 0;
  return true;
}

function closeCell() {
  if (borrowed) borrowed.cell.append(borrowed.inside);
  borrowed = null;
  drawerBody.replaceChildren();
  if (drawer.open) drawer.close();
}

drawer.addEventListener("close", () => {
  closeCell();
  cameFrom?.focus?.();
  if (byId(location.hash.slice(1))?.matches("details.cell")) history.replaceState(null, "", stateHash());
});
byId("drawer-close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => {
  if (event.target === drawer) drawer.close(); // the backdrop
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  const id = decodeURIComponent(link.getAttribute("href").slice(1));
  if (openCell(id)) {
    event.preventDefault();
    history.replaceState(null, "", `#${id}`);
  } else if (drawer.open) {
    drawer.close(); // a link out of the drawer leads to the page below it
  }
});
