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
  if (!rows.length) return [element("p", {}, `All ${now.size} cells are unchanged.${text}`)];
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
