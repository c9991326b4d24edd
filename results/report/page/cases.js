// Best and worst edits by a metric, and those about which two metrics disagree most.
const MOST_CASES = 6;

// The first edits of a list, one of each pair: else one odd pair would fill a row.
function onePerPair(pictures) {
  const seen = new Set(), found = [];
  for (const picture of pictures) {
    if (found.length === MOST_CASES) break;
    if (seen.has(EDITS.pair[picture])) continue;
    seen.add(EDITS.pair[picture]);
    found.push(picture);
  }
  return found;
}

function startCases() {
  if (!METRICS.length) { $('cases').hidden = $('to-cases').hidden = true; return; }
  const options = METRICS.map(metric => [metric.name, metric.label]);
  fill($('case-metric'), options);
  fill($('case-other'), options);
  $('case-metric').value = $('up').value;
  $('case-other').value = $('across').value;
  for (const id of ['case-metric', 'case-other']) $(id).addEventListener('change', drawCases);
  followers.push({section: 'cases', draw: drawCases});
}

// Places by a metric from 0 (worst) to 1 (best); equal values share their mean place.
function ranks(pictures, metric) {
  const up = METRICS.find(one => one.name === metric).up ?? true;
  const sorted = pictures.slice().sort((a, b) => (VALUES[metric][a] - VALUES[metric][b]) * (up ? 1 : -1));
  const found = new Map();
  for (let start = 0; start < sorted.length;) {
    let end = start;
    while (end < sorted.length && VALUES[metric][sorted[end]] === VALUES[metric][sorted[start]]) end++;
    const place = (start + end - 1) / 2 / Math.max(1, sorted.length - 1);
    for (; start < end; start++) found.set(sorted[start], place);
  }
  return found;
}

function drawCases() {
  const metric = $('case-metric').value, other = $('case-other').value, up = METRICS.find(one => one.name === metric).up;
  const valued = shown.filter(picture => VALUES[metric][picture] != null);
  const sorted = valued.slice().sort((a, b) => VALUES[metric][a] - VALUES[metric][b]);
  const most = onePerPair(sorted.slice().reverse()), least = onePerPair(sorted);
  const told = picture => number(VALUES[metric][picture], decimalsOf(metric));
  const rows = up == null ? [['Highest', most, told], ['Lowest', least, told]]
    : [['Best', up ? most : least, told], ['Worst', up ? least : most, told]];
  if (other !== metric) {
    const both = valued.filter(picture => VALUES[other][picture] != null), a = ranks(both, metric), b = ranks(both, other);
    const gap = picture => Math.abs(a.get(picture) - b.get(picture));
    const share = place => `${Math.round(place * 100)}`;
    rows.push(['Largest disagreement', onePerPair(both.sort((p, q) => gap(q) - gap(p))),
      picture => `rank ${share(a.get(picture))} against ${share(b.get(picture))}`]);
  }
  const short = picture => [SERIES.label[seriesOf(picture)], atText(EDITS.cell[picture])].filter(Boolean).join(', ');
  $('case-rows').replaceChildren(...rows.flatMap(([heading, pictures, text]) => [
    el('h3', {}, heading),
    heading === 'Largest disagreement' ? el('p', {class: 'about small'}, 'Ranks run from 0, the worst of the edits shown, to 100, the best; first by the one metric, then by the other.') : null,
    pictures.length ? el('ul', {class: 'case-row'}, ...pictures.map(picture => el('li', {},
      shot(picture, el('span', {}, el('strong', {}, text(picture)), el('br'), short(picture), el('br'), PAIRS.target_prompt[EDITS.pair[picture]])))))
      : el('p', {class: 'about'}, 'No edit has a value under these filters.'),
  ].filter(Boolean)));
}
