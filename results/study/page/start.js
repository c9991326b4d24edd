// What the buttons do, and where a rater who comes back goes on.
startTheme();

$('begin').addEventListener('click', () => {
  sheet.started ??= new Date().toISOString();
  keep();
  showItem(0);
});
form.addEventListener('submit', answered);
$('back').addEventListener('click', () => showItem(place - 1));
$('save').addEventListener('click', saveFile);
$('again').addEventListener('click', send);
$('other').addEventListener('click', () => { $('other-text').hidden = false; });
$('other-yes').addEventListener('click', () => {
  sheet = newSheet();
  order = turns();
  keep();
  told('');
  $('other-text').hidden = true;
  show('welcome');
  $('welcome-title').focus();
});
for (const id of ['source', 'left', 'right']) {
  $(id).addEventListener('load', onLoad);
  $(id).addEventListener('error', () => { $('broken').hidden = false; $('next').disabled = true; });
}
addEventListener('beforeunload', event => {
  if (sheet.answers.length && !keep() && !(STUDY.served && arrived && !sending)) event.preventDefault();
});

if (sheet.finished) {
  arrived = !STUDY.served;
  send();
  showEnd();
} else if (sheet.answers.length) showItem(order.findIndex(({item}) => !answerTo(item)));
else show('welcome');
document.documentElement.dataset.ready = 'yes';
