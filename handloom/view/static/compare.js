// Two runs side by side: a line on what each has kept, and what has changed between them.

import { get } from "./api.js";
import { changed } from "./address.js";
import { h, hours, number, replace, words } from "./dom.js";

export class Compare {
  constructor(element, { onchange }) {
    this.element = element;
    this.onchange = onchange;
  }

  async load(params, run) {
    this.element.hidden = !run.against;
    if (!run.against) return;
    this.found ??= await get("/api/compare");
    const { before, now, changes } = this.found;
    const chosen = params.getAll("change");
    replace(this.element,
      h("span", { title: run.against.out }, "earlier run kept ", h("b", {}, number(before.clips)), ` · ${hours(before.seconds)}`),
      h("span", { title: run.out }, "this run ", h("b", {}, number(now.clips)), ` · ${hours(now.seconds)}`),
      changes.filter(([word]) => word !== "same").map(([word, count]) =>
        h("button", { "aria-pressed": String(chosen.includes(word)), onclick: () => this.onchange(changed(params, "change", chosen.includes(word) ? [] : [word])) }, `${words(word)} `, h("b", {}, number(count)))),
      changes.every(([word]) => word === "same") ? h("span", {}, "nothing has changed") : null);
  }

  forget() {
    this.found = null;
  }
}
