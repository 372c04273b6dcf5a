// Curves of a log, those of one kind in one chart.

import { h } from "./dom.js";

const HEIGHT = 190;
const LINES = ["#3b82a0", "#d08a1d", "#a3507c", "#5c9147", "#7670c4", "#c2543f", "#2f9e8f", "#8a8a3a"];
const SIDE = /^(lr|gradient_norm|tokens_per_s|windows_per_s|frames_per_s|mfu|data_wait|memory_gb|skipped|captions_cut|clips|windows|latent|active_dimensions)$/;
const LOSSES = ["loss", "cross_entropy", "accuracy"];

// Whether a chart is of the machine rather than of what is learned.
export const isSide = (name) => SIDE.test(name);

// The curves by the last part of their names, losses first.
export function groups(curves) {
  const found = new Map();
  for (const curve of curves) {
    const kind = curve.name.split(".").at(-1);
    if (!found.has(kind)) found.set(kind, []);
    found.get(kind).push(curve);
  }
  const rank = (name) => (LOSSES.includes(name) ? LOSSES.indexOf(name) : LOSSES.length);
  return [...found].sort(([a], [b]) => rank(a) - rank(b));
}

export function draw(parent, name, curves) {
  const box = h("figure", { class: "training-chart" }, h("figcaption", {}, name));
  parent.append(box);
  const { color, borderColor } = getComputedStyle(box);
  const axis = { stroke: color, grid: { stroke: borderColor, width: 1 }, ticks: { stroke: borderColor, size: 4 }, font: "11px system-ui", gap: 3 };
  const data = window.uPlot.join(curves.map((curve) => [curve.steps, curve.values]));
  const few = (i) => curves[i].steps.length <= 30;
  const options = {
    width: Math.max(200, box.clientWidth),
    height: HEIGHT,
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 26 }, { ...axis, size: 52 }],
    series: [{ label: "step" }, ...curves.map((curve, i) => ({
      label: curve.name, stroke: LINES[i % LINES.length], width: 1.5, spanGaps: true,
      points: { show: few(i), size: 5 },
      value: (_, value) => (value === null || value === undefined ? "" : Number(value.toPrecision(4)).toString()),
    }))],
  };
  const plot = new window.uPlot(options, data, box);
  new ResizeObserver(() => {
    if (box.clientWidth && box.clientWidth !== plot.width) plot.setSize({ width: box.clientWidth, height: HEIGHT });
  }).observe(box);
}
