// The page of the data check: problems first, then clips, then what is there.

const health = JSON.parse(byId("book").textContent);

function picture({ src, caption }) {
  const image = src ? el("img", { src, alt: caption, loading: "lazy" }) : null;
  return el("figure", {}, image, el("figcaption", { class: "name", text: caption }));
}

function example({ text, views }) {
  return el(
    "div",
    { class: "example" },
    el("p", { class: "name", text }),
    el("div", { class: "views" }, ...views.map(picture)),
  );
}

function problem(found) {
  const left = found.count - found.examples.length;
  const where = `${counted(found.count, "time", "times")}, in ${counted(found.videos, "video", "videos")}`;
  const card = el(
    "article",
    { class: `card problem harm${found.harm}` },
    el("div", { class: "head" }, el("h2", { text: found.title }), el("span", { class: "faint", text: where })),
    el("p", { text: found.todo }),
    ...found.examples.map(example),
  );
  if (left) {
    const items = found.more.map((text) => el("li", { class: "name", text }));
    if (found.more.length < left)
      items.push(el("li", { class: "faint", text: `and ${left - found.more.length} more` }));
    card.append(el("details", {}, el("summary", { text: `${left} more` }), el("ul", {}, ...items)));
  }
  return card;
}

function buildProblems() {
  const host = byId("problems");
  const kinds = health.problems.length;
  byId("subtitle").textContent = kinds
    ? `${counted(kinds, "kind of problem", "kinds of problems")}, the most harmful first`
    : "nothing unusual was found";
  if (!kinds) host.append(el("p", { class: "card empty", text: "Nothing unusual was found in what was read." }));
  host.append(...health.problems.map(problem));
}

function buildClips() {
  const host = byId("clips");
  host.append(el("h2", { id: "clips-title", text: "Clips as training and validation see them" }));
  for (const { text, src } of health.sheets)
    host.append(
      el(
        "div",
        { class: "sheet" },
        el("p", { class: "name", text }),
        el("img", { src, alt: text, loading: "lazy" }),
      ),
    );
}

function meters(values, largest) {
  return values.map((value, index) => {
    const bar = el("i");
    bar.style.width = `${largest ? (100 * value) / largest : 0}%`;
    return el("span", { class: index % 2 ? "meter second" : "meter" }, bar);
  });
}

/** A table of counts per split, with a bar for each. */
function counts(title, names, rows) {
  const largest = Math.max(0, ...rows.flat());
  const head = health.splits.map((split, index) =>
    el("th", { class: "num name", scope: "col" }, el("i", { class: index % 2 ? "swatch second" : "swatch" }), split),
  );
  const lines = rows.map((values, row) =>
    el(
      "tr",
      {},
      el("th", { class: "name", scope: "row", text: names[row] }),
      ...values.map((value) => el("td", { class: "num", text: String(value) })),
      el("td", { class: "wide" }, ...meters(values, largest)),
    ),
  );
  const top = el("tr", {}, el("th", { scope: "col", text: "" }), ...head, el("th", { class: "wide", text: "" }));
  return el(
    "div",
    {},
    el("h3", { text: title }),
    el(
      "div",
      { class: "scroll" },
      el("table", { "aria-label": title }, el("thead", {}, top), el("tbody", {}, ...lines)),
    ),
  );
}

function buildContents() {
  const host = byId("contents");
  host.append(el("h2", { id: "contents-title", text: "What is there" }));
  host.append(el("ul", { class: "lines" }, ...health.lines.map((text) => el("li", { class: "name", text }))));
  const charts = el("div", { class: "charts" });
  for (const { title, names, counts: bySplit } of health.charts) {
    const rows = names.map((_, row) => health.splits.map((split) => bySplit[split][row]));
    if (rows.flat().some((count) => count)) charts.append(counts(title, names, rows));
  }
  const { rows, left_out: leftOut } = health.classes;
  if (rows.length) {
    const found = counts(
      "Classes: objects of each",
      rows.map((row) => row[0]),
      rows.map((row) => row.slice(1)),
    );
    if (leftOut) found.append(el("p", { class: "faint", text: `and ${leftOut} more classes` }));
    charts.append(found);
  }
  host.append(charts);
}

showPage(() => {
  document.title = health.title;
  byId("title").textContent = health.title;
  buildProblems();
  buildClips();
  buildContents();
});
