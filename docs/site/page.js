// The page reads without this: it opens all folds at once, and shows what a model expected at a token.
"use strict";

const unfold = document.getElementById("unfold");
if (unfold) {
  unfold.hidden = false;
  unfold.addEventListener("click", () => {
    const folds = document.querySelectorAll(".part .fold");
    const open = unfold.textContent.startsWith("open");
    folds.forEach((fold) => (fold.open = open));
    unfold.textContent = open ? "close all folds" : "open all folds";
  });
}

// A link into a fold opens it.
function reveal() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
}
window.addEventListener("hashchange", reveal);
reveal();

const visible = (text) => text.replace(/ /g, "␣").replace(/\n/g, "↵");
const guess = document.getElementById("guess");

function show(token, data) {
  const [bits, top] = data[token.dataset.n];
  const text = token.textContent.replace(/↵\n/g, "\n");
  document.querySelectorAll(".t.on").forEach((other) => other.classList.remove("on"));
  token.classList.add("on");
  const head = document.createElement("p");
  const name = document.createElement("code");
  name.textContent = visible(text);
  head.append(name, ` cost ${bits.toFixed(2)} bits. The ten most probable tokens, in percent:`);
  const table = document.createElement("table");
  for (const [word, percent] of top) {
    const row = table.insertRow();
    const code = document.createElement("code");
    code.textContent = visible(word);
    row.insertCell().append(code);
    row.insertCell().textContent = percent.toFixed(1);
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = `${percent}%`;
    const cell = row.insertCell();
    cell.style.width = "60%";
    cell.append(bar);
    if (word === text) row.className = "hit";
  }
  guess.replaceChildren(head, table);
}

document.querySelectorAll(".story").forEach((story) => {
  const data = JSON.parse(document.querySelector(`[data-for="${story.id}"]`).textContent);
  const tokens = [...story.querySelectorAll(".t")];
  let at = 0;
  const go = (n) => {
    at = Math.max(0, Math.min(tokens.length - 1, n));
    show(tokens[at], data);
  };
  tokens.forEach((token) => token.removeAttribute("title"));
  story.tabIndex = 0;
  story.setAttribute("role", "group");
  story.addEventListener("pointerover", (event) => {
    if (event.target.dataset.n) go(Number(event.target.dataset.n));
  });
  story.addEventListener("focus", () => go(at));
  story.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (by) {
      go(at + by);
      event.preventDefault();
    }
  });
});
