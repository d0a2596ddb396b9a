"Damage in each place of a run is found and said in one line: the checkpoint before is used, or the file is named. `tests/test_fuzz.py` has more."
import json, os, shutil
from pathlib import Path
import pytest, safetensors.torch, torch
from PIL import Image
from helpers import images
from ddpm_lit import DDPM
from ddpm_lit.checkpoints import load_tensors, save_tensors
from ddpm_lit.workshop.cli import main
from ddpm_lit.data import load
from ddpm_lit.forward import Schedule
from ddpm_lit.training import Recipe, checkpoints, train
from ddpm_lit.unet import UNet

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp()/'cache'))

def loads(f: Path, data: bytes) -> bool:
    f.write_bytes(data)
    try: load_tensors(f)
    except ValueError: return False
    return True

def test_no_flipped_bit_goes_unnoticed(tmp_path):
    "Each bit, those of the checksum's name too; and bytes of the table made another letter of its alphabet"
    f = tmp_path/'x.safetensors'
    tensors = {'adam.a': torch.arange(4.).view(2, 2), 'b': torch.ones(1, dtype=torch.float16), 'c': torch.zeros(())}
    save_tensors(f, tensors, {'step': '7', 'settings': json.dumps({'seed': 0})})
    good = f.read_bytes()
    table = range(8, 8+int.from_bytes(good[:8], 'little'))
    changes = [(i, b^1<<k) for i, b in enumerate(good) for k in range(8)]
    changes += [(i, b) for i in table[::3] for b in b'0289FIU",} ' if b!=good[i]]
    assert loads(f, good)
    assert [c for c in changes if loads(f, good[:c[0]]+bytes([c[1]])+good[c[0]+1:])]==[]
    assert [n for n in range(len(good)) if loads(f, good[:n])]==[]

def test_files_of_others_need_no_checksum(tmp_path):
    "They load; one of ours does not when the name of its checksum is damaged in several letters"
    f, x = tmp_path/'x.safetensors', {'a': torch.ones(3)}
    for meta in (None, {'format': 'pt'}, {'format': 'pt', 'model_sha256': 64*'0', 'writer': 'somebody'}):
        safetensors.torch.save_file(x, f, meta)
        assert torch.equal(load_tensors(f)[0]['a'], x['a'])
    save_tensors(f, x)
    assert not loads(f, f.read_bytes().replace(b'ddpm_lit_sha256', b'ddpm#lit_s@a2%6'))

@pytest.mark.parametrize('dtype', [torch.bool, torch.int8, torch.int64, torch.complex64])
def test_weights_are_numbers_with_a_fraction(home, tmp_path, dtype):
    m = tmp_path/'m'
    shutil.copytree(home/'run', m)
    file = m/PLACES[-1]
    tensors, meta = load_tensors(file)
    save_tensors(file, {**tensors, 'conv_in.bias': tensors['conv_in.bias'].to(dtype)}, meta)
    with pytest.raises(ValueError, match=f'conv_in.bias is {dtype}'): DDPM.from_pretrained(m)

def a_run(out, data, steps=3, resume=False, **change):
    torch.manual_seed(0); unet = UNet((8, 8), 1, channels=8, multipliers=(1, 2), attention=(4,), res_blocks=1)
    return train(DDPM(unet, Schedule.cosine(10)), data, Recipe(**{**dict(steps=steps, batch=2, warmup=0, ema_decay=.5), **change}), out, resume, save_every=1)

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Three runs: of 3 steps, the same with one more, and of 3 steps with another seed"
    home = tmp_path_factory.mktemp('home'); os.environ['XDG_CACHE_HOME'] = str(home/'cache'); data = load(images(home/'data', 4, (8, 8)))
    for name, change in dict(run={}, longer=dict(steps=4), other=dict(seed=1)).items(): a_run(home/name, data, **change)
    return home

def pipe(p): p.unlink(); os.mkfifo(p)
def folder(p): p.unlink(); p.mkdir()
def loop(p): p.unlink(); p.symlink_to(p.name)
def endless(p): p.unlink(); p.symlink_to('/dev/zero')
def flip(p): b = bytearray(p.read_bytes()); b[len(b)//2] ^= 1; p.write_bytes(b)
def cut(p): p.write_bytes(p.read_bytes()[:-1])
def empty(p): p.write_bytes(b'')
def picture(p): Image.new('L', (8, 8)).save(p, 'PNG')
def older(p): shutil.copy(checkpoints(p.parents[1])[1], p)
def model(p): shutil.copy(p.parents[1]/'unet'/'diffusion_pytorch_model.safetensors', p)
def of_another_run(p): shutil.copy(p.parents[2]/'other'/'checkpoints'/p.name, p)
def of_another_network(p): x, m = load_tensors(p); save_tensors(p, {k: v[:1] for k, v in x.items() if v.ndim}, m)
def of_other_settings(p): x, m = load_tensors(p); save_tensors(p, x, {**m, 'settings': 'null'})
def missing(p): p.unlink()

@pytest.mark.parametrize('damage', [flip, cut, empty, picture, older, model, pipe, loop, endless, of_another_run, of_another_network, of_other_settings])
def test_the_checkpoint_before_is_used(home, capsys, damage):
    run, data = home/damage.__name__, load(home/'data'); shutil.copytree(home/'run', run); newest, before = checkpoints(run); damage(newest); capsys.readouterr()
    a_run(run, data, steps=4, resume=True)
    said = [l for l in capsys.readouterr().out.splitlines() if 'the one before' in l]; assert len(said)==1 and newest.name in said[0], said
    a, b = (load_tensors(checkpoints(r)[0])[0] for r in (run, home/'longer')); assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

PLACES = ['model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json', 'unet/diffusion_pytorch_model.safetensors']
@pytest.mark.parametrize('place', PLACES)
def test_a_damaged_model_is_refused_by_name(home, capsys, tmp_path, place):
    for damage in (cut, empty, picture, missing, pipe, folder, loop, endless):
        m = tmp_path/damage.__name__; shutil.copytree(home/'run', m); damage(m/place); capsys.readouterr()
        assert main(['sample', str(m), '--n', '1', '--out', str(tmp_path/'x.png')])==2
        err = capsys.readouterr().err; assert err.count('\n')==1 and place.split('/')[-1] in err, (damage.__name__, err)

@pytest.mark.parametrize('file,key,value', [('unet/config.json', k, v) for k, v in dict(block_out_channels=[10**6]*2, sample_size=10**5, layers_per_block=10**4, in_channels=10**9).items()] + [
    ('scheduler/scheduler_config.json', k, v) for k, v in dict(num_train_timesteps=10**9, beta_end=float('nan'), trained_betas=[[.1, .1]]*10).items()])
def test_what_no_memory_holds_is_refused_by_name(home, tmp_path, file, key, value):
    m = tmp_path/'m'; shutil.copytree(home/'run', m); d = json.loads((m/file).read_text()); (m/file).write_text(json.dumps({**d, key: value}))
    with pytest.raises(ValueError, match=f'config.json: {key}=.* is not possible'): DDPM.from_pretrained(m)

@pytest.mark.parametrize('damage', [cut, flip, empty, picture, missing, pipe, loop, endless])
def test_damage_to_the_model_does_not_stop_a_run(home, tmp_path, damage):
    "It is written anew from the checkpoint"
    run = tmp_path/'run'
    shutil.copytree(home/'run', run)
    for place in PLACES[1:]: damage(run/place)
    trained = a_run(run, load(home/'data'), steps=4, resume=True)
    want, saved = (DDPM.from_pretrained(d) for d in (home/'longer', run))
    for a, b, c in zip(*(m.unet.parameters() for m in (trained, want, saved))):
        assert torch.equal(a, b) and torch.equal(b, c)

def test_more_channels_than_a_picture_has(tmp_path, capsys):
    DDPM(UNet((8, 8), 5, channels=8, multipliers=(1, 2), attention=(), res_blocks=1), Schedule.cosine(3)).save_pretrained(tmp_path/'m')
    assert main(['sample', str(tmp_path/'m'), '--out', str(tmp_path/'x.png')])==2 and '5 channels' in capsys.readouterr().err
