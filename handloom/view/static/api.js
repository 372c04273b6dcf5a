// Requests to the server; an error is a sentence that the page shows as it is.

export class Refused extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("handloom view does not answer any more; start it again in its terminal.", 0);
  }
  const type = answer.headers.get("content-type") || "";
  const said = type.includes("json") ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Refused(said.error || answer.statusText, answer.status);
  return said;
}

function address(path, params) {
  const text = params ? params.toString() : "";
  return text ? `${path}?${text}` : path;
}

export const get = (path, params, signal) => ask(address(path, params), { signal });

export const post = (path, body = {}) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const thumb = (clipId) => `/api/clip/${encodeURIComponent(clipId)}/thumb`;
