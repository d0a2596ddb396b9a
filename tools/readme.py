"README.md from nbs/index.ipynb, and nbs/beside.md from docs/beside.md: `python docs/mkreadme.py`"
import configparser, json, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
root = Path(__file__).parent.parent
sys.path.insert(0, str(root))
from bench.page import NETWORK, markdown

CAPTION = 'Drawn by the models inside, the seeds 0 to 19 in fifty steps, none left out: faces; and digits and the classes of CIFAR-10, each asked for by its label, with guidance 1.'
PICTURE = f'![Small pictures of faces, digits and things](docs/_static/first.webp)\n\n*{CAPTION}*'   # made by docs/first.py
WHO = {
    'diffusers, as shipped': 'diffusers',
    'diffusers, expert': 'diffusers, compiled, bfloat16',
    'denoising-diffusion-pytorch, as shipped': 'denoising-diffusion-pytorch',
    'ours, plain float32': 'ddpm_lit, float32',
    'ours, fast': 'ddpm_lit, fast'}
SPEED = '''{table}

Measured on {cores} cores of an {cpu} on {date}, with PyTorch {torch}, diffusers {diffusers} and denoising-diffusion-pytorch
{denoising-diffusion-pytorch}. Images have 32 x 32 pixels, take 1000 steps, and come in batches of {batches} (columns in turn). *Fast* and
*compiled* are bfloat16, and compile when they are used first; *fast* also keeps freed memory in training, and takes several times the memory
of the leanest peer in drawing. In float32 the differences between ddpm_lit and diffusers in training are within the noise. The two compute
the same function up to rounding; the network of denoising-diffusion-pytorch, which was not compiled, is another, somewhat smaller.'''

def speed() -> str:
    "The benchmark page in a few lines, from bench/results.json"
    results = json.loads((root/'bench'/'results.json').read_text(encoding='utf-8'))
    tables, machine = results['tables'], results['machine']
    keys = [k for kind in ('train', 'sample') for k in tables if k.startswith(kind) and not k.endswith('/1')]
    batches = [k.split('/')[2] for k in keys]
    def head(key):
        kind, network, _ = key.split('/')
        return f"{dict(train='training', sample='drawing')[kind]}, {NETWORK[network]}"
    def rate(key, row):
        kind, _, batch = key.split('/')
        images = int(batch)/tables[key]['rows'][row]['median']
        return f'{images:.1f} a second' if kind=='train' else f'{.06*images:.1f} a minute'   # 1000 steps an image
    def first(row):
        seconds = tables['first/small']['rows'].get(row)
        return '{empty:.1f} s, {filled:.1f} s'.format(**seconds) if seconds else 'not measured'
    table = markdown(
        ['images', *map(head, keys), 'first training step done, 32 channels: first start, later starts'],
        [[who, *(rate(k, row) for k in keys), first(row)] for row, who in WHO.items()])
    return SPEED.format(table=table, date=max(tables[k]['date'] for k in keys), batches=', '.join(batches), **machine)

def badges() -> str:
    "What can be seen in settings.ini"
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf-8')
    facts = settings['DEFAULT']
    licence = f"[![Licence: Apache 2.0](https://img.shields.io/badge/licence-Apache_2.0-blue)]({facts['git_url']}/blob/{facts['branch']}/LICENSE)"
    return f"{licence} ![Python {facts['min_python']} or newer](https://img.shields.io/badge/python-{facts['min_python']}+-blue)"

def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'

def minutes(results: dict) -> str:
    "What bench/first.json says about the two commands; nothing, if they were not measured"
    lines = []
    for how, r in results.items():
        if r is None: continue
        limits = '' if how=='as it is' else ', held down to AVX2'
        lines.append(
            f"On {r['cores']} cores of an {r['cpu']} ({', '.join(r['units'])}){limits}, on {r['date']}: "
            f"the first command took {duration(r['environment_s']+r['install_s'])} to install and {duration(r['demo_s'])} for the demo, "
            f"the second {duration(r['environment_dev_s']+r['install_dev_s'])} and {duration(r['tests_s'])}, "
            f"while a 2048 x 2048 product in float32 ran at {min(r['gflops'])} to {max(r['gflops'])} GFLOP/s.")
    return '\n'.join(lines)

def readme() -> str:
    "The text of nbs/index.ipynb with badges, a picture and what was measured, its links pointing into the repository"
    md, resources = MarkdownExporter().from_notebook_node(nbformat.read(root/'nbs'/'index.ipynb', 4))
    assert not resources['outputs'], 'figures in the index notebook need a home'
    took = json.loads((root/'bench'/'first.json').read_text(encoding='utf-8'))
    md = re.sub(r'\]\((?!https?:|#)([\w./-]+\.(?:ipynb|md))', r'](nbs/\1', md)
    md = md.replace('<!-- picture -->', f'{badges()}\n\n{PICTURE}').replace('<!-- minutes -->', minutes(took))
    return re.sub(r'\n{3,}', '\n\n', md).strip()+'\n'

def beside() -> str:
    "The text of nbs/beside.md"
    return (root/'docs'/'beside.md').read_text(encoding='utf-8').replace('<!-- speed -->', speed())

if __name__=='__main__':
    (root/'README.md').write_text(readme(), encoding='utf-8')
    (root/'nbs'/'beside.md').write_text(beside(), encoding='utf-8')
