// The target prompt with what it adds marked, and what it leaves out struck: by the longest common words.
function promptDifference(source, target) {
  const a = source.split(/\s+/), b = target.split(/\s+/), most = 400;
  if (source === target || a.length > most || b.length > most) return [target];
  const length = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const parts = [];
  const put = (kind, word) => {
    if (parts.at(-1)?.kind === kind) parts.at(-1).words.push(word);
    else parts.push({kind, words: [word]});
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { put('', a[i]); i++; j++; }
    else if (i < a.length && (j === b.length || length[i + 1][j] >= length[i][j + 1])) put('del', a[i++]);
    else put('ins', b[j++]);
  }
  return parts.flatMap(({kind, words}) => [kind ? el(kind, {}, words.join(' ')) : words.join(' '), ' ']);
}
