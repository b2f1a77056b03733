// An older report beside this one: its report.json is read here and goes nowhere.
byId("older").addEventListener("change", async (event) => {
  const place = byId("compared"), file = event.target.files[0];
  const say = (text) => place.replaceChildren(element("p", { class: "notice" }, text));
  if (!file) return;
  let older;
  try { older = JSON.parse(await file.text()); } catch { return say(`${file.name} is not JSON: choose the report.json of a report.`); }
  if (older?.format !== 1 || !Array.isArray(older.rows)) return say(`${file.name} is not the report.json of a report of this kind.`);
  place.replaceChildren(...compared(older, JSON.parse(decode(document.querySelector('[download="report.json"]').href))));
});

function compared(older, newer) {
  const key = (row) => `${row.method}\n${row.task}`;
  const then = new Map(older.rows.map((row) => [key(row), row])), now = new Map(newer.rows.map((row) => [key(row), row]));
  const shown = (row) => (row ? (typeof row.mean === "number" ? written(row.mean) + (row.sd ? ` \u00b1 ${written(row.sd)}` : "") : "diverged") : "not run");
  const rows = [...new Set([...now.keys(), ...then.keys()])].map((name) => ({ before: then.get(name), after: now.get(name) }))
    .map((pair) => ({ ...pair, change: typeof pair.before?.mean === "number" && typeof pair.after?.mean === "number" ? pair.after.mean - pair.before.mean : null }))
    .filter(({ before, after, change }) => !before || !after || change === null || Math.abs(change) >= 0.005 || before.code !== after.code);
  const text = older.protocol === newer.protocol ? "" : ` Its protocol is \u201c${older.protocol}\u201d, this one's \u201c${newer.protocol}\u201d: the two do not compare.`;
  if (!rows.length) return [element("p", {}, `All ${now.size} cells are as they were.${text}`)];
  const head = element("tr", {}, ...["Method", "Task", "Then", "Now", "Change", "Code"].map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map(({ before, after, change }) => {
    const one = after || before;
    const code = !before || !after ? "" : before.code === after.code ? "the same" : "changed";
    return element("tr", {}, element("th", { scope: "row" }, String(one.title ?? one.method)), element("td", {}, String(one.task)), element("td", {}, shown(before)),
      element("td", {}, shown(after)), element("td", {}, change === null ? "" : signed(change)), element("td", {}, code));
  });
  return [element("p", {}, `${rows.length} of ${new Set([...now.keys(), ...then.keys()]).size} cells differ.${text}`),
    element("div", { class: "scroll fit", tabindex: "0" }, element("table", { class: "seeds", id: "differences" }, element("thead", {}, head), element("tbody", {}, ...body)))];
}
