// The pictures behind a point of the drawing or a cell of the map, in a panel beside it.
const MOST_BEHIND = 9;

function showBehind(panel, {title, lines, pictures, cell = null}) {
  const rest = pictures.length - MOST_BEHIND;
  panel.replaceChildren(el('h3', {}, title), ...lines.map(line => el('p', {}, line)),
    el('ul', {}, ...pictures.slice(0, MOST_BEHIND).map(picture => el('li', {}, shot(picture, null)))));
  if (cell != null) panel.append(el('button', {type: 'button', onclick: () => onlySetting(cell)},
    rest > 0 ? `All ${pictures.length} in the gallery` : 'Show in the gallery'));
}

function emptyBehind(panel, text) {
  panel.replaceChildren(el('p', {}, text));
}

const picturesOf = cell => shown.filter(picture => EDITS.cell[picture] === cell);
