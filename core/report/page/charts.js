// Lines.

/** Round steps of an axis: at most `count` numbers between low and high. */
function ticksOf(low, high, count, whole = false) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= raw);
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) ticks.push(value);
  return ticks;
}

/**
 * A line chart. `draw` takes {series: [{name, color, dash, points: [[x, y or null]]}], range, here,
 * marks, value, onpick}; null ends a line and begins a new one.
 */
class Chart {
  constructor(title, { height = 132, dots = false, legend = "" } = {}) {
    this.height = height;
    this.dots = dots;
    this.value = el("span", { class: "value" });
    this.svg = svg("svg", { role: "img" });
    this.title = title;
    this.node = el("div", { class: "chart" }, el("h3", {}, el("span", { class: "name", text: title, title }), this.value), this.svg);
    if (legend) this.node.append(el("p", { class: "faint", text: legend }));
    this.svg.addEventListener("click", (event) => this.pick(event));
  }

  draw(data) {
    this.data = data;
    const width = Math.max(160, this.svg.clientWidth || this.node.clientWidth || 300);
    const height = this.height, left = 38, right = 10, top = 8, bottom = 20;
    const points = data.series.flatMap((line) => line.points);
    const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]).filter(isNumber);
    let [x0, x1] = data.domain || [Math.min(...xs), Math.max(...xs)];
    if (!(x1 > x0)) [x0, x1] = [(xs.length ? x0 : 0) - 1, (xs.length ? x0 : 0) + 1];
    let [y0, y1] = data.range || [Math.min(...ys), Math.max(...ys)];
    if (!(y1 > y0)) [y0, y1] = ys.length ? [y0 - Math.abs(y0 || 1) * 0.1, y0 + Math.abs(y0 || 1) * 0.1] : [0, 1];
    const placeX = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
    const placeY = (y) => top + (1 - (y - y0) / (y1 - y0)) * (height - top - bottom);
    this.place = { placeX, placeY };
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.words(data));
    const parts = [];
    for (const tick of ticksOf(y0, y1, 4)) {
      parts.push(svg("line", { class: "axis", x1: left, x2: width - right, y1: placeY(tick), y2: placeY(tick) }));
      parts.push(svg("text", { x: left - 6, y: placeY(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of ticksOf(x0, x1, Math.max(2, Math.floor(width / 70)), true)) {
      parts.push(svg("text", { x: placeX(tick), y: height - 4, "text-anchor": "middle" }, String(tick)));
    }
    for (const mark of data.marks || []) {
      const x = placeX(mark), y = height - bottom;
      const triangle = svg("path", { class: "mark", d: `M${x - 4},${y}h8l-4,-7z` });
      triangle.append(svg("title", {}, `frame ${mark} was prompted`));
      parts.push(triangle);
    }
    if (isNumber(data.here)) {
      parts.push(svg("line", { class: "here", x1: placeX(data.here), x2: placeX(data.here), y1: top - 4, y2: height - bottom }));
    }
    for (const line of data.series) this.drawLine(line, parts);
    this.svg.replaceChildren(...parts);
    this.value.textContent = data.value || "";
    this.node.classList.toggle("live", Boolean(data.onpick));
  }

  drawLine(line, parts) {
    const { placeX, placeY } = this.place;
    let path = "", pen = false;
    for (const [x, y] of line.points) {
      if (isNumber(y)) path += `${pen ? "L" : "M"}${placeX(x).toFixed(1)},${placeY(y).toFixed(1)}`;
      pen = isNumber(y);
    }
    if (line.cased) parts.push(svg("path", { class: "halo", d: path }));
    const stroke = svg("path", { class: "line", d: path });
    stroke.style.stroke = line.color;
    if (line.dash) stroke.setAttribute("stroke-dasharray", line.dash);
    parts.push(stroke);
    line.points.forEach(([x, y], index) => {
      if (!isNumber(y)) return;
      const alone = !isNumber((line.points[index - 1] || [])[1]) && !isNumber((line.points[index + 1] || [])[1]);
      if (!this.dots && !alone) return;
      const dot = svg("circle", { class: "rim", cx: placeX(x), cy: placeY(y), r: 3, "data-x": x, "data-series": line.name });
      dot.style.fill = line.color;
      dot.append(svg("title", {}, `${line.name}: ${three(y)} at ${x}`));
      parts.push(dot);
    });
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

  /** Hand over the x of the point nearest to a click. */
  pick(event) {
    const { data } = this;
    if (!data || !data.onpick) return;
    const box = this.svg.getBoundingClientRect(), scale = this.svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null;
    for (const line of data.series) {
      for (const point of line.points) {
        if (!isNumber(point[1]) && !data.gaps) continue;
        const dx = this.place.placeX(point[0]) - x;
        const dy = isNumber(point[1]) ? (this.place.placeY(point[1]) - y) / 4 : 20;
        const distance = dx * dx + dy * dy;
        if (!best || distance < best.distance) best = { distance, x: point[0] };
      }
    }
    if (best) data.onpick(best.x);
  }
}
