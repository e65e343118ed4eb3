// Panels side by side, or two in one with a divider.

let panels = [];

const specName = (spec) => {
  const what = spec.baseline ? `first prediction (step ${runs[spec.run].baseline_step})` : spec.kind;
  return compares && (spec.kind === "prediction" || spec.kind === "errors")
    ? `${what} · ${runs[spec.run].name}`
    : what;
};
const specKey = (spec) => `${spec.kind}/${spec.run}/${spec.baseline ? "first" : "now"}`;

/** What panels there are to choose from. */
function specsOf(clip) {
  const known = runs.map((_, r) => r).filter((r) => clip.parts[r]);
  const first = known[0] ?? 0;
  const specs = ["image", "ground truth", "prompts"].map((kind) => ({ kind, run: first, baseline: false }));
  for (const kind of ["prediction", "errors"]) {
    for (const r of known) specs.push({ kind, run: r, baseline: false });
  }
  for (const r of known) {
    if (baselineEvent(clip, r)) specs.push({ kind: "prediction", run: r, baseline: true });
  }
  return specs;
}

function makePanel(specs) {
  const canvas = el("canvas", { role: "img" });
  const stage = el("div", { class: "stage" }, canvas);
  const title = el("span"),
    note = el("span");
  const caption = el("figcaption", {}, title, note);
  const figure = el("figure", { class: "panel" }, caption, stage);
  const layers = specs.map(() => el("canvas"));
  const panel = { specs, canvas, stage, title, note, figure, layers, kind: specs[0].kind };
  listen(panel);
  return panel;
}

function buildPanels() {
  const { clip } = state,
    host = byId("panels");
  host.replaceChildren();
  panels = [];
  host.classList.toggle("large", state.large);
  const all = specsOf(clip);
  const pick = (key, fallback) => all.find((spec) => specKey(spec) === key) || fallback;
  if (state.large) {
    const truth = all.find((spec) => spec.kind === "ground truth");
    const found = all.filter((spec) => spec.kind === "prediction" && !spec.baseline);
    state.left = specKey(pick(state.left, found.length > 1 ? found[0] : truth));
    state.right = specKey(pick(state.right, found[found.length > 1 ? 1 : 0]));
    panels.push(makePanel([pick(state.left), pick(state.right)]));
    const [panel] = panels;
    panel.figure.prepend(el("div", { class: "sides" }, sideSelect("left", all), sideSelect("right", all)));
    panel.figure.classList.add("swiped");
    const range = el("input", {
      type: "range",
      class: "swipe",
      min: 0,
      max: 1000,
      value: state.swipe * 1000,
      "aria-label": "where the left picture ends",
      oninput: () => {
        state.swipe = range.value / 1000;
        present();
      },
    });
    panel.range = range;
    panel.figure.append(range);
    const height = clamp(window.innerHeight - 230, 320, 640);
    host.style.setProperty("--large", `${Math.round((height * clip.width) / clip.height)}px`);
  } else {
    const shown = all.filter((spec) => !spec.baseline && !(compares && spec.kind === "image"));
    panels = shown.map((spec) => makePanel([spec]));
    host.style.setProperty("--columns", shown.length > 7 ? 4 : shown.length);
  }
  host.append(...panels.map((panel) => panel.figure));
  sizePanels();
}

/** A choice of what is left or right of the divider. */
function sideSelect(side, specs) {
  const select = el("select", { "aria-label": `${side} picture` });
  for (const spec of specs) select.append(el("option", { value: specKey(spec), text: specName(spec) }));
  select.value = state[side];
  select.addEventListener("change", () => {
    state[side] = select.value;
    buildPanels();
    drawPanels();
  });
  return select;
}

/** Give canvases whole device pixels per pixel of the frame, so that all pixels look alike. */
function sizePanels() {
  const { clip } = state;
  for (const panel of panels) {
    const { canvas } = panel;
    canvas.style.aspectRatio = `${clip.width} / ${clip.height}`;
    const css = canvas.clientWidth || 256;
    const most = Math.max(1, Math.floor(2600 / Math.max(clip.width, clip.height)));
    const factor = clamp(Math.ceil((css * (window.devicePixelRatio || 1)) / clip.width), 1, most);
    if (canvas.width !== clip.width * factor || canvas.height !== clip.height * factor) {
      canvas.width = clip.width * factor;
      canvas.height = clip.height * factor;
    }
    // Asked for at every move, the width would make the browser lay the page out again.
    panel.unit = canvas.width / css;
  }
}

function missingNote(spec, clip, event, t) {
  const part = clip.parts[spec.run];
  if (!part) return "not in this run";
  if (spec.kind !== "image" && !part.images[t]) return "not kept";
  if (spec.kind === "ground truth" && !truthAt(part, event, t)) return "none";
  if (spec.kind === "prediction" && !(event.pred || [])[t]) return "not kept";
  if (spec.kind === "errors") {
    if (!errorsAt(clip, spec.run, event, t)) return "not kept";
    if (state.hidden.size) return "all objects";
  }
  return event.step !== state.step && !spec.baseline ? `step ${event.step}` : "";
}

function drawPanels() {
  const { clip } = state;
  if (!clip) return;
  for (const panel of panels) {
    panel.specs.forEach((spec, index) => {
      const layer = panel.layers[index];
      if (layer.width !== clip.width || layer.height !== clip.height) {
        layer.width = clip.width;
        layer.height = clip.height;
      }
      const pixels = compose(spec);
      const data = new ImageData(new Uint8ClampedArray(pixels.buffer), clip.width, clip.height);
      layer.getContext("2d").putImageData(data, 0, 0);
    });
    const events = panel.specs.map((spec) => eventOf(clip, spec));
    const names = panel.specs.map(specName).join(" | ");
    panel.title.textContent = names;
    panel.title.title = names;
    const notes = panel.specs.map((spec, i) => missingNote(spec, clip, events[i], state.frame));
    panel.note.textContent = notes.filter((note) => note).join(", ");
    panel.canvas.setAttribute(
      "aria-label",
      `${names}, ${clip.name}, frame ${clip.frameNumbers[state.frame]}, step ${state.step}`,
    );
  }
  present();
}

/** Show the layers at the zoom and place that all panels share, with prompts and pointer over them. */
function present() {
  for (const panel of panels) {
    const { canvas } = panel,
      { clip } = state;
    const context = canvas.getContext("2d");
    const factor = (canvas.width / clip.width) * state.zoom;
    const { unit } = panel;
    const place = (x, y) => [(x - state.x) * factor, (y - state.y) * factor];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    const split = Math.round(canvas.width * state.swipe);
    panel.specs.forEach((spec, index) => {
      context.save();
      if (panel.specs.length > 1) {
        context.beginPath();
        context.rect(index ? split : 0, 0, index ? canvas.width - split : split, canvas.height);
        context.clip();
      }
      context.setTransform(factor, 0, 0, factor, -state.x * factor, -state.y * factor);
      context.drawImage(panel.layers[index], 0, 0);
      context.setTransform(1, 0, 0, 1, 0, 0);
      const event = eventOf(clip, spec);
      if (event && (spec.kind === "prompts" || state.promptsEverywhere)) {
        drawPrompts(context, promptsOf(clip, spec.run, event, state.frame), place, unit);
      }
      context.restore();
    });
    if (panel.specs.length > 1) drawSwipe(context, panel, split, unit);
    if (state.pointer) {
      const [x, y] = place(state.pointer.x, state.pointer.y);
      context.lineWidth = unit;
      for (const [grow, color] of [
        [1, "black"],
        [0, "white"],
      ]) {
        context.strokeStyle = color;
        const margin = (grow + 0.5) * unit;
        context.strokeRect(x - margin, y - margin, factor + 2 * margin, factor + 2 * margin);
      }
    }
  }
}

function drawSwipe(context, panel, split, unit) {
  const { width, height } = context.canvas;
  context.fillStyle = "rgb(0,0,0)";
  context.fillRect(split - 1.5 * unit, 0, 3 * unit, height);
  context.fillStyle = "white";
  context.fillRect(split - 0.5 * unit, 0, unit, height);
  context.beginPath();
  context.arc(split, height / 2, 9 * unit, 0, 2 * Math.PI);
  context.fill();
  context.strokeStyle = "black";
  context.lineWidth = 1.5 * unit;
  context.stroke();
  context.fillStyle = "black";
  context.font = `${13 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "center";
  context.fillText("↔", split, height / 2);
  context.textAlign = "left";
  panel.specs.forEach((spec, index) => {
    const text = specName(spec),
      wide = context.measureText(text).width;
    const x = index ? width - wide - 10 * unit : 10 * unit;
    context.fillStyle = "rgba(0,0,0,.65)";
    context.fillRect(x - 5 * unit, 6 * unit, wide + 10 * unit, 20 * unit);
    context.fillStyle = "white";
    context.fillText(text, x, 16.5 * unit);
  });
  panel.range.value = state.swipe * 1000;
}
