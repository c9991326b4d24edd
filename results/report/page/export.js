// Files of what is shown: a table as CSV and LaTeX, and what it cites as BibTeX.
function save(name, type, text) {
  const link = el('a', {download: name, href: URL.createObjectURL(new Blob([text], {type}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// A text that a spreadsheet would evaluate begins with an apostrophe, unless it reads as a number.
function csvField(value) {
  if (value == null) return '';
  let text = String(value);
  if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function tableCsv({rows, metrics, type}) {
  const lines = [['method', 'setting', 'edit_type', 'metric', 'mean', 'low', 'high', 'n', 'n_missing']];
  for (const row of rows) for (const [place, metric] of metrics) {
    const value = row.values[place];
    if (value) lines.push([row.label, row.setting, type, metric.name, value.mean, value.low, value.high, value.n, value.missing]);
  }
  return lines.map(line => line.map(csvField).join(',') + '\n').join('');
}

// Of a column's rows 1 for the best, 2 for the second best, as results/tables/paper.py ranks them: by what is
// printed, among edits of one data set over the most pairs. Given pictures make no edit; effects have no best.
function ranksOf(rows, place, {up, decimals}) {
  if (up == null || $('table-name').value.startsWith('reweight')) return () => 0;
  const printed = row => +plainNumber(row.values[place].mean, decimals), dataset = row => SERIES.dataset[row.series];
  const there = rows.filter(row => !SERIES.given[row.series] && row.values[place]?.mean != null);
  return row => {
    const beside = there.filter(other => dataset(other) === dataset(row));
    const most = Math.max(...beside.map(other => other.values[place].n));
    const able = beside.filter(other => other.values[place].n === most);
    if (able.length < 2 || !able.includes(row)) return 0;
    return [...new Set(able.map(printed))].sort((a, b) => up ? b - a : a - b).slice(0, 2).indexOf(printed(row)) + 1;
  };
}

function tableLatex({rows, metrics}) {
  const sign = up => up == null ? '' : up ? ' $\\uparrow$' : ' $\\downarrow$';
  const line = cells => cells.join(' & ') + ' \\\\';
  const mark = (mean, rank) => rank ? `\\${['textbf', 'underline'][rank - 1]}{${mean}}` : mean;
  const told = (value, decimals, rank) => !value || value.mean == null ? '---' : mark(plainNumber(value.mean, decimals), rank)
    + (value.low == null ? '' : ` [${plainNumber(value.low, decimals)}, ${plainNumber(value.high, decimals)}]`);
  const ranks = new Map(metrics.map(([place, metric]) => [place, ranksOf(rows, place, metric)]));
  return ['% needs \\usepackage{booktabs}; bold: best, underlined: second best', `\\begin{tabular}{ll${'r'.repeat(metrics.length + 1)}}`, '\\toprule',
    line(['method', 'setting', ...metrics.map(([, metric]) => metric.latex + sign(metric.up)), 'pairs']), '\\midrule',
    ...rows.map(row => line([row.latex, row.settingLatex || '---',
      ...metrics.map(([place, metric]) => told(row.values[place], metric.decimals, ranks.get(place)(row))), row.pairs.replace('–', '--')])),
    '\\bottomrule', '\\end{tabular}', ''].join('\n');
}

function tableBibtex({rows, metrics}) {
  const from = RUN.citations, keys = new Set(from.always);
  const add = list => (list ?? []).forEach(key => keys.add(key));
  for (const row of rows) { add(from.methods[SERIES.method[row.series]]); add(from.inversions[SERIES.inversion[row.series]]); }
  for (const [, metric] of metrics) add(from.metrics[metric.name.split(' ×')[0]]);
  return [...keys].map(key => from.entries[key]).filter(Boolean).join('\n\n') + '\n';
}

function startExport() {
  const name = kind => `${RUN.run}-${$('table-name').value}.${kind}`.replace(/[^\w.-]+/g, '_');
  $('save-csv').addEventListener('click', () => save(name('csv'), 'text/csv', tableCsv(shownTable)));
  $('save-latex').addEventListener('click', () => save(name('tex'), 'application/x-tex', tableLatex(shownTable)));
  $('save-bibtex').addEventListener('click', () => save(name('bib'), 'application/x-bibtex', tableBibtex(shownTable)));
  for (const button of document.querySelectorAll('.copy')) button.addEventListener('click', async () => {
    const text = button.previousElementSibling;
    try { await navigator.clipboard.writeText(text.textContent); say('Copied'); button.textContent = 'Copied'; }
    catch { getSelection().selectAllChildren(text); say('Selected: copy it with the keyboard'); }
  });
}
