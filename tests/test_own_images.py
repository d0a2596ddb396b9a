"A folder of one's own: what is chosen when nothing is said, what is said about it, and that --resume keeps to it."
import json
from collections import Counter
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from helpers import cache_home, data_dir, images
from ddpm_lit import DDPM, Schedule, cli, training
from ddpm_lit.cli import choose_preset, choose_size, choose_steps, estimate, main
from ddpm_lit.data import Images, image_folder, image_sizes, load, near_duplicates
from ddpm_lit.training import PRESETS, design

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "The presets `tiny` and `small` with as many levels and steps, but few channels and times, and without a compiler"
    for name in ('tiny', 'small'):
        net, attend, options, _, recipe = PRESETS[name]
        monkeypatch.setitem(PRESETS, name, ({**net, 'channels': 8, 'res_blocks': 1}, attend, options, lambda: Schedule.cosine(10), replace(recipe, fast=False)))

def mixed(folder, n=40, low=60, high=120, seed=0):
    "Pictures of many sizes and proportions"
    rng = np.random.default_rng(seed)
    for k in range(n): images(folder/'all', 1, tuple(rng.integers(low, high, 2).tolist()), 3, seed=k); (folder/'all'/'0000.png').rename(folder/f'{k:03}.png')
    (folder/'all').rmdir(); return folder

def said(capsys, *args, code=0) -> dict:
    "What the command says, by the first word of the line"
    capsys.readouterr(); assert main([*map(str, args)])==code
    return {l.split()[0]: l for l in capsys.readouterr().out.splitlines() if l.strip()}

# ---------------------------------------------------------------- choices
def test_sizes_fit():
    rng = np.random.default_rng(0)
    for _ in range(300):
        halvings, limit = int(rng.integers(1, 6)), int(rng.choice([64, 128])); unit = 2**halvings
        low, high = sorted(rng.integers(unit, 600, 2)); sizes = Counter(map(tuple, rng.integers(low, high+1, (int(rng.integers(1, 30)), 2)).tolist()))
        size, why = choose_size(sizes, halvings, limit); hw = np.array([*sizes.elements()])
        if size is None: assert len(sizes)==1 and max(hw[0])<=limit and not any(hw[0]%min(unit, 4)); continue
        assert not any(s%unit or not 0<s<=limit for s in size) and why
        assert np.mean((hw<size).any(1))<=.1 or max(size)==unit
        wide = np.mean(hw[:, 1]>1.2*hw[:, 0]); tall = np.mean(hw[:, 0]>1.2*hw[:, 1])
        assert not (size[0]>size[1] and wide>.2) and not (size[1]>size[0] and tall>.2)

@pytest.mark.parametrize('sizes,size', [({(24, 40): 5}, None), ({(28, 28): 5}, None), ({(25, 41): 5}, (24, 40)), ({(26, 42): 5}, (24, 40)), ({(256, 256): 5}, (64, 64)),
    ({(218, 178): 5}, (64, 56)), ({(480, 640): 98, (30, 30): 2}, (48, 64)), ({(480, 640): 5, (640, 480): 5}, (64, 64)), ({(1000, 4000): 3}, (16, 64)), ({(20, 20): 2, (300, 300): 8}, (16, 16))])
def test_a_size(sizes, size): assert choose_size(Counter(sizes))[0]==size

def test_a_camera_held_sideways(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6; Image.new('RGB', (40, 24)).save(tmp_path/'a.jpg', exif=exif); Image.new('RGB', (40, 24)).save(tmp_path/'b.jpg'); (tmp_path/'c.jpg').write_text('')
    assert image_sizes(tmp_path)=={(40, 24): 1, (24, 40): 1}

def test_a_network_and_steps():
    assert [choose_preset(s, 10_000, False)[0] for s in (8, 16, 32, 64, 65, 256)]==['tiny']*2+['small']*4
    assert [choose_preset(s, 10_000, True)[0] for s in (16, 64, 128, 256)]==['tiny', 'small', 'cifar10', 'celebahq'] and choose_preset(256, 4999, True)[0]=='small'
    r = PRESETS['small'][-1]; assert [choose_steps(r, n) for n in (30, 1600, 3200, 6400, 10**6)]==[6250, 10_000, 20_000, 25_000, 25_000] and choose_steps(replace(r, batch=64), 3200)==10_000

@pytest.mark.parametrize('name', PRESETS)
def test_a_shorter_run(name, recwarn):
    r = PRESETS[name][-1]; assert r.scaled(r.steps)==r and r.scaled(2*r.steps)==replace(r, steps=2*r.steps)
    for steps in (1, 7, 60, 300, r.steps//2, r.steps-1):
        s = r.scaled(steps); window = 1/(1-s.ema_decay); share = max(.1, r.warmup/r.steps, 1/(1-r.ema_decay)/r.steps)
        assert s.warmup<=share*steps and s.warmup<=r.warmup and window<=max(1, share*steps)*(1+1e-6) and s.ema_decay<=r.ema_decay
    assert not recwarn.list

# ---------------------------------------------------------------- the command
def test_nothing_said_of_size_preset_or_steps(tmp_path, capsys, monkeypatch):
    d, run = mixed(tmp_path/'d'), tmp_path/'run'; monkeypatch.setattr(cli, 'choose_steps', lambda recipe, n: 3)
    s = said(capsys, 'train', d, '--out', run, '--batch', 2)
    assert '40 images, 56 x 56, RGB' in s['d:'] and all(v in s['size'] for v in ('56 x 56, square', 'yours: 64 x 60 to 108 x 118', '--size'))
    assert 'small' in s['preset'] and '--preset' in s['preset'] and s['steps'].startswith('steps     3,') and 'draw these again' in s['few'] and 'copies' not in s and 'time' not in s
    told = json.loads((run/'train.json').read_text())
    assert told | dict(size=[56, 56], preset='small', steps=3, images=40, batch=2, warmup=0)==told and DDPM.from_pretrained(run).shape==(3, 56, 56)
    s = said(capsys, 'train', d, '--out', run, '--resume', '--steps', 5)          # the choices stay, and are not said again
    again = json.loads((run/'train.json').read_text()); assert again=={**told, 'steps': 5} and not {'size', 'preset', 'few'} & s.keys()
    assert main(['train', str(d), '--out', str(run), '--resume', '--size', '64'])==2

def test_the_steps_reach_training(tmp_path, capsys, monkeypatch):
    seen = []
    def record(ddpm, images, recipe, *a, **k): seen.append(recipe); raise ValueError('enough')
    monkeypatch.setattr(training, 'train', record); monkeypatch.setattr(cli, 'estimate', lambda *a: 7200.)
    s = said(capsys, 'train', images(tmp_path/'d', 500, (16, 24)), '--out', tmp_path/'run', '--batch', 10, code=2)
    assert s['steps'].startswith('steps     10,000, to see each image 200 times') and s['time'].startswith('time      about 2 h') and seen==[replace(PRESETS['small'][-1].scaled(10_000), batch=10)] and 'few' not in s

def test_a_size_that_fits_stays(tmp_path, capsys):
    d = images(tmp_path/'d', 12, (24, 40)); s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 2, '--batch', 2)
    assert 'size' not in s and 'steps' not in s and json.loads((tmp_path/'run'/'train.json').read_text())['size'] is None and DDPM.from_pretrained(tmp_path/'run').shape==(1, 24, 40)

def test_grey_in_three_channels(tmp_path, capsys):
    d = tmp_path/'d'; d.mkdir(); rng = np.random.default_rng(0)
    for k in range(6): Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).convert('RGB').save(d/f'{k}.png')
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 2, '--batch', 2); assert 'equal in all' in s['channels'] and 'tiny' in s['preset']
    said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 4, '--resume'); assert DDPM.from_pretrained(tmp_path/'run').shape==(1, 8, 8)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(d/'colour.png')
    assert 'channels' not in said(capsys, 'train', d, '--out', tmp_path/'other', '--steps', 2, '--batch', 2) and DDPM.from_pretrained(tmp_path/'other').shape==(3, 8, 8)

def test_copies_are_named(tmp_path, capsys):
    d = images(tmp_path/'d', 50, (32, 32), 3); Image.open(d/'0007.png').save(d/'seven.jpg', quality=60)
    for f in ('0011.png', '0012.png'): Image.open(d/f).point(lambda v: .8*v+9).save(d/f'z{f}')
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 1, '--batch', 2)
    assert '3 images' in s['copies'] and all(f'{a} and {b}' in s['copies'] for a, b in (('0007.png', 'seven.jpg'), ('0011.png', 'z0011.png')))

def test_a_data_set_of_the_book_keeps_its_recipe(tmp_path, capsys):
    s = said(capsys, 'train', 'digits', '--out', tmp_path/'run', '--steps', 1, '--batch', 2); assert 'tiny' in s['preset'] and not {'size', 'steps', 'few', 'copies', 'channels'} & s.keys()

def test_the_estimate_leaves_no_trace(tmp_path, capsys, monkeypatch):
    "Neither in the network, nor in the random state, nor in what training makes of them; and short runs go without"
    x, runs = load('digits'), []
    for tried in (True, False):
        ddpm, recipe = design('tiny', x.shape); state = torch.get_rng_state()
        if tried: one, ten = estimate(ddpm, recipe, x), estimate(ddpm, replace(recipe, steps=10*recipe.steps), x); assert 0<2*one<ten
        assert torch.equal(state, torch.get_rng_state()); runs.append(training.train(ddpm, x, recipe.scaled(5)).unet.state_dict())
    assert all(torch.equal(v, runs[1][k]) for k, v in runs[0].items())
    def no(*a, **k): raise ValueError('enough')
    monkeypatch.setattr(training, 'train', no)
    assert 'minute' in said(capsys, 'train', 'digits', '--steps', 300, '--out', tmp_path/'a', code=2)['time'] and 'time' not in said(capsys, 'train', 'digits', '--steps', 299, '--out', tmp_path/'b', code=2)

# ---------------------------------------------------------------- copies
def test_copies_of_all_kinds():
    "Every pair is found that comparing all with all finds, however the images are cut into chunks"
    rng = np.random.default_rng(0); x = rng.integers(0, 256, (60, 3, 12, 20)).astype(np.uint8); x = np.concatenate([x, x[:9], np.clip(x[20:24].astype(int)+rng.integers(-3, 4, (4, 3, 12, 20)), 0, 255).astype(np.uint8)])
    x = x[rng.permutation(len(x))]; found = near_duplicates(Images(x)); assert len(found)==13 and len({j for _, j in found})==13
    for chunk in (1, 5, 64): assert near_duplicates(Images(x), chunk=chunk)==found
    assert near_duplicates(Images(x), threshold=0.)==[] and near_duplicates(Images(x[:1]))==[]

@pytest.mark.parametrize('name', ['digits', 'mnist', 'celeba'])
def test_healthy_sets_raise_no_alarm(name):
    x = load(name, data_dir=None if name=='digits' else data_dir()); x = Images(x.images[:10_000]); assert len(near_duplicates(x))<.002*len(x)
