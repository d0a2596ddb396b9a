"What makes the site pleasant to read: the top of a chapter, texts for figures, links to equations, symbols that explain themselves, words for the search."
import json, re
from pathlib import Path
from docutils import nodes
from sphinx import addnodes
from readme import CAPTION
nbs = Path(__file__).resolve().parents[1]/'nbs'

def chapters() -> list[str]:
    "The book, then the workshop, in reading order: names of pages, such as workshop/06_doctor"
    return [p.relative_to(nbs).with_suffix('').as_posix() for folder in (nbs, nbs/'workshop') for p in sorted(folder.glob('[0-9]*.ipynb'))]

def module_of(chapter: str) -> str:
    "The module that a chapter exports: workshop/06_doctor -> workshop.doctor"
    *floor, name = chapter.split('/')
    return '.'.join([*floor, name[3:]])

def plain(md: str) -> str:
    "Markdown as an attribute can hold it, formulas as they are read"
    math = lambda m: ' '.join(re.sub(r'\\(mathbf|boldsymbol|mathrm|text|operatorname|mid|[,; ])|[{}\\]', ' ', m[1]).replace(' _', '_').split())
    return ' '.join(re.sub(r'[*`]', '', re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', re.sub(r'\$([^$]+)\$', math, md))).split())

NEEDS = re.compile(r'\*\*You need:\*\*.*?\*\*You will be able to:\*\*.*?(?:\n\n|\Z)', re.S)
def top(cells: list):
    "What a chapter needs, teaches and takes stands right below its title"
    for c in cells[1:]:
        if c.cell_type=='markdown' and (m := NEEDS.search(c.source)):
            words = sum(len(re.findall(r'\w+', re.sub(r'\$\$?[^$]+\$\$?', ' ', c.source))) for c in cells if c.cell_type=='markdown')
            lines = sum(len(c.source.splitlines()) for c in cells if c.cell_type=='code')
            text = m[0].strip().replace(' **You will', '\n\n**You will').replace('\n**You will', '\n\n**You will')
            c.source = c.source.replace(m[0], '')
            cells[0].source += f'\n\n:::{{container}} chapter-top\n{text}\n\n**Reading time:** about {max(5, 5*round((words/180+lines/12)/5))} minutes ({words:,} words, {lines} lines of code).\n:::'
            return

def alt(cells: list):
    "Every figure has a text: its caption below, in italics, or else the heading and the last words above"
    heading = said = ''
    for k,c in enumerate(cells):
        if c.cell_type=='markdown':
            heading = (re.findall(r'^#+ (.*)', c.source, re.M) or [heading])[-1]
            last = c.source.split('\n\n')[-1]; said = '' if re.match(r'[#*|$<]|```', last) else ': '+last
        else:
            below = next((b.source for b in cells[k+1:] if b.cell_type=='markdown'), '')
            m = re.match(r'\*(?!\*).+?(?=\n\n|\Z)', below, re.S); text = plain(m[0] if m else heading+said)
            c.metadata['mystnb'] = {'image': {'alt': text}}
            for o in c.get('outputs', []):
                if 'text/html' in o.get('data', {}): o.data['text/html'] = film_text(o.data['text/html'], text)

def film_text(html: str, text: str) -> str:
    "The same for a film (`play` in chapter 02)"
    text = text.replace('&', '&amp;').replace('"', '&quot;').replace('<', '&lt;')
    return html.replace('<img alt="Film"', f'<img alt="{text}"')

_eq = re.compile(r'(?P<leave>```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]+\$|\[[^]]*\]\([^)]*\)|^#.*?$|<[^>]+>|(?:\d{4}|their),? eqs?\.\s\d+)'
    r'|\b(?P<one>[Ee]q\.\s(?P<n>\d+))|\b(?P<many>[Ee]qs\.\s\d+(?:(?:,\s|\sand\s|\sto\s)\d+)*)', re.S|re.M)
def link_equations(md: str) -> str:
    "`eq. 5` leads to the equation; headings, links, formulas and the numbers of other papers stay as they are"
    number = lambda m: f'[{m[0]}](#eq-{m[0]})'
    return _eq.sub(lambda m: f'[{m["one"]}](#eq-{m["n"]})' if m['one'] else re.sub(r'\d+', number, m['many']) if m['many'] else m[0], md)

def notation() -> list[list[str]]:
    "The lines of the table in nbs/notation.md: symbol, name in code, what it is, other names, where"
    lines = [l for l in (nbs/'notation.md').read_text(encoding='utf-8').splitlines() if l.startswith('| $')]
    return [[cell.strip().strip('$`') for cell in l[1:-1].split('|')] for l in lines]

def symbols(app):
    "The browser knows the table: see site.js"
    app.add_js_file(None, body=f'const NOTATION = {json.dumps([[tex, code, plain(what)] for tex, code, what, *_ in notation()])}', priority=400)
    app.add_js_file('site.js', priority=401, defer='defer')

def index_words(app, doctree):
    "The search knows equations by their numbers, and symbols by their names"
    page, entries = app.env.docname, []
    def add(word, anchor): entries.append(('single', word, anchor, 'main', None))
    for eq in sorted({i for n in doctree.findall() if isinstance(n, nodes.Element) for i in n['ids'] if re.fullmatch(r'eq-\d+', i)}):
        for word in ('eq. {}', 'eq {}', 'eq.{}', 'equation {}', '({})'): add(word.format(eq[3:]), eq)
    for _, code, _, names, where in notation():
        doc, anchor = re.search(r'\((\w+)\.ipynb(?:#([^)]*))?\)', where).groups('')
        if doc==page:
            for word in filter(None, [code, *names.split(', ')]): add(word, anchor)
    if entries: doctree.append(addnodes.index(entries=entries))

HERO = '''```{raw} html
<img class="first" src="_static/first.webp" width="1572" height="402" alt="Small pictures of faces, digits and things">
<p class="first">CAPTION</p>
<div class="doors">
<div><a href="00_markov_chain.html">Learn</a> The book: every equation derived, computed and checked, from a Markov chain to faces.</div>
<div><a href="#to-use-your-own-images">Use</a> Train on your own images and draw new ones, by one command or a few lines of Python.</div>
<div><a href="api/index.html">Look up</a> Every function, with its shapes; also <a href="30_errata.html#the-index">every equation</a> and <a href="notation.html">every symbol</a>.</div>
</div>
```'''
def land(app, docname, source):
    "A picture and the doors come right below the title"
    if docname=='notation': source[0] = re.sub(r'\]\(\w+\.ipynb#(eq-\d+)\)', r'](#\1)', source[0])
    if docname=='index': source[0] = source[0].replace('<!-- picture -->', json.dumps(HERO.replace('CAPTION', CAPTION))[1:-1])

def head(p: Path) -> list[str]:
    "Title and promise of a notebook"
    first = ''.join(json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source'])
    return [' '.join(part.replace('\n>', ' ').split()) for part in re.match(r'# (.*?)\n+> (.*?)(?:\n\n|\Z)', first, re.S).groups()]

def finish(app, exc):
    "A page for readers that are programs (llmstxt.org)"
    if exc or app.builder.format!='html': return
    link = lambda title, page, more='': f'- [{title}]({app.config.html_baseurl}{page}.html)' + (more and f': {more}')
    title, promise = head(nbs/'index.ipynb'); book = [(*head(nbs/f'{name}.ipynb'), name) for name in chapters()]
    lines = [f'# {title}', '', f'> {promise}', '', '## Chapters', '', *(link(t, page, more) for t, more, page in book), '', '## Reference', '',
        link('API reference', 'api/index'), link('Notation', 'notation'), link('Beside others', 'beside'), link('Benchmark', 'benchmark')]
    (Path(app.outdir)/'llms.txt').write_text('\n'.join(lines)+'\n', encoding='utf-8')

def setup(app):
    for e,f in {'builder-inited':symbols, 'source-read':land, 'doctree-read':index_words, 'build-finished':finish}.items(): app.connect(e, f)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
