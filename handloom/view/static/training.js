// The page of a training: how it compares, its pictures and films, then the curves of its log.

import { get } from "./api.js";
import { h, replace, words } from "./dom.js";
import { draw, groups, isSide } from "./training_charts.js";

const AGAIN_MS = 10_000; // a training that goes on writes new lines
const main = document.getElementById("training");
const charts = new Map(); // by training: its element, and the state of the log that it shows

const file = (path) => `/api/training/file?${new URLSearchParams({ path })}`;
const title = (run) => run || "this training";

async function start() {
  try {
    const found = await get("/api/training");
    document.getElementById("name").textContent = found.name;
    document.title = `${found.name} · handloom`;
    show(found);
    setInterval(refresh, AGAIN_MS);
  } catch (error) {
    replace(main, h("p", { class: "training-error", role: "alert" }, error.message));
  }
}

function show(found) {
  replace(main,
    results(found),
    gallery("Pictures", found.pictures, (path) => h("img", { src: file(path), alt: path, loading: "lazy" })),
    gallery("Films", found.films, (path) => h("video", { src: `${file(path)}#t=0.1`, controls: true, loop: true, muted: true, preload: "metadata", playsInline: true })),
    found.runs.map(curves));
}

function results(found) {
  const rows = found.runs.map((run) => h("li", {},
    h("b", {}, title(run.name)),
    h("span", { class: "training-step" }, run.finished ? `finished after ${run.step} steps` : "not finished"),
    run.verdicts.map((one) => h("p", { class: one.better ? "better" : "worse" }, one.sentence))));
  const rollouts = found.rollouts.map((one) => h("li", {}, h("b", {}, one.name), h("p", {}, `${one.done} of ${one.tried} tasks done`)));
  const report = found.report ? h("p", { class: "training-fine" }, `A page to send on lies beside: ${found.report}`) : null;
  return h("section", {}, h("h2", {}, "Results"), h("ul", { class: "training-results" }, rows, rollouts), report);
}

function gallery(name, paths, element) {
  if (!paths.length) return null;
  return h("section", {}, h("h2", {}, name), h("div", { class: `training-gallery ${name.toLowerCase()}` },
    paths.map((path) => h("figure", {}, element(path), h("figcaption", {}, h("a", { href: file(path), target: "_blank", rel: "noopener" }, path))))));
}

function curves(run) {
  const body = h("div", { class: "training-charts" });
  const more = h("div", { class: "training-charts" });
  const details = h("details", {}, h("summary", {}, "speed, memory and the like"), more);
  charts.set(run.name, { body, more, skipped: h("p", { class: "training-fine" }), state: "" });
  details.addEventListener("toggle", () => fill(run, true), { once: true });
  fill(run);
  return h("section", {}, h("h2", {}, `Curves of ${title(run.name)}`), body, details);
}

async function fill(run, again = false) {
  const shown = charts.get(run.name);
  const state = run.state.join();
  if (!again && shown.state === state) return;
  shown.state = state;
  try {
    const { curves: found, skipped } = await get("/api/training/curves", new URLSearchParams({ run: run.name }));
    replace(shown.body);
    replace(shown.more);
    if (skipped) shown.body.before(shown.skipped);
    else shown.skipped.remove();
    shown.skipped.textContent = skipped === 1 ? "A line of the log cannot be read and is left out." : `${skipped} lines of the log cannot be read and are left out.`;
    if (!found.length) replace(shown.body, h("p", { class: "training-fine" }, "the log has no lines yet"));
    for (const [name, lines] of groups(found)) draw(isSide(name) ? shown.more : shown.body, words(name), lines);
  } catch (error) {
    replace(shown.body, h("p", { class: "training-error" }, error.message));
  }
}

// New lines of the logs; pictures and films that were written meanwhile come with a reload.
async function refresh() {
  const state = document.getElementById("state");
  try {
    const found = await get("/api/training");
    state.textContent = "";
    for (const run of found.runs) if (charts.has(run.name)) fill(run);
  } catch (error) {
    state.textContent = error.message;
  }
}

start();
