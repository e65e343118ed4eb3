// Frames are decoded when their clip is opened, and few are kept.

const frames = new Recent(16e6, (frame) => frame.pixels.length);
const frameKey = (clip, t) => `${clip.key}\n${t}`;

async function decodeFrame(clip, t) {
  const part = clip.parts.find((one) => one && one.images[t]);
  const source = part && part.images[t];
  if (typeof source !== "string" || !source.startsWith("data:image/")) return;
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = el("canvas");
  canvas.width = clip.width;
  canvas.height = clip.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, clip.width, clip.height);
  const data = context.getImageData(0, 0, clip.width, clip.height).data;
  frames.set(frameKey(clip, t), { pixels: new Uint32Array(data.buffer) });
}

/** Decode all frames of the clip that is shown, the nearest first. */
async function loadFrames(clip) {
  const order = clip.frameNumbers.map((_, t) => t);
  order.sort((a, b) => Math.abs(a - state.frame) - Math.abs(b - state.frame));
  for (const t of order) {
    if (state.clip !== clip) return;
    if (frames.get(frameKey(clip, t))) continue;
    try {
      await decodeFrame(clip, t);
    } catch {
      continue; // a damaged picture: its masks are shown all the same
    }
    if (state.clip === clip && state.frame === t) drawPanels();
  }
}
