// The trade-off: Observable Plot draws axes, curves and intervals; hover, keyboard and words are our own.
const SHAPES = ['circle', 'square', 'diamond', 'triangle', 'star', 'cross', 'wye', 'times'];
const hiddenSeries = new Set();
let points = [], current = -1, pinned = false, scales = null, drawnWidth = 0;

const shapeOf = series => SHAPES[plotted.get(series) ?? 0];
const symbolOf = series => d3[`symbol${shapeOf(series)[0].toUpperCase()}${shapeOf(series).slice(1)}`] ?? d3.symbolCircle;

// The sign of a series, in tables and legends as in the drawing.
function mark(series) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '-8 -8 16 16');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', `swatch ${colourOf(series)}`);
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', d3.symbol(symbolOf(series), 110)());
  svg.append(path);
  return svg;
}

function startTradeOff() {
  if (!METRICS.length) { $('trade-off').hidden = $('to-trade-off').hidden = true; return; }
  const options = METRICS.map(metric => [metric.name, metric.label]);
  const first = start => METRICS.find(metric => metric.name.startsWith(start))?.name;
  fill($('across'), options);
  fill($('up'), options);
  $('across').value = first('lpips') ?? first('pie/lpips') ?? METRICS[0]?.name ?? '';
  $('up').value = first('clip_target') ?? METRICS.find(metric => /^pie\/clip_similarity_target_image(?!_edit)/.test(metric.name))?.name ?? METRICS.at(-1)?.name ?? '';
  for (const id of ['across', 'up', 'dots']) $(id).addEventListener('change', drawTradeOff);
  followers.push({section: 'trade-off', draw: drawTradeOff});
  themeListeners.push(drawDots);
  new ResizeObserver(([entry]) => {
    if (drawnWidth && entry.contentRect.width && Math.abs(entry.contentRect.width - drawnWidth) > 1) drawTradeOff();
  }).observe($('plot').parentNode);
  const plot = $('plot');
  plot.addEventListener('pointermove', event => { if (!pinned) goTo(nearest(event)); });
  plot.addEventListener('click', event => {
    const found = nearest(event);
    pinned = found >= 0 && !(pinned && found === current);
    goTo(found);
  });
  plot.addEventListener('keydown', onPlotKey);
}

// The means of plain settings, in the order of each series.
function meanPoints(across, up) {
  const table = tableOf('main');
  if (!table) return [];
  const place = name => table.metrics.findIndex(metric => metric.name === name);
  const [x, y] = [place(across), place(up)];
  return [...estimates(table).by].flatMap(([cell, values]) => {
    const series = CELLS.series[cell];
    if (SERIES.given[series] || hiddenSeries.has(series) || values[x]?.mean == null || values[y]?.mean == null) return [];
    return [{cell, series, x: values[x].mean, y: values[y].mean, ex: values[x], ey: values[y]}];
  }).sort((a, b) => a.series - b.series || (CELLS.at[a.cell] ?? 0) - (CELLS.at[b.cell] ?? 0));
}

function axis(metric, narrow) {
  const one = METRICS.find(other => other.name === metric);
  return narrow ? metricName(one.label).name + arrow(one.up) : one.label + better(one.up);
}

function extent(list, value, low, high) {
  const [least, most] = d3.extent(list.flatMap(point => [value(point), low(point), high(point)].filter(number => number != null)));
  if (least == null) return [0, 1];
  const room = (most - least || Math.abs(most) || 1) * 0.04;
  return [least - room, most + room];
}

function drawTradeOff() {
  const plot = $('plot'), width = Math.floor(plot.clientWidth), across = $('across').value, up = $('up').value;
  if (!width) return;  // not laid out: what is there stays, and the width that comes draws it
  drawnWidth = width;
  const means = meanPoints(across, up), narrow = width < 520;
  const dots = $('dots').checked ? shown.filter(picture => !hiddenSeries.has(seriesOf(picture)) && SERIES.plain[seriesOf(picture)]
    && VALUES[across][picture] != null && VALUES[up][picture] != null) : [];
  const clouds = dots.map(picture => ({picture, series: seriesOf(picture), x: VALUES[across][picture], y: VALUES[up][picture]}));
  const all = [...means, ...clouds];
  drawLegend();
  if (!all.length) {
    scales = null;
    points = [];
    plot.replaceChildren(el('p', {class: 'about'}, 'No setting has values of both metrics under these filters.'));
    emptyBehind($('plot-behind'), '');
    return;
  }
  const curves = d3.group(means, point => point.series);
  const bar = (point, name, value) => point[name]?.low == null ? point[value] : null;
  const marks = [
    Plot.link(means.filter(point => bar(point, 'ex', 'x') == null), {x1: point => point.ex.low, x2: point => point.ex.high, y: 'y', stroke: point => `var(--m${plotted.get(point.series)})`, strokeOpacity: .3}),
    Plot.link(means.filter(point => bar(point, 'ey', 'y') == null), {x: 'x', y1: point => point.ey.low, y2: point => point.ey.high, stroke: point => `var(--m${plotted.get(point.series)})`, strokeOpacity: .3}),
    ...[...curves].flatMap(([series, list]) => [
      SERIES.along[series] && list.length > 1 ? Plot.line(list, {x: 'x', y: 'y', stroke: `var(--m${plotted.get(series)})`, strokeWidth: 1.8, curve: 'linear'}) : null,
      Plot.dot(list, {x: 'x', y: 'y', symbol: shapeOf(series), r: 5, fill: `var(--m${plotted.get(series)})`, stroke: 'var(--ground)', strokeWidth: 1}),
      narrow && list.length > 4 ? null : Plot.text(list, {x: 'x', y: 'y', text: point => SERIES.along[series] ? String(+CELLS.at[point.cell].toFixed(9)) : atText(point.cell), dx: 8, dy: 9, textAnchor: 'start', fill: `var(--m${plotted.get(series)})`, stroke: 'var(--ground)', strokeWidth: 3, fontSize: 11, className: 'point-label'}),
    ]),
  ].filter(Boolean);
  const height = Math.round(Math.min(460, Math.max(300, width * .62)));
  const drawing = Plot.plot({
    className: 'chart', width, height, marginLeft: 48, marginRight: 18, marginTop: 26, marginBottom: 44, marks,
    x: {domain: extent(all, p => p.x, p => p.ex?.low, p => p.ex?.high), label: axis(across, narrow), labelArrow: 'none', labelAnchor: 'right', grid: true, ticks: narrow ? 5 : 8},
    y: {domain: extent(all, p => p.y, p => p.ey?.low, p => p.ey?.high), label: axis(up, narrow), labelArrow: 'none', grid: true, ticks: 7},
    color: {type: 'identity'},
  });
  // Plot names its groups for readers without a role that may carry a name; our own words stand in their place.
  drawing.setAttribute('aria-hidden', 'true');
  drawing.querySelectorAll('[aria-label]').forEach(node => node.removeAttribute('aria-label'));
  const [sx, sy] = [drawing.scale('x'), drawing.scale('y')];
  points = all.map(point => ({...point, px: sx.apply(point.x), py: sy.apply(point.y)}));
  scales = {width, height};
  const ring = d3.select(drawing).append('circle').attr('r', 9).attr('fill', 'none').attr('stroke', 'currentColor').attr('stroke-width', 2).attr('class', 'label').style('display', 'none').style('stroke', 'var(--ink)').style('fill', 'none');
  scales.ring = ring.node();
  plot.replaceChildren(el('canvas', {}), drawing);
  drawDots();
  thinLabels(drawing);
  pinned = false;
  goTo(firstPoint());
}

// The point that stands there before anybody points at one: the middle of the first curve.
function firstPoint() {
  const series = points.find(point => point.picture == null && SERIES.method[point.series] === 'p2p')?.series ?? points[0]?.series;
  const curve = [...points.keys()].filter(place => points[place].picture == null && points[place].series === series);
  return curve[Math.floor(curve.length / 2)] ?? 0;
}

// Of labels that would cover one another the first stays.
function thinLabels(drawing) {
  const kept = [];
  for (const text of drawing.querySelectorAll('.point-label text')) {
    const box = text.getBoundingClientRect();
    const covers = kept.some(other => box.left < other.right && other.left < box.right && box.top < other.bottom - 2 && other.top < box.bottom - 2);
    if (covers) text.style.display = 'none'; else kept.push(box);
  }
}

function drawLegend() {
  const there = [...plotted.keys()].filter(series => SERIES.plain[series] && seriesShown(series));
  const named = document.activeElement?.dataset?.series;
  $('legend').replaceChildren(...there.map(series => el('li', {}, el('button', {type: 'button', 'data-series': series,
    'aria-pressed': String(!hiddenSeries.has(series)), onclick: () => {
      if (!hiddenSeries.delete(series)) hiddenSeries.add(series);
      drawTradeOff();
    }}, mark(series), SERIES.label[series] + (SERIES.along[series] ? ` by ${SERIES.along[series]}` : '')))));
  if (named != null) $('legend').querySelector(`[data-series="${named}"]`)?.focus();
}

function nearest(event) {
  const box = $('plot').getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = 26 ** 2, found = -1;
  points.forEach((point, place) => {
    const distance = (point.px - x) ** 2 + (point.py - y) ** 2 + (point.picture == null ? 0 : 60);
    if (distance < best) { best = distance; found = place; }
  });
  return found;
}

// What was pointed at last stays in the panel, so that its pictures can be reached.
function goTo(place) {
  const point = points[place], ring = scales?.ring;
  if (!point) return '';
  current = place;
  ring.style.display = '';
  ring.setAttribute('cx', point.px);
  ring.setAttribute('cy', point.py);
  const one = point.picture != null, cell = one ? EDITS.cell[point.picture] : point.cell;
  const title = [SERIES.label[point.series], atText(cell)].filter(Boolean).join(', ');
  const told = (metric, value, range) => `${METRICS.find(other => other.name === metric).label}: ${number(value, decimalsOf(metric))}`
    + (range?.low == null ? '' : ` [${number(range.low, decimalsOf(metric))}, ${number(range.high, decimalsOf(metric))}]`);
  const lines = [told($('across').value, point.x, point.ex), told($('up').value, point.y, point.ey)];
  if (one) lines.unshift(PAIRS.target_prompt[EDITS.pair[point.picture]]);
  else lines.push(point.ex.n === point.ey.n ? counted(point.ex.n, 'pair') : `${point.ex.n} and ${point.ey.n} pairs`);
  showBehind($('plot-behind'), {title, lines, pictures: one ? [point.picture] : picturesOf(cell), cell: one ? null : cell});
  return [title, ...lines].join('; ');
}

function onPlotKey(event) {
  const step = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (event.key === 'Escape') { pinned = false; goTo(firstPoint()); return; }
  if (event.key === 'Enter' && points[current]) {
    const point = points[current];
    if (point.picture == null) onlySetting(point.cell); else openViewer(point.picture);
    return;
  }
  if (!step || !points.length) return;
  event.preventDefault();
  const from = points[current], [dx, dy] = step;
  let best = Infinity, next = from ? current : points.findIndex(point => point.picture == null);
  if (from) points.forEach((point, place) => {
    const along = (point.px - from.px) * dx + (point.py - from.py) * dy;
    const aside = Math.abs((point.px - from.px) * dy) + Math.abs((point.py - from.py) * dx);
    if (place !== current && along > 0.5 && along + 2.5 * aside < best) { best = along + 2.5 * aside; next = place; }
  });
  pinned = next >= 0;
  const told = goTo(Math.max(next, 0));
  if (told) say(told);
}
