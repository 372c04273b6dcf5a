// The bar below the video: the longest shot, the frames that were looked at, those that were encoded.

import { kind } from "./clip_overlay.js";
import { h } from "./dom.js";

export class Timeline {
  constructor(clip, seek) {
    this.clip = clip;
    this.start = clip.start_s;
    this.end = clip.end_s ?? clip.start_s + 1;
    this.head = h("div", { class: "clip-head" });
    this.track = h("div", {
      class: "clip-track", role: "slider", tabIndex: 0, "aria-label": "Time in the clip",
      "aria-valuemin": "0", "aria-valuemax": String((this.end - this.start).toFixed(2)),
    }, ...this.marks(), this.head);
    this.track.addEventListener("pointerdown", (event) => {
      this.track.setPointerCapture(event.pointerId);
      seek(this.timeAt(event.clientX));
    });
    this.track.addEventListener("pointermove", (event) => event.buttons && seek(this.timeAt(event.clientX)));
    this.element = h("div", { class: "clip-timeline" }, this.track, this.legend());
    this.seek = seek;
  }

  share(time) {
    return (time - this.start) / Math.max(1e-6, this.end - this.start);
  }

  timeAt(x) {
    const box = this.track.getBoundingClientRect();
    return this.start + Math.max(0, Math.min(1, (x - box.left) / box.width)) * (this.end - this.start);
  }

  // An element at a time, or from one time to another.
  place(name, from, to, title) {
    const mark = h("div", { class: name, title });
    mark.style.left = `${100 * this.share(from)}%`;
    if (to !== null) mark.style.width = `${100 * (this.share(to) - this.share(from))}%`;
    return mark;
  }

  marks() {
    const { hands, codes } = this.clip;
    const marks = [];
    if (hands) {
      marks.push(this.place("clip-shot", hands.shot_start_s, Math.min(hands.shot_end_s, this.end), "the longest shot, which counts"));
      for (const time of hands.cuts_s) marks.push(this.place("clip-cut", time, null, `a change of shot at ${time.toFixed(2)} s`));
      for (const frame of hands.frames) if (frame.searched) marks.push(this.look(frame));
    }
    if (this.marksCodes()) {
      for (const time of codes.times_s) {
        marks.push(this.place("clip-encoded", this.start < time ? time : this.start, null, `encoded: ${time.toFixed(2)} s`));
      }
    }
    return marks;
  }

  marksCodes() {
    return this.clip.codes && !this.clip.media.views.length; // of a robot every step is encoded
  }

  look(frame) {
    const { hands } = this.clip;
    const inside = frame.time_s >= hands.shot_start_s && frame.time_s <= hands.shot_end_s;
    const best = [...frame.hands].sort((a, b) => b.confidence - a.confidence)[0];
    const state = best ? kind(best) : "none";
    const words = best ? `${frame.hands.length} ${frame.hands.length > 1 ? "hands" : "hand"}` : "no hand";
    const mark = this.place(`clip-look ${state}${inside ? "" : " outside"}`, frame.time_s, null, `looked at ${frame.time_s.toFixed(2)} s: ${words}`);
    mark.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      this.seek(frame.time_s);
    });
    return mark;
  }

  legend() {
    const { hands } = this.clip;
    const item = (name, words) => h("span", {}, h("i", { class: name }), words);
    return h("p", { class: "clip-legend" },
      hands ? [
        item("confirmed", "looked at: a hand that counts"),
        item("lone", "seen in one search alone"),
        item("doubtful", "too doubtful to count"),
        item("none", "no hand"),
      ] : null,
      this.marksCodes() ? item("encoded", "encoded") : null);
  }

  draw(time) {
    const share = Math.max(0, Math.min(1, this.share(time)));
    this.head.style.left = `${100 * share}%`;
    this.track.setAttribute("aria-valuenow", (time - this.start).toFixed(2));
  }
}
