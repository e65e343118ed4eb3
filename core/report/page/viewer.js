// The clip viewer: choice of clip, sliders, legend, curves of the clip.

const parts = {};
const nowWords = (before, now) => (isNumber(before) ? `${two(before)} → ${two(now)}` : two(now));

function toggle(text, key, title, after) {
  const button = el("button", { type: "button", "aria-pressed": String(state[key]), title, text });
  button.addEventListener("click", () => {
    state[key] = !state[key];
    button.setAttribute("aria-pressed", String(state[key]));
    after();
  });
  return button;
}

function buildViewer() {
  const bar = byId("viewer-bar");
  const select = el("select", { id: "clip", "aria-label": "clip" });
  for (const kind of KINDS) {
    const group = el("optgroup", { label: KIND_NAMES[kind] || "Validation clips" });
    clips.forEach((clip, index) => {
      if (clip.kind === kind) group.append(el("option", { value: index, text: clip.name }));
    });
    if (group.children.length) select.append(group);
  }
  select.addEventListener("change", () => openClip(clips[Number(select.value)]));
  const views = el("span", { class: "group", role: "group", "aria-label": "view" });
  for (const [text, large] of [
    ["Side by side", false],
    ["Large, with swipe", true],
  ]) {
    const button = el("button", { type: "button", text, "data-large": String(large) });
    button.addEventListener("click", () => {
      state.large = large;
      refreshView();
    });
    views.append(button);
  }
  const zoom = el(
    "span",
    { class: "group", role: "group", "aria-label": "zoom" },
    el("button", { type: "button", text: "−", "aria-label": "zoom out", onclick: () => zoomBy(1 / 1.5) }),
    el("button", {
      type: "button",
      id: "zoom-now",
      title: "show the whole frame",
      text: "100 %",
      onclick: () => zoomTo(1, 0, 0),
    }),
    el("button", { type: "button", text: "+", "aria-label": "zoom in", onclick: () => zoomBy(1.5) }),
  );
  parts.baseline = toggle(
    "Outline of the first validation",
    "showBaseline",
    "draw the outline of the first validation's prediction in every panel (B)",
    drawPanels,
  );
  bar.append(
    select,
    views,
    el("span", { class: "spring" }),
    toggle("Frame", "showFrame", "show the frame below the masks", drawPanels),
    toggle("Prompts everywhere", "promptsEverywhere", "draw clicks and boxes in every panel", present),
    parts.baseline,
    zoom,
  );
  parts.select = select;
  parts.views = views;
  buildSliders();
  parts.byFrame = new Chart("IoU by frame", {
    dots: true,
    legend: "▲ prompted frame; a gap: absent and not predicted, or not kept",
  });
  parts.byStep = new Chart("IoU by step", {
    dots: true,
    legend: "mean of the clip's frames that were not prompted",
  });
  byId("clip-charts").append(parts.byFrame.node, parts.byStep.node);
}

function buildSliders() {
  const host = byId("sliders");
  const make = (name, label, set) => {
    const range = el("input", { type: "range", id: `${name}-slider`, min: 0, step: 1, value: 0 });
    range.addEventListener("input", () => set(Number(range.value)));
    const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    const output = el("output", { for: `${name}-slider` });
    const button = el("button", { type: "button" });
    host.append(
      el("label", { for: `${name}-slider`, text: label }),
      button,
      el("div", { class: "track" }, range, ticks),
      output,
    );
    return { range, ticks, output, button };
  };
  parts.frame = make("frame", "Frame", setFrame);
  parts.step = make("step", "Step", (index) => setStep(state.clip.steps[index]));
  parts.frame.button.id = "play";
  parts.frame.button.addEventListener("click", play);
  parts.step.button.addEventListener("click", () => {
    const first = firstStep(state.clip);
    setStep(state.step === first ? state.clip.steps[state.clip.steps.length - 1] : first);
  });
}

const firstStep = (clip) => {
  const steps = runs
    .map((_, r) => baselineEvent(clip, r))
    .filter((event) => event)
    .map((event) => event.step);
  return steps.length ? steps[0] : clip.steps[0];
};

function play() {
  if (state.playing) {
    clearInterval(state.playing);
    state.playing = 0;
  } else if (state.clip) {
    state.playing = setInterval(() => setFrame((state.frame + 1) % state.clip.frameNumbers.length), 160);
  }
  showPlaying();
}

function showPlaying() {
  parts.frame.button.textContent = state.playing ? "❚❚" : "▶";
  parts.frame.button.setAttribute("aria-label", state.playing ? "pause" : "play");
}

function setFrame(frame) {
  if (!state.clip) return;
  state.frame = clamp(frame, 0, state.clip.frameNumbers.length - 1);
  refreshMoment();
  parts.byFrame.moveHere(state.clip.frameNumbers[state.frame]);
}

function setStep(step) {
  if (!state.clip) return;
  state.step = step;
  refreshMoment();
  drawFrameChart();
  parts.byStep.moveHere(step);
}

/** Open a clip, at a frame of the original video where one is named. */
function openClip(clip, number = null, step = null) {
  state.clip = clip;
  state.hidden.clear();
  const { steps, frameNumbers } = clip;
  state.step = steps.filter((one) => one <= (step ?? state.step)).pop() ?? steps[0];
  state.frame = clamp(state.frame, 0, frameNumbers.length - 1);
  if (number !== null) {
    const distance = frameNumbers.map((one) => Math.abs(one - number));
    state.frame = distance.indexOf(Math.min(...distance));
  }
  state.zoom = 1;
  state.x = state.y = 0;
  state.pointer = null;
  byId("zoom-now").textContent = "100 %";
  parts.select.value = String(clips.indexOf(clip));
  const known = runs.map((_, r) => baselineEvent(clip, r)).filter((event) => event);
  parts.baseline.disabled = !known.length;
  parts.baseline.textContent =
    known.length === 1 ? `Outline of step ${known[0].step}` : "Outline of the first validation";
  parts.frame.range.max = frameNumbers.length - 1;
  parts.step.range.max = steps.length - 1;
  parts.frame.range.disabled = frameNumbers.length < 2;
  parts.step.range.disabled = steps.length < 2;
  parts.step.button.disabled = steps.length < 2;
  buildLegend();
  refreshView();
  drawFrameChart();
  drawStepChart();
  inspect();
  loadFrames(clip);
}

function refreshView() {
  for (const button of parts.views.children) {
    button.setAttribute("aria-pressed", String((button.dataset.large === "true") === state.large));
  }
  buildPanels();
  refreshMoment();
}

/** Show what depends on frame and step. */
function refreshMoment() {
  drawPanels();
  showSliders();
  showLegend();
  if (state.pointer) inspect();
  keepPlace();
}

function showSliders() {
  const { clip } = state,
    { frame, step } = parts;
  const last = clip.frameNumbers.length - 1;
  const event = clip.parts.map((part) => eventAt(part, state.step)).find((one) => one);
  const words = [`frame ${clip.frameNumbers[state.frame]}`, `${state.frame + 1} of ${last + 1}`];
  if (isPrompted(event, state.frame)) words.push("prompted");
  frame.range.value = state.frame;
  frame.output.textContent = words.join(" · ");
  frame.range.setAttribute("aria-valuetext", words.join(", "));
  frame.ticks.replaceChildren(
    ...clip.frameNumbers.flatMap((_, t) => {
      if (!isPrompted(event, t)) return [];
      const tick = el("i");
      tick.style.left = `${last ? (100 * t) / last : 0}%`;
      return [tick];
    }),
  );
  const position = clip.steps.indexOf(state.step),
    first = firstStep(clip);
  const said = [`step ${state.step}`];
  if (isNumber(event.epoch)) said.push(`epoch ${event.epoch}`);
  if (event.weights) said.push(event.weights);
  if (clip.steps.length === 1) said.push("the only one");
  else if (runs.some((run, r) => baselineEvent(clip, r) && run.baseline_step === state.step))
    said.push("first validation");
  step.range.value = position;
  step.output.textContent = said.join(" · ");
  step.range.setAttribute("aria-valuetext", said.join(", "));
  step.button.textContent = "⇄";
  step.button.title = state.step === first ? "go to the last step" : "go to the first step";
  step.button.setAttribute("aria-label", step.button.title);
  showPlaying();
  const missing = runs.filter((_, r) => !clip.parts[r]).map((run) => `${run.name} has no such clip`);
  byId("clip-notes").textContent = missing.join(" · ");
}

function buildLegend() {
  const { clip } = state,
    host = byId("legend");
  const columns = compares
    ? runs.flatMap((run) => [`${run.name}: clip`, "frame"])
    : ["clip, first → now", "this frame", "model says", "score", ""];
  const head = el("tr", {}, el("th", { scope: "col", text: "Object" }));
  for (const text of columns) head.append(el("th", { scope: "col", class: "num name", text }));
  const body = el("tbody");
  parts.rows = clip.things.map((thing) => {
    const box = el("input", { type: "checkbox", "data-object": thing.id });
    box.checked = true;
    const row = el("tr");
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(thing.id);
      else state.hidden.add(thing.id);
      row.classList.toggle("off", !box.checked);
      drawPanels();
      drawFrameChart();
      drawStepChart();
    });
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = cssOf(thing.rgb);
    const cells = columns.map((text) => el("td", { class: text ? "num" : "word" }));
    row.append(
      el(
        "th",
        { scope: "row" },
        el("label", {}, box, swatch, el("bdi", { class: "name", text: labelOf(thing) })),
      ),
      ...cells,
    );
    body.append(row);
    return { thing, cells };
  });
  host.replaceChildren(
    clip.things.length
      ? el("table", {}, el("thead", {}, head), body)
      : el("p", { class: "faint", text: "This clip has no object." }),
    keysOf(clip),
  );
}

/** The samples of marks and error colours that this clip uses. */
function keysOf(clip) {
  const prompts = clip.parts
    .flatMap((part) => (part ? part.events : []))
    .flatMap((event) => (event.prompts || []).flat());
  const entries = [];
  const sample = (text, draw) => {
    const canvas = el("canvas", { width: 32, height: 32, "aria-hidden": "true" });
    draw(canvas.getContext("2d"));
    entries.push(el("span", {}, canvas, text));
  };
  const clicks = prompts.filter((prompt) => prompt && prompt.kind === "click");
  if (clicks.some((click) => click.positive))
    sample("positive click", (c) => drawClick(c, 16, 16, 1.9, true, NEUTRAL));
  if (clicks.some((click) => !click.positive))
    sample("negative click", (c) => drawClick(c, 16, 16, 1.7, false, NEUTRAL));
  if (clicks.some((click) => click.round)) entries.push(el("span", { text: "number: correction round" }));
  if (prompts.some((prompt) => prompt && prompt.kind === "box"))
    sample("box prompt", (c) => drawBox(c, [4, 6, 28, 26], 2, NEUTRAL));
  if (prompts.some((prompt) => prompt && prompt.kind === "mask")) {
    sample("mask prompt", (c) => {
      c.fillStyle = cssOf(NEUTRAL);
      for (let x = 4; x < 28; x += 2)
        for (let y = 4; y < 28; y += 2) if (striped(x / 2, y / 2)) c.fillRect(x, y, 2, 2);
      c.strokeStyle = "rgb(120,120,120)";
      c.lineWidth = 2;
      c.strokeRect(4, 4, 24, 24);
    });
  }
  for (const [rgb, text] of [
    [HIT, "hit"],
    [MISSED, "missed"],
    [FALSE, "false"],
  ]) {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = cssOf(rgb);
    entries.push(el("span", {}, swatch, text));
  }
  return el("div", { class: "keys" }, ...entries);
}

function scoreWord(score, present) {
  if (!isNumber(score)) return "–";
  return `${score < 0 ? "−" : "+"}${Math.abs(score).toFixed(1)}${present === null ? "" : score > 0 === present ? " ✓" : " ✗"}`;
}

function showLegend() {
  const { clip } = state,
    t = state.frame;
  for (const { thing, cells } of parts.rows) {
    runs.forEach((_, r) => {
      const part = clip.parts[r],
        k = thing.index[r],
        event = eventAt(part, state.step);
      const first = baselineEvent(clip, r);
      const now = clipIou(clip, r, event, k);
      const before = first && event !== first ? clipIou(clip, r, first, k) : null;
      const score = event && k >= 0 ? scoreAt(event, t, k) : null;
      const truth = event ? truthAt(part, event, t) : null;
      const here = score ? (isNumber(score.iou) ? two(score.iou) : "absent") : "–";
      const clipCell = cells[2 * r];
      clipCell.textContent = nowWords(before, now);
      clipCell.className = `num ${isNumber(before) ? changeOf(now - before).kind.replace("faint", "") : ""}`;
      cells[2 * r + 1].textContent = here;
      if (compares) return;
      cells[2].textContent = score ? two(score.predicted_iou) : "–";
      cells[3].textContent = score ? scoreWord(score.object_score, truth ? Boolean(truth[k]) : null) : "–";
      cells[4].textContent = score && score.word ? score.word : "";
    });
  }
}

/** One line per run and visible object; `pointsOf` takes run, part, event and the object's index. */
function linesOf(clip, pointsOf) {
  return runs.flatMap((run, r) => {
    const part = clip.parts[r],
      event = eventAt(part, state.step);
    if (!event) return [];
    return visible(clip)
      .filter((thing) => thing.index[r] >= 0)
      .map((thing) => ({
        name: compares ? `${labelOf(thing)} · ${run.name}` : labelOf(thing),
        color: cssOf(thing.rgb),
        dash: dashOf(r),
        cased: true,
        points: pointsOf(r, part, event, thing.index[r]),
      }));
  });
}

function drawFrameChart() {
  const { clip } = state,
    numbers = clip.frameNumbers;
  const event = clip.parts.map((part) => eventAt(part, state.step)).find((one) => one);
  const dashes = runs.map((run, r) => `${["—", "- -", "···", "-·-"][r % 4]} ${run.name}`).join("   ");
  parts.byFrame.draw({
    series: linesOf(clip, (r, part, now, k) =>
      numbers
        .map((number, t) => [number, (scoreAt(now, t, k) || {}).iou ?? null])
        .filter((_, t) => part.images[t]),
    ),
    range: [0, 1],
    domain: [numbers[0], numbers[numbers.length - 1]],
    gaps: true,
    marks: numbers.filter((_, t) => isPrompted(event, t)),
    value: compares ? dashes : "",
    here: numbers[state.frame],
    onpick: (number) => setFrame(numbers.indexOf(number)),
  });
}

function drawStepChart() {
  const { clip } = state,
    { steps } = clip;
  parts.byStep.draw({
    series: linesOf(clip, (r, part, now, k) =>
      part.events.map((one) => [one.step, stepIou(clip, r, one, k)]),
    ),
    range: [0, 1],
    domain: [steps[0], steps[steps.length - 1]],
    here: state.step,
    onpick: setStep,
  });
}

const stepIous = new WeakMap();

/** `clipIou`, remembered: the curve over steps is drawn again at every move of a slider. */
function stepIou(clip, r, event, k) {
  if (!stepIous.has(event)) stepIous.set(event, new Map());
  const known = stepIous.get(event);
  if (!known.has(k)) known.set(k, clipIou(clip, r, event, k));
  return known.get(k);
}
