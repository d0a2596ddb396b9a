"The site builds without a warning, and works in a browser that cannot reach anything else."
import posixpath, re, shutil, subprocess, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote
import pytest
from bs4 import BeautifulSoup
from conftest import root

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): "No log"

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    r = subprocess.run(['sphinx-build', '-q', '-W', '--keep-going', '-c', 'docs', '-d', str(out/'doctrees'), 'nbs', str(out/'html')], cwd=root, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return out/'html'

@pytest.fixture
def page(site):
    "A page of a browser that looks at the site, the requests that leave the machine, and the errors on the console"
    exe = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not exe: pytest.skip('no Chromium on this machine: apt-get install chromium')
    from playwright.sync_api import sync_playwright
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site))); threading.Thread(target=server.serve_forever, daemon=True).start()
    base, outside, errors = f'http://127.0.0.1:{server.server_port}/', [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=exe, args=['--no-sandbox', '--disable-quic', '--disable-background-networking'])
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.on('request', lambda r: r.url.startswith((base, 'data:', 'blob:')) or outside.append(r.url))
        page.on('pageerror', lambda e: errors.append(str(e)))
        page.goto(base+'index.html')
        yield page, base, outside, errors
        browser.close()
    server.shutdown()

def test_links_lead_somewhere(site):
    "Every link within the site, fragments too; between equations, their functions and the index in both directions"
    pages = {p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser') for p in site.rglob('*.html')}
    ids = {name: {t['id'] for t in page.find_all(id=True)} for name, page in pages.items()}; links = set()
    for name, page in pages.items():
        for a in page.select('article a[href]'):
            if re.match(r'[a-z]+:', a['href']): continue
            path, _, anchor = unquote(a['href']).partition('#')
            to = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert (site/to).exists() and (not anchor or to not in ids or anchor in ids[to]), f'{name}: {a["href"]} leads nowhere'
            links.add((name, to, anchor))
    index = '30_errata.html'
    for n in range(1, 16):
        there = {to for name, to, anchor in links if name==index and anchor==f'eq-{n}'}
        assert len(there)==1 and (*there, index, f'index-eq-{n}') in links, f'eq. {n} and the index'
    for f in ('forward.q_step', 'reverse.q_posterior', 'vlb.vlb', 'simple_loss.L_simple'):
        assert any(name==index and anchor==f'ddpm_lit.{f}' for name, _, anchor in links)
        assert any(name==f'api/{f.split(".")[0]}.html' and anchor.startswith('eq-') for name, _, anchor in links)

def settled(page): page.wait_for_function('window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => true)')

def test_site_in_a_browser(page):
    page, base, outside, errors = page
    for chapter in ('00_markov_chain', '03_forward', '04_exact', '05_reverse', '06_vlb', '07_simple_loss', '30_errata'):
        page.goto(f'{base}{chapter}.html'); settled(page)
        assert page.locator('mjx-container').count()>20
        assert page.locator('mjx-merror, [data-mjx-error], .MathJax_Error').count()==0
        assert page.locator('article img').count()+page.locator('article .animation').count()>0
    page.goto(base+'03_forward.html'); film = page.locator('.animation img').first
    page.wait_for_function("document.querySelector('.animation img').src.startsWith('data:')"); before = film.get_attribute('src')
    page.locator('.animation input[type=range]').first.fill('9'); page.wait_for_function('s => document.querySelector(".animation img").src!==s', arg=before)   # the player plays without a kernel
    page.keyboard.press('Control+k'); page.keyboard.type('drift'); page.keyboard.press('Enter')
    page.wait_for_selector('ul.search li a'); page.locator('ul.search li a', has_text='reverse').first.click()
    page.wait_for_url('**/05_reverse.html*')
    page.goto(base+'api/reverse.html'); assert page.locator('dt[id="ddpm_lit.reverse.q_posterior"]').is_visible()
    assert outside==[] and errors==[]
