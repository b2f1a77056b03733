// Losses from a chosen method in place of full precision: the differences and tests were computed with the page.
const against = byId("against");
all("table[data-task] td.loss, table[data-task] td.p").forEach((cell) => { cell.original = [...cell.childNodes]; cell.was = [cell.dataset.v, cell.className]; });

function showOriginal(cell) {
  cell.replaceChildren(...cell.original);
  [, cell.className] = cell.was;
  if (cell.was[0] === undefined) delete cell.dataset.v; else [cell.dataset.v] = cell.was;
}

function showPair(loss, p, [lost, half, probability]) {
  loss.className = "loss";
  loss.replaceChildren(written(lost), element("small", {}, `${written(lost - half)} to ${written(lost + half)}`));
  p.className = "p";
  p.replaceChildren(probability < 0.001 ? "< 0.001" : probability > 0.99 ? "> 0.99" : String(probability));
  [loss.dataset.v, p.dataset.v] = [lost, probability];
}

function showWords(cell, text) {
  cell.classList.add("words");
  cell.replaceChildren(text);
  delete cell.dataset.v;
}

function showAgainst() {
  const chosen = against.value;
  all(".against-name").forEach((head) => { head.textContent = `from ${chosen === "" ? "full precision" : METHODS.get(chosen).title}`; });
  all("table[data-task]").forEach((table) => {
    const pairs = DATA.pairs[table.dataset.task][table.dataset.protocol][chosen] || [];
    for (const [index, method] of DATA.methods.entries()) {
      const row = all("tbody tr[data-m]", table).find((one) => one.dataset.m === method.name);
      const loss = row?.querySelector(".loss"), p = row?.querySelector(".p");
      if (!loss) continue;
      if (chosen === "") [loss, p].forEach(showOriginal);
      else if (pairs[index]) showPair(loss, p, pairs[index]);
      else { showWords(loss, method.name === chosen ? "itself" : "not compared"); showWords(p, "no test"); }
    }
  });
  boards.filter((table) => sorts.has(table.dataset.name)).forEach(arrange);
}
against.addEventListener("change", showAgainst);

// An older report beside this one: its report.json is read here and sent nowhere.
byId("older").addEventListener("change", async (event) => {
  const place = byId("compared"), file = event.target.files[0];
  const say = (text) => place.replaceChildren(element("p", { class: "notice" }, text));
  if (!file) return;
  let older;
  try { older = JSON.parse(await file.text()); } catch { return say(`${file.name} is not JSON: choose a report.json that a page like this one offers.`); }
  if (older?.format !== 1 || !Array.isArray(older.rows)) return say(`${file.name} is not a report.json of a page like this one.`);
  place.replaceChildren(...compared(older, JSON.parse(decode(document.querySelector('[download="report.json"]').href))));
});

function compared(older, newer) {
  const key = (row) => `${row.method}\n${row.task}`;
  const then = new Map(older.rows.map((row) => [key(row), row])), now = new Map(newer.rows.map((row) => [key(row), row]));
  const shown = (row) => (row ? (typeof row.mean === "number" ? written(row.mean) + (row.sd ? ` \u00b1 ${written(row.sd)}` : "") : "diverged") : "not run");
  const rows = [...new Set([...now.keys(), ...then.keys()])].map((name) => ({ before: then.get(name), after: now.get(name) }))
    .map((pair) => ({ ...pair, change: typeof pair.before?.mean === "number" && typeof pair.after?.mean === "number" ? pair.after.mean - pair.before.mean : null }))
    .filter(({ before, after, change }) => !before || !after || change === null || Math.abs(change) >= 0.005 || before.code !== after.code);
  const text = older.protocol === newer.protocol ? "" : ` Its protocol is \u201c${older.protocol}\u201d, this one's is \u201c${newer.protocol}\u201d: do not compare the two.`;
  if (!rows.length) return [element("p", {}, `No cell has changed.${text}`)];
  const head = element("tr", {}, ...["Method", "Task", "Then", "Now", "Change", "Code"].map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map(({ before, after, change }) => {
    const one = after || before;
    const code = !before || !after ? "" : before.code === after.code ? "the same" : "changed";
    return element("tr", {}, element("th", { scope: "row" }, String(one.title ?? one.method)), element("td", {}, String(one.task)), element("td", {}, shown(before)),
      element("td", {}, shown(after)), element("td", {}, change === null ? "" : signed(change)), element("td", {}, code));
  });
  return [element("p", {}, `${rows.length} of ${plural(new Set([...now.keys(), ...then.keys()]).size, "cell")} differ.${text}`),
    element("div", { class: "scroll fit", tabindex: "0" }, element("table", { class: "seeds", id: "differences" }, element("thead", {}, head), element("tbody", {}, ...body)))];
}
