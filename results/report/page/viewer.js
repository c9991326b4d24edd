// The viewer: any two pictures of a pair under a wipe, and all that was made of the pair below.
const viewing = {scene: null, left: null, right: null};

function startViewer() {
  const dialog = $('viewer'), stage = $('stage');
  $('viewer-close').addEventListener('click', () => dialog.close());
  $('viewer-before').addEventListener('click', () => move(-1));
  $('viewer-after').addEventListener('click', () => move(1));
  $('wipe').addEventListener('input', () => setWipe($('wipe').value));
  $('mask').addEventListener('change', drawMask);
  const drag = event => {
    const box = stage.getBoundingClientRect();
    setWipe(Math.max(0, Math.min(100, (event.clientX - box.left) / box.width * 100)));
  };
  stage.addEventListener('pointerdown', event => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener('pointermove', event => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  for (const side of ['left', 'right']) {
    $(`${side}-series`).addEventListener('change', () => {
      setSide(side, nearestTo(ofSeries(+$(`${side}-series`).value), EDITS.cell[viewing[side]]));
    });
    $(`${side}-at`).addEventListener('input', () => setSide(side, ofSeries(+$(`${side}-series`).value)[+$(`${side}-at`).value]));
  }
}

const ofSeries = series => SCENES.edits[viewing.scene].filter(picture => seriesOf(picture) === series);

function openViewer(picture, scene = SCENES.edits.findIndex(edits => edits.includes(picture))) {
  if (picture == null || scene < 0) return;
  showScene(scene, sourceOf(scene) ?? picture, picture);
  if (!$('viewer').open) $('viewer').showModal();
  $('viewer').scrollTop = 0;
}

// To the pair before or after, at the same settings where it has them.
function move(step) {
  const there = SCENES.edits.map((_, scene) => scene).filter(scene => scene === viewing.scene || seriesIn(scene).size);
  const scene = there[(there.indexOf(viewing.scene) + step + there.length) % there.length];
  const same = picture => {
    const inScene = SCENES.edits[scene].filter(other => seriesOf(other) === seriesOf(picture));
    return inScene.find(other => EDITS.cell[other] === EDITS.cell[picture]) ?? inScene[0] ?? null;
  };
  const left = same(viewing.left) ?? sourceOf(scene), right = same(viewing.right) ?? pictureOf(scene);
  if (right != null) { showScene(scene, left ?? right, right); say($('viewer-title').textContent); }
}

function showScene(scene, left, right) {
  const pair = SCENES.pair[scene];
  Object.assign(viewing, {scene, left, right});
  const kind = [PAIRS.edit_type[pair], PAIRS.difficulty[pair], `seed ${SCENES.seed[scene]}`].filter(Boolean).join(', ');
  $('viewer-title').textContent = `${PAIRS.pair_id[pair]} (${kind})`;
  $('viewer-prompts').replaceChildren(...promptDifference(PAIRS.source_prompt[pair], PAIRS.target_prompt[pair]),
    ...(PAIRS.instruction[pair] ? [el('br'), PAIRS.instruction[pair]] : []));
  const series = [...new Set(SCENES.edits[scene].map(seriesOf))];
  for (const side of ['left', 'right']) fill($(`${side}-series`), series.map(one => [one, SERIES.label[one]]));
  drawFilm(series);
  setSide('left', left);
  setSide('right', right);
  setWipe($('wipe').value);
  const mask = EDITS.mask && SCENES.edits[scene].map(picture => EDITS.mask[picture]).find(Boolean);
  $('mask-choice').hidden = !mask;
  $('mask').checked = false;
  viewing.mask = mask;
  drawMask();
  drawHeatMaps(pair, SCENES.seed[scene]);
}

function setSide(side, picture) {
  viewing[side] = picture;
  showFull($(side), picture);
  const series = seriesOf(picture), pictures = ofSeries(series), range = $(`${side}-at`);
  $(`${side}-series`).value = series;
  range.max = Math.max(0, pictures.length - 1);
  range.disabled = pictures.length < 2;
  range.value = pictures.indexOf(picture);
  const told = atText(EDITS.cell[picture]) || '';
  range.setAttribute('aria-valuetext', told || 'one setting');
  $(`${side}-told`).textContent = told;
  $(`${side}-tag`).textContent = [SERIES.label[series], atText(EDITS.cell[picture])].filter(Boolean).join(', ');
  drawValues();
  // The others of the slider, so that it does not wait for a server.
  pictures.slice(0, 24).forEach(other => { new Image().src = inRun(fullPath(other)); });
  for (const button of $('film').querySelectorAll('.shot')) button.setAttribute('aria-pressed', String(+button.dataset.picture === viewing.right));
}

function setWipe(percent) {
  $('wipe').value = percent;
  $('wipe').setAttribute('aria-valuetext', `${Math.round(percent)} % left picture`);
  $('stage').style.setProperty('--at', `${percent}%`);
}

function drawMask() {
  $('stage').querySelector('.mask')?.remove();
  if (!viewing.mask || !$('mask').checked) return;
  $('stage').append(el('img', {class: 'mask', alt: 'mask of the pair', src: inRun(viewing.mask)}));
}

function drawValues() {
  const {left, right} = viewing, told = (picture, metric) => {
    const value = valueOf(picture, metric);
    return value == null ? el('td', {title: reasonOf(picture, metric)}, '–') : el('td', {}, number(value, decimalsOf(metric)));
  };
  const name = picture => [SERIES.label[seriesOf(picture)], atText(EDITS.cell[picture])].filter(Boolean).join(', ');
  $('viewer-values').tHead.replaceChildren(el('tr', {}, el('th', {scope: 'col'}, 'metric'), el('th', {scope: 'col'}, name(left)), el('th', {scope: 'col'}, name(right))));
  $('viewer-values').tBodies[0].replaceChildren(...METRICS.map(metric => el('tr', {},
    el('th', {scope: 'row'}, metricName(metric.label).name, arrow(metric.up).replace(' ', '\u00a0'), ' ', el('span', {class: 'version'}, metricName(metric.label).version)), told(left, metric.name), told(right, metric.name))));
  const warning = EDITS.warning[right] == null ? '' : RUN.warnings[EDITS.warning[right]];
  const missing = METRICS.map(metric => reasonOf(right, metric.name) && `${metric.label}: ${reasonOf(right, metric.name)}`).filter(Boolean);
  const time = EDITS.seconds[right] == null ? '' : `, ${+EDITS.seconds[right].toPrecision(3)} s`;
  $('viewer-facts').replaceChildren('Right: ', el('a', {href: inRun(fullPath(right)), target: '_blank', rel: 'noopener'}, EDITS.file[right]),
    ` (key ${EDITS.key[right]}${time}). `, ...[warning && `Warning: ${warning}. `, missing.length ? `No value: ${missing.join('; ')}.` : ''].filter(Boolean));
}

function drawFilm(series) {
  $('film').replaceChildren(...series.map(one => el('div', {class: 'film-row'}, el('span', {id: `film-${one}`}, SERIES.label[one]),
    el('ul', {'aria-labelledby': `film-${one}`}, ...ofSeries(one).map(picture => {
      const button = shot(picture, atText(EDITS.cell[picture]), () => setSide('right', picture));
      button.dataset.picture = picture;
      return el('li', {}, button);
    })))));
}

function drawHeatMaps(pair, seed) {
  const found = RUN.heat_maps.filter(map => map.source_prompt === PAIRS.source_prompt[pair]
    && ['', PAIRS.target_prompt[pair]].includes(map.target_prompt) && map.seed === seed);
  $('viewer-maps').replaceChildren(...found.flatMap(map => [el('h3', {}, map.title),
    el('img', {src: inRun(map.file), alt: map.title, loading: 'lazy', width: map.size[0], height: map.size[1]})]));
}
