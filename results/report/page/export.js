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

function tableLatex({rows, metrics}) {
  const sign = up => up == null ? '' : up ? ' $\\uparrow$' : ' $\\downarrow$';
  const line = cells => cells.join(' & ') + ' \\\\';
  const told = (value, decimals) => !value || value.mean == null ? '---' : plainNumber(value.mean, decimals)
    + (value.low == null ? '' : ` [${plainNumber(value.low, decimals)}, ${plainNumber(value.high, decimals)}]`);
  return ['% needs \\usepackage{booktabs}', `\\begin{tabular}{ll${'r'.repeat(metrics.length + 1)}}`, '\\toprule',
    line(['method', 'setting', ...metrics.map(([, metric]) => metric.latex + sign(metric.up)), 'pairs']), '\\midrule',
    ...rows.map(row => line([row.latex, row.settingLatex || '---',
      ...metrics.map(([place, metric]) => told(row.values[place], metric.decimals)), row.pairs.replace('–', '--')])),
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
