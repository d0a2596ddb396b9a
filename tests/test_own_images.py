"""A folder of one's own: what is chosen when nothing is said, what is said about it, and that
--resume keeps to it."""
import io, json, math, re, shlex, signal
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image, features
from filelock import FileLock
from helpers import cache_home, data_dir, fingerprint, images
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop import cli, files, runs
from ddpm_lit.workshop.cli import choose_preset, choose_size, choose_steps, estimate, main
from ddpm_lit.data import Images
from ddpm_lit.workshop.files import image_sizes, load, near_duplicates
from ddpm_lit.workshop.runs import PRESETS, Training, adapted, checkpoints, design
from ddpm_lit.workshop.recipe import Recipe, kinds

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The presets `tiny` and `laptop` with as many levels and steps, but few channels and
    times, without a compiler and last pictures"""
    monkeypatch.setattr(cli, '_pictures', lambda *args: None)
    for name in ('tiny', 'laptop'):
        usual = PRESETS[name]
        net = {**usual.net, 'channels': 8, 'res_blocks': 1}
        recipe = replace(usual.recipe, fast=False)
        smaller = usual._replace(net=net, schedule=lambda: Schedule.cosine(10), recipe=recipe)
        monkeypatch.setitem(PRESETS, name, smaller)

@pytest.fixture(autouse=True)
def machine(monkeypatch) -> dict:
    """How long a step takes for an image of so many pixels, as the command will measure it;
    change it to have another machine"""
    m = dict(per_step=.001, per_pixel=0.)
    def estimate(ddpm, recipe):
        return recipe.steps*(m['per_step']+m['per_pixel']*math.prod(ddpm.shape[1:]))
    monkeypatch.setattr(cli, 'estimate', estimate)
    return m

@pytest.fixture
def begun(monkeypatch) -> list[dict]:
    "What `train` was called with; no step is made"
    calls = []
    def record(ddpm, images, recipe, *args, **kw):
        calls.append(dict(kw, ddpm=ddpm, recipe=recipe))
        kw['on_begin']()
        raise ValueError('enough')
    monkeypatch.setattr(runs, 'train', record)
    return calls

def mixed(folder, n=40, low=60, high=120, seed=0):
    "Pictures of many sizes and proportions"
    rng = np.random.default_rng(seed)
    for k in range(n):
        size = tuple(rng.integers(low, high, 2).tolist())
        images(folder/'all', 1, size, 3, seed=k)
        (folder/'all'/'0000.png').rename(folder/f'{k:03}.png')
    (folder/'all').rmdir()
    return folder

def said(capsys, *args, code=0) -> dict:
    "What the command says, by the first word of the line"
    capsys.readouterr()
    assert main([*map(str, args)])==code
    return {l.split()[0]: l for l in capsys.readouterr().out.splitlines() if l.strip()}

TRAIN, PICTURES, IN_FEW_STEPS = runs.train, cli._pictures, cli._in_few_steps   # as they are

# ---------------------------------------------------------------- choices
def test_sizes_fit():
    rng = np.random.default_rng(0)
    for _ in range(300):
        halvings = int(rng.integers(1, 6))
        limit = int(rng.choice([64, 128]))
        unit = 2**halvings
        low, high = sorted(rng.integers(unit, 600, 2))
        n = int(rng.integers(1, 30))
        sizes = Counter(map(tuple, rng.integers(low, high+1, (n, 2)).tolist()))
        size, why = choose_size(sizes, halvings, limit)
        hw = np.array([*sizes.elements()])
        if size is None:
            assert len(sizes)==1 and max(hw[0])<=limit and not any(hw[0]%min(unit, 4))
            continue
        assert not any(s%unit or not 0<s<=limit for s in size) and why
        assert np.mean((hw<size).any(1))<=.1 or max(size)==unit
        wide = np.mean(hw[:, 1]>1.2*hw[:, 0])
        tall = np.mean(hw[:, 0]>1.2*hw[:, 1])
        assert not (size[0]>size[1] and wide>.2)
        assert not (size[1]>size[0] and tall>.2)

@pytest.mark.parametrize('sizes,size', [
    ({(24, 40): 5}, None),
    ({(28, 28): 5}, None),
    ({(25, 41): 5}, (24, 40)),
    ({(26, 42): 5}, (24, 40)),
    ({(256, 256): 5}, (64, 64)),
    ({(218, 178): 5}, (64, 56)),
    ({(480, 640): 98, (30, 30): 2}, (48, 64)),
    ({(480, 640): 5, (640, 480): 5}, (64, 64)),
    ({(1000, 4000): 3}, (16, 64)),
    ({(20, 20): 2, (300, 300): 8}, (16, 16))])
def test_a_size(sizes, size):
    assert choose_size(Counter(sizes))[0]==size

def test_a_camera_held_sideways(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 24)).save(tmp_path/'a.jpg', exif=exif)
    Image.new('RGB', (40, 24)).save(tmp_path/'b.jpg')
    (tmp_path/'c.jpg').write_text('')
    assert image_sizes(tmp_path)=={(40, 24): 1, (24, 40): 1}

def test_a_network_and_steps():
    on_a_cpu = [choose_preset(s, 10_000, False)[0] for s in (8, 16, 32, 64, 65, 256)]
    assert on_a_cpu==['tiny']*2+['laptop']*4
    on_a_gpu = [choose_preset(s, 10_000, True)[0] for s in (16, 64, 128, 256)]
    assert on_a_gpu==['tiny', 'laptop', 'cifar10', 'celebahq']
    assert choose_preset(256, 4999, True)[0]=='laptop'
    r = PRESETS['laptop'].recipe
    steps = [choose_steps(r, n) for n in (30, 1600, 3200, 6400, 10**6)]
    assert steps==[10_000, 10_000, 20_000, 40_000, 40_000]
    assert choose_steps(replace(r, batch=64), 3200)==10_000

def test_a_size_that_scales_up_says_so():
    assert choose_size(Counter({(7, 30): 9}))==((8, 8), 'the least that the network can halve')

def test_attention_is_found_on_added_levels():
    for name, side, levels in (('tiny', 32, 4), ('laptop', 128, 4), ('laptop', 256, 6)):
        ddpm, _ = runs.design(name, (1, side, side), channels=8, multipliers=[1]*levels)
        assert len(ddpm.unet.config['attention'])==1, name

@pytest.mark.parametrize('name', PRESETS)
def test_a_shorter_run(name, recwarn):
    r = PRESETS[name].recipe
    assert r.scaled(r.steps)==r
    assert r.scaled(2*r.steps)==replace(r, steps=2*r.steps)
    for steps in (1, 7, 60, 300, r.steps//2, r.steps-1):
        s = r.scaled(steps)
        window = 1/(1-s.ema_decay)
        share = max(.1, r.warmup/r.steps, 1/(1-r.ema_decay)/r.steps)
        assert s.warmup<=share*steps
        assert s.warmup<=r.warmup
        assert window<=max(1, share*steps)*(1+1e-6)
        assert s.ema_decay<=r.ema_decay
    assert not recwarn.list

# ---------------------------------------------------------------- the command
def test_nothing_said_of_size_preset_or_steps(tmp_path, capsys, monkeypatch):
    d, run = mixed(tmp_path/'d'), tmp_path/'run'
    monkeypatch.setattr(cli, 'choose_steps', lambda *args: 3)
    s = said(capsys, 'train', d, '--out', run, '--batch', 2)
    assert '40 images, 56 x 56, RGB' in s['d:']
    for v in ('56 x 56, square', 'yours: 64 x 60 to 108 x 118', '--size'):
        assert v in s['size']
    assert 'laptop' in s['preset']
    assert '--preset' in s['preset']
    assert s['steps'].startswith('steps     3,')
    assert 'draw these again' in s['few']
    assert 'copies' not in s
    told = json.loads((run/'train.json').read_text())
    expected = dict(size=[56, 56], preset='laptop', steps=3, images=40, batch=2, warmup=0)
    assert told | expected==told
    assert DDPM.from_pretrained(run).shape==(3, 56, 56)
    # the choices stay, and are not said again
    s = said(capsys, 'train', d, '--out', run, '--resume', '--steps', 5)
    again = json.loads((run/'train.json').read_text())
    assert again=={**told, 'steps': 5, 'steps_before': [3]}
    assert not {'size', 'preset', 'few'} & s.keys()
    assert main(['train', str(d), '--out', str(run), '--resume', '--size', '64'])==2

def test_the_steps_reach_training(tmp_path, capsys, begun, machine):
    machine.update(per_step=.2)
    d = images(tmp_path/'d', 500, (16, 24))
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--batch', 10, code=2)
    assert s['steps']=='steps     10,000, to see each image 200 times; another number: --steps'
    assert s['time']=='time      about 33 min on this CPU'
    assert 'few' not in s
    recipe = replace(PRESETS['laptop'].recipe.scaled(10_000), batch=10)
    assert [c['recipe'] for c in begun]==[recipe]

def test_a_size_that_fits_stays(tmp_path, capsys):
    d = images(tmp_path/'d', 12, (24, 40))
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 2, '--batch', 2)
    assert 'size' not in s
    assert 'steps' not in s
    assert json.loads((tmp_path/'run'/'train.json').read_text())['size'] is None
    assert DDPM.from_pretrained(tmp_path/'run').shape==(1, 24, 40)

def test_grey_in_three_channels(tmp_path, capsys):
    d = tmp_path/'d'
    d.mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        grey = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        grey.convert('RGB').save(d/f'{k}.png')
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 2, '--batch', 2)
    assert 'equal in all' in s['channels']
    assert 'tiny' in s['preset']
    d = d.rename(tmp_path/'moved')
    said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 4, '--resume')
    assert DDPM.from_pretrained(tmp_path/'run').shape==(1, 8, 8)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(d/'colour.png')
    s = said(capsys, 'train', d, '--out', tmp_path/'other', '--steps', 2, '--batch', 2)
    assert 'channels' not in s
    assert DDPM.from_pretrained(tmp_path/'other').shape==(3, 8, 8)

def test_copies_are_named(tmp_path, capsys):
    d = images(tmp_path/'d', 50, (32, 32), 3)
    Image.open(d/'0007.png').save(d/'seven.jpg', quality=60)
    for f in ('0011.png', '0012.png'):
        Image.open(d/f).point(lambda v: .8*v+9).save(d/f'z{f}')
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 1, '--batch', 2)
    assert '3 images' in s['copies']
    for a, b in (('0007.png', 'seven.jpg'), ('0011.png', 'z0011.png')):
        assert f'{a} and {b}' in s['copies']

def test_labels_without_an_image_are_counted(tmp_path, capsys, begun):
    d = images(tmp_path/'d', 4)
    told = [[f'000{k}.png', 2*k] for k in range(4)]
    (d/'dataset.json').write_text(json.dumps({'labels': told}))
    s = said(capsys, 'train', d, '--labels', '--out', tmp_path/'run', '--steps', 2, code=2)
    assert '7: 0, 1, 2, 3, 4, ... (3 without an image)' in s['labels']

def test_a_data_set_of_the_book_keeps_its_recipe(tmp_path, capsys):
    s = said(capsys, 'train', 'digits', '--out', tmp_path/'run', '--steps', 1, '--batch', 2)
    assert 'tiny' in s['preset']
    assert not {'size', 'steps', 'few', 'copies', 'channels'} & s.keys()

# ---------------------------------------------------------------- an hour
LAPTOP = PRESETS['laptop'].recipe

def test_as_many_steps_as_an_hour_has():
    assert choose_steps(LAPTOP, 309)==10_000
    assert choose_steps(LAPTOP, 309, .1)==10_000   # there is time enough
    assert choose_steps(LAPTOP, 309, .5)==7200
    assert choose_steps(LAPTOP, 309, .5, 8*3600)==10_000
    assert choose_steps(LAPTOP, 10**6, .5)==7200
    assert choose_steps(LAPTOP, 10**6, .5, 8*3600)==40_000
    assert choose_steps(LAPTOP, 309, 60)==choose_steps(LAPTOP, 309, 1e9)==5000   # never fewer
    rng = np.random.default_rng(0)
    for each, n in zip(10**rng.uniform(-3, -.2, 200), rng.integers(1, 10**5, 200).tolist()):
        steps = choose_steps(LAPTOP, n, each)
        enough = choose_steps(LAPTOP, n)
        assert steps==enough or .9*3600<steps*each<=3600, (n, each)

@pytest.mark.parametrize('per_pixel,side,preset,night', [
    (6e-5, 64, 'laptop', None),
    (2.4e-4, 48, 'laptop', 64),
    (5e-4, 32, 'laptop', 64),
    (1e-3, 24, 'laptop', 64),
    (1.8e-3, 16, 'tiny', 48),
    (1., 16, 'tiny', None)])
def test_an_hour_on_this_machine(tmp_path, capsys, begun, machine, per_pixel, side, preset,
        night):
    """Images are as large as an hour is enough for, and what a night would take can be asked
    for"""
    machine.update(per_step=0, per_pixel=per_pixel)
    d, run = images(tmp_path/'d', 5, (80, 80), 3), tmp_path/'run'
    s = said(capsys, 'train', d, '--out', run, code=2)
    c, = begun
    steps = c['recipe'].steps
    seconds = steps*per_pixel*side**2
    assert c['ddpm'].shape==(3, side, side)
    assert preset in s['preset']
    assert ('--hours 1 is enough' in s['size'])==(side<64 and per_pixel<1)
    assert ('--hours 1 is not enough' in s['size'])==(per_pixel==1.)
    assert seconds<=3600 or per_pixel==1. and steps==PRESETS['tiny'].recipe.steps//8
    assert c['first_save']==max(1, int(90/(per_pixel*side**2)))
    assert cli._lasts(seconds) in s['time']
    assert 'CPU' in s['time']
    told = json.loads((run/'train.json').read_text())
    expected = dict(size=[side, side], steps=steps, preset=preset, fast=False)
    assert told | expected==told
    if not night:
        assert s['steps'].endswith('another number: --steps')
        return
    options = shlex.split(s['steps'].split(': ')[-1])
    said(capsys, 'train', d, '--out', tmp_path/'night', *options, code=2)
    c = begun[-1]
    assert c['ddpm'].shape==(3, night, night)
    assert c['recipe'].steps==int(options[-1])
    assert c['recipe'].steps*per_pixel*night**2<=8*3600

def test_more_steps_of_the_same_size_in_a_night(tmp_path, capsys, begun, machine):
    machine.update(per_step=.5)
    d = images(tmp_path/'d', 5, (32, 32), 3)
    s = said(capsys, 'train', d, '--out', tmp_path/'run', code=2)
    assert s['steps'].endswith(
        'steps     7,200, to see each image 46,080 times; another number: --steps; '
        'in about 83 min: --steps 10000')
    machine.update(per_step=.3)   # there is time for all of them
    s = said(capsys, 'train', d, '--out', tmp_path/'other', code=2)
    assert s['steps'].endswith(
        'steps     10,000, to see each image 64,000 times; another number: --steps')

def test_who_says_how_long_has_as_many_steps(tmp_path, capsys, begun, machine):
    machine.update(per_step=.5)
    d = images(tmp_path/'d', 5, (32, 32), 3)
    for hours, steps in (.1, 720), (1, 7200), (8, 57_000):
        run = tmp_path/f'{hours}'
        s = said(capsys, 'train', d, '--out', run, '--hours', hours, code=2)
        assert begun[-1]['recipe'].steps==steps, hours
        assert s['steps'].startswith(f'steps     {steps:,},')
        assert cli._lasts(.5*steps) in s['time']
        told = json.loads((run/'train.json').read_text())
        assert told['steps']==steps
        assert 'hours' not in told
    # a data set by its name too, and larger images where there is more time
    s = said(capsys, 'train', 'digits', '--out', tmp_path/'digits', '--hours', 1, code=2)
    assert begun[-1]['recipe'].steps==7200
    machine.update(per_step=0, per_pixel=5e-4)
    d = images(tmp_path/'large', 5, (80, 80), 3)
    for hours, side in (.5, 24), (8, 64):
        said(capsys, 'train', d, '--out', tmp_path/f'{side}', '--hours', hours, code=2)
        assert begun[-1]['ddpm'].shape==(3, side, side)

def test_what_to_expect_is_between_what_was_measured():
    known = json.loads((Path(cli.__file__).parent/'reached.json').read_text())
    points = known['points']
    def said_of(n: int) -> tuple[str, str]:
        return re.search(r'distance of (\w+) (\d+)', cli.expected(n)).groups()
    for seen, distance in points: assert said_of(seen)==('about', f'{distance:.0f}')
    assert said_of(points[0][0]-1)[0]=='over' and said_of(points[-1][0]+1)[0]=='under'
    for (a, far), (b, near) in pairwise(points):
        assert near<=float(said_of(math.isqrt(a*b))[1])<=far
    assert f'real ones at {known["floor"]:.0f}' in cli.expected(1)

@pytest.mark.parametrize('more,told', [
    ([], True), (['--seed', 3], True), (['--labels'], False), (['--channels', 16], False),
    (['--lr', 1e-4], False), (['--cooldown', 0], False), (['--no-stratified'], False),
    (['--no-flip'], False)])
def test_what_to_expect_is_said_of_the_run_that_was_measured(
        tmp_path, capsys, begun, monkeypatch, more, told):
    monkeypatch.setattr(files, 'load', lambda *args, **kwargs: labelled)
    labelled = Images(np.zeros((40, 3, 32, 32), np.uint8), np.zeros(40, int),
        classes=['frog'])
    s = said(capsys, 'train', 'cifar10', '--out', tmp_path/'run', '--hours', 1, *more, code=2)
    assert ('expect' in s)==told

def test_the_time_chooses_alone(tmp_path, capsys):
    d, run = images(tmp_path/'d', 5, (16, 16), 3), tmp_path/'run'
    def no(*args):
        code = main(['train', str(d), '--out', str(run), '--hours', *map(str, args)])
        assert code==2
        return capsys.readouterr().err
    assert 'leave --steps away' in no(1, '--steps', 3)
    assert 'say --steps' in no(1, '--resume')
    for hours in (0, -1, 'nan', 'inf'): assert '--hours' in no(hours), hours
    assert not run.exists()

def test_who_says_how_many_steps_is_not_hurried(tmp_path, capsys, begun, machine):
    machine.update(per_step=0, per_pixel=.01)
    d = images(tmp_path/'d', 5, (80, 80), 3)
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--steps', 9000, code=2)
    assert begun[0]['ddpm'].shape==(3, 64, 64)
    assert begun[0]['recipe'].steps==9000
    assert 'steps' not in s
    assert s['time']==('time      about 4 days on this CPU; '
        'a smaller --size or fewer --steps take less')
    s = said(capsys, 'train', 'digits', '--out', tmp_path/'digits', '--steps', 20_000, code=2)
    assert s['time']=='time      about 4 h on this CPU; fewer --steps take less'

def test_a_size_that_was_asked_for_stays(tmp_path, capsys, begun, machine):
    machine.update(per_step=.8)
    d = images(tmp_path/'d', 5, (80, 80), 3)
    s = said(capsys, 'train', d, '--out', tmp_path/'run', '--size', 64, code=2)
    assert begun[0]['ddpm'].shape==(3, 64, 64)
    assert begun[0]['recipe'].steps==5000
    assert 'about 67 min' in s['time']

@pytest.mark.parametrize('seconds,said_,fast', [
    (5000, [], False),
    (6000, [], True),
    (9, ['--compile'], True),
    (9999, ['--no-compile'], False)])
def test_only_a_long_run_is_compiled(tmp_path, capsys, begun, machine, monkeypatch, seconds,
        said_, fast):
    recipe = Recipe(steps=1000, batch=8, warmup=1, fast=True)
    monkeypatch.setitem(PRESETS, 'tiny', PRESETS['tiny']._replace(recipe=recipe))
    machine.update(per_step=seconds/1000)
    run = tmp_path/'run'
    s = said(capsys, 'train', 'digits', '--out', run, *said_, code=2)
    assert begun[0]['recipe'].fast==fast
    assert ('once it is compiled' in s['time'])==fast
    assert json.loads((run/'train.json').read_text())['fast']==fast
    # the machine is otherwise busy now; the run stays what it was
    machine.update(per_step=(11_000-seconds)/1000)
    said(capsys, 'train', 'digits', '--out', run, '--resume', code=2)
    assert begun[1]['recipe']==begun[0]['recipe']

@pytest.mark.parametrize('fixed,per_image,batch', [
    (.03, .002, 64), (.06, .04, 32), (.02, .15, 32), (.5, 5., 128), (.001, 1e-4, 8)])
def test_the_estimate(monkeypatch, fixed, per_image, batch):
    """By a clock that only steps move: a step costs so much, so much per image, and more the
    first time with so many. The estimate is within a fifth, and takes some seconds"""
    now = [0.]
    seen = set()
    update = Training.update
    def step(self, x_0, t, eps, y):
        now[0] += fixed+per_image*len(x_0)+(0 if len(x_0) in seen else .2)
        seen.add(len(x_0))
        return update(self, x_0[:1], t[:1], eps[:1], {k: v[:1] for k, v in y.items()})
    monkeypatch.setattr(Training, 'update', step)
    monkeypatch.setattr(cli.time, 'perf_counter', lambda: now[0])
    ddpm, recipe = design('tiny', (1, 8, 8))
    said = estimate(ddpm, replace(recipe, batch=batch, steps=100))
    assert abs(said/(100*(fixed+per_image*batch))-1)<.2
    assert now[0]<12

def test_the_estimate_leaves_no_trace(tmp_path):
    "Neither in the network, nor in the random state, nor in what training makes of them"
    x = load('digits')
    states = []
    for tried in (True, False):
        ddpm, recipe = design('tiny', x.shape)
        state = torch.get_rng_state()
        if tried:
            assert estimate(ddpm, replace(recipe, batch=4))>0
        assert torch.equal(state, torch.get_rng_state())
        states.append(runs.train(ddpm, x, recipe.scaled(5)).unet.state_dict())
    for k, v in states[0].items():
        assert torch.equal(v, states[1][k]), k

def test_short_runs_go_without_a_trial(tmp_path, capsys, begun):
    s = said(capsys, 'train', 'digits', '--steps', 100, '--out', tmp_path/'a', code=2)
    assert 'about' in s['time']
    s = said(capsys, 'train', 'digits', '--steps', 99, '--out', tmp_path/'b', code=2)
    assert 'time' not in s
    assert begun[1]['first_save'] is None

@pytest.fixture
def calls(monkeypatch) -> Counter:
    "How often a network answered, in training and in drawing"
    n, forward = Counter(), UNet.forward
    def count(self, *args):
        n['training' if self.training else 'drawing'] += 1
        return forward(self, *args)
    monkeypatch.setattr(UNet, 'forward', count)
    return n

def test_pictures_of_a_run_cost_few_steps(tmp_path, capsys, monkeypatch, calls):
    """A preview 50 calls of the network, at each of two checkpoints, the last pictures 100,
    not T = 1000; and what they are is said"""
    long = PRESETS['tiny']._replace(schedule=Schedule.linear)
    monkeypatch.setitem(PRESETS, 'tiny', long)
    monkeypatch.setattr(cli, '_pictures', PICTURES)
    monkeypatch.setattr(cli, '_in_few_steps', IN_FEW_STEPS)
    run = tmp_path/'run'
    options = '--steps 3 --batch 2 --save-every 2'.split()
    assert main(['train', 'digits', *options, '--out', str(run)])==0
    out = capsys.readouterr().out
    assert calls==dict(training=3, drawing=2*50+100)
    assert 'step-000000002.png was drawn in 50 steps' in out
    assert 'drawing 16 samples in 100 steps' in out
    assert (run/'previews'/'step-000000002.png').exists()
    assert (run/'samples.png').exists()
    assert '3 steps of 2 images' in out

def test_the_first_checkpoint_comes_early(tmp_path, capsys, machine, monkeypatch):
    machine.update(per_step=45.)
    monkeypatch.setattr(cli, 'choose_steps', lambda *args: 4)
    run = tmp_path/'run'
    said(capsys, 'train', images(tmp_path/'d', 3, (8, 8)), '--batch', 1, '--out', run)
    assert [p.stem for p in checkpoints(run)]==['step-000000004', 'step-000000002']
    assert (run/'previews'/'step-000000002.png').exists()

# ---------------------------------------------------------------- what is kept of a run
def test_a_refused_second_run_changes_nothing(tmp_path, capsys, begun):
    "Another process trains in the folder and has saved nothing yet"
    run = tmp_path/'run'
    said(capsys, 'train', 'digits', '--out', run, '--steps', 7, code=2)
    (run/'log.csv').write_text('')
    before = fingerprint(run)
    with FileLock(run/'.lock'), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, 'train', TRAIN)
        d = images(tmp_path/'d', 5, (8, 8))
        said(capsys, 'train', d, '--out', run, '--steps', 9, code=2)
    assert {k: v for k, v in fingerprint(run).items() if k.name!='.lock'}==before
    killed = tmp_path/'killed'   # before it wrote anything but that it is here
    killed.mkdir()
    (killed/'.lock').touch()
    said(capsys, 'train', 'digits', '--out', killed, '--steps', 7, code=2)
    assert begun.pop()['recipe'].steps==7
    said(capsys, 'train', 'digits', '--out', run, '--resume', code=2)
    assert begun[-1]['recipe'].steps==7

def test_all_that_can_be_said_is_known_to_resume():
    "No option is forgotten when a run goes on"
    elsewhere = {'out', 'resume', 'hours', 'save_every', 'judge', 'keep', 'workers', 'tracker'}
    assert {o.name for o in cli.train.params}-elsewhere<={*kinds()}
    assert {*vars(Recipe())}<={*kinds()}

@pytest.mark.parametrize('key,value', [
    ('clip_grad', 'x'), ('label_dropout', [1]), ('lr', 'fast'), ('stratified', 'yes'),
    ('skipped', 'a.jpg'), ('skip_bad', 1)])
def test_a_train_json_that_someone_has_edited(tmp_path, capsys, begun, key, value):
    run = tmp_path/'run'
    said(capsys, 'train', 'digits', '--out', run, '--steps', 7, code=2)
    told = json.loads((run/'train.json').read_text())
    (run/'train.json').write_text(json.dumps({**told, key: value}))
    assert main(['train', 'digits', '--out', str(run), '--resume'])==2
    assert f'damaged ({key}' in capsys.readouterr().err

# ---------------------------------------------------------------- few images
SHAPES = {
    (3, 32, 32): ['celeba', 'cifar10'],
    (3, 48, 64): ['celeba', 'cifar10'],
    (3, 28, 28): [],
    (1, 28, 28): ['mnist'],
    (1, 24, 40): ['mnist'],
    (1, 8, 8): ['digits'],
    (3, 8, 8): [],
    (1, 64, 64): ['mnist']}

@pytest.mark.parametrize('shape', SHAPES)
def test_few_images_are_told_what_to_begin_with(shape):
    "What is proposed takes the images; what is not would not"
    inits = [shlex.split(o)[1] for o in cli._inits(shape)]
    assert inits==SHAPES[shape]
    for name in inits:
        assert adapted(DDPM.from_pretrained(name), shape).shape==shape

def test_few_images_and_init(tmp_path, capsys, begun):
    d = images(tmp_path/'d', 1, (32, 32), 3)
    few = said(capsys, 'train', d, '--out', tmp_path/'a', '--steps', 1, code=2)['few']
    assert few.startswith('few       1 image:')
    assert '--init celeba (knows faces) or --init cifar10' in few
    options = ['--steps', 1, '--init', 'celeba']
    few = said(capsys, 'train', d, '--out', tmp_path/'b', *options, code=2)['few']
    assert '--init' not in few

@pytest.mark.parametrize('kind,more,shape', [
    ('L', ['--init', 'mnist'], (1, 28, 28)),       # of one channel
    ('RGB', ['--init', 'celeba'], (3, 24, 24)),    # it halves three times
    ('RGB', ['--multipliers', '1,1,1,1'], (3, 24, 24)), ('RGB', [], (3, 28, 28))])
def test_a_size_for_the_network_that_was_asked_for(kind, more, shape, tmp_path, begun):
    x = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), np.uint8)
    (tmp_path/'d').mkdir()
    for k in range(40): Image.fromarray(x[k]).convert(kind).save(tmp_path/'d'/f'{k}.png')
    assert main(['train', str(tmp_path/'d'), '--out', str(tmp_path/'run'), *more])==2
    assert begun[0]['ddpm'].shape==shape

# ---------------------------------------------------------------- the first hour
def photographs(folder, n=57) -> list[str]:
    "As they come from cameras, phones and scanners; returns the three that cannot be used"
    folder.mkdir()
    kinds = ['jpg', 'JPEG', 'png', 'webp']
    if features.check('avif'):
        kinds.append('avif')
    rng = np.random.default_rng(0)
    for k in range(n):
        small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        im = small.resize((120, 90), Image.BICUBIC)
        exif = Image.Exif()
        if k%5==0:   # the camera was held sideways
            im = im.transpose(Image.ROTATE_90)
            exif[0x0112] = 6
        if k%10==9:
            deep = np.asarray(im)[..., 0].astype(np.uint16)*257
            Image.fromarray(deep).save(folder/f'scan_{k}.png')
        else:
            im.save(folder/f'IMG_{k:03}.{kinds[k%len(kinds)]}', exif=exif.tobytes())
    whole = io.BytesIO()
    im.save(whole, 'JPEG')
    whole = whole.getvalue()
    bad = {
        'cut_short.jpg': whole[:len(whole)//2],
        'notes.jpg': b'milk, eggs',
        'IMG_0815.HEIC': b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'+bytes(90)}
    for name, data in bad.items():
        (folder/name).write_bytes(data)
    return [*bad]

def test_the_first_hour(tmp_path, capsys, monkeypatch, machine):
    """A folder of photographs, nothing said, on a slow machine: refused, begun, stopped, gone
    on with, looked at"""
    for preset in ('tiny', 'laptop'):
        usual = PRESETS[preset]
        recipe = replace(usual.recipe, steps=40, batch=2, warmup=2)
        monkeypatch.setitem(PRESETS, preset, usual._replace(recipe=recipe))
    monkeypatch.setattr(cli, '_pictures', PICTURES)
    machine.update(per_step=0, per_pixel=.47)   # 6 minutes for 2 images of 24 x 32
    d, run = tmp_path/'photos', tmp_path/'run'
    bad = photographs(d)
    assert main(['train', str(d), '--out', str(run)])==2
    assert not run.exists()
    err = capsys.readouterr().err
    assert all(name in err for name in bad)
    assert '--skip-bad' in err
    assert err.count('\n')==1

    update = Training.update
    def until_four(self, *args):
        if self.step==3:
            signal.raise_signal(signal.SIGINT)
        return update(self, *args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, 'update', until_four)
        s = said(capsys, 'train', d, '--out', run, '--skip-bad', code=130)
    assert '57 images, 24 x 32, RGB' in s['photos:']
    assert all(name in s['skipped'] for name in bad)
    assert 'so that --hours 1 is enough (yours: 90 x 120)' in s['size']
    assert s['steps'].startswith('steps     9, to see')
    assert s['steps'].endswith('in a night (8 h): --size 48x64 --steps 19')
    assert s['time']=='time      about 54 min on this CPU'
    assert '--init celeba' in s['few']
    assert [p.stem for p in checkpoints(run)]==['step-000000004', 'step-000000001']
    assert (run/'previews'/'step-000000001.png').exists()
    told = json.loads((run/'train.json').read_text())
    assert told['skip_bad']
    assert {line.split(':')[0] for line in told['skipped']}=={*bad}

    s = said(capsys, 'train', d, '--out', run, '--resume')
    assert not {'size', 'preset', 'steps', 'skipped', 'few', 'trying'} & s.keys()
    assert json.loads((run/'train.json').read_text())==told
    assert all((run/f).exists() for f in ('samples.png', 'progressive.png', 'loss.png'))
    assert checkpoints(run)[0].stem=='step-000000009'
    assert DDPM.from_pretrained(run).shape==(3, 24, 32)

def test_a_run_killed_before_its_first_checkpoint(tmp_path, capsys, begun):
    run = tmp_path/'run'
    # begun, then killed
    said(capsys, 'train', 'digits', '--out', run, '--steps', 3, '--batch', 2, code=2)
    (run/'log.csv').write_text('')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, 'train', TRAIN)
        assert main(['train', 'digits', '--out', str(run), '--resume'])==0
    assert 'no checkpoint: the run begins at step 0' in capsys.readouterr().out

# ---------------------------------------------------------------- copies
def test_copies_of_all_kinds():
    """Every pair is found that comparing all with all finds, however the images are cut into
    chunks"""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 3, 12, 20)).astype(np.uint8)
    nearly = x[20:24].astype(int)+rng.integers(-3, 4, (4, 3, 12, 20))
    x = np.concatenate([x, x[:9], np.clip(nearly, 0, 255).astype(np.uint8)])
    x = x[rng.permutation(len(x))]
    found = near_duplicates(Images(x))
    assert len(found)==13
    assert len({j for _, j in found})==13
    for chunk in (1, 5, 64):
        assert near_duplicates(Images(x), chunk=chunk)==found
    exact = near_duplicates(Images(x), threshold=0.)
    assert len(exact)==9
    assert all((x[i]==x[j]).all() for i, j in exact)
    assert near_duplicates(Images(x[:1]))==[]

def test_a_copy_behind_another_of_the_same_thumbnail():
    "Two drawings that are one grey when made small, and a copy of the second"
    across = np.tile(np.repeat(np.uint8([0, 255]), 4), 8)
    lines = np.stack([np.broadcast_to(across, (1, 64, 64))]*3)
    lines[0] = lines[0].transpose(0, 2, 1)
    assert near_duplicates(Images(lines))==[(1, 2)]

@pytest.mark.parametrize('name', ['digits', 'mnist', 'celeba'])
def test_healthy_sets_raise_no_alarm(name):
    x = load(name, data_dir=None if name=='digits' else data_dir())
    x = Images(x.images[:10_000])
    assert len(near_duplicates(x))<.002*len(x)
