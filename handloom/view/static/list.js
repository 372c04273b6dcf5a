// A grid of any number of cards, of which only those on screen exist.
//
// Browsers cannot scroll further than some ten million pixels. A longer list is mapped onto that
// height: small steps move by as much as they say, leaps go to the same share of the list.

import { get } from "./api.js";
import { write } from "./address.js";
import { Card } from "./card.js";
import { h, replace } from "./dom.js";

const PIECE = 120; // clips of one request
const PIECES_KEPT = 40;
const TALLEST = 8_000_000; // pixels
const CARD = { width: 208, height: 190, gap: 10 };

export class List {
  constructor(element, { onselect, onerror, ontotal }) {
    this.element = element;
    this.onselect = onselect;
    this.onerror = onerror;
    this.ontotal = ontotal;
    this.spacer = h("div", { class: "spacer", role: "listbox", "aria-label": "Clips" });
    this.empty = h("p", { class: "empty", hidden: true });
    replace(element, this.spacer, this.empty);
    this.cards = new Map(); // by place
    this.idle = [];
    this.pieces = new Map();
    this.asked = new Map();
    this.total = 0;
    this.top = 0; // of the list, in its own pixels
    this.scrolled = 0;
    this.selected = 0;
    this.params = new URLSearchParams();
    element.addEventListener("scroll", () => this.scrollTo(element.scrollTop), { passive: true });
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(element);
    this.spacer.addEventListener("click", (event) => this.click(event));
  }

  // Show the clips of a query; the first piece tells how many there are.
  async load(params, selectedId) {
    for (const controller of this.asked.values()) controller.abort();
    this.asked.clear();
    const before = this.params.toString();
    this.params = new URLSearchParams(params);
    this.generation = (this.generation || 0) + 1;
    const generation = this.generation;
    const answer = await get("/api/clips", this.withPiece(0));
    if (generation !== this.generation) return;
    this.pieces.clear();
    this.total = answer.total;
    this.pieces.set(0, answer.rows);
    if (before !== this.params.toString()) {
      this.selected = 0;
      this.jump(0);
    }
    this.ontotal(answer);
    this.empty.hidden = this.total > 0;
    this.layout();
    if (selectedId) this.selectId(selectedId);
  }

  withPiece(number) {
    const params = new URLSearchParams(this.params);
    params.set("offset", number * PIECE);
    params.set("limit", PIECE);
    return params;
  }

  // After another page was shown in its place: browsers forget how far a hidden element was scrolled.
  resume() {
    const top = this.top;
    this.layout();
    this.jump(top);
  }

  layout() {
    if (!this.element.clientWidth) return; // hidden
    const first = this.columns ? Math.floor(this.top / this.rowHeight) * this.columns : 0;
    const before = this.columns;
    const style = getComputedStyle(this.element);
    const width = this.element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.columns = Math.max(1, Math.floor((width + CARD.gap) / (CARD.width + CARD.gap)));
    if (width < 480) this.columns = 2;
    this.cardWidth = (width - (this.columns - 1) * CARD.gap) / this.columns;
    this.rowHeight = Math.round((this.cardWidth * 9) / 16) + 68 + CARD.gap;
    this.height = Math.ceil(this.total / this.columns) * this.rowHeight;
    this.shownHeight = Math.min(this.height, TALLEST);
    this.spacer.style.height = `${this.shownHeight}px`;
    if (before && before !== this.columns) this.jump(Math.floor(first / this.columns) * this.rowHeight);
    this.top = Math.min(this.top, Math.max(0, this.height - this.element.clientHeight));
    this.draw();
  }

  scrollTo(scrolled) {
    const view = this.element.clientHeight;
    if (!view) return;
    const step = scrolled - this.scrolled;
    this.scrolled = scrolled;
    const most = Math.max(0, this.height - view);
    if (this.height <= TALLEST) this.top = scrolled;
    else if (Math.abs(step) < 2 * view) this.top = Math.min(most, Math.max(0, this.top + step));
    else this.top = (scrolled / Math.max(1, this.shownHeight - view)) * most;
    this.schedule();
    if (this.height > TALLEST) this.settle();
  }

  // After small steps the bar stands elsewhere than the list: put it right once it rests.
  settle() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.jump(this.top), 150);
  }

  jump(top) {
    const view = this.element.clientHeight;
    this.top = Math.max(0, Math.min(top, Math.max(0, (this.height || 0) - view)));
    const share = this.height > TALLEST ? (this.shownHeight - view) / Math.max(1, this.height - view) : 1;
    this.scrolled = this.top * share;
    this.element.scrollTop = this.scrolled;
    this.scrolled = this.element.scrollTop;
    this.schedule();
  }

  schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    if (!this.columns) return;
    const view = this.element.clientHeight;
    const first = Math.max(0, Math.floor(this.top / this.rowHeight) - 1) * this.columns;
    const last = Math.min(this.total, (Math.ceil((this.top + view) / this.rowHeight) + 1) * this.columns);
    for (const [place, card] of this.cards) {
      if (place < first || place >= last) {
        this.cards.delete(place);
        this.idle.push(card);
        card.element.style.display = "none";
      }
    }
    for (let place = first; place < last; place++) this.place(place);
    this.read(first, last);
  }

  place(place) {
    let card = this.cards.get(place);
    if (!card) {
      card = this.idle.pop() || this.newCard();
      this.cards.set(place, card);
      card.element.style.display = "";
    }
    const row = Math.floor(place / this.columns);
    const x = (place % this.columns) * (this.cardWidth + CARD.gap);
    const y = row * this.rowHeight - this.top + this.element.scrollTop;
    card.element.style.transform = `translate(${x}px, ${y}px)`;
    card.element.style.width = `${this.cardWidth}px`;
    card.element.style.height = `${this.rowHeight - CARD.gap}px`;
    const clip = this.at(place);
    if (clip) card.show(place, clip, write("clip", clip.id, this.params), this.params.get("sort"));
    else card.wait(place);
    card.element.setAttribute("aria-selected", place === this.selected);
  }

  newCard() {
    const card = new Card();
    this.spacer.append(card.element);
    return card;
  }

  at(place) {
    const piece = this.pieces.get(Math.floor(place / PIECE));
    return piece && piece[place % PIECE];
  }

  read(first, last) {
    const from = Math.floor(first / PIECE);
    const upto = Math.floor(Math.max(first, last - 1) / PIECE);
    for (const [number, controller] of this.asked) {
      if (number < from || number > upto) {
        controller.abort(); // scrolled past
        this.asked.delete(number);
      }
    }
    for (let number = from; number <= upto; number++) {
      if (!this.pieces.has(number) && !this.asked.has(number) && number * PIECE < this.total) this.ask(number);
    }
  }

  async ask(number) {
    const controller = new AbortController();
    this.asked.set(number, controller);
    try {
      const answer = await get("/api/clips", this.withPiece(number), controller.signal);
      if (controller.signal.aborted) return;
      this.pieces.set(number, answer.rows);
      if (this.pieces.size > PIECES_KEPT) this.forget(number);
      this.schedule();
    } catch (error) {
      if (error.name !== "AbortError") this.onerror(error);
    } finally {
      if (this.asked.get(number) === controller) this.asked.delete(number);
    }
  }

  forget(near) {
    const furthest = [...this.pieces.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near))[0];
    this.pieces.delete(furthest);
  }

  click(event) {
    const card = event.target.closest(".card");
    if (card) this.select(Number(card.dataset.place), false);
  }

  selectId(id) {
    for (const [number, piece] of this.pieces) {
      const found = piece.findIndex((clip) => clip.id === id);
      if (found >= 0) return this.select(number * PIECE + found);
    }
  }

  select(place, reveal = true) {
    if (!this.total) return;
    this.selected = Math.max(0, Math.min(this.total - 1, place));
    if (reveal) this.reveal();
    this.schedule();
    this.onselect(this.at(this.selected));
  }

  reveal() {
    if (!this.columns) return;
    const y = Math.floor(this.selected / this.columns) * this.rowHeight;
    const view = this.element.clientHeight;
    if (y < this.top) this.jump(y);
    else if (y + this.rowHeight > this.top + view) this.jump(y + this.rowHeight - view);
  }

  // Read the piece that holds a clip, unless it is here.
  async reach(place) {
    if (!this.at(place) && place >= 0 && place < this.total) await this.ask(Math.floor(place / PIECE));
  }

  get current() {
    return this.at(this.selected);
  }

  // A clip's row has changed, say by a mark.
  update(id, change) {
    for (const piece of this.pieces.values()) for (const clip of piece) if (clip.id === id) Object.assign(clip, change);
    this.schedule();
  }
}
