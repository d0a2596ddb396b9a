"""Models that draw on the site: `python docs/models.py SITE [MODEL ...]`, after it is built.

Writes networks in ONNX, samplers as tables and what runs them (onnxruntime-web, by npm) into
SITE/_static/models, and their names and sizes into SITE/draw.html."""
import gzip, html, json, re, shutil, subprocess, sys, tempfile
from pathlib import Path
from ddpm_lit import DDPM
from ddpm_lit.workshop.export import export, table_of

RUNTIME = 'onnxruntime-web@1.30.0'
PARTS = {   # of the runtime, by what computes; as worker.js asks for them
    'wasm': ('ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'),
    'webgpu': ('ort.webgpu.bundle.min.mjs', 'ort-wasm-simd-threaded.asyncify.wasm')}
MODELS = {
    'digits-class': 'digits, 8 × 8',
    'mnist': 'digits of MNIST, 28 × 28',
    'celeba': 'faces, 32 × 32',
    'celeba-64': 'faces, 64 × 64',
    'cifar10-class': 'CIFAR-10, 32 × 32'}
WAYS = ('ddim', 25), ('ddim', 10), ('ddim', 50), ('dpm++', 15), ('ddpm', 50), ('ddpm', None)

def ways(ddpm: DDPM) -> dict:
    "What the page offers, by name: its steps, in rows as of `table_of`"
    offered = [ddpm.using(sampler=sampler, steps=steps) for sampler, steps in WAYS]
    tables = [table_of(d) for d in offered]
    return {t['way']: {k: t[k] for k in ('same_length', 'steps')} for t in tables}

def write_model(name: str, folder: Path) -> dict:
    ddpm = DDPM.from_pretrained(name)
    export(ddpm, folder, half=True)
    table = table_of(ddpm)
    for of_one_way in ('way', 'same_length', 'steps'): del table[of_one_way]
    text = json.dumps(table | dict(ways=ways(ddpm)), separators=(',', ':'))
    (folder/'sampler.json').write_text(text)
    size = sum(f.stat().st_size for f in folder.iterdir())
    return dict(file=name, name=MODELS[name], bytes=size)

def fetch_runtime(home: Path):
    npm = shutil.which('npm')
    if not npm: sys.exit('npm is missing: it fetches onnxruntime-web, which runs the models')
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, 'install', '--silent', '--ignore-scripts', '--prefix', folder, RUNTIME]
        subprocess.run(command, check=True)
        package = Path(folder)/'node_modules'/'onnxruntime-web'
        for part in sum(PARTS.values(), ()): shutil.copy(package/'dist'/part, home)

def sizes(files: list[Path]) -> dict:
    texts = [f.read_bytes() for f in files]
    packed = sum(len(gzip.compress(text)) for text in texts)   # as many servers send them
    return dict(bytes=sum(map(len, texts)), packed=packed)

def main(site: Path, names=MODELS):
    home, page = site/'_static'/'models', site/'draw.html'
    home.mkdir(exist_ok=True)
    fetch_runtime(home)
    runtime = {by: sizes([home/part for part in parts]) for by, parts in PARTS.items()}
    models = [write_model(name, home/name) for name in names]
    world = html.escape(json.dumps(dict(runtime=runtime, models=models)))
    text = page.read_text('utf-8')
    filled = re.sub('data-world="[^"]*"', lambda _: f'data-world="{world}"', text)
    page.write_text(filled, encoding='utf-8')

if __name__=='__main__': main(Path(sys.argv[1]), sys.argv[2:] or MODELS)
