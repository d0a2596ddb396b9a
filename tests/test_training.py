"What a run does when something goes wrong, and that the ways to spread a step do not change it."
import multiprocessing, os, shutil, signal, subprocess, warnings
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.checkpoints import load_tensors
from ddpm_lit.data import load
from ddpm_lit.training import PATIENCE, Interrupted, Recipe, Training, checkpoints, read_log, train

SMALL = Recipe(steps=12, batch=8, lr=1e-3, warmup=3, ema_decay=.5, precision='float32')

def model() -> DDPM:
    torch.manual_seed(0)
    return DDPM(UNet((8, 8), 1, channels=16, multipliers=(1, 2), attention=(4,), res_blocks=1), Schedule.cosine(50))

def weights(run: Path) -> dict: return load_tensors(checkpoints(run)[0])[0]
def equal(a: dict, b: dict) -> bool: return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.fixture(scope='module')
def digits(): return load('digits')

@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    train(model(), digits, SMALL, out := tmp_path_factory.mktemp('whole')/'run'); return weights(out)

# ---------------------------------------------------------------- the same step, spread

def test_parts_of_a_batch_give_its_gradient(digits, tmp_path, whole):
    train(model(), digits, replace(SMALL, accumulate=4), tmp_path/'a')
    for k, v in weights(tmp_path/'a').items():
        if k.startswith('adam'): assert torch.allclose(v, whole[k], rtol=1e-3, atol=1e-5), k
    with pytest.raises(ValueError, match='multiple of 3'): train(model(), digits, replace(SMALL, accumulate=3))

def test_workers_change_nothing(digits, tmp_path, whole):
    train(model(), digits, SMALL, tmp_path/'a', workers=2)
    assert equal(weights(tmp_path/'a'), whole)

def test_half_precision_trains_and_resumes(digits, tmp_path):
    "float16 with a scale for the loss, which is part of the state"
    half = replace(SMALL, steps=6, precision='float16')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(model(), digits, half, tmp_path/'a', log_every=2)
        train(model(), digits, replace(half, steps=3), tmp_path/'b'); train(model(), digits, half, tmp_path/'b', resume=True)
    assert equal(a := weights(tmp_path/'a'), weights(tmp_path/'b')) and a['scaler.scale']>1
    assert read_log(tmp_path/'a'/'log.csv')[-1]['loss']<1.2

# ---------------------------------------------------------------- bad data

def test_a_bad_image_is_left_out_and_named(digits, tmp_path):
    from ddpm_lit.data import to_model
    x = to_model(digits[:100]); clean = x.clone(); x[17, 0, 3, 3] = float('nan')
    with pytest.warns(UserWarning, match=r'left out.*images \[17\]'): train(model(), x, replace(SMALL, steps=24), tmp_path/'a', log_every=1)
    rows = read_log(tmp_path/'a'/'log.csv'); left_out = [r['step'] for r in rows if r['skipped']]
    assert len(left_out)==2 and all(p.isfinite().all() for p in DDPM.from_pretrained(tmp_path/'a').unet.parameters())   # 192 images seen: nearly two epochs
    assert weights(tmp_path/'a')['averaged']==24-len(left_out)
    with pytest.warns(UserWarning):   # and a run that goes on after such a step is the same run
        train(model(), x, replace(SMALL, steps=left_out[0]+1), tmp_path/'b'); train(model(), x, replace(SMALL, steps=24), tmp_path/'b', resume=True)
    assert equal(weights(tmp_path/'a'), weights(tmp_path/'b'))

@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 3e38])
def test_only_bad_images(digits, tmp_path, value):
    train(model(), torch.zeros(20, 1, 8, 8), SMALL, tmp_path/'a')
    before = weights(tmp_path/'a')
    bad = torch.zeros(20, 1, 8, 8); bad[torch.arange(20)%10!=0] = value; bad[[0, 10, 19]] = 0.   # the run compares these pixels
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=f'{PATIENCE} steps in a row'):
        train(model(), bad, replace(SMALL, steps=40), tmp_path/'a', resume=True)
    assert equal(weights(tmp_path/'a'), before)

def test_a_learning_rate_that_is_absurd(digits, tmp_path):
    with warnings.catch_warnings(), pytest.raises(ValueError, match='lower the learning rate'):
        warnings.simplefilter('ignore'); train(model(), digits, replace(SMALL, lr=1e38, warmup=0, steps=40), tmp_path/'a')
    assert not checkpoints(tmp_path/'a')

def test_images_that_vanish_do_not_matter(tmp_path, monkeypatch):
    "They were read when the run began, and stay readable until it ends"
    from helpers import images
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    folder = images(tmp_path/'images', 30, (8, 8)); data = load(folder)
    def vanish(model, step):
        if step==4: shutil.rmtree(folder); shutil.rmtree(tmp_path/'cache')
    train(model(), data, SMALL, tmp_path/'a', save_every=4, on_save=vanish, workers=1)
    train(model(), load(images(tmp_path/'again', 30, (8, 8))), SMALL, tmp_path/'b', save_every=4)
    assert equal(weights(tmp_path/'a'), weights(tmp_path/'b'))

# ---------------------------------------------------------------- processes that die

def test_dead_workers(digits, tmp_path, whole):
    "Those that die are replaced; when they die again and again, the run ends"
    def kill(model, step):
        if step<12: multiprocessing.active_children()[0].kill()   # one of the two
    with pytest.warns(UserWarning, match='a worker that draws images died'):
        train(model(), digits, SMALL, tmp_path/'a', save_every=4, on_save=kill, workers=2)
    assert equal(weights(tmp_path/'a'), whole)
    class Deadly:
        shape, flip = (1, 8, 8), False
        def __len__(self): return 100
        def __getitem__(self, i):
            if torch.utils.data.get_worker_info(): os.kill(os.getpid(), signal.SIGKILL)
            return digits[i]
    with warnings.catch_warnings(), pytest.raises(ValueError, match='Take fewer workers'):
        warnings.simplefilter('ignore'); train(model(), Deadly(), SMALL, tmp_path/'b', workers=1)

def test_two_runs_in_one_folder(digits, tmp_path):
    def again(m, step): train(model(), digits, SMALL, tmp_path/'a', resume=True)
    with pytest.raises(ValueError, match='another process is training'): train(model(), digits, SMALL, tmp_path/'a', save_every=4, on_save=again)

# ---------------------------------------------------------------- disks

def test_a_disk_that_fills_up(digits, tmp_path):
    disk = tmp_path/'disk'; disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=12M', 'tmpfs', disk], capture_output=True)
    if mounted.returncode: pytest.skip('only root can mount a small disk')
    try:
        def fill(model, step):
            if step==8: (disk/'big').write_bytes(bytes(shutil.disk_usage(disk).free-200_000))
        with pytest.raises(OSError, match='No space left'): train(model(), digits, SMALL, disk/'run', save_every=4, on_save=fill)
        assert checkpoints(disk/'run')[0].stem=='step-000000008' and not list((disk/'run').rglob('.step*'))
        DDPM.from_pretrained(disk/'run')
        (disk/'big').unlink(); train(model(), digits, SMALL, disk/'run', resume=True)
        train(model(), digits, SMALL, tmp_path/'whole', save_every=4)
        assert equal(weights(disk/'run'), weights(tmp_path/'whole'))
    finally: subprocess.run(['umount', '-l', disk])

def test_keep(digits, tmp_path):
    train(model(), digits, SMALL, tmp_path/'a', save_every=2, keep=3)
    assert [p.stem[-2:] for p in checkpoints(tmp_path/'a')]==['12', '10', '08']

# ---------------------------------------------------------------- what is said

def test_trackers(digits, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    train(model(), digits, SMALL, tmp_path/'a', log_every=4, tracker='tensorboard')
    events = EventAccumulator(str(tmp_path/'a'/'ddpm_lit')).Reload()
    rows = read_log(tmp_path/'a'/'log.csv')
    assert [(e.step, round(e.value, 4)) for e in events.Scalars('loss')]==[(r['step'], round(r['loss'], 4)) for r in rows]
    with pytest.raises(ValueError, match='no tracker'): train(model(), digits, SMALL, tmp_path/'b', tracker='quill')

def test_the_log_by_time(digits, tmp_path):
    train(model(), digits, replace(SMALL, steps=40, batch=32), tmp_path/'a', log_every=20)
    row = read_log(tmp_path/'a'/'log.csv')[-1]; by_t = [v for k, v in row.items() if k.startswith('loss_')]
    assert len(by_t)==10 and by_t[0]>by_t[-1] and np.isclose(np.mean(by_t), row['loss'], rtol=.05)
    log = tmp_path/'a'/'log.csv'; log.write_text(log.read_text()+'60,.3'); assert len(read_log(log))==2   # a line cut short

def test_an_exploding_gradient_is_said(digits, tmp_path):
    m = model()
    def hurt(_, step):
        if step==20: m.unet.conv_out.weight.data.mul_(1000)
    with pytest.warns(UserWarning, match='step 21 is over 10 times as long'):
        train(m, digits, replace(SMALL, steps=24), tmp_path/'a', log_every=1, save_every=20, on_save=hurt)

def test_ctrl_c_that_reaches_the_compiler_too(digits, tmp_path, monkeypatch):
    def killed(*_): signal.raise_signal(signal.SIGINT); raise RuntimeError('the compiler was killed')
    monkeypatch.setattr(Training, 'gradient', killed)
    with pytest.raises(Interrupted, match='in the middle'): train(model(), digits, SMALL, tmp_path/'a')
