// Marks: keep, drop, wrong caption, a note. They lie beside the run, and select can read them.

import { get, post } from "./api.js";
import { h, replace, words } from "./dom.js";

const CHOICES = [
  ["keep", "k", "keep it, whatever its scores"],
  ["drop", "d", "leave it out"],
  ["wrong_caption", "w", "its caption is wrong: leave it out until it has another"],
];

export class Marks {
  constructor({ onchange, onerror }) {
    this.onchange = onchange;
    this.onerror = onerror;
    this.marks = {};
  }

  async load() {
    const { file, marks } = await get("/api/marks");
    this.file = file;
    this.marks = marks;
  }

  of(id) {
    return this.marks[id] || { mark: "", note: "" };
  }

  async set(id, change) {
    const mark = { ...this.of(id), ...change };
    try {
      const { marks } = await post("/api/marks", { ids: [id], mark: mark.mark, note: mark.note });
      this.marks = marks;
      this.onchange(id, marks[id] ? marks[id].mark || "note" : "");
    } catch (error) {
      this.onerror(error);
    }
  }

  // A small dialog: a key or a button marks the clip and closes it.
  ask(id, title) {
    const dialog = document.getElementById("dialog");
    const now = this.of(id);
    const note = h("textarea", { rows: 2, maxLength: 2000, placeholder: "Note", "aria-label": "Note" });
    note.value = now.note;
    const close = () => dialog.close();
    const choose = (mark) => {
      close();
      this.set(id, { mark, note: note.value });
    };
    const buttons = CHOICES.map(([mark, key, says]) =>
      h("button", { type: "button", "aria-pressed": String(now.mark === mark), dataset: { mark }, title: says, onclick: () => choose(mark) }, words(mark), h("kbd", {}, key)));
    const form = h("form", { method: "dialog", class: "marking" },
      h("h2", {}, "Mark this clip"), h("p", { class: "soft" }, title),
      h("div", { class: "row" }, buttons),
      note,
      h("div", { class: "row" },
        h("button", { type: "button", onclick: () => choose(now.mark) }, "Save note"),
        h("button", { type: "button", class: "quiet", onclick: () => (note.value = "", choose("")) }, "Unmark", h("kbd", {}, "u")),
        h("span", { class: "space" }), h("button", { class: "quiet" }, "Cancel")),
      h("p", { class: "soft" }, "Kept in ", h("code", {}, this.file || "marks.csv")));
    form.addEventListener("keydown", (event) => {
      if (event.target === note || event.ctrlKey || event.metaKey) return;
      const choice = CHOICES.find(([, key]) => key === event.key);
      if (choice) choose(choice[0]);
      else if (event.key === "n") note.focus();
      else if (event.key === "u") (note.value = ""), choose("");
      else return;
      event.preventDefault();
    });
    replace(dialog, form);
    dialog.showModal();
    buttons[0].focus();
  }
}
