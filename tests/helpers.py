"What several tests need: the command in a process, data, images of any kind, wheel, browser."
import hashlib, os, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from filelock import FileLock
from PIL import Image
from conftest import root

COMMAND = [
    sys.executable, '-c',
    'import sys; from ddpm_lit.workshop.cli import main; sys.exit(main())']

def run(*args, **kw):
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, **kw)

def data_dir() -> Path:
    d = os.environ.get('DDPM_LIT_DATA')
    if not d: pytest.skip('DDPM_LIT_DATA does not say where the data sets are')
    return Path(d)

def shared_folder(tmp_path_factory) -> Path:
    "Of all processes of this run of the tests"
    base = tmp_path_factory.getbasetemp()
    return base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

def cache_home(tmp_path_factory) -> str:
    "Where all processes of this run of the tests keep decoded images"
    return str(shared_folder(tmp_path_factory)/'cache')

def images(folder: Path, n: int, size=(24, 40), channels=1, seed=0) -> Path:
    "n blurry pictures, so that there is something to learn"
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (3, 5, channels) if channels>1 else (3, 5)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        small.resize(size[::-1], Image.BICUBIC).save(folder/f'{i:04}.png')
    return folder

def fingerprint(folder: Path) -> dict[Path, str]:
    files = [p for p in sorted(folder.rglob('*')) if p.is_file()]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def awake(unet):
    "Random weights everywhere, also where the network starts with zeros"
    torch.manual_seed(0)
    for p in unet.parameters(): torch.nn.init.normal_(p, std=.05)
    return unet.eval()

@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    "The wheel, built once for all processes of this run of the tests"
    base = shared_folder(tmp_path_factory)
    build = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', base/'wheel', root]
    with FileLock(base/'wheel.lock'):
        if not [*base.glob('wheel/*.whl')]: subprocess.run(build, check=True, cwd=base)
    built, = base.glob('wheel/*.whl')
    return built

def chromium() -> str:
    "The browser of this machine; the test is skipped if there is none"
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        if path := shutil.which(name): return path
    pytest.skip('no Chromium on this machine: apt-get install chromium')

# ------------------------------------------------------- what the paper published
PUBLISHED = {
    '_class_name': 'UNet2DModel', '_diffusers_version': '0.0.4',
    'act_fn': 'silu', 'attention_head_dim': None, 'center_input_sample': False,
    'downsample_padding': 0, 'flip_sin_to_cos': False, 'freq_shift': 1, 'in_channels': 3,
    'layers_per_block': 2, 'mid_block_scale_factor': 1, 'norm_eps': 1e-6,
    'norm_num_groups': 32, 'out_channels': 3, 'time_embedding_type': 'positional'}

def published(size, widths, level):
    """config.json as the hub has it for google/ddpm-cifar10-32 (32, attention at level 1) and
    the 256 x 256 models (level 4)"""
    down = ['AttnDownBlock2D' if i==level else 'DownBlock2D' for i in range(len(widths))]
    up = [b.replace('Down', 'Up') for b in down[::-1]]
    return {**PUBLISHED, 'sample_size': size, 'block_out_channels': widths,
        'down_block_types': down, 'up_block_types': up}

OLD_NAMES = dict(to_q='query', to_k='key', to_v='value', **{'to_out.0': 'proj_attn'})

def under_old_names(net) -> dict:
    "Weights as diffusers 0.0.4 called them"
    def old(k): return re.sub('|'.join(OLD_NAMES), lambda m: OLD_NAMES[m[0]], k)
    return {old(k): v for k, v in net.state_dict().items()}
