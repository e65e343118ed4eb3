// What became of each object of the last validation: a strip per object, a cell per frame.

const FIRST_STRIPS = 40;
const MAX_CELLS = 150; // frames of a strip
const strips = { all: false };

function buildOutcomes() {
  const host = byId("outcomes"),
    found = runs[last].outcomes;
  host.hidden = byId("to-outcomes").hidden = !found;
  if (!found) return;
  const kinds = new Map();
  for (const family of found.families)
    for (const outcome of family.outcomes) kinds.set(outcome.letter, { ...outcome, color: family.color });
  const failing = found.strips.filter((strip) => /[A-Z]/.test(strip.letters)).length;
  const title = compares ? `How objects fail: ${runs[last].name}` : "How objects fail";
  const said = `${counted(found.strips.length, "object", "objects")}, ${failing} with a failure, at step ${found.step}`;
  const list = el("div", { class: "strips", role: "list" });
  const more = el("button", {
    type: "button",
    onclick: () => {
      strips.all = true;
      fill();
    },
  });
  const fill = () => {
    const shown = strips.all ? found.strips : found.strips.slice(0, FIRST_STRIPS);
    list.replaceChildren(...shown.map((strip) => stripRow(strip, kinds)));
    more.hidden = shown.length === found.strips.length;
    more.textContent = `Show all ${found.strips.length}`;
  };
  host.append(
    el(
      "div",
      { class: "head" },
      el("h2", { id: "outcomes-title", text: title }),
      el("span", { class: "faint", text: said }),
    ),
    ...(tracksAnything() ? [distanceChart()] : []),
    el("div", { class: "outcome-legend" }, ...found.families.map(familyLegend)),
    el("p", {
      class: "faint",
      text: "One cell per frame; capital letters are failures. Who fails first comes first. Click a cell to open its frame, where it is stored.",
    }),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "outcomes by object" }, list),
    more,
    el("p", { class: "faint", text: outcomeNotes(found).join(" ") }),
  );
  fill();
}

function outcomeNotes(found) {
  const notes = [];
  const longest = Math.max(0, ...found.strips.map((strip) => strip.letters.length));
  if (found.left_out) notes.push(`${counted(found.left_out, "more object fails", "more objects fail")} later or never.`);
  if (found.unscored) notes.push(`${counted(found.unscored, "object is", "objects are")} not scored.`);
  if (longest > MAX_CELLS) notes.push(`Frames from ${MAX_CELLS} on are not shown; clips have up to ${longest}.`);
  return notes;
}

function familyLegend(family) {
  const sample = el("i", { class: "sample" });
  sample.style.background = family.color;
  const words = family.outcomes.map(
    ({ name, letter, share }) => `${letter} ${name}${isNumber(share) ? ` ${(100 * share).toFixed(1)} %` : ""}`,
  );
  return el("span", {}, sample, `${family.name}: ${words.join(", ")}`);
}

function stripRow(strip, kinds) {
  const clip = clips.find((one) => one.key === strip.clip) || null;
  const cells = el("span", { class: "cells" });
  for (const [t, letter] of [...strip.letters].slice(0, MAX_CELLS).entries()) {
    const kind = kinds.get(letter),
      number = strip.frames[t];
    const isStored = clip !== null && clip.frameNumbers.includes(number);
    const cell = el("button", {
      type: "button",
      class: kind.light ? "light" : null,
      title: `frame ${number}: ${kind.name}${isStored ? "" : " (not stored)"}`,
      text: letter,
      disabled: !isStored,
      onclick: isStored ? () => openFrame(clip, number) : null,
    });
    cell.style.background = kind.color;
    cells.append(cell);
  }
  const who = `${strip.object}${strip.name ? ` ${strip.name}` : ""} · ${strip.video}`;
  return el("div", { class: "strip", role: "listitem" }, el("span", { class: "who", text: who, title: who }), cells);
}

function openFrame(clip, number) {
  openClip(clip, number, runs[last].outcomes.step);
  byId("viewer").scrollIntoView({ block: "start" });
  byId("viewer").focus({ preventScroll: true });
}

/** Whether any run validates videos: of images no frame has a distance from its prompt. */
const tracksAnything = () => runs.some((run) => run.outcomes && run.outcomes.now.length);

function distanceChart() {
  const chart = new Chart("IoU by frames since the last prompt", { legend: distanceLegend() });
  const line = (name, points, color, dash, of = 2) => ({
    name,
    color,
    dash,
    points: points.map((point) => [point[0], point[of]]),
  });
  const series = runs.flatMap((run, r) => {
    const found = run.outcomes;
    if (!found) return [];
    if (compares) return [line(run.name, found.now, runColor(r), dashOf(r))];
    return [
      line("upper quartile", found.now, "var(--faint)", "", 3),
      line("lower quartile", found.now, "var(--faint)", "", 1),
      line("the prompt's mask left in place", found.copied, "var(--run2)", "2 3"),
      line("first validation", found.before, "var(--run1)", "5 4"),
      line("now", found.now, runColor(0), ""),
    ];
  });
  const draw = () => chart.draw({ series: series.filter((one) => one.points.length), range: [0, 1] });
  redraws.push(draw);
  return chart.node;
}

const distanceLegend = () =>
  compares
    ? "The median of each run; at 0 the frames that received the prompt."
    : "Median now between its quartiles; dashed: the first validation; dotted: the prompt's mask left in place. At 0 the frames that received the prompt.";
