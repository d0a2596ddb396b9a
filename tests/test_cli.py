"""The command `ddpm_lit` as a user types it: real images in, pictures out, and one sentence
for every mistake."""
import errno, io, json, os, pickle, re, shlex, shutil, signal, subprocess, sys, warnings
from configparser import ConfigParser
from contextlib import nullcontext
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
import nbformat, numpy as np, pytest, torch
from PIL import Image
from conftest import root
from helpers import COMMAND, cache_home, data_dir, fingerprint, images
from reading import chapters
from ddpm_lit import DDPM, evaluation
from ddpm_lit.workshop import cli, doctor, runs
from ddpm_lit.workshop.weights import load_tensors, model_folder, save_tensors
from ddpm_lit.workshop.cli import _as_word, main
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.runs import checkpoints, read_log

@pytest.fixture(autouse=True, scope='module')
def quick(tmp_path_factory):
    "One cache for all"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))
        yield

@pytest.fixture(scope='module')
def small_run(tmp_path_factory, quick):
    "A finished run on 24 x 40 grey images"
    home = tmp_path_factory.mktemp('small')
    data = images(home/'images', 200)
    options = '--preset tiny --steps 40 --batch 4 --save-every 30'.split()
    assert main(['train', str(data), *options, '--out', str(home/'run')])==0
    return home/'run'

def check_pictures(run: Path, shape, steps):
    c, h, w = shape
    ddpm = DDPM.from_pretrained(run)
    rows = read_log(run/'log.csv')
    assert ddpm.shape==shape
    assert rows[-1]['step']==steps//10*10
    assert rows[-1]['loss']<.8*rows[0]['loss']
    k = -(-64//min(h, w))
    assert Image.open(run/'samples.png').size==(4*(k*w+2)+2, 4*(k*h+2)+2)
    for f in ('progressive.png', 'loss.png'):
        assert Image.open(run/f).size[0]>300
    x = ddpm.using('ddpm', 10).sample(2)
    assert x.shape==(2, c, h, w)
    assert -1<=x.min() and x.max()<=1

def test_train_on_a_folder_of_grey_24x40_images(small_run):
    check_pictures(small_run, (1, 24, 40), 40)
    assert [p.name for p in checkpoints(small_run)]==[
        'step-000000040.safetensors', 'step-000000030.safetensors']
    assert (small_run/'previews'/'step-000000030.png').exists()

def test_away_from_what_the_run_was_early(quick, tmp_path, capsys):
    run = tmp_path/'run'
    assert main([*'train digits --preset tiny --steps 20 --batch 4 --save-every 8'.split(),
        '--out', str(run)])==0
    def draw(name, *options):
        assert main(['sample', str(run), '--steps', '2', '--n', '2', '--out',
            str(tmp_path/name), *options])==0
        return (tmp_path/name).read_bytes()
    assert draw('away.png', '--autoguidance', '1')!=draw('plain.png')
    now, early = (DDPM.from_pretrained(f) for f in (run, run/'early'))
    assert not torch.equal(now.unet.conv_in.weight, early.unet.conv_in.weight)
    capsys.readouterr()
    said = refused(capsys, tmp_path, 'sample', 'digits', '--autoguidance', '1',
        '--out', tmp_path/'none.png')
    assert 'early' in said
    shutil.copytree(run/'early'/'unet', run/'unet', dirs_exist_ok=True)   # stopped by then
    said = refused(capsys, tmp_path, 'sample', run, '--autoguidance', '1',
        '--out', tmp_path/'none.png')
    assert 'is still what it was early' in said

@pytest.mark.parametrize('name,shape', [
    ('mnist', (1, 28, 28)),
    pytest.param('cifar10', (3, 32, 32), marks=pytest.mark.soak),
    pytest.param('celeba', (3, 32, 32), marks=pytest.mark.soak)])
def test_train_on_real_images(tmp_path, name, shape):
    options = '--preset tiny --steps 30 --batch 8'.split()
    if name=='celeba':
        options += ['--size', '32']
    places = ['--data-dir', str(data_dir()), '--out', str(tmp_path/'run')]
    assert main(['train', name, *options, *places])==0
    check_pictures(tmp_path/'run', shape, 30)

def test_samples_are_the_same_for_the_same_seed(small_run, tmp_path):
    def sample(*options, out):
        options = [*options, '--steps', '10', '--out', str(tmp_path/out)]
        assert main(['sample', str(small_run), *options])==0
    for name, n in dict(a=6, b=6, c=4, d=1).items():
        sample('--n', str(n), '--seed', '5', out=name)
    read = lambda d: {p.name: p.read_bytes() for p in (tmp_path/d).iterdir()}
    assert read('a')==read('b')
    assert len(read('a'))==6
    assert read('a').items()>=read('c').items()>=read('d').items()
    assert [*read('d')]==['000005.png']
    im = Image.open(tmp_path/'a'/'000005.png')
    assert (im.size, im.mode)==((40, 24), 'L')
    for f in ('x.png', 'y.png'):
        sample('--n', '4', out=f)
    assert (tmp_path/'x.png').read_bytes()==(tmp_path/'y.png').read_bytes()
    sample('--n', '2', '--progressive', out='p.png')

def test_info(small_run, capsys):
    assert main(['info', str(small_run)])==0
    said = capsys.readouterr().out
    for words in ('24 x 40 pixels, grey', '40 of 40 steps', 'T = 100'):
        assert words in said

def test_demo_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    from dataclasses import replace
    draw = DDPM.sample
    def few(self, n=16, seed=0, batch=None):
        "Not five hundred"
        return draw(self, min(n, 20), seed, batch or 20)
    monkeypatch.setattr(DDPM, 'sample', few)
    tiny = runs.PRESETS['tiny']
    short = tiny._replace(recipe=replace(tiny.recipe, steps=20))
    monkeypatch.setitem(runs.PRESETS, 'tiny', short)
    out = tmp_path/"the demo's"
    for _ in range(2):
        assert main(['demo', '--out', str(out)])==0
        said = capsys.readouterr().out
        for words in ('sure of', 'equal a training image', 's in all'):
            assert words in said
    for f in ('shipped.png', 'samples.png', 'progressive.png', 'loss.png', 'model_index.json'):
        assert (out/f).exists()
    # what it says to do can be done, whatever the folder is called
    commands = dict(re.split(':  +', line, maxsplit=1) for line in said.splitlines()[-5:])
    assert shlex.split(commands['what it is'])==['ddpm_lit', 'info', str(out)]
    assert shlex.split(commands['more samples'])[2]==str(out)
    exec(commands['from Python'])

def test_the_demo_trains_for_about_a_minute(monkeypatch):
    for each, steps in {.01: 1200, .05: 1200, .1: 600, 60: 150}.items():
        monkeypatch.setattr(cli, 'estimate', lambda ddpm, recipe, s=each: s*recipe.steps)
        assert cli._steps_of_demo()==steps

def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    update = runs.Training.update
    def interrupted(self, *args):
        if self.step in (12, 17):   # the second is the last one: it ends as usual
            signal.raise_signal(signal.SIGINT)
        return update(self, *args)
    monkeypatch.setattr(runs.Training, 'update', interrupted)
    args = ['train', 'digits', '--out', str(tmp_path/'run')]
    assert main([*args, '--preset', 'tiny', '--steps', '100', '--batch', '8'])==130
    assert '--resume' in capsys.readouterr().err
    assert [p.stem for p in checkpoints(tmp_path/'run')]==['step-000000013']
    assert main([*args, '--resume', '--steps', '18'])==0
    assert DDPM.from_pretrained(tmp_path/'run').shape==(1, 8, 8)
    assert (tmp_path/'run'/'loss.png').exists()

# ---------------------------------------------------------------- mistakes
def refused(capsys, home: Path, *args) -> str:
    "Exit code 2, one line, and nothing changed; returns the line"
    before = fingerprint(home)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # advice, not the refusal
        code = main([*map(str, args)])
    said = capsys.readouterr()
    assert code==2, said.err
    assert said.err.count('\n')==1, said.err
    assert 'Traceback' not in said.err, said.err
    assert fingerprint(home)==before
    return said.err

def test_wrong_arguments(tmp_path, capsys):
    (tmp_path/'file').write_text('precious')
    good = images(tmp_path/'good', 3)
    x, x_png = tmp_path/'x', tmp_path/'x.png'
    no = lambda *a: refused(capsys, tmp_path, *a)
    assert 'neither' in no('train', tmp_path/'missing', '--out', x)
    (tmp_path/'empty').mkdir()
    assert 'no images' in no('train', tmp_path/'empty', '--out', x)
    assert '--steps' in no('train', 'digits', '--out', x, '--steps', -1)
    assert 'is a file' in no('train', 'digits', '--out', tmp_path/'file')
    assert 'not empty' in no('train', 'digits', '--out', good)
    assert 'celebahq' in no('train', 'digits', '--out', x, '--preset', 'huge')
    assert '--out' in no('train', 'digits')
    assert 'not a size' in no('train', good, '--out', x, '--size', '3by4')
    assert 'one size' in no('train', 'digits', '--out', x, '--size', '16')
    assert 'no run' in no('train', 'digits', '--out', x, '--resume')
    assert 'digits' in no('sample', tmp_path/'missing', '--out', x_png)
    assert 'model_index.json' in no('sample', good, '--out', x_png)
    assert 'is a file' in no('sample', 'digits', '--out', tmp_path/'file')
    assert 'png' in no('sample', 'digits', '--out', tmp_path/'y', '--progressive')
    assert 'neither a folder nor a zip' in no('train', tmp_path/'file', '--out', x)
    assert 'No such command' in no('trian')
    assert '2048x2048' in no('train', good, '--out', x, '--size', '100000x100000')
    assert 'DATA is empty' in no('train', '', '--out', x)
    assert 'DATA is empty' in no('evaluate', 'digits', '')
    assert '--batch' in no('train', 'digits', '--out', x, '--batch', 10**9)
    assert '--skip-bad' in no('train', 'digits', '--out', x, '--skip-bad')
    few = ('digits', 'digits', '--n', 20, '--sigma', 'beta', '--steps', 5)
    assert 'beta_tilde' in no('evaluate', *few)
    assert 'dpm++ do not depend on' in no('evaluate', *few, '--sampler', 'dpm++')
    assert 'beta_tilde' in no('reproduce', *few, '--net', 'lite0', '--out', tmp_path/'r')
    assert 'too many for one picture' in no('sample', 'digits', '--out', x_png, '--n', 10**6)

def text(d): (d/'notes.png').write_text('not a picture')
def cut(d): (d/'cut.png').write_bytes((d/'0000.png').read_bytes()[:-150])
def deep(d): Image.fromarray(np.full((24, 40), .5, np.float32)).save(d/'deep.tif')

@pytest.mark.parametrize('spoil,says', [
    (text, 'notes.png: not a readable image'),
    (cut, 'cut.png: not a readable image'),
    (deep, 'deep.tif')])
def test_files_that_do_not_fit(tmp_path, capsys, spoil, says):
    d = images(tmp_path/'d', 5)
    spoil(d)
    assert says in refused(capsys, tmp_path, 'train', d, '--out', tmp_path/'x', '--steps', 1)

def test_sizes_that_cannot_be_halved(tmp_path, capsys):
    d = images(tmp_path/'d', 5, size=(25, 41))
    out = tmp_path/'x'
    said = refused(capsys, tmp_path, 'train', d, '--out', out, '--size', '25x41')
    assert '--size 24x40' in said
    options = '--preset tiny --steps 2 --batch 2'.split()
    assert main(['train', str(d), '--out', str(out), *options])==0
    assert DDPM.from_pretrained(out).shape==(1, 24, 40)

def test_damaged_models(small_run, tmp_path, capsys):
    m = tmp_path/'m'
    shutil.copytree(small_run, m)
    weights = m/'unet'/'diffusion_pytorch_model.safetensors'
    good = weights.read_bytes()
    no = lambda: refused(capsys, tmp_path, 'sample', m, '--out', tmp_path/'x.png')

    weights.write_bytes(good[:len(good)//2])
    assert 'cut short' in no()
    weights.write_bytes(pickle.dumps({'a': 1}))
    assert 'not a safetensors file' in no()
    weights.write_bytes(good[:-5]+bytes([good[-5]^1])+good[-4:])
    assert 'checksum' in no()
    weights.unlink()
    assert 'missing' in no()
    weights.write_bytes(good)
    (m/'unet'/'config.json').write_text('{')
    assert 'JSON' in no()

def test_damaged_checkpoints(small_run, tmp_path, capsys):
    m = tmp_path/'m'
    shutil.copytree(small_run, m)
    data = small_run.parent/'images'
    for p in checkpoints(m):
        p.write_bytes(p.read_bytes()[:p.stat().st_size//2])
    said = refused(capsys, tmp_path, 'train', data, '--out', m, '--resume')
    assert 'no checkpoint that can be read' in said
    shutil.copy(checkpoints(small_run)[1], checkpoints(m)[1])   # the one before is whole again
    assert main(['train', str(data), '--out', str(m), '--resume'])==0
    ours, whole = (DDPM.from_pretrained(run).unet.parameters() for run in (m, small_run))
    for a, b in zip(ours, whole):
        assert torch.equal(a, b)

def test_a_run_is_not_overwritten(small_run, capsys):
    data = small_run.parent/'images'
    no = lambda *words: refused(capsys, small_run, 'train', *words)
    assert '--resume' in no(data, '--out', small_run)
    assert 'leave --batch 8 away' in no(data, '--out', small_run, '--resume', '--batch', 8)
    assert f'begun on {data}' in no('digits', '--out', small_run, '--resume')

def test_resume_without_checkpoints_keeps_the_model(small_run, tmp_path, capsys):
    m = tmp_path/'m'
    shutil.copytree(small_run, m)
    shutil.rmtree(m/'checkpoints')
    data = small_run.parent/'images'
    resume = ['train', data, '--resume', '--out']
    said = refused(capsys, tmp_path, *resume, m, '--steps', 70)
    assert 'no checkpoint to go on from' in said
    said = refused(capsys, small_run, *resume, small_run, '--steps', 5)
    assert 'already at' in said.replace('is at step 40 already', 'already at')

def test_a_run_of_before_an_option_goes_on_as_it_began(tmp_path):
    "Not as the preset has it by now"
    run = tmp_path/'run'
    few = '--preset laptop --channels 8 --no-compile --no-importance --batch 4'.split()
    assert main(['train', 'digits', '--out', str(run), *few, '--steps', '2'])==0
    told = json.loads((run/'train.json').read_text())
    del told['importance']
    (run/'train.json').write_text(json.dumps(told))
    saved, = checkpoints(run)
    tensors, meta = load_tensors(saved)
    settings = json.loads(meta['settings'])
    del settings['importance']
    save_tensors(saved, tensors, meta | dict(settings=json.dumps(settings)))
    resume = ['train', 'digits', '--out', str(run), '--resume', '--steps', '3']
    assert main([*resume, '--importance'])==2
    assert main(resume)==0
    assert json.loads((run/'train.json').read_text())['importance'] is False

def test_a_place_of_data_sets_that_an_earlier_version_wrote_down(tmp_path, capsys):
    "Of a run on images of one's own, which it says nothing about; said now, it is refused"
    data, run = str(images(tmp_path/'data', 40, (8, 8), 1)), tmp_path/'run'
    few = '--preset tiny --channels 8 --batch 4 --tracker none'.split()
    begin = ['train', data, '--out', str(run)]
    place = ['--data-dir', str(tmp_path)]
    said = refused(capsys, tmp_path, *begin, *few, '--steps', 2, *place)
    assert '--data-dir) is for digits' in said and 'leave it away' in said
    assert main([*begin, *few, '--steps', '2'])==0
    told = json.loads((run/'train.json').read_text())
    (run/'train.json').write_text(json.dumps(told | dict(data_dir=str(tmp_path))))
    resume = [*begin, '--resume', '--steps', '3']
    assert '--data-dir) is for digits' in refused(capsys, tmp_path, *resume, *place)
    assert main(['doctor', str(run), '--samples', '4', '--out', str(tmp_path/'d.png')])==1
    assert main(resume)==0
    assert json.loads((run/'train.json').read_text())['data_dir'] is None

def test_names_with_spaces_around_them_are_said_together():
    class Told: classes = [' c ', 'd']
    assert cli._labels(Told, ' c ,d')==cli._labels(Told, ' c , d')==[' c ', 'd']

def test_what_is_not_finite_is_not_written(tmp_path):
    out = tmp_path/'x.png'
    with pytest.raises(ValueError, match='answers with numbers that are not finite'):
        cli._write(None, {'0': torch.full((1, 8, 8), float('nan'))}, out)
    assert not out.exists()

def test_a_network_of_a_width_that_no_memory_holds(tmp_path, capsys):
    said = refused(capsys, tmp_path, 'train', 'digits', '--preset', 'tiny', '--steps', 1,
        '--channels', 4*10**9, '--out', tmp_path/'run')
    assert 'out of memory' in said and '--channels' in said

def test_importance_is_refused_where_errors_count_alike(tmp_path, capsys):
    args = 'train', 'digits', '--steps', 2, '--batch', 4, '--out', tmp_path/'run'
    said = refused(capsys, tmp_path, *args, '--preset', 'tiny', '--importance')
    assert 'would change nothing' in said
    few = '--preset', 'laptop', '--channels', '8', '--no-compile', '--weighting', 'simple'
    assert main([*map(str, args), *few, '--predict', 'x_0'])==0
    assert json.loads((tmp_path/'run'/'train.json').read_text())['importance'] is False

def test_other_files_beside_the_checkpoints(small_run, tmp_path):
    m = tmp_path/'m'
    shutil.copytree(small_run, m)
    best = m/'checkpoints'/'step-best.safetensors'
    shutil.copy(checkpoints(m)[0], best)
    (m/'checkpoints'/'.step-000000001.safetensorsabc').write_bytes(b'half')
    data = small_run.parent/'images'
    assert main(['train', str(data), '--out', str(m), '--resume', '--steps', '43'])==0
    assert [p.stem for p in checkpoints(m)]==['step-000000043', 'step-000000040']
    assert best.exists()
    assert not list((m/'checkpoints').glob('.step-*'))

def test_pictures_do_not_become_data(tmp_path, capsys):
    d = images(tmp_path/'d', 4)
    no = lambda out: refused(capsys, tmp_path, 'train', d, '--out', out)
    assert 'would become data' in no(d/'run')
    (tmp_path/'link').symlink_to(d)
    assert 'would become data' in no(tmp_path/'link'/'run')

def test_pictures_do_not_follow_links(tmp_path):
    (tmp_path/'precious').write_text('mine')
    out = tmp_path/'x.png'
    out.symlink_to(tmp_path/'precious')
    assert main(['sample', 'digits', '--n', '1', '--steps', '5', '--out', str(out)])==0
    assert (tmp_path/'precious').read_text()=='mine'
    assert Image.open(out).size==(64, 64)
    assert not out.is_symlink()

@pytest.mark.parametrize('key,value',
    dict(batch=10**9, seed=2**63, size=['8', 8], data_dir=5, steps='3').items())
def test_a_damaged_train_json(tmp_path, capsys, key, value):
    run = tmp_path/'run'
    run.mkdir()
    options = dict(data='digits', preset='tiny', steps=2, batch=2, seed=0, size=None,
        flip=True, data_dir=None)
    (run/'train.json').write_text(json.dumps(options | {key: value}))
    said = refused(capsys, tmp_path, 'train', 'digits', '--out', run, '--resume')
    assert f'damaged ({key}' in said

# ---------------------------------------------------------------- nothing is lost
def not_called(*args, **kw): raise AssertionError('something was drawn')

def test_an_input_is_not_overwritten(tmp_path, capsys, monkeypatch):
    images(tmp_path, 2, (8, 8))
    Image.new('L', (8, 8), 255).save(tmp_path/'mask.png')
    (tmp_path/'link.png').symlink_to('0000.png')
    (tmp_path/'hard.png').hardlink_to(tmp_path/'0000.png')
    (tmp_path/'d').mkdir()
    monkeypatch.setattr(DDPM, 'inpaint', not_called)
    monkeypatch.setattr(DDPM, 'strip', not_called)
    face, other, mask = (tmp_path/f for f in ('0000.png', '0001.png', 'mask.png'))
    link, hard = tmp_path/'link.png', tmp_path/'hard.png'
    no = lambda *words: refused(capsys, tmp_path, *words)
    for out in (face, mask, tmp_path/'d'/'..'/'0000.png', link, hard):
        assert 'is an input' in no('inpaint', 'digits', face, mask, '--out', out)
    assert 'is an input' in no('inpaint', 'digits', link, mask, '--out', face)
    assert 'is an input' in no('interpolate', 'digits', face, other, '--out', other)

def test_what_cannot_be_written_takes_nothing_away(tmp_path, capsys, monkeypatch):
    grid, said = tmp_path/'grid.png', partial(refused, capsys, tmp_path)
    Image.new('L', (8, 8)).save(grid)
    def is_full(*args): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', is_full)
    draw = 'sample', 'digits', '--n', '2', '--steps', '1', '--out', grid
    assert f'{grid} cannot be used: No space left' in said(*draw)
    assert Image.open(grid).size==(8, 8) and [*tmp_path.iterdir()]==[grid]

@pytest.mark.skipif(not Path('/proc/self').is_dir(), reason='only Linux has such a folder')
@pytest.mark.parametrize('words', [
    'sample digits --out /proc/self/grid.png', 'sample digits --out /proc/self/new',
    'evaluate digits digits --n 20 --out /proc/self/report.json',
    'doctor digits digits --out /proc/self/doctor.png'])
def test_what_cannot_be_written_is_not_drawn(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(DDPM, 'sample', not_called)
    monkeypatch.setattr(doctor, 'diagnose', not_called)
    said = refused(capsys, tmp_path, *words.split())
    assert re.search('/proc/self(/new)? cannot be used: ', said)

def test_a_report_takes_the_place_of_reports_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(DDPM, 'from_pretrained', not_called)
    for name, text in {'train.json': '{"data": "digits"}', 'list.json': '[1]'}.items():
        (tmp_path/name).write_text(text)
        said = refused(capsys, tmp_path, 'evaluate', 'digits', 'digits', '--n', '20',
            '--out', tmp_path/name)
        assert 'is no report and would be lost' in said or 'JSON object' in said
        assert (tmp_path/name).read_text()==text

def test_the_demo_leaves_other_runs_and_files_alone(small_run, tmp_path, capsys):
    refused(capsys, small_run.parent, 'demo', '--out', small_run)
    assert not (small_run/'shipped.png').exists()

@pytest.mark.parametrize('words', [
    'train digits --init= --out x', 'train digits --tracker= --out x',
    'train digits --data-dir= --out x', 'export digits --out=',
    'reproduce digits digits --out=', ['info', ''], ['push', '', 'jo/x'],
    ['sample', '', '--out', 'x.png']])
def test_nothing_is_no_name(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words.split() if isinstance(words, str) else words
    assert 'it is empty' in refused(capsys, tmp_path, *words)

@pytest.mark.parametrize('words', [
    'train digits --steps 1{zeros} --out x', 'doctor digits digits --samples 1{zeros}',
    'inpaint digits a.png b.png --resample 1{zeros} --out x.png'])
def test_numbers_beyond_all_bounds(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words.format(zeros=19*'0').split()
    assert 'is not in the range' in refused(capsys, tmp_path, *words)

def test_an_array_is_not_replaced(tmp_path, capsys):
    out = tmp_path/'x.npy'
    np.save(out, np.zeros(3))
    said = refused(capsys, tmp_path, 'sample', 'digits', '--out', out)
    assert 'is there already and would be lost' in said

def test_a_train_json_of_something_else_is_not_replaced(tmp_path, capsys):
    out = tmp_path/'other'
    out.mkdir()
    (out/'train.json').write_text('{"lr": 1}')
    assert 'not a run' in refused(capsys, tmp_path, 'train', 'digits', '--out', out)

def test_names_that_a_shell_or_an_option_would_take(tmp_path, capsys, monkeypatch):
    said = refused(capsys, tmp_path, 'sample', 'digits', '--out', tmp_path/'.PNG')
    assert f"give a name such as {tmp_path/'x.PNG'}" in said
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    assert main('sample digits --n 1 --steps 1 --out=~/x.png'.split())==0
    assert (tmp_path/'x.png').exists()
    said = refused(capsys, tmp_path, 'train', 'digits', '--init=~/no', '--out', tmp_path/'r')
    assert str(tmp_path/'no') in said
    words = {'-run': './-run', '-a b': "./'-a b'", 'a b': "'a b'", 'a/-b': 'a/-b'}
    assert {name: _as_word(Path(name)) for name in words}==words

def test_one_way_to_be_guided_away(tmp_path, capsys):
    said = refused(capsys, tmp_path, 'sample', 'digits', '--pag', '1', '--autoguidance', '1',
        '--out', tmp_path/'x.png')
    assert 'leave one away' in said

def test_labels_that_are_not_drawn_are_said(tmp_path, capsys):
    draw = 'sample digits-class --label all --steps 1 --out'.split()
    assert main([*draw, str(tmp_path/'x.png'), '--n', '4'])==0
    assert 'note: 10 labels were named' in (said := capsys.readouterr().out)
    assert 'those of 0, 1, 2, 3\n' in said
    assert main([*draw, str(tmp_path/'x.png'), '--n', '4', '--seed', '8'])==0
    assert 'those of 8, 9, 0, 1\n' in capsys.readouterr().out
    assert main([*draw, str(tmp_path/'x.png'), '--n', '10'])==0
    assert 'note:' not in capsys.readouterr().out

def test_guidance_that_would_not_be_asked(tmp_path, capsys):
    draw = 'sample digits-class --label 3 --steps 2 --guidance 2'.split()
    for more, why in {
            '--guidance-times 98,99': 'holds no time of this chain (100, 50, ...)',
            '--guidance 1e9': 'not in the range'}.items():
        out = tmp_path/'x.png'
        assert why in refused(capsys, tmp_path, *draw, *more.split(), '--out', out)

def test_a_run_with_labels_goes_on_with_labels(tmp_path, capsys):
    run, few = tmp_path/'run', '--preset tiny --steps 1 --batch 4 --tracker none'.split()
    for k in range(2): images(tmp_path/'classes'/f'c{k}', 9, (8, 8))
    flat = images(tmp_path/'flat', 9, (8, 8))
    assert main(['train', str(tmp_path/'classes'), '--labels', *few, '--out', str(run)])==0
    said = refused(capsys, tmp_path, 'train', flat, '--resume', '--steps', '2', '--out', run)
    assert 'learns labels' in said

def test_bits_are_never_guided(capsys, monkeypatch):
    monkeypatch.setattr(cli, '_drawn', lambda *args: None)
    monkeypatch.setattr(evaluation, 'quality', lambda *args, **kw: SimpleNamespace())
    def bits(*more):
        words = 'evaluate digits digits --n 20 --steps 2 --bits 2'.split()
        assert main([*words, *more])==0
        return re.search(r'bits_per_dim=(\d\S+),', capsys.readouterr().out)[1]
    assert bits()==bits('--pag', '3')

def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    images(tmp_path/'cats', 3, (8, 8))
    (tmp_path/'dogs').mkdir()
    see = os.scandir
    def only_cats(path):
        if str(path).endswith('dogs'): raise PermissionError(13, 'Permission denied', path)
        return see(path)
    monkeypatch.setattr(os, 'scandir', only_cats)
    with pytest.raises(ValueError, match='dogs cannot be read'): load(tmp_path)

def test_a_folder_with_files_of_the_same_names(tmp_path, capsys, monkeypatch):
    for f in ('000001.png', 'first.png'):
        (tmp_path/f).write_text('precious')
    face = images(tmp_path/'in', 1, (8, 8))/'0000.png'
    mask = tmp_path/'in'/'mask.png'
    Image.new('L', (8, 8), 255).save(mask)
    out = ['--steps', 2, '--out', tmp_path]
    with monkeypatch.context() as m:
        for method in ('sample', 'strip', 'inpaint'):
            m.setattr(DDPM, method, not_called)
        no = lambda *words: refused(capsys, tmp_path, *words, *out)
        assert 'holds 000001.png already' in no('sample', 'digits', '--n', 2)
        assert 'holds 000001.png already' in no('inpaint', 'digits', face, mask, '--n', 2)
        assert 'holds first.png already' in no('interpolate', 'digits', face, face)
    assert main([*map(str, ['sample', 'digits', '--n', 2, '--seed', 2, *out])])==0
    assert {p.name for p in tmp_path.glob('0*.png')}=={f'00000{k}.png' for k in (1, 2, 3)}

def test_a_file_that_appears_meanwhile(tmp_path, capsys, monkeypatch):
    def sample(self, n, seed):
        (tmp_path/'000000.png').write_text('precious')
        return torch.zeros(n, *self.shape)
    monkeypatch.setattr(DDPM, 'sample', sample)
    assert main(['sample', 'digits', '--n', '2', '--out', str(tmp_path)])==2
    assert 'exists' in capsys.readouterr().err
    assert (tmp_path/'000000.png').read_text()=='precious'

def test_several_processes_draw_into_one_folder(tmp_path, monkeypatch):
    "The first has begun to write when the second starts to draw its share"
    (tmp_path/'000000.png').touch()
    team = SimpleNamespace(
        process_index=1, num_processes=2, is_main_process=False, device='cpu',
        main_process_first=nullcontext, wait_for_everyone=lambda: None)
    monkeypatch.setattr(runs, 'processes', lambda: team)
    assert main(['sample', 'digits', '--n', '66', '--steps', '1', '--out', str(tmp_path)])==0
    assert {p.name for p in tmp_path.iterdir()}=={f'0000{k}.png' for k in ('00', 64, 65)}

def test_names_that_are_no_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    no = lambda *words: refused(capsys, tmp_path, *words)
    for name in ('x.pdf', 'x.tar.gz', 'd/x.svg'):
        assert 'no picture' in no('sample', 'digits', '--out', name)
    for words in ('sample digits', 'doctor digits', 'evaluate digits digits'):
        assert 'it is empty' in no(*words.split(), '--out', '')
    assert 'it is empty' in no('notebooks', '')
    assert 'name of a picture' in no('doctor', 'digits', '--out', 'x')
    (tmp_path/'x.pdf').mkdir()
    for name in ('x.pdf', 'v1.2'):
        assert main(['sample', 'digits', '--n', '1', '--steps', '1', '--out', name])==0
        assert [p.name for p in (tmp_path/name).iterdir()]==['000000.png']

def test_a_picture_that_nobody_named(tmp_path, capsys, monkeypatch):
    """doctor.png, and the picture beside a report, are drawn anew if they were drawn by the
    command"""
    from matplotlib.figure import Figure
    monkeypatch.chdir(tmp_path)
    calls = []
    def diagnose(*args, **kw):
        calls.append(args)
        return SimpleNamespace(faults=[], figure=Figure)
    monkeypatch.setattr(doctor, 'diagnose', diagnose)
    monkeypatch.setattr(cli, '_drawn', not_called)
    for name in ('doctor.png', 'report.png'):
        Image.new('L', (8, 8)).save(name)
    said = refused(capsys, tmp_path, 'doctor', 'digits')
    assert 'doctor.png is not a picture by ddpm_lit' in said
    said = refused(capsys, tmp_path, 'evaluate', 'digits', 'digits', '--out', 'report.json')
    assert 'report.png is not a picture by ddpm_lit' in said
    assert not calls
    (tmp_path/'doctor.png').unlink()
    for _ in range(2):
        assert main(['doctor', 'digits'])==0
    assert main(['doctor', 'digits', '--out', 'report.png'])==0
    assert len(calls)==3

def test_reports_do_not_take_the_place_of_inputs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, '_drawn', not_called)
    monkeypatch.setattr(doctor, 'diagnose', not_called)
    model = tmp_path/'model'
    shutil.copytree(model_folder('digits'), model)
    data = images(tmp_path/'data', 50, (8, 8))
    (tmp_path/'link').symlink_to(data)
    no = lambda *words: refused(capsys, tmp_path, *words)
    for name in ('model_index.json', 'train.json', 'unet/config.json'):
        assert 'is no report' in no('evaluate', model, data, '--out', model/name)
    assert 'lies in' in no('evaluate', model, data, '--out', tmp_path/'link'/'report.json')
    assert 'lies in' in no('doctor', model, data, '--out', data/'0000.png')

# ---------------------------------------------------------------- where it is typed
class Terminal(io.StringIO):
    def isatty(self): return True

def test_no_escape_sequence_reaches_the_terminal(tmp_path, monkeypatch):
    shutil.copytree(model_folder('digits-class'), tmp_path/'m')
    index = json.loads((tmp_path/'m'/'model_index.json').read_text())
    index['id2label']['0'] = 'a\x1b[31mred\x1b[0m \x9b2J\rb\nc \u202etxt'
    (tmp_path/'m'/'model_index.json').write_text(json.dumps(index))
    with monkeypatch.context() as m:
        m.setattr(sys, 'stdout', Terminal())
        assert main(['info', str(tmp_path/'m')])==0
        out = sys.stdout.getvalue()
    assert re.search(r'^labels +a\?\[31mred\?\[0m \?2J b c \?txt, 1, 2', out, re.M)
    assert not set(out) & {*'\x1b\x9b\r\u202e'}

def test_a_bar_may_clear_its_line(capsys):
    for text in ('\r\x1b[K', '\r |##--|', 'a\tb\n'):
        cli._Stdout(sys.stdout).write(text)
    assert capsys.readouterr().out=='\r\x1b[K\r |##--|a\tb\n'

def test_nobody_reads_on(tmp_path, monkeypatch):
    "ddpm_lit ... | head -1: the picture is made, and the interpreter ends in peace"
    out = tmp_path/'x.png'
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as stdout, monkeypatch.context() as m:
        m.setattr(sys, 'stdout', stdout)
        assert main(['sample', 'digits', '--n', '1', '--steps', '1', '--out', str(out)])==0
        print('more')
    assert out.exists()

def test_no_stdout_and_a_backend_that_does_not_exist(tmp_path):
    words = f'sample digits --n 1 --steps 1 --progressive --out {tmp_path/"x.png"}'.split()
    r = subprocess.run(['sh', '-c', 'exec "$@" >&-', 'sh', *COMMAND, *words],
        capture_output=True, text=True, env={**os.environ, 'MPLBACKEND': 'wrong'})
    assert (r.returncode, r.stderr)==(0, '')
    assert Image.open(tmp_path/'x.png').size[0]>50

@pytest.mark.parametrize('step', ['9'*400, 'nan', '-inf'])
def test_a_log_that_is_damaged(tmp_path, capsys, step):
    shutil.copytree(model_folder('digits'), tmp_path/'m')
    log = tmp_path/'m'/'log.csv'
    row = [step if k=='step' else '1' for k in runs.LOG_FIELDS]
    log.write_text(f'{",".join(runs.LOG_FIELDS)}\n{",".join(row)}\n')
    said = refused(capsys, tmp_path, 'info', tmp_path/'m')
    assert f'{log} is not the log of a run' in said
    with pytest.raises(ValueError, match='log.csv is not the log of a run'):
        read_log(log)

def test_help_is_whole(capsys):
    assert main(['--help'])==0
    listed = capsys.readouterr().out.split('Commands:')[1]
    for name, command in cli.cli.commands.items():
        whole = ' '.join(command.help.split('.')[0].split())
        assert whole in ' '.join(listed.split())
        assert main([name, '--help'])==0
        assert whole in ' '.join(capsys.readouterr().out.split())
    assert '..' not in listed

IMPORTS = """
import os, sys
def new(*names): return [name for name in names if name in sys.modules]
import ddpm_lit
from ddpm_lit.workshop.cli import main
assert main(['--help'])==main(['--version'])==main(['train', '--help'])==0
assert main(['sample', 'digits'])==main(['nonsense'])==2   # usage errors
os.environ['_DDPM_LIT_COMPLETE'] = 'bash_complete'
os.environ.update(COMP_WORDS='ddpm_lit sam', COMP_CWORD='1')
try: main([])
except SystemExit as end: assert end.code==0
assert not new('torch', 'numpy'), new('torch', 'numpy')

from ddpm_lit import DDPM, Schedule, UNet, train
model = DDPM.from_pretrained('digits')
assert model.using('ddpm', 2).sample(1).shape==(1, 1, 8, 8)
assert isinstance(model.unet, UNet)

import ddpm_lit.workshop.model as chapter
assert DDPM is chapter.DDPM
assert ddpm_lit.vlb.Bound and not hasattr(ddpm_lit, 'nonsense')
assert {'DDPM', 'Schedule', 'UNet', 'train'} <= {*dir(ddpm_lit)}
heavy = new(
    'matplotlib', 'sklearn', 'scipy', 'torchvision', 'accelerate', 'torchmetrics',
    'tensorboard', 'huggingface_hub', 'IPython', 'ipywidgets', 'fastprogress')
assert not heavy, heavy
"""

def test_little_is_imported():
    r = subprocess.run([sys.executable, '-c', IMPORTS], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    assert 'plain,sample' in r.stdout

def test_help_names_what_the_tables_hold(capsys):
    "In text, since looking a table up loads torch"
    from ddpm_lit.denoiser import TARGETS
    from ddpm_lit.workshop.runs import PRESETS, SCHEDULES
    main(['train', '--help'])
    text = capsys.readouterr().out
    for table in (TARGETS, SCHEDULES, PRESETS):
        for name in table:
            assert re.search(rf'\b{name}\b', text), name

# ---------------------------------------------------------------- the book
def test_notebooks(tmp_path, capsys):
    """A copy whose links lead somewhere, which needs nothing that only developers have, and is
    never written over another"""
    book = tmp_path/'my'/'own book'
    assert main(['notebooks', str(book)])==0
    read = capsys.readouterr().out.split('to read them:')[1]
    assert shlex.split(read)==['jupyter', 'lab', str(book/'index.ipynb')]
    copied = {p.relative_to(book).as_posix() for p in book.rglob('*.ipynb')}
    assert copied=={f'{name}.ipynb' for name in ['index', *chapters()]}
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini')
    names = lambda k: {re.split('[<>=]', r)[0] for r in config['DEFAULT'][k].split()}
    developers = names('dev_requirements')
    for extra in ('notebooks', 'onnx'): developers -= names(f'{extra}_requirements')
    owners = packages_distributions()
    for p in book.rglob('*.ipynb'):
        nb = nbformat.read(p, 4)
        nbformat.validate(nb)
        for c in nb.cells:
            if c.cell_type=='markdown':
                for link in re.findall(r'\]\(([\w./-]+\.\w+)(?:#[^)]*)?\)', c.source):
                    assert (p.parent/link).exists(), f'{p.name}: {link} leads nowhere'
            else:
                assert not re.search(r'^#\|', c.source, re.M), p.name
                for name in re.findall(r'^\s*(?:import|from) (\w+)', c.source, re.M):
                    assert not developers & {*owners.get(name, [])}, f'{p.name} needs {name}'
    no = lambda *a: refused(capsys, tmp_path, 'notebooks', *a)
    assert 'is there already' in no(book)
    assert 'is there already' in no(book/'index.ipynb')
    empty = tmp_path/'empty'
    empty.mkdir()
    assert main(['notebooks', str(empty), '--quick'])==0
    for p in empty.rglob('[0-9]*.ipynb'):
        title, imports = nbformat.read(p, 4).cells[:2]
        assert title.source.startswith('# ')
        assert imports.metadata.jupyter.source_hidden and 'import' in imports.source
        assert '"# this may take minutes' not in p.read_text(encoding='utf-8')
