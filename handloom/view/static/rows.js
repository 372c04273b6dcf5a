// A clip's rows as they lie in the tables, for readers who want to see every number.

import { get } from "./api.js";
import { h, replace } from "./dom.js";

export async function showRows(element, clipId) {
  const { rows } = await get(`/api/rows/${encodeURIComponent(clipId)}`);
  replace(
    element,
    Object.entries(rows).map(([stage, row]) =>
      h("section", { class: "rows" }, h("h3", {}, stage),
        h("table", {}, h("tbody", {}, Object.entries(row).map(([name, value]) => h("tr", {}, h("th", {}, name), h("td", {}, value)))))),
    ),
  );
}
