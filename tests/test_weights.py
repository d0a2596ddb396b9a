"A model on disk: how it is written, what its card tells, networks of others and of one's own."
import errno
import json
import os
import shutil
import warnings
from dataclasses import replace

import diffusers
import pytest
import torch
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.checkpoints import check_saveable, facts, model_card, unet_config, write_file
from ddpm_lit.workshop.cli import main
from ddpm_lit.training import adapted
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
    for folders in ([file.parent, file.parent.parent, tmp_path], [file.parent]):   # at first two are new
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

# ---------------------------------------------------------------- told

NAMES = ['<script>alert(1)</script>', '[a](http://b.c)', '![a](b.png)', '*b*', '_c_', '__d__', '~~e~~',
    '`f`', 'g_h', 'i&amp;j', 'k\\*l*']

@pytest.fixture
def run(tmp_path):
    "A model, and what a run of it left"
    DDPM(network(len(NAMES)), Schedule.cosine(5), classes=NAMES).save_pretrained(tmp_path/'run')
    (tmp_path/'run'/'checkpoints').mkdir()
    return tmp_path/'run'

def tell(run, checkpoint=None, log=(), **told):
    "Write what `facts` reads"
    (run/'train.json').write_text(json.dumps({**dict(data='digits', batch=4, steps=240), **told}))
    if checkpoint: (run/'checkpoints'/f'step-{checkpoint:09}.safetensors').touch()
    rows = [f'{step},{loss},.002,{6*step}' for step, loss in log]
    (run/'log.csv').write_text('\n'.join(['step,loss,lr,seconds', *rows, '']))

def test_names_on_a_card_are_text(run):
    "As a Markdown reader shows them: each as it is, and nothing that runs or leads elsewhere"
    tell(run, 240, init='<b>bold</b>')
    card = model_card(run, 'jo/x', data_licence='CC0 <img src=x>')
    page = BeautifulSoup(MarkdownIt('commonmark').enable('table').render(card), 'html.parser')
    table = {row.td.text: row.find_all('td')[1] for row in page.find_all('tr')[1:]}
    assert table['labels'].text==', '.join(NAMES)
    assert table['licence of the data'].text=='CC0 <img src=x>'
    assert '<b>bold<' not in str(table['training']) and '240 of 240' in table['training'].text
    assert [tag for cell in table.values() for tag in cell.find_all(True)]==[]

@pytest.mark.parametrize('init,name', [('/home/me/private/faces', 'faces'), ('private/faces/', 'faces'),
    (r'C:\Users\me\faces', 'faces'), ('../secret/owner/faces', 'faces'), ('private/ddpm', 'ddpm'),
    ('digits', 'digits'), ('google/ddpm', 'google/ddpm')])
def test_a_card_says_no_path(run, tmp_path, monkeypatch, init, name):
    "Of a folder its last part; the name of a model of the package, or of one fetched from the hub"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    (tmp_path/'hub'/'models--google--ddpm').mkdir(parents=True)
    tell(run, 240, init=init)
    assert f'begun with the weights of {name} |' in model_card(run, 'jo/x')
    tell(run, data=init)
    assert name=='digits' or f'| data | "{name.split("/")[-1]}" |' in model_card(run, 'jo/x')

def test_a_run_that_went_on_is_told_up_to_its_checkpoint(run):
    "Stopped at 11, gone on, killed at 60: what the log says of later steps is not in the model"
    log = [(step, step/100) for step in range(1, 61)]
    tell(run, 11, log)
    told = facts(run, DDPM.from_pretrained(run))
    words = '11 of 240 steps of 4 images, the log goes up to step 60: '
    assert told['training']==words+'not finished'
    assert words+'**not finished** |' in model_card(run, 'jo/x')
    assert told['seen']=='44 images in 1 min'
    assert told['loss (eq. 14)']=='0.0650, mean up to step 11'
    for step, end in ((235, ': not finished'), (240, '')):
        tell(run, step, log)
        told = facts(run, DDPM.from_pretrained(run))
        assert told['training']==f'{step} of 240 steps of 4 images'+end

def test_a_log_that_is_being_written(run):
    tell(run, 20, [(10, .5), (20, .3)])
    with open(run/'log.csv', 'a') as f: f.write('30,.2')
    told = facts(run, DDPM.from_pretrained(run))
    assert told['loss (eq. 14)']=='0.4000, mean up to step 20'

@pytest.mark.parametrize('step', ['nan', 'inf', 400*'9', '', 'x'])
def test_a_log_with_a_step_that_is_none(run, capsys, step):
    tell(run, 20, [(10, .5)])
    with open(run/'log.csv', 'a') as f: f.write(f'{step},1,1,1\n')
    assert main(['info', str(run)])==2
    assert capsys.readouterr().err.count('log.csv is not the log of a run')==1

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
    assert ddpm.classes==[f'name {k}' for k in range(n)] and ddpm.unet.config['no_label']==(n==9)
    with pytest.raises(ValueError, match='model_index.json: id2label should name'):
        DDPM.from_pretrained(tmp_path, no_label=other)
    assert not [w for w in recwarn if 'label' in str(w.message)]

def test_without_a_row_for_no_label(theirs, tmp_path):
    "It is said where one would be needed; the network is saved, published and adapted as what it is"
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

# ---------------------------------------------------------------- networks of one's own

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t): return self.scale*x

def test_what_cannot_be_saved_can_be_asked(tmp_path):
    good = DDPM(network(2), Schedule.cosine(5), classes=['a', 'b'])
    check_saveable(good)
    says = {
        'a Own cannot be saved': replace(good, unet=Own()),
        'a Guided cannot be saved': good.labelled(1),
        'each of the 2 labels': replace(good, classes=['a']),
        'each of the 0 labels': replace(good, unet=network())}
    for words, bad in says.items():
        for ask in (check_saveable, lambda d: d.save_pretrained(tmp_path/'x')):
            with pytest.raises(ValueError, match=words): ask(bad)
    assert not (tmp_path/'x').exists()

def test_a_network_that_does_not_say_its_size():
    with pytest.raises(ValueError, match='a network of class Own does not say.*config = dict'):
        DDPM(Own(), Schedule.cosine(5)).sample(1)
    own = Own()
    own.config = dict(image_channels=1, size=(4, 6))
    assert DDPM(own, Schedule.cosine(5)).sample(2).shape==(2, 1, 4, 6)

def test_dropout_is_switched_off():
    ddpm = DDPM(network(dropout=.5).train(), Schedule.cosine(5))
    assert ddpm.eval() is ddpm and not ddpm.unet.training and ddpm.to('meta').device.type=='meta'

def test_a_network_of_diffusers_is_sent_to_the_door(theirs):
    net = diffusers.UNet2DModel.from_pretrained(theirs[0], subfolder='unet')
    with pytest.raises(ValueError, match=r"diffusers' UNet2DModel.*DDPM.from_pretrained\(folder\)"):
        DDPM(net, Schedule.linear())
