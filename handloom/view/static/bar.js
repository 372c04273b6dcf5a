// The bar on top: the run, a search, the order, a random sample, and how many clips that gives.

import { changed } from "./address.js";
import { h, hours, number, replace, words } from "./dom.js";

export class Bar {
  constructor(element, { onchange, onkeys, onside, onreload }) {
    this.onchange = onchange;
    this.params = new URLSearchParams();
    this.name = h("b", { class: "name" });
    this.search = h("input", { type: "search", id: "search", placeholder: "Search captions", "aria-label": "Search captions", autocomplete: "off", spellcheck: false });
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.set("text", this.search.value.trim(), { replace: true }), 200);
    });
    this.sort = h("select", { "aria-label": "Sort by", onchange: () => this.set("sort", this.order(this.sort.value)) });
    this.way = h("button", { class: "icon", title: "largest or smallest first", "aria-label": "Reverse the order", onclick: () => this.reverse() }, "↓");
    this.sample = h("button", { title: "A random sample of 200 clips; again for another one", onclick: () => this.draw() }, "Sample");
    this.all = h("button", { class: "quiet", hidden: true, title: "all clips instead of a sample", onclick: () => this.drop("sample", "seed") }, "all");
    this.count = h("output", { class: "count" });
    this.reload = h("button", { class: "fresh", hidden: true, onclick: onreload }, "New rows: reload");
    this.copy = h("button", { class: "quiet wide-only", title: "Copy the address of what is shown", onclick: () => this.copyAddress() }, "Copy link");
    replace(element,
      h("button", { class: "icon side-button", "aria-label": "Filters", onclick: onside }, "☰"),
      h("span", { class: "logo" }), this.name, this.search,
      h("span", { class: "group list-only" }, this.sort, this.way, this.sample, this.all),
      h("span", { class: "space" }), this.reload, this.count, this.copy,
      h("button", { class: "icon", title: "Keys", "aria-label": "Keys", onclick: onkeys }, "?"));
  }

  title(state) {
    this.name.textContent = state.name;
    this.name.title = state.out;
  }

  load(params, run) {
    this.params = params;
    if (document.activeElement !== this.search) this.search.value = params.get("text") || "";
    const scores = ["length_s", ...run.scores.filter((name) => name !== "length_s")];
    replace(this.sort, h("option", { value: "" }, "by video"), h("option", { value: "text" }, "by caption"), scores.map((name) => h("option", { value: name }, `by ${words(name)}`)));
    const sort = params.get("sort") || "";
    this.sort.value = sort.replace(/^-/, "");
    this.way.disabled = !sort;
    this.way.textContent = sort.startsWith("-") ? "↓" : "↑";
    this.all.hidden = !params.has("sample");
    this.sample.setAttribute("aria-pressed", params.has("sample"));
  }

  clip(params) {
    this.params = params;
    this.search.value = params.get("text") || "";
  }

  total({ total, seconds }) {
    this.count.textContent = `${number(total)} clips · ${hours(seconds)}`;
  }

  changed(isChanged) {
    this.reload.hidden = !isChanged;
  }

  set(name, value, options) {
    this.onchange(changed(this.params, name, value ? [value] : []), options);
  }

  drop(...names) {
    const next = new URLSearchParams(this.params);
    for (const name of names) next.delete(name);
    this.onchange(next);
  }

  order(score) {
    return score && score !== "text" ? `-${score}` : score;
  }

  reverse() {
    const sort = this.params.get("sort") || "";
    this.set("sort", sort.startsWith("-") ? sort.slice(1) : `-${sort}`);
  }

  draw() {
    const next = new URLSearchParams(this.params);
    next.set("seed", next.has("sample") ? Number(next.get("seed") || 0) + 1 : 0);
    next.set("sample", "200");
    this.onchange(next);
  }

  async copyAddress() {
    await navigator.clipboard.writeText(location.href);
    this.copy.textContent = "Copied";
    setTimeout(() => (this.copy.textContent = "Copy link"), 1200);
  }
}
