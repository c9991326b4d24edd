// Shows one comparison after another.
let order = turns(), place = 0, since = 0;
const form = $('answer');
const PICTURE = name => `pictures/${name}.png`;

function show(section) {
  for (const name of ['welcome', 'item', 'end']) $(name).hidden = name !== section;
  $('progress').value = sheet.answers.length;
  const known = section === 'item';
  $('progress-text').textContent = known ? `${place + 1} of ${order.length}` : section === 'end' ? 'All answered' : '';
  document.documentElement.dataset.shown = known ? order[place].item.id : section;
}

function showItem(number) {
  place = number;
  const {item, sides} = order[place], given = answerTo(item);
  $('item-title').textContent = `Comparison ${place + 1} of ${order.length}`;
  $('wanted').replaceChildren(...promptDifference(item.source_prompt, item.target_prompt));
  $('source-prompt').textContent = item.source_prompt;
  $('broken').hidden = true;
  $('next').disabled = false;
  const shown = {source: item.source, left: sides[0], right: sides[1]};
  for (const [id, name] of Object.entries(shown)) $(id).src = PICTURE(name);
  $('source').alt = `The original: ${item.source_prompt}`;
  $('left').alt = 'Edit A';
  $('right').alt = 'Edit B';
  form.reset();
  if (given) for (const name of STUDY.questions) form.elements[name].value = given.choices[name];
  $('back').disabled = place === 0;
  $('next').textContent = place === order.length - 1 ? 'Finish' : 'Next';
  show('item');
  $('item-title').focus({preventScroll: true});
  scrollTo(0, 0);
  since = performance.now();
  const after = order[place + 1]?.item;
  for (const name of after ? [after.source, ...after.pictures] : []) new Image().src = PICTURE(name);
}

function answered(event) {
  event.preventDefault();
  const {item, sides} = order[place], before = answerTo(item);
  const seconds = (performance.now() - since) / 1000 + (before?.seconds ?? 0);
  const choices = Object.fromEntries(STUDY.questions.map(name => [name, form.elements[name].value]));
  const answer = {item: item.id, left: sides[0], seconds: Math.round(seconds * 100) / 100, choices};
  sheet.answers = [...sheet.answers.filter(one => one.item !== item.id), answer];
  if (sheet.answers.length === order.length) sheet.finished = new Date().toISOString();
  if (!keep() && !STUDY.served) told('This browser keeps nothing: leave the page open until you have saved the file.');
  send();
  if (sheet.finished) showEnd();
  else {
    const later = order.findIndex(({item}, number) => number > place && !answerTo(item));
    showItem(later >= 0 ? later : order.findIndex(({item}) => !answerTo(item)));
  }
}

function showEnd() {
  const moved = $('end').hidden;
  show('end');
  $('end-text').textContent = !STUDY.served
    ? 'Save your answers as a file, and send it to whoever gave you this page.'
    : sending ? 'Your answers are being saved. Leave the page open.'
    : arrived ? 'Your answers are saved. You may close the page.'
      : 'Your answers have not reached the server. Send them again, or save them as a file and hand that on.';
  $('save').hidden = STUDY.served && arrived && !sending;
  $('again').hidden = !STUDY.served || arrived || sending;
  if (moved) $('end-title').focus();
}
