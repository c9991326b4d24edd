// The map of injection windows: a table, so that it reads as one; colour says the value a second time.
function startTauMap() {
  const able = [...plotted.keys()].filter(series => SERIES.plain[series] && mapCells(series).length > 1);
  const distinct = name => new Set(able.flatMap(series => mapCells(series).map(cell => CELLS[name][cell]))).size;
  if (!able.length || !tableOf('main') || distinct('cross_end') + distinct('self_end') < 4) return;
  $('tau-map').hidden = $('to-tau-map').hidden = false;
  fill($('map-metric'), METRICS.map(metric => [metric.name, metric.label]));
  $('map-metric').value = $('up').value;
  fill($('map-series'), able.map(series => [series, SERIES.label[series]]));
  for (const id of ['map-metric', 'map-series']) $(id).addEventListener('change', drawTauMap);
  followers.push({section: 'tau-map', draw: drawTauMap});
}

// Cells of a series whose windows begin at the first step, as a tau's do.
const mapCells = series => CELLS.series.flatMap((one, cell) => one === series && CELLS.cross_end[cell] != null
  && CELLS.self_end[cell] != null && !(CELLS.cross_start[cell] > 0) && !(CELLS.self_start[cell] > 0) ? [cell] : []);

function drawTauMap() {
  const series = +$('map-series').value, metric = METRICS.find(one => one.name === $('map-metric').value);
  const table = tableOf('main'), place = table.metrics.findIndex(one => one.name === metric.name);
  const {by} = estimates(table), cells = mapCells(series).filter(cell => by.get(cell)?.[place]?.mean != null);
  const values = cells.map(cell => by.get(cell)[place].mean), [least, most] = d3.extent(values);
  const sides = name => [...new Set(cells.map(cell => CELLS[name][cell]))].sort((a, b) => a - b);
  const crosses = sides('cross_end'), selves = sides('self_end').reverse(), decimals = table.metrics[place]?.decimals ?? 3;
  const share = value => `${Math.round(value * 100)} %`;
  const press = cell => event => {
    $('map').querySelectorAll('[aria-pressed=true]').forEach(button => button.setAttribute('aria-pressed', 'false'));
    event.currentTarget.setAttribute('aria-pressed', 'true');
    const value = by.get(cell)[place];
    showBehind($('map-behind'), {
      title: `cross ${share(CELLS.cross_end[cell])}, self ${share(CELLS.self_end[cell])}`,
      lines: [`${SERIES.label[series]}${CELLS.tau[cell] == null ? '' : `, τ ${CELLS.tau[cell]}`}`,
        `${metric.label}: ${number(value.mean, decimals)}${value.low == null ? '' : ` [${number(value.low, decimals)}, ${number(value.high, decimals)}]`}`,
        counted(value.n, 'pair')],
      pictures: picturesOf(cell), cell});
  };
  const box = (cross, own) => {
    const cell = cells.find(one => CELLS.cross_end[one] === cross && CELLS.self_end[one] === own);
    if (cell == null) return el('td', {class: 'none'}, el('span', {class: 'sr'}, 'not run'), el('span', {'aria-hidden': 'true'}, '·'));
    const value = by.get(cell)[place].mean, part = most > least ? (value - least) / (most - least) : .5;
    const button = el('button', {type: 'button', 'data-cell': cell, 'aria-pressed': 'false', onclick: press(cell), onpointerenter: press(cell), onfocus: press(cell)}, number(value, decimals));
    button.style.background = `color-mix(in oklab, var(--heat) ${Math.round(part * 100)}%, var(--rule))`;
    return el('td', {}, button);
  };
  $('map').replaceChildren(
    el('caption', {class: 'sr'}, `${metric.label} by the shares of steps with injected attention`),
    el('thead', {}, el('tr', {}, el('th', {scope: 'col'}, 'self ↑ cross →'), ...crosses.map(cross => el('th', {scope: 'col'}, share(cross))))),
    el('tbody', {}, ...selves.map(own => el('tr', {}, el('th', {scope: 'row'}, share(own)), ...crosses.map(cross => box(cross, own))))));
  // The best field stands beside the map until another is pointed at.
  const best = metric.up === false ? least : most, first = cells.find(cell => by.get(cell)[place].mean === best);
  if (first == null) emptyBehind($('map-behind'), 'No values under these filters.');
  else press(first)({currentTarget: $('map').querySelector(`[data-cell="${first}"]`)});
}
