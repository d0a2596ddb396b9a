"""Drawing, by functions and on the command line: samplers, labels, in-betweens, holes; and
what is refused."""
import json, shlex, shutil
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from ddpm_lit import DDPM, Schedule
from ddpm_lit.workshop.files import load, read_image
from ddpm_lit.data import to_model
from ddpm_lit.plots import to_pil
from ddpm_lit.reverse import mu_theta, sigma_squared
from ddpm_lit.sampling import (
    SAMPLERS, Noise, ddpm_steps, respaced_steps, sample, spaced, steps_of, upwards)
from ddpm_lit.unet import UNet
from ddpm_lit.workshop import cli as cli_module
from ddpm_lit.workshop.cli import cli, main
from ddpm_lit.workshop.runs import design
from helpers import images
from test_networks import NETWORKS

# ---------------------------------------------------------------- the box
MEAN, VARIANCE = .5, .04

def exact(schedule):
    "The best network for data from N(MEAN, VARIANCE)"
    def eps_theta(x_t, t):
        ab = schedule.alpha_bar[t[0]].item()
        return (1-ab)**.5*(x_t-ab**.5*MEAN)/(ab*VARIANCE+1-ab)
    return eps_theta

@pytest.mark.parametrize('sigma', ['beta', 'beta_tilde'])
def test_the_box_as_it_is_printed(sigma):
    """The six lines of Algorithm 2, with eq. 11 as line 4 has it, against `sample`, state by
    state"""
    schedule = Schedule.linear(60, 1.7e-3, .33)
    eps_theta, s = exact(schedule), sigma_squared(schedule, sigma).sqrt()
    draws = torch.randn(60, 5, 2, generator=torch.Generator().manual_seed(0),
        dtype=torch.float64)
    states = [*sample(eps_theta, ddpm_steps(schedule, sigma), iter(draws).__next__)]
    assert [state.t for state in states]==[*range(60, -1, -1)]
    x_t, z = draws[0], iter(draws[1:])
    for state in states:
        assert (state.x_t-x_t).abs().max()<1e-9, state.t
        if state.t==0: break
        eps = eps_theta(x_t, torch.full((5,), state.t))
        x_t = mu_theta(schedule, x_t, state.t, eps)
        if state.t>1: x_t = x_t + s[state.t]*next(z)

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('steps', [1, 2, 50, 300])
def test_every_sampler_in_the_table(name, steps):
    """It makes as many calls as asked (Heun one less, if that is even, and each time but T
    twice), from T down to 0; in a world with a known answer it draws the right mean and
    variance"""
    schedule, calls, n = Schedule.cosine(300), [], 20_000
    g, eps_theta = torch.Generator().manual_seed(0), exact(schedule)
    def watched(x_t, t):
        calls.append(int(t[0]))
        return eps_theta(x_t, t)
    *_, end = sample(watched, steps_of(schedule, name, steps, spacing='even'),
        lambda: torch.randn(n, 1, generator=g))
    times = sorted({*calls}, reverse=True)
    twice = times[1:] if SAMPLERS[name].calls==2 else []
    assert calls==sorted(times+twice, reverse=True) and calls[0]==300 and end.t==0
    assert len(calls)==(steps if not twice and SAMPLERS[name].calls==1 else steps-1+steps%2)
    assert abs(end.x_t.mean()-MEAN)<5*(VARIANCE/n)**.5+.01
    least = {50: .7, 300: .9}.get(steps, 0.)   # a short chain of beta_tilde has too little
    assert least<end.x_t.var()/VARIANCE<1.1

def test_a_shorter_chain_has_beta_tilde():
    "Of a model whose variance is beta; with all steps it keeps that"
    schedule = Schedule.cosine(100)
    few = respaced_steps(schedule, spaced(100, 50), 'beta_tilde')
    assert steps_of(schedule, 'ddpm', 50, sigma='beta')==few
    assert steps_of(schedule, sigma='beta')[0].s==pytest.approx(schedule.beta[100].item()**.5)
    whole = steps_of(schedule, steps=99, sigma='beta')   # the end of it is no other chain
    assert steps_of(schedule, steps=99, t=49, sigma='beta')==[s for s in whole if s.t<=49]

def test_the_way_up_ends_where_the_way_down_begins():
    "Churn climbs above it"
    ddpm = DDPM.from_pretrained('digits')
    for churn in (0., .1, 1.):
        steps = upwards(ddpm.schedule, ddpm.using('heun', 20, churn=churn).plan(50))
        assert steps[-1].u==50

def test_the_command_reads_the_table():
    for name in ('sample', 'interpolate', 'inpaint', 'evaluate'):
        option = next(p for p in cli.commands[name].params if p.name=='sampler')
        assert [*option.type.choices]==[*SAMPLERS]
        assert all(way.says in option.help for way in SAMPLERS.values())

def test_a_network_that_does_not_say_its_shape():
    net = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError,
        match=r'config = dict.*or draw with `ddpm_lit.sampling.sample`'):
        DDPM(net, Schedule.cosine(9)).sample(1)

# ---------------------------------------------------------------- models
def pixels(path): return to_model(read_image(path.read_bytes(), True).copy())

def refused(capsys, *args) -> str:
    "The one line that the command says"
    assert main([*map(str, args)])==2
    said = capsys.readouterr().err
    assert said.count('\n')==1 and said.startswith('ddpm_lit: ')
    return said

@pytest.fixture
def files(tmp_path):
    "Two digits of different size on disk, and a mask of the first"
    digits = to_model(load('digits', split='test')[:2])
    for k, name in enumerate(('a', 'b')):
        to_pil(digits[k]).resize((8*(k+1),)*2).save(tmp_path/f'{name}.png')
    mask = Image.new('L', (8, 8))
    mask.paste(255, (0, 4, 8, 8))
    mask.save(tmp_path/'mask.png')
    return tmp_path

@pytest.fixture
def short_film(monkeypatch):
    "The pictures at the end of a run in five steps"
    whole = DDPM.progressive
    def short(self, *args, **kw): return whole(self.using('ddpm', 5), *args, **kw)
    monkeypatch.setattr(DDPM, 'progressive', short)

def test_every_sampler_draws(tmp_path):
    ddpm = DDPM.from_pretrained('digits')
    for name in SAMPLERS:
        out = tmp_path/name
        assert main(['sample', 'digits', '--n', '2', '--out', str(out), '--sampler', name,
            '--steps', '5', '--seed', '3'])==0
        for k, x in enumerate(ddpm.using(name, 5).sample(2, 3)):
            assert (pixels(out/f'{k+3:06}.png')-x).abs().max()<1.01/127.5
    quick = ddpm.using('ddim', 10)
    frames, times = quick.progressive(2, columns=4)
    assert times==[70, 50, 20, 0] and torch.equal(frames[:, -1], quick.sample(2))
    assert main(['sample', 'digits', '--n', '2', '--out', str(tmp_path/'p.png'),
        '--progressive', '--steps', '7'])==0

@pytest.mark.parametrize('sampler', ['ddim', 'dpm++'])
def test_no_seed_is_left_out(sampler):
    """The noise of seeds 1 and 3 is 2.6 and 1.8 % longer than noise on average. The network
    does not see it, and a sampler that keeps this noise left it in the image: neighbouring
    pixels had correlations of .76 and .64, those of other seeds .94 and more"""
    x = DDPM.from_pretrained('cifar10').using(sampler, 10).sample(4, batch=4)
    neighbours = [torch.stack([y[..., 1:].flatten(), y[..., :-1].flatten()]) for y in x]
    alike = [torch.corrcoef(pair)[0, 1].item() for pair in neighbours]
    assert min(alike)>.87, alike

def test_only_images_have_noise_of_one_length():
    """Where predictions are not clipped, as for points in a plane, and for Algorithm 2, noise
    is as it is drawn"""
    ddpm = DDPM.from_pretrained('digits')
    def x_T(model): return next(model.states(1, 3, 1)).x_t
    drawn = Noise([3], ddpm.shape)()
    for model in (ddpm, replace(ddpm.using('ddim', 5), clip_x0=False)):
        assert torch.equal(x_T(model), drawn)
    for way in (('ddim', 5), ('ddim', 5, .5), ('dpm++', 5)):
        model = ddpm.using(*way)
        assert torch.allclose(x_T(model), drawn/drawn.square().mean().sqrt())
        assert torch.equal(x_T(model), model.latents(100, 1, 3, 1))

# ---------------------------------------------------------------- commands
def test_labels_are_learned_named_and_drawn(tmp_path, capsys, short_film):
    run = tmp_path/'a run'
    args = ['train', 'digits', '--preset', 'tiny', '--steps', '30', '--batch', '8',
        '--tracker', 'none', '--out', str(run)]
    assert main([*args, '--labels'])==0
    said = capsys.readouterr().out
    assert 'labels    10: 0, 1, 2' in said
    # its picture, in the five steps of `short_film`, is what the printed command draws
    again = shlex.split(said.split('more samples:  ddpm_lit ')[1])
    assert again[2:6]==['--label', 'all', '--guidance', '3']
    assert main([*again[:6], '--out', str(tmp_path/'again.png'), '--seed', '0',
        '--steps', '5'])==0
    both = [np.array(Image.open(p).convert('L'), int)
        for p in (run/'samples.png', tmp_path/'again.png')]
    assert np.abs(both[0]-both[1]).max()<=1
    assert json.loads((run/'train.json').read_text())['labels'] is True
    said = refused(capsys, *args[:-1], run, '--no-labels', '--resume')
    assert 'begun with --labels: leave --no-labels away' in said
    assert main(['train', 'digits', '--out', str(run), '--resume', '--steps', '35',
        '--tracker', 'none'])==0
    assert main(['info', str(run)])==0
    assert 'labels               0, 1, 2' in capsys.readouterr().out
    ways = [], ['--label', '3'], ['--label', '4'], ['--label', '3', '--guidance', '2']
    for k, extra in enumerate(ways):
        assert main(['sample', str(run), '--n', '1', '--steps', '5',
            '--out', str(tmp_path/str(k)), *extra])==0
    assert len({(tmp_path/str(k)/'000000.png').read_bytes() for k in range(4)})==4
    assert '0, 1, 2' in refused(capsys, 'sample', run, '--out', tmp_path/'x',
        '--label', 'seven')
    assert '--labels' in refused(capsys, 'sample', 'digits', '--out', tmp_path/'x',
        '--label', '3')
    assert '--label' in refused(capsys, 'sample', run, '--out', tmp_path/'x',
        '--guidance', '1')
    (tmp_path/'plain').mkdir()
    Image.new('L', (8, 8)).save(tmp_path/'plain'/'a.png')
    def no_labels() -> str:
        return refused(capsys, 'train', tmp_path/'plain', '--labels', '--out', tmp_path/'y')
    assert 'put the images of each class into a subfolder' in no_labels()
    for name in ('all', 'cat'):
        (tmp_path/'plain'/name).mkdir()
        shutil.copy(tmp_path/'plain'/'a.png', tmp_path/'plain'/name)
    assert 'a.png lies beside the subfolders' in no_labels()
    (tmp_path/'plain'/'a.png').unlink()
    assert 'no label can be all' in no_labels()
    (tmp_path/'plain'/'dataset.json').write_text('{"labels": null}')
    assert 'its dataset.json names none' in no_labels()
    assert not (tmp_path/'x').exists()

def test_interpolate(files, capsys):
    a, b, out = (str(files/name) for name in ('a.png', 'b.png', 'o'))
    assert main(['interpolate', 'digits', a, b, '--out', out, '--steps', '10'])==0
    assert 't = 50' in capsys.readouterr().out
    between = {f'lam-{k/10:.1f}' for k in range(11)}
    assert {p.stem for p in (files/'o').iterdir()}=={'first', 'second', *between}
    assert torch.equal(pixels(files/'o'/'first.png'), pixels(files/'a.png'))
    assert main(['interpolate', 'digits', a, b, '--out', str(files/'o.png'), '--t', '0',
        '--mixing', 'spherical'])==0
    w, h = Image.open(files/'o.png').size
    assert round(w/h)==13
    said = capsys.readouterr().out
    assert f"note: {files/'b.png'}, 16 x 16, is scaled to 8 x 8" in said
    assert f'{a},' not in said   # which is of the model's size
    def no(*args):
        return refused(capsys, 'interpolate', 'digits', *args, '--out', files/'no.png')
    assert 'and 100' in no(a, b, '--t', 101)
    assert 'missing' in no(a, files/'c.png')
    (files/'c.png').write_bytes(b'no image')
    assert 'c.png is not a readable image' in no(a, files/'c.png')
    assert 'say one --label' in refused(capsys, 'interpolate', 'digits-class', a, b,
        '--label', '0,1', '--out', files/'no.png')
    assert not (files/'no.png').exists()

def test_in_betweens_are_guided_where_their_chain_goes(files, capsys):
    a, b, out = (str(files/name) for name in ('a.png', 'b.png', 'o.png'))
    how = [a, b, *'--t 25 --label 3 --guidance 50 --steps 10'.split(), '--out', out]
    assert 'holds no time' in refused(capsys, 'interpolate', 'digits-class', *how,
        '--guidance-times', '60,90')
    assert main(['interpolate', 'digits-class', *how, '--guidance-times', '22,28'])==0

def test_inpaint(files, capsys):
    a, mask, out = (str(files/name) for name in ('a.png', 'mask.png', 'o'))
    assert main(['inpaint', 'digits', a, mask, '--n', '3', '--out', out, '--resample', '2',
        '--steps', '10'])==0
    filled, given = [pixels(p) for p in sorted((files/'o').iterdir())], pixels(files/'a.png')
    assert len(filled)==3
    for x in filled:
        assert torch.equal(x[:, :4], given[:, :4]) and not torch.equal(x[:, 4:], given[:, 4:])
    assert main(['inpaint', 'digits', a, mask, '--out', str(files/'o.png'), '--steps', '5'])==0
    assert Image.open(files/'o.png').size[0]>64
    def no(*args): return refused(capsys, 'inpaint', 'digits', *args, '--out', files/'no')
    assert 'differ in size' in no(files/'b.png', mask)
    Image.new('L', (8, 8)).save(files/'black.png')
    assert 'no white' in no(a, files/'black.png')
    Image.new('L', (8, 8), 255).save(files/'white.png')
    assert 'white all over' in no(a, files/'white.png')
    # the white is where the image is cut off
    Image.open(a).resize((16, 8)).save(files/'wide.png')
    edge = Image.new('L', (16, 8))
    edge.paste(255, (0, 0, 3, 8))
    edge.save(files/'edge.png')
    assert 'no white in the part' in no(files/'wide.png', files/'edge.png')
    edge.paste(255, (0, 0, 8, 8))
    edge.save(files/'half.png')
    capsys.readouterr()
    assert main(['inpaint', 'digits', *(str(files/f'{k}.png') for k in ('wide', 'half')),
        '--steps', '5', '--out', str(files/'cut.png')])==0
    said = capsys.readouterr().out
    assert f"{files/'wide.png'}, 8 x 16, is cut and scaled to 8 x 8" in said
    assert f"of 50% of the 8 x 8 pixels of {files/'wide.png'}" in said

def test_a_picture_too_large_for_its_format_is_not_drawn(files, capsys, monkeypatch):
    monkeypatch.setattr(UNet, 'forward', None)   # it would fail
    a, mask = files/'a.png', files/'mask.png'
    for n, suffix in ((2500, 'webp'), (10_000, 'jpg')):
        out = files/f'x.{suffix}'
        said = refused(capsys, 'inpaint', 'digits', a, mask, '--n', n, '--out', out)
        assert 'ends in .png' in said and not out.exists()
    for k, suffix in ((65_500, 'jpg'), (16_383, 'webp')):   # Pillow's own limits
        sizes = ((k, True), (k+1, False))
        for side, fits in sizes:
            try: Image.new('L', (side, 8)).save(files/f'long.{suffix}')
            except (OSError, ValueError): assert not fits
            else: assert fits

def test_a_thin_line_is_not_lost(files):
    "However little of a pixel a mask covers"
    large, line, out = files/'large.png', files/'line.png', files/'o'
    Image.open(files/'a.png').resize((80, 80)).save(large)
    mask = Image.new('L', (80, 80))
    mask.paste(255, (0, 44, 80, 45))
    mask.save(line)
    two = [str(p) for p in (large, line)]
    assert main(['inpaint', 'digits', *two, '--n', '3', '--out', str(out), '--steps', '5'])==0
    filled = torch.stack([pixels(p) for p in sorted(out.iterdir())])
    kept = (filled==filled[0]).all(0).all(2)[0]   # of each row
    assert kept.tolist()==[True]*3+[False]*2+[True]*3   # a twentieth of it is mixed into one

def test_a_spot_is_not_lost(tmp_path):
    "Whose white is less than a grey level of a pixel"
    spot = Image.new('L', (4000, 4000))
    spot.paste(255, (3020, 3020, 3025, 3025))
    for name, picture in (('spot', spot), ('image', Image.new('L', (4000, 4000)))):
        picture.save(tmp_path/f'{name}.png')
    hole = cli_module._hole(tmp_path/'spot.png', tmp_path/'image.png',
        DDPM.from_pretrained('digits'))
    assert hole[0, 6, 6] and hole.sum()<=4

def test_a_film_of_too_many(tmp_path, capsys):
    assert 'give --n 100 or fewer' in refused(capsys, 'sample', 'digits', '--progressive',
        '--n', '101', '--out', tmp_path/'x.png')

def test_a_run_begins_with_a_model(tmp_path, capsys, short_film):
    from ddpm_lit.workshop.runs import read_log
    run = tmp_path/'run'
    args = ['train', 'digits', '--preset', 'tiny', '--batch', '16', '--tracker', 'none',
        '--out', str(run)]
    assert main([*args, '--init', 'digits', '--labels', '--steps', '10'])==0
    assert read_log(run/'log.csv')[0]['loss']<.3   # random weights begin at 1
    assert main(['train', 'digits', '--out', str(run), '--resume', '--steps', '12',
        '--tracker', 'none'])==0
    assert DDPM.from_pretrained(run).classes[3]=='3'
    said = refused(capsys, *args, '--init', 'mnist', '--resume')
    assert 'begun with --init digits: leave --init mnist away' in said
    assert '3 channel(s)' in refused(capsys, *args[:-1], tmp_path/'b', '--init', 'celeba')
    assert 'there is no model' in refused(capsys, *args[:-1], tmp_path/'c', '--init', 'nobody')
    theirs = DDPM(NETWORKS['diffusers'](), Schedule.cosine(20))
    theirs.save_pretrained(tmp_path/'theirs')
    said = refused(capsys, *args[:-1], tmp_path/'d', '--init', tmp_path/'theirs')
    assert 'only the U-Net of this package' in said

def test_zero_snr_counts_errors_alike_from_wherever_it_begins(tmp_path):
    ddpm, _ = design('tiny', (1, 8, 8), schedule='zero_snr', predicts='v')
    ddpm.save_pretrained(tmp_path/'zero')
    few = '--preset laptop --no-compile --steps 1 --batch 2 --tracker none'.split()
    zero, run = str(tmp_path/'zero'), tmp_path/'run'
    assert main(['train', 'digits', *few, '--init', zero, '--out', str(run)])==0
    assert json.loads((run/'train.json').read_text())['weighting']=='simple'

def test_a_long_chain_is_shortened_unless_told(tmp_path, capsys, monkeypatch):
    # what is drawn does not matter here
    monkeypatch.setattr(UNet, 'forward', lambda self, x, t: x)
    assert main(['sample', 'mnist', '--n', '1', '--out', str(tmp_path/'x.png')])==0
    assert ': 250 steps of ' in capsys.readouterr().out
    said = refused(capsys, 'sample', 'mnist', '--n', '1', '--out', tmp_path/'x.png',
        '--steps', '1001')
    assert 'between 1 and T = 1000' in said

def test_times_that_are_shown_once():
    "With churn a time may be visited twice, and others never; each row is one image"
    ddpm = DDPM.from_pretrained('digits').using('heun', 6, churn=.2, spacing='even')
    net = ddpm.unet.double()   # churn enlarges what float32 rounds otherwise in another batch
    net.register_forward_pre_hook(lambda net, asked: (asked[0].double(), *asked[1:]))
    net.register_forward_hook(lambda net, asked, answer: answer.float())
    whole, times = ddpm.progressive(5, seed=3, batch=5)
    parts, same = ddpm.progressive(5, seed=3, batch=2)
    assert times==same==sorted({*times}, reverse=True) and times[-1]==0
    assert whole.shape[:2]==parts.shape[:2]==(5, len(times))
    assert (whole-parts).abs().max()<1e-3
    assert torch.equal(whole[:, -1], ddpm.sample(5, seed=3, batch=5))

def test_children_are_told_what_their_parent_was():
    ddpm = DDPM.from_pretrained('digits-class').using('ddpm', 10).labelled([1, 2])
    _, children = ddpm.share(50, 2, 3)
    assert children.shape[:2]==(2, 3) and (children[:, 0]-children[:, 1]).abs().max()>.1

def test_a_measurement_and_a_label():
    ddpm = DDPM.from_pretrained('digits-class').using('ddpm', 4)
    def rows(x): return x[:, :, :4]
    def measured(ddpm): return ddpm.measured(torch.zeros(1, 4, 8), rows)
    one, same = measured(ddpm).labelled(3), measured(ddpm.labelled(3))
    assert torch.equal(one.sample(2, batch=2), same.sample(2, batch=2))
    each = measured(ddpm.labelled([3, 5, 7]))
    assert each.share(50, 3, 2, batch=6)[1].shape[:2]==(3, 2)
    assert (each.sample(3, batch=2)-each.sample(3, batch=3)).abs().max()<1e-3

def test_a_shorter_chain_ends_at_0():
    with pytest.raises(ValueError, match='must end at 0, not at 25'):
        respaced_steps(Schedule.cosine(100), [50, 25])

def test_labels_that_are_none():
    ddpm = DDPM.from_pretrained('digits-class')
    for wrong in (10, 11, -2):
        with pytest.raises(ValueError, match='labels go from 0 to 9'):
            ddpm.given(torch.tensor([wrong]))

@pytest.mark.parametrize('out', ['data.npy', 'DATA.npy', 'given.png', 'pictures'])
def test_nothing_that_was_given_is_lost(tmp_path, capsys, monkeypatch, out):
    "What a model was trained on, and what it is shown"
    monkeypatch.chdir(tmp_path)
    few = '--preset tiny --steps 2 --batch 2 --tracker none --channels 8'.split()
    rng = np.random.default_rng(0)
    data = images(tmp_path/'pictures', 3, (8, 8)) if out=='pictures' else tmp_path/'data.npy'
    if out!='pictures': np.save(data, rng.integers(0, 256, (6, 3, 8, 8), np.uint8))
    if out=='DATA.npy': data = data.rename(tmp_path/'DATA.NPY')
    told = ['--condition', 'grey'] if out=='given.png' else []
    assert main(['train', str(data), '--out', 'run', *few, *told])==0
    Image.new('RGB', (8, 8)).save('given.png')
    before = {p: p.read_bytes() for p in [tmp_path/'given.png', *data.rglob('*.png'), data]
        if p.is_file()}
    shown = ['--given', 'given.png'] if told else []
    place = str(data) if out=='DATA.npy' else out
    assert main(['sample', 'run', '--n', '1', '--steps', '2', '--out', place, *shown])==2
    assert 'give --out another name' in capsys.readouterr().err
    assert all(p.read_bytes()==b for p, b in before.items())
