// A pointer that rests on a symbol shows its line of the notation table (NOTATION: formula, name in code, meaning). Runs before MathJax.
const bare = tex => tex.replace(/\\(mathbf|boldsymbol|mathrm|text|mid|,)(?![a-z])|^\\\(|\\\)$|[{}|\s]/g, '');
const formulas = new Map(), names = new Map();
for (const [tex, code, meaning] of NOTATION) {
  formulas.set(bare(tex), meaning); names.set(code, meaning);
  if (/^\\.*_t$/.test(tex)) formulas.set(bare(tex).slice(0, -2), meaning);
}
const explain = (element, meaning) => { if (meaning) { element.title = meaning; element.classList.add('symbol'); } };
for (const formula of document.querySelectorAll('span.math')) explain(formula, formulas.get(bare(formula.textContent)));
for (const code of document.querySelectorAll('code.literal')) explain(code, names.get(code.textContent.replace(/^s\./, '')));
for (const name of document.querySelectorAll('.highlight .n')) {
  const before = name.previousSibling?.textContent, after = name.nextSibling;
  const option = after?.nodeType === 1 && after.textContent === '=', transposed = before === '.' && name.textContent === 'T';
  if (!option && !transposed) explain(name, names.get(name.textContent));
}
// What scrolls can be reached with the keyboard, and every button has a name.
for (const toggle of document.querySelectorAll('summary:has(> .toctree-toggle)')) toggle.ariaLabel = `Pages of ${toggle.closest('li').querySelector('a').textContent}`;
const reachable = () => { for (const e of document.querySelectorAll('pre, .pst-scrollable-table-container, .math, .math > mjx-container')) if (e.scrollWidth > e.clientWidth) e.tabIndex = 0; };
addEventListener('load', () => window.MathJax?.startup ? MathJax.startup.promise.then(reachable) : reachable());
addEventListener('resize', reachable);
// Figures that answer: each is a module, and reads its numbers from its element.
for (const el of document.querySelectorAll('.living')) {
  const model = { get: name => JSON.parse(el.dataset[name]) };
  import(`./living/${el.dataset.figure}.js`).then(m => m.default.render({ model, el }));
}
