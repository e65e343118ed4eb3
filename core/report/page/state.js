// What is shown.

const state = {
  clip: null,
  frame: 0,
  step: 0,
  hidden: new Set(),
  large: false,
  swipe: 0.5,
  left: null,
  right: null,
  zoom: 1,
  x: 0,
  y: 0,
  pointer: null,
  showFrame: true,
  showBaseline: false,
  promptsEverywhere: false,
  playing: 0,
};

const visible = (clip) => clip.things.filter((thing) => !state.hidden.has(thing.id));
