"""JupyterLab as a reader uses it: a copy of the chapters, Run All from a fresh kernel, every film played, every widget moved by keyboard and by mouse. All chapters
but one carry the marker `soak`; 20 and 21 run in their smallest budget"""
import json, os, socket, subprocess, sys, time
from urllib.error import URLError
from urllib.request import urlopen
import nbformat, pytest
from PIL import Image
from conftest import root
from helpers import chromium
from reading import chapters
from ddpm_lit.workshop.cli import main

WIDGETS = {'02_plots': 2, '03_forward': 3, '04_exact': 1, '05_reverse': 1, '12_conditional': 1, '13_interpolation': 1}   # figures that answer
FILMS = {
    '02_plots': 1, '03_forward': 2, '04_exact': 1, '05_reverse': 1, '07_simple_loss': 1, '11_sampling': 1, '13_interpolation': 1,
    '14_swiss_roll': 2, '15_heartbeat': 2, '16_generative_models': 1, '20_cifar10': 1, '21_celeba': 1}
QUICK = ['02_plots']   # the other chapters take long
CHAPTERS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in chapters()]
QUIET = ['--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate', '--LabApp.extension_manager=readonly', '--LanguageServerManager.autodetect=False']
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
STATE = '''() => {
    const panel = window.jupyterapp.shell.currentWidget, code = [...panel.content.model.cells].filter(c => c.type==='code' && c.sharedModel.getSource().trim());
    const errors = code.flatMap(c => c.outputs.toJSON().filter(o => o.output_type==='error').map(o => `cell ${c.id}: ${o.ename}: ${o.evalue}`));
    const done = panel.sessionContext.session?.kernel?.status==='idle' && code.every(c => c.executionCount);
    return (done || errors.length) && {errors};
}'''
PIXELS = '''async id => {
    const png = await (await fetch(document.querySelector(`[data-id="${id}"] img`).src)).arrayBuffer();
    return [...new Uint8Array(await crypto.subtle.digest('SHA-1', png))].join();
}'''

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "The address of a JupyterLab that asks for no password and looks for no news, and the folder that it shows"
    tmp = tmp_path_factory.mktemp('lab'); book = tmp/'book'; assert main(['notebooks', str(book), '--quick'])==0
    nb = nbformat.read(book/'02_plots.ipynb', 4); nb.cells.append(nbformat.v4.new_code_cell(BAR, id='bar')); nbformat.write(nb, book/'02_plots.ipynb')
    for name, choice in SETTINGS.items(): path = tmp/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'; path.parent.mkdir(parents=True); path.write_text(json.dumps(choice))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k!='IN_TEST'} | dict(DDPM_LIT_BUDGET='tiny', PYTHONPATH=str(root), OMP_NUM_THREADS='1', IPYTHONDIR=str(tmp/'ipython'),
        **{f'JUPYTER_{k}_DIR': str(tmp/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')})
    with open(tmp/'log', 'w') as log:
        p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--expose-app-in-browser', f'--ServerApp.root_dir={book}', '--IdentityProvider.token=',
            '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', f'--LabApp.user_settings_dir={tmp/"settings"}', *QUIET], env=env, stdout=log, stderr=log)
    base = f'http://127.0.0.1:{port}/'
    def answers():
        try: return urlopen(base+'api/status').status==200
        except URLError: return False
    while not answers(): assert p.poll() is None, (tmp/'log').read_text(); time.sleep(.1)
    yield base, book
    p.terminate(); p.wait()

@pytest.fixture(scope='module')
def browser():
    exe = chromium()
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=exe, args=['--no-sandbox', '--disable-quic', '--disable-background-networking'])
        yield browser
        browser.close()

def until(page, holds):
    for _ in range(12_000):   # ten minutes: a hang
        if holds(): return
        page.wait_for_timeout(50)
    raise AssertionError('waited in vain')

def plays(page, film):
    "A film that was out of sight when its cell ran: there is a picture, and it follows the slider and the button"
    film.evaluate("film => film.scrollIntoView({block: 'center'})")
    picture, bar, button = film.locator('img'), film.locator('input[type=range]'), film.locator('button')
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

@pytest.mark.parametrize('name', CHAPTERS)
def test_run_all_and_move_every_widget(lab, browser, name, tmp_path):
    (base, book), outside = lab, []
    page = browser.new_page(viewport=dict(width=1200, height=1000)); page.set_default_timeout(600_000)
    page.on('request', lambda r: r.url.startswith((base, base.replace('http', 'ws'), 'data:', 'blob:')) or outside.append(r.url))
    wait = lambda js, arg=None: page.wait_for_function(js, arg=arg, polling=200)
    page.goto(f'{base}lab/tree/{name}.ipynb?reset')
    wait("path => { const p = window.jupyterapp?.shell.currentWidget; return p?.context?.path===path && p.context.isReady && p.sessionContext.session?.kernel?.status==='idle'; }", f'{name}.ipynb')
    page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets.forEach(w => w.node.dataset.id = w.model.id)")
    page.locator('#jp-MainMenu').get_by_text('Run', exact=True).click(); page.locator('.lm-Menu').get_by_text('Run All Cells', exact=True).click()
    if name=='02_plots':
        page.wait_for_selector('[data-id="bar"] progress'); wait("() => document.querySelector('[data-id=\"bar\"]').innerText.includes('/20 ')"); (book/'seen').touch()
    assert wait(STATE).json_value()['errors']==[]
    assert page.locator('progress').count()==0   # a bar goes when it is full, or its loop is left
    films = page.locator('.animation')
    assert films.count()==FILMS.get(name, 0)
    for film in films.all(): plays(page, film)

    def changes(cell, act):
        before = page.evaluate(PIXELS, cell); act()
        wait(f"async ([id, before]) => await ({PIXELS})(id)!==before", [cell, before]); wait(STATE)
        said = page.locator(f'[data-id="{cell}"] .widget-html-content').all_inner_texts(); assert all('beta' in s for s in said), said   # the guards of `Schedule` may speak, and nothing else
    figures = page.evaluate("() => [...document.querySelectorAll('.jp-Cell[data-id]:has(.jupyter-widgets img)')].map(c => c.dataset.id)"); moved = 0
    assert len(figures)==WIDGETS.get(name, 0)
    for id in figures:
        cell = page.locator(f'[data-id="{id}"]'); at = lambda what: cell.locator(what)
        for k in range(at('.noUi-handle').count()):
            handle, track = at('.noUi-handle').nth(k), at('.noUi-base').nth(k)
            key = 'End' if handle.get_attribute('aria-valuenow')==handle.get_attribute('aria-valuemin') else 'Home'
            handle.focus(); changes(id, lambda: page.keyboard.press(key))
            track.scroll_into_view_if_needed(); b = track.bounding_box(); changes(id, lambda: page.mouse.click(b['x']+.3*b['width'], b['y']+b['height']/2))
            moved += 1
        for colour, press in dict(red=lambda b: b.click(), blue=lambda b: (b.focus(), page.keyboard.press('Enter'))).items() if at('.widget-upload').count() else ():
            Image.new('RGB', (90, 70), colour).save(tmp_path/f'{colour}.png')
            with page.expect_file_chooser() as chosen: press(at('.widget-upload'))
            changes(id, lambda: chosen.value.set_files(tmp_path/f'{colour}.png')); moved += 1
        if at('canvas').count():
            canvas = at('canvas'); canvas.scroll_into_view_if_needed(); b = canvas.bounding_box()
            def draw(): page.mouse.move(b['x']+40, b['y']+150); page.mouse.down(); page.mouse.move(b['x']+150, b['y']+150, steps=5); page.mouse.up()
            changes(id, draw); canvas.focus(); changes(id, lambda: page.keyboard.press('Delete')); changes(id, lambda: page.keyboard.press('Space'))
            changes(id, lambda: [page.keyboard.press('ArrowDown') for _ in range(8)]); changes(id, cell.get_by_text('wipe', exact=True).click); moved += 1
    assert moved>=len(figures) and outside==[]
    page.close()
