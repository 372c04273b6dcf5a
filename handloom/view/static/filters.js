// The side's first part: what clips are filtered by, each word with its count.

import { changed } from "./address.js";
import { get } from "./api.js";
import { h, number, replace, words } from "./dom.js";
import { score } from "./card.js";

const TITLES = { status: "Status", stage: "Ended in", reason: "Reason", change: "Changed since", moved: "By the thresholds", mark: "Marks", dataset: "Dataset", split: "Split", source: "Caption from", verb: "Verb", object: "Object", licence: "Licence" };
const ORDER = ["moved", "change", "status", "reason", "stage", "mark", "split", "verb", "object", "source", "dataset", "licence"];
const SHOWN = 8;
const UNNAMED = new Set(["reason", "stage", "mark", "moved"]); // their empty word says nothing
const EMPTY = { reason: "none", stage: "none", mark: "unmarked", moved: "as before", source: "no caption", verb: "none", object: "none" };

export class Filters {
  constructor(element, { onchange, onerror }) {
    this.onchange = onchange;
    this.onerror = onerror;
    this.more = new Set();
    this.facets = h("div", { class: "facets" });
    this.range = new Range(onchange, onerror);
    replace(element, this.range.element, this.facets);
  }

  async load(params, scores) {
    this.params = params;
    this.range.load(params, scores);
    const { facets } = await get("/api/facets", filtersOf(params));
    if (this.params !== params) return;
    this.last = facets;
    this.draw();
  }

  draw() {
    const names = ORDER.filter((name) => this.last[name] || this.params.has(name));
    replace(this.facets, names.map((name) => this.facet(name, this.last[name] || [])));
  }

  facet(name, found) {
    const chosen = new Set(this.params.getAll(name));
    const known = new Set(found.map(([word]) => word));
    const told = found.filter(([word]) => word || chosen.has(word) || !UNNAMED.has(name));
    const all = [...[...chosen].filter((word) => !known.has(word)).map((word) => [word, 0]), ...told];
    if (!all.length) return null;
    const isLong = all.length > SHOWN + 2 && !this.more.has(name);
    const shown = isLong ? all.filter(([word], i) => i < SHOWN || chosen.has(word)) : all;
    const most = Math.max(1, ...all.map(([, count]) => count));
    return h("section", { class: "facet", dataset: { name } },
      h("h3", {}, TITLES[name] || words(name), chosen.size ? h("button", { class: "clear", title: "any", onclick: () => this.set(name, []) }, "any") : null),
      h("ul", {}, shown.map(([word, count]) => this.word(name, word, count, most, chosen))),
      isLong ? h("button", { class: "more", onclick: () => (this.more.add(name), this.draw()) }, `${all.length - shown.length} more`) : null);
  }

  word(name, word, count, most, chosen) {
    const isOn = chosen.has(word);
    const next = isOn ? [...chosen].filter((one) => one !== word) : [...chosen, word];
    const label = word ? words(word) : EMPTY[name] || "none";
    const share = h("i", { class: "share" });
    share.style.width = `${(100 * count) / most}%`;
    return h("li", {}, h("button", { class: "word", "aria-pressed": String(isOn), dataset: { word }, onclick: () => this.set(name, next) },
      share, h("span", {}, label), h("small", {}, number(count))));
  }

  set(name, values) {
    this.onchange(changed(this.params, name, values));
  }
}

// What filters clips, without how they are sorted and drawn.
export function filtersOf(params) {
  const kept = new URLSearchParams(params);
  for (const name of ["sort", "sample", "seed"]) kept.delete(name);
  return kept;
}

// A score with its distribution; the two ends of the range are dragged or typed.
class Range {
  constructor(onchange, onerror) {
    this.onchange = onchange;
    this.onerror = onerror;
    this.choice = h("select", { "aria-label": "Score", onchange: () => this.choose(this.choice.value) });
    this.bars = h("div", { class: "bars", "aria-hidden": "true" });
    this.low = h("input", { type: "number", step: "any", "aria-label": "at least", placeholder: "min" });
    this.high = h("input", { type: "number", step: "any", "aria-label": "at most", placeholder: "max" });
    for (const input of [this.low, this.high]) input.addEventListener("change", () => this.set());
    this.chips = h("div", { class: "chips" });
    this.bars.addEventListener("pointerdown", (event) => this.drag(event));
    this.body = h("div", { class: "range-body" }, this.bars, h("div", { class: "ends" }, this.low, h("span", {}, "to"), this.high));
    this.element = h("section", { class: "facet range" }, h("h3", {}, "Score", this.choice), this.body, this.chips);
  }

  async load(params, scores) {
    this.params = params;
    if (this.choice.options.length !== scores.length + 1) {
      replace(this.choice, h("option", { value: "" }, "any"), ["length_s", ...scores.filter((s) => s !== "length_s")].map((name) => h("option", { value: name }, words(name))));
    }
    const ranged = [...new Set([...params.keys()].filter((key) => /^(min|max)\./.test(key)).map((key) => key.slice(4)))];
    const name = this.name && (ranged.includes(this.name) || this.isOpen) ? this.name : ranged[0] || "";
    this.name = name;
    this.choice.value = name;
    this.body.hidden = !name;
    replace(this.chips, ranged.filter((one) => one !== name).map((one) => this.chip(one)));
    if (!name) return;
    this.low.value = params.get(`min.${name}`) ?? "";
    this.high.value = params.get(`max.${name}`) ?? "";
    try {
      const query = filtersOf(params);
      query.set("score", name);
      this.spread = await get("/api/histogram", query);
      this.draw();
    } catch (error) {
      this.onerror(error);
    }
  }

  chip(name) {
    const [low, high] = ["min", "max"].map((end) => this.params.get(`${end}.${name}`));
    const label = `${words(name)} ${low ?? ""} – ${high ?? ""}`;
    return h("button", { class: "chip", title: "remove", onclick: () => this.onchange(without(this.params, name)) }, `${label} ×`);
  }

  choose(name) {
    this.name = name;
    this.isOpen = true;
    this.load(this.params, [...this.choice.options].slice(1).map((option) => option.value));
  }

  draw() {
    const { all, some, low, high } = this.spread;
    const most = Math.log1p(Math.max(1, ...all));
    const from = Number(this.low.value || low);
    const upto = Number(this.high.value || high);
    const step = (high - low) / all.length;
    replace(this.bars, all.map((count, i) => {
      const at = low + (i + 0.5) * step;
      const bar = h("i", { class: at < from || at > upto ? "out" : "" }, h("b"));
      bar.style.height = `${(100 * Math.log1p(count)) / most}%`;
      bar.firstChild.style.height = `${count ? (100 * Math.log1p(some[i])) / Math.log1p(count) : 0}%`;
      bar.title = `${score(low + i * step)} to ${score(low + (i + 1) * step)}: ${number(some[i])} of ${number(count)} clips`;
      return bar;
    }));
  }

  drag(event) {
    const box = this.bars.getBoundingClientRect();
    const { low, high } = this.spread;
    const at = (x) => low + Math.min(1, Math.max(0, (x - box.left) / box.width)) * (high - low);
    const start = at(event.clientX);
    this.bars.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const [from, upto] = [start, at(moved.clientX)].sort((a, b) => a - b);
      this.low.value = score(from);
      this.high.value = score(upto);
      this.draw();
    };
    const end = () => {
      this.bars.removeEventListener("pointermove", move);
      this.set();
    };
    this.bars.addEventListener("pointermove", move);
    this.bars.addEventListener("pointerup", end, { once: true });
  }

  set() {
    const next = without(this.params, this.name);
    if (this.low.value !== "") next.set(`min.${this.name}`, this.low.value);
    if (this.high.value !== "") next.set(`max.${this.name}`, this.high.value);
    this.onchange(next);
  }
}

function without(params, name) {
  const next = new URLSearchParams(params);
  next.delete(`min.${name}`);
  next.delete(`max.${name}`);
  return next;
}
