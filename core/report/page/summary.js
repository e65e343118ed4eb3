// The first answer: is it better, and where not?

const MAIN = "val/iou";

/** Baseline and latest value of a curve; no baseline without a stored first validation. */
function headline(run, key = MAIN) {
  const curve = run.curves[key];
  const known = curve
    ? curve.steps.map((step, i) => [step, curve.values[i]]).filter((point) => isNumber(point[1]))
    : [];
  if (!known.length) return null;
  const now = known[known.length - 1];
  const first = known.find(([step]) => step === run.baseline_step);
  const best = known.reduce((a, b) => (b[1] > a[1] ? b : a));
  return { now, best, before: first && first[0] !== now[0] ? first : null };
}

/** One row per validated object: what is known of it in each run. */
function objectRows() {
  const found = new Map();
  runs.forEach((run, r) => {
    for (const object of run.objects) {
      const key = JSON.stringify([object.video, object.object]);
      if (!found.has(key))
        found.set(key, {
          video: object.video,
          id: object.object,
          name: object.name,
          of: runs.map(() => null),
          clip: null,
        });
      const row = found.get(key);
      row.of[r] = object;
      row.name = row.name || object.name;
      row.clip = row.clip || clips.find((clip) => clip.key === object.clip) || null;
    }
  });
  for (const row of found.values()) {
    const [a, b] = [row.of[0], row.of[row.of.length - 1]];
    const from = compares ? a && a.now : a && a.baseline,
      to = b && b.now;
    row.change = isNumber(from) && isNumber(to) ? to - from : null;
    row.now = to;
  }
  return [...found.values()];
}

const last = runs.length - 1;
const rows = objectRows();
const objectName = (row) => `${row.video} · ${labelOf(row)}`;

function openRow(row) {
  const object = row.of[last] || row.of.find((one) => one);
  openClip(row.clip, isNumber(object.first_bad_frame) ? object.first_bad_frame : null, Infinity);
  byId("viewer").scrollIntoView({ block: "start" });
  byId("viewer").focus({ preventScroll: true });
}

function buildSummary() {
  const host = byId("summary");
  const score = compares ? scoreOfRuns() : scoreOfRun(runs[0]);
  const chart = new Chart(`${MAIN} by step`, { dots: true, height: 116 });
  const series = runs.map((run, r) => lineOf(run, r, MAIN)).filter((line) => line.points.length);
  const middle = el("div", { class: "card" }, chart.node);
  host.classList.toggle("two", compares);
  host.append(score, middle, worstObjects());
  if (series.length) {
    const draw = () => chart.draw({ series, range: [0, 1], onpick: jumpToStep });
    draw();
    redraws.push(draw);
  } else middle.replaceChildren(el("p", { class: "faint", text: `No value of ${MAIN} was logged.` }));
}

const lineOf = (run, r, key) => {
  const curve = run.curves[key] || { steps: [], values: [] };
  const points = curve.steps.map((step, i) => [step, isNumber(curve.values[i]) ? curve.values[i] : null]);
  return { name: compares ? run.name : key, color: runColor(r), dash: dashOf(r), points };
};

function jumpToStep(step) {
  const { clip } = state;
  if (!clip) return;
  setStep(clip.steps.filter((one) => one <= step).pop() ?? clip.steps[0]);
}

/** How many objects are better and worse; nothing where that is known of none. */
function verdictLine() {
  const known = rows.filter((row) => isNumber(row.change));
  if (!known.length) return [];
  const count = (word) => known.filter((row) => changeOf(row.change).word === word).length;
  const [better, worse] = [count("better"), count("worse")];
  const unchanged = known.length - better - worse;
  const of = `${better} of ${counted(known.length, "object", "objects")} better`;
  const parts = [of, worse ? `${worse} worse` : "none worse", unchanged ? `${unchanged} unchanged` : ""];
  return [el("p", { text: parts.filter((text) => text).join(", ") })];
}

function scoreOfRun(run) {
  const found = headline(run);
  if (!found) return scoreWithoutCurve(run);
  const card = el("div", { class: "card score" });
  const big = el("p", { class: "big" });
  if (found.before) {
    const change = changeOf(found.now[1] - found.before[1]);
    big.append(
      el("span", { class: "before", text: two(found.before[1]) }),
      el("span", { class: "arrow", text: "→" }),
      el("span", { class: "now", text: two(found.now[1]) }),
      el("span", { class: `change ${change.kind}`, text: change.text }),
    );
  } else big.append(el("span", { class: "now", text: two(found.now[1]) }));
  const when = found.before
    ? `first validation (step ${found.before[0]}) → now (step ${found.now[0]})`
    : `at step ${found.now[0]}`;
  card.append(el("p", { class: "label", text: `${MAIN}, ${when}` }), big);
  card.append(...verdictLine());
  if (found.best[1] - found.now[1] >= 0.005) {
    card.append(el("p", { class: "faint", text: `best ${two(found.best[1])} at step ${found.best[0]}` }));
  }
  return card;
}

const wasValidated = (run) => isNumber(run.baseline_step);

/** What a run without values of the main curve can say: the mean of its objects, if it validated any. */
function scoreWithoutCurve(run) {
  const card = el("div", { class: "card score" });
  if (!wasValidated(run)) {
    card.append(el("p", { class: "label", text: MAIN }), el("p", { text: "There was no validation yet." }));
    return card;
  }
  const ious = run.objects.map((object) => object.now).filter(isNumber);
  const words = `mean IoU of ${counted(ious.length, "object", "objects")} at the last validation`;
  const big = el("p", { class: "big" }, el("span", { class: "now", text: two(mean(ious)) }));
  card.append(el("p", { class: "label", text: words }), big, ...verdictLine());
  return card;
}

function scoreOfRuns() {
  const card = el(
    "div",
    { class: "card score" },
    el("p", { class: "label", text: `${MAIN}, first validation → now` }),
  );
  const table = el("div", { class: "scores" });
  const found = runs.map((run) => headline(run));
  runs.forEach((run, r) => {
    const name = el("span", { class: "runname", text: run.name });
    name.style.setProperty("--run", runColor(r));
    const one = found[r];
    table.append(
      name,
      el("span", { class: "now", text: one ? two(one.now[1]) : "–" }),
      el("span", {
        class: "faint",
        text: comparedWords(run, one),
      }),
    );
  });
  card.append(table);
  const [a, b] = [found[0], found[last]];
  if (a && b) {
    const change = changeOf(b.now[1] - a.now[1]);
    card.append(
      el(
        "p",
        {},
        el("span", { class: `change ${change.kind}`, text: `${change.text} ` }),
        `from ${runs[0].name} to ${runs[last].name}`,
      ),
    );
  }
  card.append(...verdictLine());
  return card;
}

/** What stands behind a run's number in a comparison. */
function comparedWords(run, found) {
  if (!found) return wasValidated(run) ? `no ${MAIN}` : "no validation";
  return found.before ? `from ${two(found.before[1])}, step ${found.now[0]}` : `step ${found.now[0]}`;
}

function worstObjects() {
  const card = el("div", { class: "card worst" });
  const title = compares
    ? `Where ${runs[last].name} loses against ${runs[0].name}`
    : "Where not: the objects with the lowest IoU now";
  const key = (row) => (compares ? row.change : row.now);
  const known = rows.filter((row) => isNumber(key(row)));
  const listed = known
    .filter((row) => !compares || changeOf(row.change).word === "worse")
    .sort((a, b) => key(a) - key(b))
    .slice(0, 4);
  card.append(el("h2", { class: "label", text: title }));
  if (!known.length) card.append(el("p", { class: "faint", text: noObject() }));
  else if (!listed.length) card.append(el("p", { class: "faint", text: "Nowhere: no object is worse." }));
  const list = el("div", { class: "worst-list" });
  for (const row of listed) {
    const before = compares ? (row.of[0] || {}).now : (row.of[0] || {}).baseline;
    const change = changeOf(row.change);
    const button = el(
      "button",
      { type: "button", title: row.clip ? `open ${objectName(row)}` : "no clip of it was stored" },
      el("span", { class: "who", text: objectName(row) }),
      meter(before, row.now),
      el("span", { class: "num", text: nowWords(before, row.now) }),
      el("span", { class: `num ${change.kind}`, text: change.text }),
    );
    if (row.clip) button.addEventListener("click", () => openRow(row));
    else button.disabled = true;
    list.append(button);
  }
  card.append(list);
  return card;
}

function noObject() {
  if (!rows.length) return "No object was validated yet.";
  return compares ? "No object was validated in both." : "No object of the last validation has an IoU.";
}

/** A bar for the value now, with a mark at the one before. */
function meter(before, now) {
  const node = el("span", { class: "meter", "aria-hidden": "true" });
  if (isNumber(now)) {
    const bar = el("i");
    bar.style.width = `${100 * clamp(now, 0, 1)}%`;
    node.append(bar);
  }
  if (isNumber(before)) {
    const mark = el("b");
    mark.style.left = `${100 * clamp(before, 0, 1)}%`;
    node.append(mark);
  }
  return node;
}
