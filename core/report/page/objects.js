// The table of validated objects.

const FIRST_ROWS = 300;
const sorting = { column: null, falling: false, all: false, text: "" };

function objectColumns() {
  const plain = [
    { name: "Video", of: (row) => row.video },
    { name: "Object", of: (row) => row.id, compare: compareIds },
    { name: "Name", of: (row) => row.name || "" },
  ];
  const bad = {
    name: "First bad frame",
    of: (row) => (row.of[last] || {}).first_bad_frame ?? null,
    number: String,
  };
  const change = { name: "Change", of: (row) => row.change, change: true };
  if (compares) {
    const each = runs.map((run, r) => ({
      name: run.name,
      of: (row) => (row.of[r] || {}).now ?? null,
      number: three,
    }));
    return [...plain, ...each, change, bad];
  }
  const one = (field) => (row) => (row.of[0] || {})[field] ?? null;
  return [
    ...plain,
    { name: "First", of: one("baseline"), number: three },
    { name: "Now", of: one("now"), number: three },
    change,
    { name: "", meter: true },
    bad,
  ];
}

function buildObjects() {
  const host = byId("objects"),
    columns = objectColumns();
  sorting.column = columns.find((column) => (compares ? column.change : column.name === "Now"));
  const search = el("input", {
    type: "search",
    placeholder: "Find a video or an object",
    "aria-label": "find a video or an object",
  });
  search.addEventListener("input", () => {
    sorting.text = search.value.toLowerCase();
    fill();
  });
  const count = el("span", { class: "faint", role: "status" });
  const head = el("tr");
  for (const column of columns) {
    const cell = el("th", { scope: "col", class: column.number || column.change ? "num" : null });
    if (column.of) {
      const button = el("button", { type: "button", class: "name", text: column.name });
      button.addEventListener("click", () => {
        sorting.falling = sorting.column === column ? !sorting.falling : false;
        sorting.column = column;
        fill();
      });
      cell.append(button);
    } else cell.append(el("span", { class: "faint", text: "│ first  ▬ now" }));
    column.head = cell;
    head.append(cell);
  }
  const body = el("tbody");
  const more = el("button", {
    type: "button",
    onclick: () => {
      sorting.all = true;
      fill();
    },
  });
  host.append(
    el("div", { class: "head" }, el("h2", { id: "objects-title", text: "Validated objects" }), search, count),
    rows.length
      ? el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "table of objects" },
          el("table", {}, el("thead", {}, head), body),
        )
      : el("p", { class: "faint", text: "No object was validated yet." }),
    more,
  );
  const fill = () => {
    const sorted = sortedRows();
    const shown = sorting.all ? sorted : sorted.slice(0, FIRST_ROWS);
    body.replaceChildren(...shown.map((row) => objectRow(row, columns)));
    for (const column of columns) {
      if (column === sorting.column)
        column.head.setAttribute("aria-sort", sorting.falling ? "descending" : "ascending");
      else column.head.removeAttribute("aria-sort");
    }
    count.textContent =
      sorted.length === rows.length
        ? counted(rows.length, "object", "objects")
        : `${sorted.length} of ${rows.length} objects`;
    more.hidden = shown.length === sorted.length;
    more.textContent = `Show all ${sorted.length}`;
  };
  fill();
}

/** The rows that the search finds, in the order of the chosen column; what is unknown comes last. */
function sortedRows() {
  const { column, falling, text } = sorting;
  const found = rows.filter((row) => !text || objectName(row).toLowerCase().includes(text));
  return found.sort((a, b) => inOrder(column.of(a), column.of(b), falling, column.compare));
}

function objectRow(row, columns) {
  const line = el("tr");
  for (const column of columns) {
    const value = column.of ? column.of(row) : null;
    if (column.meter) line.append(el("td", {}, meter((row.of[0] || {}).baseline, row.now)));
    else if (column.change) {
      const change = changeOf(value);
      line.append(el("td", { class: `num ${change.kind}`, text: change.text || "–" }));
    } else if (column.number)
      line.append(el("td", { class: "num", text: value === null ? "–" : column.number(value) }));
    else if (column.name === "Video" && row.clip) {
      line.append(
        el(
          "td",
          {},
          el("button", {
            type: "button",
            class: "link",
            title: "open the clip",
            text: value,
            onclick: () => openRow(row),
          }),
        ),
      );
    } else line.append(el("td", { class: "name", text: value }));
  }
  return line;
}
