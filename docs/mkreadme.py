"README.md from nbs/index.ipynb: `python docs/mkreadme.py`"
import json,re,sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
root = Path(__file__).parent.parent
sys.path.insert(0, str(root))
from bench.page import NETWORK,markdown

FILM = '![Ten handwritten digits form from noise, in 36 steps](docs/film.webp)'   # drawn by docs/film.py
WHO = {'diffusers, as shipped': 'diffusers', 'diffusers, expert': 'diffusers, compiled, bfloat16', 'denoising-diffusion-pytorch, as shipped': 'denoising-diffusion-pytorch',
    'ours, plain float32': 'ddpm_lit, float32', 'ours, fast': 'ddpm_lit, fast'}

def speed() -> str:
    "The benchmark page in a few lines, from bench/results.json"
    results = json.loads((root/'bench'/'results.json').read_text(encoding='utf-8')); tables,m = results['tables'],results['machine']
    keys = [k for kind in ('train', 'sample') for k in tables if k.startswith(kind) and not k.endswith('/1')]
    def rate(key: str, row: str) -> str:
        kind,_,batch = key.split('/'); images = int(batch)/tables[key]['rows'][row]['median']
        return f'{images:.1f} a second' if kind=='train' else f'{.06*images:.1f} a minute'   # 1000 steps an image
    first = lambda row: '{empty:.1f} s, {filled:.1f} s'.format(**tables['first/small']['rows'][row]) if row in tables['first/small']['rows'] else 'not measured'
    head = lambda key: f"{dict(train='training', sample='drawing')[key.split('/')[0]]}, {NETWORK[key.split('/')[1]]}"
    table = markdown(['images', *map(head, keys), 'first training step done, 32 channels: first start, later starts'], [[who, *(rate(k, row) for k in keys), first(row)] for row,who in WHO.items()])
    return (f"{table}\n\nMeasured on {m['cores']} cores of an {m['cpu']} on {max(tables[k]['date'] for k in keys)}, with PyTorch {m['torch']}, diffusers {m['diffusers']} and denoising-diffusion-pytorch "
        f"{m['denoising-diffusion-pytorch']}. Images have 32 x 32 pixels, take 1000 steps, and come in batches of {', '.join(k.split('/')[2] for k in keys)} (columns in turn). *Fast* and *compiled* are bfloat16, and compile when they are used first; "
        '*fast* also keeps freed memory in training, and takes several times the memory of the leanest peer in drawing. In float32 the differences between ddpm_lit and diffusers in training are within the noise. The two compute the same function up to rounding; '
        'the network of denoising-diffusion-pytorch, which was not compiled, is another, somewhat smaller.')

def readme() -> str:
    "The text of nbs/index.ipynb with a film and the speeds, its links pointing into the repository"
    md, resources = MarkdownExporter().from_notebook_node(nbformat.read(root/'nbs'/'index.ipynb', 4))
    assert not resources['outputs'], 'figures in the index notebook need a home'
    md = re.sub(r'\]\((?!https?:|#)([\w./-]+\.(?:ipynb|md))', r'](nbs/\1', md).replace('<!-- speed -->', speed()).replace('\n\n', f'\n\n{FILM}\n\n', 1)
    return re.sub(r'\n{3,}', '\n\n', md).strip()+'\n'

if __name__=='__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
