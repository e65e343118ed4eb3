// Keys, and the place in the address.

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.clip) return;
  const { target } = event,
    tag = target.tagName;
  const types = tag === "SELECT" || tag === "TEXTAREA" || (tag === "INPUT" && target.type === "search");
  if (types) return;
  const slides = tag === "INPUT" && target.type === "range";
  const presses =
    tag === "BUTTON" || tag === "SUMMARY" || tag === "A" || (tag === "INPUT" && target.type === "checkbox");
  const box = target.closest(".scroll"),
    scrolls = box !== null && box.scrollWidth > box.clientWidth && !event.shiftKey;
  const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const { steps } = state.clip;
  if (turn && event.shiftKey) setStep(steps[clamp(steps.indexOf(state.step) + turn, 0, steps.length - 1)]);
  else if (turn && !slides && !scrolls) setFrame(state.frame + turn);
  else if (event.key === " " && !presses) play();
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") zoomTo(1, 0, 0);
  else if (event.key.toLowerCase() === "b" && !parts.baseline.disabled) parts.baseline.click();
  else return;
  event.preventDefault();
}

let keeping = 0;

/** Keep clip, frame and step in the address, so that it can be handed on. */
function keepPlace() {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    const place = new URLSearchParams({
      clip: state.clip.key,
      frame: state.clip.frameNumbers[state.frame],
      step: state.step,
    });
    try {
      history.replaceState(null, "", `#${place}`);
    } catch {
      // some viewers of files allow no address of their own
    }
  }, 400);
}

function startPlace() {
  const place = new URLSearchParams(location.hash.slice(1));
  const clip = clips.find((one) => one.key === place.get("clip"));
  if (clip) return [clip, Number(place.get("frame")) || 0, Number(place.get("step")) || 0];
  const key = (row) => (compares ? row.change : row.now);
  // A clip of all runs, and of several steps, tells most.
  const tells = ({ clip }) => clip.parts.filter((part) => part).length * 2 + Number(clip.steps.length > 1);
  const worst = rows
    .filter((row) => row.clip && isNumber(key(row)))
    .sort((a, b) => tells(b) - tells(a) || key(a) - key(b))[0];
  if (!worst) return [clips[0], null, Infinity];
  const bad = (worst.of[last] || {}).first_bad_frame;
  return [worst.clip, isNumber(bad) ? bad : null, Infinity];
}
