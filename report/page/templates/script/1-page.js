"use strict";
// The page holds everything: the scripts sort, filter, highlight, open and compare it. Text is inserted as text only.
document.documentElement.classList.add("js");
const DATA = JSON.parse(document.getElementById("data").textContent);
const METHODS = new Map(DATA.methods.map((method) => [method.name, method]));
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function written(number, digits = 1) {
  const text = Math.abs(number).toFixed(digits);
  return (Number(text) !== 0 && number < 0 ? "\u2212" : "") + text;
}
const signed = (number) => (written(number) !== "0.0" && number > 0 ? "+" : "") + written(number);
const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const protocol = () => document.querySelector("input[name=protocol]:checked").value; // "primary" or "other"

// Theme: the system's until the reader chooses; the choice is remembered where the browser allows it.
const theme = byId("theme");
const store = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* a private window forgets */ } } };
function showTheme(name) {
  document.documentElement.dataset.theme = name;
  theme.setAttribute("aria-pressed", String(name === "dark"));
}
showTheme(store.get() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
theme.addEventListener("click", () => {
  showTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  store.set(document.documentElement.dataset.theme);
});

// Pointing at a method anywhere, by pointer or by keyboard, lights it up everywhere.
const tip = byId("tip");
function light(name) {
  all(".lit").forEach((one) => one.classList.remove("lit"));
  document.body.classList.toggle("dim", name !== null);
  if (name !== null) all("tr[data-m], .point").forEach((one) => one.classList.toggle("lit", one.dataset.m === name));
}
function pointAt(event) {
  const target = event.target.closest?.(".point, tbody tr[data-m], .front li");
  light(target ? target.dataset.m : null);
  tip.hidden = !target?.classList.contains("point");
  if (tip.hidden) return;
  tip.textContent = target.getAttribute("aria-label");
  const box = target.querySelector("use").getBoundingClientRect();
  const left = Math.min(box.right + 10, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 6)}px`;
}
for (const name of ["mouseover", "focusin"]) document.addEventListener(name, pointAt);
document.addEventListener("focusout", () => { light(null); tip.hidden = true; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// Copying
async function copy(button, text) {
  const label = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
  catch { button.textContent = "Copy by hand"; }
  setTimeout(() => { button.textContent = label; }, 1500);
}
const decode = (link) => new TextDecoder().decode(Uint8Array.from(atob(link.split(",")[1]), (sign) => sign.charCodeAt(0)));
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.matches(".copy")) copy(button, button.previousElementSibling.textContent);
  if (button?.matches(".copy-file")) copy(button, decode(button.parentElement.querySelector(`[download="${button.dataset.file}"]`).href));
});
