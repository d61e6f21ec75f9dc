"use strict";
// Everything here is computed without a page, so that it can be tested without one.

// As `number` in text.py: fixed decimals, thousands separated, one minus sign, none for zero
function number(value, digits = 0, signed = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const [whole, fraction] = Math.abs(value).toFixed(digits).split(".");
  const size = whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction === undefined ? "" : "." + fraction);
  if (!/[1-9]/.test(size)) return size;
  return (value < 0 ? "−" : signed ? "+" : "") + size;
}

// Four significant digits, without zeros at the end; very large and very small numbers with a power of ten
function short(value, signed = false) {
  if (!Number.isFinite(value) || value === 0) return number(value);
  const [mantissa, exponent] = value.toExponential(3).split("e").map(Number);
  if (exponent < -3 || exponent > 6) {
    return `${short(mantissa, signed)}e${exponent < 0 ? "−" : ""}${Math.abs(exponent)}`;
  }
  const text = number(value, Math.max(0, 3 - exponent), signed);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function percent(share) {
  if (share > 0.99) return "> 99%";
  return share < 0.01 ? "< 1%" : number(100 * share) + "%";
}

// Round numbers between low and high, about `count` of them; of steps only whole ones
function ticks(low, high, count, whole = false) {
  if (whole && low === high) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  let by = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  if (whole) by = Math.max(1, Math.round(by));
  const first = Math.ceil(low / by - 1e-9);
  const last = Math.floor(high / by + 1e-9);
  // `|| 0` turns −0 into 0
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * by).toPrecision(12)) || 0);
}

// Mean of each value and up to `window - 1` before it
function smoothed(values, window) {
  let sum = 0;
  return values.map((value, i) => {
    sum += value;
    if (i >= window) sum -= values[i - window];
    return sum / Math.min(i + 1, window);
  });
}

// [steps, values] of `curve - base`, at the steps that both have; null if there are none
function difference(curve, base) {
  if (!curve || !base) return null;
  const values = new Map(base[0].map((step, i) => [step, base[1][i]]));
  const kept = curve[0].map((_, i) => i).filter((i) => values.has(curve[0][i]));
  return kept.length ? [kept.map((i) => curve[0][i]), kept.map((i) => curve[1][i] - values.get(curve[0][i]))] : null;
}

function nearest(sorted, wanted) {
  const i = sorted.findIndex((value) => value >= wanted);
  if (i < 0) return sorted.length - 1;
  return i > 0 && wanted - sorted[i - 1] < sorted[i] - wanted ? i - 1 : i;
}

// A table with one line for each run and step, and a column for each metric
function csv(runs, metrics) {
  const quote = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const keys = Object.keys(metrics);
  const lines = [["run", "step", ...keys]];
  runs.forEach((run, i) => {
    const columns = keys.map((key) => new Map((metrics[key][i] ?? [[], []])[0].map((step, at) => [step, metrics[key][i][1][at]])));
    const steps = [...new Set(columns.flatMap((column) => [...column.keys()]))].sort((a, b) => a - b);
    for (const step of steps) lines.push([run, step, ...columns.map((column) => column.get(step) ?? "")]);
  });
  return lines.map((line) => line.map((cell) => quote(String(cell))).join(",") + "\n").join("");
}

// What `compressed` in selection.py wrote
async function inflate(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
