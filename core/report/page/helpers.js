// Elements, numbers and words.

const byId = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const two = (value) => (isNumber(value) ? value.toFixed(2) : "–");
const three = (value) => (isNumber(value) ? value.toFixed(3) : "–");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

const compareValues = (a, b) =>
  typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });

/** How a table sorts two values, null where one is missing; missing ones come last. */
function inOrder(a, b, falling, compare = compareValues) {
  if (a === null || b === null) return (a === null) - (b === null);
  return falling ? -compare(a, b) : compare(a, b);
}

/** A change in words and colour; less than half a hundredth is none. */
function changeOf(change) {
  if (!isNumber(change)) return { text: "", kind: "", word: "" };
  if (Math.abs(change) < 0.005) return { text: "unchanged", kind: "faint", word: "unchanged" };
  const up = change > 0;
  return {
    text: `${up ? "▲ +" : "▼ −"}${Math.abs(change).toFixed(2)}`,
    kind: up ? "up" : "down",
    word: up ? "better" : "worse",
  };
}

/** A map that forgets what was used longest ago once the sizes of its values exceed a limit. */
class Recent {
  constructor(limit, sizeOf) {
    this.limit = limit;
    this.sizeOf = sizeOf;
    this.size = 0;
    this.values = new Map();
  }

  get(key) {
    const value = this.values.get(key);
    if (value !== undefined) {
      this.values.delete(key);
      this.values.set(key, value);
    }
    return value;
  }

  set(key, value) {
    const before = this.values.get(key);
    if (before !== undefined) this.size -= this.sizeOf(before);
    this.values.delete(key);
    this.values.set(key, value);
    this.size += this.sizeOf(value);
    for (const [old, dropped] of this.values) {
      if (this.size <= this.limit || old === key) break;
      this.values.delete(old);
      this.size -= this.sizeOf(dropped);
    }
    return value;
  }
}
