// How numbers, settings and prompts are spelled.
const plainNumber = (value, decimals) => value.toFixed(decimals).replace(/^-(?=[0.]*$)/, '');
const number = (value, decimals) => value == null ? '–' : plainNumber(value, decimals).replace('-', '\u2212');
const arrow = up => up == null ? '' : up ? ' ↑' : ' ↓';
const better = up => up == null ? '' : up ? ', higher is better' : ', lower is better';
const counted = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

// `LPIPS to source image (embedded@1)` is a name and, in brackets, the backbone and version.
function metricName(label) {
  const [, name, version] = /^(.*?)(?: \((.*)\))?$/.exec(label);
  return {name, version: version ?? ''};
}

const DECIMALS = new Map();
function decimalsOf(metric) {
  if (!DECIMALS.has(metric)) {
    const largest = Math.max(0, ...VALUES[metric].filter(value => value != null).map(Math.abs).slice(0, 2000));
    DECIMALS.set(metric, largest >= 10 ? 2 : largest >= 0.1 ? 3 : largest >= 0.01 ? 4 : 5);
  }
  return DECIMALS.get(metric);
}

// The part of a setting that a series does not say: its place on the slider, else its whole label.
function atText(cell) {
  const along = SERIES.along[CELLS.series[cell]];
  if (along) return `${along} ${+CELLS.at[cell].toFixed(9)}`;
  const label = SERIES.label[CELLS.series[cell]];
  const parts = CELLS.setting[cell].split(', ').filter(part => !label.includes(part));
  return parts.join(', ');
}

function valueOf(picture, metric) {
  return VALUES[metric][picture];
}

function reasonOf(picture, metric) {
  const found = RUN.reasons.find(([name, , which]) => name === metric && which.includes(picture));
  return found ? found[1] : '';
}
