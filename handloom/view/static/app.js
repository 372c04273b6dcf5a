// The page: what the address says is shown, and what is done on the page changes the address.

import { go, read, write } from "./address.js";
import { get, post, thumb } from "./api.js";
import { Bar } from "./bar.js";
import { h, replace } from "./dom.js";
import { Filters } from "./filters.js";
import { keys, showKeys } from "./keys.js";
import { List } from "./list.js";
import { showRows } from "./rows.js";

const main = document.getElementById("main");
const side = document.getElementById("side");
const notice = document.getElementById("notice");
const grid = h("div", { id: "grid" });
const page = h("div", { id: "page" });
const parts = { filters: h("div", { id: "filters" }) };

let run = null;
let leave = null; // ends what a clip's page has begun
let shown = "";

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
const list = new List(grid, { onselect: () => {}, onerror: fail, ontotal: (answer) => bar.total(answer) });
replace(side, parts.filters);
replace(main, grid, page);

async function show() {
  const { view, id, params } = read();
  if (view === "clip") return showOne(id, params);
  await leaveClip();
  grid.hidden = false;
  page.hidden = true;
  document.body.dataset.view = "clips";
  const text = params.toString();
  if (text === shown) return;
  shown = text;
  bar.load(params, run);
  try {
    await Promise.all([list.load(params), filters.load(params, run.scores)]);
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
    h("code", {}, id)), body);
  page.scrollTop = 0;
  try {
    const { showClip } = await clipPage();
    leave = await showClip(body, id, api);
    say("");
  } catch (error) {
    fail(error);
  }
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
  await post("/api/reload");
  run = null;
  shown = null;
  start();
}

async function start() {
  try {
    for (;;) {
      const state = await get("/api/run");
      document.title = `${state.name} · handloom`;
      if (state.ready && run !== "waiting") {
        run = state;
        break;
      }
      if (state.error) {
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
    await show();
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
      if (run === mine) bar.changed(state.changed);
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
});

// On a clip's page: the clip before or after it in the list.
async function step(by) {
  if (!list.total) await list.load(read().params, read().id);
  list.select(list.selected + by);
  if (list.current) go("clip", list.current.id, read().params);
}

addEventListener("hashchange", () => run && show());
addEventListener("popstate", () => run && show());
addEventListener("unhandledrejection", (event) => fail(event.reason));
start();
