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
