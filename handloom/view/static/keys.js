// The keyboard. Keys that a form element takes are left to it.

import { KEYS as CLIP_KEYS } from "./clip_player.js";
import { h, replace } from "./dom.js";

const KEYS = [
  ["arrows, h j k l", "another clip"],
  ["enter, space", "open the clip"],
  ["esc", "back to the list"],
  ["j, k", "on a clip's page: the next one, the one before"],
  ["m", "mark the clip: then k keep, d drop, w wrong caption, n note, u unmark"],
  ...CLIP_KEYS.map(([key, what]) => [key, `on a clip's page: ${what}`]),
  ["/", "search captions"],
  ["g, G", "first and last clip"],
  ["?", "these keys"],
];

export function showKeys() {
  const dialog = document.getElementById("dialog");
  replace(dialog, h("form", { method: "dialog", class: "keys" }, h("h2", {}, "Keys"),
    h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])),
    h("button", { autofocus: true }, "Close")));
  if (!dialog.open) dialog.showModal();
}

export function keys({ list, view, open, back, step, search, mark }) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("dialog").open) return;
    if (event.target.closest?.("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const isList = view() === "clips";
    const isButton = event.target.closest?.("button, a:not(.card)");
    const moves = isList
      ? { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1, ArrowDown: list.columns, j: list.columns, ArrowUp: -list.columns, k: -list.columns }
      : {};
    const page = Math.max(1, Math.floor(list.element.clientHeight / (list.rowHeight || 1))) * (list.columns || 1);
    const actions = {
      "?": showKeys,
      "/": search,
      m: mark,
      ...(isList
        ? { g: () => list.select(0), G: () => list.select(list.total - 1), Home: () => list.select(0), End: () => list.select(list.total - 1), PageDown: () => list.select(list.selected + page), PageUp: () => list.select(list.selected - page), ...(isButton ? {} : { Enter: open, " ": open }) }
        : { Escape: back, j: () => step(1), k: () => step(-1) }),
    };
    if (event.key in moves) list.select(list.selected + moves[event.key]);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  });
}
