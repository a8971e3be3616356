// The buttons of each code block are added as a <nav>, and a page has dozens: each gets a name for screen readers.
new MutationObserver(() => {
  document.querySelectorAll("nav.md-code__nav").forEach((buttons, index) => {
    buttons.ariaLabel = `Code block ${index + 1}`;
  });
}).observe(document.body, { childList: true, subtree: true });
