// The picker: the best method within the limits. Methods with a diverged seed come last.
const picker = byId("picker");

function pick() {
  const scope = picker.elements.scope.value;
  const limit = (name) => (picker.elements[name].value === "" ? Infinity : Number(picker.elements[name].value));
  const limits = { size: limit("size"), lost: limit("lost"), time: limit("time") };
  const fits = DATA.methods.filter((method) => {
    const found = method.scopes[scope];
    if (!found) return false;
    const [, lost, time] = found;
    return (limits.size === Infinity || (method.mib !== null && method.mib <= limits.size))
      && (limits.lost === Infinity || (lost !== null && lost <= limits.lost))
      && (limits.time === Infinity || (time !== null && time <= limits.time));
  });
  fits.sort((a, b) => (a.diverged > 0) - (b.diverged > 0) || b.scopes[scope][0] - a.scopes[scope][0] || a.mib - b.mib);
  const words = (method) => {
    const [score, lost, time] = method.scopes[scope];
    const parts = [`${written(score)}`];
    if (lost !== null) parts.push(`${written(lost)} points lost`);
    if (method.mib !== null) parts.push(`${method.mib.toFixed(1)} MiB`);
    parts.push(time === null ? "time not measured" : `${time.toPrecision(3)} ms`);
    if (method.diverged) parts.push(`${method.diverged} diverged`);
    return parts.join(", ");
  };
  const link = (method) => (method.anchor ? element("a", { href: `#${method.anchor}` }, method.title) : method.title);
  const [first, ...others] = fits;
  byId("picked").replaceChildren(...(first ? [
    element("p", { class: "picked" }, link(first)),
    element("p", { class: "under" }, `${words(first)}. ${others.length ? `The best score of the ${fits.length} methods within your limits. Next:` : "The only method within your limits."}`),
    element("ol", { class: "front", start: "2" }, ...others.slice(0, 3).map((one) => element("li", {}, link(one), element("span", { class: "soft" }, ` ${words(one)}`)))),
  ] : [element("p", { class: "picked" }, "No method is within your limits."), element("p", { class: "under" }, "A method without a measurement cannot meet a limit. Relax one of the limits.")]));
}
picker.addEventListener("input", pick);
picker.addEventListener("submit", (event) => event.preventDefault());
pick();
