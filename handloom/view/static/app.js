// The page: what the address says is shown, and what is done on the page changes the address.

import { go, read, write } from "./address.js";
import { get, post, thumb } from "./api.js";
import { Bar } from "./bar.js";
import { Compare } from "./compare.js";
import { h, replace, words } from "./dom.js";
import { Filters } from "./filters.js";
import { keys, showKeys } from "./keys.js";
import { List } from "./list.js";
import { Marks } from "./marks.js";
import { showRows } from "./rows.js";
import { Thresholds } from "./thresholds.js";

const main = document.getElementById("main");
const side = document.getElementById("side");
const notice = document.getElementById("notice");
const grid = h("div", { id: "grid" });
const page = h("div", { id: "page" });
const strip = h("div", { id: "strip", hidden: true });
const parts = { filters: h("div", { id: "filters" }), thresholds: h("div", { id: "thresholds", hidden: true }) };

let run = null;
let leave = null; // ends what a clip's page has begun
let shown = null;
let badge = null;

function fail(error) {
  if (error.name === "AbortError") return;
  notice.textContent = error.message;
  notice.className = "error";
  notice.hidden = false;
}

function say(text) {
  notice.textContent = text;
  notice.className = "";
  notice.hidden = !text;
}

const bar = new Bar(document.getElementById("bar"), {
  onchange: (params, options) => go("clips", "", params, options),
  onkeys: showKeys,
  onside: () => document.body.classList.toggle("side-open"),
  onreload: reload,
});
const filters = new Filters(parts.filters, { onchange: (params) => go("clips", "", params), onerror: fail });
const thresholds = new Thresholds(parts.thresholds, { onchange: (params) => go("clips", "", params), onerror: fail });
const compare = new Compare(strip, { onchange: (params) => go("clips", "", params) });
const marks = new Marks({ onchange: marked, onerror: fail });
const list = new List(grid, { onselect: () => {}, onerror: fail, ontotal: (answer) => bar.total(answer) });
const tabs = ["filters", "thresholds"].map((name) => h("button", { role: "tab", onclick: () => openTab(name) }, name[0].toUpperCase() + name.slice(1)));
replace(side, h("div", { class: "tabs", role: "tablist" }, tabs), parts.filters, parts.thresholds);
replace(main, strip, grid, page);

main.addEventListener("pointerdown", () => document.body.classList.remove("side-open"));

function openTab(name) {
  for (const [i, other] of ["filters", "thresholds"].entries()) {
    parts[other].hidden = other !== name;
    tabs[i].setAttribute("aria-selected", other === name);
  }
  if (name === "thresholds" && run) thresholds.load(read().params).catch(fail);
}

// A clip has been marked: its card, the counts and what select would keep follow.
function marked(id, mark) {
  list.update(id, { mark });
  filters.load(read().params, run.scores).catch(fail);
  if (!parts.thresholds.hidden) thresholds.load(read().params).catch(fail);
  showMark();
}

function askMark() {
  const { view, id } = read();
  const clip = view === "clip" ? { id, text: id } : list.current;
  if (clip) marks.ask(clip.id, clip.text || clip.id);
}

async function show() {
  const { view, id, params } = read();
  if (view === "clip") return showOne(id, params);
  await leaveClip();
  const isBack = grid.hidden;
  grid.hidden = false;
  page.hidden = true;
  document.body.dataset.view = "clips";
  if (isBack && list.total) {
    list.resume();
    list.reveal();
  }
  const text = params.toString();
  if (text === shown) return;
  shown = text;
  bar.load(params, run);
  try {
    await Promise.all([
      list.load(params), filters.load(params, run.scores), compare.load(params, run),
      parts.thresholds.hidden ? null : thresholds.load(params),
    ]);
    if (notice.className === "error") say("");
    advise();
  } catch (error) {
    fail(error);
  }
}

async function showOne(id, params) {
  await leaveClip();
  grid.hidden = true;
  page.hidden = false;
  document.body.dataset.view = "clip";
  bar.clip(params, run);
  const body = h("div", { class: "clip" });
  replace(page, h("nav", { class: "crumbs" },
    h("a", { href: write("clips", "", params) }, "← clips"),
    h("code", {}, id), h("span", { class: "space" }), (badge = h("span", { class: "badge" })),
    h("button", { onclick: askMark, title: "m" }, "Mark")), body);
  showMark();
  page.scrollTop = 0;
  try {
    const { showClip } = await clipPage();
    leave = await showClip(body, id, api);
    say("");
  } catch (error) {
    fail(error);
  }
}

function showMark() {
  const { view, id } = read();
  if (view !== "clip" || !badge) return;
  const { mark, note } = marks.of(id);
  badge.textContent = [words(mark), note].filter(Boolean).join(": ");
  badge.dataset.mark = mark;
}

async function clipPage() {
  const found = await fetch("/static/clip.js", { method: "HEAD" });
  return found.ok ? import("./clip.js") : { showClip: showRows };
}

async function leaveClip() {
  const end = leave;
  leave = null;
  if (typeof end === "function") end();
}

export const api = { get, post, thumb, address: (id) => write("clip", id, read().params), fail, say };

function advise() {
  if (!run.clips) say("This run holds no clips yet. Once `ingest` has written rows, reload the tables.");
  else if (run.unfinished.length) say(`Not finished: ${run.unfinished.join(", ")}. What is shown is what is there.`);
}

async function reload() {
  try {
    await post("/api/reload");
  } catch (error) {
    return fail(error);
  }
  bar.changed(false);
  again();
}

// Draw everything anew, from the tables as they were read last.
function again() {
  run = null;
  shown = null;
  thresholds.forget();
  compare.forget();
  return start();
}

async function start() {
  try {
    for (;;) {
      const state = await get("/api/run");
      document.title = `${state.name} · handloom`;
      if (state.ready && !state.reading) {
        run = state;
        break;
      }
      if (state.error && !state.reading) {
        bar.title(state);
        say(state.error);
        await pause(2000);
      } else {
        bar.title(state);
        say(`Reading the tables: ${Math.round(100 * state.progress)} %`);
        await pause(150);
      }
    }
    say("");
    bar.title(run);
    await marks.load();
    await show();
    if (run.error) say(run.error); // what was read before is shown
    watch();
  } catch (error) {
    fail(error);
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// A run that goes on: say when there are new rows, and leave it to the reader to take them in.
async function watch() {
  const mine = run;
  while (run === mine) {
    await pause(10000);
    if (document.hidden) continue;
    try {
      const state = await get("/api/run");
      if (run !== mine) return;
      if (state.generation !== mine.generation) return again(); // another window has asked for it
      bar.changed(state.changed);
      if (state.error) say(state.error);
    } catch (error) {
      fail(error);
    }
  }
}

keys({
  list,
  view: () => read().view,
  open: () => list.current && go("clip", list.current.id, read().params),
  back: () => go("clips", "", read().params),
  step: (by) => step(by),
  search: () => bar.search.focus(),
  mark: askMark,
});

// On a clip's page: the clip before or after it in the list.
async function step(by) {
  if (!list.total) await list.load(read().params, read().id);
  await list.reach(list.selected + by);
  list.select(list.selected + by);
  if (list.current) go("clip", list.current.id, read().params);
}

addEventListener("hashchange", () => run && show());
addEventListener("popstate", () => run && show());
addEventListener("unhandledrejection", (event) => fail(event.reason));
openTab(read().params.toString().includes("select.") ? "thresholds" : "filters");
start();
