"use strict";
// plotly.js: packed in the page, so that the file can be sent around.
async function unpacked(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const plotly = unpacked("plotly").then((code) => {
  const script = document.createElement("script");
  script.textContent = code;
  document.head.append(script);
});

const root = document.documentElement;

// The pictures: drawn when they come into view, in the colours of the page.
const drawn = new Map();

function colour(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function inPageColours(layout) {
  const text = colour("--text"), line = colour("--line");
  const themed = structuredClone(layout);
  themed.font = { ...themed.font, color: text, family: "system-ui, sans-serif", size: 13 };
  for (const key of Object.keys(themed).concat(["xaxis", "yaxis"])) {
    if (/^[xy]axis\d*$/.test(key)) {
      themed[key] = { automargin: true, gridcolor: line, zerolinecolor: line, linecolor: line, ...themed[key] };
    } else if (/^scene\d*$/.test(key)) {
      for (const axis of ["xaxis", "yaxis", "zaxis"]) {
        themed[key][axis] = { gridcolor: line, zerolinecolor: line, color: text, ...themed[key][axis] };
      }
    }
  }
  for (const note of themed.annotations || []) {
    note.font = { ...note.font, color: text };
  }
  themed.hoverlabel = { bgcolor: colour("--card"), font: { color: text } };
  if (window.innerWidth < 600) {
    themed.margin = { ...themed.margin, l: 10, r: 10 };
  }
  return themed;
}

// CSS pixels that A4 and Letter leave between their margins.
const PAPER_WIDTH = 680;

async function draw(place) {
  await plotly;
  const figure = drawn.get(place) || JSON.parse(document.getElementById(place.dataset.figure).textContent);
  drawn.set(place, figure);
  const settings = { responsive: true, displaylogo: false };
  const layout = inPageColours(figure.layout);
  if (root.classList.contains("paper")) {
    layout.width = PAPER_WIDTH;
    layout.height = place.clientHeight;
  }
  await Plotly.react(place, figure.data, layout, settings);
  place.dataset.drawn = "yes";
}

const places = document.querySelectorAll(".plot");
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "400px" });
places.forEach((place) => watcher.observe(place));

// On paper: all pictures, as wide as a sheet, in its colours; tables no wider.
function onPaper(is) {
  root.classList.toggle("paper", is);
  for (const table of document.querySelectorAll("table")) {
    table.style.zoom = "";
    if (is) table.style.zoom = Math.min(1, PAPER_WIDTH / table.offsetWidth);
  }
  (is ? places : [...drawn.keys()]).forEach(draw);
}
window.addEventListener("beforeprint", () => onPaper(true));
window.addEventListener("afterprint", () => onPaper(false));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of drawn.keys()) draw(place);
});

// The tables: sorted by the column whose heading is pressed; what has no value stays last.
function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v;
}

function compare(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}

function sort(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const keyed = Array.from(body.rows, (row) => [valueOf(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return rising ? compare(a, b) : compare(b, a);
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

// The commands: copied whole. Where a file is not trusted with the clipboard, as the selection; where
// that is not allowed either, it stays selected for the reader to copy.
async function copied(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    const done = document.execCommand("copy");
    if (done) getSelection().removeAllRanges();
    return done;
  }
}

for (const button of document.querySelectorAll(".copy")) {
  const place = button.parentElement, label = button.firstChild, said = place.querySelector("[role=status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copied(place.querySelector("code"));
    label.data = done ? "copied" : "selected";
    said.textContent = done ? "Copied." : "Selected: copy it with your keyboard.";
    setTimeout(() => { label.data = "copy"; said.textContent = ""; }, 2000);
  });
}
