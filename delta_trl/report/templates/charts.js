"use strict";
// Curves and histograms as SVG in the page's colours, with their values under the pointer.

const SIZE = { width: 420, height: 200, left: 54, right: 10, top: 8, bottom: 24 };
const SMOOTHED_PART = 0.1; // a faint line through every value, a firm one through the mean of the last tenth of the run
const $ = (id) => document.getElementById(id);

// Text only ever becomes textContent: nothing of a completion or a run's name is parsed as HTML
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function swatch(i) {
  const element = make("span", "swatch");
  element.style.setProperty("--run", `var(--run-${i % 8})`);
  return element;
}

// The one box that follows the pointer, below or above `box` (viewport coordinates)
function showTip(title, rows, box) {
  const tip = $("tip");
  const list = make("dl");
  for (const [name, value, i] of rows) {
    const term = make("dt", "", name);
    if (i !== undefined) term.prepend(swatch(i));
    list.append(term, make("dd", "", value));
  }
  tip.replaceChildren(make("b", "", title), list);
  tip.hidden = false;
  tip.style.left = 0; // where it was, the edge of the page may have squeezed it
  const frame = document.body.getBoundingClientRect();
  const below = box.bottom + 6 + tip.offsetHeight < innerHeight || box.top < tip.offsetHeight + 6;
  tip.style.left = Math.max(4, Math.min(box.left - frame.left, frame.width - tip.offsetWidth - 4)) + "px";
  tip.style.top = (below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) - frame.top + "px";
}
function hideTip() {
  $("tip").hidden = true;
}

// An SVG with axes, and functions from values to its coordinates
function axes(title, [x0, x1], [y0, y1]) {
  const { width, height, left, right, top, bottom } = SIZE;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, tabindex: 0 });
  const x = (step) => (x1 > x0 ? left + ((step - x0) / (x1 - x0)) * (width - left - right) : (left + width - right) / 2);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  for (const value of ticks(y0, y1, 4)) {
    svg.append(
      draw("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const step of ticks(x0, x1, 5, true)) {
    svg.append(draw("text", { x: x(step), y: height - 6, "text-anchor": "middle" }, number(step)));
  }
  const step = (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    return x0 + ((at - left) / (width - left - right)) * (x1 - x0);
  };
  const value = (event) => {
    const box = svg.getBoundingClientRect();
    return y1 - ((((event.clientY - box.top) / box.height) * height - top) / (height - top - bottom)) * (y1 - y0);
  };
  return { svg, x, y, step, value };
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const margin = 0.05 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}

// `lines`: name, run (its number), dashed, and curve ([steps, values]) of each
function chart(title, lines, signed) {
  const steps = [...new Set(lines.flatMap((line) => line.curve[0]))].sort((a, b) => a - b);
  const values = lines.flatMap((line) => line.curve[1]);
  const { svg, x, y, step } = axes(title, [steps[0], steps.at(-1)], extent(signed ? [0, ...values] : values));
  if (signed) svg.append(draw("line", { class: "zero", x1: x(steps[0]), x2: x(steps.at(-1)), y1: y(0), y2: y(0) }));
  for (const line of lines) {
    const [own, raw] = line.curve;
    line.mean = smoothed(raw, Math.max(1, Math.floor(raw.length * SMOOTHED_PART)));
    const style = `--run: var(--run-${line.run % 8})`;
    const path = (of) => own.map((s, i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(of[i]).toFixed(1)}`).join("");
    if (raw.length >= 20) svg.append(draw("path", { class: "faint", style, d: path(raw) }));
    const dash = line.dashed ? "5 4" : "none";
    svg.append(draw("path", { class: "firm", style, d: path(line.mean), "stroke-dasharray": dash }));
    if (raw.length === 1) svg.append(draw("circle", { style, cx: x(own[0]), cy: y(raw[0]), r: 3 }));
  }
  const cursor = svg.appendChild(draw("line", { class: "cursor", y1: SIZE.top, y2: SIZE.height - SIZE.bottom }));
  let place = 0;
  const show = (to) => {
    place = Math.max(0, Math.min(steps.length - 1, to));
    const at = steps[place];
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.classList.add("shown");
    const rows = lines.flatMap((line) => {
      const i = line.curve[0].indexOf(at);
      if (i < 0) return [];
      const mean = line.mean[i] === line.curve[1][i] ? "" : ` (mean ${short(line.mean[i], signed)})`;
      return [[line.name, short(line.curve[1][i], signed) + mean, line.run]];
    });
    showTip(`Step ${number(at)}`, rows, cursor.getBoundingClientRect());
  };
  const hide = () => {
    cursor.classList.remove("shown");
    hideTip();
  };
  for (const kind of ["pointermove", "pointerdown"]) {
    svg.addEventListener(kind, (event) => show(nearest(steps, step(event))));
  }
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      show(cursor.classList.contains("shown") ? place + by : 0);
    }
  });
  return svg;
}

// A column for each part of the run. Opacity is the square root of the share: the rare coefficients are the interesting ones.
function histogram(title, { first, last, spread, shares }) {
  const [low, high] = [1 - spread, 1 + spread];
  const end = Math.max(last, first + 1);
  const { svg, x, y, step, value } = axes(title, [first, end], [low, high]);
  const most = Math.max(...shares.flat());
  const [columns, bins] = [shares.length, shares[0].length];
  const edge = (column) => first + ((end - first) * column) / columns;
  const bin = (i) => low + (2 * spread * i) / bins;
  shares.forEach((column, c) =>
    column.forEach((share, b) => {
      if (!share) return;
      const box = { x: x(edge(c)), y: y(bin(b + 1)), width: x(edge(c + 1)) - x(edge(c)), height: y(bin(b)) - y(bin(b + 1)) };
      svg.append(draw("rect", { class: "cell", ...box, "fill-opacity": Math.sqrt(share / most).toFixed(2) }));
    }),
  );
  svg.append(draw("line", { class: "one", x1: x(first), x2: x(end), y1: y(1), y2: y(1) }));
  const inside = (at, n) => Math.max(0, Math.min(n - 1, Math.floor(at)));
  const show = (event) => {
    const c = inside(((step(event) - first) / (end - first)) * columns, columns);
    const b = inside(((value(event) - low) / (2 * spread)) * bins, bins);
    const [from, to] = [Math.ceil(edge(c)), Math.max(Math.ceil(edge(c)), Math.ceil(edge(c + 1)) - 1)];
    const rows = [["share of tokens", number(shares[c][b] / 10, 1) + "%"]];
    const range = `λ ${number(bin(b), 3)} to ${number(bin(b + 1), 3)}`;
    const box = { left: event.clientX, top: event.clientY - 8, bottom: event.clientY + 8 };
    showTip(`${from === to ? `Step ${number(from)}` : `Steps ${number(from)} to ${number(to)}`}, ${range}`, rows, box);
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hideTip);
  return svg;
}

function figure(title, about, content) {
  const box = make("figure");
  box.append(make("figcaption", "", title), content);
  if (about) box.append(make("p", "soft", about));
  return box;
}

function showCurves({ runs, metrics, sections }) {
  const panel = ({ title, about, lines }) => {
    const base = Number($("base").value); // -1: values as they are
    const drawn = lines.flatMap(([key, name], place) =>
      runs
        .map((run, i) => ({
          name: [runs.length > 1 ? run : "", lines.length > 1 || runs.length === 1 ? name : ""].filter(Boolean).join(", "),
          run: i,
          dashed: place > 0,
          curve: base < 0 ? metrics[key][i] : i === base ? null : difference(metrics[key][i], metrics[key][base]),
        }))
        .filter(({ curve }) => curve),
    );
    if (!drawn.length) return [];
    const box = figure(title, about, chart(title, drawn, base >= 0));
    if (lines.length > 1) {
      box.firstChild.append(make("span", "soft", `: ${lines.map(([, name], i) => `${name} ${i ? "dashed" : "solid"}`).join(", ")}`));
    }
    return [box];
  };
  const places = [...$("curves").children, $("others")]; // those of `sections`
  const redraw = () => {
    hideTip();
    sections.forEach(({ panels, flat }, i) => {
      const place = places[i];
      const shown = place !== $("others") || place.open ? panels.flatMap(panel) : [];
      place.querySelector(".grid").replaceChildren(...shown);
      place.hidden = !flat.length && !(place === $("others") ? panels : shown).length;
    });
  };
  runs.forEach((run, i) => $("base").append(new Option(`Difference from ${run}`, i)));
  $("base").hidden = runs.length === 1;
  $("base").onchange = redraw;
  $("others").ontoggle = redraw;
  $("csv").onclick = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([csv(runs, metrics)], { type: "text/csv" }));
    link.download = "metrics.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  };
  redraw();
}
