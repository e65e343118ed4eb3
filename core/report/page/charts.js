// Lines.

/** Round steps of an axis: at most `count` numbers between low and high. */
function ticksOf(low, high, count, whole = false) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= raw);
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step)
    ticks.push(value);
  return ticks;
}

const LEFT = 38,
  RIGHT = 10,
  TOP = 8,
  BOTTOM = 20;

/**
 * A line chart. `draw` takes {series: [{name, color, dash, points: [[x, y or null]]}], range, domain,
 * here, marks, value, onpick}; null ends a line and begins a new one.
 */
class Chart {
  constructor(title, { height = 132, dots = false, legend = "" } = {}) {
    this.height = height;
    this.dots = dots;
    this.width = 0;
    this.value = el("span", { class: "value" });
    this.svg = svg("svg", { role: "img", height });
    this.here = svg("line", { class: "here", y1: TOP - 4, y2: height - BOTTOM });
    this.spot = svg("circle", { class: "spot", r: 4.5 });
    this.title = title;
    const head = el("h3", {}, el("span", { class: "name", text: title, title }), this.value);
    this.node = el("div", { class: "chart" }, head, this.svg);
    if (legend) this.node.append(el("p", { class: "faint", text: legend }));
    this.svg.addEventListener("click", (event) => {
      const found = this.nearest(event);
      if (found && this.data.onpick) this.data.onpick(found.x);
    });
    this.svg.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    charts.push(this);
  }

  draw(data) {
    this.data = data;
    this.width = this.width || Math.max(160, this.svg.clientWidth || this.node.clientWidth || 300);
    const { width, height } = this;
    const points = data.series.flatMap((line) => line.points);
    const xs = points.map((point) => point[0]),
      ys = points.map((point) => point[1]).filter(isNumber);
    const [x0, x1] = widened(data.domain || extentOf(xs), xs.length);
    const [y0, y1] = widened(data.range || extentOf(ys), ys.length);
    this.placeX = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    this.placeY = (y) => TOP + (1 - (y - y0) / (y1 - y0)) * (height - TOP - BOTTOM);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", this.words(data));
    const parts = [];
    for (const tick of ticksOf(y0, y1, 4)) {
      const y = this.placeY(tick);
      parts.push(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of ticksOf(x0, x1, Math.max(2, Math.floor(width / 70)), true)) {
      parts.push(svg("text", { x: this.placeX(tick), y: height - 4, "text-anchor": "middle" }, String(tick)));
    }
    for (const mark of data.marks || []) {
      const triangle = svg("path", {
        class: "mark",
        d: `M${this.placeX(mark) - 4},${height - BOTTOM}h8l-4,-7z`,
      });
      triangle.append(svg("title", {}, `frame ${mark} was prompted`));
      parts.push(triangle);
    }
    for (const line of data.series) this.drawLine(line, parts);
    this.svg.replaceChildren(...parts, this.here, this.spot);
    this.node.classList.toggle("live", Boolean(data.onpick));
    this.moveHere(data.here);
    this.point(null);
  }

  /** Move the line that says where the viewer is, without drawing anything anew. */
  moveHere(x) {
    this.here.style.display = isNumber(x) ? "" : "none";
    if (!isNumber(x)) return;
    this.here.setAttribute("x1", this.placeX(x));
    this.here.setAttribute("x2", this.placeX(x));
  }

  /** A line, and its points in one path: hundreds of elements would take longer than a frame. */
  drawLine(line, parts) {
    let path = "",
      dots = "",
      pen = false;
    line.points.forEach(([x, y], index) => {
      if (isNumber(y)) {
        const [px, py] = [this.placeX(x).toFixed(1), this.placeY(y).toFixed(1)];
        path += `${pen ? "L" : "M"}${px},${py}`;
        const alone = !pen && !isNumber((line.points[index + 1] || [])[1]);
        if (this.dots || alone) dots += `M${px},${py}h0`;
      }
      pen = isNumber(y);
    });
    const draw = (kind, d, color) => {
      const node = svg("path", { class: kind, d });
      if (color) node.style.stroke = color;
      if (line.dash && !kind.startsWith("dots")) node.setAttribute("stroke-dasharray", line.dash);
      parts.push(node);
    };
    if (line.cased) draw("halo", path);
    draw("line", path, line.color);
    if (!dots) return;
    draw("dots under", dots);
    draw("dots", dots, line.color);
  }

  words(data) {
    const lines = data.series.map((line) => {
      const known = line.points.filter((point) => isNumber(point[1]));
      if (!known.length) return `${line.name}: no values`;
      const [first, last] = [known[0], known[known.length - 1]];
      return `${line.name}: ${short(first[1])} at ${first[0]}, ${short(last[1])} at ${last[0]}`;
    });
    return `${this.title}. ${lines.join("; ")}`;
  }

  /** Where a point of a line is in the window. */
  locate(name, x) {
    const line = this.data.series.find((one) => one.name === name);
    const point = line && line.points.find((one) => one[0] === x);
    if (!point || !isNumber(point[1])) return null;
    const box = this.svg.getBoundingClientRect(),
      scale = box.width / this.width;
    return [box.left + this.placeX(x) * scale, box.top + this.placeY(point[1]) * scale];
  }

  /** The point nearest to the pointer, the distance along x counting most. */
  nearest(event) {
    if (!this.data) return null;
    const box = this.svg.getBoundingClientRect(),
      scale = this.width / box.width;
    const x = (event.clientX - box.left) * scale,
      y = (event.clientY - box.top) * scale;
    let best = null;
    for (const line of this.data.series) {
      for (const [px, py] of line.points) {
        if (!isNumber(py) && !this.data.gaps) continue;
        const dx = this.placeX(px) - x,
          dy = isNumber(py) ? (this.placeY(py) - y) / 4 : 20;
        const distance = dx * dx + dy * dy;
        if (!best || distance < best.distance) best = { distance, x: px, y: py, line };
      }
    }
    return best;
  }

  /** Say the value of a point, or what the chart says without one. */
  point(found) {
    const known = found && isNumber(found.y);
    this.spot.style.display = known ? "" : "none";
    this.value.textContent = known
      ? `${found.line.name}: ${short(found.y)} at ${found.x}`
      : (this.data && this.data.value) || "";
    if (!known) return;
    this.spot.setAttribute("cx", this.placeX(found.x));
    this.spot.setAttribute("cy", this.placeY(found.y));
    this.spot.style.stroke = found.line.color;
  }
}

const charts = [];

/** The smallest and the largest of some values; as arguments of Math.min a long curve's are too many. */
function extentOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Give an axis without extent some, so that a single value stands in its middle. */
function widened([low, high], count) {
  if (high > low) return [low, high];
  if (!count) return [0, 1];
  const room = Math.abs(low) * 0.1 || 1;
  return [low - room, low + room];
}
