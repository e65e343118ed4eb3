// The pixels of a panel.

function drawnOf(clip, r, found) {
  if (!found) return [];
  return visible(clip)
    .filter((thing) => found[thing.index[r]])
    .map((thing) => ({ mask: maskOf(found[thing.index[r]], clip.width), rgb: thing.rgb }));
}

const errorMaps = new Recent(8e6, (bits) => bits.length);

/** What `readErrors` makes of a frame; null where the event has none. */
function errorsAt(clip, r, event, t) {
  const part = clip.parts[r],
    differing = (event.errors || [])[t],
    truth = truthAt(part, event, t),
    prediction = (event.pred || [])[t];
  if (!differing || !truth || !prediction) return null;
  const key = `${r}:${event.step}:${t}:${clip.key}`;
  const known = errorMaps.get(key);
  if (known) return known;
  return errorMaps.set(key, readErrors(truth, prediction, differing, clip.width, clip.height));
}

function paintLayer(kind, clip, r, event, t, out, flat) {
  const part = clip.parts[r],
    { width, height } = clip;
  if (kind === "ground truth") {
    paintMasks(out, drawnOf(clip, r, truthAt(part, event, t)), width, height, flat);
  } else if (kind === "prediction") {
    paintMasks(out, drawnOf(clip, r, (event.pred || [])[t]), width, height, flat);
  } else if (kind === "errors") {
    const errors = errorsAt(clip, r, event, t);
    if (errors) paintErrors(out, errors, width, flat);
  } else if (kind === "prompts") {
    const given = promptsOf(clip, r, event, t)
      .filter(({ prompt }) => prompt.kind === "mask" && prompt.mask)
      .map(({ prompt, rgb }) => ({ mask: maskOf(prompt.mask, width), rgb }));
    paintMasks(out, given, width, height, flat, striped);
  }
}

/** The event that a panel shows. */
const eventOf = (clip, spec) =>
  spec.baseline ? baselineEvent(clip, spec.run) : eventAt(clip.parts[spec.run], state.step);

/** The pixels of one panel, [height * width] packed; transparent where nothing is and no frame is shown. */
function compose(spec, options = {}) {
  const { clip } = state,
    t = state.frame;
  const showFrame = options.frame ?? state.showFrame;
  const out = new Uint32Array(clip.width * clip.height);
  const frame = showFrame ? frames.get(frameKey(clip, t)) : null;
  if (frame) out.set(frame.pixels);
  const part = clip.parts[spec.run];
  if (!part) return out;
  const event = eventOf(clip, spec);
  if (event) paintLayer(spec.kind, clip, spec.run, event, t, out, !frame);
  const before = state.showBaseline && !spec.baseline ? baselineEvent(clip, spec.run) : null;
  if (before) paintBaseline(out, drawnOf(clip, spec.run, (before.pred || [])[t]), clip.width, clip.height);
  return out;
}

/** The prompts of a frame in the order of their objects, each with its colour. */
function promptsOf(clip, r, event, t) {
  const thingAt = new Map(clip.things.map((thing) => [thing.index[r], thing]));
  return ((event.prompts || [])[t] || [])
    .map((prompt) => ({ prompt, thing: thingAt.get(prompt.object) || null }))
    .filter(({ thing }) => !thing || !state.hidden.has(thing.id))
    .map(({ prompt, thing }) => ({
      prompt,
      rank: thing ? clip.things.indexOf(thing) : -1,
      rgb: thing ? thing.rgb : NEUTRAL,
    }))
    .sort((a, b) => a.rank - b.rank);
}
