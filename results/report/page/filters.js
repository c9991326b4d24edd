// Which pictures are shown. A choice with one answer is not offered; what is chosen stands in the address.
const FIELDS = [
  {name: 'edit_type', label: 'Edit type', of: picture => PAIRS.edit_type[EDITS.pair[picture]], none: 'no type'},
  {name: 'method', label: 'Method', of: picture => SERIES.name[seriesOf(picture)], ofEdits: true},
  {name: 'seed', label: 'Seed', of: picture => EDITS.seed[picture]},
  {name: 'difficulty', label: 'Difficulty', of: picture => PAIRS.difficulty[EDITS.pair[picture]], none: 'not stated'},
  {name: 'dataset', label: 'Data set', of: picture => PAIRS.dataset[EDITS.pair[picture]]},
  {name: 'model', label: 'Model', of: picture => SERIES.model[seriesOf(picture)], none: 'other tools'},
  {name: 'inversion', label: 'Inversion', of: picture => SERIES.inversion[seriesOf(picture)], none: 'none', ofEdits: true},
];
const followers = [];                        // sections that follow the filters: {section, draw}
const texts = PAIRS.pair_id.map((id, pair) => [id, PAIRS.source_prompt[pair], PAIRS.target_prompt[pair]].join('\n').toLowerCase());
const editTotal = EDITS.cell.reduce((count, _, picture) => count + !isGiven(picture), 0);

const chosen = {words: '', setting: null};
let shown = [];                              // places of the edits that the filters leave
let allowed = new Uint8Array(PICTURES);      // the same with sources and other given pictures, by place

function startFilters() {
  const form = $('filters'), words = form.querySelector('[name=words]').parentNode;
  for (const field of FIELDS) {
    field.codes = EDITS.cell.map((_, picture) => field.of(picture));
    const values = [...new Set(field.codes.filter((_, picture) => !isGiven(picture)))];
    field.values = values.sort((a, b) => typeof a === 'number' ? a - b : a < b ? -1 : a > b ? 1 : 0);
    chosen[field.name] = '';
    if (field.values.length < 2) continue;
    field.select = el('select', {name: field.name});
    fill(field.select, [['', 'all'], ...field.values.map((value, place) => [String(place), String(value) || field.none || '–'])]);
    form.insertBefore(el('label', {class: 'field'}, field.label, field.select), words);
  }
  readAddress();
  form.addEventListener('input', readForm);
  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('reset', () => { chosen.setting = null; setTimeout(readForm); });
  if (matchMedia('(max-width: 52rem)').matches) $('filter-box').open = false;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), form = $('filters');
  for (const field of FIELDS) {
    const place = field.values.findIndex(value => given.has(field.name) && String(value) === given.get(field.name));
    if (field.select && place >= 0) { field.select.value = String(place); chosen[field.name] = String(place); }
  }
  if (given.has('words')) { form.querySelector('[name=words]').value = given.get('words'); chosen.words = given.get('words'); }
}

function readForm() {
  for (const field of FIELDS) if (field.select) chosen[field.name] = field.select.value;
  chosen.words = $('filters').querySelector('[name=words]').value;
  cancelAnimationFrame(readForm.frame);
  readForm.frame = requestAnimationFrame(applyFilters);
}

function writeAddress() {
  const kept = new URLSearchParams();
  for (const field of FIELDS) if (chosen[field.name]) kept.set(field.name, field.values[chosen[field.name]]);
  if (chosen.words) kept.set('words', chosen.words);
  // A section's name in the address stays until a filter takes its place.
  if (String(kept) || location.hash.includes('=')) history.replaceState(null, '', '#' + kept);
}

function applyFilters() {
  const words = chosen.words.trim().toLowerCase();
  const tests = FIELDS.filter(field => chosen[field.name] !== '').map(field => [field, field.values[chosen[field.name]]]);
  const told = words ? texts.map(text => text.includes(words)) : null;
  shown = [];
  for (let picture = 0; picture < PICTURES; picture++) {
    const given = isGiven(picture);
    let pass = !told || told[EDITS.pair[picture]];
    for (const [field, value] of tests) pass &&= field.codes[picture] === value || (given && field.ofEdits);
    allowed[picture] = pass;
    if (pass && !given && (chosen.setting == null || EDITS.cell[picture] === chosen.setting)) shown.push(picture);
  }
  const only = chosen.setting == null ? '' : ` of ${SERIES.label[CELLS.series[chosen.setting]]}, ${atText(chosen.setting)}`;
  $('count').textContent = `${shown.length.toLocaleString('en')} of ${counted(editTotal, 'edit')}${only}`;
  writeAddress();
  drawFollowers();
}

// Sections in view follow at once, the others a moment later: a choice is answered sooner.
function drawFollowers() {
  const inView = ({section}) => { const box = $(section).getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; };
  const seen = new Set(followers.filter(inView));
  seen.forEach(({draw}) => draw());
  clearTimeout(drawFollowers.rest);
  drawFollowers.rest = setTimeout(() => followers.forEach(follower => { if (!seen.has(follower)) follower.draw(); }));
}

// Only edits of one setting, from a point of the drawing or a cell of the map.
function onlySetting(cell) {
  chosen.setting = cell;
  applyFilters();
  document.querySelector('[name=view][value=edits]').click();
  $('gallery').scrollIntoView();
  $('cards').focus({preventScroll: true});
}
