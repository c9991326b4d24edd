// A grid of equal cells in a scrolling box, of which only what is in view exists.
function virtualGrid(box, {narrowest, height, make}) {
  const list = box.querySelector('ul'), live = new Map();
  let items = [], columns = 1, cellWidth = narrowest;
  let settings = {narrowest, height, make};

  function lay(fresh) {
    if (fresh) { list.replaceChildren(); live.clear(); }
    const width = box.clientWidth;
    if (!width) return;
    columns = Math.max(1, Math.floor(width / settings.narrowest));
    cellWidth = Math.floor(width / columns);
    const tall = typeof settings.height === 'function' ? settings.height(cellWidth) : settings.height;
    const whole = Math.ceil(items.length / columns) * tall;
    list.style.height = `${whole}px`;
    box.style.height = `${Math.max(whole + 2, 60)}px`;  // up to the most that its style allows
    const from = Math.max(0, Math.floor(box.scrollTop / tall) - 1) * columns;
    const to = Math.min(items.length, (Math.ceil((box.scrollTop + box.clientHeight) / tall) + 1) * columns);
    for (const [place, node] of live) {
      // What has the focus stays, or the keyboard would lose its place.
      if ((place < from || place >= to) && !node.contains(document.activeElement)) { node.remove(); live.delete(place); }
    }
    for (let place = from; place < to; place++) {
      if (live.has(place)) continue;
      const node = el('li', {'aria-setsize': items.length, 'aria-posinset': place + 1}, settings.make(items[place], place));
      Object.assign(node.style, {width: `${cellWidth}px`, height: `${tall}px`, left: `${place % columns * cellWidth}px`, top: `${Math.floor(place / columns) * tall}px`});
      let after = null;
      for (const [other, there] of live) if (other > place && (after == null || other < after[0])) after = [other, there];
      list.insertBefore(node, after?.[1] ?? null);
      live.set(place, node);
    }
  }

  box.addEventListener('scroll', () => lay(false), {passive: true});
  let width = 0;
  new ResizeObserver(() => { if (box.clientWidth !== width) { width = box.clientWidth; lay(true); } else lay(false); }).observe(box);
  return {
    show(list, changed = {}) { settings = {...settings, ...changed}; items = list; box.scrollTop = 0; lay(true); },
    again() { lay(true); },
    each(change) { for (const [place, node] of live) change(items[place], node); },
  };
}
