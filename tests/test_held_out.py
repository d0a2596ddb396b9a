"""Images that a run is not shown, and what it measures on them."""
import json
import warnings
from dataclasses import replace
import numpy as np
import pytest
import torch
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.data import Images
from ddpm_lit.workshop import runs
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.hub import facts
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import (
    ASKED, HELD_OUT_FIELDS, checkpoints, parted, ratio_of, read_log, train)
from ddpm_lit.workshop.weights import load_tensors

SMALL = Recipe(steps=12, batch=8, lr=1e-3, warmup=3, ema_decay=.5, precision='float32',
    held_out=.05)

def model(classes=None) -> DDPM:
    torch.manual_seed(0)
    unet = UNet((8, 8), 1, channels=16, multipliers=(1, 2), attention=(4,), res_blocks=1,
        classes=classes and len(classes))
    return DDPM(unet, Schedule.cosine(50), classes=classes)

def weights(run) -> dict: return load_tensors(checkpoints(run)[0])[0]
def table(run) -> list[dict]: return read_log(run/'held_out.csv', HELD_OUT_FIELDS)

@pytest.fixture(scope='module')
def digits(): return load('digits')

class Watched(Images):
    "Remembers which images were asked for"
    def __getitem__(self, i):
        self.__dict__.setdefault('seen', []).extend(np.arange(len(self))[i].tolist())
        return super().__getitem__(i)

def test_no_step_draws_what_is_held_out(digits, monkeypatch):
    "Every other image is drawn, with its own label"
    data = Watched(digits.images[:100], digits.labels[:100], digits.classes, flip=False)
    monkeypatch.setattr(runs.HeldOut, 'measure', lambda self: None)
    monkeypatch.setattr(runs, 'check_data', lambda *_: None)   # which looks at some of all
    _, held_out = parted(data, .1, seed=0)
    train(model(), data, replace(SMALL, held_out=.1, steps=24))
    assert len(held_out)==10 and {*data.seen}=={*range(100)}-{*held_out.rows}
    trained_on, held_out = parted(data, .1, seed=0)
    assert trained_on.labels.tolist()==data.labels[trained_on.rows].tolist()
    other = parted(data, .1, seed=1)[1]
    assert held_out.rows==parted(data, .1, seed=0)[1].rows!=other.rows

def test_measuring_costs_little(digits, tmp_path):
    "So many calls about so many images at each checkpoint, however many images there are"
    calls, ddpm = [], model()
    def count(net, given, answer):
        if not net.training: calls.append(len(given[0]))
    handle = ddpm.unet.register_forward_hook(count)   # the average is a copy, with its hooks
    train(ddpm, digits, SMALL, tmp_path/'a', save_every=6)
    handle.remove()
    assert calls==[ASKED[1]]*(2*2*ASKED[0])
    assert [r['step'] for r in table(tmp_path/'a')]==[6, 12]

def test_measuring_changes_nothing(digits, tmp_path, monkeypatch):
    "And a run that was stopped measures what it would have measured"
    train(model(), digits, SMALL, tmp_path/'a', save_every=3)
    train(model(), digits, replace(SMALL, steps=6), tmp_path/'b', save_every=3)
    train(model(), digits, SMALL, tmp_path/'b', resume=True, save_every=3)
    assert table(tmp_path/'a')==table(tmp_path/'b')
    with pytest.raises(ValueError, match='held_out was 0.05 and is now 0.1'):
        train(model(), digits, replace(SMALL, held_out=.1), tmp_path/'b', resume=True)
    monkeypatch.setattr(runs.HeldOut, 'measure', lambda self: None)
    train(model(), digits, SMALL, tmp_path/'c')
    a, b, c = (weights(tmp_path/run) for run in 'abc')
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k]) for k in a)

def test_the_pairs_have_the_same_times_and_noise(digits):
    "So the same images on both sides have the same loss"
    state = runs.Training(model(), SMALL)
    part = parted(digits, .05, 0)[1]
    both = runs.HeldOut(None, state, part, part)
    both.measure()
    row = both.table.rows[0]
    assert row['trained_on']==row['held_out']>0 and not both.warned
    assert row['held_out_0.1T']==row['trained_on_0.1T']

def test_labels_are_told(digits, capsys):
    ddpm = model(digits.classes)
    seen = []
    ddpm.unet.register_forward_hook(lambda net, given, _: seen.append(given[2]))
    state = runs.Training(ddpm, SMALL)
    held = runs.HeldOut(None, state, *parted(digits, .05, 0))
    held.measure()
    labels = torch.cat(seen[ASKED[0]:])
    part = held.parts[1]
    *_, images = held.losses(part)
    assert torch.equal(labels, torch.as_tensor(part.labels)[images])
    assert 'step 0: loss' in capsys.readouterr().out

def test_an_image_counts_once():
    "A single odd image that is drawn often is no evidence; forty that agree are"
    g = torch.Generator().manual_seed(0)
    gaps = .1*torch.randn(400, generator=g, dtype=torch.float64)
    images = torch.arange(400).remainder(40).expand(2, -1)
    assert abs(ratio_of(gaps, images)[1])<3
    odd = gaps + 40*(images[0]==0)
    ratio, errors = ratio_of(odd, images)
    assert ratio>2 and errors<1.5
    assert gaps.add(.5).mean()/(gaps.std()/20)>50 and ratio_of(gaps+.5, images)[1]>20

def test_said_once(digits, capsys):
    "In each measure the loss parts; the warning comes with the first"
    state = runs.Training(model(), SMALL)
    held = runs.HeldOut(None, state, *parted(digits, .05, 0))
    losses = held.losses
    def parting(part):
        found, *rest = losses(part)
        return (3*found if part is held.parts[1] else found, *rest)
    held.losses = parting
    with pytest.warns(UserWarning, match='by heart') as said:
        held.measure()
        held.measure()
    assert len(said)==1 and len(held.table.rows)==2
    assert '3.0 times' in str(said[0].message)

@pytest.mark.parametrize('share,todo', [(.01, 'hold out 0.08'), (.99999, 'not all')])
def test_too_few(share, todo, digits):
    few = Images(digits.images[:100])
    with pytest.raises(ValueError, match=todo):
        train(model(), few, replace(SMALL, held_out=share))

def test_a_bad_image_has_its_own_number(digits):
    "Of all images, not of those that are trained on"
    x = digits[:100].float()/127.5-1
    bad = parted(x, .1, 0)[0].rows[3]
    x[bad, 0, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match=rf'images \[{bad}\]') as said:
        train(model(), x, replace(SMALL, held_out=.1, steps=14))
    assert not any('by heart' in str(w.message) for w in said)

def test_the_command(tmp_path, capsys):
    run = tmp_path/'run'
    options = ['--preset', 'tiny', '--steps', '4', '--batch', '8', '--save-every', '2']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert main(['train', 'digits', '--out', str(run), '--validate', '.1', *options])==0
    said = capsys.readouterr().out
    assert said.count('on images held out')==2
    assert json.loads((run/'train.json').read_text())['held_out']==.1
    told = facts(run, DDPM.from_pretrained(run))['held out']
    assert told.startswith(f'loss {table(run)[-1]["held_out"]:.4f} at step 4')
    assert main(['train', 'digits', '--out', str(run), '--validate', '.01', '--resume'])==2

def test_more_is_held_out_than_trained_on(digits, tmp_path):
    few = Images(digits.images[:50], digits.labels[:50], digits.classes, flip=False)
    train(model(), few, replace(SMALL, held_out=.6), tmp_path/'run')
    assert table(tmp_path/'run')[-1]['step']==12
