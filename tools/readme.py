"""README.md from nbs/index.ipynb, and nbs/beside.md from docs/beside.md:
`python tools/readme.py`"""
import configparser
import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
from bench.page import NETWORK, markdown
from ddpm_lit import DDPM
from ddpm_lit.workshop.hub import asking
from ddpm_lit.workshop.weights import WEIGHTS, shipped_models

CAPTION = ('Samples of two models of the package, `celeba-64` and `cifar10-class` (a column a '
    'class): the first seeds, none left out, by the lines below.')
PICTURE = f'''![Small pictures of faces and things](docs/_static/first.webp)

*{CAPTION}*'''   # made by tools/first_picture.py
DRAWS = {   # model -> what it draws
    'celeba-64': 'faces', 'cifar10-class': 'ten classes of things, by name',
    'mnist': 'digits, by name', 'digits': 'small digits',
    'celeba-quarter': 'faces, from a quarter of the side'}
WHO = {
    'diffusers, as shipped': 'diffusers',
    'diffusers, expert': 'diffusers, compiled, bfloat16',
    'denoising-diffusion-pytorch, as shipped': 'denoising-diffusion-pytorch',
    'ours, plain float32': 'ddpm_lit, float32',
    'ours, fast': 'ddpm_lit, fast'}
SPEED = '''{table}

Measured on {cores} cores of an {cpu} on {date}, with PyTorch {torch}, diffusers {diffusers}
and denoising-diffusion-pytorch {denoising-diffusion-pytorch}. Images have 32 x 32 pixels, take
1000 steps, and come in batches of {batches} (columns in turn). *Fast* and *compiled* are
bfloat16, and compile when they are used first; *fast* also keeps freed memory in training, and
takes at least twice the memory of the leanest peer in drawing. In float32 ddpm_lit trains
about as fast as diffusers: both differences are within the noise. The two compute the same
function up to rounding; the network of denoising-diffusion-pytorch, which was not compiled, is
another, somewhat smaller.'''

def column(key: str) -> str:
    kind, network, _ = key.split('/')
    return f"{dict(train='training', sample='drawing')[kind]}, {NETWORK[network]}"

def rate(key: str, result: dict) -> str:
    "Images in a second of training; in a minute of drawing, where an image takes 1000 steps"
    kind, _, batch = key.split('/')
    images = int(batch)/result['median']
    return f'{images:.1f} a second' if kind=='train' else f'{.06*images:.1f} a minute'

def first_step(result: dict|None) -> str:
    if result is None: return 'not measured'
    return f'{result["empty"]:.1f} s, {result["filled"]:.1f} s'

def speed() -> str:
    "The benchmark page in a few lines, from bench/results.json"
    results = json.loads((root/'bench'/'results.json').read_text(encoding='utf-8'))
    tables = results['tables']
    large = [k for k in tables if not k.endswith('/1')]
    train = [k for k in large if k.startswith('train')]
    keys = train + [k for k in large if k.startswith('sample')]
    first = tables['first/small']['rows']
    head = ['images', *map(column, keys),
        'first training step done, 32 channels: first start, later starts']
    rows = []
    for row, who in WHO.items():
        rates = [rate(k, tables[k]['rows'][row]) for k in keys]
        rows.append([who, *rates, first_step(first.get(row))])
    return SPEED.format(
        table=markdown(head, rows),
        date=max(tables[k]['date'] for k in keys),
        batches=', '.join(k.split('/')[2] for k in keys),
        **results['machine'])

def badges() -> str:
    "What can be seen in settings.ini"
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf-8')
    facts, shield = settings['DEFAULT'], 'https://img.shields.io/badge'
    text = f"{facts['git_url']}/blob/{facts['branch']}/LICENSE"
    licence = f'[![Licence: Apache 2.0]({shield}/licence-Apache_2.0-blue)]({text})'
    python = facts['min_python']
    return f'{licence} ![Python {python} or newer]({shield}/python-{python}+-blue)'

def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'

def minutes(r: dict) -> str:
    "What bench/first.json says about the two commands"
    install = duration(r['environment_s']+r['install_s'])
    install_dev = duration(r['environment_dev_s']+r['install_dev_s'])
    demo, tests = duration(r['demo_s']), duration(r['tests_s'])
    return (f"On {r['cores']} cores of an {r['cpu']} ({', '.join(r['units'])}), "
        f"on {r['date']}: the first command took {install} to install and {demo} for the "
        f"demo, the second {install_dev} and {tests}, while a 2048 x 2048 product in float32 "
        f"ran at {min(r['gflops'])} to {max(r['gflops'])} GFLOP/s.")

def distance(evaluation: dict) -> str:
    "The Frechet distance with its interval, the floor, and the number of samples"
    return (f"{evaluation['distance']:.1f} ± {1.96*evaluation['error']:.1f} "
        f"({evaluation['floor']:.1f}; {evaluation['n']:,})")

def size(folder: Path) -> str:
    side = json.loads((folder/'unet'/'config.json').read_text('utf-8'))['sample_size']
    weights = (folder/'unet'/WEIGHTS).stat().st_size
    return f'{side} x {side}, {weights/1e6:.1f} MB'

def models() -> str:
    "The models of the package, from their files"
    rows = []
    for name, draws in DRAWS.items():
        folder, judged = shipped_models()[name], 'not measured'
        if (folder/'evaluation.json').exists():
            judged = distance(json.loads((folder/'evaluation.json').read_text('utf-8')))
        asked = asking(DDPM.from_pretrained(name))
        line = f'`ddpm_lit sample {name} {asked}--out grid.png`'
        rows.append([f'`{name}`', draws, size(folder), judged, line])
    head = ['model', 'samples', 'pixels, weights',
        'Fréchet distance (of as many real images; n)', 'to draw']
    return markdown(head, rows).replace('---:', '---')

def readme() -> str:
    """The text of nbs/index.ipynb with badges, a picture and what was measured,
    its links pointing into the repository"""
    index = nbformat.read(root/'nbs'/'index.ipynb', 4)
    text, resources = MarkdownExporter().from_notebook_node(index)
    assert not resources['outputs'], 'figures in the index notebook need a home'
    took = json.loads((root/'bench'/'first.json').read_text(encoding='utf-8'))
    text = re.sub(r'\]\((?!https?:|#)([\w./-]+\.(?:ipynb|md))', r'](nbs/\1', text)
    text = text.replace('<!-- picture -->', f'{badges()}\n\n{PICTURE}')
    text = text.replace('<!-- models -->', models())
    text = text.replace('<!-- minutes -->', minutes(took))
    return re.sub(r'\n{3,}', '\n\n', text).strip()+'\n'

def beside() -> str:
    "The text of nbs/beside.md"
    text = (root/'docs'/'beside.md').read_text(encoding='utf-8')
    return text.replace('<!-- speed -->', speed())

if __name__=='__main__':
    (root/'README.md').write_text(readme(), encoding='utf-8')
    (root/'nbs'/'beside.md').write_text(beside(), encoding='utf-8')
