// A card: a pair's source beside one of its edits, with a slider along the method's settings.
const cardState = new Map();   // scene -> {series, cell}: what was chosen on this card alone
const allState = {series: null, cell: null};

// The pictures of a scene that the filters leave, by series, in the order of the slider.
function seriesIn(scene) {
  const found = new Map();
  for (const picture of SCENES.edits[scene]) {
    if (isGiven(picture) || !allowed[picture] || (chosen.setting != null && EDITS.cell[picture] !== chosen.setting)) continue;
    const series = seriesOf(picture);
    if (!found.has(series)) found.set(series, []);
    found.get(series).push(picture);
  }
  return found;
}

const sourceOf = scene => SCENES.edits[scene].find(picture => SERIES.method[seriesOf(picture)] === 'source')
  ?? SCENES.edits[scene].find(isGiven) ?? null;

// Of a series, the picture of a cell, else the one whose setting is nearest to the cell's, else the middle one.
function nearestTo(pictures, cell) {
  const same = pictures.find(picture => EDITS.cell[picture] === cell);
  if (same != null) return same;
  const at = cell == null || SERIES.along[CELLS.series[cell]] !== SERIES.along[seriesOf(pictures[0])] ? null : CELLS.at[cell];
  if (at == null) return pictures[Math.floor((pictures.length - 1) / 2)];
  const distance = picture => Math.abs((CELLS.at[EDITS.cell[picture]] ?? 0) - at);
  return pictures.reduce((best, picture) => distance(picture) < distance(best) ? picture : best);
}

// The edit that a card shows; null where the filters leave none of the scene.
function pictureOf(scene) {
  const there = seriesIn(scene), own = cardState.get(scene);
  if (!there.size) return null;
  const wanted = own?.series ?? allState.series;
  const series = there.has(wanted) ? wanted : there.keys().next().value;
  return nearestTo(there.get(series), own?.series === series ? own.cell : allState.cell);
}

function card(scene) {
  const pair = SCENES.pair[scene], source = sourceOf(scene), there = seriesIn(scene);
  const left = source == null ? el('span', {}) : smallPicture(source), right = smallPicture(pictureOf(scene));
  const select = el('select', {'aria-label': `Method for ${PAIRS.pair_id[pair]}`});
  fill(select, [...there.keys()].map(series => [series, SERIES.label[series]]));
  const range = el('input', {type: 'range', min: 0, step: 1, 'aria-label': `Setting for ${PAIRS.pair_id[pair]}`});
  const setting = el('output', {}), values = el('p', {class: 'told'});
  const node = el('article', {class: 'card', 'aria-label': `${PAIRS.pair_id[pair]}, seed ${SCENES.seed[scene]}`},
    el('button', {type: 'button', class: 'shot two', 'aria-label': `Compare the pictures of ${PAIRS.pair_id[pair]}, seed ${SCENES.seed[scene]}`,
      onclick: () => openViewer(pictureOf(scene), scene)}, left, right),
    el('p', {class: 'prompts', title: PAIRS.target_prompt[pair]}, ...promptDifference(PAIRS.source_prompt[pair], PAIRS.target_prompt[pair])),
    select, el('div', {class: 'pick-line'}, range, setting), values);
  node.refresh = () => {
    const picture = pictureOf(scene), series = seriesOf(picture), pictures = there.get(series);
    select.value = series;
    range.max = pictures.length - 1;
    range.disabled = pictures.length < 2;
    range.value = pictures.indexOf(picture);
    const told = atText(EDITS.cell[picture]) || SERIES.label[series];
    range.setAttribute('aria-valuetext', told);
    setting.textContent = told;
    values.title = [$('across').value, $('up').value].filter(Boolean).map(metric => METRICS.find(one => one.name === metric).label).join('; ');
    values.textContent = [$('across').value, $('up').value].filter(Boolean)
      .map(metric => `${metric.split(/[_@]/)[0]} ${number(valueOf(picture, metric), decimalsOf(metric))}`).join('  ');
    showSmall(right, picture);
  };
  select.addEventListener('change', () => {
    const series = +select.value, next = nearestTo(there.get(series), EDITS.cell[pictureOf(scene)]);
    cardState.set(scene, {series, cell: EDITS.cell[next]});
    node.refresh();
  });
  range.addEventListener('input', () => {
    const series = +select.value;
    cardState.set(scene, {series, cell: EDITS.cell[there.get(series)[+range.value]]});
    node.refresh();
  });
  node.refresh();
  return node;
}
