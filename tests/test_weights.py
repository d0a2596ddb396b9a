"A model on disk: how it is written, networks of others and of one's own."
import errno
import json
import os
import shutil
import warnings
from dataclasses import replace

import diffusers
import pytest
import torch

from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.denoiser import DiT
from ddpm_lit.workshop.runs import adapted
from ddpm_lit.workshop.export import export
from ddpm_lit.workshop.hub import model_card
from ddpm_lit.workshop.weights import (
    WEIGHTS, FromDiffusers, check_saveable, model_folder, unet_config, write_file)
from helpers import awake


def network(classes=None, **more):
    return awake(UNet((8, 8), 1, channels=4, multipliers=(1,), attention=(), res_blocks=1,
        classes=classes, **more))

# ---------------------------------------------------------------- written

def test_folders_are_on_the_disk_too(tmp_path, monkeypatch):
    "After a loss of power a file without a name is no file"
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda fd: synced.append(os.fstat(fd).st_ino))
    file = tmp_path/'new'/'newer'/'x'
    new = [file.parent, file.parent.parent, tmp_path]
    for folders in (new, [file.parent]):
        synced.clear()
        write_file(file, b'1')
        assert synced==[p.stat().st_ino for p in (file, *folders)]

@pytest.mark.parametrize('number', [errno.EINVAL, errno.EIO])
def test_a_file_system_that_syncs_no_folders(tmp_path, monkeypatch, number):
    def fsync(fd, file=os.fsync):
        if os.path.isdir(f'/proc/self/fd/{fd}'): raise OSError(number, 'no')
        file(fd)
    monkeypatch.setattr(os, 'fsync', fsync)
    if number==errno.EINVAL: write_file(tmp_path/'x', b'1')
    else:
        with pytest.raises(OSError): write_file(tmp_path/'x', b'1')
    assert (tmp_path/'x').read_bytes()==b'1'

# ---------------------------------------------------------------- labels of others

@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
    "A network of diffusers with ten labels, each a real one, and its answers"
    folder = tmp_path_factory.mktemp('theirs')
    config = {**unet_config(network(9).config), 'num_class_embeds': 10}
    unet = awake(diffusers.UNet2DModel.from_config(config))
    scheduler = diffusers.DDPMScheduler(50, beta_schedule="squaredcos_cap_v2")
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10)
    with torch.no_grad(): return folder, x, y, unet(x, 3, class_labels=y).sample

def test_ten_labels_are_ten_for_who_says_so(theirs):
    folder, x, y, want = theirs
    with pytest.warns(UserWarning, match='last of its 10 labels.*no_label=.none.*id2label'):
        guess = DDPM.from_pretrained(folder)
    assert guess.classes==[str(k) for k in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ddpm, nine = (DDPM.from_pretrained(folder, no_label=k) for k in ('none', 'last'))
    assert ddpm.classes==[str(k) for k in range(10)] and nine.classes==guess.classes
    with torch.no_grad():
        for model in (ddpm, nine):
            assert torch.allclose(model.unet(x, torch.full((10,), 4), y), want, atol=1e-4)
    assert ddpm.using('ddim', 2).labelled(9).sample(1).shape==(1, 1, 8, 8)
    with pytest.raises(ValueError, match='there is no label 9'): nine.labelled(9)
    with pytest.raises(ValueError, match='last or none'):
        DDPM.from_pretrained(folder, no_label='first')

@pytest.mark.parametrize('n,other', [(9, 'none'), (10, 'last')])
def test_names_say_how_many_labels_there_are(theirs, tmp_path, recwarn, n, other):
    shutil.copytree(theirs[0], tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path/'model_index.json').read_text())
    index['id2label'] = {k: f'name {k}' for k in range(n)}
    (tmp_path/'model_index.json').write_text(json.dumps(index))
    ddpm = DDPM.from_pretrained(tmp_path)
    assert ddpm.classes==[f'name {k}' for k in range(n)]
    assert ddpm.unet.config['no_label']==(n==9)
    with pytest.raises(ValueError, match='model_index.json: id2label should name'):
        DDPM.from_pretrained(tmp_path, no_label=other)
    assert not [w for w in recwarn if 'label' in str(w.message)]

def test_without_a_row_for_no_label(theirs, tmp_path):
    """It is said where one would be needed;
    the network is saved, published and adapted as what it is"""
    ddpm = DDPM.from_pretrained(theirs[0], no_label='none').using('ddim', 2)
    for draw in (lambda: ddpm.sample(1), lambda: ddpm.labelled(3, guidance=1.).sample(1),
            lambda: ddpm.unet(torch.zeros(1, 1, 8, 8), torch.ones(1), torch.tensor([-1]))):
        with pytest.raises(ValueError, match='no images without a label'): draw()
    ddpm.save_pretrained(tmp_path)
    again = DDPM.from_pretrained(tmp_path)
    assert again.unet.config==ddpm.unet.config and again.classes==ddpm.classes
    assert torch.equal(again.unet.class_embedding.weight, ddpm.unet.class_embedding.weight)
    assert 'means no label' not in model_card(tmp_path, 'jo/x')
    new = adapted(ddpm, (1, 8, 8), ['a', 'b'])
    assert new.unet.config['no_label'] and new.unet.class_embedding.num_embeddings==3
    same = adapted(ddpm, (1, 8, 8), ddpm.classes)
    assert same.unet.config['no_label'] and same.unet.class_embedding.weight[-1].abs().max()==0
    with pytest.raises(ValueError, match='no images without a label cannot be'):
        export(ddpm, tmp_path)

# ---------------------------------------------------------------- networks of one's own

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t): return self.scale*x

def test_what_cannot_be_saved_can_be_asked(tmp_path):
    good = DDPM(network(2), Schedule.cosine(5), classes=['a', 'b'])
    check_saveable(good.unet, good.classes)
    says = {
        'a Own cannot be saved': replace(good, unet=Own()),
        'a Guided cannot be saved': good.labelled(1)}
    for words, bad in says.items():
        with pytest.raises(ValueError, match=words): check_saveable(bad.unet, bad.classes)
        with pytest.raises(ValueError, match=words): bad.save_pretrained(tmp_path/'x')
    assert not (tmp_path/'x').exists()
    wrong = {
        'each of the 2 labels': dict(classes=['a']),
        'classes are names': dict(classes=[0, 1]),
        'each of the 0 labels': dict(unet=network()),
        'schedule is a Schedule': dict(schedule=[.1, .2])}
    for words, change in wrong.items():
        with pytest.raises(ValueError, match=words): replace(good, **change)

def test_another_model_is_not_lost(tmp_path):
    "The same network may be saved anew, such as a run's at each checkpoint"
    DDPM(network(2), Schedule.cosine(5)).save_pretrained(tmp_path)
    before = (tmp_path/'unet'/WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match='holds another model, which would be lost'):
        DDPM(network(), Schedule.cosine(5)).save_pretrained(tmp_path)
    assert (tmp_path/'unet'/WEIGHTS).read_bytes()==before
    DDPM(network(2), Schedule.cosine(9)).save_pretrained(tmp_path)
    assert DDPM.from_pretrained(tmp_path).schedule.T==9

def test_a_network_that_does_not_say_its_size():
    with pytest.raises(ValueError, match='a network of class Own does not say.*config = dict'):
        DDPM(Own(), Schedule.cosine(5)).sample(1)
    own = Own()
    own.config = dict(image_channels=1, size=(4, 6))
    assert DDPM(own, Schedule.cosine(5)).sample(2).shape==(2, 1, 4, 6)

class Counting(Own):
    "With a table of places"
    def __init__(self, **config):
        super().__init__()
        self.config = dict(image_channels=1, size=(4, 4))
        self.register_buffer('places', torch.tensor([2**24+1, 4097]))

def test_whole_numbers_stay_what_they_are(tmp_path):
    DDPM(Counting(), Schedule.cosine(5)).save_pretrained(tmp_path, dtype=torch.float16)
    again = DDPM.from_pretrained(tmp_path, network=Counting)
    assert again.unet.places.tolist()==[2**24+1, 4097]
    assert again.unet.scale.dtype==torch.float32

class Tied(Own):
    "Two names for one tensor"
    def __init__(self, **config):
        super().__init__()
        self.config = dict(image_channels=1, size=(4, 4))
        self.again = self.scale

def test_names_that_share_their_numbers(tmp_path):
    DDPM(Tied(), Schedule.cosine(5)).save_pretrained(tmp_path)
    again = DDPM.from_pretrained(tmp_path, network=Tied).unet
    assert again.again is again.scale

@pytest.mark.parametrize('value, dtype', [
    (float('nan'), torch.float32), (1e5, torch.float16)])
def test_what_would_not_load_again_is_not_saved(tmp_path, value, dtype):
    ddpm = DDPM(network(), Schedule.cosine(5))
    next(ddpm.unet.parameters()).data.view(-1)[0] = value
    with pytest.raises(ValueError, match='is not finite in'):
        ddpm.save_pretrained(tmp_path/'x', dtype)
    assert not (tmp_path/'x').exists()

def test_names_of_labels_of_ones_own_network(tmp_path):
    ddpm = DDPM(DiT((8, 8), 1, 2, 16, 1, 2, classes=3), Schedule.cosine(5), classes=[*'abc'])
    ddpm.save_pretrained(tmp_path)
    assert DDPM.from_pretrained(tmp_path).classes==[*'abc']
    with pytest.raises(ValueError, match='no_label is of a UNet'):
        DDPM.from_pretrained(tmp_path, no_label='none')
    index = json.loads((tmp_path/'model_index.json').read_text())
    def read(names):
        (tmp_path/'model_index.json').write_text(json.dumps(index | dict(id2label=names)))
        return DDPM.from_pretrained(tmp_path).classes
    assert read(None)==['0', '1', '2']
    for bad in ['a', 'b', 'c'], {'0': 'a'}, {str(k): 'a' for k in range(4)}:
        with pytest.raises(ValueError, match='should name the labels 0 to 2'): read(bad)

def test_a_run_without_a_model_is_not_taken_for_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mnist').mkdir()
    assert model_folder('mnist')!=tmp_path/'mnist'   # data, perhaps
    (tmp_path/'mnist'/'train.json').write_text('{}')
    with pytest.raises(ValueError, match='a run has one after its'): model_folder('mnist')

def test_other_networks_of_diffusers_are_refused():
    wide = diffusers.UNet2DModel(sample_size=8, in_channels=6, out_channels=3,
        block_out_channels=(32,), down_block_types=('DownBlock2D',),
        up_block_types=('UpBlock2D',), layers_per_block=1)
    for net, words in (wide, '3 and 6'), (torch.nn.Linear(1, 1), 'not a Linear'):
        with pytest.raises(ValueError, match=words): FromDiffusers(net)

def test_dropout_is_switched_off():
    ddpm = DDPM(network(dropout=.5).train(), Schedule.cosine(5))
    assert ddpm.eval() is ddpm
    assert not ddpm.unet.training
    assert ddpm.to('meta').device.type=='meta'

def test_a_network_of_diffusers_is_sent_to_the_door(theirs):
    net = diffusers.UNet2DModel.from_pretrained(theirs[0], subfolder='unet')
    with pytest.raises(ValueError,
        match=r"diffusers' UNet2DModel.*DDPM.from_pretrained\(folder\)"):
        DDPM(net, Schedule.linear())
