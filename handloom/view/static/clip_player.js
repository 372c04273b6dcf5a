// A clip's video, which plays over its span again and again, and what lies on and below it.
// Times are seconds from the start of the source; `offset` is where the shown file begins in it.

import { get } from "./api.js";
import { Overlay } from "./clip_overlay.js";
import { Timeline } from "./clip_timeline.js";
import { h } from "./dom.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const NARROW = 560; // pixels: cameras stand in fewer columns below

export class Player {
  constructor(path, clip) {
    this.path = path;
    this.clip = clip;
    this.fps = clip.media.fps || 10;
    this.listeners = [];
    this.shown = clip.start_s; // time of the frame on screen
    this.offset = 0;
    this.video = h("video", { muted: true, playsInline: true, preload: "auto", "aria-label": "The clip" });
    this.video.disableRemotePlayback = true;
    this.overlay = new Overlay(clip, this.video);
    this.note = h("p", { class: "clip-note", role: "status" });
    this.stage = h("div", { class: "clip-stage" }, this.video, this.overlay.canvas, this.note);
    this.timeline = new Timeline(clip, (time) => this.seek(time, true));
    this.element = h("section", { class: "clip-player" }, this.stage, this.timeline.element, this.controls());
    this.video.addEventListener("click", () => this.toggle());
    this.video.addEventListener("error", () => this.failed());
    this.video.addEventListener("loadedmetadata", () => this.ready());
    this.video.addEventListener("loadeddata", () => this.say(""));
    this.video.addEventListener("ended", () => this.again());
    for (const name of ["play", "pause", "ratechange"]) this.video.addEventListener(name, () => this.drawControls());
    this.onkey = (event) => this.key(event);
  }

  controls() {
    const button = (text, title, action) => h("button", { type: "button", title, "aria-label": title, onclick: action }, text);
    this.playButton = button("▶", "play or pause (space)", () => this.toggle());
    this.rate = h("select", { title: "speed (< and >)", "aria-label": "speed", onchange: () => this.speed(Number(this.rate.value)) },
      SPEEDS.map((speed) => h("option", { value: String(speed), selected: speed === 1 }, `${speed}×`)));
    this.clock = h("output", { class: "clip-clock" });
    const marks = this.clip.hands
      ? h("label", { title: "draw hands (h)" }, this.marksBox = h("input", { type: "checkbox", checked: true, onchange: () => this.showMarks(this.marksBox.checked) }), " hands")
      : null;
    return h("div", { class: "clip-controls" },
      this.playButton,
      button("‹", "a frame back (,)", () => this.step(-1)),
      button("›", "a frame on (.)", () => this.step(1)),
      this.rate, marks, this.clock);
  }

  start() {
    document.addEventListener("keydown", this.onkey);
    if (this.clip.media.error) return this.say(this.clip.media.error);
    this.overlay.watch();
    const own = this.clip.media.source;
    if (own && this.video.canPlayType(own)) this.playSource();
    else this.playSpan();
    this.tick();
  }

  stop() {
    document.removeEventListener("keydown", this.onkey);
    this.stopped = true;
    this.overlay.stop();
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load(); // lets go of the connection
  }

  playSource() {
    this.offset = 0;
    this.isSource = true;
    this.video.src = `${this.path}/source#t=${this.clip.start_s}`;
  }

  // The span alone, encoded by the server: for files that the browser does not play.
  playSpan() {
    this.isSource = false;
    this.offset = this.clip.start_s;
    this.say("preparing the video …");
    this.video.src = this.spanAddress();
  }

  spanAddress() {
    const views = this.clip.media.views.length;
    if (!views) return `${this.path}/span.webm`;
    const narrow = matchMedia(`(max-width: ${NARROW}px)`).matches;
    this.columns = Math.min(views, narrow ? (views > 3 ? 2 : 1) : views > 4 ? 3 : views === 4 ? 2 : views);
    return `${this.path}/span.webm?columns=${this.columns}`;
  }

  async failed() {
    if (!this.video.getAttribute("src") || this.stopped) return;
    if (this.isSource) return this.playSpan();
    try {
      await get(this.spanAddress());
      this.say("this browser cannot play the clip.");
    } catch (error) {
      this.say(error.message); // the server's sentence
    }
  }

  ready() {
    this.nameViews();
    this.overlay.fit();
    if (this.isSource) this.video.currentTime = this.clip.start_s + 0.001;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
    this.drawControls();
  }

  nameViews() {
    const views = this.clip.media.views;
    if (views.length < 2 || this.stage.querySelector(".clip-view")) return;
    const rows = Math.ceil(views.length / this.columns);
    views.forEach((name, i) => {
      const label = h("span", { class: "clip-view" }, name);
      label.style.left = `${(100 * (i % this.columns)) / this.columns}%`;
      label.style.top = `${(100 * Math.floor(i / this.columns)) / rows}%`;
      this.stage.append(label);
    });
  }

  play() {
    this.video.play().catch(() => {}); // a browser may want a click first
  }

  toggle() {
    if (this.video.paused) this.play();
    else this.video.pause();
  }

  again() {
    this.seek(this.clip.start_s);
    this.play();
  }

  // Call a function with the time of each new frame on screen.
  onTime(listener) {
    this.listeners.push(listener);
  }

  tick() {
    if (this.stopped) return;
    const next = (time) => {
      if (this.stopped) return;
      this.at(time + this.offset);
      this.tick();
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback((_, frame) => next(frame.mediaTime));
    else requestAnimationFrame(() => next(this.video.currentTime));
  }

  at(time) {
    this.shown = time;
    const last = this.clip.end_s - 0.6 / this.fps;
    if (!this.video.paused && this.clip.end_s !== null && time >= last) this.again();
    this.overlay.draw(time);
    this.timeline.draw(time);
    this.clock.value = `${(time - this.clip.start_s).toFixed(2)} of ${this.seconds()} s`;
    for (const listener of this.listeners) listener(time);
  }

  seconds() {
    return this.clip.end_s === null ? "?" : (this.clip.end_s - this.clip.start_s).toFixed(2);
  }

  // Go to a time; with `hold` the video stays there.
  seek(time, hold = false) {
    if (hold) this.video.pause();
    const end = this.clip.end_s ?? Infinity;
    const wanted = Math.max(this.clip.start_s, Math.min(time, end - 0.5 / this.fps));
    this.video.currentTime = Math.max(0, wanted - this.offset + 0.001); // a frame's first moment may round to the one before
  }

  step(frames) {
    this.seek(this.shown + (frames + 0.5) / this.fps, true);
  }

  speed(rate) {
    this.video.playbackRate = rate;
  }

  faster(by) {
    const at = SPEEDS.indexOf(this.video.playbackRate);
    this.speed(SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))]);
  }

  showMarks(shown) {
    if (!this.marksBox) return;
    this.marksBox.checked = shown;
    this.overlay.visible = shown;
    this.overlay.draw(this.shown);
  }

  drawControls() {
    this.playButton.textContent = this.video.paused ? "▶" : "❚❚";
    this.rate.value = String(this.video.playbackRate);
  }

  say(sentence) {
    this.note.textContent = sentence;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, select, dialog")) return;
    if (event.key === " " && event.target.closest("button, a, summary")) return;
    const actions = {
      " ": () => this.toggle(),
      ",": () => this.step(-1),
      ".": () => this.step(1),
      "<": () => this.faster(-1),
      ">": () => this.faster(1),
      h: () => this.showMarks(!this.overlay.visible),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

export const KEYS = [
  ["space", "play or pause"],
  [", .", "a frame back, a frame on"],
  ["< >", "slower, faster"],
  ["h", "draw hands or not"],
];
