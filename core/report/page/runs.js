// The book: its runs, their clips side by side, and what follows from their numbers.

const book = JSON.parse(byId("book").textContent);
const runs = book.runs;
const FORMAT = 2;
const compares = runs.length > 1;
const KINDS = ["pinned", "val", "worst", "prompts", "train"];
const KIND_NAMES = {
  pinned: "Pinned clips",
  worst: "Worst clips",
  prompts: "Under other prompts",
  train: "Training clips",
};
const HIT = [86, 180, 233],
  MISSED = [240, 228, 66],
  FALSE = [213, 94, 0];
const NEUTRAL = [205, 205, 205];

const kindOf = (clip) => (KINDS.includes(clip.kind) ? clip.kind : "val");
const dashOf = (r) => ["", "5 4", "2 3", "8 3 2 3"][r % 4];
const runColor = (r) => `var(--run${r % 4})`;

function rgbOf(color) {
  const found = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(color);
  return found ? found.slice(1).map((part) => parseInt(part, 16)) : NEUTRAL;
}
const cssOf = (rgb) => `rgb(${rgb.join(",")})`;

/** Order ids as sheets do: by number where they are numbers. */
function compareIds(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? (a < b ? -1 : a > b ? 1 : 0) : x - y;
}

const labelOf = (thing) => (thing.name ? `${thing.id} ${thing.name}` : `${thing.id}`);

/** A run's part of a clip, its lists as long as `numbers`: null where it, or an event, lacks the frame. */
function aligned(part, numbers) {
  const places = part.frame_numbers.map((number) => numbers.indexOf(number));
  const spread = (list, at) => {
    const whole = numbers.map(() => null);
    at.forEach((t, index) => (whole[t] = list[index]));
    return whole;
  };
  const events = part.events.map((event) => {
    const whole = { ...event },
      at = event.frames ? event.frames.map((t) => places[t]) : places;
    for (const name of ["gt", "pred", "errors", "prompts", "scores", "prompted"]) {
      if (event[name]) whole[name] = spread(event[name], at);
    }
    return whole;
  });
  return { ...part, images: spread(part.images, places), gt: part.gt && spread(part.gt, places), events };
}

/** The numbers of all frames that any part of a clip has: in its own order where one has them all. */
function allNumbers(parts) {
  const lists = parts.filter((part) => part).map((part) => [...new Set(part.frame_numbers)]);
  const longest = lists.reduce((best, list) => (list.length > best.length ? list : best));
  const all = [...new Set(lists.flat())];
  return all.length === longest.length ? longest : all.sort((a, b) => a - b);
}

/** The clips of all runs; the same key is the same clip. `parts[r]` is that of run r or null. */
function mergeClips() {
  const found = new Map();
  runs.forEach((run, r) => {
    for (const clip of run.clips) {
      if (!clip.events.length) continue;
      if (!found.has(clip.key)) {
        const parts = runs.map(() => null);
        found.set(clip.key, { key: clip.key, name: clip.name, kind: kindOf(clip), parts });
      }
      found.get(clip.key).parts[r] = clip;
    }
  });
  const missing = (clip) => clip.parts.filter((part) => part === null).length;
  const merged = [...found.values()];
  const order = new Map(merged.map((clip, position) => [clip, position]));
  merged.sort(
    (a, b) =>
      missing(a) - missing(b) || KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || order.get(a) - order.get(b),
  );
  for (const clip of merged) {
    const first = clip.parts.find((part) => part);
    clip.width = first.width;
    clip.height = first.height;
    clip.frameNumbers = allNumbers(clip.parts);
    clip.parts = clip.parts.map((part) => part && aligned(part, clip.frameNumbers));
    clip.steps = [
      ...new Set(clip.parts.flatMap((part) => (part ? part.events.map((event) => event.step) : []))),
    ].sort((a, b) => a - b);
    const things = new Map();
    clip.parts.forEach((part, r) => {
      (part ? part.objects : []).forEach((object, index) => {
        if (!things.has(object.id)) {
          const rgb = rgbOf(object.color);
          things.set(object.id, { id: object.id, name: object.name, rgb, index: runs.map(() => -1) });
        }
        things.get(object.id).index[r] = index;
      });
    });
    clip.things = [...things.values()].sort((a, b) => compareIds(a.id, b.id));
  }
  return merged;
}

const clips = mergeClips();

/** The latest event of a run's clip that is not after `step`; the first one where all are. */
function eventAt(part, step) {
  let found = null;
  for (const event of part ? part.events : []) if (event.step <= step || !found) found = event;
  return found;
}

function baselineEvent(clip, r) {
  const part = clip.parts[r];
  const step = runs[r].baseline_step;
  if (!part || !isNumber(step)) return null;
  const events = part.events;
  return events.length > 1 ? events.find((event) => event.step === step) || null : null;
}

const truthAt = (part, event, t) => (event.gt || part.gt || [])[t] || null;
const scoreAt = (event, t, k) => ((event.scores || [])[t] || [])[k] || null;
const isPrompted = (event, t) => Boolean((event.prompted || [])[t]);

/** An object's mean IoU over the frames kept here, as the metrics take it: prompted ones left out. */
function clipIou(clip, r, event, k) {
  const part = clip.parts[r];
  if (!part || !event || k < 0) return null;
  const frames = clip.frameNumbers.map((_, t) => t).filter((t) => scoreAt(event, t, k));
  const there = frames.filter((t) => (truthAt(part, event, t) || [])[k]);
  const anyPrompted = frames.some((t) => isPrompted(event, t));
  if (!there.length || (anyPrompted && !there.some((t) => isPrompted(event, t)))) return null;
  const scored = frames.filter((t) => !isPrompted(event, t));
  return mean(scored.map((t) => scoreAt(event, t, k).iou ?? 1));
}
