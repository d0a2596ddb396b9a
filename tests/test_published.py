"""The models that the paper's authors published, as diffusers has them on the hub: a server on
this machine with the layout, the configs and the sizes of seven repositories, and random
weights."""
import json, os, re, subprocess, sys, threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
import nbformat, psutil, pytest, safetensors.torch
from nbclient import NotebookClient
from PIL import Image
from conftest import root
from ddpm_lit import UNet
from ddpm_lit.workshop.weights import unet_arguments
from helpers import COMMAND, awake, data_dir, published, under_old_names
from test_hub import SHA, WEIGHTS, Hub

class Kind(NamedTuple):
    size: int
    widths: list[int]
    level: int         # which attends
    variance: str
    weights: int

CIFAR = Kind(32, [128, 256, 256, 256], 1, 'fixed_large', 35_746_307)
LARGE = Kind(256, [128, 128, 256, 256, 512, 512], 4, 'fixed_small', 113_673_219)
REPOS = {f'google/ddpm-{name}': CIFAR if 'cifar' in name else LARGE for name in (
    'cifar10-32', 'ema-cifar10-32', 'celebahq-256', 'ema-celebahq-256', 'bedroom-256',
    'church-256', 'cat-256')}

def configs(kind: Kind) -> dict[str, bytes]:
    scheduler = dict(
        _class_name='DDPMScheduler', _diffusers_version='0.1.1', beta_end=.02,
        beta_schedule='linear', beta_start=1e-4, clip_sample=True, num_train_timesteps=1000,
        trained_betas=None, variance_type=kind.variance)
    index = dict(
        _class_name='DDPMPipeline', _diffusers_version='0.0.4',
        scheduler=['diffusers', 'DDPMScheduler'], unet=['diffusers', 'UNet2DModel'])
    files = dict(config=published(kind.size, kind.widths, kind.level),
        scheduler_config=scheduler, model_index=index)
    return {f'{name}.json': json.dumps(d, indent=2).encode() for name, d in files.items()}

def write_weights(kind: Kind, path: Path):
    "Random ones, under the names of diffusers 0.0.4"
    net = awake(UNet(**unet_arguments(published(kind.size, kind.widths, kind.level))))
    weights = under_old_names(net)
    assert sum(v.numel() for v in weights.values())==kind.weights
    safetensors.torch.save_file(weights, path, {'format': 'pt'})

class Published(Hub):
    "Its large files lie on disk, and are sent from where a download stopped"
    large = {}                     # number of weights -> where they are
    ranges = []                    # where downloads of weights began
    breaks = False                 # the next download ends half-way

    def send_file(self, name, file):
        if file!=WEIGHTS: return super().send_file(name, file)
        path, commit = self.large[REPOS[name].weights], {'X-Repo-Commit': SHA}
        size = path.stat().st_size
        if self.command=='HEAD':
            self.send_head(200, size, {'ETag': f'"{abs(hash(name))}"', **commit})
            return
        begin = int(re.match(r'bytes=(\d+)-', self.headers.get('Range', 'bytes=0-'))[1])
        self.ranges.append(begin)
        where = {'Content-Range': f'bytes {begin}-{size-1}/{size}'} if begin else {}
        self.send_head(206 if begin else 200, size-begin, {**commit, **where})
        with open(path, 'rb') as f:
            f.seek(begin)
            while block := f.read(2**20):
                self.wfile.write(block)
                if Published.breaks and f.tell()>size/2:
                    Published.breaks = False
                    self.close_connection = True
                    return

    def send_head(self, status, length, headers):
        self.send_response(status)
        for k, v in {**headers, 'Content-Length': length}.items(): self.send_header(k, v)
        self.end_headers()

@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hub')
    for kind in (CIFAR, LARGE):
        Published.large[kind.weights] = folder/f'{kind.weights}.safetensors'
        write_weights(kind, Published.large[kind.weights])
    more = {'README.md': b'x', 'diffusion_pytorch_model.bin': b'x', WEIGHTS: b'',
        'images/generated_image_0.png': b'x'}
    Published.models = {name: {**configs(kind), **more} for name, kind in REPOS.items()}
    server = ThreadingHTTPServer(('127.0.0.1', 0), Published)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

def child(hub, home, *command: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    env |= dict(HF_ENDPOINT=hub, HF_HOME=str(home), NO_PROXY='127.0.0.1',
        PYTHONPATH=str(root))
    r = subprocess.run(command, env=env, cwd=home, text=True, capture_output=True)
    assert r.returncode==0, r.stderr
    return r

def sample(hub, home, name) -> str:   # what it told on the way
    command = f'sample {name} --n 1 --sampler ddim --steps 2 --out x.png'
    return child(hub, home, *COMMAND, *command.split()).stderr

@pytest.mark.soak
@pytest.mark.parametrize('name', REPOS)
def test_a_published_model_is_fetched_and_drawn(hub, tmp_path, name):
    Hub.asked.clear()
    told = sample(hub, tmp_path, name)
    assert Image.open(tmp_path/'x.png').size[0]>=REPOS[name].size
    fetched = [a for a in Hub.asked if '/resolve/' in a]
    assert not [a for a in fetched if a.endswith(('.bin', '.png', '.md'))]
    assert 'Fetching' in told

@pytest.mark.soak
def test_a_broken_download_goes_on_where_it_was(hub, tmp_path):
    "When the line breaks. (A process that is killed begins again: so huggingface_hub 2)"
    Published.ranges.clear()
    Published.breaks = True
    told = sample(hub, tmp_path, 'google/ddpm-cifar10-32')
    first, again = Published.ranges
    assert first==0 and again>.4*Published.large[CIFAR.weights].stat().st_size
    assert 'resume' in told

linux = pytest.mark.skipif(sys.platform!='linux', reason='it reads its memory in /proc')

# Of this process alone: ru_maxrss begins with what its parent held
PEAK = """
def peak():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1])*1024 for line in status if line.startswith('VmHWM'))
"""

FIGURES = PEAK+"""
import json, sys, torch
from ddpm_lit import DDPM
ddpm = DDPM.from_pretrained(sys.argv[1]).using('ddim', 2, eta=1)
two = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))*2-1
found = dict(loaded=peak())
assert ddpm.progressive(1, columns=2)[0].shape[2:]==(3, 256, 256)
found['Fig. 6'] = peak()
assert ddpm.share(500, 1, 2)[1].shape==(1, 2, 3, 256, 256)
found['Fig. 7'] = peak()
assert ddpm.interpolate(two, 500, [0, .5]).shape==(2, 3, 256, 256)
found['Figs. 8 and 9'] = peak()
print(json.dumps(found))
"""

@linux
@pytest.mark.soak
def test_figures_at_256_in_bounded_memory(hub, tmp_path):
    "Peak memory: less than five times the bytes of the weights"
    drawn = child(hub, tmp_path, sys.executable, '-c', FIGURES, 'google/ddpm-celebahq-256')
    peaks = json.loads(drawn.stdout.splitlines()[-1])
    print(peaks)
    assert max(peaks.values())<4*LARGE.weights*5

NARROW = Kind(64, [32]*4, 2, 'fixed_small', 740_643)

def peak_of_chapter(folder: Path, env: dict, changes: dict[str, str]) -> int:
    "Bytes of memory that chapter 21 takes at most, with some of its settings changed"
    nb = nbformat.read(root/'nbs'/'21_celeba.ipynb', 4)
    for old, new in changes.items():
        cell, = [c for c in nb.cells if old in c.source]
        cell.source = cell.source.replace(old, new)
    nb.cells.append(nbformat.v4.new_code_cell(PEAK+'print(peak())'))
    client = NotebookClient(nb, timeout=None, resources={'metadata': {'path': str(folder)}})
    client.execute(env={**os.environ, **env, 'PYTHONPATH': str(root)})
    return int(nb.cells[-1].outputs[-1].text)

@linux
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_all_figures_of_faces_from_the_hub(hub, tmp_path, monkeypatch):
    """A narrow network, images of 64 x 64: less than 2 GB, besides the 10,000 faces, which are
    mapped from the disk"""
    data_dir()   # skips where there are no faces
    name = 'google/ddpm-ema-celebahq-256'
    monkeypatch.setitem(REPOS, name, NARROW)
    monkeypatch.setitem(Published.models, name, {**configs(NARROW), WEIGHTS: b''})
    Published.large[NARROW.weights] = tmp_path/'narrow.safetensors'
    write_weights(NARROW, Published.large[NARROW.weights])
    env = dict(DDPM_LIT_BUDGET='hub', HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    peak = peak_of_chapter(tmp_path, env, {"'', 0, (256, 256)": "'', 0, (64, 64)"})
    print(peak)
    assert peak<2e9+10_000*3*64**2

@linux
@pytest.mark.soak
@pytest.mark.timeout(3600)   # it compiles for long
def test_a_hundredth_of_the_papers_run(tmp_path):
    """Its network, trained and drawn from in the same cells. With gradient, average and two
    moments, and a compiled copy to draw with: at most twenty times its weights"""
    data_dir()
    if psutil.virtual_memory().available<12e9: pytest.skip('it needs 12 GB of memory')
    peak = peak_of_chapter(tmp_path, dict(DDPM_LIT_BUDGET='paper'), {
        "'celebahq', 500_000, (256, 256), 500, 8, 1000, 100":
            "'celebahq', 2, (32, 32), 20, 3, 4, 4"})
    print(peak)
    assert peak<20*4*LARGE.weights
