// The gallery: cards of pairs with sliders, or single edits, in an order that a metric can give.
let grid = null, view = 'pairs';

function startGallery() {
  grid = virtualGrid($('cards'), {narrowest: 272, height: width => Math.floor((width - 16) / 2) + 158, make: card});
  fill($('order'), [['', 'as planned'], ...METRICS.flatMap(metric => [
    [`${metric.name}\n1`, `${metric.label}, ${metric.up == null ? 'lowest' : metric.up ? 'worst' : 'best'} first`],
    [`${metric.name}\n-1`, `${metric.label}, ${metric.up == null ? 'highest' : metric.up ? 'best' : 'worst'} first`],
  ])]);
  $('order').addEventListener('change', drawGallery);
  for (const input of document.querySelectorAll('[name=view]')) input.addEventListener('change', () => { view = input.value; drawGallery(); });
  startAllCards();
  followers.push({section: 'gallery', draw: drawGallery});
}

// One slider for all cards; a card that was set by hand follows again.
function startAllCards() {
  const settings = new Map();
  CELLS.series.forEach((series, cell) => { if (plotted.has(series)) settings.set(series, [...(settings.get(series) ?? []), cell]); });
  fill($('all-series'), [...plotted.keys()].map(series => [series, SERIES.label[series]]));
  const best = [...plotted.keys()].find(series => SERIES.method[series] === 'p2p' && settings.get(series).length > 1);
  if (best != null) $('all-series').value = best;
  const set = apply => {
    const series = +$('all-series').value, cells = settings.get(series) ?? [], cell = cells[+$('all-at').value];
    Object.assign(allState, {series, cell: cell ?? null});
    const told = cell == null ? '' : atText(cell);
    $('all-told').textContent = told;
    $('all-at').setAttribute('aria-valuetext', told || 'one setting');
    if (!apply) return;
    cardState.clear();
    grid.each((_, node) => node.querySelector('.card')?.refresh());
  };
  const choose = apply => {
    const cells = settings.get(+$('all-series').value) ?? [];
    $('all-at').max = Math.max(0, cells.length - 1);
    $('all-at').disabled = cells.length < 2;
    $('all-at').value = Math.floor((cells.length - 1) / 2);
    set(apply);
  };
  $('all-series').addEventListener('change', () => choose(true));
  $('all-at').addEventListener('input', () => set(true));
  choose(false);
}

function inOrder(list, value) {
  const [metric, sign] = $('order').value.split('\n');
  if (!metric) return list;
  const valued = list.map(item => [item, valueOf(value(item), metric)]);
  return valued.sort(([, a], [, b]) => (a == null) - (b == null) || sign * (a - b)).map(([item]) => item);
}

function drawGallery() {
  $('all-cards').hidden = view !== 'pairs';
  const metric = $('order').value.split('\n')[0] || $('up').value;
  if (view === 'pairs') {
    const there = new Set();
    if (shown.length) SCENES.edits.forEach((edits, scene) => { if (seriesIn(scene).size) there.add(scene); });
    grid.show(inOrder([...there], pictureOf), {narrowest: 272, height: width => Math.floor((width - 16) / 2) + 158, make: card});
  } else {
    const under = picture => [SERIES.label[seriesOf(picture)], atText(EDITS.cell[picture])].filter(Boolean).join(', ');
    grid.show(inOrder(shown, picture => picture), {narrowest: 148, height: width => width + 44, make: picture =>
      shot(picture, el('span', {}, under(picture), el('br'), metric ? el('strong', {}, number(valueOf(picture, metric), decimalsOf(metric))) : '', metric ? ` ${metric.split('@')[0]}` : ''))});
  }
  $('cards').setAttribute('aria-label', view === 'pairs' ? 'Cards of pairs, scrolls' : 'Single edits, scrolls');
}
