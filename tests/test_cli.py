"The command `ddpm_lit` as a user types it: real images in, pictures out, and one sentence for every mistake."
import json, pickle, re, shutil, signal, subprocess, time, warnings
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path
import nbformat, numpy as np, pytest, torch
from PIL import Image
from conftest import root
from helpers import COMMAND, cache_home, data_dir, fingerprint, images, run
from ddpm_lit import DDPM
from ddpm_lit.cli import main
from ddpm_lit.training import checkpoints, read_log

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Runs in this process draw their last pictures in ten steps"
    whole = DDPM.progressive; monkeypatch.setattr(DDPM, 'progressive', lambda self, *args, **kw: whole(self.using('ddpm', 10), *args, **kw))

@pytest.fixture(scope='module')
def small_run(tmp_path_factory):
    "A finished run on 24 x 40 grey images"
    home = tmp_path_factory.mktemp('small')
    r = run('train', images(home/'images', 200), '--preset', 'tiny', '--steps', 60, '--batch', 8, '--save-every', 30, '--out', home/'run')
    assert r.returncode==0, r.stderr
    return home/'run'

def check_pictures(run: Path, shape, steps):
    c, h, w = shape; ddpm = DDPM.from_pretrained(run); rows = read_log(run/'log.csv')
    assert ddpm.shape==shape and rows[-1]['step']==steps//10*10 and rows[-1]['loss']<.8*rows[0]['loss']
    k = -(-64//min(h, w)); assert Image.open(run/'samples.png').size==(4*(k*w+2)+2, 4*(k*h+2)+2)
    for f in ('progressive.png', 'loss.png'): assert Image.open(run/f).size[0]>300
    x = ddpm.using('ddpm', 10).sample(2); assert x.shape==(2, c, h, w) and -1<=x.min() and x.max()<=1

def test_train_on_a_folder_of_grey_24x40_images(small_run):
    check_pictures(small_run, (1, 24, 40), 60)
    assert [p.name for p in checkpoints(small_run)]==['step-000000060.safetensors', 'step-000000030.safetensors']
    assert (small_run/'previews'/'step-000000030.png').exists()

@pytest.mark.parametrize('name,shape', dict(mnist=(1, 28, 28), cifar10=(3, 32, 32), celeba=(3, 32, 32)).items())
def test_train_on_real_images(tmp_path, name, shape):
    assert main(['train', name, '--preset', 'tiny', '--steps', '30', '--batch', '8', '--data-dir', str(data_dir()), '--out', str(tmp_path/'run'), *['--size', '32']*(name=='celeba')])==0
    check_pictures(tmp_path/'run', shape, 30)

def test_samples_are_the_same_for_the_same_seed(small_run, tmp_path):
    for name, n in dict(a=16, b=16, c=4, d=1).items(): assert main(['sample', str(small_run), '--n', str(n), '--seed', '5', '--out', str(tmp_path/name), '--steps', '10'])==0
    read = lambda d: {p.name: p.read_bytes() for p in (tmp_path/d).iterdir()}
    assert read('a')==read('b') and len(read('a'))==16 and read('a').items()>=read('c').items()>=read('d').items() and [*read('d')]==['000005.png']
    im = Image.open(tmp_path/'a'/'000005.png'); assert (im.size, im.mode)==((40, 24), 'L')
    for f in ('x.png', 'y.png'): assert main(['sample', str(small_run), '--n', '4', '--out', str(tmp_path/f), '--steps', '20'])==0
    assert (tmp_path/'x.png').read_bytes()==(tmp_path/'y.png').read_bytes()
    assert main(['sample', str(small_run), '--n', '2', '--progressive', '--out', str(tmp_path/'p.png')])==0

def test_info(small_run, capsys):
    assert main(['info', str(small_run)])==0
    said = capsys.readouterr().out
    assert '24 x 40 pixels, grey' in said and '60 of 60 steps' in said and 'T = 100' in said

def test_demo_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    from dataclasses import replace
    from ddpm_lit import training
    draw = DDPM.sample; monkeypatch.setattr(DDPM, 'sample', lambda self, n=16, seed=0, batch=None: draw(self, min(n, 20), seed, batch or 20))   # not five hundred
    *net, recipe = training.PRESETS['tiny']; monkeypatch.setitem(training.PRESETS, 'tiny', (*net, replace(recipe, steps=20)))
    for _ in range(2):
        assert main(['demo', '--out', str(tmp_path/'demo')])==0
        said = capsys.readouterr().out
        assert 'sure of' in said and 'equal a training image' in said and 's in all' in said
    for f in ('samples.png', 'progressive.png', 'loss.png', 'model_index.json'): assert (tmp_path/'demo'/f).exists()

def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    args = ['train', 'digits', '--preset', 'tiny', '--steps', '100000', '--batch', '8', '--out', str(tmp_path/'run')]
    p = subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (log := tmp_path/'run'/'log.csv').exists() or len(log.read_text().splitlines())<3: time.sleep(.1); assert p.poll() is None
    p.send_signal(signal.SIGINT); out, err = p.communicate(timeout=600)
    assert p.returncode==130 and '--resume' in err and 'Traceback' not in err and len(checkpoints(tmp_path/'run'))==1
    step = int(checkpoints(tmp_path/'run')[0].stem.split('-')[1])
    assert main(['train', 'digits', '--out', str(tmp_path/'run'), '--resume', '--steps', str(step+5)])==0
    assert DDPM.from_pretrained(tmp_path/'run').shape==(1, 8, 8)

# ---------------------------------------------------------------- mistakes
def refused(capsys, home: Path, *args) -> str:
    "Exit code 2, one line, and nothing changed; returns the line"
    before = fingerprint(home); capsys.readouterr()
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); code = main([*map(str, args)])   # advice, not the refusal
    said = capsys.readouterr()
    assert code==2 and said.err.count('\n')==1 and 'Traceback' not in said.err, said.err
    assert fingerprint(home)==before
    return said.err

def test_wrong_arguments(tmp_path, capsys):
    (tmp_path/'file').write_text('precious'); images(tmp_path/'good', 3)
    no = lambda *a: refused(capsys, tmp_path, *a)
    assert 'neither' in no('train', tmp_path/'missing', '--out', tmp_path/'x')
    (tmp_path/'empty').mkdir(); assert 'no images' in no('train', tmp_path/'empty', '--out', tmp_path/'x')
    assert '--steps' in no('train', 'digits', '--out', tmp_path/'x', '--steps', -1)
    assert 'is a file' in no('train', 'digits', '--out', tmp_path/'file')
    assert 'not empty' in no('train', 'digits', '--out', tmp_path/'good')
    assert 'celebahq' in no('train', 'digits', '--out', tmp_path/'x', '--preset', 'huge')
    assert '--out' in no('train', 'digits')
    assert 'not a size' in no('train', tmp_path/'good', '--out', tmp_path/'x', '--size', '3by4')
    assert 'one size' in no('train', 'digits', '--out', tmp_path/'x', '--size', '16')
    assert 'no run' in no('train', 'digits', '--out', tmp_path/'x', '--resume')
    assert 'digits' in no('sample', tmp_path/'missing', '--out', tmp_path/'x.png')
    assert 'model_index.json' in no('sample', tmp_path/'good', '--out', tmp_path/'x.png')
    assert 'is a file' in no('sample', 'digits', '--out', tmp_path/'file')
    assert 'png' in no('sample', 'digits', '--out', tmp_path/'y', '--progressive')
    assert 'neither a folder nor a zip' in no('train', tmp_path/'file', '--out', tmp_path/'x')
    assert 'No such command' in no('trian')
    assert '2048x2048' in no('train', tmp_path/'good', '--out', tmp_path/'x', '--size', '100000x100000')
    assert 'DATA is empty' in no('train', '', '--out', tmp_path/'x')
    assert '--batch' in no('train', 'digits', '--out', tmp_path/'x', '--batch', 10**9)
    assert 'too many for one picture' in no('sample', 'digits', '--out', tmp_path/'x.png', '--n', 10**6)

@pytest.mark.parametrize('spoil,says', [
    (lambda d: (d/'notes.png').write_text('not a picture'), 'notes.png is not a readable image'),
    (lambda d: (d/'cut.png').write_bytes((d/'0000.png').read_bytes()[:-150]), 'cut.png cannot be decoded'),
    (lambda d: Image.fromarray(np.full((24, 40), 60000, np.uint16)).save(d/'deep.tif'), 'deep.tif has more than 8 bits')])
def test_files_that_do_not_fit(tmp_path, capsys, spoil, says):
    d = images(tmp_path/'d', 5); spoil(d)
    assert says in refused(capsys, tmp_path, 'train', d, '--out', tmp_path/'x')

def test_sizes_that_cannot_be_halved(tmp_path, capsys):
    d = images(tmp_path/'d', 5, size=(25, 41)); assert '--size 24x40' in refused(capsys, tmp_path, 'train', d, '--out', tmp_path/'x', '--size', '25x41')
    assert main(['train', str(d), '--out', str(tmp_path/'x'), '--preset', 'tiny', '--steps', '2', '--batch', '2'])==0 and DDPM.from_pretrained(tmp_path/'x').shape==(1, 24, 40)

def test_damaged_models(small_run, tmp_path, capsys):
    m = tmp_path/'m'; shutil.copytree(small_run, m); weights = m/'unet'/'diffusion_pytorch_model.safetensors'; good = weights.read_bytes()
    no = lambda: refused(capsys, tmp_path, 'sample', m, '--out', tmp_path/'x.png')
    weights.write_bytes(good[:len(good)//2]); assert 'cut short' in no()
    weights.write_bytes(pickle.dumps({'a': 1})); assert 'not a safetensors file' in no()
    weights.write_bytes(good[:-5]+bytes([good[-5]^1])+good[-4:]); assert 'checksum' in no()
    weights.unlink(); assert 'missing' in no()
    weights.write_bytes(good); (m/'unet'/'config.json').write_text('{'); assert 'JSON' in no()

def test_damaged_checkpoints(small_run, tmp_path, capsys):
    m = tmp_path/'m'; shutil.copytree(small_run, m); data = small_run.parent/'images'
    for p in checkpoints(m): p.write_bytes(p.read_bytes()[:p.stat().st_size//2])
    assert 'no checkpoint that can be read' in refused(capsys, tmp_path, 'train', data, '--out', m, '--resume')
    shutil.copy(checkpoints(small_run)[1], checkpoints(m)[1])   # the one before is whole again
    assert main(['train', str(data), '--out', str(m), '--resume'])==0
    for a, b in zip(DDPM.from_pretrained(m).unet.parameters(), DDPM.from_pretrained(small_run).unet.parameters()): assert torch.equal(a, b)

def test_a_run_is_not_overwritten(small_run, capsys):
    data = small_run.parent/'images'
    assert '--resume' in refused(capsys, small_run, 'train', data, '--out', small_run)
    assert 'batch' in refused(capsys, small_run, 'train', data, '--out', small_run, '--resume', '--batch', 4)
    assert 'data' in refused(capsys, small_run, 'train', 'digits', '--out', small_run, '--resume')

def test_resume_without_checkpoints_keeps_the_model(small_run, tmp_path, capsys):
    m = tmp_path/'m'; shutil.copytree(small_run, m); shutil.rmtree(m/'checkpoints'); data = small_run.parent/'images'
    assert 'no checkpoint to go on from' in refused(capsys, tmp_path, 'train', data, '--out', m, '--resume', '--steps', 70)
    assert 'already at' in refused(capsys, small_run, 'train', data, '--out', small_run, '--resume', '--steps', 5).replace('is at step 60 already', 'already at')

def test_other_files_beside_the_checkpoints(small_run, tmp_path):
    m = tmp_path/'m'; shutil.copytree(small_run, m); best = m/'checkpoints'/'step-best.safetensors'; shutil.copy(checkpoints(m)[0], best)
    (m/'checkpoints'/'.step-000000001.safetensorsabc').write_bytes(b'half')
    assert main(['train', str(small_run.parent/'images'), '--out', str(m), '--resume', '--steps', '63'])==0
    assert [p.stem for p in checkpoints(m)]==['step-000000063', 'step-000000060'] and best.exists() and not list((m/'checkpoints').glob('.step-*'))

def test_pictures_do_not_become_data(tmp_path, capsys):
    d = images(tmp_path/'d', 4); assert 'would become data' in refused(capsys, tmp_path, 'train', d, '--out', d/'run')
    (tmp_path/'link').symlink_to(d); assert 'would become data' in refused(capsys, tmp_path, 'train', d, '--out', tmp_path/'link'/'run')

def test_pictures_do_not_follow_links(tmp_path):
    (tmp_path/'precious').write_text('mine'); (tmp_path/'out').mkdir(); (tmp_path/'out'/'000000.png').symlink_to(tmp_path/'precious')
    assert main(['sample', 'digits', '--n', '1', '--steps', '5', '--out', str(tmp_path/'out')])==0 and (tmp_path/'precious').read_text()=='mine'
    assert Image.open(tmp_path/'out'/'000000.png').size==(8, 8) and not (tmp_path/'out'/'000000.png').is_symlink()

@pytest.mark.parametrize('key,value', dict(batch=10**9, seed=2**63, size=['8', 8], data_dir=5, steps='3').items())
def test_a_damaged_train_json(tmp_path, capsys, key, value):
    run = tmp_path/'run'; run.mkdir(); options = dict(data='digits', preset='tiny', steps=2, batch=2, seed=0, size=None, flip=True, data_dir=None)
    (run/'train.json').write_text(json.dumps(options | {key: value})); assert f'damaged ({key}' in refused(capsys, tmp_path, 'train', 'digits', '--out', run, '--resume')

# ---------------------------------------------------------------- the book
def test_notebooks(tmp_path, capsys):
    "A copy whose links lead somewhere, which needs nothing that only developers have, and is never written over another"
    book = tmp_path/'my'/'book'; assert main(['notebooks', str(book)])==0 and f'jupyter lab {book/"index.ipynb"}' in capsys.readouterr().out
    assert {p.name for p in book.glob('*.ipynb')}=={p.name for p in (root/'nbs').glob('*.ipynb')}
    config = ConfigParser(delimiters=['=']); config.read(root/'settings.ini'); names = lambda k: {re.split('[<>=]', r)[0] for r in config['DEFAULT'][k].split()}
    developers, owners = names('dev_requirements')-names('notebooks_requirements'), packages_distributions()
    for p in book.glob('*.ipynb'):
        nb = nbformat.read(p, 4); nbformat.validate(nb)
        for c in nb.cells:
            if c.cell_type=='markdown':
                for link in re.findall(r'\]\(([\w./-]+\.\w+)(?:#[^)]*)?\)', c.source): assert (book/link).exists(), f'{p.name}: {link} leads nowhere'
            else:
                for name in re.findall(r'^\s*(?:import|from) (\w+)', c.source, re.M): assert not developers & {*owners.get(name, [])}, f'{p.name} needs {name}'
    no = lambda *a: refused(capsys, tmp_path, 'notebooks', *a)
    assert 'is there already' in no(book) and 'is there already' in no(book/'index.ipynb')
    (tmp_path/'empty').mkdir(); assert main(['notebooks', str(tmp_path/'empty'), '--quick'])==0 and not any('"#| slow' in p.read_text(encoding='utf-8') for p in (tmp_path/'empty').glob('*.ipynb'))
