// Masks as runs of pixels, and how sheets paint them.

const masks = new Recent(6e6, (mask) => mask.spans.length + (mask.edges ? mask.edges.length : 64));
const EMPTY = { spans: new Uint32Array(0), edges: new Uint32Array(0) };

/**
 * Read COCO's compressed run lengths, here row by row, as [start, end, start, end, ...] of the pixels.
 *
 * A number is written in groups of five bits, lowest first, and from the fourth on as its difference
 * to the last but one (https://github.com/cocodataset/cocoapi, maskApi.c).
 */
function readSpans(text) {
  const counts = [],
    spans = [];
  let position = 0,
    at = 0;
  while (position < text.length) {
    let value = 0,
      shift = 0,
      group;
    do {
      group = text.charCodeAt(position++) - 48;
      value |= (group & 31) << shift;
      shift += 5;
    } while (group & 32 && position < text.length);
    if (group & 16) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    if (counts.length % 2 && value > 0) spans.push(at, at + value);
    counts.push(value);
    at += value;
  }
  return Uint32Array.from(spans);
}

function maskOf(text, width) {
  if (!text) return EMPTY;
  const key = `${width}:${text}`;
  return masks.get(key) || masks.set(key, { spans: readSpans(text), edges: null });
}

function holds(mask, pixel) {
  const { spans } = mask;
  let low = 0,
    high = spans.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[2 * middle + 1] <= pixel) low = middle + 1;
    else high = middle;
  }
  return low < spans.length / 2 && spans[2 * low] <= pixel;
}

let scratch = new Uint8Array(0);

/** The pixels of a mask that have a neighbour outside it; the image's border counts as outside. */
function edgesOf(mask, width, height) {
  if (mask.edges) return mask.edges;
  const size = width * height;
  if (scratch.length < size) scratch = new Uint8Array(size);
  const inside = scratch,
    { spans } = mask,
    edges = [];
  for (let s = 0; s < spans.length; s += 2) inside.fill(1, spans[s], spans[s + 1]);
  for (let s = 0; s < spans.length; s += 2) {
    let x = spans[s] % width;
    for (let i = spans[s]; i < spans[s + 1]; i++) {
      const border = x === 0 || x === width - 1 || i < width || i >= size - width;
      if (border || !(inside[i - 1] && inside[i + 1] && inside[i - width] && inside[i + width]))
        edges.push(i);
      if (++x === width) x = 0;
    }
  }
  for (let s = 0; s < spans.length; s += 2) inside.fill(0, spans[s], spans[s + 1]);
  mask.edges = Uint32Array.from(edges);
  return mask.edges;
}

const packed = (rgb) => (0xff000000 | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0]) >>> 0;
/** The brightness of a pixel, as OpenCV weighs its channels. */
const greyOf = (pixel) =>
  ((pixel & 255) * 9798 + ((pixel >> 8) & 255) * 19235 + ((pixel >> 16) & 255) * 3735 + 16384) >> 15;

const shadeTables = new Map();

/**
 * What a colour becomes over each grey level: all channels are moved by a quarter of the level's
 * distance to mid grey, so that the hue stays; channels near 0 and 255 first make room for it.
 */
function shadesOf(rgb) {
  const key = packed(rgb);
  if (!shadeTables.has(key)) {
    const base = rgb.map((channel) => clamp(channel, 32, 223));
    const shades = Uint32Array.from({ length: 256 }, (_, grey) =>
      packed(base.map((c) => c + (grey >> 2) - 32)),
    );
    shadeTables.set(key, shades);
  }
  return shadeTables.get(key);
}

const striped = (x, y) => (x + y) % 6 < 3;

/** Colour the pixels of a mask; without a frame below the colour is plain. */
function fill(out, mask, rgb, width, flat, where = null) {
  const plain = packed(rgb),
    shades = flat ? null : shadesOf(rgb),
    { spans } = mask;
  for (let s = 0; s < spans.length; s += 2) {
    for (let i = spans[s]; i < spans[s + 1]; i++) {
      if (where && !where(i % width, Math.floor(i / width), i)) continue;
      out[i] = flat ? plain : shades[greyOf(out[i])];
    }
  }
}

/** Draw outlines; masks whose outlines share a pixel take turns along it. */
function outline(out, drawn, width, height) {
  const before = new Uint8Array(width * height);
  for (const { mask, rgb } of drawn) {
    const color = packed(rgb),
      edges = edgesOf(mask, width, height);
    for (let e = 0; e < edges.length; e++) {
      const i = edges[e],
        others = before[i]++;
      if (others) {
        const x = i % width,
          y = (i - x) / width;
        if (Math.floor((x + y) / 3) % (others + 1) !== others) continue;
      }
      out[i] = color;
    }
  }
}

function paintMasks(out, drawn, width, height, flat, where = null) {
  for (const { mask, rgb } of drawn) fill(out, mask, rgb, width, flat, where);
  outline(out, drawn, width, height);
}

const IS_HIT = 1,
  IS_MISSED = 2,
  IS_FALSE = 4;
const ERROR_BITS = { hit: IS_HIT, missed: IS_MISSED, false: IS_FALSE };

/**
 * What any object is at each pixel, as bits: hit, missed, claimed falsely.
 *
 * Two masks per object tell it at their size; `differing` has the pixels where the masks of the
 * whole frame, of which these are reduced, tell something else.
 */
function readErrors(truth, prediction, differing, width, height) {
  const bits = new Uint8Array(width * height),
    open = new Uint8Array(width * height); // of one object's ground truth, what is not hit
  truth.forEach((text, k) => {
    const { spans } = maskOf(text, width),
      found = maskOf(prediction[k], width).spans;
    for (let s = 0; s < spans.length; s += 2) open.fill(1, spans[s], spans[s + 1]);
    for (let s = 0; s < found.length; s += 2) {
      for (let i = found[s]; i < found[s + 1]; i++) {
        bits[i] |= open[i] ? IS_HIT : IS_FALSE;
        open[i] = 0;
      }
    }
    for (let s = 0; s < spans.length; s += 2) {
      for (let i = spans[s]; i < spans[s + 1]; i++) {
        if (open[i]) bits[i] |= IS_MISSED;
        open[i] = 0;
      }
    }
  });
  for (const [name, bit] of Object.entries(ERROR_BITS)) {
    const { spans } = maskOf(differing[name], width);
    for (let s = 0; s < spans.length; s += 2) for (let i = spans[s]; i < spans[s + 1]; i++) bits[i] ^= bit;
  }
  return bits;
}

function paintErrors(out, errors, width, flat) {
  const shades = (rgb) => (flat ? [packed(rgb)] : shadesOf(rgb));
  const [hit, missed, wrong] = [HIT, MISSED, FALSE].map(shades);
  for (let i = 0; i < errors.length; i++) {
    const bits = errors[i];
    if (!bits) continue;
    const grey = flat ? 0 : greyOf(out[i]);
    // A pixel that one object misses and another claims falsely is striped in both colours.
    const isWrong = bits & IS_FALSE && (!(bits & IS_MISSED) || striped(i % width, Math.floor(i / width)));
    out[i] = (isWrong ? wrong : bits & IS_MISSED ? missed : hit)[grey];
  }
}

/** Draw an outline that differs from those of masks: every other pair of pixels is white. */
function paintBaseline(out, drawn, width, height) {
  for (const { mask, rgb } of drawn) {
    const color = packed(rgb);
    for (const i of edgesOf(mask, width, height)) {
      const x = i % width,
        y = (i - x) / width;
      out[i] = (x + y) % 4 < 2 ? 0xffffffff : color;
    }
  }
}
