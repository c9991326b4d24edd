// Light, dark, or what the system says. Storage may be off, and from a folder all pages share it.
const THEMES = ['system', 'light', 'dark'], THEME_KEY = 'p2p-bench-report-theme';
const themeListeners = [];

function showTheme(name) {
  document.documentElement.dataset.theme = name;
  $('theme').textContent = `Theme: ${name}`;
  themeListeners.forEach(listener => listener());
}

function startTheme() {
  let name = null;
  try { name = localStorage.getItem(THEME_KEY); } catch { /* off */ }
  showTheme(THEMES.includes(name) ? name : 'system');
  $('theme').addEventListener('click', () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    try { localStorage.setItem(THEME_KEY, next); } catch { /* off */ }
    showTheme(next);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => themeListeners.forEach(listener => listener()));
}
