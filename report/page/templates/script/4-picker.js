// The picker: the most accurate method within the limits, the next ones, and why each of the others fails.
const limits = byId("limits");
const NEXT = 3;

function limitOf(name) {
  const text = limits.elements[name]?.value ?? "";
  return text === "" ? null : Number(text);
}

// Each way to fail: its title in the list, and the reason, or null where the method passes.
const failures = [
  ["Too large", ({ mib }) => exceeds(mib, limitOf("size"), (text, limit) => `${text} MiB is above ${limit}`, "size not measured")],
  ["Loses too much", ({ lost }) => exceeds(lost, limitOf("drop"), (text, limit) => `loses ${text} points, more than ${limit}`, "loss from full precision unknown")],
  ["Too slow", ({ ms, slow }) => exceeds(ms, limitOf("latency"), (text, limit) => `${text} ms is above ${limit}`, slow)],
];

function exceeds(value, limit, words, unknown) {
  if (limit === null) return null;
  if (value === null || value === undefined) return unknown;
  return value > limit ? words(String(value).replace("-", "\u2212"), limit) : null;
}

function described({ score, lost, interval, mib, ms, slow }, isReference) {
  const parts = [`scores ${written(score)}`];
  if (isReference) parts[0] += " and is the reference";
  else if (lost !== undefined) parts.push((lost < 0 ? `gains ${written(-lost)} points` : `loses ${written(lost)} points`) + (interval ? ` (95 % interval of the loss ${interval.map((end) => written(end)).join(" to ")})` : ""));
  if (mib) parts.push(`${mib} MiB`);
  parts.push(ms === null ? slow : `${ms} ms`);
  return parts.join(", ");
}

function pick() {
  const scope = limits.elements.scope.value, hit = filtered();
  const considered = DATA.methods.filter((method) => hit(method.name)).map((method) => ({ method, choice: method.choices[protocol()][scope] }));
  const fits = [], failed = new Map();
  for (const one of considered) {
    const reasons = one.choice.why ? [["No comparable score", one.choice.why]]
      : failures.map(([title, fails]) => [title, fails(one.choice)]).filter(([, reason]) => reason);
    if (!reasons.length) { fits.push(one); continue; }
    const title = reasons.map(([name]) => name).join(", ").toLowerCase();
    failed.set(title, [...(failed.get(title) || []), { ...one, reason: [...new Set(reasons.map(([, reason]) => reason))].join("; ") }]);
  }
  fits.sort((a, b) => b.choice.score - a.choice.score || (a.choice.mib ?? Infinity) - (b.choice.mib ?? Infinity));
  const link = ({ anchor, title }) => (anchor ? element("a", { href: `#${anchor}` }, title) : title);
  const words = ({ method, choice }) => described(choice, method.name === DATA.reference);
  const [best, ...others] = fits;
  const answer = best
    ? [element("p", { class: "picked" }, link(best.method)), element("p", { class: "under" }, `It ${words(best)}.`)]
    : [element("p", { class: "picked" }, "No method is within your limits.")];
  if (others.length) {
    answer.push(element("h3", {}, others.length > NEXT ? `Next of ${plural(others.length, "other method")} within your limits` : "Next"));
    answer.push(element("ol", { class: "front", start: "2" }, ...others.slice(0, NEXT).map((one) => element("li", {}, link(one.method), element("span", { class: "soft" }, ` ${words(one)}`)))));
  }
  if (failed.size) {
    answer.push(element("h3", {}, "Why the others fail"));
    answer.push(element("ul", { class: "fails" }, ...[...failed].map(([title, group]) => element("li", {}, element("b", {}, `${title[0].toUpperCase()}${title.slice(1)}: `),
      ...group.flatMap(({ method, reason }, i) => [i ? "; " : "", link(method), element("span", { class: "soft" }, ` (${reason})`)]), "."))));
  }
  if (considered.length < DATA.methods.length) answer.push(element("p", { class: "under" }, `Only ${plural(considered.length, "method")} that match the filter \u201c${filter.value.trim()}\u201d.`));
  byId("picked").replaceChildren(...answer);
}
for (const input of [limits, filter]) input.addEventListener("input", pick);
all("input[name=protocol]").forEach((input) => input.addEventListener("change", pick));
limits.addEventListener("submit", (event) => event.preventDefault());
pick();
