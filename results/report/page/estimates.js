// What a table says of each cell: the run's own tables where the filters leave whole edit types, else plain means.
const tableOf = name => RUN.tables.find(table => table.name === name);

// Filters that a table of the run knows are those that take whole cells, and the edit type.
const narrowed = () => ['seed', 'difficulty', 'dataset'].some(name => chosen[name] !== '') || chosen.words.trim() !== '';

function seriesShown(series) {
  const value = name => { const field = FIELDS.find(one => one.name === name); return chosen[name] === '' ? null : field.values[chosen[name]]; };
  if (SERIES.given[series]) return value('method') == null;
  return [['method', SERIES.name[series]], ['model', SERIES.model[series]], ['inversion', SERIES.inversion[series]]]
    .every(([name, own]) => value(name) == null || value(name) === own);
}

function editTypeShown() {
  const field = FIELDS.find(one => one.name === 'edit_type');
  return chosen.edit_type === '' ? 'all' : field.values[chosen.edit_type];
}

// Returns cell -> list by metric of {mean, low, high, n, missing}; `exact` where they are the run's own numbers.
function estimates(table) {
  if (narrowed() && (table.name === 'main' || table.name === 'reweighted')) return {by: means(table), exact: false};
  const type = editTypeShown(), by = new Map();
  for (let row = 0; row < table.cell.length; row++) {
    if (table.edit_type[row] !== type || !seriesShown(CELLS.series[table.cell[row]])) continue;
    if (!by.has(table.cell[row])) by.set(table.cell[row], []);
    by.get(table.cell[row])[table.metric[row]] = {
      mean: table.mean[row], low: table.low[row], high: table.high[row], n: table.n[row],
      missing: table.n_missing[row], reasons: table.reasons[row],
    };
  }
  return {by, exact: !narrowed()};
}

// The mean over pairs of each pair's mean over seeds, as the tables have it; without intervals.
function means(table) {
  const cells = new Set(table.cell), sums = new Map(), ids = new Map();
  const pairNumber = PAIRS.pair_id.map(id => ids.get(id) ?? (ids.set(id, ids.size), ids.size - 1));
  for (let picture = 0; picture < PICTURES; picture++) {
    const cell = EDITS.cell[picture];
    if (!allowed[picture] || !cells.has(cell) || !seriesShown(CELLS.series[cell])) continue;
    if (!sums.has(cell)) sums.set(cell, table.metrics.map(() => new Map()));
    table.metrics.forEach((metric, place) => {
      const value = VALUES[metric.name]?.[picture], pair = pairNumber[EDITS.pair[picture]];
      if (value == null) return;
      const one = sums.get(cell)[place].get(pair);
      if (one) { one[0] += value; one[1]++; } else sums.get(cell)[place].set(pair, [value, 1]);
    });
  }
  const by = new Map();
  for (const cell of [...sums.keys()].sort((a, b) => a - b)) {
    by.set(cell, sums.get(cell).map(pairs => {
      let total = 0;
      for (const [sum, count] of pairs.values()) total += sum / count;
      return {mean: pairs.size ? total / pairs.size : null, low: null, high: null, n: pairs.size, missing: 0, reasons: {}};
    }));
  }
  return by;
}
