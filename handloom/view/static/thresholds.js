// The side's second part: sliders for the options of select, and what they would keep.

import { get } from "./api.js";
import { score } from "./card.js";
import { h, hours, latest, number, replace, words } from "./dom.js";

const STEPS = 100;

export class Thresholds {
  constructor(element, { onchange, onerror }) {
    this.onchange = onchange;
    this.onerror = onerror;
    this.summary = h("div", { class: "summary" });
    this.list = h("div", { class: "sliders" });
    this.judge = latest((params) => this.ask(params));
    replace(element, this.summary, this.list);
  }

  async load(params) {
    this.params = params;
    if (!this.options) {
      const { options } = await get("/api/thresholds");
      this.options = options;
      this.sliders = options.map((option) => new Slider(option, (text, isLast) => this.move(option.name, text, isLast)));
      const of = (isFrames) => this.sliders.filter((slider) => (slider.option.kind === "frames") === isFrames).map((slider) => slider.element);
      replace(this.list, options.length
        ? [of(false), h("details", { class: "fold" }, h("summary", {}, "Which frames and hands count"),
          h("p", { class: "soft" }, "These change the scores, which are made again from the table of hands: seconds in a large run."), of(true))]
        : h("p", { class: "soft" }, "Robot episodes go through no select."));
    }
    for (const slider of this.sliders) slider.set(params.get(`select.${slider.option.name}`));
    if (this.options.length) await this.judge(params);
  }

  forget() {
    this.options = null;
  }

  move(name, text, isLast) {
    const next = new URLSearchParams(this.params);
    if (text === null) next.delete(`select.${name}`);
    else next.set(`select.${name}`, text);
    this.params = next;
    if (isLast) this.onchange(next);
    else this.judge(next);
  }

  async ask(params) {
    const tried = new URLSearchParams([...params].filter(([name]) => name.startsWith("select.")));
    try {
      this.show(await get("/api/judge", tried));
    } catch (error) {
      if (error.status === 400 && !this.options.length) return;
      this.onerror(error);
    }
  }

  show(found) {
    const line = (title, { clips, seconds }, name) =>
      h("tr", { class: name }, h("th", {}, title.startsWith("newly") ? this.filter(title) : title), h("td", {}, number(clips)), h("td", {}, hours(seconds)));
    const isMoved = found.flags.length > 0;
    replace(this.summary,
      h("table", {}, h("tbody", {},
        line("kept by the run", found.before), line("kept now", found.now, "now"),
        line("newly kept", found["newly kept"], found["newly kept"].clips ? "more" : "none"),
        line("newly rejected", found["newly rejected"], found["newly rejected"].clips ? "less" : "none"))),
      isMoved ? h("div", { class: "options" },
        h("code", { class: "flags" }, inPairs(found.flags)),
        h("div", { class: "row" },
          copies("Copy options", found.flags.map(quoted).join(" ")),
          copies("Copy command", found.command),
          h("button", { class: "quiet", onclick: () => this.reset() }, "Reset")))
        : h("p", { class: "soft" }, "Move a threshold: what it would keep is counted from the stored scores, and the list can show what moves."));
    for (const slider of this.sliders) slider.count(found.reasons);
  }

  // Shows the clips that have moved.
  filter(word) {
    const isOn = this.params.getAll("moved").includes(word);
    const next = new URLSearchParams(this.params);
    next.delete("moved");
    if (!isOn) next.set("moved", word);
    return h("button", { "aria-pressed": String(isOn), title: "show these clips", onclick: () => this.onchange(next) }, word);
  }

  reset() {
    const next = new URLSearchParams([...this.params].filter(([name]) => !name.startsWith("select.")));
    next.delete("moved");
    this.onchange(next);
  }
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

// One option a line: a flag and its value stay together.
function inPairs(flags) {
  const lines = [];
  for (const word of flags) {
    if (word.startsWith("--")) lines.push(word);
    else lines[lines.length - 1] += ` ${quoted(word)}`;
  }
  return lines.join("\n");
}

function copies(label, text) {
  const button = h("button", { onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1200);
  } }, label);
  button.dataset.text = text;
  return button;
}

class Slider {
  constructor(option, onmove) {
    this.option = option;
    this.onmove = onmove;
    this.shown = h("output", { class: "shown" });
    this.rejects = h("small", { class: "rejects" });
    this.back = h("button", { class: "clear", title: `as in the run: ${text(option.value)}`, hidden: true, onclick: () => this.send(null, true) }, "undo");
    const label = words(option.name);
    if (option.kind === "switch") {
      this.input = h("input", { type: "checkbox", "aria-label": label });
      this.input.addEventListener("change", () => this.send(String(this.input.checked), true));
      this.body = h("label", { class: "switch" }, this.input, " on");
    } else {
      const steps = option.kind === "count" ? option.most : STEPS;
      this.input = h("input", { type: "range", min: option.kind === "count" ? "1" : "0", max: String(steps), step: option.kind === "count" ? "1" : "any", "aria-label": label });
      this.input.addEventListener("input", () => this.send(this.value(), option.kind === "frames" ? null : false));
      this.input.addEventListener("change", () => this.send(this.value(), true));
      this.off = option.kind === "frames" ? null : h("input", { type: "checkbox", title: "switch this criterion off", "aria-label": `use ${label}` });
      this.off?.addEventListener("change", () => this.send(this.off.checked ? this.value() : "none", true));
      this.body = h("div", { class: "slide" }, this.bars() || "", h("div", { class: "row" }, this.off, this.input));
    }
    this.element = h("section", { class: "slider", dataset: { name: option.name } },
      h("h3", { title: option.says }, label, this.shown, this.back, h("span", { class: "space" }), this.rejects), this.body);
  }

  bars() {
    const { histogram, scores } = this.option;
    if (!histogram?.length) return null;
    const most = Math.log1p(Math.max(1, ...histogram));
    return h("div", { class: "bars small", "aria-hidden": "true", title: scores.map(words).join(", ") }, (this.columns = histogram.map((count) => {
      const bar = h("i");
      bar.style.height = `${(100 * Math.log1p(count)) / most}%`;
      return bar;
    })));
  }

  value() {
    const at = Number(this.input.value);
    return this.option.kind === "count" ? String(at) : String(Number((at / STEPS).toFixed(3)));
  }

  send(value, isLast) {
    const isPresent = value === text(this.option.value);
    this.set(isPresent ? null : value);
    if (isLast !== null) this.onmove(isPresent ? null : value, isLast);
  }

  set(given) {
    const value = given ?? text(this.option.value);
    this.back.hidden = given === null;
    this.element.classList.toggle("moved", given !== null);
    this.shown.textContent = this.option.kind === "switch" ? "" : value === "none" ? "off" : score(Number(value));
    if (this.option.kind === "switch") this.input.checked = value === "true";
    else {
      if (this.off) this.off.checked = value !== "none";
      this.input.disabled = value === "none";
      if (value !== "none") this.input.value = this.option.kind === "count" ? value : Number(value) * STEPS;
      this.colour(value === "none" ? null : Number(value));
    }
  }

  colour(limit) {
    const { most, is_least } = this.option;
    this.columns?.forEach((bar, i) => {
      const at = ((i + 0.5) / this.columns.length) * most;
      bar.className = limit === null || (is_least ? at >= limit : at <= limit) ? "in" : "";
    });
  }

  count(reasons) {
    const rejected = this.option.reasons.reduce((sum, reason) => sum + (reasons[reason] || 0), 0);
    this.rejects.textContent = rejected ? `rejects ${number(rejected)}` : "";
  }
}

const text = (value) => (value === null ? "none" : String(value));
