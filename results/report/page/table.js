// The table of results: a row per setting, a column per metric, means over their intervals.
let shownTable = {rows: [], metrics: [], type: 'all'}, order = null;
const hiddenColumns = new Set(), DIFFERENCES = {reweight: true, difference_to_fixed_seed: true, difference_to_baseline: true};

function startTable() {
  fill($('table-name'), RUN.tables.map(table => [table.name, table.title]));
  $('table-choice').hidden = RUN.tables.length < 2;
  $('table-name').addEventListener('change', () => { order = null; drawColumnMenu(); drawTable(); });
  $('column-menu').addEventListener('keydown', event => {
    if (event.key === 'Escape') { $('column-menu').open = false; $('column-menu').firstElementChild.focus(); }
  });
  document.addEventListener('click', event => { if (!$('column-menu').contains(event.target)) $('column-menu').open = false; });
  drawColumnMenu();
  followers.push({section: 'results', draw: drawTable});
}

function drawColumnMenu() {
  const table = tableOf($('table-name').value), legend = $('columns').firstElementChild;
  $('columns').replaceChildren(legend, ...(table?.metrics ?? []).map(metric => el('label', {},
    el('input', {type: 'checkbox', checked: !hiddenColumns.has(metric.name), onchange: event => {
      if (event.target.checked) hiddenColumns.delete(metric.name); else hiddenColumns.add(metric.name);
      drawTable();
    }}), metric.label)));
}

function tableRows(table, by) {
  const rows = [...by].map(([cell, values]) => {
    const counts = values.filter(Boolean).map(value => value.n);
    const least = Math.min(...counts), most = Math.max(...counts), series = CELLS.series[cell];
    return {cell, series, values, label: SERIES.label[series], latex: SERIES.latex[series],
      setting: atText(cell), settingLatex: CELLS.latex[cell], pairs: least === most ? `${most}` : `${least}–${most}`, most};
  });
  if (!order) return rows;
  const key = row => order.place === 'pairs' ? row.most : row.values[order.place]?.mean;
  return rows.sort((a, b) => (key(a) == null) - (key(b) == null) || order.sign * (key(a) - key(b)));
}

// The best of the edits in each column is set in bold: sources and other given pictures make no edit.
function bestOf(rows, place, up) {
  const values = rows.filter(row => !SERIES.given[row.series]).map(row => row.values[place]?.mean).filter(mean => mean != null);
  return up == null || values.length < 2 ? null : up ? Math.max(...values) : Math.min(...values);
}

function drawTable() {
  const table = tableOf($('table-name').value);
  if (!table) { $('table-note').textContent = 'The run has no values yet.'; return; }
  const {by, exact} = estimates(table), rows = tableRows(table, by);
  const metrics = [...table.metrics.entries()].filter(([, metric]) => !hiddenColumns.has(metric.name));
  const plain = !narrowed() || exact, type = editTypeShown();
  shownTable = {rows, metrics, type};
  $('table').classList.toggle('sorted', order != null);
  $('table').tHead.replaceChildren(headRow(metrics));
  const best = new Map(metrics.map(([place, metric]) => [place, bestOf(rows, place, metric.up)]));
  $('table').replaceChildren($('table').caption, $('table').tHead, ...bodies(rows, metrics, best));
  const which = type === 'all' ? 'all edit types' : `edit type ${type || 'none'}`;
  $('table-note').textContent = plain && table.name === 'wins'
    ? `In which share of pairs a setting is better than ${table.baseline} (a tie counts half), ${which}, with Wilson’s 95 % intervals.`
    : plain ? `${table.name in DIFFERENCES ? 'Mean differences' : 'Means'} over pairs, ${which}, with 95 % intervals by bootstrap over pairs (from six pairs on, unless all are alike).`
    : by.size && (table.name === 'main' || table.name === 'reweighted')
      ? `Means over the ${counted(shown.length, 'edit')} that the filters leave; intervals are given for whole edit types alone.`
      : `Over ${which}: this table is not narrowed by seed, difficulty, data set or words.`;
  $('table-caption').textContent = `${table.title}. ${$('table-note').textContent}`;
  $('table-missing').textContent = missingText(rows, metrics);
}

function headRow(metrics) {
  const sort = (place, label) => {
    const sorted = order?.place === place ? (order.sign > 0 ? 'ascending' : 'descending') : null;
    const press = () => {
      const first = metrics.find(([one]) => one === place)?.[1].up === true ? -1 : 1;
      order = order?.place !== place ? {place, sign: first} : order.sign === first ? {place, sign: -first} : null;
      drawTable();
      $('table').tHead.querySelector(`[data-place="${place}"]`).focus();
    };
    const shape = sorted === 'ascending' ? '\u00a0▴' : sorted ? '\u00a0▾' : '';
    return el('th', {scope: 'col', 'aria-sort': sorted}, el('button', {type: 'button', 'data-place': place, onclick: press}, label[0], shape, ...label.slice(1)));
  };
  return el('tr', {}, el('th', {scope: 'col', class: 'text'}, 'setting'),
    ...metrics.map(([place, metric]) => {
      const {name, version} = metricName(metric.label);
      return sort(place, [name + arrow(metric.up).replace(' ', '\u00a0'), el('span', {class: 'sr'}, better(metric.up)), ' ', el('span', {class: 'version'}, version)]);
    }), sort('pairs', ['pairs']));
}

// A series with several settings has a heading of its own; once sorted, each row says its series.
function bodies(rows, metrics, best) {
  const parts = order ? [rows] : [...d3.group(rows, row => row.series).values()];
  return parts.map(part => {
    const {series, label} = part[0] ?? {}, headed = !order && part.length > 1;
    return el('tbody', {}, headed ? el('tr', {class: 'series'}, el('th', {scope: 'rowgroup', colspan: metrics.length + 2}, signOf(series), label)) : null,
      ...part.map(row => bodyRow(row, headed, metrics, best)));
  });
}

const signOf = series => plotted.has(series) ? mark(series) : null;

function bodyRow(row, headed, metrics, best) {
  const name = headed ? [row.setting || '–'] : [signOf(row.series), [row.label, row.setting].filter(Boolean).join(', ')];
  return el('tr', {},
    el('th', {scope: 'row', class: headed ? 'inset' : null}, ...name),
    ...metrics.map(([place, metric]) => {
      const value = row.values[place];
      if (!value || value.mean == null) return el('td', {title: Object.keys(value?.reasons ?? {}).join('; ') || null}, '–');
      const interval = value.low == null ? null
        : el('span', {class: 'interval'}, `${number(value.low, metric.decimals)} to ${number(value.high, metric.decimals)}`);
      const isBest = best.get(place) != null && value.mean === best.get(place) && !SERIES.given[row.series];
      return el('td', {class: isBest ? 'best' : null}, el('span', {class: 'mean'}, number(value.mean, metric.decimals)), interval);
    }), el('td', {}, row.pairs));
}

function missingText(rows, metrics) {
  return metrics.map(([place, metric]) => {
    const counts = {};
    for (const row of rows) for (const [reason, count] of Object.entries(row.values[place]?.reasons ?? {})) counts[reason] = (counts[reason] ?? 0) + count;
    const told = Object.entries(counts).map(([reason, count]) => `${count} ${reason}`);
    return told.length ? `No value of ${metric.label}: ${told.join('; ')}.` : '';
  }).filter(Boolean).join(' ');
}
