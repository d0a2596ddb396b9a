"""What a run does when something goes wrong, and that the ways to spread a step do not change
it."""
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import warnings
from dataclasses import fields, replace
from pathlib import Path
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop.weights import load_tensors, save_tensors
from ddpm_lit.data import Images, swiss_roll
from ddpm_lit.workshop.files import load
from ddpm_lit.training import train_step
from ddpm_lit.workshop import cli, runs
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import PATIENCE, Interrupted, checkpoints, read_log, train
from conftest import root
from helpers import fingerprint

SMALL = Recipe(steps=12, batch=8, lr=1e-3, warmup=3, ema_decay=.5, precision='float32')

def model() -> DDPM:
    torch.manual_seed(0)
    return DDPM(UNet((8, 8), 1, channels=16, multipliers=(1, 2), attention=(4,), res_blocks=1),
        Schedule.cosine(50))

def weights(run: Path) -> dict: return load_tensors(checkpoints(run)[0])[0]
def equal(a: dict, b: dict) -> bool:
    return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture(scope='module')
def digits(): return load('digits')

@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    train(model(), digits, SMALL, out)
    return weights(out)

# ---------------------------------------------------------------- the box is the code

@pytest.fixture
def calls(monkeypatch) -> list[int]:
    "How many images each call of `train_step` was given"
    sizes = []
    def counted(eps_theta, schedule, optimizer, x_0, *given):
        sizes.append(len(x_0))
        return train_step(eps_theta, schedule, optimizer, x_0, *given)
    monkeypatch.setattr(runs, 'train_step', counted)
    return sizes

def test_a_run_makes_its_steps_by_the_box(digits, calls):
    "Once per step; with a batch in parts, once per part"
    train(model(), digits, SMALL)
    assert calls==[8]*12
    calls.clear()
    train(model(), digits, replace(SMALL, accumulate=4))
    assert calls==[2]*48

def test_the_estimate_makes_its_steps_by_the_box(calls):
    assert cli.estimate(model(), SMALL)>0
    assert calls[0]==1   # then more at once, until it takes long enough to be measured

def test_nobody_else_makes_a_training_step():
    """Whoever asks for a gradient in the workshop, or trains with eq. 14 in the benchmark,
    calls `train_step`"""
    for path in (root/'ddpm_lit'/'workshop').glob('*.py'):
        assert '.backward(' not in path.read_text(), path
    for path in (root/'bench').glob('*.py'):
        assert not ('L_simple' in path.read_text() and '.backward(' in path.read_text()), path

def test_a_run_is_a_loop_over_the_box(digits, tmp_path, whole):
    "What `train` does, written out: the draws, the rate, the cut, Adam and the average"
    ddpm, r = model(), SMALL
    net = ddpm.unet.train()
    average = torch.optim.swa_utils.AveragedModel(net,
        multi_avg_fn=runs.ema_update(r.ema_decay))
    adam = torch.optim.Adam(net.parameters(), fused=True)
    class Cut:
        def step(self):
            torch.nn.utils.clip_grad_norm_(net.parameters(), r.clip_grad)
            adam.step()
            average.update_parameters(net)
        def zero_grad(self): adam.zero_grad()
    for step in range(r.steps):
        adam.param_groups[0]['lr'] = r.lr*runs.rate_at(step, r.steps, r.warmup)
        x_0, t, eps, _ = runs.draw(digits, step, r.batch, ddpm.schedule.T, r.seed)
        train_step(net, ddpm.schedule, Cut(), x_0, t, eps)
    for k, v in average.module.state_dict().items():
        assert torch.equal(v, whole[f'ema.{k}']), k

# ---------------------------------------------------------------- the same step, spread

def test_parts_of_a_batch_give_its_gradient(digits, tmp_path, whole):
    train(model(), digits, replace(SMALL, accumulate=4), tmp_path/'a')
    for k, v in weights(tmp_path/'a').items():
        if k.startswith('adam'): assert torch.allclose(v, whole[k], rtol=1e-3, atol=1e-5), k
    with pytest.raises(ValueError, match='multiple of 3'):
        train(model(), digits, replace(SMALL, accumulate=3))

def test_workers_change_nothing(digits, tmp_path, whole):
    train(model(), digits, SMALL, tmp_path/'a', workers=2)
    assert equal(weights(tmp_path/'a'), whole)

def test_half_precision_trains_and_resumes(digits, tmp_path):
    "float16 with a scale for the loss, which is part of the state"
    half = replace(SMALL, steps=6, precision='float16')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(model(), digits, half, tmp_path/'a', log_every=2)
        train(model(), digits, replace(half, steps=3), tmp_path/'b')
        train(model(), digits, half, tmp_path/'b', resume=True)
    assert equal(weights(tmp_path/'a'), weights(tmp_path/'b'))
    assert weights(tmp_path/'a')['scaler.scale']>1
    assert read_log(tmp_path/'a'/'log.csv')[-1]['loss']<1.2

# ---------------------------------------------------------------- bad data

def test_a_bad_image_is_left_out_and_named(digits, tmp_path):
    from ddpm_lit.data import to_model
    x, longer = to_model(digits[:100]), replace(SMALL, steps=24)
    x[17, 0, 3, 3] = float('nan')
    with pytest.warns(UserWarning, match=r'left out.*images \[17\]'):
        train(model(), x, longer, tmp_path/'a', log_every=1)
    left_out = [r['step'] for r in read_log(tmp_path/'a'/'log.csv') if r['skipped']]
    assert len(left_out)==2   # 192 images seen: nearly two epochs
    assert all(p.isfinite().all()
        for p in DDPM.from_pretrained(tmp_path/'a').unet.parameters())
    assert weights(tmp_path/'a')['averaged']==24-len(left_out)
    # and a run that goes on after such a step is the same run
    with pytest.warns(UserWarning):
        train(model(), x, replace(SMALL, steps=left_out[0]+1), tmp_path/'b')
        train(model(), x, longer, tmp_path/'b', resume=True)
    assert equal(weights(tmp_path/'a'), weights(tmp_path/'b'))

@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 3e38])
def test_only_bad_images(tmp_path, value):
    "After step 12 all are bad, of which the run began with good ones"
    x, saved = torch.zeros(20, 1, 8, 8), []
    def spoil(model, step):
        x.fill_(value)
        saved.append(weights(tmp_path/'a'))
    refusal = pytest.raises(ValueError, match=f'{PATIENCE} steps in a row')
    with pytest.warns(UserWarning), refusal:
        train(model(), x, replace(SMALL, steps=40), tmp_path/'a', save_every=12, on_save=spoil)
    assert len(saved)==1 and equal(weights(tmp_path/'a'), saved[0])

def test_a_learning_rate_that_is_absurd(digits, tmp_path):
    with warnings.catch_warnings(), pytest.raises(ValueError, match='lower the learning rate'):
        warnings.simplefilter('ignore')
        train(model(), digits, replace(SMALL, lr=1e38, warmup=0, steps=40), tmp_path/'a')
    assert not checkpoints(tmp_path/'a')

def test_images_that_vanish_do_not_matter(tmp_path, monkeypatch):
    "They were read when the run began, and stay readable until it ends"
    from helpers import images
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    folder = images(tmp_path/'images', 30, (8, 8))
    data = load(folder)
    def vanish(model, step):
        if step!=4: return
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path/'cache')
    train(model(), data, SMALL, tmp_path/'a', save_every=4, on_save=vanish, workers=1)
    train(model(), load(images(tmp_path/'again', 30, (8, 8))), SMALL, tmp_path/'b',
        save_every=4)
    assert equal(weights(tmp_path/'a'), weights(tmp_path/'b'))

# ---------------------------------------------------------------- processes that die

@pytest.mark.soak
def test_dead_workers(digits, tmp_path, whole):
    "Those that die are replaced; when they die again and again, the run ends"
    def kill(model, step):
        if step<12: multiprocessing.active_children()[0].kill()   # one of the two
    with pytest.warns(UserWarning, match='a worker that draws images died'):
        train(model(), digits, SMALL, tmp_path/'a', save_every=4, on_save=kill, workers=2)
    assert equal(weights(tmp_path/'a'), whole)
    class Deadly(Images):
        def __getitem__(self, i):
            if torch.utils.data.get_worker_info(): os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(i)
    with warnings.catch_warnings(), pytest.raises(ValueError, match='Take fewer workers'):
        warnings.simplefilter('ignore')
        train(model(), Deadly(digits.images), SMALL, tmp_path/'b', workers=1)

def test_two_runs_in_one_folder(digits, tmp_path):
    "The second is refused before it, or its caller, has written anything"
    begun = []
    def again(model_, step):
        before = fingerprint(tmp_path)
        for resume in (False, True):
            with pytest.raises(ValueError, match='another process is training'):
                train(model(), digits, SMALL, tmp_path/'a', resume,
                    on_begin=lambda: begun.append('b'))
        assert fingerprint(tmp_path)==before
    def begin():
        # nothing is written before
        assert [p.name for p in (tmp_path/'a').iterdir()]==['.lock']
        begun.append('a')
    train(model(), digits, SMALL, tmp_path/'a', save_every=12, on_save=again, on_begin=begin)
    assert begun==['a']
    before = fingerprint(tmp_path)
    with pytest.raises(ValueError, match='already holds a run'):
        train(model(), digits, SMALL, tmp_path/'a', on_begin=lambda: begun.append('b'))
    assert begun==['a'] and fingerprint(tmp_path)==before

# ---------------------------------------------------------------- disks

def test_a_disk_that_fills_up(digits, tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=12M', 'tmpfs', disk],
        capture_output=True)
    if mounted.returncode: pytest.skip('only root can mount a small disk')
    def fill(model, step):
        if step==8: (disk/'big').write_bytes(bytes(shutil.disk_usage(disk).free-200_000))
    try:
        with pytest.raises(OSError, match='No space left'):
            train(model(), digits, SMALL, disk/'run', save_every=4, on_save=fill)
        assert checkpoints(disk/'run')[0].stem=='step-000000008'
        assert not list((disk/'run').rglob('.step*'))
        DDPM.from_pretrained(disk/'run')
        (disk/'big').unlink()
        train(model(), digits, SMALL, disk/'run', resume=True)
        train(model(), digits, SMALL, tmp_path/'whole', save_every=4)
        assert equal(weights(disk/'run'), weights(tmp_path/'whole'))
    finally: subprocess.run(['umount', '-l', disk])

def test_keep(digits, tmp_path):
    train(model(), digits, SMALL, tmp_path/'a', save_every=2, keep=3)
    assert [p.stem[-2:] for p in checkpoints(tmp_path/'a')]==['12', '10', '08']

# ---------------------------------------------------------------- what is said

def test_a_damaged_checkpoint_is_none_of_those_kept(digits, tmp_path):
    run = tmp_path/'run'
    train(model(), digits, SMALL, run, save_every=3)
    newest = checkpoints(run)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    longer = replace(SMALL, steps=10)
    train(model(), digits, longer, run, resume=True, save_every=100, keep=1)
    damaged, last = checkpoints(run)
    assert damaged==newest and runs.step_of(last)==10 and load_tensors(last)

def test_a_stop_writes_what_it_has_seen(digits, tmp_path, monkeypatch):
    "No step is missing from the log"
    def stop(model, step): os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        train(model(), digits, SMALL, tmp_path, save_every=4, on_save=stop)
    log = read_log(tmp_path/'log.csv')
    assert [row['step'] for row in log]==[5]
    train(model(), digits, SMALL, tmp_path, resume=True)
    assert [row['step'] for row in read_log(tmp_path/'log.csv')]==[5, 10, 12]

def test_an_empty_name_is_no_folder(digits):
    with pytest.raises(ValueError, match='out is empty'):
        train(model(), digits, SMALL, '')

def test_images_of_another_size_are_refused(digits):
    wide = Images(np.zeros((9, 1, 8, 16), np.uint8))
    grey = torch.zeros(9, 8, 8)
    for images, shape in ((wide, r'\(1, 8, 16\)'), (grey, r'\(8, 8\)')):
        with pytest.raises(ValueError, match=f'and these have {shape}'):
            train(model(), images, SMALL)

def test_trackers(digits, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    train(model(), digits, SMALL, tmp_path/'a', log_every=4, tracker='tensorboard')
    events = EventAccumulator(str(tmp_path/'a'/'ddpm_lit')).Reload()
    rows = read_log(tmp_path/'a'/'log.csv')
    heard = [(e.step, round(e.value, 4)) for e in events.Scalars('loss')]
    assert heard==[(r['step'], round(r['loss'], 4)) for r in rows]
    with pytest.raises(ValueError, match='no tracker'):
        train(model(), digits, SMALL, tmp_path/'b', tracker='quill')

def test_a_tracker_that_is_not_there_begins_nothing(digits, tmp_path):
    def begun(): raise AssertionError
    with pytest.raises(ValueError, match='no tracker'):
        train(model(), digits, SMALL, tmp_path, tracker='nix', on_begin=begun)

def test_a_tracker_of_ones_own(digits):
    "Hears each row, and needs no folder"
    from accelerate.tracking import GeneralTracker
    class Mine(GeneralTracker):
        name, requires_logging_directory, tracker = 'mine', False, None
        heard, ended = [], []
        def store_init_configuration(self, values): pass
        def log(self, values, step=None, **how): self.heard.append((step, values['loss']))
        def finish(self): self.ended.append(1)
    train(model(), digits, SMALL, log_every=4, tracker=Mine())
    assert [step for step, _ in Mine.heard]==[4, 8, 12] and Mine.ended==[1]
    assert all(0<loss<2 for _, loss in Mine.heard)

def test_the_log_by_time(digits, tmp_path):
    train(model(), digits, replace(SMALL, steps=40, batch=32), tmp_path/'a', log_every=20)
    log = tmp_path/'a'/'log.csv'
    row = read_log(log)[-1]
    by_t = [v for k, v in row.items() if k.startswith('loss_')]
    assert len(by_t)==10
    assert by_t[0]>by_t[-1]
    assert np.isclose(np.mean(by_t), row['loss'], rtol=.05)
    log.write_text(log.read_text()+'60,.3')   # a line cut short
    assert len(read_log(log))==2

def test_saving_takes_no_time_of_the_log(digits, tmp_path, monkeypatch):
    "Nor does it take away that of the steps since the last row"
    now = 0.
    def later(seconds):
        nonlocal now
        now += seconds
    monkeypatch.setattr(runs.time, 'perf_counter', lambda: now)
    update = runs.Training.update
    def one_second(self, *drawn):
        later(1)
        return update(self, *drawn)
    monkeypatch.setattr(runs.Training, 'update', one_second)
    train(model(), digits, replace(SMALL, steps=20), tmp_path/'a', log_every=10, save_every=7,
        on_save=lambda *_: later(100))
    assert [row['seconds'] for row in read_log(tmp_path/'a'/'log.csv')]==[10, 20]

@pytest.mark.soak
def test_times_drawn_by_importance_change_no_mean(digits, tmp_path):
    """Of the losses in the log, in all and by time, though with min-SNR the first tenth of the
    times counts half as much as the fifth; nor of what an error counts"""
    ddpm = DDPM.from_pretrained('digits')
    recipe = replace(SMALL, steps=40, batch=64, lr=1e-12, weighting='min_snr', stratified=True)
    logs, counts = [], []
    for importance in (False, True):
        new, run = replace(recipe, importance=importance), tmp_path/str(importance)
        train(ddpm, digits, new, run, log_every=1)
        logs.append(np.array([[*row.values()] for row in read_log(run/'log.csv')]))
        state = runs.Training(ddpm, new)
        times = torch.cat([state.drawing(digits)(k).t for k in range(40)])
        counts.append((times, state.weight[times]))
    (early, plain), (rare, alike) = counts
    assert (rare<=10).sum()<.8*(early<=10).sum() and alike.max()<1.26
    assert abs(plain.mean()-1)<.02 and abs(alike.mean()-1)<.02 and alike.std()<.5*plain.std()
    columns = [k for k, name in enumerate(runs.LOG_FIELDS) if name.startswith('loss')]
    a, b = (np.nanmean(log, 0)[columns] for log in logs)
    error = np.hypot(*(np.nanstd(log, 0)[columns]/40**.5 for log in logs))
    assert (abs(a-b)<4.5*error).all(), (a-b)/error

def test_an_exploding_gradient_is_said(digits, tmp_path):
    m = model()
    def hurt(_, step):
        if step==20: m.unet.conv_out.weight.data.mul_(1000)
    with pytest.warns(UserWarning, match='step 21 is over 10 times as long'):
        train(m, digits, replace(SMALL, steps=24), tmp_path/'a', log_every=1, save_every=20,
            on_save=hurt)

def test_ctrl_c_that_reaches_the_compiler_too(digits, tmp_path, monkeypatch):
    def killed(*_):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError('the compiler was killed')
    monkeypatch.setattr(runs, 'train_step', killed)
    with pytest.raises(Interrupted, match='in the middle'):
        train(model(), digits, SMALL, tmp_path/'a')

# ---------------------------------------------------------------- what is refused at the door

@pytest.mark.parametrize('wrong', [
    dict(lr=float('inf')), dict(lr='1'), dict(warmup=float('nan')), dict(seed=1.5),
    dict(steps=True), dict(batch=8.), dict(clip_grad=float('nan')), dict(cooldown=None),
    dict(accumulate=0), dict(seed=-1), dict(stratified='no'), dict(fast=None)])
def test_a_recipe_of_wrong_numbers(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): Recipe(**wrong)

def test_a_recipe_of_numpy_numbers():
    r = Recipe(steps=np.int64(10), warmup=np.int32(0), lr=np.float32(.5),
        clip_grad=float('inf'))
    assert type(r.steps) is int and type(r.lr) is float
    json.dumps(vars(r))

@pytest.mark.parametrize('option', fields(Recipe), ids=lambda f: f.name)
def test_an_option_is_declared_once(option):
    "It has a sentence; if the command has it, then with this sentence and this range"
    may, flag = option.metadata, {o.name: o for o in cli.train.params}.get(option.name)
    assert may['sentence'].endswith('.') and (flag is not None)==bool(may['flag'])
    if not flag: return
    assert flag.help.startswith(may['sentence']) and may['flag'].split('/')[0] in flag.opts
    if type(option.default) is int:
        assert (flag.type.min, flag.type.max)==(may['least'], may['most'])
    if type(option.default) is float: assert flag.type.min_open==(0 in may['within'].without)

IMAGES = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8,
    generator=torch.Generator().manual_seed(0))

@pytest.mark.parametrize('data,todo', [
    (IMAGES.float(), 'from 0 to 255.*as uint8'),
    (IMAGES/255, r'2\*x - 1'),
    (IMAGES.long(), 'make them uint8'),
    (IMAGES[:0], 'no images')])
def test_numbers_that_are_no_grey_levels(data, todo):
    with pytest.raises(ValueError, match=todo): train(model(), data, SMALL)

def test_numbers_that_may_be_anything():
    "uint8, floats in [-1, 1] of any type, what is said to be no image, and points"
    one = replace(SMALL, steps=1, warmup=0)
    def learns(ddpm, data):
        weights = train(ddpm, data, one).unet.parameters()
        assert all(w.isfinite().all() for w in weights)
    for x in (IMAGES, IMAGES/127.5-1, (IMAGES/127.5-1).double()): learns(model(), x)
    learns(replace(model(), clip_x0=False), torch.randn(20, 1, 8, 8))
    learns(DDPM(Line(), Schedule.cosine(10)), 5+swiss_roll(50))

class Line(torch.nn.Module):
    "A network of one's own, for points in the plane"
    def __init__(self):
        super().__init__()
        self.norm, self.line = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)
    def forward(self, x, t): return self.line(self.norm(x))

def test_a_network_of_ones_own(tmp_path):
    """It trains, is refused at once where it would be saved, and its average knows what its
    BatchNorm has seen"""
    points = 5+swiss_roll(100)
    with pytest.raises(ValueError, match='a Line cannot be saved'):
        train(DDPM(Line(), Schedule.cosine(10)), points, SMALL, tmp_path/'a')
    assert not (tmp_path/'a').exists()
    made = DDPM(Line(), Schedule.cosine(10))
    kept = train(made, points, SMALL)
    assert kept.unet.norm.num_batches_tracked==SMALL.steps
    assert torch.equal(kept.unet.norm.running_mean, made.unet.norm.running_mean)
    assert not torch.equal(kept.unet.line.weight, made.unet.line.weight)

def test_a_trained_model_trains_again(digits):
    first = train(model(), digits, SMALL)
    before = first.unet.conv_in.weight.clone()
    again = train(first, digits, SMALL)
    assert not torch.equal(again.unet.conv_in.weight, before)
    frozen = model()
    frozen.unet.conv_in.requires_grad_(False)   # who freezes a part means it
    before = frozen.unet.conv_in.weight.clone()
    assert torch.equal(train(frozen, digits, SMALL).unet.conv_in.weight, before)

def test_ctrl_c_without_a_folder_keeps_the_average(digits):
    ddpm = model()
    def stop(_, step): signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted, match='step 5 of 12.*`model`') as e:
        train(ddpm, digits, SMALL, save_every=4, on_save=stop)
    shorter = train(model(), digits, replace(SMALL, steps=5))
    both = zip(e.value.model.unet.parameters(), shorter.unet.parameters())
    assert all(torch.equal(a, b) for a, b in both)
    assert not ddpm.unet.training

# -------------------------------------------------------------- what must be the same to go on

def other(digits, what: str) -> Images:
    "The digits with something changed that their number does not tell"
    x, y, names = digits.images.copy(), digits.labels.copy(), list(digits.classes)
    if what=='a pixel': x[17, 0, 3, 3] ^= 1
    if what=='labels': y = y[::-1].copy()
    if what=='a name': names[2] = 'dog'
    return Images(x, y, names, flip=False)

@pytest.fixture
def begun(digits, tmp_path):
    train(model(), digits, replace(SMALL, steps=1, warmup=0), tmp_path/'begun')
    return tmp_path/'begun'

def goes_on(data, run, **change):
    return train(model(), data, replace(SMALL, **dict(steps=2, warmup=0) | change), run,
        resume=True)

def test_other_data_are_refused_in_words(digits, begun):
    other_words = {'a pixel': 'the images are not those that it was begun with',
        'labels': 'the labels are others', 'a name': 'class 2 was named 2 and is now dog'}
    for what, said in other_words.items():
        with pytest.raises(ValueError, match=f'other settings: {said}. Use the images'):
            goes_on(other(digits, what), begun)
    few = Images(digits.images[:9], digits.labels[:9], digits.classes, flip=False)
    with pytest.raises(ValueError,
        match='the number of images was 1257 and is now 9; the labels'):
        goes_on(few, begun)
    with pytest.raises(ValueError, match='lr was 0.001 and is now 0.002; the images are not'):
        goes_on(other(digits, 'a pixel'), begun, lr=2e-3)
    goes_on(other(digits, 'nothing'), begun)

def test_a_run_of_version_0_1_goes_on(digits, begun):
    "It knew how many images there are, and three of them"
    path = checkpoints(begun)[0]
    tensors, meta = load_tensors(path)
    old = json.loads(meta['settings'])
    del old['data']
    save_tensors(path, tensors, {'step': meta['step'], 'settings': json.dumps(old)})
    inverse = Images(255-digits.images, digits.labels, digits.classes, flip=False)
    with pytest.raises(ValueError, match='the images are not those'): goes_on(inverse, begun)
    goes_on(digits, begun)
    assert json.loads(load_tensors(checkpoints(begun)[0])[1]['settings'])['data']['labels']

# ---------------------------------------------------------------- what is written, and when

def test_the_last_steps_have_a_row(digits, tmp_path):
    train(model(), digits, replace(SMALL, steps=6), tmp_path/'a', log_every=4)
    train(model(), digits, replace(SMALL, steps=6), tmp_path/'b', log_every=2)
    rows, twos = (read_log(tmp_path/d/'log.csv') for d in 'ab')
    assert [r['step'] for r in rows]==[4, 6]
    assert rows[-1]['loss']==twos[-1]['loss'] and rows[-1]['grad_norm']==twos[-1]['grad_norm']

@pytest.mark.parametrize('option, other', [
    ('optimizer', dict(optimizer='muon')),
    ('importance', dict(weighting='min_snr', importance=True))], ids=['muon', 'importance'])
def test_another_recipe_goes_on_as_if_nothing_had_happened(
    option, other, digits, tmp_path, whole):
    "In two runs as in one, bit for bit; and its steps are others"
    recipe = replace(SMALL, **other)
    train(model(), digits, recipe, tmp_path/'one')
    train(model(), digits, replace(recipe, steps=5), tmp_path/'two')
    train(model(), digits, recipe, tmp_path/'two', resume=True)
    assert equal(weights(tmp_path/'one'), weights(tmp_path/'two'))
    assert not torch.equal(weights(tmp_path/'one')['net.conv_in.weight'],
        whole['net.conv_in.weight'])
    usual = replace(recipe, **{option: getattr(SMALL, option)})
    was, now = getattr(recipe, option), getattr(usual, option)
    with pytest.raises(ValueError, match=f'{option} was {was} and is now {now}'):
        train(model(), digits, usual, tmp_path/'two', resume=True)

def test_a_first_checkpoint_changes_nothing(digits, tmp_path, whole):
    seen = []
    train(model(), digits, SMALL, tmp_path/'a', save_every=8, first_save=3,
        on_save=lambda m, step: seen.append(step))
    assert seen==[3, 8, 12] and equal(weights(tmp_path/'a'), whole)
    with pytest.raises(ValueError, match='first_save'):
        train(model(), digits, SMALL, first_save=0)

# ---------------------------------------------------------------- what a browser sees

def test_the_page_of_a_run(tmp_path, monkeypatch):
    "A row for each checkpoint, also of a run that went on; the distances are those of samples"
    asked = []
    def judged(x, *args):
        asked.append(len(x))
        return torch.as_tensor(x[:]).flatten(1).float()
    monkeypatch.setattr(cli.ddpm_lit.evaluation, 'features', judged)
    monkeypatch.setattr(cli.workshop.model, 'real_features', judged)
    command = ['train', 'digits', '--preset', 'tiny', '--batch', '8', '--validate', '.1',
        '--save-every', '4', '--judge', '30', '--out', str(tmp_path)]
    assert cli.main([*command, '--steps', '8'])==0
    assert cli.main([*command, '--steps', '12', '--resume'])==0
    assert asked==[540, 30, 30, 540, 30]
    rows = runs.read_log(tmp_path/'distance.csv', cli.DISTANCES)
    assert [r['step'] for r in rows]==[4, 8, 12] and all(r['distance']>0 for r in rows)
    page = BeautifulSoup((tmp_path/'page.html').read_text(), 'html.parser')
    head, *table = page.table.find_all('tr')
    assert [th.text for th in head.find_all('th')][:5]==[
        'step', 'minutes', 'loss', 'loss, held out', 'distance']
    assert [tr.td.text for tr in table]==['12', '8', '4']
    last = runs.read_log(tmp_path/'held_out.csv', runs.HELD_OUT_FIELDS)[-1]
    cells = [td.text for td in table[0].find_all('td')]
    assert cells[3:5]==[f"{last['held_out']:.4g}", f"{rows[-1]['distance']:.4g}"]
    pictures = [tmp_path/image['src'] for image in page.find_all('img')]
    assert len(pictures)==4 and all(path.exists() for path in pictures)

def test_nothing_is_judged_that_is_no_picture(tmp_path, capsys):
    options = ['--preset', 'tiny', '--steps', '2', '--judge', '20', '--out', str(tmp_path/'a')]
    assert cli.main(['train', 'digits', '--condition', 'half', *options])==2
    assert 'leave it away' in capsys.readouterr().err and not (tmp_path/'a').exists()
