"""Damage in each place of a run is found and said in one line: the checkpoint before is used,
or the file is named. `tests/test_fuzz.py` has more."""
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from ddpm_lit import DDPM
from ddpm_lit.workshop.files import load
from ddpm_lit.forward import Schedule
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import checkpoints, train
from ddpm_lit.unet import UNet
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.weights import load_tensors, save_tensors
from helpers import images

PLACES = ['model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json',
    'unet/diffusion_pytorch_model.safetensors']

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp()/'cache'))

# ---------------------------------------------------------------- a file of tensors

def loads(file: Path, data: bytes) -> bool:
    file.write_bytes(data)
    try: load_tensors(file)
    except ValueError: return False
    return True

def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Each bit, those of the checksum's name too; and bytes of the table made another letter
    of its alphabet"""
    file = tmp_path/'x.safetensors'
    tensors = {'adam.a': torch.arange(4.).view(2, 2), 'b': torch.ones(1, dtype=torch.float16),
        'c': torch.zeros(())}
    save_tensors(file, tensors, {'step': '7', 'settings': json.dumps({'seed': 0})})
    good = file.read_bytes()
    assert loads(file, good)
    def changed(i, byte): return good[:i] + bytes([byte]) + good[i+1:]
    flipped = [(i, byte^1<<k) for i, byte in enumerate(good) for k in range(8)]
    assert [c for c in flipped if loads(file, changed(*c))]==[]
    table = range(8, 8+int.from_bytes(good[:8], 'little'))
    letters = [(i, byte) for i in table[::3] for byte in b'0289FIU",} ' if byte!=good[i]]
    assert [c for c in letters if loads(file, changed(*c))]==[]
    assert [n for n in range(len(good)) if loads(file, good[:n])]==[]

def test_files_of_others_need_no_checksum(tmp_path):
    """They load; one of ours does not when the name of its checksum is damaged
    in several letters"""
    file, x = tmp_path/'x.safetensors', {'a': torch.ones(3)}
    other = {'format': 'pt', 'model_sha256': 64*'0', 'writer': 'somebody'}
    for meta in (None, {'format': 'pt'}, other):
        safetensors.torch.save_file(x, file, meta)
        assert torch.equal(load_tensors(file)[0]['a'], x['a'])
    save_tensors(file, x)
    assert not loads(file, file.read_bytes().replace(b'ddpm_lit_sha256', b'ddpm#lit_s@a2%6'))

# ---------------------------------------------------------------- runs

def a_run(out, data, steps=3, resume=False, seed=0):
    torch.manual_seed(0)
    unet = UNet((8, 8), 1, channels=8, multipliers=(1, 2), attention=(4,), res_blocks=1)
    recipe = Recipe(steps=steps, batch=2, warmup=0, ema_decay=.5, seed=seed)
    return train(DDPM(unet, Schedule.cosine(10)), data, recipe, out, resume, save_every=1)

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Three runs: of 3 steps, the same with one more, and of 3 steps with another seed"
    home = tmp_path_factory.mktemp('home')
    os.environ['XDG_CACHE_HOME'] = str(home/'cache')
    data = load(images(home/'data', 4, (8, 8)))
    a_run(home/'run', data)
    a_run(home/'longer', data, steps=4)
    a_run(home/'other', data, seed=1)
    return home

@pytest.fixture
def copy(home, tmp_path):
    "A copy of the first run"
    return Path(shutil.copytree(home/'run', tmp_path/'copy'))

def newest(run: Path) -> Path: return checkpoints(run)[0]

# ---------------------------------------------------------------- ways to damage a file

def cut(file): file.write_bytes(file.read_bytes()[:-1])
def empty(file): file.write_bytes(b'')
def missing(file): file.unlink()
def picture(file): Image.new('L', (8, 8)).save(file, 'PNG')

def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data)//2] ^= 1
    file.write_bytes(data)

def pipe(file):
    file.unlink()
    os.mkfifo(file)

def folder(file):
    file.unlink()
    file.mkdir()

def loop(file):
    file.unlink()
    file.symlink_to(file.name)

def endless(file):
    file.unlink()
    file.symlink_to('/dev/zero')

# of a checkpoint: what is whole, but not this

def older(file): shutil.copy(checkpoints(file.parents[1])[1], file)
def model(file): shutil.copy(file.parents[1]/PLACES[-1], file)

def of_another_network(file):
    tensors, meta = load_tensors(file)
    save_tensors(file, {k: v[:1] for k, v in tensors.items() if v.ndim}, meta)

def of_other_settings(file):
    tensors, meta = load_tensors(file)
    save_tensors(file, tensors, {**meta, 'settings': 'null'})

# ---------------------------------------------------------------- found, and said

def goes_on_from_the_one_before(home, run, capsys):
    "A run whose newest checkpoint is damaged"
    name = newest(run).name
    capsys.readouterr()
    a_run(run, load(home/'data'), steps=4, resume=True)
    said = [l for l in capsys.readouterr().out.splitlines() if 'the one before' in l]
    assert len(said)==1 and name in said[0], said
    (a, _), (b, _) = (load_tensors(newest(r)) for r in (run, home/'longer'))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('damage', [flip, cut, empty, picture, older, model, pipe, loop,
    endless, of_another_network, of_other_settings])
def test_the_checkpoint_before_is_used(home, copy, capsys, damage):
    damage(newest(copy))
    goes_on_from_the_one_before(home, copy, capsys)

def test_the_checkpoint_before_that_of_another_run_is_used(home, copy, capsys):
    shutil.copy(newest(home/'other'), newest(copy))
    goes_on_from_the_one_before(home, copy, capsys)

@pytest.mark.parametrize('damage', [cut, empty, picture, missing, pipe, folder, loop, endless])
@pytest.mark.parametrize('place', PLACES)
def test_a_damaged_model_is_refused_by_name(copy, capsys, tmp_path, place, damage):
    damage(copy/place)
    capsys.readouterr()
    assert main(['sample', str(copy), '--n', '1', '--out', str(tmp_path/'x.png')])==2
    err = capsys.readouterr().err
    assert err.count('\n')==1 and Path(place).name in err, err

TOO_MUCH = [
    ('unet/config.json', 'block_out_channels', [10**6]*2),
    ('unet/config.json', 'sample_size', 10**5),
    ('unet/config.json', 'layers_per_block', 10**4),
    ('unet/config.json', 'in_channels', 10**9),
    ('scheduler/scheduler_config.json', 'num_train_timesteps', 10**9),
    ('scheduler/scheduler_config.json', 'beta_end', float('nan')),
    ('scheduler/scheduler_config.json', 'trained_betas', [[.1, .1]]*10)]

@pytest.mark.parametrize('file,option,value', TOO_MUCH)
def test_what_no_memory_holds_is_refused_by_name(copy, file, option, value):
    config = json.loads((copy/file).read_text())
    (copy/file).write_text(json.dumps({**config, option: value}))
    with pytest.raises(ValueError, match=f'config.json: {option}=.* is not possible'):
        DDPM.from_pretrained(copy)

@pytest.mark.parametrize('dtype', [torch.bool, torch.int8, torch.int64, torch.complex64])
def test_weights_are_numbers_with_a_fraction(copy, dtype):
    file = copy/PLACES[-1]
    tensors, meta = load_tensors(file)
    bias = tensors['conv_in.bias'].to(dtype)
    save_tensors(file, {**tensors, 'conv_in.bias': bias}, meta)
    with pytest.raises(ValueError, match=f'conv_in.bias is {dtype}'):
        DDPM.from_pretrained(copy)

@pytest.mark.parametrize('damage', [cut, flip, empty, picture, missing, pipe, loop, endless])
def test_damage_to_the_model_does_not_stop_a_run(home, copy, damage):
    "It is written anew from the checkpoint"
    for place in PLACES[1:]: damage(copy/place)
    trained = a_run(copy, load(home/'data'), steps=4, resume=True)
    want, saved = (DDPM.from_pretrained(d) for d in (home/'longer', copy))
    for a, b, c in zip(*(m.unet.parameters() for m in (trained, want, saved))):
        assert torch.equal(a, b) and torch.equal(b, c)

def test_a_picture_that_is_no_name(tmp_path):
    DDPM.from_pretrained('digits').save_pretrained(tmp_path)
    index = tmp_path/'model_index.json'
    index.write_text(json.dumps(json.loads(index.read_text()) | dict(picture=['grey'])))
    with pytest.raises(ValueError, match='should be a name'): DDPM.from_pretrained(tmp_path)

def test_more_channels_than_a_picture_has(tmp_path, capsys):
    unet = UNet((8, 8), 5, channels=8, multipliers=(1, 2), attention=(), res_blocks=1)
    DDPM(unet, Schedule.cosine(3)).save_pretrained(tmp_path/'m')
    assert main(['sample', str(tmp_path/'m'), '--out', str(tmp_path/'x.png')])==2
    assert '5 channels' in capsys.readouterr().err
