"""The site builds without a warning, and works in a browser that cannot reach anything else.
It takes long: all of it is `soak`; `pytest -m soak tests/test_docs.py` runs it."""
import posixpath, re, shutil, subprocess, threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote_plus, unquote
import pytest, torch
from bs4 import BeautifulSoup
from torch.distributions import Normal
from torch import Tensor
from conftest import root
from ddpm_lit import DDPM
from ddpm_lit.data import to_image
from ddpm_lit.exact import eight_gaussians
from ddpm_lit.forward import Schedule, q_marginal, q_sample
from ddpm_lit.reverse import beta_tilde, mu_theta, q_posterior
from ddpm_lit.sampling import sample
from ddpm_lit.vlb import L_0, L_t_minus_1
from ddpm_lit.workshop.export import table_of
import models, stills
from helpers import chromium

pytestmark = pytest.mark.soak

class Pages(SimpleHTTPRequestHandler):
    "The site under /ddpm_lit/, as it is published, with its own page for what does not exist"
    def log_message(self, *args): "No log"
    def translate_path(self, path):
        return super().translate_path(path.removeprefix('/ddpm_lit'))
    def send_error(self, code, *args, **kwargs):
        with open(f'{self.directory}/404.html', 'rb') as f: body = f.read()
        self.send_response(code)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        self.wfile.write(body)

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    command = [
        'sphinx-build', '-q', '-W', '--keep-going', '-c', 'docs', '-d', str(out/'doctrees'),
        'nbs', str(out/'html')]
    r = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return out/'html'

@pytest.fixture(scope='module')
def pages(site):
    parse = lambda p: BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser')
    return {p.relative_to(site).as_posix(): parse(p) for p in site.rglob('*.html')}

PHONE = dict(has_touch=True, viewport=dict(width=390, height=800))

def opened(browser, base: str, **context):
    "A page, patient with slow machines, that keeps what it asks for and its errors"
    tab = browser.new_context(**context).new_page()
    tab.set_default_timeout(600_000)
    tab.base = base
    tab.asked, tab.outside, tab.errors = [], [], []
    def asks(request):
        tab.asked.append(request.url)
        if not request.url.startswith((tab.base, 'data:', 'blob:')):
            tab.outside.append(request.url)
    tab.on('request', asks)
    tab.on('pageerror', lambda e: tab.errors.append(str(e)))
    tab.on('console', lambda m: m.type=='error' and tab.errors.append(m.text))
    return tab

@pytest.fixture(scope='module')
def tab(site):
    "A page of a browser that looks at the site"
    exe = chromium()
    from playwright.sync_api import sync_playwright
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Pages, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        quiet = ['--no-sandbox', '--disable-quic', '--disable-background-networking']
        browser = p.chromium.launch(executable_path=exe, args=quiet)
        base = f'http://127.0.0.1:{server.server_port}/ddpm_lit/'
        yield opened(browser, base, reduced_motion='reduce')
        browser.close()
    server.shutdown()

def visit(tab, name):
    "Open a page and wait for its formulas"
    tab.goto(tab.base+name)
    if tab.evaluate('!!window.MathJax'):
        tab.wait_for_function('window.MathJax.startup?.promise?.then(() => true)')
    if 'search.html?' in name:
        tab.wait_for_function("document.querySelector('.search-summary')?.innerText")

KINDS = [
    'index.html', '20_cifar10.html', '30_errata.html', 'api/reverse.html', 'notation.html',
    'beside.html', 'draw.html', 'search.html?q=posterior', 'no/such/page.html']
MATHEMATICAL = '00', '03', '04', '05', '06', '07', '30'

def complete(tab, name):
    "All formulas are set, nothing is missing, nothing is asked of others"
    assert tab.locator('mjx-merror, [data-mjx-error], .MathJax_Error').count()==0, name
    assert tab.outside==[] and tab.errors==[], name
    if name.startswith(MATHEMATICAL): assert tab.locator('mjx-container').count()>20, name

def too_wide(tab) -> int:
    "By how many pixels something sticks out"
    whole = 'document.documentElement'
    return tab.evaluate(f'{whole}.scrollWidth - {whole}.clientWidth')

# ---------------------------------------------------------------- what the pages hold
class Link(NamedTuple):
    page: str      # where it stands
    to: str        # the page that it leads to
    anchor: str    # '' for none

@pytest.fixture(scope='module')
def links(pages) -> list[Link]:
    "All links within the site"
    found = []
    for name, page in pages.items():
        for a in page.select('article a[href]'):
            if re.match(r'[a-z]+:', a['href']): continue
            path, _, anchor = unquote(a['href'].removeprefix('/ddpm_lit/')).partition('#')
            beside = posixpath.join(posixpath.dirname(name), path)
            to = posixpath.normpath(beside) if path else name
            found.append(Link(name, to, anchor))
    return found

def test_links_lead_somewhere(site, pages, links):
    "Every link within the site, fragments too"
    ids = {name: {t['id'] for t in page.find_all(id=True)} for name, page in pages.items()}
    for link in links:
        assert (site/link.to).exists(), link
        if link.anchor and link.to in ids: assert link.anchor in ids[link.to], link

INDEX = '30_errata.html'

@pytest.mark.parametrize('n', range(1, 16))
def test_an_equation_and_its_line_in_the_index_lead_to_each_other(links, n):
    there, = {link.to for link in links if link.page==INDEX and link.anchor==f'eq-{n}'}
    assert Link(there, INDEX, f'index-eq-{n}') in links

@pytest.mark.parametrize('n', [2, 4, 5, 7, 11, 14])
def test_other_chapters_lead_to_an_equation(links, n):
    there = [link for link in links if link.anchor==f'eq-{n}' and link.page[0].isdigit()]
    assert any(link.page not in (link.to, INDEX) for link in there)

@pytest.mark.parametrize('f', [
    'forward.q_step', 'reverse.q_posterior', 'vlb.vlb', 'simple_loss.L_simple'])
def test_functions_lead_to_equations_and_the_index_to_functions(links, f):
    page = f'api/{f.split(".")[0]}.html'
    assert any(link.page==INDEX and link.anchor==f'ddpm_lit.{f}' for link in links)
    assert any(link.page==page and link.anchor.startswith('eq-') for link in links)

WORDS_AT_THE_TOP = 'You need:', 'You will be able to:', 'Reading time: about'

def offered(page, name: str) -> list[str]:
    "What the head of a chapter offers: Colab, Binder, the notebook itself"
    targets = ['colab.', 'mybinder.', f'_sources/{name.removesuffix(".html")}.ipynb']
    tops = 'header', '.bd-header-article'
    return [t for t in targets if any(page.select(f'{top} a[href*="{t}"]') for top in tops)]

def test_chapters_say_what_they_need_and_show(site, pages):
    names = sorted(n for n in pages if re.match(r'(workshop/)?\d\d_', n))
    assert len(names)>20
    for name in names:
        page = pages[name]
        top = page.select_one('.chapter-top').get_text()
        assert all(words in top for words in WORDS_AT_THE_TOP), name
        assert page.select_one('.prev-next-footer .left-prev'), name
        assert page.select_one('.prev-next-footer .right-next'), name
        assert len(offered(page, name))==3, name
        for image in page.select('article img'):
            assert len(image.get('alt', ''))>=8, f'{name}: a figure without a text: {image}'

def test_light_enough_and_known_to_others(site, pages):
    assert sum(p.stat().st_size for p in site.rglob('*') if p.is_file()) < 60e6
    card = pages['index.html'].select_one('meta[property="og:image"]')['content']
    assert (site/card.split('/ddpm_lit/')[1]).exists()
    told = (site/'llms.txt').read_text(encoding='utf-8')
    urls = re.findall(r'\]\(\S+/ddpm_lit/(\S+)\)', told)
    assert len(urls)>20 and all((site/u).exists() for u in urls)

# ---------------------------------------------------------------- in a browser
def test_landing_page(site, tab):
    "All of title, picture and doors is on the first screen, and the page is light"
    tab.set_viewport_size(dict(width=1400, height=900))
    tab.asked.clear()
    visit(tab, 'index.html')
    tab.wait_for_load_state('networkidle')
    asked = [url.removeprefix(tab.base) for url in tab.asked if url.startswith(tab.base)]
    files = {site/unquote(path.partition('?')[0]) for path in asked}
    assert len(files)>15 and sum(f.stat().st_size for f in files) < 1.5e6
    parts = 'article h1', 'img.first', '.doors'
    title, picture, doors = (tab.locator(what).bounding_box() for what in parts)
    assert title['y']<picture['y']<doors['y'] and doors['y']+doors['height']<900
    drawn = tab.locator('img.first').evaluate('image => image.naturalWidth')
    assert drawn>picture['width']>600
    assert tab.locator('.doors a').count()>=3

def serious_faults(tab) -> list:
    "What axe finds"
    from axe_playwright_python.sync_playwright import Axe
    context = dict(exclude=['mjx-container svg'])
    found = Axe().run(tab, context=context, options=dict(resultTypes=['violations']))
    violations = found.response['violations']
    serious = [v for v in violations if v['impact'] in ('serious', 'critical')]
    return [(v['id'], [n['target'] for n in v['nodes']][:5]) for v in serious]

LOOKS = ('dark', 1400), ('light', 1400), ('light', 390), ('dark', 390)
EXAMINED = ('light', 1400), ('dark', 390)

@pytest.mark.parametrize('name', KINDS)
def test_every_kind_of_page(tab, name):
    "Wide and narrow, light and dark: nothing sticks out, and axe finds nothing serious"
    tab.errors.clear()
    tab.set_viewport_size(dict(width=1400, height=900))
    visit(tab, name)
    if name!='no/such/page.html': complete(tab, name)
    tab.evaluate("document.body.style.transition = 'none'")
    for theme, width in LOOKS:
        tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        tab.set_viewport_size(dict(width=width, height=900))
        assert too_wide(tab)<=0, f'{theme}, {width}'
        if (theme, width) in EXAMINED: assert not serious_faults(tab), f'{theme}, {width}'

DISTORTED = """[...document.querySelectorAll('article img')].filter(
    image => image.naturalHeight && Math.abs(image.clientWidth/image.clientHeight
        * image.naturalHeight/image.naturalWidth - 1) > .1).length"""
CODE = "[...document.querySelectorAll('article .cell_input pre')]"
FONT = f'parseFloat(getComputedStyle({CODE}[0]).fontSize)'
PROSE = """Math.max(...[...document.querySelectorAll('article :is(p, ul, h1, h2)')]
    .map(block => block.getBoundingClientRect().width))"""

def blocks_and_cut(tab) -> tuple[int, int]:
    "Blocks of code, and how many of them are wider than their column"
    n = tab.evaluate(f'{CODE}.length')
    return n, tab.evaluate(f'{CODE}.filter(e => e.scrollWidth>e.clientWidth).length')

CODE_OF = {'book': 501, 'api': 0}   # blocks of code on these pages, at least

@pytest.mark.parametrize('part', CODE_OF)
def test_every_page_on_a_phone_and_in_a_window(tab, pages, part):
    """On a phone nothing sticks out, all is there, and at most a tenth of the code is cut;
    in a window of 1400 px none is"""
    names = [n for n in pages if n[0]!='_' and n.startswith('api/')==(part=='api')]
    on_a_phone, in_a_window = [], []
    tab.errors.clear()
    for name in names:
        tab.set_viewport_size(dict(width=390, height=800))
        visit(tab, name)
        assert too_wide(tab)<=0 and tab.evaluate(DISTORTED)==0, name
        complete(tab, name)
        on_a_phone.append(blocks_and_cut(tab))
        tab.set_viewport_size(dict(width=1400, height=900))
        in_a_window.append(blocks_and_cut(tab))
    blocks, cut = map(sum, zip(*on_a_phone))
    assert cut<=.1*blocks and blocks>=CODE_OF[part]
    assert not [name for name, (_, cut) in zip(names, in_a_window) if cut]

def test_letters_and_lines_are_as_prose_needs(tab):
    tab.set_viewport_size(dict(width=1400, height=900))
    visit(tab, '09_denoiser.html')
    assert tab.evaluate(FONT)==14 and 500<tab.evaluate(PROSE)<=640

BROKEN_WORDS = r"""(() => {
    const lines = word => new Set([...word.getClientRects()].map(r => Math.round(r.top))).size;
    const found = [];
    for (const cell of document.querySelectorAll('article :is(td, th)')) {
        const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) for (const m of texts.currentNode.data.matchAll(/\w+/g)) {
            const word = document.createRange();
            word.setStart(texts.currentNode, m.index);
            word.setEnd(texts.currentNode, m.index+m[0].length);
            if (lines(word)>1) found.push(m[0]);
        }
    }
    return found;
})()"""

@pytest.mark.parametrize('name', ['notation', 'benchmark', 'beside', '30_errata'])
def test_tables_on_a_phone_break_no_words(tab, name):
    tab.set_viewport_size(dict(width=390, height=800))
    visit(tab, f'{name}.html')
    assert tab.locator('article td').count()>20
    assert tab.evaluate(BROKEN_WORDS)==[]

FOUND_FIRST = {
    # in two parts, for the index lists tests that name an equation
    f'eq. {14}': '07_simple_loss.html#eq-14',
    'posterior': '05_reverse.html#eq-6',
    'alpha_bar': '03_forward.html#eq-4'}

@pytest.mark.parametrize('query', FOUND_FIRST)
def test_search(tab, query):
    first = FOUND_FIRST[query]
    tab.set_viewport_size(dict(width=1400, height=900))
    visit(tab, 'index.html')
    tab.keyboard.press('Control+k')
    tab.keyboard.type(query)
    tab.keyboard.press('Enter')
    tab.wait_for_selector('ul.search li a')
    result = tab.locator('ul.search li a').first
    assert result.get_attribute('href')==first
    result.click()
    tab.wait_for_url(f'**/{first.split("#")[0]}*#*')

ASKED_AND_ANSWERED = {   # query -> what must be the first or the second hit
    'why are my samples noise': 'workshop/07_doctor.html',
    'How do I train with my own images?': 'index.html#to-use-your-own-images',
    'train on my own images': 'index.html#to-use-your-own-images',
    'ddim': '11_sampling.html#ddim-keep-the-noise-that-is-there',
    'clip': '05_reverse.html#the-step',
    'score': '07_simple_loss.html#a-learned-gradient-of-the-data-density',
    'guidance': '12_conditional.html#guidance',
    'resume': 'workshop/05_runs.html#the-check-stop-go-on-and-nobody-can-tell',
    'evaluate': '17_evaluation.html',
    'gpu': '20_cifar10.html#on-a-gpu-the-paper-s-run',
    'own network': '09_denoiser.html#any-network',
    'install': 'index.html#ddpm-lit'}
TITLES = {   # what comes first
    'Training: Algorithm 1': '10_training.html',
    'Which variance is best?': '06_vlb.html#which-variance-is-best',
    'interpolation': '13_interpolation.html',
    'Benchmark': 'benchmark.html'}

def hits(tab, query: str) -> list[str]:
    visit(tab, f'search.html?q={quote_plus(query)}')
    links = tab.locator('ul.search li a')
    return [re.sub(r'\?[^#]*', '', links.nth(k).get_attribute('href')) for k in range(2)]

@pytest.mark.parametrize('query', ASKED_AND_ANSWERED)
def test_a_question_finds_its_answer(tab, query):
    assert ASKED_AND_ANSWERED[query] in hits(tab, query)

@pytest.mark.parametrize('query', TITLES)
def test_a_title_comes_first(tab, query): assert hits(tab, query)[0]==TITLES[query]

def test_player_and_symbols(tab):
    "The player plays without a kernel; symbols explain themselves in code and in formulas"
    visit(tab, '03_forward.html')
    film = tab.locator('.animation img').first
    before = film.get_attribute('src')
    assert before.startswith('data:') and len(film.get_attribute('alt'))>20
    tab.locator('.animation input[type=range]').first.fill('9')
    tab.wait_for_function('s => document.querySelector(".animation img").src!==s', arg=before)
    for where in ('.highlight .n', 'span.math'):
        titles = tab.locator(f'{where}[title]').evaluate_all('all => all.map(e => e.title)')
        assert any(t.startswith('product of the alphas') for t in titles), where
    assert tab.outside==[]

# ---------------------------------------------------------------- figures that answer
def with_figure(tab, page: str):
    tab.errors.clear()   # of pages before
    tab.outside.clear()
    visit(tab, page)
    tab.wait_for_selector('.living canvas')

WORLD = "document.querySelector('.living')"

def of_figure(tab, what: str):
    return tab.evaluate(f'{WORLD}.figure.{what}()')

def test_the_plane_answers(tab):
    "By mouse, keyboard and touch; its numbers are the library's"
    world = eight_gaussians(Schedule.cosine(200))
    def check():
        n, t = of_figure(tab, 'numbers'), of_figure(tab, 'time')
        x = torch.tensor([of_figure(tab, 'point')], dtype=torch.float64)
        wanted = dict(density=world.log_prob(x, t).exp(), score=world.score(x, t),
            guess=world.x_0(x, t), eps=world.eps(x, t), shares=world.responsibilities(x, t))
        for k, want in wanted.items():
            assert (torch.tensor(n[k])-want).abs().max()<1e-6*(1+want.abs().max()), k
        return x[0].tolist(), t
    with_figure(tab, '04_exact.html')
    start, t = check()
    tab.locator('.living canvas').scroll_into_view_if_needed()
    box = tab.locator('.living canvas').bounding_box()
    def at(x, y): return box['x']+box['width']*x, box['y']+box['height']*y
    tab.mouse.move(*at(.5, .5))
    tab.mouse.down()
    tab.mouse.move(*at(.25, .75))
    tab.mouse.up()
    (a, b), _ = check()
    assert abs(a+1.1)<.05 and abs(b+1.1)<.05   # the square is [-2.2, 2.2]^2
    tab.keyboard.press('ArrowRight')
    (c, d), _ = check()
    assert abs(c-a-.05)<1e-9 and d==b
    tab.locator('.living input').focus()
    for _ in range(9): tab.keyboard.press('ArrowRight')
    assert check()[1]==t+9
    assert not tab.errors and not tab.outside

def test_what_a_figure_shows_is_printed(tab):
    "And what would move it is not"
    with_figure(tab, '06_vlb.html')
    tab.emulate_media(media='print')
    assert tab.locator('.living canvas').is_visible()
    assert not tab.locator('.living input').first.is_visible()
    tab.emulate_media(media='screen')

PLACES = [
    '00_markov_chain', '03_forward', '04_exact', '05_reverse', '06_vlb', '10_training',
    '13_interpolation']

def test_a_still_picture_where_no_script_runs(site, tab):
    stills.main(site, tab.context.browser)
    page = opened(tab.context.browser, tab.base, java_script_enabled=False)
    for name in PLACES:
        page.goto(f'{tab.base}{name}.html')
        picture = page.locator('.living img')
        assert picture.is_visible() and picture.bounding_box()['width']>250, name
        assert 'where JavaScript runs' in page.locator('.living').inner_text()
    page.context.close()

ANSWERS = """JSON.stringify(
    Object.values(document.querySelector('.living').figure).map(tell => tell()))"""

@pytest.mark.parametrize('page', PLACES)
def test_a_finger_moves_it(tab, page):
    "On a phone; what lies there fits"
    phone = opened(tab.context.browser, tab.base, **PHONE)
    visit(phone, f'{page}.html')
    canvas = phone.wait_for_selector('.living canvas')
    before, box = phone.evaluate(ANSWERS), canvas.bounding_box()
    assert box['width']<=390
    canvas.tap(position=dict(x=.4*box['width'], y=.25*box['height']))
    assert phone.evaluate(ANSWERS)!=before
    if page=='04_exact':   # the square is [-2.2, 2.2]^2
        a, b = of_figure(phone, 'point')
        assert abs(a+.44)<.05 and abs(b-1.1)<.05
    assert not phone.errors and not phone.outside
    phone.context.close()

@pytest.mark.parametrize('way', ['Algorithm 2', 'DDIM'])
def test_a_hundred_points_go_home(tab, way):
    "Without motion, where that is asked for: at once. They end on the eight spots"
    with_figure(tab, '04_exact.html')
    tab.locator('.living select').select_option(way)
    tab.locator('.living button').click()
    cloud = torch.tensor(of_figure(tab, 'cloud'))
    spots = eight_gaussians(Schedule.cosine(200)).means.float()
    far = torch.cdist(cloud, spots).min(1).values
    assert len(cloud)==100 and (far<.35).float().mean()>.8
    assert not tab.errors and not tab.outside

def test_the_way_back_answers(tab):
    "Bayes' rule and the theorem, which the page computes apart from each other, agree"
    shares, means = torch.tensor([[.35, .65], [-1.3, .7]], dtype=torch.float64)
    with_figure(tab, '00_markov_chain.html')
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    def bells(x, m, v): return torch.distributions.Normal(m, v**.5).log_prob(x[:, None]).exp()
    def check():
        n, x_t, beta = (of_figure(tab, k) for k in ('numbers', 'point', 'beta'))
        step = bells(x, x_t/(1-beta)**.5, beta/(1-beta))[:, 0]   # up to a factor
        p = step*(bells(x, means, .09)@shares)
        p /= p.sum()
        mean = (p*x).sum()
        spread = (p*(x-mean)**2).sum()
        assert abs(n['mean']-mean)<1e-6 and abs(n['spread']-spread)<1e-6
        assert abs(n['theorem']-n['mean'])<1e-9
        return x_t, beta
    first = check()
    tab.locator('.living canvas').focus()
    for _ in range(7): tab.keyboard.press('ArrowRight')
    tab.locator('.living input').nth(1).focus()
    for _ in range(90): tab.keyboard.press('ArrowRight')
    second = check()
    assert abs(second[0]-first[0]-.35)<1e-9 and second[1]>5*first[1]
    assert not tab.errors and not tab.outside

def test_the_schedule_answers(tab):
    "By mouse, keys and sliders; what it draws is the library's schedule"
    with_figure(tab, '03_forward.html')
    kinds = tab.locator('.living select')
    T, _, last, bend = tab.locator('.living input').all()
    def check(want: Schedule):
        got = of_figure(tab, 'numbers')
        for name, numbers in got.items():
            assert (torch.tensor(numbers)-getattr(want, name)).abs().max()<1e-6, name
        return of_figure(tab, 'time')
    assert check(Schedule.linear())==200
    tab.locator('.living canvas').scroll_into_view_if_needed()
    box = tab.locator('.living canvas').bounding_box()
    tab.mouse.click(box['x']+.5*250/480*box['width'], box['y']+40)
    assert abs(check(Schedule.linear())-500)<=5
    tab.keyboard.press('ArrowRight')
    assert abs(check(Schedule.linear())-510)<=5
    for kind in 'quadratic', 'constant', 'cosine', 'linear':
        kinds.select_option(kind)
        want = getattr(Schedule, kind)()
        check(want)
        said = re.search(r'β_T = (\S+)', tab.locator('.living').inner_text())[1]
        assert abs(float(said)/want.beta[-1]-1)<.05
    T.fill('200')
    assert 'still holds the image, 0.36 times' in tab.locator('.living').inner_text()
    last.focus()
    for _ in range(35): tab.keyboard.press('ArrowRight')   # to ten times .02/.0398
    assert 'still holds' not in tab.locator('.living').inner_text()
    bend.fill('.5')
    c = of_figure(tab, 'choice')
    assert c['last']>.09 and c['bend']==.5
    squares = torch.linspace(c['first']**2, c['last']**2, 200, dtype=torch.float64)
    check(Schedule(squares**.5))
    assert not tab.errors and not tab.outside

def costs(T: int, v: float) -> dict[str, list[float]]:
    """By how much each term of the bound is more than with the exact variance, for N(0, v);
    three nodes are exact for squares"""
    s, weights = Schedule.linear(T, .1/T, 20/T), torch.tensor([1, 4, 1]).double()/6
    nodes = torch.tensor([-3**.5, 0., 3**.5], dtype=torch.float64)
    x_0, z = (a.reshape(-1, 1) for a in torch.meshgrid(v**.5*nodes, nodes, indexing='ij'))
    weights = weights.outer(weights).flatten()
    V = s.alpha_bar*v + 1-s.alpha_bar
    def term(t, variance):
        x_t = q_sample(s, x_0, t, z)
        eps = (1-s.alpha_bar[t]).sqrt()*x_t/V[t]   # of the ideal network
        p = Normal(mu_theta(s, x_t, t, eps), variance.sqrt().expand_as(x_t))
        L = L_0(x_0, p, None) if t==1 else L_t_minus_1(s, x_0, x_t, t, p)
        return (weights*L).sum().item()
    small = beta_tilde(s)
    small[1] = s.beta[1]
    least = [term(t, s.beta[t]*V[t-1]/V[t]) for t in range(1, T+1)]
    return {name: [term(t, how[t])-least[t-1] for t in range(1, T+1)]
        for name, how in dict(beta=s.beta, beta_tilde=small).items()}

def test_the_price_of_a_variance(tab):
    with_figure(tab, '06_vlb.html')
    def check():
        got, (T, v) = of_figure(tab, 'numbers'), of_figure(tab, 'choice')
        for name, want in costs(T, v).items():
            assert (torch.tensor(got[name])-torch.tensor(want)).abs().max()<1e-6, name
        return T, v, {name: sum(got[name]) for name in ('beta', 'beta_tilde')}
    T, v, total = check()
    assert (T, v)==(100, .04) and total['beta']<total['beta_tilde']
    length, width = tab.locator('.living input').all()
    length.fill('50')
    width.focus()
    tab.keyboard.press('Home')   # 0.01: nearly a point
    T, v, total = check()
    assert T==50 and abs(v-1e-4)<1e-9 and total['beta_tilde']<total['beta']
    tab.locator('.living canvas').scroll_into_view_if_needed()
    box = tab.locator('.living canvas').bounding_box()
    tab.mouse.click(box['x']+.5*box['width'], box['y']+40)
    assert of_figure(tab, 'time')==6   # the axis is logarithmic: the root of 51, nearly
    tab.keyboard.press('ArrowRight')
    assert of_figure(tab, 'time')==7
    assert not tab.errors and not tab.outside

def test_two_gaussians_are_multiplied(tab):
    s = Schedule.cosine(10)
    with_figure(tab, '05_reverse.html')
    def check():
        n, (x_0, x_t), t = (of_figure(tab, k) for k in ('numbers', 'point', 'time'))
        both = [torch.tensor([x], dtype=torch.float64) for x in (x_0, x_t)]
        q = q_posterior(s, *both, t)
        prior = q_marginal(s, both[0], t-1)
        for k, d in dict(product=q, clean=prior).items():
            assert abs(n[k]['m']-d.mean)<1e-6 and abs(n[k]['v']-d.variance)<1e-6
        # precisions add up
        assert abs(1/n['product']['v'] - 1/n['clean']['v'] - 1/n['noisy']['v'])<1e-6
        return x_0, x_t, t
    first = check()
    tab.locator('.living canvas').scroll_into_view_if_needed()
    box = tab.locator('.living canvas').bounding_box()
    tab.mouse.move(box['x']+.3*box['width'], box['y']+50)   # nearer to x_0
    tab.mouse.down()
    tab.mouse.move(box['x']+.1*box['width'], box['y']+50)
    tab.mouse.up()
    tab.keyboard.press('ArrowRight')   # x_t
    tab.locator('.living input').nth(2).focus()
    for _ in range(9): tab.keyboard.press('ArrowRight')
    x_0, x_t, t = check()
    assert abs(x_0+.8*2.2)<.05 and abs(x_t-first[1]-.05)<1e-9 and t==10
    for _ in range(9): tab.keyboard.press('ArrowLeft')
    assert check()[2]==2
    assert not tab.errors and not tab.outside

def test_the_faces_between_answer(tab):
    "By slider, mouse and keys; the chosen face is shown large"
    with_figure(tab, '13_interpolation.html')
    lam, t = of_figure(tab, 'choice')
    canvas = tab.locator('.living canvas')
    before = canvas.screenshot()
    tab.get_by_role('slider', name=re.compile('^λ')).fill('2')
    assert of_figure(tab, 'choice')==[.2, t] and canvas.screenshot()!=before
    canvas.focus()
    for key in ('ArrowUp', 'ArrowRight', 'ArrowRight'): tab.keyboard.press(key)
    assert of_figure(tab, 'choice')==[.4, t+125]
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tab.mouse.click(box['x']+2, box['y']+2)
    assert of_figure(tab, 'choice')==[0, 1000]
    assert not tab.errors and not tab.outside

GRADIENT = """async () => {
    const { begin, gradient } = await import('./_static/living/roll.js');
    const { normals } = await import('./_static/living/noise.js');
    const noise = normals(1), [w, x_t, eps] = [begin(0), noise(32), noise(32)];
    const t = [...Array(16).keys()].map(k => 6*k+1), here = gradient(w, x_t, t, eps, 100);
    const lists = { w, x_t, eps, g: here.gradient };
    for (const name in lists) lists[name] = [...lists[name]];
    return { ...lists, t, loss: here.loss };
}"""

def test_the_roll_takes_the_gradient(tab):
    "Of eq. 14, by hand in the page: as PyTorch does for the same network"
    visit(tab, '10_training.html')
    its = {k: torch.tensor(v, dtype=torch.float64)
        for k, v in tab.evaluate(GRADIENT).items()}
    w, x_t, eps = its['w'].requires_grad_(), its['x_t'].reshape(-1, 2), its['eps']
    angles = its['t'][:, None]/100*torch.pi*torch.tensor([.5, 1, 2, 4, 8])
    angles = torch.cat([angles, 2*x_t, 4*x_t], 1)
    h, at = torch.cat([x_t, angles.sin(), angles.cos()], 1), 0
    for n, m in ((20, 48), (48, 48), (48, 2)):
        W, bias = w[at:at+n*m].reshape(m, n), w[at+n*m:at+n*m+m]
        h, at = h@W.T+bias, at+n*m+m
        if m>2: h = torch.nn.functional.silu(h)
    loss = (h.flatten()-eps).square().mean()
    loss.backward()
    assert at==len(w) and abs(loss-its['loss'])<1e-9
    assert (w.grad-its['g']).abs().max()<1e-9

def test_the_roll_is_learned_in_the_page(tab):
    "Its draws lie about the points, and data drawn by hand take their place"
    with_figure(tab, '10_training.html')
    data = torch.tensor(of_figure(tab, 'data'))
    def far(draws):
        return torch.cdist(torch.tensor(draws).reshape(-1, 2), data).min(1).values.mean()
    tab.get_by_role('button', name='train').click()
    count = f'{WORLD}.figure.losses().length'
    early = tab.wait_for_function(
        f'{count}>=500 && {count}<1000 && {WORLD}.figure.draws()').json_value()
    tab.wait_for_function(f'{count}===3000')
    losses, late = torch.tensor(of_figure(tab, 'losses')), of_figure(tab, 'draws')
    assert losses[-500:].mean()<.5*losses[:10].mean() and far(late)<.12
    # the loss is nearly flat, and the draws become what they are
    assert losses[500:1000].mean()<1.2*losses[-500:].mean() and far(early)>1.5*far(late)
    tab.locator('.living canvas').first.focus()
    tab.keyboard.press('ArrowRight')
    assert len(of_figure(tab, 'data'))==8
    tab.get_by_role('button', name='the Swiss roll again').click()
    assert len(of_figure(tab, 'data'))==1000
    assert not tab.errors and not tab.outside

# ---------------------------------------------------------------- models that draw
PICTURE = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
HOLE = (torch.arange(64)%8<3).reshape(8, 8)

def drawn_by(ddpm: DDPM, seed: int, picture=None, t=None, hole=None):
    "What the page should draw: samples, a picture that was made noisy, or one with a hole"
    if hole is not None: return ddpm.inpaint(picture, hole, 1, seed)
    if picture is None: return ddpm.sample(1, seed)
    noise = ddpm.noise([seed])
    x_t = q_sample(ddpm.schedule, picture[None], t, noise())
    *_, end = sample(ddpm.unet, ddpm.plan(t), noise, ddpm.clip_x0, x_t)
    return end.x_t

class Simple(torch.nn.Module):
    "A network that the browser can compute in a line"
    def __init__(self, config):
        super().__init__()
        self.config, self.one = config, torch.nn.Parameter(torch.zeros(1))
    def forward(self, x_t, t): return .3*x_t + .001*t[:, None, None, None]

CHAIN = """async ([table, way, how]) => {
    const { chain } = await import('./_static/living/sampler.js');
    const answer = async (x, t) => x.map(v => .3*v + .001*t);
    for (const name of ['picture', 'hole'])
        if (how[name]) how[name] = Float32Array.from(how[name]);
    for await (const state of chain(answer, table, way, how)) var last = state.x_t;
    return [...last];
}"""

@torch.inference_mode()
@pytest.mark.parametrize('kind', ['noise', 'lost', 'hole'])
def test_the_page_takes_the_same_steps(tab, kind):
    "From the same seed, by every sampler that the page offers"
    digits = DDPM.from_pretrained('digits')
    ddpm = replace(digits, unet=Simple(digits.unet.config))
    offered = models.ways(ddpm)
    table = table_of(digits) | dict(ways=offered)
    visit(tab, 'draw.html')
    given = dict(noise={}, lost=dict(picture=PICTURE, t=40),
        hole=dict(picture=PICTURE, hole=HOLE))[kind]
    asked = {k: v.flatten().tolist() if k!='t' else v for k, v in given.items()}
    for (sampler, steps), way in zip(models.WAYS, offered):
        want = drawn_by(ddpm.using(sampler=sampler, steps=steps), 2**32-1, **given)
        got = tab.evaluate(CHAIN, [table, way, dict(seed=2**32-1, **asked)])
        assert (torch.tensor(got)-want.flatten()).abs().max()<1e-5, way

def test_a_site_without_models_says_so(tab):
    visit(tab, 'draw.html')
    assert 'has no models that draw' in tab.locator('.living').inner_text()

@pytest.fixture(scope='module')
def drawing(site, tab):
    "The page with its models"
    if not shutil.which('npm'): pytest.skip('npm is missing, which fetches onnxruntime-web')
    models.main(site)
    return tab

def load(tab, name: str) -> DDPM:
    "Open the page and load a model"
    for seen in (tab.errors, tab.outside, tab.asked): seen.clear()
    visit(tab, 'draw.html')
    assert not any('/models/' in url for url in tab.asked)   # nothing before it is asked for
    choose(tab, 'model', name)
    tab.get_by_role('button', name='load it').click()
    tab.wait_for_function(f"{WORLD}.innerText.includes('loaded')")
    return DDPM.from_pretrained(name).using(sampler='ddim', steps=25)

def choose(tab, what: str, value: str):
    tab.get_by_role('combobox', name=what, exact=True).select_option(value)

def slide(tab, what: str, value: str):
    tab.get_by_role('slider', name=re.compile(f'^{what}')).fill(value)

def draw(tab, ddpm: DDPM, seed: int) -> Tensor:
    tab.get_by_label('seed').fill(str(seed))
    tab.get_by_role('button', name='draw', exact=True).click()
    tab.wait_for_function(f'!{WORLD}.figure.drawing()')
    return torch.tensor(of_figure(tab, 'image')).reshape(1, *ddpm.shape)

def grey_levels_off(a: Tensor, b: Tensor) -> int:
    return (to_image(a).int()-to_image(b).int()).abs().max().item()

@pytest.mark.parametrize('name', models.MODELS)
def test_a_model_draws_in_the_page(drawing, name):
    "The image that the library draws from this seed; nothing comes from elsewhere"
    ddpm = load(drawing, name)
    page, ways = draw(drawing, ddpm, 3), dict(DDPM=DDPM)
    assert grey_levels_off(page, ddpm.sample(1, seed=3))<=1
    assert grey_levels_off(page, eval(of_figure(drawing, 'python'), ways))<=1
    assert of_figure(drawing, 'seen')==[*(s.t for s in ddpm.plan()), 0]
    slide(drawing, 'look back', '5')
    assert f't = {ddpm.plan()[5].t}' in drawing.locator('.living').inner_text()
    for sampler, steps in (('dpm++', 15), ('ddpm', 50)):
        other = ddpm.using(sampler=sampler, steps=steps)
        choose(drawing, 'by', other.way())
        assert grey_levels_off(draw(drawing, other, 3), other.sample(1, seed=3))<=1
    choose(drawing, 'by', ddpm.way())
    if ddpm.classes:
        choose(drawing, 'label', '7')
        slide(drawing, 'guidance', '2.5')
        assert grey_levels_off(draw(drawing, ddpm, 3), ddpm.labelled(7, 2.5).sample(1, 3))<=1
    assert not serious_faults(drawing)
    assert not drawing.errors and not drawing.outside

def test_an_order_ends_the_one_before(drawing):
    ddpm = load(drawing, 'celeba')
    for name in ('draw', 'next seed', 'next seed'):
        drawing.get_by_role('button', name=name, exact=True).click()
    drawing.wait_for_function(f'!{WORLD}.figure.drawing()')
    x = torch.tensor(of_figure(drawing, 'image')).reshape(1, *ddpm.shape)
    assert grey_levels_off(x, ddpm.sample(1, seed=2))<=1
    drawing.get_by_role('button', name='draw', exact=True).click()
    drawing.get_by_role('button', name='stop', exact=True).click()
    assert 'stopped' in drawing.locator('.living').inner_text()
    assert not of_figure(drawing, 'drawing') and not drawing.errors

def test_a_seed_that_is_none(drawing):
    ddpm = load(drawing, 'digits-class')
    for seed in ('-1', '1.5', str(2**32), ''):
        drawing.get_by_label('seed').fill(seed)
        drawing.get_by_role('button', name='draw', exact=True).click()
        assert 'the seed is a whole number' in drawing.locator('.living').inner_text()
        assert not of_figure(drawing, 'drawing')
        assert 'seed=' not in drawing.locator('.living').inner_text()
    assert grey_levels_off(draw(drawing, ddpm, 3), ddpm.sample(1, seed=3))<=1
    assert not drawing.errors

def test_a_graphics_card_draws_it_too(drawing):
    "Where the browser has one; here it is one in software"
    kind, exe = drawing.context.browser.browser_type, chromium()
    browser = kind.launch(executable_path=exe, args=[
        '--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'])
    page = opened(browser, drawing.base)
    visit(page, 'draw.html')
    choose(page, 'computed by', 'webgpu')
    page.get_by_role('button', name='load it').click()
    page.wait_for_function(f"{WORLD}.innerText.includes('loaded')")
    choose(page, 'by', 'ddim, 10 steps')
    ddpm = DDPM.from_pretrained('digits-class').using(sampler='ddim', steps=10)
    assert grey_levels_off(draw(page, ddpm, 3), ddpm.sample(1, seed=3))<=1
    assert not page.errors and not page.outside
    browser.close()

def stroke(tab, *points: tuple[float, float]):
    "Drawn with the mouse, in shares of the picture"
    canvas = tab.locator('.living canvas').first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for k, (x, y) in enumerate(points):
        tab.mouse.move(box['x']+box['width']*x, box['y']+box['height']*y)
        if not k: tab.mouse.down()
    tab.mouse.up()

@torch.inference_mode()
def test_a_digit_is_lost_and_found(drawing):
    "A seven, drawn by mouse; then with the keyboard alone"
    ddpm = load(drawing, 'mnist')
    choose(drawing, 'make', 'lost')
    drawing.get_by_role('button', name='draw', exact=True).click()
    assert 'your picture is empty' in drawing.locator('.living').inner_text()
    stroke(drawing, (.3, .25), (.7, .25), (.45, .8))
    slide(drawing, 't =', '9')   # of the times that 25 steps visit
    found = draw(drawing, ddpm, 0)
    seven = torch.tensor(of_figure(drawing, 'picture')).reshape(ddpm.shape)
    assert seven[0, 7, 14]>.99 and seven[0, 0, 0]==-1 and (seven>0).float().mean()<.25
    t = of_figure(drawing, 'time')
    assert t==400
    assert grey_levels_off(found, drawn_by(ddpm, 0, seven, t))<=1
    drawing.get_by_role('button', name='wipe').click()
    assert set(of_figure(drawing, 'picture'))=={-1}
    drawing.locator('.living canvas').first.focus()
    for key in ('Space', 'ArrowRight', 'ArrowRight', 'ArrowDown', 'Space', 'ArrowDown'):
        drawing.keyboard.press(key)
    ink = torch.tensor(of_figure(drawing, 'picture')).reshape(28, 28)>0
    assert ink[14, 15] and ink[15, 16] and not ink[18, 16]
    assert not drawing.errors and not drawing.outside

def test_a_finger_draws(drawing):
    phone = opened(drawing.context.browser, drawing.base, **PHONE)
    load(phone, 'digits-class')
    choose(phone, 'make', 'lost')
    phone.locator('.living canvas').first.tap()
    assert max(of_figure(phone, 'picture'))>-.5 and too_wide(phone)<=0
    assert not phone.errors and not phone.outside
    phone.context.close()

def test_a_hole_in_a_face_is_filled(drawing):
    ddpm = load(drawing, 'celeba')
    face = draw(drawing, ddpm, 1)
    choose(drawing, 'make', 'hole')
    drawing.get_by_role('button', name='take it').click()
    drawing.get_by_role('button', name='draw', exact=True).click()
    assert 'there is no hole' in drawing.locator('.living').inner_text()
    stroke(drawing, (.3, .7), (.7, .7))
    filled = draw(drawing, ddpm, 5)
    hole = torch.tensor(of_figure(drawing, 'hole')).reshape(32, 32)
    taken = torch.tensor(of_figure(drawing, 'picture')).reshape(ddpm.shape)
    assert grey_levels_off(taken, face)<=1 and 50<hole.sum()<500
    assert grey_levels_off(filled, drawn_by(ddpm, 5, taken, hole=hole.bool()))<=1
    assert not drawing.errors and not drawing.outside
