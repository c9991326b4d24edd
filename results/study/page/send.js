// Sends the whole sheet to the page's own server, one at a time, the newest last; what does not arrive goes with the next.
let sending = false, waiting = false, arrived = true;

async function send() {
  if (!STUDY.served) return;
  waiting = true;
  if (sending) return;
  sending = true;
  while (waiting) {
    waiting = false;
    const body = JSON.stringify(sheet);
    try {
      const reply = await fetch('answers', {method: 'POST', headers: {'Content-Type': 'application/json'}, body});
      arrived = reply.ok;
      told(reply.ok ? 'Saved.' : `Not saved: ${(await reply.text()).slice(0, 200)}`);
    } catch {
      arrived = false;
      told('Not saved yet: the server does not answer. Your answers are kept in this browser.');
    }
  }
  sending = false;
  if (sheet.finished) showEnd();
}

function told(text) {
  $('saved').textContent = text;
}

function saveFile() {
  const link = el('a', {download: `answers-${sheet.rater}.json`});
  link.href = URL.createObjectURL(new Blob([JSON.stringify(sheet, null, 1) + '\n'], {type: 'application/json'}));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
