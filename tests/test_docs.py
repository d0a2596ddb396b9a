"The site builds without a warning, and works in a browser that cannot reach anything else."
import posixpath, re, subprocess, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
import pytest
from bs4 import BeautifulSoup
from conftest import root
from helpers import chromium

class Pages(SimpleHTTPRequestHandler):
    "The site under /ddpm_lit/, as it is published, with its own page for what does not exist"
    def log_message(self, *args): "No log"
    def translate_path(self, path): return super().translate_path(path.removeprefix('/ddpm_lit'))
    def send_error(self, code, *args, **kwargs):
        with open(f'{self.directory}/404.html', 'rb') as f: body = f.read()
        self.send_response(code); self.send_header('Content-Type', 'text/html'); self.end_headers(); self.wfile.write(body)

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    r = subprocess.run(['sphinx-build', '-q', '-W', '--keep-going', '-c', 'docs', '-d', str(out/'doctrees'), 'nbs', str(out/'html')], cwd=root, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return out/'html'

@pytest.fixture(scope='module')
def pages(site): return {p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser') for p in site.rglob('*.html')}

@pytest.fixture(scope='module')
def tab(site):
    "A page of a browser that looks at the site; its requests, those that leave the machine, and its errors"
    exe = chromium()
    from playwright.sync_api import sync_playwright
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Pages, directory=str(site))); threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=exe, args=['--no-sandbox', '--disable-quic', '--disable-background-networking'])
        tab = browser.new_context(reduced_motion='reduce').new_page(); tab.set_default_timeout(600_000)
        tab.base, tab.asked, tab.outside, tab.errors = f'http://127.0.0.1:{server.server_port}/ddpm_lit/', [], [], []
        tab.on('request', lambda r: r.url.startswith((tab.base, 'data:', 'blob:')) or tab.outside.append(r.url))
        tab.on('request', lambda r: tab.asked.append(r.url))
        tab.on('pageerror', lambda e: tab.errors.append(str(e)))
        tab.on('console', lambda m: m.type=='error' and tab.errors.append(m.text))
        yield tab
        browser.close()
    server.shutdown()

def visit(tab, name):
    "Open a page and wait for its formulas"
    tab.goto(tab.base+name)
    if tab.evaluate('!!window.MathJax'): tab.wait_for_function('window.MathJax.startup?.promise?.then(() => true)')
    if 'search.html?' in name: tab.wait_for_function("document.querySelector('.search-summary')?.innerText")

KINDS = ['index.html', '20_cifar10.html', '30_errata.html', 'api/reverse.html', 'notation.html', 'beside.html', 'search.html?q=posterior', 'no/such/page.html']

def complete(tab, name):
    "All formulas are set, nothing is missing, nothing is asked of others"
    assert tab.locator('mjx-merror, [data-mjx-error], .MathJax_Error').count()==0, name
    assert tab.outside==[] and tab.errors==[], name
    if name[:2] in ('00', '03', '04', '05', '06', '07', '30'): assert tab.locator('mjx-container').count()>20, name

def too_wide(tab): return tab.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')

def test_links_lead_somewhere(site, pages):
    "Every link within the site, fragments too; between equations, their functions and the index in both directions"
    ids = {name: {t['id'] for t in page.find_all(id=True)} for name, page in pages.items()}; links = set()
    for name, page in pages.items():
        for a in page.select('article a[href]'):
            if re.match(r'[a-z]+:', a['href']): continue
            path, _, anchor = unquote(a['href'].removeprefix('/ddpm_lit/')).partition('#')
            to = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert (site/to).exists() and (not anchor or to not in ids or anchor in ids[to]), f'{name}: {a["href"]} leads nowhere'
            links.add((name, to, anchor))
    index = '30_errata.html'
    for n in range(1, 16):
        there = {to for name, to, anchor in links if name==index and anchor==f'eq-{n}'}
        assert len(there)==1 and (*there, index, f'index-eq-{n}') in links, f'eq. {n} and the index'
    for n in (2, 4, 5, 7, 11, 14):
        assert any(anchor==f'eq-{n}' and name[0].isdigit() and name not in (to, index) for name, to, anchor in links), f'no other chapter leads to eq. {n}'
    for f in ('forward.q_step', 'reverse.q_posterior', 'vlb.vlb', 'simple_loss.L_simple'):
        assert any(name==index and anchor==f'ddpm_lit.{f}' for name, _, anchor in links)
        assert any(name==f'api/{f.split(".")[0]}.html' and anchor.startswith('eq-') for name, _, anchor in links)

def test_chapters_say_what_they_need_and_show(site, pages):
    chapters = sorted(n for n in pages if re.match(r'\d\d_', n)); assert len(chapters)>20
    for name in chapters:
        top = pages[name].select_one('.chapter-top').get_text()
        assert all(words in top for words in ('You need:', 'You will be able to:', 'Reading time: about')), name
        assert pages[name].select_one('.prev-next-footer .left-prev') and pages[name].select_one('.prev-next-footer .right-next'), name
        assert [bool(pages[name].select(f'header a[href*="{w}"], .bd-header-article a[href*="{w}"]')) for w in ('colab.', 'mybinder.', f'_sources/{name[:-5]}.ipynb')]==[True]*3, name
        silent = [i.get('src', i.get('id')) for i in pages[name].select('article img') if len(i.get('alt', ''))<8]
        assert not silent, f'{name}: figures without a text: {silent}'

def test_light_enough_and_known_to_others(site, pages):
    assert sum(p.stat().st_size for p in site.rglob('*') if p.is_file()) < 60e6
    card = pages['index.html'].select_one('meta[property="og:image"]')['content']
    assert (site/card.split('/ddpm_lit/')[1]).exists()
    urls = re.findall(r'\]\(\S+/ddpm_lit/(\S+)\)', (site/'llms.txt').read_text(encoding='utf-8')); assert len(urls)>20
    assert all((site/u).exists() for u in urls)

def test_landing_page(site, tab):
    tab.set_viewport_size(dict(width=1400, height=900)); tab.asked.clear(); visit(tab, 'index.html'); tab.wait_for_load_state('networkidle')
    files = {site/unquote(u.removeprefix(tab.base).partition('?')[0]) for u in tab.asked if u.startswith(tab.base)}
    assert len(files)>15 and sum(f.stat().st_size for f in files) < 1.5e6
    title, picture, doors = (tab.locator(what).bounding_box() for what in ('article h1', 'img.first', '.doors'))
    assert title['y']<picture['y']<doors['y'] and doors['y']+doors['height']<900   # all of it on the first screen
    assert picture['width']>600 and tab.locator('img.first').evaluate('image => image.naturalWidth')>1500
    assert tab.locator('.doors a').count()>=3

@pytest.mark.parametrize('name', KINDS)
def test_every_kind_of_page(tab, name):
    "Wide and narrow, light and dark: nothing sticks out, and axe finds nothing serious"
    from axe_playwright_python.sync_playwright import Axe
    tab.errors.clear(); tab.set_viewport_size(dict(width=1400, height=900)); visit(tab, name)
    if name!='no/such/page.html': complete(tab, name)
    tab.evaluate("document.body.style.transition = 'none'")
    for theme, width in (('dark', 1400), ('light', 1400), ('light', 390), ('dark', 390)):
        tab.evaluate(f"document.documentElement.dataset.theme = '{theme}'"); tab.set_viewport_size(dict(width=width, height=900))
        assert too_wide(tab)<=0, f'{theme}, {width}'
        if (theme, width) in (('light', 1400), ('dark', 390)):
            found = Axe().run(tab, context={'exclude': ['mjx-container svg']}, options={'resultTypes': ['violations']}).response['violations']
            assert not [(v['id'], [n['target'] for n in v['nodes']][:5]) for v in found if v['impact'] in ('serious', 'critical')], f'{theme}, {width}'

def test_every_other_page_on_a_phone(tab, pages):
    "Nothing sticks out, and the page is complete"
    tab.set_viewport_size(dict(width=390, height=800)); tab.errors.clear()
    for name in sorted(n for n in pages if n[0]!='_' and n not in KINDS):
        visit(tab, name)
        assert too_wide(tab)<=0, name
        complete(tab, name)

@pytest.mark.parametrize('query, first', [(f'eq. {14}', '07_simple_loss.html#eq-14'), ('posterior', '05_reverse.html#eq-6'), ('alpha_bar', '03_forward.html#eq-4')])
def test_search(tab, query, first):
    tab.set_viewport_size(dict(width=1400, height=900)); visit(tab, 'index.html')
    tab.keyboard.press('Control+k'); tab.keyboard.type(query); tab.keyboard.press('Enter')
    tab.wait_for_selector('ul.search li a'); assert tab.locator('ul.search li a').first.get_attribute('href')==first
    tab.locator('ul.search li a').first.click(); tab.wait_for_url(f'**/{first.split("#")[0]}*#*')

def test_player_and_symbols(tab):
    visit(tab, '03_forward.html'); film = tab.locator('.animation img').first
    before = film.get_attribute('src'); assert before.startswith('data:') and len(film.get_attribute('alt'))>20
    tab.locator('.animation input[type=range]').first.fill('9'); tab.wait_for_function('s => document.querySelector(".animation img").src!==s', arg=before)   # the player plays without a kernel
    for where in ('.highlight .n', 'span.math'):
        titles = tab.locator(f'{where}[title]').evaluate_all('all => all.map(e => e.title)')
        assert any(t.startswith('product of the alphas') for t in titles), where
    assert tab.outside==[]
