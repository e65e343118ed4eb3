// Clicks and boxes, as on sheets.

function drawClick(context, x, y, unit, positive, rgb) {
  const shape = (radius) => {
    context.beginPath();
    if (positive) context.arc(x, y, radius * unit, 0, 2 * Math.PI);
    else {
      context.moveTo(x, y - radius * unit);
      context.lineTo(x + radius * unit, y);
      context.lineTo(x, y + radius * unit);
      context.lineTo(x - radius * unit, y);
      context.closePath();
    }
    context.fill();
  };
  const radius = positive ? 6 : 7.5;
  for (const [grown, color] of [
    [1.5, "rgb(25,25,25)"],
    [0.5, cssOf(rgb)],
    [-1.5, positive ? "rgb(0,140,60)" : "rgb(200,0,30)"],
  ]) {
    context.fillStyle = color;
    shape(radius + grown);
  }
  context.strokeStyle = "white";
  context.setLineDash([]);
  context.lineWidth = 1.5 * unit;
  context.beginPath();
  context.moveTo(x - 3 * unit, y);
  context.lineTo(x + 3 * unit, y);
  if (positive) {
    context.moveTo(x, y - 3 * unit);
    context.lineTo(x, y + 3 * unit);
  }
  context.stroke();
}

function drawBox(context, corners, unit, rgb) {
  const [x0, y0, x1, y1] = corners;
  for (const [width, color, dash] of [
    [3, "rgb(25,25,25)", []],
    [1.5, cssOf(rgb), [7.5, 4.5]],
  ]) {
    context.lineWidth = width * unit;
    context.strokeStyle = color;
    context.setLineDash(dash.map((length) => length * unit));
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  context.setLineDash([]);
}

/** Write neighbours as a range: 1–3,7. */
function ranges(numbers) {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b),
    texts = [];
  for (let i = 0; i < sorted.length; i++) {
    const first = sorted[i];
    while (i + 1 < sorted.length && sorted[i + 1] === sorted[i] + 1) i++;
    texts.push(sorted[i] > first ? `${first}–${sorted[i]}` : `${first}`);
  }
  return texts.join(",");
}

/** Draw boxes, then clicks, then rounds; the centre of the first pixel is at (0.5, 0.5). */
function drawPrompts(context, given, place, unit) {
  for (const { prompt, rgb } of given) {
    if (prompt.kind === "box" && prompt.box) {
      const [x0, y0, x1, y1] = prompt.box;
      drawBox(context, [...place(x0, y0), ...place(x1, y1)], unit, rgb);
    }
  }
  const numbers = new Map();
  for (const { prompt, rgb } of given) {
    if (prompt.kind !== "click") continue;
    const [x, y] = place(prompt.x, prompt.y);
    drawClick(context, x, y, unit, prompt.positive, rgb);
    if (prompt.round && x >= 0 && y >= 0 && x <= context.canvas.width && y <= context.canvas.height) {
      const key = `${x},${y}`;
      numbers.set(key, { x, y, rounds: [...((numbers.get(key) || {}).rounds || []), prompt.round] });
    }
  }
  context.font = `${13 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { x, y, rounds } of numbers.values()) {
    const text = ranges(rounds),
      width = context.measureText(text).width;
    const left = x + 8 * unit + width > context.canvas.width ? x - 8 * unit - width : x + 8 * unit;
    context.lineWidth = 3 * unit;
    context.strokeStyle = "rgb(25,25,25)";
    context.strokeText(text, left, y);
    context.fillStyle = "white";
    context.fillText(text, left, y);
  }
}
