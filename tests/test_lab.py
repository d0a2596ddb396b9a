"""JupyterLab as a reader uses it: a copy of the chapters, Run All from a fresh kernel, every
film played, every widget moved by keyboard and by mouse. It takes long: all of it is `soak`;
20 and 21 run in their smallest budget. Chapters in which nothing moves are run by nbclient
alone (see conftest.py), but for the one of runs, for its bars."""
import json, os, socket, subprocess, sys, time
from contextlib import closing
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
import nbformat, pytest
from PIL import Image
from conftest import root
from helpers import chromium
from ddpm_lit.workshop.cli import main

# ---------------------------------------------------------------- what chapters show
WIDGETS = {   # figures that answer
    '02_plots': 2, '03_forward': 2, '04_exact': 1, '05_reverse': 1, '12_conditional': 1,
    '13_interpolation': 1}
LIVING = {   # figures that need no kernel
    '00_markov_chain': 1, '03_forward': 1, '04_exact': 1, '05_reverse': 1, '06_vlb': 1,
    '10_training': 1}
FILMS = {
    '02_plots': 1, '03_forward': 2, '04_exact': 1, '05_reverse': 1, '07_simple_loss': 1,
    '11_sampling': 1,
    '13_interpolation': 1, '14_swiss_roll': 2, '15_heartbeat': 2, '16_generative_models': 1,
    '20_cifar10': 1, '21_celeba': 1}

# ---------------------------------------------------------------- JupyterLab
QUIET = [
    '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
    '--LabApp.extension_manager=readonly',
    '--LanguageServerManager.autodetect=False']
SETTINGS = {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}
BAR = '''from pathlib import Path
import time
from ddpm_lit.data import progress
def items():
    for k in range(20):
        while k==10 and not Path('seen').exists(): time.sleep(.05)
        yield k
for _ in progress(items(), 20): pass
for k in progress(range(9)):
    if k==5: break'''

def make_book(tmp: Path) -> Path:
    "The chapters as a reader gets them; to chapter 02 a bar is added"
    book = tmp/'book'
    assert main(['notebooks', str(book), '--quick'])==0
    nb = nbformat.read(book/'02_plots.ipynb', 4)
    nb.cells.append(nbformat.v4.new_code_cell(BAR, id='bar'))
    nbformat.write(nb, book/'02_plots.ipynb')
    return book

def write_settings(folder: Path):
    for name, choice in SETTINGS.items():
        path = folder/'@jupyterlab'/f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(choice))

def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def answers(address: str) -> bool:
    try: return urlopen(f'{address}api/status').status==200
    except URLError: return False

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """The address of a JupyterLab that asks for no password and looks for no news, and the
    folder that it shows"""
    tmp, port = tmp_path_factory.mktemp('lab'), free_port()
    book, address = make_book(tmp), f'http://127.0.0.1:{port}/'
    write_settings(tmp/'settings')
    folders = {f'JUPYTER_{k}_DIR': str(tmp/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env = {k: v for k, v in os.environ.items() if k!='IN_TEST'} | folders | dict(
        DDPM_LIT_BUDGET='tiny', PYTHONPATH=str(root), OMP_NUM_THREADS='1',
        IPYTHONDIR=str(tmp/'ipython'))
    command = [
        sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root',
        '--expose-app-in-browser', f'--ServerApp.root_dir={book}',
        '--IdentityProvider.token=', '--ServerApp.ip=127.0.0.1',
        f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
        f'--LabApp.user_settings_dir={tmp/"settings"}', *QUIET]
    with open(tmp/'log', 'w') as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    while not answers(address):
        assert server.poll() is None, (tmp/'log').read_text()
        time.sleep(.1)
    yield address, book
    server.terminate()
    server.wait()

@pytest.fixture(scope='module')
def browser():
    exe = chromium()
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        quiet = ['--no-sandbox', '--disable-quic', '--disable-background-networking']
        browser = p.chromium.launch(executable_path=exe, args=quiet)
        yield browser
        browser.close()

def until(page, holds):
    for _ in range(12_000):   # ten minutes: a hang
        if holds(): return
        page.wait_for_timeout(50)
    raise AssertionError('waited in vain')

def plays(page, film):
    """A film that was out of sight when its cell ran: there is a picture, and it follows the
    slider and the button"""
    film.evaluate("film => film.scrollIntoView({block: 'center'})")
    picture = film.locator('img')
    bar = film.locator('input[type=range]')
    button = film.locator('button')
    assert picture.evaluate('image => image.decode().then(() => image.naturalWidth)')>0
    box = picture.bounding_box()
    assert box and box['width']>0 and box['height']>0, 'the film shows no picture'
    first, last = bar.get_attribute('min'), bar.get_attribute('max')
    bar.fill(first)
    before = picture.screenshot()
    bar.fill(last)
    until(page, lambda: picture.screenshot()!=before)
    bar.press('Home')   # JupyterLab leaves the keys to the slider
    until(page, lambda: picture.screenshot()==before)
    button.click()
    page.wait_for_function('bar => bar.value!==bar.min', arg=bar.element_handle())
    button.click()
    assert button.inner_text()=='▶'

# --------------------------------------------------------- a chapter, used as a reader uses it
IS_READY = '''path => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.path===path && panel.context.isReady
        && panel.sessionContext.session?.kernel?.status==='idle';
}'''
NAME_CELLS = ("() => window.jupyterapp.shell.currentWidget.content.widgets"
    ".forEach(w => w.node.dataset.id = w.model.id)")
STATE = '''() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const code = [...panel.content.model.cells]
        .filter(c => c.type==='code' && c.sharedModel.getSource().trim());
    const errors = code.flatMap(c => c.outputs.toJSON().filter(o => o.output_type==='error')
        .map(o => `cell ${c.id}: ${o.ename}: ${o.evalue}`));
    const done = panel.sessionContext.session?.kernel?.status==='idle'
        && code.every(c => c.executionCount);
    return (done || errors.length) && {errors};
}'''
PIXELS = '''async id => {
    const image = document.querySelector(`[data-id="${id}"] img`);
    const png = await (await fetch(image.src)).arrayBuffer();
    return [...new Uint8Array(await crypto.subtle.digest('SHA-1', png))].join();
}'''
ANSWERING = ("() => [...document.querySelectorAll("
    "'.jp-Cell[data-id]:has(.jupyter-widgets img)')].map(c => c.dataset.id)")

class Chapter:
    "A chapter that is open in a browser"
    def __init__(self, browser, address: str, name: str):
        self.page, self.outside = browser.new_page(viewport=dict(width=1200, height=1000)), []
        self.page.set_default_timeout(600_000)
        inside = address, address.replace('http', 'ws'), 'data:', 'blob:'
        self.page.on('request',
            lambda r: r.url.startswith(inside) or self.outside.append(r.url))
        self.page.goto(f'{address}lab/tree/{name}.ipynb?reset')
        self.wait(IS_READY, f'{name}.ipynb')
        self.page.evaluate(NAME_CELLS)

    def close(self):
        "Its kernel ends, too: all chapters at once would take ten gigabytes"
        self.page.evaluate('() => window.jupyterapp.serviceManager.sessions.shutdownAll()')
        self.page.close()

    def wait(self, js: str, arg=None):
        return self.page.wait_for_function(js, arg=arg, polling=200)

    def run_all(self):
        self.page.locator('#jp-MainMenu').get_by_text('Run', exact=True).click()
        self.page.locator('.lm-Menu').get_by_text('Run All Cells', exact=True).click()

    def errors(self) -> list[str]:
        "When all cells have run"
        return self.wait(STATE).json_value()['errors']

    def changes(self, id: str, act):
        """The picture of a cell is another one after `act`, and nothing is said but what the
        guards of `Schedule` say"""
        before = self.page.evaluate(PIXELS, id)
        act()
        self.wait(f'async ([id, before]) => await ({PIXELS})(id)!==before', [id, before])
        self.wait(STATE)
        said = self.page.locator(f'[data-id="{id}"] .widget-html-content').all_inner_texts()
        assert all('beta' in text for text in said), said

def move_sliders(chapter: Chapter, id: str, cell) -> int:
    "By key and by mouse. Returns how many there are"
    handles = cell.locator('.noUi-handle')
    for k in range(handles.count()):
        handle, track = handles.nth(k), cell.locator('.noUi-base').nth(k)
        at_start = handle.get_attribute('aria-valuenow')==handle.get_attribute('aria-valuemin')
        handle.focus()
        chapter.changes(id, lambda: chapter.page.keyboard.press('End' if at_start else 'Home'))
        track.scroll_into_view_if_needed()
        box = track.bounding_box()
        third = box['x']+.3*box['width'], box['y']+box['height']/2
        chapter.changes(id, lambda: chapter.page.mouse.click(*third))
    return handles.count()

def upload_pictures(chapter: Chapter, id: str, cell, folder: Path) -> int:
    "By mouse and by key. Returns how many were taken"
    button, keyboard = cell.locator('.widget-upload'), chapter.page.keyboard
    if not button.count(): return 0
    def press_enter():
        button.focus()
        keyboard.press('Enter')
    for colour, press in dict(red=button.click, blue=press_enter).items():
        Image.new('RGB', (90, 70), colour).save(folder/f'{colour}.png')
        with chapter.page.expect_file_chooser() as chosen: press()
        chapter.changes(id, lambda: chosen.value.set_files(folder/f'{colour}.png'))
    return 2

def paint(chapter: Chapter, id: str, cell) -> int:
    """A hole into an image: by mouse, by keys, and away again. Returns how many canvases there
    are"""
    canvas, page = cell.locator('canvas'), chapter.page
    if not canvas.count(): return 0
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    def stroke():
        page.mouse.move(box['x']+40, box['y']+150)
        page.mouse.down()
        page.mouse.move(box['x']+150, box['y']+150, steps=5)
        page.mouse.up()
    def walk():
        for _ in range(8): page.keyboard.press('ArrowDown')
    chapter.changes(id, stroke)
    canvas.focus()
    chapter.changes(id, lambda: page.keyboard.press('Delete'))
    chapter.changes(id, lambda: page.keyboard.press('Space'))
    chapter.changes(id, walk)
    chapter.changes(id, cell.get_by_text('wipe', exact=True).click)
    return 1

MOVING = WIDGETS.keys() | LIVING.keys() | FILMS.keys() | {'workshop/05_runs'}

@pytest.fixture
def chapter(lab, browser, name):
    with closing(Chapter(browser, lab[0], name)) as chapter: yield chapter

@pytest.mark.soak
@pytest.mark.parametrize('name', sorted(MOVING))
def test_run_all_and_move_every_widget(lab, chapter, name, tmp_path):
    page = chapter.page
    chapter.run_all()
    if name=='02_plots':
        page.wait_for_selector('[data-id="bar"] progress')
        chapter.wait(
            "() => document.querySelector('[data-id=\"bar\"]').innerText.includes('/20 ')")
        (lab[1]/'seen').touch()
    assert chapter.errors()==[]
    # a bar goes when it is full, or its loop is left
    assert page.locator('progress').count()==0
    films = page.locator('.animation')
    assert films.count()==FILMS.get(name, 0)
    for film in films.all(): plays(page, film)
    living = page.locator('canvas[aria-label*="drag"]')
    assert living.count()==LIVING.get(name, 0)
    for canvas in living.all():
        canvas.scroll_into_view_if_needed()
        before = canvas.screenshot()
        for _ in range(3): canvas.press('ArrowRight')
        until(page, lambda: canvas.screenshot()!=before)

    figures, moved = page.evaluate(ANSWERING), 0
    assert len(figures)==WIDGETS.get(name, 0)
    for id in figures:
        cell = page.locator(f'[data-id="{id}"]')
        moved += move_sliders(chapter, id, cell)
        moved += upload_pictures(chapter, id, cell, tmp_path)
        moved += paint(chapter, id, cell)
    assert moved>=len(figures) and chapter.outside==[]
