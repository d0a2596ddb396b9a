"""What an earlier version wrote, later ones can use: `tests/frozen`, which says how it was
made and is never made anew."""
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lit import DDPM
from ddpm_lit.workshop.weights import load_tensors
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import load
from ddpm_lit.data import to_image
from ddpm_lit.workshop.runs import Recipe, checkpoints, read_log, train
from helpers import fingerprint

versions = sorted(p for p in (Path(__file__).parent/'frozen').iterdir() if p.is_dir())
pytestmark = pytest.mark.parametrize('version', versions, ids=lambda p: p.name)

@pytest.fixture
def run(version, tmp_path):
    "A copy of the frozen run, which may be changed"
    shutil.copytree(version/'run', tmp_path/'run')
    return tmp_path/'run'

def grey_levels(ddpm) -> np.ndarray:
    return to_image(ddpm.sample(4, seed=0)).flatten(0, 2).numpy().astype(int)

def test_a_model_draws_what_it_drew(version):
    "Two grey levels are left to other machines"
    for name, ddpm in dict(model=DDPM.from_pretrained(version/'model'),
            run=DDPM.from_pretrained(version/'run').labelled(3, guidance=1)).items():
        drawn = np.asarray(Image.open(version/f'{name}.png')).astype(int)
        assert np.ptp(drawn)>200 and abs(grey_levels(ddpm)-drawn).max()<=2

def test_info_reads_them(version, capsys):
    assert main(['info', str(version/'model')])==0 and main(['info', str(version/'run')])==0
    model, run = capsys.readouterr().out.split('folder ')[1:]
    assert '8 x 8 pixels, grey' in model and 'labels               none' in model
    assert '60 of 60 steps of 32 images' in run and '0, 1, 2, 3, 4, 5, 6, 7, 8, 9' in run

def test_a_run_goes_on(version, run):
    rows, before = read_log(run/'log.csv'), load_tensors(checkpoints(run)[0])[0]
    options = '--resume', '--steps', '70', '--tracker', 'none'
    assert main(['train', 'digits', '--out', str(run), *options])==0
    *kept, last = read_log(run/'log.csv')
    assert kept==rows and last['step']==70 and last['loss']<1.2*rows[-1]['loss']
    after = load_tensors(checkpoints(run)[0])[0]
    assert checkpoints(run)[0].stem=='step-000000070' and before.keys() <= after.keys()
    average = {k: v for k, v in before.items() if k.startswith('ema.')}
    change = {k: (after[k].float()-v.float()).abs().max() for k, v in average.items()}
    assert 0<max(change.values())<.1   # it has learned on, and did not begin anew
    model = DDPM.from_pretrained(run).unet.state_dict()
    assert all(torch.equal(model[k.removeprefix('ema.')], after[k]) for k in change)

def test_a_run_refuses_other_data(version, run):
    told = json.loads((run/'train.json').read_text())
    recipe = Recipe(**{f.name: told[f.name] for f in fields(Recipe) if f.name in told})
    digits, before = load('digits'), fingerprint(run)
    digits.images = 255-digits.images
    says = 'cannot be read and continued|other (data|images|settings)'
    with pytest.raises(ValueError, match=says):
        train(DDPM.from_pretrained(run), digits, recipe, run, resume=True)
    assert {k: v for k, v in fingerprint(run).items() if k.name!='.lock'}==before

def test_their_checkpoints_are_whole_or_refused(version, run):
    "The checksum of that time is still looked at"
    path = checkpoints(run)[0]
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='damaged'): load_tensors(path)
