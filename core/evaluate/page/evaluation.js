// The page of an evaluation: numbers first, then the worst videos, then every object.

const evaluation = JSON.parse(byId("book").textContent);

const COLUMNS = [
  { name: "video" },
  { name: "object", number: String },
  { name: "name" },
  { name: "first frame", number: String },
  { name: "frames", number: String },
  { name: "J", number: three },
  { name: "F", number: three },
  { name: "J&F", number: three },
];

function picture(src, alt) {
  return src ? el("img", { src, alt, loading: "lazy" }) : null;
}

function buildNumbers() {
  const host = byId("numbers");
  const scores = evaluation.numbers.map(([name, value]) =>
    el("div", {}, el("dt", { text: name }), el("dd", { text: three(value) })),
  );
  host.append(el("dl", { class: "scores" }, ...scores), el("p", { class: "faint", text: evaluation.counts }));
  const left = Object.entries(evaluation.not_scored).map(([name, why]) => `${name} was left out: ${why}`);
  const notes = [...evaluation.notes, ...left].map((text) => el("li", { class: "name", text }));
  if (notes.length) host.append(el("ul", {}, ...notes));
  if (evaluation.compare) host.append(...comparison(evaluation.compare));
}

function comparison(compared) {
  const text =
    `J&F ${three(compared["J&F"])} against ${three(compared["J&F_compared"])} of ${compared.with}: ` +
    `${compared.better} of ${counted(compared.objects, "object", "objects")} better, ${compared.worse} worse.`;
  return [el("p", { class: "name", text }), picture(compared.src, "The objects that lost most, or gained least")].filter(Boolean);
}

function video(name, src) {
  const film = el("video", { src, "aria-label": `${name}, tracked`, controls: true, loop: true, preload: "metadata" });
  film.muted = true; // the attribute says so only where a page is read
  return film;
}

function buildVideos() {
  byId("videos").hidden = byId("to-videos").hidden = !evaluation.videos.length;
  const cards = evaluation.videos.map(({ name, film, src }) =>
    el(
      "article",
      { class: "card" },
      el("h2", { class: "name", text: name }),
      film && video(name, film),
      picture(src, `The worst frames of ${name}`),
    ),
  );
  byId("videos").append(...cards);
}

function row(values) {
  const cells = COLUMNS.map(({ number }, k) =>
    number
      ? el("td", { class: "num", text: values[k] === null ? "–" : number(values[k]) })
      : el("td", { class: "name", text: values[k] }),
  );
  return el("tr", {}, ...cells);
}

function buildObjects() {
  const rows = evaluation.objects.map((values) => {
    const [j, f] = values.slice(-2);
    return [...values, j === null || f === null ? null : (j + f) / 2];
  });
  const body = el("tbody");
  let sorted = COLUMNS.length - 1,
    falling = true;
  const heads = COLUMNS.map(({ name, number }, k) =>
    el(
      "th",
      { class: number ? "num" : null, scope: "col" },
      el("button", { type: "button", class: "name", text: name, onclick: () => sortBy(k) }),
    ),
  );
  function sortBy(k) {
    falling = sorted === k && !falling;
    sorted = k;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[k].setAttribute("aria-sort", falling ? "descending" : "ascending");
    rows.sort((one, other) => inOrder(one[k], other[k], falling));
    body.replaceChildren(...rows.map(row));
  }
  sortBy(sorted);
  byId("objects").append(
    el("h2", { id: "objects-title", text: "Objects" }),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table of objects" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)),
  );
}

showPage(() => {
  document.title = evaluation.title;
  byId("title").textContent = evaluation.title;
  byId("subtitle").textContent = evaluation.subtitle;
  buildNumbers();
  buildVideos();
  buildObjects();
});
