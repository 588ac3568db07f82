"use strict";
// Tables that sort and filter, curves to hover and switch, a category table from two lists. No library, no network.

function numberOrText(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  return text === "–" || text === "" ? null : text;
}

function compare(a, b, direction) {
  // What has no value stands last in both directions.
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), undefined, { numeric: true });
}

function makeSortable(box, table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", (box.dataset.sort || "{column}").replace("{column}", header.textContent));
    button.append(...header.childNodes);
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = header.classList.contains("number");
      const before = header.getAttribute("aria-sort");
      const direction = before ? (before === "ascending" ? -1 : 1) : numeric ? -1 : 1;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [numberOrText(row.cells[place]), row]);
      rows.sort((a, b) => compare(a[0], b[0], direction));
      body.append(...rows.map((pair) => pair[1]));
    });
  });
}

function makeFilterable(box, table) {
  const input = box.querySelector("input[type=search]");
  if (!input) return;
  const count = box.querySelector(".count");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length
      ? box.dataset.shown.replace("{shown}", shown).replace("{total}", table.tBodies[0].rows.length) : "";
  });
}

function fillRecall(box, table) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const head = table.tHead.insertRow();
  data.headings.forEach((heading, place) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (place) cell.className = "number";
    cell.textContent = heading;
    head.append(cell);
  });
  const rows = (window.tandaClasses || []).map((name, place) => {
    const row = document.createElement("tr");
    const cell = document.createElement("th");
    cell.scope = "row";
    cell.textContent = name;
    row.append(cell);
    data.columns.forEach((column, index) => {
      const value = column[place];
      const figure = row.insertCell();
      figure.className = "number";
      figure.textContent = value === null ? "–" : index % 2 ? value : value.toFixed(3);
      if (value !== null) figure.dataset.value = value;
    });
    return row;
  });
  table.tBodies[0].append(...rows);
}

const NS = "http://www.w3.org/2000/svg";
function make(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

function ticks(low, high, wanted) {
  const span = high - low || 1;
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= wanted);
  const list = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) list.push(Number(value.toFixed(10)));
  return list;
}

class Panel {
  constructor(curves, panel, parent) {
    this.curves = curves;
    this.panel = panel;
    this.svg = make("svg", { viewBox: "0 0 520 300", role: "img", "aria-label": panel.title }, parent);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => { this.cursor?.remove(); this.curves.tip.hidden = true; });
  }

  lines() {
    const found = [];
    for (const run of this.curves.runs) {
      if (!run.shown) continue;
      for (const part of this.panel.parts) {
        const series = run.series[part.metric];
        if (series) found.push({ run, part, epochs: series[0], values: series[1] });
      }
    }
    return found;
  }

  draw() {
    const lines = this.lines();
    this.svg.replaceChildren();
    const epochs = lines.flatMap((line) => line.epochs);
    const values = lines.flatMap((line) => line.values);
    const lastEpoch = Math.max(1, ...epochs);
    const firstEpoch = Math.min(lastEpoch, ...epochs);
    let low = Math.min(0, ...values);
    let high = values.length ? Math.max(...values) : 1;
    if (high <= low) high = low + 1;
    high += (high - low) * 0.04;
    const left = 46, right = 508, top = 26, bottom = 262;
    this.x = (epoch) => lastEpoch === firstEpoch ? (left + right) / 2
      : left + 8 + (epoch - firstEpoch) / (lastEpoch - firstEpoch) * (right - left - 16);
    const y = (value) => bottom - (value - low) / (high - low) * (bottom - top);
    make("text", { x: left, y: 15, "font-weight": 600 }, this.svg).textContent = this.panel.title;
    for (const value of ticks(low, high, 6)) {
      make("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }, this.svg);
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, this.svg).textContent = String(value);
    }
    const marks = ticks(firstEpoch, lastEpoch, 8).filter(Number.isInteger);
    for (const epoch of marks.length ? marks : [firstEpoch]) {
      make("text", { x: this.x(epoch), y: bottom + 19, "text-anchor": "middle" }, this.svg).textContent = String(epoch);
    }
    make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }, this.svg);
    make("text", { x: (left + right) / 2, y: bottom + 35, "text-anchor": "middle" }, this.svg).textContent = this.curves.labels.epoch;
    for (const line of lines) this.drawLine(line, y);
    this.epochs = [...new Set(epochs)].sort((a, b) => a - b);
    this.bounds = { top, bottom };
  }

  drawLine(line, y) {
    const points = line.epochs.map((epoch, place) => `${this.x(epoch).toFixed(1)},${y(line.values[place]).toFixed(1)}`);
    const path = make("path", { d: `M${points.join("L")}`, stroke: line.run.colour, "data-run": line.run.name }, this.svg);
    if (line.part.dashed) path.setAttribute("class", "dashed");
    if (line.epochs.length <= 2) {
      for (const point of points) {
        const [cx, cy] = point.split(",");
        make("circle", { cx, cy, r: 3.5, fill: line.part.dashed ? "none" : line.run.colour, stroke: line.run.colour }, this.svg);
      }
    }
  }

  hover(event) {
    if (!this.epochs?.length) return;
    const box = this.svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * 520;
    const epoch = this.epochs.reduce((a, b) => Math.abs(this.x(b) - at) < Math.abs(this.x(a) - at) ? b : a);
    this.cursor?.remove();
    this.cursor = make("line", { class: "cursor", x1: this.x(epoch), x2: this.x(epoch), y1: this.bounds.top, y2: this.bounds.bottom }, this.svg);
    const rows = this.lines()
      .map((line) => ({ line, value: line.values[line.epochs.indexOf(epoch)] }))
      .filter((row) => row.value !== undefined)
      .sort((a, b) => b.value - a.value);
    this.curves.showTip(event, epoch, rows);
  }
}

class Curves {
  constructor(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    this.figure = figure;
    this.runs = data.runs;
    this.labels = data.labels;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    const panels = document.createElement("div");
    panels.className = "panels";
    figure.append(panels);
    this.panels = data.panels.map((panel) => new Panel(this, panel, panels));
    this.addStrokes(data.panels[0].parts);
    if (this.runs.length > 1) this.addLegend();
    figure.append(this.tip);
    this.draw();
  }

  draw() { this.panels.forEach((panel) => panel.draw()); }

  addStrokes(parts) {
    const line = document.createElement("div");
    line.className = "strokes";
    for (const part of parts) {
      const svg = make("svg", { viewBox: "0 0 34 8", "aria-hidden": "true" }, line);
      make("path", { d: "M0,4L34,4", class: part.dashed ? "dashed" : "" }, svg);
      line.append(part.name);
    }
    this.figure.append(line);
  }

  addLegend() {
    const list = document.createElement("ul");
    list.className = "legend";
    const buttons = this.runs.map((run) => {
      const button = document.createElement("button");
      button.type = "button";
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = run.colour;
      button.append(swatch, run.name);
      button.title = this.labels.toggle.replace("{run}", run.name);
      button.setAttribute("aria-pressed", String(Boolean(run.shown)));
      button.addEventListener("click", () => this.show([run], !run.shown));
      run.button = button;
      return button;
    });
    for (const [text, shown] of [[this.labels.showAll, true], [this.labels.hideAll, false]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => this.show(this.runs, shown));
      buttons.push(button);
    }
    list.append(...buttons.map((button) => { const item = document.createElement("li"); item.append(button); return item; }));
    this.figure.append(list);
  }

  show(runs, shown) {
    for (const run of runs) {
      run.shown = shown;
      run.button.setAttribute("aria-pressed", String(shown));
    }
    this.draw();
  }

  showTip(event, epoch, rows) {
    const title = document.createElement("strong");
    title.textContent = `${this.labels.epoch} ${epoch}`;
    this.tip.replaceChildren(title, ...rows.slice(0, 12).map(({ line, value }) => {
      const row = document.createElement("div");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = line.run.colour;
      row.append(swatch, `${value.toFixed(3)} ${line.run.name}, ${line.part.name}`);
      return row;
    }));
    this.tip.hidden = false;
    const home = this.figure.getBoundingClientRect();
    const wide = this.tip.offsetWidth;
    const x = event.clientX - home.left;
    this.tip.style.left = `${Math.max(0, Math.min(x + 14, home.width - wide))}px`;
    if (x + 14 + wide > home.width) this.tip.style.left = `${Math.max(0, x - wide - 14)}px`;
    this.tip.style.top = `${event.clientY - home.top + 14}px`;
  }
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  if (table.classList.contains("recall")) fillRecall(box, table);
  if (table.tBodies[0].rows.length > 1) makeSortable(box, table);
  makeFilterable(box, table);
}
for (const figure of document.querySelectorAll("figure.curves")) new Curves(figure);
