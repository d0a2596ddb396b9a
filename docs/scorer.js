// Sphinx's own scores (searchtools.js). Numbered equations and symbols are index entries, which come first; say which equation it is.
var Scorer = {
  score: result => {
    const [page, title, anchor, description, score, file, kind] = result;
    if (kind === 'index' && anchor.startsWith('#eq-')) result[3] = anchor.slice(1).replace('-', '. ');
    return score;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
