"""What makes the site pleasant to read: the top of a chapter, texts for figures, links to
equations, symbols that explain themselves, words for the search."""
import json, re
from pathlib import Path
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from readme import CAPTION, models

log = logging.getLogger(__name__)
nbs = Path(__file__).resolve().parents[1]/'nbs'

# ---------------------------------------------------------------- chapters
def chapters() -> list[str]:
    "The book, then the workshop, in reading order: names of pages, such as workshop/07_doctor"
    found = [p for folder in (nbs, nbs/'workshop')
        for p in sorted(folder.glob('[0-9]*.ipynb'))]
    return [p.relative_to(nbs).with_suffix('').as_posix() for p in found]

def module_of(chapter: str) -> str:
    "The module that a chapter exports: workshop/07_doctor -> workshop.doctor"
    *floor, name = chapter.split('/')
    return '.'.join([*floor, name[3:]])

def head(path: Path) -> list[str]:
    "Title and promise of a notebook"
    first = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])
    parts = re.match(r'# (.*?)\n+> (.*?)(?:\n\n|\Z)', first, re.S).groups()
    return [' '.join(part.replace('\n>', ' ').split()) for part in parts]

# ---------------------------------------------------------------- the top of a chapter
NEEDS = re.compile(r'\*\*You need:\*\*.*?\*\*You will be able to:\*\*.*?(?:\n\n|\Z)', re.S)
TOP = '''

:::{{container}} chapter-top
{text}

**Reading time:** about {minutes} minutes ({words:,} words, {lines} lines of code).
:::'''

def words_and_lines(cells: list) -> tuple[int, int]:
    "Of text, without its formulas, and of code"
    texts = [re.sub(r'\$\$?[^$]+\$\$?', ' ', c.source)
        for c in cells if c.cell_type=='markdown']
    words = sum(len(re.findall(r'\w+', text)) for text in texts)
    return words, sum(len(c.source.splitlines()) for c in cells if c.cell_type=='code')

def top(cells: list):
    "What a chapter needs, teaches and takes stands right below its title"
    for cell in cells[1:]:
        m = cell.cell_type=='markdown' and NEEDS.search(cell.source)
        if not m: continue
        words, lines = words_and_lines(cells)
        minutes = max(5, 5*round((words/180+lines/12)/5))
        text = re.sub(r'\s\*\*You will', '\n\n**You will', m[0].strip())
        cell.source = cell.source.replace(m[0], '')
        cells[0].source += TOP.format(text=text, minutes=minutes, words=words, lines=lines)
        return

# ---------------------------------------------------------------- texts for figures
def spoken(formula: str) -> str:
    "A formula as it is read"
    marks = r'\\(mathbf|boldsymbol|mathrm|text|operatorname|mid|[,; ])|[{}\\]'
    words = re.sub(marks, ' ', formula)
    return ' '.join(words.replace(' _', '_').split())

def plain(md: str) -> str:
    "Markdown as an attribute can hold it"
    text = re.sub(r'\$([^$]+)\$', lambda m: spoken(m[1]), md)
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', text)
    return ' '.join(re.sub(r'[*`]', '', text).split())

def caption_below(cells: list, k: int) -> str:
    "The words in italics below cell `k`; '' if there are none"
    below = next((c.source for c in cells[k+1:] if c.cell_type=='markdown'), '')
    m = re.match(r'\*(?!\*).+?(?=\n\n|\Z)', below, re.S)
    return m[0] if m else ''

def alt(cells: list):
    """Every figure has a text: its caption below, in italics, or else the heading and the last
    words above"""
    heading = said = ''
    for k, cell in enumerate(cells):
        if cell.cell_type=='markdown':
            heading = (re.findall(r'^#+ (.*)', cell.source, re.M) or [heading])[-1]
            last = cell.source.split('\n\n')[-1]
            said = '' if re.match(r'[#*|$<]|```', last) else f': {last}'
            continue
        text = plain(caption_below(cells, k) or heading+said)
        shown = cell.metadata.setdefault('mystnb', {})['image'] = {'alt': text}
        for output in cell.get('outputs', []):   # half as wide as it has pixels
            size = output.get('metadata', {}).get('image/png')
            if size: shown['width'] = f'{size["width"]}px'
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'text/html' in data:
                data['text/html'] = without_script(film_text(data['text/html'], text))

def film_text(html: str, text: str) -> str:
    "The same for a film (`play` in chapter 02)"
    text = text.replace('&', '&amp;').replace('"', '&quot;').replace('<', '&lt;')
    return html.replace('<img alt="Film"', f'<img alt="{text}"')

NO_SCRIPT = '<noscript class="still">'   # in a figure that answers: see stills.py

def without_script(html: str) -> str:
    "What readers without JavaScript see of a figure that answers"
    return re.sub(r'(<div class="living"[^>]*>)(?=</div>)',
        rf'\1{NO_SCRIPT}<p>This figure answers where JavaScript runs.</p></noscript>', html)

# ---------------------------------------------------------------- equations
LEAVE = (r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]+\$|\[[^]]*\]\([^)]*\)|^#.*?$|<[^>]+>|'
    r'(?:\d{4}|their),? eqs?\.\s\d+')
ONE = r'\b(?P<one>[Ee]q\.\s(?P<n>\d+))'
MANY = r'\b(?P<many>[Ee]qs\.\s\d+(?:(?:,\s|\sand\s|\sto\s)\d+)*)'
MENTION = re.compile(f'(?P<leave>{LEAVE})|{ONE}|{MANY}', re.S|re.M)

def link_equations(md: str) -> str:
    """`eq. 5` leads to the equation; headings, links, formulas and the numbers of other papers
    stay as they are"""
    def linked(m):
        if m['one']: return f'[{m["one"]}](#eq-{m["n"]})'
        if m['many']: return re.sub(r'\d+', r'[\g<0>](#eq-\g<0>)', m['many'])
        return m[0]
    return MENTION.sub(linked, md)

# ---------------------------------------------------------------- symbols
def notation() -> list[list[str]]:
    """The lines of the table in nbs/notation.md: symbol, name in code, what it is, other
    names, where"""
    text = (nbs/'notation.md').read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if line.startswith('| $')]
    return [[cell.strip().strip('$`') for cell in line[1:-1].split('|')] for line in lines]

def symbols(app):
    "The browser knows the table: see site.js"
    table = [[tex, code, plain(what)] for tex, code, what, *_ in notation()]
    app.add_js_file(None, body=f'const NOTATION = {json.dumps(table)}', priority=400)
    app.add_js_file('site.js', priority=401, defer='defer')

# ---------------------------------------------------------------- the search
#: What readers ask, by the place that answers: page#section. See docs/scorer.js
ASKED = {
    'index#ddpm-lit': ['install', 'pip install', 'download', 'quick start', 'getting started'],
    'index#to-use-your-own-images': [
        'train on my own images', 'train on my own data', 'train my own model', 'own images',
        'custom dataset', 'fine-tune'],
    'index#to-learn-the-notebooks': ['open the notebooks', 'jupyter', 'where do I begin'],
    'index#licence': ['commercial use', 'license'],
    'index#versions': ['cite', 'citation'],
    '01_data#data-of-your-own': ['own data', 'data set'],
    '03_forward#the-schedule': ['noise schedule', 'beta schedule', 'alphas_cumprod'],
    '05_reverse#the-step': ['clip', 'clipping', 'clip_x0', 'clip_sample', 'clip denoised'],
    '07_simple_loss#a-learned-gradient-of-the-data-density': [
        'score', 'score matching', 'score function', 'Langevin', 'Tweedie'],
    '07_simple_loss#dropping-the-weight-eq-14': ['loss function', 'training objective', 'MSE'],
    '06_vlb#the-whole-bound': ['ELBO', 'bits per dimension', 'likelihood of an image', 'NLL'],
    '08_unet#the-time': ['time embedding', 'positional encoding'],
    '09_denoiser#any-network': [
        'own network', 'my own model', 'own architecture', 'custom network', 'transformer',
        'DiT'],
    '09_denoiser#three-answers': ['v prediction', 'v_prediction', 'velocity'],
    '10_training#the-average-of-the-weights': ['EMA', 'exponential moving average'],
    '11_sampling#fewer-steps': ['sample faster', 'draw faster', 'sampling is slow'],
    '11_sampling#ddim-keep-the-noise-that-is-there': [
        'DDIM', 'deterministic sampling'],
    '11_sampling#heun-look-again-where-you-arrive': ['Heun', 'Karras'],
    '11_sampling#one-seed-one-image': ['seed', 'same image twice'],
    '12_conditional#guidance': [
        'guidance', 'classifier-free guidance', 'CFG', 'guidance scale'],
    '12_conditional#inpainting-a-spike-on-what-is-known': ['inpainting', 'RePaint', 'fill in'],
    '12_conditional#labels': ['class conditional', 'condition on a class'],
    '17_evaluation#the-famous-metrics': ['FID', 'KID', 'inception score', 'evaluate'],
    '17_evaluation#the-nearest-neighbour': ['overfitting', 'memorization', 'copies'],
    '18_dictionary#from-edm': ['EDM', 'preconditioning', 'c_skip', 'c_out', 'sigma_data'],
    '18_dictionary#from-score-sdes': ['SDE', 'VP SDE', 'probability flow ODE'],
    '18_dictionary#from-flow-matching': ['flow matching', 'rectified flow'],
    '18_dictionary#from-vaes': ['hierarchical VAE'],
    '18_dictionary#from-energies-and-langevin-dynamics': ['energy', 'Langevin dynamics'],
    '18_dictionary#from-diffusers': [
        'prediction_type', 'variance_type', 'num_train_timesteps'],
    '18_dictionary#from-k-diffusion': ['k-diffusion', 'sample_euler'],
    '20_cifar10#on-a-gpu-the-paper-s-run': ['GPU', 'CUDA', 'train on a GPU'],
    '22_detail_and_colour#detail-where-nobody-knows': ['super-resolution', 'upscale'],
    'workshop/01_weights#models-that-others-trained': ['diffusers', 'checkpoint of diffusers'],
    'workshop/02_speed#memory-that-is-not-needed': ['out of memory', 'memory'],
    'workshop/02_speed#what-each-of-them-gains': ['compile', 'bfloat16', 'training is slow'],
    'workshop/03_model#to-change-one-thing': ['own network', 'own sampler', 'own schedule'],
    'workshop/05_runs#the-check-stop-go-on-and-nobody-can-tell': [
        'resume', 'resume training', 'checkpoint', 'continue training', 'interrupted'],
    'workshop/05_runs#many-processes': [
        'multi GPU', 'distributed', 'several GPUs', 'torchrun'],
    'workshop/05_runs#which-learning-rate': ['learning rate finder'],
    'workshop/05_runs#bad-steps': ['nan loss', 'loss is nan'],
    'workshop/06_hub#publish': ['upload a model', 'hugging face'],
    'workshop/07_doctor#the-question': [
        'samples are bad', 'samples are noise', 'what is wrong with my model', 'not learning'],
    'workshop/08_reproduce#the-question': ['reproduce', 'FID of the paper', 'FID 3.17'],
    'workshop/09_export#the-question': ['onnx', 'export', 'browser', 'javascript'],
    'workshop/10_cli#how-good-are-they': ['evaluate'],
    'workshop/10_cli#train': ['train', 'command line', 'train from the command line']}

WAYS_TO_SAY = 'eq. {}', 'eq {}', 'eq.{}', 'equation {}', '({})'

def equations_in(doctree) -> list[str]:
    elements = [n for n in doctree.findall() if isinstance(n, nodes.Element)]
    return sorted({i for n in elements for i in n['ids'] if re.fullmatch(r'eq-\d+', i)})

def asked_of(page: str, doctree) -> list[tuple[str, str]]:
    "What readers ask and this page answers, with the sections. Warns of those that are gone"
    sections = {i for section in doctree.findall(nodes.section) for i in section['ids']}
    found = []
    for place, phrases in ASKED.items():
        where, anchor = place.split('#')
        if where!=page: continue
        if anchor not in sections: log.warning('ASKED: %s is no section', place)
        found += [(phrase, anchor) for phrase in phrases]
    return found

def check_asked(app, env):
    pages = {place.split('#')[0] for place in ASKED}
    for page in sorted(pages-env.found_docs): log.warning('ASKED: %s is no page', page)

def index_words(app, doctree):
    """The search knows equations by their numbers, symbols by their names, and what readers
    ask"""
    words = [(way.format(eq[3:]), eq) for eq in equations_in(doctree) for way in WAYS_TO_SAY]
    for _, code, _, names, where in notation():
        page, anchor = re.search(r'\((\w+)\.ipynb(?:#([^)]*))?\)', where).groups('')
        if page!=app.env.docname: continue
        words += [(word, anchor) for word in [code, *names.split(', ')] if word]
    words += asked_of(app.env.docname, doctree)
    entries = [('single', word, anchor, 'main', None) for word, anchor in words]
    if entries: doctree.append(addnodes.index(entries=entries))

# ---------------------------------------------------------------- the first page
HERO = '''```{raw} html
<img class="first" src="_static/first.webp" width="1208" height="266"
alt="Small pictures of faces and things">
<p class="first">CAPTION</p>
<div class="doors">
<div><a href="00_markov_chain.html">Learn</a>
The book: every equation derived, computed and checked, from a Markov chain to faces.</div>
<div><a href="#to-use-your-own-images">Use</a>
Train on your own images and draw new ones, by one command or a few lines of Python.</div>
<div><a href="draw.html">Draw</a>
In this window, with models of the book: nothing to install.</div>
<div><a href="api/index.html">Look up</a>
Every function, with its shapes; also <a href="30_errata.html#the-index">every equation</a> and
<a href="notation.html">every symbol</a>.</div>
</div>
```'''

def land(app, docname, source):
    """A picture and the doors come right below the title; on the page of symbols, links to
    equations are Sphinx's"""
    if docname=='notation':
        source[0] = re.sub(r'\]\(\w+\.ipynb#(eq-\d+)\)', r'](#\1)', source[0])
    if docname!='index': return
    caption = re.sub('`([^`]+)`', r'<code>\1</code>', CAPTION)
    hero = HERO.replace('CAPTION', caption)
    for mark, text in (('picture', hero), ('models', models())):
        in_notebook = json.dumps(text)[1:-1]   # inside a string of its JSON
        source[0] = source[0].replace(f'<!-- {mark} -->', in_notebook)

def finish(app, exc):
    "A page for readers that are programs (llmstxt.org)"
    if exc or app.builder.format!='html': return
    def link(title: str, page: str, more: str = '') -> str:
        line = f'- [{title}]({app.config.html_baseurl}{page}.html)'
        return f'{line}: {more}' if more else line
    title, promise = head(nbs/'index.ipynb')
    lines = [f'# {title}', '', f'> {promise}', '', '## Chapters', '']
    for name in chapters():
        chapter, more = head(nbs/f'{name}.ipynb')
        lines.append(link(chapter, name, more))
    lines += ['', '## Reference', '', link('Draw here', 'draw'),
        link('API reference', 'api/index'),
        link('Notation', 'notation'), link('Beside others', 'beside'),
        link('Benchmark', 'benchmark')]
    (Path(app.outdir)/'llms.txt').write_text('\n'.join(lines)+'\n', encoding='utf-8')

def setup(app):
    app.connect('builder-inited', symbols)
    app.connect('source-read', land)
    app.connect('doctree-read', index_words)
    app.connect('env-check-consistency', check_asked)
    app.connect('build-finished', finish)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
