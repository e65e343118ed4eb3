// Puts everything together.

function start() {
  if (book.format !== FORMAT)
    throw new Error(`This page reads format ${FORMAT} of the run book, and this is format ${book.format}.`);
  buildTop();
  buildSummary();
  buildDoctor();
  buildViewer();
  buildOutcomes();
  buildObjects();
  buildCurves();
  buildAbout();
  redraws.forEach((draw) => draw());
  if (clips.length) openClip(...startPlace());
  else byId("viewer").replaceChildren(el("p", { class: "empty", text: "No clip was stored in this run." }));
  document.addEventListener("keydown", onKey);
  let waiting = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      for (const chart of charts) chart.width = 0;
      redraws.forEach((draw) => draw());
      if (!state.clip) return;
      sizePanels();
      present();
      drawFrameChart();
      drawStepChart();
    });
  });
}

/** What tests and curious people may ask the page. */
window.book = {
  state: () => ({
    clip: state.clip && state.clip.key,
    frame: state.frame,
    step: state.step,
    zoom: state.zoom,
    hidden: [...state.hidden],
    playing: Boolean(state.playing),
    large: state.large,
  }),
  open: (key, number = null, step = Infinity) =>
    openClip(
      clips.find((clip) => clip.key === key),
      number,
      step,
    ),
  setFrame,
  setStep,
  framesReady: () =>
    Boolean(state.clip) && state.clip.frameNumbers.every((_, t) => frames.get(frameKey(state.clip, t))),
  /** Pixels of a panel as RGBA bytes in base64, with or without the frame below. */
  layer: (kind, { run = 0, frame = false, baseline = false } = {}) => {
    const bytes = new Uint8Array(compose({ kind, run, baseline }, { frame }).buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  },
  pixel: pixelFacts,
  /** Where in the window the curves of the open clip have a point: of an object, at a frame or step. */
  point: (axis, name, x) => (axis === "frame" ? parts.byFrame : parts.byStep).locate(name, x),
};

showPage(start);
