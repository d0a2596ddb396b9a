"""Still pictures of the figures that answer: `python docs/stills.py SITE`, after it is built.

Each page is opened in Chromium; what its figure shows at first is written into the page, for
readers without JavaScript."""
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from threading import Thread

sys.path.append(str(Path(__file__).resolve().parents[1]/'tools'))   # of readme.py
from reading import NO_SCRIPT

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): "No log"

FIRST = """async () => {
    const canvas = document.querySelector('.living canvas');
    await new Promise(drawn => setTimeout(drawn, 500));   // pictures in it are decoded
    return [canvas.toDataURL('image/webp', .9), canvas.clientWidth, canvas.clientHeight];
}"""

def write(page: Path, src: str, width: int, height: int):
    size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
    image = f'<img src="{src}" {size} alt="The figure at rest">'
    text = page.read_text('utf-8')
    if NO_SCRIPT+'<img' in text: return   # it has one
    text = text.replace(NO_SCRIPT, NO_SCRIPT+image, 1)
    page.write_text(text, encoding='utf-8')

def main(site: Path, browser):
    pages = [p for p in site.glob('*.html') if NO_SCRIPT in p.read_text('utf-8')]
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    tab = browser.new_page(device_scale_factor=2)
    for page in pages:
        tab.goto(f'http://127.0.0.1:{server.server_port}/{page.name}')
        tab.wait_for_selector('.living canvas')
        write(page, *tab.evaluate(FIRST))
    tab.context.close()
    server.shutdown()

if __name__=='__main__':
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=which('chromium'), args=['--no-sandbox'])
        main(Path(sys.argv[1]), browser)
        browser.close()
