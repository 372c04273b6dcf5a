// The page of one clip: its video with hands, codes, texts, verdicts, duplicates and provenance.

import { get } from "./api.js";
import { Charts } from "./clip_charts.js";
import { Player } from "./clip_player.js";
import { codes, duplicates, provenance, stages, texts, verdict } from "./clip_sections.js";
import { h, replace } from "./dom.js";

/**
 * Show a clip in an element.
 * @param {HTMLElement} element its content is replaced.
 * @param {string} clipId of the clip.
 * @param {{address: function(string): string}} api gives the address of another clip's page.
 * @returns a function that stops the video and frees the keys.
 */
export async function showClip(element, clipId, api) {
  const path = `/api/clip/${encodeURIComponent(clipId)}`;
  replace(element, h("p", { class: "clip-wait" }, "reading the clip …"));
  let clip;
  try {
    clip = await get(path);
  } catch (error) {
    replace(element, h("p", { class: "clip-error", role: "alert" }, error.message));
    return () => {};
  }
  const player = new Player(path, clip);
  const charts = new Charts(path, clip, player);
  const article = h("article", { class: "clip-page", "aria-label": `Clip ${clipId}` },
    h("div", { class: "clip-seen" }, player.element, charts.element),
    h("div", { class: "clip-said" }, verdict(clip), texts(clip), stages(clip), duplicates(clip, api.address), provenance(clip)),
    h("div", { class: "clip-coded" }, codes(path, clip, player)));
  if (!element.isConnected) return () => {}; // somebody has gone on meanwhile
  replace(element, article);
  player.start();
  charts.load();
  return () => {
    player.stop();
    charts.stop();
  };
}
