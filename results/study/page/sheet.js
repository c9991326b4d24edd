// The rater's sheet: who, when, and the answers so far. It outlives a reload; from a folder all pages share one
// storage, so that its key names the study.
const STUDY = JSON.parse($('data').textContent);
const SHEET_KEY = `p2p-bench-study-${STUDY.study}`;
let sheet = kept() ?? newSheet();

function newSheet() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const rater = Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
  return {version: STUDY.version, study: STUDY.study, rater, started: null, finished: null, answers: []};
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(SHEET_KEY));
    return found?.study === STUDY.study && found.version === STUDY.version && Array.isArray(found.answers) ? found : null;
  } catch { return null; }
}

// Returns whether the browser keeps it: storage may be off or full.
function keep() {
  try {
    localStorage.setItem(SHEET_KEY, JSON.stringify(sheet));
    return true;
  } catch { return false; }
}

// Order and sides follow from the rater, so that a reload shows the same: mulberry32, seeded by FNV-1a of the name.
function* draws(text) {
  let state = 2166136261;
  for (const letter of text) state = Math.imul(state ^ letter.charCodeAt(0), 16777619);
  for (;;) {
    state = state + 0x6D2B79F5 | 0;
    let mixed = Math.imul(state ^ state >>> 15, 1 | state);
    mixed = mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed) ^ mixed;
    yield ((mixed ^ mixed >>> 14) >>> 0) / 4294967296;
  }
}

function turns() {
  const drawn = draws(sheet.rater), next = () => drawn.next().value;
  const order = STUDY.items.map(item => ({item, sides: next() < 0.5 ? item.pictures : [...item.pictures].reverse()}));
  for (let place = order.length - 1; place > 0; place--) {
    const other = Math.floor(next() * (place + 1));
    [order[place], order[other]] = [order[other], order[place]];
  }
  return order;
}

const answerTo = item => sheet.answers.find(answer => answer.item === item.id);
