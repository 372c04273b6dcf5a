// The address holds all that a page shows: #/?filters or #/clip/ID?filters of the list behind it.

export function read(hash = location.hash) {
  const [path, text] = split(hash.replace(/^#\/?/, ""));
  const params = new URLSearchParams(text);
  const parts = path.split("/");
  let id = parts.slice(1).join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // what cannot be decoded is shown as it is
  }
  return { view: parts[0] || "clips", id, params };
}

function split(text) {
  const at = text.indexOf("?");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

export function write(view, id, params) {
  const path = view === "clips" ? "" : id ? `${view}/${encodeURIComponent(id)}` : view;
  const text = params.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export function go(view, id, params, options = {}) {
  const hash = write(view, id, params);
  if (hash === (location.hash || "#/")) return;
  if (options.replace) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  dispatchEvent(new Event("hashchange"));
}

// The same filters with one name set to some values; none removes it.
export function changed(params, name, values) {
  const next = new URLSearchParams(params);
  next.delete(name);
  for (const value of values) next.append(name, value);
  return next;
}
