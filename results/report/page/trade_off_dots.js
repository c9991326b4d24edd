// The cloud of single edits, on a canvas under the drawing: thousands of SVG circles would cost a filter 100 ms.
function drawDots() {
  const canvas = $('plot').querySelector('canvas');
  if (!canvas || !scales) return;
  const ratio = devicePixelRatio || 1, paint = canvas.getContext('2d');
  canvas.width = scales.width * ratio;
  canvas.height = scales.height * ratio;
  canvas.style.width = `${scales.width}px`;
  canvas.style.height = `${scales.height}px`;
  paint.scale(ratio, ratio);
  // A style's value is the text light-dark(a, b): the colour of this theme is that of an element that uses it.
  const probe = el('span', {});
  document.body.append(probe);
  const colours = new Map();
  for (const series of plotted.keys()) {
    probe.style.color = `var(--m${plotted.get(series)})`;
    colours.set(series, getComputedStyle(probe).color);
  }
  probe.remove();
  const clouds = points.filter(point => point.picture != null);
  paint.globalAlpha = Math.max(0.15, Math.min(0.55, 5 / Math.sqrt(clouds.length + 1)));
  for (const point of clouds) {
    paint.fillStyle = colours.get(point.series);
    paint.beginPath();
    paint.arc(point.px, point.py, 2.6, 0, 7);
    paint.fill();
  }
}
