// Elements from plain values. Text is always text: nothing here reads HTML.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const number = (value) => value.toLocaleString("en-US");

export function seconds(value) {
  if (value === null || value === undefined) return "?";
  const minutes = Math.floor(value / 60);
  const rest = (value - 60 * minutes).toFixed(1).padStart(4, "0");
  return `${minutes}:${rest}`;
}

export const hours = (value) =>
  value >= 3600 ? `${(value / 3600).toFixed(value >= 36000 ? 0 : 1)} h` : value >= 60 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(1)} s`;

export const words = (name) => name.replaceAll("_", " ");

// One call at a time; of those that come meanwhile the last one follows.
export function latest(run) {
  let running = false;
  let waiting = null;
  return async function next(...args) {
    if (running) {
      waiting = args;
      return;
    }
    running = true;
    try {
      await run(...args);
    } finally {
      running = false;
      if (waiting) {
        const args = waiting;
        waiting = null;
        next(...args);
      }
    }
  };
}
