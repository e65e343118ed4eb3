// Zoom, moving, and the pixel under the pointer.

function zoomTo(zoom, x, y) {
  const { clip } = state,
    before = state.zoom;
  state.zoom = clamp(zoom, 1, 24);
  // The pixel at (x, y) stays where it is.
  moveTo(x - (x - state.x) * (before / state.zoom), y - (y - state.y) * (before / state.zoom));
  byId("zoom-now").textContent = `${Math.round(state.zoom * 100)} %`;
  if (clip) present();
}

function moveTo(x, y) {
  const { clip } = state,
    free = 1 - 1 / state.zoom;
  state.x = clamp(x, 0, clip.width * free);
  state.y = clamp(y, 0, clip.height * free);
}

const zoomBy = (factor) => {
  const { clip } = state,
    half = 0.5 / state.zoom;
  if (clip) zoomTo(state.zoom * factor, state.x + clip.width * half, state.y + clip.height * half);
};

function listen(panel) {
  const { canvas, stage } = panel;
  let drag = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect(),
      { clip } = state;
    return {
      x: state.x + ((event.clientX - box.left) / box.width) * (clip.width / state.zoom),
      y: state.y + ((event.clientY - box.top) / box.height) * (clip.height / state.zoom),
      share: (event.clientX - box.left) / box.width,
      pixel: clip.width / state.zoom / box.width,
      near: Math.abs(event.clientX - box.left - state.swipe * box.width) < 16,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    const place = at(event);
    const swipes = panel.specs.length > 1 && (place.near || state.zoom === 1);
    drag = { swipes, x: event.clientX, y: event.clientY, fromX: state.x, fromY: state.y };
    canvas.setPointerCapture(event.pointerId);
    if (swipes) state.swipe = clamp(place.share, 0, 1);
    stage.classList.toggle("moving", !swipes && state.zoom > 1);
    present();
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = at(event);
    if (drag && drag.swipes) state.swipe = clamp(place.share, 0, 1);
    else if (drag && state.zoom > 1) {
      moveTo(
        drag.fromX - (event.clientX - drag.x) * place.pixel,
        drag.fromY - (event.clientY - drag.y) * place.pixel,
      );
    }
    const { clip } = state;
    state.pointer = {
      x: clamp(Math.floor(place.x), 0, clip.width - 1),
      y: clamp(Math.floor(place.y), 0, clip.height - 1),
    };
    present();
    inspect();
  });
  const release = () => {
    drag = null;
    stage.classList.remove("moving");
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    state.pointer = null;
    present();
    inspect();
  });
  canvas.addEventListener("dblclick", (event) => {
    const place = at(event);
    zoomTo(state.zoom * 2, place.x, place.y);
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const place = at(event);
      zoomTo(state.zoom * Math.exp(-event.deltaY / 300), place.x, place.y);
    },
    { passive: false },
  );
}

/** Say which objects lie under the pointer, and what the errors make of the pixel. */
function pixelFacts(x, y) {
  const { clip } = state,
    t = state.frame,
    pixel = y * clip.width + x;
  return runs.map((_, r) => {
    const part = clip.parts[r],
      event = eventAt(part, state.step);
    if (!event) return null;
    const at = (found) =>
      clip.things
        .filter(
          (thing) =>
            found && found[thing.index[r]] && holds(maskOf(found[thing.index[r]], clip.width), pixel),
        )
        .map((thing) => labelOf(thing));
    const errors = errorsAt(clip, r, event, t);
    const bits = errors ? errors[pixel] : 0;
    return {
      truth: at(truthAt(part, event, t)),
      prediction: at((event.pred || [])[t]),
      errors: Object.keys(ERROR_BITS).filter((name) => bits & ERROR_BITS[name]),
    };
  });
}

function sourcePixel(clip, x, y) {
  const { window: part } = clip;
  if (!part) return "";
  const sx = Math.floor(part.x + ((x + 0.5) * part.width) / clip.width);
  const sy = Math.floor(part.y + ((y + 0.5) * part.height) / clip.height);
  return ` (${sx}, ${sy} of ${part.frame_width} × ${part.frame_height})`;
}

function inspect() {
  const host = byId("inspector");
  if (!state.pointer) {
    host.replaceChildren("Point at a pixel to see which objects it belongs to.");
    return;
  }
  const { x, y } = state.pointer,
    { clip } = state;
  host.replaceChildren(`x ${x}, y ${y}${sourcePixel(clip, x, y)}`);
  const listed = (names) => el("b", { text: names.length ? names.join(", ") : "none" });
  pixelFacts(x, y).forEach((facts, r) => {
    if (!facts) return;
    if (compares) host.append(" · ", el("b", { text: runs[r].name }), ":");
    host.append(" · ground truth ", listed(facts.truth), " · prediction ", listed(facts.prediction));
    host.append(" · ", el("b", { text: facts.errors.join(" and ") || "no error" }));
  });
}
