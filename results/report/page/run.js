// The run's data, and what every part asks of it.
const RUN = JSON.parse(document.getElementById('data').textContent);
const {cells: CELLS, series: SERIES, edits: EDITS, pairs: PAIRS, scenes: SCENES, metrics: METRICS, values: VALUES} = RUN;
const PICTURES = EDITS.cell.length;

const seriesOf = picture => CELLS.series[EDITS.cell[picture]];
const isGiven = picture => SERIES.given[seriesOf(picture)];
const colourOf = series => `m${plotted.get(series) ?? 5}`;

// Series that are drawn, with the number of their colour and shape: that of the method where it has one, for its
// first series, else the next that is free. Sources and other given pictures have none.
const plotted = new Map();
const OWN = {p2p: 0, sdedit: 1, fixed_seed: 2, p2p_auto_tau: 3};
{
  const drawn = [...SERIES.label.keys()].filter(series => !SERIES.given[series]);
  const first = drawn.filter(series => SERIES.method[series] in OWN
    && drawn.find(other => SERIES.method[other] === SERIES.method[series]) === series);
  const free = [0, 1, 2, 3, 4, 5, 6, 7].filter(look => !first.some(series => OWN[SERIES.method[series]] === look));
  let next = 0;
  for (const series of drawn)
    plotted.set(series, first.includes(series) ? OWN[SERIES.method[series]] : free.length ? free[next++ % free.length] : next++ % 8);
}

function fill(select, entries) {
  select.replaceChildren(...entries.map(([value, label]) => new Option(label, value)));
}

function say(text) {
  $('say').textContent = text;
}

const thumbnail = picture => EDITS.thumb[picture] && `thumbnails/${EDITS.thumb[picture]}.webp`;
const inRun = path => '../' + path.split('/').map(encodeURIComponent).join('/');
const fullPath = picture => [RUN.folders[EDITS.folder[picture]], EDITS.file[picture]].filter(Boolean).join('/');

function describe(picture) {
  const pair = EDITS.pair[picture], cell = EDITS.cell[picture];
  const setting = [SERIES.label[CELLS.series[cell]], atText(cell)].filter(Boolean).join(', ');
  const prompt = isGiven(picture) ? PAIRS.source_prompt[pair] : PAIRS.target_prompt[pair];
  return `${setting}: ${prompt}`;
}

function smallPicture(picture, alt = describe(picture)) {
  const image = el('img', {alt, decoding: 'async', width: 160, height: 160});
  image.addEventListener('load', onLoad);
  showSmall(image, picture, alt);
  return image;
}

function showSmall(image, picture, alt = describe(picture)) {
  if (image.dataset.picture === String(picture)) return;
  image.dataset.picture = picture;
  image.alt = alt;
  const file = thumbnail(picture);
  if (file) image.src = file;
  else { image.removeAttribute('src'); image.alt = `no picture: ${alt}`; }
}

function showFull(image, picture) {
  image.alt = describe(picture);
  image.onload = onLoad;
  image.onerror = () => { image.onerror = null; if (thumbnail(picture)) image.src = thumbnail(picture); };
  image.src = inRun(fullPath(picture));
}

function shot(picture, under, press = () => openViewer(picture)) {
  return el('button', {type: 'button', class: 'shot', onclick: press},
    smallPicture(picture), under == null ? null : el('span', {class: 'under'}, under));
}
