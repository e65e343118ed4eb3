// Curves, settings, cost, versions.

const redraws = [];

function buildCurves() {
  const host = byId("curves");
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  const rank = (name) => {
    const found = [MAIN, "train/loss", "val/loss", "val/J&F", "val/J", "val/F", "val/dice"].indexOf(name);
    return found < 0 ? 99 : found;
  };
  names.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  const details = names.filter((name) => name.split("/").length > 2);
  const main = names.filter((name) => !details.includes(name));
  host.append(el("h2", { id: "curves-title", text: "Curves" }));
  if (compares) {
    const legend = el("p", {});
    runs.forEach((run, r) => {
      const name = el("span", { class: "runname", text: run.name });
      name.style.setProperty("--run", runColor(r));
      legend.append(name, "  ");
    });
    host.append(legend);
  }
  if (!names.length) host.append(el("p", { class: "faint", text: "No curve was logged." }));
  const grid = el("div", { class: "curves" });
  host.append(grid);
  grid.append(...main.map((name) => curve(name)));
  if (details.length) {
    const inner = el("div", { class: "curves" });
    const fold = el(
      "details",
      {},
      el("summary", { text: `${details.length} more, by category or part` }),
      inner,
    );
    fold.addEventListener("toggle", () => {
      if (fold.open && !inner.children.length) {
        inner.append(...details.map((name) => curve(name)));
        redraws.forEach((draw) => draw());
      }
    });
    host.append(fold);
  }
}

function curve(name) {
  const chart = new Chart(name, { height: 120 });
  const series = runs.map((run, r) => lineOf(run, r, name)).filter((line) => line.points.length);
  const latest = series.map((line) =>
    line.points
      .map((point) => point[1])
      .filter(isNumber)
      .pop(),
  );
  const draw = () => chart.draw({ series, value: latest.map(short).join(" · "), onpick: jumpToStep });
  redraws.push(draw);
  return chart.node;
}

const when = (text) => {
  const date = new Date(text);
  return Number.isNaN(date.getTime())
    ? String(text)
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
};

function table(caption, head, lines) {
  const body = el("tbody");
  for (const { cells, differs } of lines) {
    const row = el("tr", { class: differs ? "differs" : null });
    cells.forEach((text, index) =>
      row.append(el(index ? "td" : "th", { class: "name", scope: index ? null : "row", text: text ?? "–" })),
    );
    body.append(row);
  }
  const titles = el("tr", {}, ...head.map((text) => el("th", { scope: "col", class: "name", text })));
  return el("table", { "aria-label": caption }, el("thead", {}, titles), body);
}

/** Settings of all runs, those that differ between them first. */
function settingLines() {
  const names = [...new Set(runs.flatMap((run) => run.settings.map((setting) => setting[0])))];
  const lines = names.map((name) => {
    const found = runs.map((run) => run.settings.find((setting) => setting[0] === name));
    const standard = (found.find((setting) => setting) || [])[2] ?? null;
    const values = found.map((setting) => (setting ? setting[1] : standard));
    const differs = compares && new Set(values).size > 1;
    return { cells: [name, ...values, standard], differs };
  });
  return lines.sort((a, b) => Number(b.differs) - Number(a.differs));
}

function buildAbout() {
  const host = byId("about"),
    grid = el("div", { class: "about" });
  host.append(el("h2", { id: "about-title", text: compares ? "About the runs" : "About the run" }), grid);
  const settings = settingLines();
  const titles = compares ? runs.map((run) => run.name) : ["Value"];
  grid.append(
    el(
      "div",
      { class: "wide" },
      el("h3", {
        text: compares
          ? "Settings that differ from the defaults; in bold: between the runs"
          : "Settings that differ from the defaults",
      }),
      settings.length
        ? table("settings", ["Setting", ...titles, "Default"], settings)
        : el("p", { class: "faint", text: "None." }),
    ),
  );
  const cost = [
    ["Pictures taken", (c) => c.events],
    ["Pictures left out", (c) => c.dropped],
    [
      "Training waited, per picture",
      (c) => (isNumber(c.blocked_ms_median) ? `${short(c.blocked_ms_median)}\u00a0ms` : null),
    ],
    [
      "Share of the training time",
      (c) => (isNumber(c.blocked_share) ? `${(100 * c.blocked_share).toFixed(2)}\u00a0%` : null),
    ],
    [
      "Drawing, beside the training",
      (c) => (isNumber(c.render_ms_median) ? `${short(c.render_ms_median)}\u00a0ms` : null),
    ],
  ];
  const lines = cost.map(([name, read]) => ({
    cells: [name, ...runs.map((run) => (run.cost ? read(run.cost) : null))],
  }));
  grid.append(
    el(
      "div",
      {},
      el("h3", { text: "What the pictures cost" }),
      table("cost of the pictures", ["", ...titles], lines),
    ),
  );
  const versions = [...new Set(runs.flatMap((run) => run.versions.map((one) => one[0])))].map((name) => {
    const values = runs.map((run) => (run.versions.find((one) => one[0] === name) || [])[1] ?? null);
    return { cells: [name, ...values], differs: compares && new Set(values).size > 1 };
  });
  grid.append(el("div", {}, el("h3", { text: "Versions" }), table("versions", ["", ...titles], versions)));
  const notes = runs.flatMap((run) => run.notes.map((note) => (compares ? `${run.name}: ${note}` : note)));
  if (notes.length) {
    grid.append(
      el(
        "div",
        {},
        el("h3", { text: "What is missing here, and why" }),
        el("ul", {}, ...notes.map((note) => el("li", { class: "name", text: note }))),
      ),
    );
  }
}

function buildTop() {
  document.title = `${book.title} · run book`;
  byId("title").textContent = book.title;
  const words = runs.map((run) => {
    const end = run.finished ? `finished ${when(run.finished)}` : "not finished when this was written";
    const text = `step ${run.step} · started ${when(run.started)} · ${end}`;
    return compares ? `${run.name}: step ${run.step}` : text;
  });
  byId("subtitle").textContent = words.join(" · ");
}
