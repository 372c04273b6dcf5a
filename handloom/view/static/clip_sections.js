// What is said beside the video: verdicts, texts, codes, duplicates, provenance.

import { get } from "./api.js";
import { h, replace, words } from "./dom.js";

const PAIRS_SHOWN = 8; // encoded frames of a robot's camera

const section = (title, ...children) => h("section", {}, h("h3", {}, title), ...children);

export function verdict(clip) {
  const { status, stage, reason } = clip.verdict;
  const said = {
    kept: "kept",
    rejected: `rejected by ${stage}: ${words(reason)}`,
    failed: `failed in ${stage}`,
    waiting: `waits for ${stage}`,
  }[status];
  return h("header", { class: `clip-verdict ${status}` }, h("b", {}, said));
}

export function texts(clip) {
  const { texts: said } = clip;
  const shown = said.caption || said.own;
  const own = said.caption && said.own !== said.caption
    ? h("div", { class: "clip-own" }, h("span", { class: "clip-fine" }, `the dataset's own text (${said.kind})`), h("p", {}, said.own || "(none)"), doubts(said.own_flags))
    : null;
  return section("Caption",
    h("p", { class: "clip-caption" }, shown || "no text"),
    h("p", { class: "clip-fine" }, origin(said)),
    doubts(said.flags), own,
    said.others.length ? h("ul", { class: "clip-others" }, said.others.map((text) => h("li", {}, text))) : null,
    said.answers.length ? answers(said.answers) : null,
    said.verb || said.object
      ? h("p", { class: "clip-words" }, said.verb && h("span", {}, "verb ", h("b", {}, said.verb)), said.object && h("span", {}, "object ", h("b", {}, said.object)))
      : null);
}

function origin(said) {
  const from = {
    source: `from the dataset's own text (${said.kind})`,
    none: "left empty: route none",
    vlm: `by a model here, ${said.model}`,
    server: `by a served model, ${said.model}`,
    "": said.own ? `the dataset's own text (${said.kind}); the clip has no caption` : "the clip has no caption",
  }[said.source] || said.source;
  const route = said.route && said.source && said.route !== said.source ? `, route ${said.route}` : "";
  const agreement = said.agreement === null || said.agreement === undefined ? "" : `, agreement with the pictures ${said.agreement.toFixed(3)}`;
  return `${from}${route}${agreement}`;
}

function doubts(flags) {
  if (!flags.length) return null;
  return h("ul", { class: "clip-doubts" }, flags.map((flag) => h("li", {}, h("b", {}, words(flag.name)), flag.meaning ? ` ${flag.meaning}` : "")));
}

function answers(list) {
  return h("details", {}, h("summary", {}, list.length === 1 ? "what the model answered" : `${list.length} answers of the model`),
    list.map((one) => h("blockquote", {}, one.text, doubts(one.flags))));
}

export function stages(clip) {
  return section("What each stage says", h("ul", { class: "clip-stages" }, clip.stages.map(stage)));
}

function stage(one) {
  const said = { ok: "passed", rejected: words(one.reason), failed: "failed", waiting: "not yet", not_reached: "not reached" }[one.status];
  const decisive = one.scores.filter((score) => score.fails);
  const others = one.scores.filter((score) => !score.fails);
  return h("li", { class: one.status },
    h("div", { class: "clip-stage-name" }, h("b", {}, one.name), h("span", {}, said)),
    one.error ? h("p", { class: "clip-error" }, one.error) : null,
    decisive.length ? scoreTable(decisive) : null,
    others.length ? h("details", { open: others.length < 5 }, h("summary", {}, `${others.length} ${decisive.length ? "other " : ""}scores`), scoreTable(others)) : null);
}

function scoreTable(scores) {
  return h("table", { class: "clip-scores" }, h("tbody", {}, scores.map(scoreRow)));
}

function scoreRow(score) {
  const limit = score.at_least ?? score.at_most;
  const sign = score.at_least !== null ? "≥" : "≤";
  return h("tr", { class: score.fails ? "fails" : "" },
    h("th", { scope: "row" }, withUnit(score.name), score.meaning ? h("small", {}, score.meaning) : null),
    h("td", {}, meter(score.value, limit)),
    h("td", {}, shown(score.value)),
    h("td", { class: "clip-limit" }, limit === null ? "" : `${sign} ${shown(limit)}`));
}

const UNITS = [["_m_s3", "m/s³"], ["_m_s", "m/s"], ["_rad_s", "rad/s"], ["_s", "s"]];

// `max_speed_m_s` as "max speed, m/s".
function withUnit(name) {
  const [end, unit] = UNITS.find(([end]) => name.endsWith(end)) || ["", ""];
  return words(name.slice(0, name.length - end.length)) + (unit && `, ${unit}`);
}

// A score as a bar from 0 to 1, its threshold as a line; of other ranges nothing is drawn.
function meter(value, limit) {
  if (value === null || value < 0 || value > 1 || (limit !== null && limit > 1)) return "";
  const bar = h("i", {});
  bar.style.width = `${100 * value}%`;
  const line = limit === null ? null : h("s", {});
  if (line) line.style.left = `${100 * limit}%`;
  return h("div", { class: "clip-meter", "aria-hidden": "true" }, bar, line);
}

function shown(value) {
  if (value === null) return "–";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}

export function codes(path, clip, player) {
  if (!clip.codes) return null;
  const { views, times_s: times, grid } = clip.codes;
  const steps = spread(times.length, PAIRS_SHOWN);
  const box = section("Encoded frames and what their codes decode to",
    h("p", { class: "clip-fine" }, `${times.length} frames of ${grid[0]} × ${grid[1]} codes${views.length > 1 ? `, ${views.length} cameras` : ""}${steps.length < times.length ? `; ${steps.length} of them are shown` : ""}`));
  box.classList.add("clip-codes");
  const fail = once(async (address) => {
    try {
      await get(address);
    } catch (error) {
      replace(box, box.firstChild, h("p", { class: "clip-error" }, error.message));
    }
  });
  views.forEach((view, number) => {
    if (views.length > 1) box.append(h("h4", {}, view));
    box.append(h("div", { class: "clip-pairs" }, steps.map((step) => pair(path, number, step, times[step], clip, player, fail))));
  });
  return box;
}

function pair(path, view, step, time, clip, player, fail) {
  const picture = (kind, words) => {
    const address = `${path}/${kind}/${view}/${step}.png`;
    return h("img", { loading: "lazy", decoding: "async", alt: words, src: address, onerror: () => fail(address) });
  };
  return h("figure", { class: "clip-pair", title: "show this frame in the video", onclick: () => player.seek(time, true) },
    picture("encoded", `frame at ${time.toFixed(2)} s as it was encoded`),
    picture("decoded", "what its codes decode to"),
    h("figcaption", {}, `${(time - clip.start_s).toFixed(2)} s`));
}

// So many whole numbers below `count`, evenly spread.
function spread(count, most) {
  if (count <= most) return [...Array(count).keys()];
  return [...Array(most).keys()].map((i) => Math.round((i * (count - 1)) / (most - 1)));
}

function once(action) {
  let done = false;
  return (...args) => {
    if (done) return;
    done = true;
    action(...args);
  };
}

export function duplicates(clip, address) {
  if (!clip.duplicates.length) return null;
  return section("Shows nearly the same", h("div", { class: "clip-duplicates" }, clip.duplicates.map((match) => duplicate(match, address))));
}

function duplicate(match, address) {
  const note = `${match.similarity.toFixed(2)} alike, ${match.split}${match.better ? ", the better one" : ""}`;
  if (!match.here) {
    return h("div", { class: "clip-duplicate" }, h("code", {}, match.clip_id), h("span", { class: "clip-fine" }, `of ${match.dataset}, another run; ${note}`));
  }
  const picture = h("img", { loading: "lazy", alt: "", src: `/api/clip/${encodeURIComponent(match.clip_id)}/thumb?size=320` });
  return h("a", { class: "clip-duplicate", href: address(match.clip_id) }, picture, h("span", { class: "clip-fine" }, note));
}

export function provenance(clip) {
  const span = clip.end_s === null ? `from ${clip.start_s.toFixed(2)} s` : `${clip.start_s.toFixed(2)} to ${clip.end_s.toFixed(2)} s`;
  return section("Where it comes from", h("dl", { class: "clip-facts" },
    [["span", span], ...clip.provenance].map(([name, value]) => [
      h("dt", {}, withUnit(name)),
      h("dd", {}, typeof value === "number" ? shown(value) : String(value)),
    ]).flat()));
}
