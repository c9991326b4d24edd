// What every page needs. Text reaches a page as text alone, never as HTML.
const $ = id => document.getElementById(id);

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

// A small picture is enlarged in squares: smoothing would show detail that is not there.
function onLoad(event) {
  const image = event.target;
  image.classList.toggle('tiny', image.naturalWidth * 1.4 < image.clientWidth * devicePixelRatio);
}
