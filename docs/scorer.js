// The order of what a search finds (Sphinx's searchtools.js). A question is compared, word by word, with titles, with their parts
// before and after a colon, and with the entries of the index: equations, symbols, and what readers ask (ASKED in docs/reading.py).
// What matches comes first: numbered equations, titles, then the other entries. After them come functions and pages that hold the
// words, the book before the rest.
const FILLERS = new Set(('a an and any are as at be by can could did do does for from get has have how i in is it its me my of on one or ' +
  'our should some that the their there this to use was we what when where which who why will with would you your').split(' '));
const LAST = /^(benchmark|beside|index|notation|genindex)$/;
const floor = page => LAST.test(page) ? 16 : page.startsWith('api/') ? 12 : page.startsWith('workshop/') ? 1 : 0;

const meaning = text => {
  const stemmer = new Stemmer();
  const words = text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
  const telling = words.filter(word => !FILLERS.has(word));
  return new Set((telling.length ? telling : words).map(word => stemmer.stemWord(word)));
};
const alike = (one, other) => {   // from 0 to 1: the words that both have among those that either has
  const both = [...one].filter(word => other.has(word)).length;
  return both / (one.size + other.size - both);
};
const matches = query => {
  const {docnames, filenames, titles, alltitles, indexentries} = Search._index;
  const asked = meaning(query), found = [], sections = new Map();
  const add = (file, anchor, kind, note, score) => found.push([docnames[file], '', anchor ? '#' + anchor : '', note, score - floor(docnames[file]),
    filenames[file], kind]);
  for (const [title, places] of Object.entries(alltitles)) {
    const parts = [title, ...title.split(': ')].map(part => alike(asked, meaning(part)));
    const likeness = Math.max(parts[0], .98 * Math.max(...parts));
    for (const [file, id] of places) {
      if (id) sections.set(`${file}#${id}`, title);
      if (likeness > .6) add(file, id, 'title', null, 220 * likeness + (id ? 0 : 6));
    }
  }
  for (const [entry, places] of Object.entries(indexentries)) {
    const likeness = alike(asked, meaning(entry));
    if (likeness > .6) for (const [file, id] of places) {
      const numbered = id.startsWith('eq-');
      add(file, id, 'index', numbered ? id.replace('-', '. ') : null, (numbered ? 230 : 200) * likeness);
    }
  }
  for (const result of found) {
    const file = docnames.indexOf(result[0]), section = sections.get(file + result[2]);
    result[1] = section && section !== titles[file] ? `${titles[file]} > ${section}` : titles[file];
  }
  return found;
};
const inOrder = search => (query, terms, ...others) => {
  const fillers = meaning([...FILLERS].join(' ')), telling = new Set([...terms].filter(term => !fillers.has(term)));
  const rest = search(query.replace(/[?!.\s]+$/, ''), telling.size ? telling : terms, ...others).filter(result => result[6] !== 'index');
  for (const result of rest) result[4] = LAST.test(result[0]) ? result[4] / 4 : result[4] - floor(result[0]) / 12;
  const all = [...rest, ...matches(query)].map((result, k) => [result, k]).sort(([a, i], [b, j]) => b[4] - a[4] || j - i);
  const seen = new Set(), once = [];
  for (const [result] of all) {
    const place = result[0] + (result[6] === 'object' ? result[1] : result[2]);
    if (!seen.has(place)) once.push(result);
    seen.add(place);
  }
  return once.reverse();   // searchtools.js shows the last first
};
Search._performSearch = inOrder(Search._performSearch);
