"""Arrays on disk: which axis is which, which numbers are black and white, and what comes back
in their units."""
import json
import os
import pickle
import zipfile
import numpy as np
import pytest
import torch
from PIL import Image
from ddpm_lit import DDPM
from ddpm_lit.data import Images, Items, to_model
from ddpm_lit.workshop import files
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.hub import model_card
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.runs import Recipe, design, train
from helpers import cache_home, images
from runs import one_thread

@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    old = os.environ.get('XDG_CACHE_HOME')
    os.environ['XDG_CACHE_HOME'] = cache_home(tmp_path_factory)
    yield
    if old is None: del os.environ['XDG_CACHE_HOME']
    else: os.environ['XDG_CACHE_HOME'] = old

def saved(path, x, **more):
    if path.suffix=='.npz': np.savez(path, images=x, **more)
    else: np.save(path, x)
    return path

def numbers(*shape, kind=np.uint8, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max+1, shape, kind)

@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
def test_axes_are_told_by_the_shape(tmp_path, channels, suffix):
    x = numbers(5, channels, 8, 12)
    same = [x, x.transpose(0, 2, 3, 1)]
    if channels==1: same.append(x[:, 0])
    prints = set()
    for k, array in enumerate(same):
        y = load(saved(tmp_path/f'{k}{suffix}', array))
        assert np.array_equal(y.images, x) and isinstance(y.images, np.memmap)
        assert y[[1, 4]].dtype==torch.uint8 and y.shape==(channels, 8, 12)
        prints.add(y.fingerprint()['pixels'])
    assert prints=={Images(x).fingerprint()['pixels']}

def test_axes_that_nobody_can_tell_are_asked_for(tmp_path):
    x = numbers(5, 16, 8, 8)
    path = saved(tmp_path/'x.npy', x)
    with pytest.raises(ValueError, match=r'\(5, 16, 8, 8\).*--axes nchw or --axes nhwc'):
        load(path)
    assert load(path, axes='nchw').shape==(16, 8, 8)
    assert load(path, axes='nhwc').shape==(8, 16, 8)
    with pytest.raises(ValueError, match='nchw or nhwc, not'): load(path, axes='hwcn')

def test_which_numbers_are_black_and_white(tmp_path):
    x = numbers(6, 1, 8, 8, kind=np.uint16)
    deep = load(saved(tmp_path/'deep.npy', x))
    assert torch.allclose(deep[:].double(), torch.from_numpy(x/32767.5-1), atol=1e-6)
    assert deep[:].unique().numel()>256
    share = x/65535
    for kind in (np.float16, np.float32, np.float64, '>f4'):
        path = saved(tmp_path/'share.npy', share.astype(kind))
        with pytest.raises(ValueError, match=r'from .* to .*--range 0,1, or --range auto'):
            load(path)
        y = load(path, ends=(0, 1))
        assert torch.allclose(y[:], deep[:], atol=2e-3) and y[0].dtype==torch.float32
        with pytest.raises(ValueError, match='outside of 0 to 0.5'): load(path, ends=(0, .5))
    masks = saved(tmp_path/'masks.npy', numbers(6, 1, 8, 8)//128)   # all of it nearly black
    with pytest.raises(ValueError, match='uint8 numbers from 0 to 1.*--range 0,1'): load(masks)
    assert load(masks, ends=(0, 1))[:].unique().tolist()==[-1, 1]
    camera = saved(tmp_path/'camera.npy', numbers(6, 1, 8, 8, kind=np.uint16)//16)
    with pytest.raises(ValueError, match='uint16 numbers from .*--range'): load(camera)
    assert load(camera, ends=(0, 4095))[:].max()>.9
    for bad in ((1, 0), (0, 0), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match=r'no range'): load(path, ends=bad)

def test_ends_are_numbers_that_grow(tmp_path):
    x = numbers(4, 1, 8, 8).astype(np.float32)
    ends = Images(x, ends=(x.min(), x.max())).ends
    assert json.loads(json.dumps(ends))==[x.min(), x.max()]
    for bad in ((1, 0), (0, 0), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match='two numbers that grow'): Images(x, ends=bad)

def test_auto_is_the_scale_of_pictures(tmp_path):
    x = np.random.default_rng(0).normal(1e4, 3, (100, 4, 8, 8)).astype(np.float32)
    y = load(saved(tmp_path/'x.npy', x), ends='auto')
    assert abs(y[:].mean())<1e-3 and abs(y[:].std()-.5)<1e-3
    assert (y.bounded, y.flip)==(False, False) and y[:].abs().max()>1
    with pytest.raises(ValueError, match='all its numbers are 2'):
        load(saved(tmp_path/'two.npy', np.full((5, 4, 8, 8), 2.)), ends='auto')
    with pytest.raises(ValueError, match=r'clip_x0=False'):
        train(design('tiny', (4, 8, 8))[0], y, Recipe(steps=1, batch=2, warmup=1))

def test_labels_of_an_npz(tmp_path):
    x, y = numbers(6, 8, 8, 3), np.array([2, 0, 1, 1, 2, 0])
    z = load(saved(tmp_path/'x.npz', x, labels=y))
    assert z.labels.tolist()==y.tolist() and z.classes==['0', '1', '2']
    np.savez_compressed(tmp_path/'sole.npz', whatever=x)
    assert load(tmp_path/'sole.npz').labels is None
    for labels, says in ((y[:5], '6 images need as many'), (y-1, 'count from 0'),
            (y/2, 'whole numbers'), (y+10**6, 'count from 0')):
        with pytest.raises(ValueError, match=says):
            load(saved(tmp_path/'x.npz', x, labels=labels))
    np.savez(tmp_path/'many.npz', a=x, b=x)
    with pytest.raises(ValueError, match='a.npy, b.npy: name its arrays images and labels'):
        load(tmp_path/'many.npz')
    np.savez(tmp_path/'other.npz', images=x, y=y)   # a label that nobody would read
    with pytest.raises(ValueError, match='images.npy, y.npy: name its arrays'):
        load(tmp_path/'other.npz')

class Harm:
    def __reduce__(self): return os.mkdir, ('harm',)

def test_what_is_no_array_of_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = numbers(4, 8, 8)
    good = saved(tmp_path/'x.npy', x).read_bytes()
    bad = {
        'cut': good[:-9], 'short': good[:7], 'empty': b'', 'text': b'no array',
        'pickle': pickle.dumps(Harm()), 'head': good.replace(b"'|u1'", b"'|O8'")}
    for name, data in bad.items():
        for suffix in ('.npy', '.npz'):
            path = tmp_path/f'{name}{suffix}'
            path.write_bytes(data)
            if suffix=='.npz' and name!='text':
                with zipfile.ZipFile(path, 'w') as z: z.writestr('images.npy', data)
            with pytest.raises(ValueError, match=f'{name}{suffix} cannot be used'): load(path)
    np.save(tmp_path/'o.npy', np.array([Harm()], object))
    with pytest.raises(ValueError, match='cannot be used'): load(tmp_path/'o.npy')
    assert not (tmp_path/'harm').exists()
    for shape in ((4, 8), (4, 1, 8, 8, 8), (0, 1, 8, 8), (4, 1, 0, 8)):
        with pytest.raises(ValueError, match='it has shape'):
            load(saved(tmp_path/'x.npy', np.zeros(shape, np.uint8)))
    for kind in (complex, bool, 'U3'):
        with pytest.raises(ValueError, match='not real numbers'):
            load(saved(tmp_path/'x.npy', np.zeros((4, 8, 8), kind)))
    x = np.zeros((200, 1, 8, 8), np.float32)
    x[17, 0, 3, 3], x[40] = np.nan, np.inf
    with pytest.raises(ValueError, match=r'images \[17 40\] hold numbers that are not finite'):
        load(saved(tmp_path/'x.npy', x), ends=(0, 1))
    (tmp_path/'d').mkdir()
    for how in (dict(ends=(0, 1)), dict(axes='nchw')):
        with pytest.raises(ValueError, match='are of arrays'): load('digits', **how)
    with pytest.raises(ValueError, match='leave --size away'):
        load(saved(tmp_path/'x.npy', numbers(4, 8, 8)), size=(8, 8))

def test_it_is_read_whole_but_once(tmp_path, monkeypatch):
    path = saved(tmp_path/'x.npy', numbers(5, 8, 8))
    first = load(path).fingerprint()
    def read(*args): raise AssertionError('it was read again')
    monkeypatch.setattr(files, '_measured', read)
    monkeypatch.setattr(Images, 'hash_of_pixels', read)
    assert load(path).fingerprint()==first
    with pytest.raises(ValueError, match='it was read again'):
        load(saved(path, numbers(6, 8, 8)))

# ---------------------------------------------------------------- the command

HOW = ['--steps', '4', '--batch', '4', '--tracker', 'none', '--mixed-precision', 'no']

def latents() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 5, (64, 4, 8, 8)).astype(np.float32)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "Of latents"
    home = tmp_path_factory.mktemp('latents')
    data = saved(home/'latents.npy', latents())
    how = [*HOW, '--save-every', '2', '--range', 'auto', '--out', str(home/'run')]
    assert main(['train', str(data), *how])==0
    return home/'run'

def said(capsys, code: int, *args) -> str:
    capsys.readouterr()
    assert main([*map(str, args)])==code
    out = capsys.readouterr()
    return out.err if code==2 else out.out

def test_a_run_of_latents(run, capsys):
    ddpm, x = DDPM.from_pretrained(run), latents()
    assert not ddpm.clip_x0 and not ddpm.draws_pictures and ddpm.predicts=='v'
    low, high = ddpm.ends
    assert abs((low+high)/2-x.mean())<1e-4 and abs((high-low)/4-x.std())<1e-4
    names = {p.name for p in run.iterdir()}
    assert {'samples.npy', 'loss.png'}<=names and not {'samples.png', 'progressive.png'}&names
    drawn, preview = np.load(run/'samples.npy'), np.load(run/'previews'/'step-000000002.npy')
    assert (drawn.shape, preview.shape)==((16, 4, 8, 8), (8, 4, 8, 8))
    page = (run/'page.html').read_text()   # its numbers, and where the arrays are
    assert '<td>previews/step-000000002.npy</td>' in page and 'previews/"' not in page
    assert 'most of them from' in said(capsys, 0, 'info', run)
    card = model_card(run, 'me/latents')
    assert 'me/latents --out new.npy' in card and 'ddpm.in_units(x)' in card
    assert 'in [-1, 1]' not in card

def test_samples_come_back_in_the_units_of_the_data(run, tmp_path, capsys):
    out = tmp_path/'x.npy'
    said(capsys, 0, 'sample', run, '--out', out, '--n', 3, '--steps', 5, '--seed', 7)
    ddpm, x = DDPM.from_pretrained(run), np.load(out)
    (low, high), y = ddpm.ends, ddpm.using('ddpm', 5).sample(3, 7).numpy()
    assert x.dtype==np.float32 and np.allclose(x, low+(y+1)/2*(high-low), atol=1e-3)
    # of pictures, grey levels
    out = tmp_path/'digits.npy'
    said(capsys, 0, 'sample', 'digits', '--out', out, '--n', 2, '--steps', 5)
    assert (np.load(out).dtype, np.load(out).shape)==(np.uint8, (2, 1, 8, 8))

def test_what_makes_no_sense_is_refused(run, tmp_path, capsys):
    Image.new('L', (8, 8)).save(tmp_path/'a.png')
    a, data = tmp_path/'a.png', run.parent/'latents.npy'
    for out in ('x.png', 'folder'):
        assert '.npy' in said(capsys, 2, 'sample', run, '--out', tmp_path/out, '--n', 1)
        assert not (tmp_path/out).exists()
    no = 'draws 4 channels, and no pictures'
    x = tmp_path/'x.npy'
    assert no in said(capsys, 2, 'interpolate', run, a, a, '--out', x)
    assert no in said(capsys, 2, 'inpaint', run, a, a, '--out', x)
    assert no in said(capsys, 2, 'evaluate', run, data)
    assert 'such as x.png' in said(capsys, 2, 'sample', run, '--progressive', '--out', x)
    assert '--range auto' in said(capsys, 2, 'train', data, '--out', tmp_path/'y')
    for bad in ('1,0', '0', 'x,y', '0,inf', 'nan,1'):
        assert 'is no range' in said(
            capsys, 2, 'train', data, '--range', bad, '--out', tmp_path/'y')
    assert 'are of arrays' in said(
        capsys, 2, 'train', 'digits', '--range', '0,1', '--out', tmp_path/'y')
    assert not x.exists()

@pytest.mark.soak
def test_the_doctor_looks_at_latents(run, capsys):
    for data in ((), (run.parent/'latents.npy',)):
        text = said(capsys, 1, 'doctor', run, *data, '--samples', 2)
        assert 'nothing is clipped' in text and 'copies ' not in text
        assert 'found: loss' in text or 'found: rate' in text or 'found: number' in text
    assert Image.open(run/'doctor.png').size[0]>500

def test_a_run_of_latents_goes_on(run, tmp_path, capsys):
    data, out = run.parent/'latents.npy', tmp_path/'run'
    how = [*HOW[2:], '--save-every', '2', '--out', out]
    said(capsys, 0, 'train', data, '--range', 'auto', *how, '--steps', 3)
    told = json.loads((out/'train.json').read_text())
    assert (told['ends'], told['axes'])==('auto', None)
    said(capsys, 0, 'train', data, *how, '--resume', '--steps', 4)
    ours, theirs = (DDPM.from_pretrained(p) for p in (out, run))
    assert ours.ends==theirs.ends and ours.predicts==theirs.predicts
    assert 'begun with --range auto' in said(
        capsys, 2, 'train', data, *how, '--resume', '--range', '0,1')
    for bad in ('x', [1], [0., 'x'], 5):
        (out/'train.json').write_text(json.dumps(told | {'ends': bad}))
        assert 'damaged (ends' in said(capsys, 2, 'train', data, *how, '--resume')

def test_measurements_are_pictures_too(tmp_path, capsys):
    "Floats of a stated range, with everything that pictures have"
    k = np.random.default_rng(0).random((48, 3, 3)).repeat(4, 1).repeat(4, 2)
    data, out = saved(tmp_path/'k.npy', (280+30*k).astype(np.float32)), tmp_path/'run'
    text = said(capsys, 0, 'train', data, '--range', '280,310', *HOW, '--out', out)
    assert '48 images, 12 x 12, grey' in text and (out/'progressive.png').exists()
    ddpm = DDPM.from_pretrained(out)
    assert ddpm.ends==(280, 310) and ddpm.clip_x0 and ddpm.draws_pictures
    said(capsys, 0, 'sample', out, '--out', tmp_path/'x.png', '--n', 1, '--steps', 3)
    said(capsys, 0, 'sample', out, '--out', tmp_path/'x.npy', '--n', 2, '--steps', 3)
    x = np.load(tmp_path/'x.npy')
    assert 280<=x.min()<x.max()<=310 and x.max()-x.min()>1
    assert '48 images' in said(capsys, 1, 'doctor', out, data, '--out', tmp_path/'d.png')
    eight = files.in_8_bits(load(data, ends=(280, 310)))
    assert torch.allclose(to_model(eight[:]), load(data, ends=(280, 310))[:], atol=1/255+1e-6)

def test_labels_that_were_mended_are_seen(tmp_path):
    x = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    for labels in ([0, 1, 0, 1], [1, 1, 0, 0]):
        np.savez(tmp_path/'x.npz', images=x, labels=np.array(labels))
        eight = files.in_8_bits(load(tmp_path/'x.npz', ends=(0, 1)))
        assert [*eight.labels]==labels

def test_a_damaged_range_of_a_model(run, tmp_path):
    index = run/'model_index.json'
    told = json.loads(index.read_text())
    try:
        for bad in ([1, 0], [1], 'ab', [0, 'x'], 5, [0, float('inf')], [float('nan'), 1]):
            index.write_text(json.dumps(told | {'data_range': bad}))
            with pytest.raises(ValueError, match='model_index.json'): DDPM.from_pretrained(run)
    finally: index.write_text(json.dumps(told))

def test_augmented_arrays_keep_their_units(tmp_path):
    x = saved(tmp_path/'x.npy', latents())
    ddpm = design('tiny', (4, 8, 8), predicts='v')[0]
    ddpm.clip_x0 = False
    data = Items(load(x, ends='auto'), lambda x: x.flip(-1))
    trained = train(ddpm, data, Recipe(steps=2, batch=4, warmup=1))
    assert trained.ends==load(x, ends='auto').ends
    assert torch.equal(data[[3]], load(x, ends='auto')[[3]].flip(-1))

@pytest.mark.soak
def test_judged_by_the_numbers_as_they_were_read(tmp_path, capsys):
    "12 bits in 16, and a file that is left out"
    few = '--preset tiny --steps 2 --batch 2 --tracker none --channels 8 --judge 20'.split()
    x = np.random.default_rng(0).integers(0, 4096, (80, 1, 8, 8), np.uint16)
    rows = []
    for name, array, ends in ('of_12', x, '0,4095'), ('of_8', x//16, '0,255'):
        path = saved(tmp_path/f'{name}.npy', array.astype(np.uint16))
        said(capsys, 0, 'train', path, '--range', ends, '--out', tmp_path/name, *few)
        rows.append((tmp_path/name/'distance.csv').read_text().split(',')[-1])
    assert abs(float(rows[0])/float(rows[1])-1)<.05
    bad = images(tmp_path/'bad', 90, (8, 8))
    (bad/'broken.png').write_bytes(b'no picture')
    run = tmp_path/'of_bad'
    said(capsys, 0, 'train', bad, '--skip-bad', '--out', run, *few)
    said(capsys, 0, 'evaluate', run, bad, '--n', 20, '--steps', 2)
    assert '90 images' in said(capsys, 1, 'doctor', run, bad, '--out', tmp_path/'d.png')
    moved = bad.rename(tmp_path/'moved')
    judged = said(capsys, 0, 'evaluate', run, moved, '--n', 20, '--steps', 2)
    assert '90 images, 8 x 8, grey, 1 file left out' in judged
    assert '90 images' in said(capsys, 1, 'doctor', run, moved, '--out', tmp_path/'d.png')

def test_no_picture_is_made_of_five_channels(tmp_path, capsys):
    path = saved(tmp_path/'five.npy', numbers(6, 5, 8, 8))
    few = '--preset tiny --steps 2 --batch 2 --tracker none --channels 8'.split()
    told = said(capsys, 0, 'train', path, '--condition', 'half', '--out', tmp_path/'run', *few)
    assert not (tmp_path/'run'/'given.png').exists()
    # it is given an array, as the command says that is printed
    words = told.splitlines()[-1].split('ddpm_lit ')[1].replace('data.npy', str(path)).split()
    out = tmp_path/'more.npy'
    said(capsys, 0, *words[:-4], '--out', out, '--n', 2, '--steps', 3)
    assert np.load(out).shape==(2, 5, 8, 8)
    Image.new('L', (8, 8)).save(tmp_path/'a.png')
    assert 'give it a .npy' in said(
        capsys, 2, 'sample', tmp_path/'run', '--given', tmp_path/'a.png',
        '--out', tmp_path/'new.npy')

def test_numbers_outside_of_the_range_may_be_given(tmp_path, capsys):
    "Two standard deviations leave some out, also of what the run was trained on"
    normal = np.random.default_rng(0).standard_normal((40, 2, 8, 8)).astype(np.float32)
    data, run = saved(tmp_path/'x.npy', normal), tmp_path/'run'
    few = '--preset tiny --steps 1 --batch 4 --tracker none'.split()
    said(capsys, 0, 'train', data, '--range', 'auto', '--axes', 'nchw', '--condition', 'half',
        *few, '--out', run)
    said(capsys, 0, 'sample', run, '--n', 2, '--steps', 2, '--given', data,
        '--out', tmp_path/'two.npy')
    assert np.load(tmp_path/'two.npy').shape==(2, 2, 8, 8)
