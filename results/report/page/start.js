// The head of the page first; what stands below it once that has been painted.
startTheme();
startFilters();
startTable();
startExport();
applyFilters();

requestAnimationFrame(() => setTimeout(() => {
  startTradeOff();
  startTauMap();
  startGallery();
  startCases();
  startViewer();
  applyFilters();
  setTimeout(() => {
    document.documentElement.dataset.ready = 'yes';
    const section = location.hash.length > 1 && !location.hash.includes('=') && $(location.hash.slice(1));
    if (section) section.scrollIntoView();
  });
}));
