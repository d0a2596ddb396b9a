"FID, class score and bits in parts: against other people's formulas, killed, and shared out"
import json, math, os, shutil, signal, subprocess, sys
from dataclasses import replace
import numpy as np, pytest, torch
from scipy.special import ndtr
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from PIL import Image
from ddpm_lit import DDPM
from ddpm_lit.data import Images, to_image, to_model
from ddpm_lit.evaluation import class_logits, features, spread
from ddpm_lit.workshop import speed
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.reproduce import (
    Tally, class_score_of, marks, question, reproduce)

@pytest.fixture(scope='module')
def digits():
    return spread(load('digits'), 60), spread(load('digits', 'test'), 50)

def bits_of(ddpm, x_0: torch.Tensor, seed: int) -> np.ndarray:
    "Bits per dimension of each image, as improved-diffusion's `calc_bpd_loop` adds them up"
    beta = ddpm.schedule.beta.double().numpy()[1:]
    ab = np.cumprod(1-beta)
    before = np.append(1., ab[:-1])
    g = torch.Generator().manual_seed(9973*seed + 5)   # the noise that `vlb` draws
    torch.rand(len(x_0), generator=g, dtype=torch.float64)
    x, out = x_0.double().numpy(), 0.
    for t in range(len(beta)):   # from 0
        noise = torch.randn(x_0.shape, generator=g).numpy()
        x_t = ab[t]**.5*x + (1-ab[t])**.5*noise
        with torch.no_grad():
            eps = ddpm.unet(torch.tensor(x_t).float(), torch.full((len(x),), t+1)).double()
        guess = (x_t-(1-ab[t])**.5*eps.numpy())/ab[t]**.5
        if ddpm.clip_x0: guess = guess.clip(-1, 1)
        def mean(start):
            return (before[t]**.5*beta[t]*start + (1-beta[t])**.5*(1-before[t])*x_t)/(1-ab[t])
        posterior = beta[t]*(1-before[t])/(1-ab[t])
        variance = beta[t] if ddpm.sigma=='beta' else max(posterior,
            beta[1]*(1-before[1])/(1-ab[1]))
        if t:
            term = .5*(math.log(variance/posterior) - 1 + posterior/variance
                + (mean(x)-mean(guess))**2/variance)
        else:
            step, scale = 1/16, variance**.5   # 17 grey levels
            above = np.where(x>.999, 1., ndtr((x-mean(guess)+step)/scale))
            below = np.where(x<-.999, 0., ndtr((x-mean(guess)-step)/scale))
            term = -np.log(np.maximum(above-below, 1e-12))
        out = out + term.reshape(len(x), -1).mean(1)/math.log(2)
    prior = .5*(-1-math.log(1-ab[-1])+(1-ab[-1])+ab[-1]*x**2)
    return out + prior.reshape(len(x), -1).mean(1)/math.log(2)

@pytest.mark.soak
def test_other_peoples_formulas_give_the_same(digits, tmp_path):
    "torch-fidelity's for samples, improved-diffusion's for the bound, to a thousandth"
    train, test = digits
    ddpm = DDPM.from_pretrained('digits').using('ddpm', 20)
    def some(images): return features(images, 'lite0')[:, :99]   # few enough for their roots
    r = reproduce(ddpm, train, test, tmp_path, n=24, net=some, bits=10, every=6, batch=12)
    x = to_image(ddpm.sample(24, batch=12).clamp(-1, 1))
    ours, *theirs = (fid_features_to_statistics(some(v).double()) for v in (x, train, test))
    for got, b in zip((r.train, r.test), theirs):
        want = fid_statistics_to_metric(ours, b, False)['frechet_inception_distance']
        assert abs(got/want-1)<1e-3
    x_0 = to_model(spread(test, 10)[:])
    want = np.concatenate([bits_of(ddpm, x_0[:6], 0), bits_of(ddpm, x_0[6:], 1)])
    assert abs(r.bits-want.mean())<1e-3 and r.measured==10
    assert json.loads((tmp_path/'report.json').read_text())['train']==r.train

def test_torch_fidelitys_class_score_is_the_same(digits):
    logits = class_logits(features(digits[0][:40], 'lite0'))
    want = isc_features_to_metric(logits, 5, shuffle=False)   # five splits, of eight
    score, std = class_score_of(torch.stack([marks(v) for v in logits.split(8)]))
    assert abs(score/want['inception_score_mean']-1)<1e-6
    assert abs(std-want['inception_score_std'])<1e-6

def test_nothing_grows_with_the_samples(digits, tmp_path):
    "But for a row of classes for each part"
    train, test = digits
    def pixels(images): return images.flatten(1)[:, ::4].float()
    ddpm = DDPM.from_pretrained('digits').using('ddpm', 2)
    for n in (20, 200):
        reproduce(ddpm, train, test, tmp_path/str(n), n=n, net=pixels, bits=0, every=10)
        kept = Tally(tmp_path/str(n)/'process-0.safetensors')
        assert kept.moments.n==n and kept.moments.products.shape==(16, 16)
        assert not any(v.numel() for v in kept.marks.values())   # pixels have no classes

COMMAND = 'reproduce digits digits --net lite0 --n 40 --every 10 --bits 20 --steps 4 --out'

def started(folder, *before: str) -> subprocess.Popen:
    ours = [shutil.which('ddpm_lit'), *COMMAND.split(), str(folder)]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(
        [sys.executable, *before, *ours], stdout=subprocess.PIPE, text=True, env=env)

def numbers(folder) -> dict: return json.loads((folder/'report.json').read_text())

@pytest.mark.soak
def test_killed_and_shared_out_it_gives_the_same(tmp_path):
    whole = started(tmp_path/'whole')
    said = whole.communicate()[0]
    assert whole.returncode==0 and 'not FID' in said and 'h to go' in said
    want = numbers(tmp_path/'whole')
    killed = started(tmp_path/'killed')
    while 'h to go' not in killed.stdout.readline(): pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = Tally(tmp_path/'killed'/'process-0.safetensors').done
    assert 1<=len(kept)<6
    two = started(tmp_path/'killed', '-m', 'torch.distributed.run', '--standalone',
        '--nproc-per-node', '2', '--')
    lines = two.communicate()[0]
    assert two.returncode==0 and lines.count('the report:')==1
    assert len([*(tmp_path/'killed').glob('process-*')])==2   # both worked
    got = numbers(tmp_path/'killed')
    for k, v in want.items():
        assert got[k]==v if isinstance(v, (str, int)) else abs(got[k]-v)<1e-6*abs(v), k

def test_the_command_refuses(tmp_path, capsys):
    def no(*words) -> str:
        assert main(['reproduce', *map(str, words)])==2
        said = capsys.readouterr().err
        assert said.count('\n')==1
        return said
    out = tmp_path/'out'
    few = ['--net', 'lite0', '--n', 20, '--steps', 2, '--bits', 0]
    assert main(['reproduce', 'digits', 'digits', '--out', str(out), *map(str, few)])==0
    assert 'not FID' in capsys.readouterr().out
    again = 'digits', 'digits', '--out', out, *few
    assert 'is about seed = 0, not 7' in no(*again, '--seed', 7)
    assert 'beta_tilde' in no(*again, '--sigma', 'beta')
    other = replace(DDPM.from_pretrained('digits').using('ddpm', 2), sigma='beta')
    with pytest.raises(ValueError, match='is about sigma'):
        reproduce(other, load('digits'), load('digits', 'test'), out, 20, 'lite0', 0, 2)
    question = out/'question.json'
    for damaged in ('[]', '{'):
        question.write_text(damaged)
        assert 'question.json' in no(*again)
    question.unlink()
    assert 'report.json is of something else and would be lost' in no(*again)
    (out/'report.json').unlink()
    assert 'process-0.safetensors is of something else' in no(*again)
    odd = ['--net', 'lite0', '--n', 25, '--every', 10]
    assert 'give a multiple' in no('digits', 'digits', '--out', tmp_path/'x', *odd)
    (tmp_path/'own').mkdir()
    for k, x in enumerate(load('digits').images[:50]):
        Image.fromarray(x[0]).save(tmp_path/'own'/f'{k}.png')
    other = '--out', tmp_path/'x', *few
    assert 'no test split' in no('digits', tmp_path/'own', *other)
    assert 'fewer than --bits' in no('digits', 'digits', *other, '--bits', 10**4)
    assert 'no standard error' in no('digits', 'digits', *other, '--bits', 1)
    assert not (tmp_path/'x').exists()

def test_numbers_that_cannot_be_are_refused_before_all_work(digits, tmp_path):
    train, test = digits
    ddpm = DDPM.from_pretrained('digits')
    def no(says: str, model=ddpm, train=train, test=test, **wrong):
        with pytest.raises(ValueError, match=says):
            reproduce(model, train, test, tmp_path/'x', **dict(n=20, net='lite0') | wrong)
    for wrong in (dict(times=101), dict(times=1), dict(n=1), dict(bits=-1), dict(every=0),
            dict(every=-5), dict(seed=-1), dict(net='lite1')):
        no('must be|take 2 or more', **wrong)
    no('50 test images, fewer', bits=51)
    colour = Images(np.zeros((50, 3, 8, 8), np.uint8))
    no('shape', train=colour)
    no('shape', test=colour)
    told = DDPM.from_pretrained('digits-class').labelled([*range(10)])
    no('10 images are told of, and 4', told, every=10, bits=4)
    assert not (tmp_path/'x').exists()

@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_a_question_is_the_same_for_any_number_of_threads(name):
    "So that what was begun by two processes goes on with one"
    ddpm, few = DDPM.from_pretrained(name), Images(np.zeros((2, 1, 8, 8), np.uint8))
    asked, before = [], torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        asked.append(question(ddpm, few, few))
    torch.set_num_threads(before)
    assert asked[0]==asked[1]==asked[2]
    other = replace(ddpm, sigma='beta_tilde' if ddpm.sigma=='beta' else 'beta')
    next(other.unet.parameters()).data.view(-1)[0] += 1e-3
    now = question(other, few, few)
    assert {k for k in now if now[k]!=asked[0][k]}=={'weights', 'sigma'}

def test_fitted_variances_are_a_question_too(digits, tmp_path):
    train, test = digits
    ddpm = DDPM.from_pretrained('digits')
    fitted = ddpm.fitted(to_model(train[:20]), times=10)
    def some(images): return features(images, 'lite0')[:, :9]
    def ask(model): return reproduce(model, train, test, tmp_path, n=12, net=some, bits=4)
    assert ask(fitted).measured==4
    with pytest.raises(ValueError, match='is about way'): ask(ddpm)

def test_a_fast_network_is_another_question(digits, tmp_path, monkeypatch):
    "What bfloat16 has begun is not finished in float32"
    train, test = digits
    ddpm = DDPM.from_pretrained('digits').using('ddpm', 2)
    def some(images): return features(images, 'lite0')[:, :9]
    def ask(model): return reproduce(model, train, test, tmp_path, n=12, net=some, bits=0)
    monkeypatch.setattr(speed, 'can_compile', lambda device: False)
    ask(ddpm.fast('bfloat16'))
    with pytest.raises(ValueError, match='is about fast = torch.bfloat16, not None'): ask(ddpm)

def test_another_condition_is_another_question(digits, tmp_path):
    train, test = digits
    ddpm = DDPM.from_pretrained('digits-class').using('ddpm', 2)
    def some(images): return features(images, 'lite0')[:, :9]
    def ask(model): return reproduce(model, train, test, tmp_path, n=12, net=some, batch=12)
    ask(ddpm.labelled(0))
    with pytest.raises(ValueError, match='choose another folder'):
        ask(ddpm.labelled(7, guidance=3.))
    with pytest.raises(ValueError, match='without it'):
        ask(ddpm.measured(torch.zeros(1, 4, 8), lambda x: x[:, :, :4]))
