// One clip in a list. Cards are used again for other clips while the list scrolls.

import { thumb } from "./api.js";
import { h, number, seconds, words } from "./dom.js";

const MARKS = { keep: "keep", drop: "drop", wrong_caption: "wrong caption", note: "note" };

export class Card {
  constructor() {
    this.image = h("img", { alt: "", decoding: "async", draggable: false });
    this.image.addEventListener("error", () => this.picture.classList.add("missing"));
    this.image.addEventListener("load", () => this.picture.classList.remove("missing"));
    this.end = h("span", { class: "end" });
    this.mark = h("span", { class: "mark" });
    this.time = h("span", { class: "time" });
    this.picture = h("div", { class: "picture missing" }, this.image, this.end, this.mark, this.time);
    this.text = h("p", { class: "text" });
    this.meta = h("p", { class: "meta" });
    this.value = h("b", { class: "value" });
    this.element = h("a", { class: "card", role: "option" }, this.picture, this.text, h("p", { class: "foot" }, this.meta, this.value));
    this.id = null;
  }

  // A clip that is not read yet.
  wait(place) {
    this.id = null;
    this.element.className = "card waiting";
    this.element.removeAttribute("href");
    this.element.dataset.place = place;
    this.image.removeAttribute("src");
    this.picture.classList.add("missing");
    for (const part of [this.end, this.mark, this.time, this.text, this.meta, this.value]) part.textContent = "";
  }

  show(place, clip, href, sort) {
    this.element.dataset.place = place;
    this.element.href = href;
    this.element.className = `card ${clip.status}`;
    if (this.id !== clip.id) {
      this.id = clip.id;
      this.picture.classList.add("missing");
      this.image.src = thumb(clip.id);
    }
    this.end.textContent = ending(clip);
    this.mark.textContent = MARKS[clip.mark] || "";
    this.mark.dataset.mark = clip.mark || "";
    this.time.textContent = clip.end_s === null ? "" : `${(clip.end_s - clip.start_s).toFixed(1)} s`;
    this.text.textContent = clip.text || "no text";
    this.text.title = clip.text;
    this.meta.textContent = `${seconds(clip.start_s)} · ${clip.video}`;
    this.meta.title = `${clip.id} · ${clip.video} from ${seconds(clip.start_s)} · ${clip.split}`;
    this.value.textContent = sort && clip.sorted !== undefined ? score(clip.sorted) : "";
  }
}

export const score = (value) =>
  value === null ? "–" : Math.abs(value) >= 1000 ? number(Math.round(value)) : String(Number(value.toPrecision(3)));

// In a word how a clip ended; empty for one that was simply kept.
export function ending(clip) {
  if (clip.moved) return words(clip.moved);
  if (clip.change && clip.change !== "same") return words(clip.change);
  if (clip.status === "kept") return words(clip.reason);
  if (clip.status === "waiting") return `waits for ${clip.stage}`;
  return words(clip.reason || `failed in ${clip.stage}`);
}
