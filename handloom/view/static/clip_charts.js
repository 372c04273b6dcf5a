// States and actions of a robot as curves, with a line at the time on screen.

import { get } from "./api.js";
import { h, replace } from "./dom.js";

const HEIGHT = 150;
const LINES = ["#3b82a0", "#d08a1d", "#a3507c", "#5c9147", "#7670c4", "#c2543f", "#2f9e8f", "#8a8a3a"];

export class Charts {
  constructor(path, clip, player) {
    this.path = path;
    this.clip = clip;
    this.player = player;
    this.plots = [];
    this.element = h("section", { class: "clip-charts", hidden: true });
  }

  async load() {
    if (!this.clip.media.views.length) return;
    this.element.hidden = false;
    try {
      const found = await get(`${this.path}/curves`);
      if (found.hz) this.draw(found);
      else this.element.hidden = true;
    } catch (error) {
      replace(this.element, h("p", { class: "clip-error" }, error.message));
    }
  }

  draw(found) {
    const where = found.source ? "as the source has them" : "as they go into shards";
    const kinds = { ee_delta: "the end effector", joints: "joints", as_stored: "the source's own numbers" };
    replace(this.element, h("h3", {}, "States and actions"),
      h("p", { class: "clip-fine" }, `${kinds[found.action_kind] || found.action_kind}, ${found.hz} Hz, ${where}`));
    const grid = h("div", { class: "clip-grid" });
    this.element.append(grid);
    for (const role of ["state", "action"]) {
      for (const [unit, columns] of byUnit(found[role])) this.plot(grid, role, unit, columns, found);
    }
    this.player.onTime((time) => this.at(time));
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(grid);
    this.at(this.player.shown);
  }

  plot(grid, role, unit, columns, found) {
    const head = h("div", { class: "clip-playhead" });
    const box = h("figure", { class: "clip-chart" },
      h("figcaption", {}, `${role}${unit ? ` · ${unit}` : ""}`));
    grid.append(box);
    const times = columns[0].values.map((_, step) => this.clip.start_s + step / found.hz);
    const ink = getComputedStyle(box).color;
    const rule = getComputedStyle(box).borderColor;
    const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, size: 4 }, font: "11px system-ui", size: 46, gap: 3 };
    const options = {
      width: Math.max(160, box.clientWidth),
      height: HEIGHT,
      cursor: { drag: { x: false, y: false }, points: { size: 5 } },
      scales: { x: { time: false } },
      axes: [{ ...axis, size: 24, values: (_, ticks) => ticks.map((tick) => `${tick} s`) }, axis],
      legend: { live: true },
      series: [{ label: "s", value: (_, value) => (value === null ? "" : value.toFixed(2)) },
        ...columns.map((column, i) => ({
          label: column.name, stroke: LINES[i % LINES.length], width: 1.5,
          dash: i >= LINES.length ? [4, 3] : undefined,
          value: (_, value) => (value === null ? "" : value.toFixed(3)),
        }))],
      hooks: { setSize: [(plot) => this.mark(plot, head)] },
    };
    const plot = new window.uPlot(options, [times, ...columns.map((column) => column.values)], box);
    plot.over.append(head);
    for (const step of found.idle) plot.over.append(this.idle(plot, step, found.hz));
    plot.over.addEventListener("click", () => {
      if (plot.cursor.left >= 0) this.player.seek(plot.posToVal(plot.cursor.left, "x"), true);
    });
    this.plots.push({ plot, head, box, hz: found.hz });
  }

  // Steps without a command are shaded.
  idle(plot, step, hz) {
    const band = h("div", { class: "clip-idle", title: "no command" });
    const span = plot.scales.x.max - plot.scales.x.min || 1;
    band.style.left = `${(100 * (this.clip.start_s + step / hz - plot.scales.x.min)) / span}%`;
    band.style.width = `${100 / hz / span}%`;
    return band;
  }

  at(time) {
    for (const { plot, head, hz } of this.plots) {
      head.style.left = `${plot.valToPos(time, "x")}px`;
      const step = Math.floor((time - this.clip.start_s) * hz + 1e-6);
      if (plot.cursor.left < 0 || plot.cursor.left === undefined) plot.setLegend({ idx: Math.max(0, Math.min(step, plot.data[0].length - 1)) });
    }
  }

  mark(plot, head) {
    head.style.left = `${plot.valToPos(this.player.shown, "x")}px`;
  }

  fit() {
    for (const { plot, box } of this.plots) {
      if (box.clientWidth && box.clientWidth !== plot.width) plot.setSize({ width: box.clientWidth, height: HEIGHT });
    }
  }

  stop() {
    this.observer?.disconnect();
    for (const { plot } of this.plots) plot.destroy();
    this.plots = [];
  }
}

function byUnit(columns) {
  const groups = new Map();
  for (const column of columns) {
    if (!groups.has(column.unit)) groups.set(column.unit, []);
    groups.get(column.unit).push(column);
  }
  return groups;
}
