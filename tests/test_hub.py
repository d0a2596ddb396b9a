"""Models by name from the Hugging Face hub and to it, and what their cards tell:
a server on this machine that answers like the hub, and its cache."""
import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from conftest import root
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.data import Images
from ddpm_lit.denoiser import DiT
from ddpm_lit.training import rate_at
from ddpm_lit.workshop import cli, files, runs
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.hub import facts, model_card, stages, train_command
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import PRESETS, SCHEDULES
from ddpm_lit.workshop.weights import hash_of_weights, shipped_models
from helpers import awake, fingerprint, images, under_old_names

SHA, WEIGHTS = 40*'a', 'diffusion_pytorch_model.safetensors'
REFUSED = {'Bearer hf_bad': 401, 'Bearer hf_read': 403}

# ---------------------------------------------------------------- a server like the hub

class Hub(BaseHTTPRequestHandler):
    "The few addresses of the hub that a download or an upload asks for"
    asked = []    # addresses
    models = {}   # name: {file: bytes}, or the status and error code that it answers with
    blobs = {}    # the large files by their checksum
    private = set()

    def do_HEAD(self): self.do_GET()

    def do_GET(self):
        path = self.path.partition('?')[0].strip('/').removeprefix('api/models/').split('/')
        owner, model, *rest = [*path, '']
        name, action = f'{owner}/{model}', rest[0]
        self.asked.append('/'.join(path))
        files = self.models.get(name, (404, 'RepoNotFound'))
        if isinstance(files, tuple):
            status, code = files
            self.answer(status, b'{}', {'X-Error-Code': code})
        elif action=='resolve': self.send_file(name, '/'.join(path[4:]))
        elif action=='tree':
            self.answer(200, [dict(type='file', path=f, size=len(data), oid=f)
                for f, data in files.items()])
        else:
            self.answer(200, dict(_id=name, id=name, modelId=name, sha=SHA,
                private=name in self.private, siblings=[dict(rfilename=f) for f in files]))

    def send_file(self, name, file):
        data, commit = self.models[name].get(file), {'X-Repo-Commit': SHA}
        if data is None: self.answer(404, b'', {'X-Error-Code': 'EntryNotFound', **commit})
        else: self.answer(200, data, {'ETag': f'"{abs(hash((name, file)))}"', **commit})

    def do_PUT(self):
        length = int(self.headers['Content-Length'])
        self.blobs[self.path.split('/')[-1]] = self.rfile.read(length)
        self.answer(200, b'')

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length'] or 0))
        lines = [json.loads(line) for line in body.splitlines()]
        path = self.path.partition('?')[0]
        self.asked.append('POST '+path)
        name = '/'.join(path.split('/')[3:5])
        if status := REFUSED.get(self.headers['Authorization']):
            self.answer(status, dict(error='no'))
        elif path=='/api/validate-yaml': self.answer(200, dict(errors=[], warnings=[]))
        elif path=='/api/repos/create': self.create(lines[0])
        elif '/preupload/' in path:
            self.answer(200, dict(files=how_to_send(lines[0]['files'])))
        elif path.endswith('/objects/batch'):
            objects = [self.upload(o) for o in lines[0]['objects']]
            self.answer(200, dict(transfer='basic', objects=objects))
        elif '/commit/' in path: self.commit(name, lines[1:])
        else: raise AssertionError(path)

    def upload(self, o):
        "Where to put a large file"
        return {**o, 'actions': dict(upload=dict(href=self.address('put/'+o['oid'])))}

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        there = name in self.models
        self.models.setdefault(name, {})
        if not there and (wanted.get('private') or wanted.get('visibility')=='private'):
            self.private.add(name)
        self.answer(200, dict(url=self.address(name)))

    def commit(self, name, lines):
        for line in lines:
            v = line['value']
            if line['key']=='lfsFile': data = self.blobs[v['oid']]
            else: data = base64.b64decode(v['content'])
            self.models[name][v['path']] = data
        self.answer(200, dict(success=True, commitUrl=self.address(f'{name}/commit/{SHA}'),
            commitOid=SHA, pullRequestUrl=None))

    def address(self, path): return f"http://{self.headers['Host']}/{path}"

    def answer(self, status, body, headers={}):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        more = {'Content-Length': len(data), 'Content-Type': 'application/json'}
        for k, v in {**headers, **more}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data)

    def log_message(self, *args): "No log"

def how_to_send(files) -> list[dict]:
    "The large ones by themselves"
    modes = {True: 'lfs', False: 'regular'}
    return [dict(path=f['path'], shouldIgnore=False,
        uploadMode=modes[f['path'].endswith('.safetensors')]) for f in files]

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A small model, and its files in both layouts"
    unet = awake(UNet((8, 8), channels=8, multipliers=(1, 2), attention=(4,), res_blocks=1))
    ddpm, folder = DDPM(unet, Schedule.cosine(20)), tmp_path_factory.mktemp('model')
    ddpm.save_pretrained(folder)
    files = [f for f in folder.rglob('*') if f.is_file()]
    nested = {str(f.relative_to(folder)): f.read_bytes() for f in files}
    flat = {f.split('/')[-1]: data for f, data in nested.items()}
    flat[WEIGHTS] = safetensors.torch.save(under_old_names(unet))
    return ddpm, nested, flat

@pytest.fixture(scope='module')
def hub(model):
    _, nested, flat = model
    weightless = {f: data for f, data in flat.items() if f!=WEIGHTS}
    other = json.dumps(dict(_class_name='StableDiffusionPipeline')).encode()
    more = {'README.md': b'x', 'unet/diffusion_pytorch_model.bin': b'x', 'samples.zip': b'x'}
    Hub.models |= {
        'a/nested': {**nested, **more},
        'a/flat': flat,
        'a/pickle': {**weightless, 'diffusion_pytorch_model.bin': b'x'},
        'a/split': {**weightless, WEIGHTS+'.index.json': b'{}'},
        'a/half': {**weightless, WEIGHTS.replace('.s', '.fp16.s'): b'x'},
        'a/stable': {**nested, 'model_index.json': other},
        'a/bare': {f: data for f, data in flat.items() if f!='model_index.json'},
        'a/bert': {'config.json': b'{}', 'weights.h5': b'x'},
        'a/gated': (403, 'GatedRepo')}
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

COMMANDS = """import contextlib, io, json, sys
from ddpm_lit.workshop.cli import main
for c in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(c.split())
    print(json.dumps([code, out.getvalue(), err.getvalue()]))"""

def say(home, *commands, cwd=None, **variables) -> list:
    "Exit code, output and complaint of each command, in one process with these variables"
    env = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    env |= dict(HF_HOME=str(home), NO_PROXY='127.0.0.1', PYTHONPATH=str(root),
        HF_HUB_DISABLE_PROGRESS_BARS='1')
    r = subprocess.run([sys.executable, '-c', COMMANDS, *commands], cwd=cwd,
        env=env | variables, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return [json.loads(line) for line in r.stdout.splitlines()]

def refusals(*args, **kw) -> list[str]:
    "The complaints, each in one line"
    said = say(*args, **kw)
    assert all(code==2 and err.count('\n')==1 for code, _, err in said), said
    return [err for *_, err in said]

# ---------------------------------------------------------------- from the hub

def test_a_model_is_fetched_once(hub, model, tmp_path):
    ddpm, nested, flat = model
    home = tmp_path/'hf'
    Hub.asked.clear()
    assert [c for c, *_ in say(home, 'info a/nested', 'info a/flat', HF_ENDPOINT=hub)]==[0, 0]
    assert not [a for a in Hub.asked if re.search(r'README|\.bin|\.zip', a)]   # not needed
    for name, sent in dict(nested=nested, flat=flat).items():
        folder = home/'hub'/f'models--a--{name}'/'snapshots'/SHA
        there = {str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file()}
        assert there=={*sent}
        back = DDPM.from_pretrained(folder).unet.state_dict()
        for k, v in ddpm.unet.state_dict().items(): assert torch.equal(v, back[k])
    Hub.asked.clear()
    [[code, *_]] = say(home, 'sample a/flat --n 2 --out x.png', cwd=tmp_path, HF_ENDPOINT=hub,
        HF_HUB_OFFLINE='1')
    assert code==0 and (tmp_path/'x.png').exists() and Hub.asked==[]

def test_the_cache_is_enough(hub, model, tmp_path):
    "And a folder always wins"
    ddpm, *_ = model
    home, here = tmp_path/'hf', tmp_path/'here'
    made = home/'hub'/'models--b--made'   # as the cache is laid out
    ddpm.save_pretrained(made/'snapshots'/SHA)
    (made/'refs').mkdir()
    (made/'refs'/'main').write_text(SHA)
    ddpm.save_pretrained(here/'b'/'local')
    (here/'b'/'other').mkdir()
    Hub.asked.clear()
    cached, local, other, none = say(home, 'info b/made', 'info b/local', 'info b/other',
        'info b/none', cwd=here, HF_ENDPOINT=hub, HF_HUB_OFFLINE='1')
    assert [code for code, *_ in (cached, local, other, none)]==[0, 0, 2, 2]
    assert Hub.asked==[]
    assert '45,259' in cached[1]
    assert 'folder               b/local\n' in local[1]
    assert 'b/other is not a model' in other[2]
    assert 'out of reach or switched off' in none[2]

SAYS = {
    'a/pickle': 'a pickle.*from_pretrained..a/pickle..',
    'a/split': 'split over several',
    'a/half': 'variant=.fp16.',
    'a/stable': 'StableDiffusionPipeline, not a DDPMPipeline',
    'a/bare': 'no model_index.json',
    'a/bert': 'no model_index.json',
    'a/gated': 'consent.*huggingface.co/a/gated',
    'a/none': 'does not exist, or is private',
    'a/two--lines': 'a/two--lines'}

def test_refusals_speak(hub, tmp_path):
    Hub.asked.clear()
    commands = [f'sample {name} --out x.png' for name in SAYS]
    said = refusals(tmp_path/'hf', *commands, cwd=tmp_path, HF_ENDPOINT=hub)
    for words, err in zip(SAYS.values(), said, strict=True): assert re.search(words, err), err
    assert not [a for a in Hub.asked if a.endswith(('.bin', '.fp16.safetensors'))]
    assert not [a for a in Hub.asked if 'stable' in a and WEIGHTS in a]

def test_without_a_network(tmp_path):
    err, = refusals(tmp_path/'hf', 'sample a/nested --out x.png', cwd=tmp_path,
        HF_ENDPOINT='http://127.0.0.1:9')
    assert 'out of reach' in err

@pytest.mark.parametrize('name',
    ['nothing', 'a/b/c', './a/b', '../a', '/a/b', '~/a', 'a/', 'digit', 'a b/c'])
def test_other_names_never_touch_the_network(name, monkeypatch):
    def no(*args, **kw): raise AssertionError('the network was asked')
    for f in ('hf_hub_download', 'snapshot_download', 'list_repo_files'):
        monkeypatch.setattr(huggingface_hub, f, no)
    with pytest.raises(ValueError, match='there is no model'): DDPM.from_pretrained(name)

# ---------------------------------------------------------------- the card

NAMES = ['<script>alert(1)</script>', '[a](http://b.c)', '![a](b.png)', '*b*', '_c_', '__d__',
    '~~e~~', '`f`', 'g_h', 'i&amp;j', 'k\\*l*']

@pytest.fixture
def run(tmp_path):
    "A model, and what a run of it left"
    unet = awake(UNet((8, 8), 1, channels=4, multipliers=(1,), attention=(), res_blocks=1,
        classes=len(NAMES)))
    DDPM(unet, Schedule.cosine(5), classes=NAMES).save_pretrained(tmp_path/'run')
    (tmp_path/'run'/'checkpoints').mkdir()
    return tmp_path/'run'

def tell(run, checkpoint=None, log=(), **told):
    "Write what `facts` reads"
    (run/'train.json').write_text(json.dumps(dict(data='digits', batch=4, steps=240) | told))
    if checkpoint: (run/'checkpoints'/f'step-{checkpoint:09}.safetensors').touch()
    rows = [f'{step},{loss},.002,{6*step}' for step, loss in log]
    (run/'log.csv').write_text('\n'.join(['step,loss,lr,seconds', *rows, '']))

def test_names_on_a_card_are_text(run):
    "As a Markdown reader shows them: each as it is, and nothing that runs or leads elsewhere"
    tell(run, 240, init='<b>bold</b>')
    card = model_card(run, 'jo/x', data_licence='CC0 <img src=x>')
    shown = MarkdownIt('commonmark').enable('table').render(card)
    page = BeautifulSoup(shown, 'html.parser')
    table = {row.td.text: row.find_all('td')[1] for row in page.find_all('tr')[1:]}
    assert table['labels'].text==', '.join(NAMES)
    assert table['licence of the data'].text=='CC0 <img src=x>'
    assert '240 of 240' in table['training'].text
    assert '<b>bold<' not in str(table['training'])
    assert not any(cell.find_all(True) for cell in table.values())

@pytest.mark.parametrize('init,name', [
    ('/home/me/private/faces', 'faces'), ('private/faces/', 'faces'),
    (r'C:\Users\me\faces', 'faces'), ('../secret/owner/faces', 'faces'),
    ('private/ddpm', 'ddpm'), ('digits', 'digits'), ('google/ddpm', 'google/ddpm')])
def test_a_card_says_no_path(run, tmp_path, monkeypatch, init, name):
    "Of a folder its last part; the name of a model of the package, or of one from the hub"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    (tmp_path/'hub'/'models--google--ddpm').mkdir(parents=True)
    tell(run, 240, init=init)
    assert f'begun with the weights of {name} |' in model_card(run, 'jo/x')
    tell(run, data=init)
    assert name=='digits' or f'| data | "{name.split("/")[-1]}" |' in model_card(run, 'jo/x')

@pytest.mark.parametrize('recipe, told', [
    ('/home/jo/clinic/patients, ddpm, 1000 steps, seeds 0 to 9', 'patients, ddpm, 1000 steps'),
    ('a, b/faces/, dpm++, 20 steps, label all, seeds 0 to 9', 'faces, dpm++, 20 steps, label'),
    ('cifar10, ddim, 50 steps, seeds 0 to 9', 'cifar10, ddim, 50 steps')])
def test_a_card_says_no_path_of_what_was_judged(run, recipe, told):
    found = dict(distance=1., error=.1, floor=.5, net='lite0', n=9, data='digits, test split')
    (run/'evaluation.json').write_text(json.dumps(found | dict(recipe=recipe)))
    assert f'9 samples; {told}' in model_card(run, 'jo/x')

def test_numbers_of_other_weights_are_left_out(run):
    found = dict(bits_per_dim=3., bits_error=.1, data='digits, test split')
    (run/'evaluation.json').write_text(
        json.dumps(found | dict(weights=hash_of_weights(run))))
    assert 'bits/dim' in facts(run, DDPM.from_pretrained(run))
    shutil.rmtree(run/'unet')
    DDPM.from_pretrained('digits').save_pretrained(run)
    rows = facts(run, DDPM.from_pretrained(run))
    assert 'bits/dim' not in rows and 'other weights than these' in rows['judged']

@pytest.mark.parametrize('ddpm, lines', [
    (DDPM(DiT((8, 8), 1, 2, 16, 1, 2, classes=3), Schedule.cosine(5), classes=[*'abc']),
        'diffusers does not have this network'),
    (DDPM(UNet((8, 8), 1, 8, (1,), attention=(), res_blocks=1, vector=2), Schedule.cosine(5)),
        'diffusers does not have this network'),
    (DDPM(UNet((8, 8), 2, 8, (1,), attention=(), res_blocks=1), Schedule.cosine(5)),
        'its DDPMPipeline makes pictures of all numbers')])
def test_no_line_on_a_card_is_of_another_model(ddpm, lines, tmp_path):
    ddpm.save_pretrained(tmp_path)
    card = model_card(tmp_path, 'jo/x')
    assert lines in card and 'import DDPMPipeline' not in card
    library = 'ddpm_lit' if 'not have' in lines else 'diffusers'
    assert f'library_name: {library}\n' in card and f'tags: [{library}, ddpm' in card

def test_a_run_that_went_on_is_told_up_to_its_checkpoint(run):
    """Stopped at 11, gone on, killed at 60: what the log says of later steps is not in the
    model"""
    log = [(step, step/100) for step in range(1, 61)]
    tell(run, 11, log)
    told = facts(run, DDPM.from_pretrained(run))
    words = '11 of 240 steps of 4 images, the log goes up to step 60: '
    assert told['training']==words+'not finished'
    assert words+'**not finished** |' in model_card(run, 'jo/x')
    assert told['seen']=='44 images in 1 min'
    assert told['loss (eq. 14)']=='0.0650 on images trained on, mean up to step 11'
    for step, end in ((235, ': not finished'), (240, '')):
        tell(run, step, log)
        told = facts(run, DDPM.from_pretrained(run))
        assert told['training']==f'{step} of 240 steps of 4 images'+end

@pytest.mark.parametrize('last, end', [(230, ': not finished'), (231, ''), (240, '')])
def test_without_checkpoints_the_log_says_where_it_ended(run, last, end):
    "It has a row per ten steps, so the end may be up to nine later"
    tell(run, log=[(last, .5)])
    told = facts(run, DDPM.from_pretrained(run))
    assert told['training']==f'{last} of 240 steps of 4 images'+end

def test_a_log_that_is_being_written(run):
    tell(run, 20, [(10, .5), (20, .3)])
    with open(run/'log.csv', 'a') as f: f.write('30,.2')
    told = facts(run, DDPM.from_pretrained(run))
    assert told['loss (eq. 14)']=='0.4000 on images trained on, mean up to step 20'

@pytest.mark.parametrize('step', ['nan', 'inf', 400*'9', '', 'x'])
def test_a_log_with_a_step_that_is_none(run, capsys, step):
    tell(run, 20, [(10, .5)])
    with open(run/'log.csv', 'a') as f: f.write(f'{step},1,1,1\n')
    assert main(['info', str(run)])==2
    assert capsys.readouterr().err.count('log.csv is not the log of a run')==1

# ---------------------------------------------------------------- the command on a card

SHIPPED = shipped_models()

def told_of(name: str) -> dict: return json.loads((SHIPPED[name]/'train.json').read_text())

@pytest.fixture
def would_train(monkeypatch, tmp_path):
    """What a command would train, up to the first step: network, schedule, recipe, images.
    The images of a data set are black, those of one's own are read"""
    monkeypatch.setattr(cli, 'estimate', lambda ddpm, recipe: recipe.steps)
    shapes = dict(mnist=(1, 28, 28), cifar10=(3, 32, 32), celeba=(3, 64, 64))
    load, asked = files.load, {}
    def black(source, split='train', size=None, **how):
        asked.update(source=source, size=size, flip=how['flip'])
        if source not in shapes: return load(source, split, size, **how)
        c, h, w = shapes[source]
        x = np.zeros((20, c, *(size or (h, w))), np.uint8)
        return Images(x, np.arange(20)%10, [*map(str, range(10))], name=source)
    monkeypatch.setattr(files, 'load', black)
    found = {}
    def stop(ddpm, data, recipe, *args, **how):
        found.update(net=ddpm.unet.config, betas=ddpm.schedule.beta, sigma=ddpm.sigma,
            predicts=ddpm.predicts, picture=ddpm.picture, recipe=recipe, **asked)
        would_train.begins = ddpm.unet.conv_in.weight.detach().clone()
        raise ValueError('enough')
    monkeypatch.setattr(runs, 'train', stop)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root/'bench'/'long', tmp_path/'long')   # where `cifar10-class` began
    shutil.copytree(SHIPPED['celeba-64'], tmp_path/'longer')   # it began as one like it
    def would_train(command: str|list[str]) -> dict:
        words = shlex.split(command) if isinstance(command, str) else command
        asked.clear()
        found.clear()
        assert words[0]=='ddpm_lit'
        assert main(words[1:])==2 and found, f'{command} is no longer valid'
        return {**found}
    return would_train

def same(a: dict, b: dict) -> bool:
    betas = a['betas'], b['betas']
    return (len(betas[0])==len(betas[1]) and torch.allclose(*betas, rtol=1e-6, atol=0)
        and {**a, 'betas': 0}=={**b, 'betas': 0})

def made(name: str) -> dict:
    "What a shipped model is, and how it was trained, from its files"
    ddpm, told = DDPM.from_pretrained(name), told_of(name)
    recipe = Recipe(**{f.name: told[f.name] for f in fields(Recipe) if f.name in told})
    size = told['size'] and tuple(told['size'])
    return dict(net=ddpm.unet.config, betas=ddpm.schedule.beta, sigma=ddpm.sigma,
        predicts=ddpm.predicts, picture=ddpm.picture, recipe=recipe,
        source=told['data'], size=size, flip=told['flip'])

def on_card(name: str) -> str:
    card = (SHIPPED[name]/'README.md').read_text(encoding='utf-8')
    command, = re.findall(r'~~~sh\n(ddpm_lit train .*)\n~~~', card)
    return command

@pytest.mark.parametrize('name', SHIPPED)
def test_the_command_on_a_card_trains_such_a_model(name, would_train):
    assert same(would_train(on_card(name)), made(name))
    if init := told_of(name).get('init'):   # and begins with the weights of that model
        there = DDPM.from_pretrained(init.split('/')[-1]).unet.conv_in.weight
        assert torch.equal(would_train.begins[:, :3], there)

@pytest.mark.parametrize('name', SHIPPED)
def test_a_command_without_one_of_its_options_trains_another(name, would_train):
    "So none is too many, and a wrong command would be found"
    words, first = shlex.split(on_card(name)), would_train(on_card(name))
    starts = [k for k, word in enumerate(words) if word.startswith('--')]
    for a, b in zip(starts, starts[1:]):
        if words[a] in ('--preset', '--compile', '--init'): continue   # see `train_command`
        assert not same(would_train(words[:a]+words[b:]), first), words[a]

def test_a_wrong_command_is_found(would_train):
    right = on_card('cifar10')
    for a, b in {'12500': '12501', 'small': 'tiny', '--compile': '--no-compile'}.items():
        assert not same(would_train(right.replace(a, b)), made('cifar10')), b
    with pytest.raises(AssertionError, match='no longer valid'):
        would_train(right.replace('--steps', '--stepz'))

@pytest.mark.parametrize('name', ['digits', 'digits-class'])
def test_the_command_of_the_digits_runs(name, tmp_path):
    words = shlex.split(on_card(name).replace('2200', '2').replace('RUN', str(tmp_path/'run')))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert main(words[1:])==0
    model = DDPM.from_pretrained(tmp_path/'run')
    assert model.unet.config==DDPM.from_pretrained(name).unet.config
    told = json.loads((tmp_path/'run'/'train.json').read_text())
    assert told['split']=='train' and told['images']==told_of(name)['images']
    digits = files.load('digits')
    assert told['pixels']==digits.hash_of_pixels()
    card = model_card(tmp_path/'run', 'jo/x')
    assert '1,257 images of the training split |' in card and told['pixels'] in card

CHOICES = {
    'digits': '--preset tiny --seed 3 --accumulate 2 --validate 0.1 --predict v',
    'digits ': '--preset small --schedule zero_snr --predict x_0 --no-stratified',
    'digits  ': '--preset tiny --steps 300 --warmup 7 --ema-decay 0.9 --save-memory --compile',
    'digits   ': '--preset laptop --steps 90',
    'digits    ': '--preset laptop --predict eps --weighting simple --schedule linear',
    'mnist': '--preset small --steps 900 --labels --channels 16 --mixed-precision no '
        '--weighting min_snr --importance',
    'celeba': '--preset small --size 48x40 --no-flip --optimizer muon --condition grey',
    'cifar10': '--preset small --init celeba --steps 700 --batch 64 --lr 1e-05',
    'cifar10 ': '--preset laptop --init celeba --steps 700 --blocks 2 --multipliers 1,2,4,4',
    'cifar10  ': '--preset laptop --steps 700 --blocks 3 --multipliers 1,3,4',
    'photos': '--no-flip --preset tiny --steps 50',
    "it's mine": '--preset tiny --size 16x8 --steps 50',
    './digits': '--preset tiny --steps 9 --warmup 2',
    'latents.npy': '--range auto --axes nchw --preset tiny --steps 40',
    'levels.npy': '--range -1,2.5 --preset tiny --steps 40'}

@pytest.mark.parametrize('data, options', CHOICES.items())
def test_a_command_is_told_by_what_it_wrote(data, options, would_train, tmp_path, monkeypatch):
    "To train.json and to the model's folder; and nothing of where the images were"
    data = data.rstrip()
    if data in ('photos', "it's mine", './digits'): images(tmp_path/data, 30, (16, 24), 3)
    numbers = np.random.default_rng(0).uniform(-1, 2.5, (30, 3, 8, 8)).astype('float32')
    if data.endswith('.npy'): np.save(data, numbers)
    def write(ddpm, images, recipe, out, *args, **how):
        how['on_begin']()
        ddpm.save_pretrained(out)
        return stop(ddpm, images, recipe, **how)
    stop = runs.train
    monkeypatch.setattr(runs, 'train', write)
    asked = ['ddpm_lit', 'train', data, *options.split(), '--out', 'RUN']
    first = would_train(asked)
    command = train_command(tmp_path/'RUN', DDPM.from_pretrained(tmp_path/'RUN'))
    assert str(tmp_path) not in command
    shutil.rmtree(tmp_path/'RUN')
    again = would_train(command)
    for of in (first, again): of.update(source=str(tmp_path/of['source']))
    assert first['size']==again['size'] or first['size'] is None
    assert same({**first, 'size': 0}, {**again, 'size': 0}), command

def test_where_no_command_makes_a_model_that_is_said(tmp_path):
    for told, why in ((dict(steps_before=[7]), 'went on with other steps'),
        (dict(preset='huge'), 'no preset'), (dict(lr=None), 'does not say lr'),
        (dict(clip_grad=2.), 'no option for clip_grad'), (dict(lr='x'), "'x' for lr"),
        (dict(schedule='none'), 'network or schedule'), (dict(labels=True), 'network'),
        (dict(schedule='linear'), 'network'), (dict(data='/photos/a\nb'), 'cannot be shown')):
        run = tmp_path/'run'
        shutil.copytree(SHIPPED['digits'], run)
        (run/'train.json').write_text(json.dumps(told_of('digits') | told))
        with pytest.raises(ValueError, match=why):
            train_command(run, DDPM.from_pretrained(run))
        card = model_card(run, 'jo/x')
        assert '| command | none that trains it again: ' in card
        assert 'ddpm_lit train' not in card
        shutil.rmtree(run)

@pytest.mark.parametrize('init, known', [('digits', True), ('runs/first', False)])
def test_a_card_says_who_has_the_model_where_a_run_began(tmp_path, init, known):
    run = tmp_path/'run'
    shutil.copytree(SHIPPED['digits'], run)
    (run/'train.json').write_text(json.dumps(told_of('digits') | dict(init=init)))
    card = model_card(run, 'jo/x')
    assert '--init' in card
    assert ('is to be had from who published this' in card)!=known

def test_a_card_counts_all_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_of = ['train', 'digits', '--preset', 'tiny', '--no-compile', '--tracker', 'none']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        main([*run_of, '--steps', '4', '--batch', '8', '--out', 'runs/first'])
        main([*run_of, '--init', 'runs/first', '--steps', '3', '--batch', '8',
            '--out', 'second'])
        main([*run_of, '--init', 'second', '--steps', '2', '--batch', '4', '--out', 'third'])
        capsys.readouterr()
    assert [s.images for s in stages('third', DDPM.from_pretrained('third'))]==[32, 24, 8]
    told = facts('third', DDPM.from_pretrained('third'))
    assert told['seen'].startswith('64 images in 3 stages, ')
    assert '--init first --steps 3' in told['stage 2']
    assert 'stage 1' not in facts('runs/first', DDPM.from_pretrained('runs/first'))
    (tmp_path/'third'/'stages.json').unlink()
    told = facts('third', DDPM.from_pretrained('third'))
    assert told['seen'].startswith('at least 8 images in 2 stages')
    (tmp_path/'third'/'stages.json').write_text('{"stages": [{"steps": 3}]}')
    with pytest.raises(ValueError, match='third.stages.json should list stages'):
        facts('third', DDPM.from_pretrained('third'))

def test_a_run_that_went_on_with_more_steps_has_no_command(tmp_path, capsys):
    run = tmp_path/'run'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        first = 'train', 'digits', '--preset', 'tiny', '--steps', '4', '--out', str(run)
        assert main([*first])==0
        assert 'train digits --preset tiny --steps 4 --out RUN' in model_card(run, 'jo/x')
        assert main(['train', 'digits', '--out', str(run), '--resume', '--steps', '8'])==0
    assert json.loads((run/'train.json').read_text())['steps_before']==[4]
    assert 'went on with other steps' in model_card(run, 'jo/x')

def test_more_steps_at_the_same_rate_are_no_other_plan(tmp_path):
    run, words = tmp_path/'run', ['train', 'digits', '--preset', 'tiny', '--cooldown', '0']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert main([*words, '--steps', '2', '--out', str(run)])==0
        assert main(['train', 'digits', '--out', str(run), '--resume', '--steps', '3'])==0
    assert json.loads((run/'train.json').read_text())['steps_before'] is None
    assert '--cooldown 0' in train_command(run, DDPM.from_pretrained(run))

@pytest.mark.parametrize('done', [0, 1, 50, 60, 61, 90])
@pytest.mark.parametrize('more', [61, 100, 101, 150])
@pytest.mark.parametrize('warmup, cooldown', [(0, 0.), (0, .4), (70, .4)])
def test_a_plan_is_another_if_a_rate_was(tmp_path, done, more, warmup, cooldown):
    (tmp_path/'checkpoints').mkdir()
    if done: (tmp_path/'checkpoints'/f'step-{done:09}.safetensors').touch()
    old = dict(steps=100, warmup=warmup, cooldown=cooldown)
    a, b = ([rate_at(k, n, warmup, cooldown) for k in range(done)] for n in (100, more))
    assert cli._went_alike(old, more, tmp_path)==(a==b)

# ---------------------------------------------------------------- which images

@pytest.mark.parametrize('told, images', [
    (dict(data='celeba', images=9000, split='train'), '9,000 images of the training split |'),
    (dict(data='celeba', images=10_000), 'split was not written down, so test images may be'),
    (dict(data='cifar10', images=50_000), '50,000 images of the training split |'),
    (dict(data='digits', images=1257, held_out=.1), 'images of the training split, 126 of'),
    (dict(data='hf:jo/cats@few', images=90), 'hf:jo/cats@few, 90 images of the split few |'),
    (dict(data='/home/jo/cats', images=90), '"cats", 90 images |')])
def test_a_card_says_which_images(run, told, images):
    tell(run, **told)
    assert images in model_card(run, 'jo/x')

@pytest.mark.parametrize('told, data, seen', [
    (dict(data='celeba', split='train'), 'celeba, test split', '(not trained on)'),
    (dict(data='celeba'), 'celeba, test split', '(it may have been trained on some of them)'),
    (dict(data='celeba'), 'celeba, one half', '(it may have been trained on them)'),
    (dict(data='cifar10'), 'cifar10, test split', '(not trained on)'),
    (dict(data='mnist'), 'cifar10, test split', '(whether it was trained on them is not')])
def test_every_number_says_of_which_images_it_is(run, told, data, seen):
    tell(run, 240, [(240, .5)], **told)
    found = dict(distance=1., error=.1, floor=.5, net='lite0', n=9, n_test=8, recipe='ddpm',
        data=data, bits_per_dim=3., bits_error=.1)
    (run/'evaluation.json').write_text(json.dumps(found))
    rows = facts(run, DDPM.from_pretrained(run))
    assert any('0.5000 on images trained on' in row for row in rows.values())
    assert f'from 8 images of {data} {seen}' in rows['distance']
    assert f'of images of {data} {seen}' in rows['bits/dim']
    floor = 'the other half' if 'half' in data else 'the training split'
    assert f'of as many real images, of {floor}, 0.50' in rows['distance']

# ---------------------------------------------------------------- to the hub

TOKEN = dict(HF_TOKEN='hf_good', HF_HUB_DISABLE_XET='1')

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A short run on images of one's own"
    home = tmp_path_factory.mktemp('trained')
    photos = images(home/'My | photos', 30, (16, 24), 3)
    tiny = PRESETS['tiny']
    net = {**tiny.net, 'channels': 8}
    small = tiny._replace(net=net, schedule=lambda: Schedule.cosine(10))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('XDG_CACHE_HOME', str(home/'cache'))
        m.setitem(PRESETS, 'tiny', small)
        assert main(['train', str(photos), '--preset', 'tiny', '--steps', '20', '--batch', '4',
            '--out', str(home/'run')])==0
    return home/'run'

@pytest.fixture(scope='module')
def pushed(hub, trained, tmp_path_factory):
    "What arrived of it on the hub"
    home = tmp_path_factory.mktemp('hf')
    before = fingerprint(trained)
    push, info = say(home, f'push {trained} jo/photos --data-licence CC0', 'info jo/photos',
        HF_ENDPOINT=hub, **TOKEN)
    assert (push[0], info[0])==(0, 0), (push, info)
    assert f'{hub}/jo/photos' in push[1] and '16 x 24 pixels, RGB' in info[1]
    assert fingerprint(trained)==before
    return Hub.models['jo/photos']

def test_push(pushed, trained):
    "Exactly the model, the card and the picture arrive"
    assert {*pushed}=={'model_index.json', 'unet/config.json', 'unet/'+WEIGHTS,
        'scheduler/scheduler_config.json', 'samples.png', 'README.md'}
    for file in pushed:
        assert file=='README.md' or pushed[file]==(trained/file).read_bytes()
    card = pushed['README.md'].decode()
    for part in ('"My \\| photos", 30 images', '| licence of the data | CC0 |',
            '16 x 24 pixels, RGB', '20 of 20 steps of 4 images |', '![samples](samples.png)',
            'T = 10,'):
        assert part in card, card
    assert str(trained.parent) not in card and 'not finished' not in card
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name=='diffusers'
    assert data.pipeline_tag in data.tags and 'ddpm' in data.tags

def test_the_lines_on_a_card_run(hub, pushed, trained, tmp_path):
    card = pushed['README.md'].decode()
    shell, ours, theirs = re.findall(r'~~~\w+\n(.*?)~~~', card, re.S)
    assert 'none that trains it again' in card   # its preset is none of the package
    command = shell.strip().removeprefix('ddpm_lit ')
    [[code, *_]] = say(tmp_path/'hf', command, cwd=tmp_path, HF_ENDPOINT=hub)
    assert code==0 and (tmp_path/'grid.png').exists()
    names = {}
    for lines in (ours, theirs): exec(lines.replace('jo/photos', str(trained)), names)
    assert names['x'].shape==(4, 3, 16, 24)
    assert [image.size for image in names['images']]==[(24, 16)]*4

def test_the_card_of_an_unfinished_run(trained, tmp_path):
    run = tmp_path/'run'
    shutil.copytree(trained, run)
    told = json.loads((run/'train.json').read_text())
    (run/'train.json').write_text(json.dumps({**told, 'steps': 5000, 'data': 'celeba'}))
    (run/'samples.png').unlink()
    shutil.rmtree(run/'previews')
    card = model_card(run, 'jo/x')
    assert '20 of 5,000 steps of 4 images: **not finished**' in card
    assert 'CelebA' in card and 'non-commercial research only' in card
    assert 'samples.png' not in card

def test_the_card_of_a_model_alone(trained, tmp_path):
    run = tmp_path/'run'
    shutil.copytree(trained, run)
    for file in ('train.json', 'log.csv'): (run/file).unlink()
    shutil.rmtree(run/'checkpoints')
    card = model_card(run, 'jo/x')
    assert '| data | not stated |' in card and 'training' not in card

def test_the_lines_of_a_network_without_no_label_run(tmp_path):
    unet = UNet((8, 8), 1, channels=8, multipliers=(1,), res_blocks=1, attention=(), classes=3,
        no_label=False)
    ddpm = DDPM(unet, Schedule.cosine(4), classes=['a', 'b', 'c'])
    ddpm.save_pretrained(tmp_path)
    card = model_card(tmp_path, 'jo/x')
    assert 'ddpm.labelled(0).sample' in card and '--guidance' not in card

def test_a_private_model_stays_private(hub, trained, tmp_path):
    secret, public, opened = say(tmp_path/'hf', f'push {trained} jo/secret --private',
        f'push {trained} a/nested --private', f'push {trained} jo/open',
        HF_ENDPOINT=hub, **TOKEN)
    assert (secret[0], public[0], opened[0])==(0, 2, 0)
    assert 'jo/secret' in Hub.private and 'jo/open' not in Hub.private
    assert 'README.md' in Hub.models['jo/open']
    assert 'is public' in public[2] and Hub.models['a/nested']['README.md']==b'x'

def test_push_refuses(hub, trained, tmp_path):
    def no(*commands, **env):
        return refusals(tmp_path/'hf', *commands, **{'HF_ENDPOINT': hub, **TOKEN, **env})
    push = f'push {trained} jo/photos'
    Hub.asked.clear()
    without, three, dashes, empty, missing = no(f'push {trained} photos', push+'/of-me',
        push+'--x', f'push {tmp_path} jo/photos', 'push runs/none jo/photos')
    assert 'owner/model' in without and 'owner/model' in three and 'jo/photos--x' in dashes
    assert 'holds no model' in empty and 'holds no model' in missing
    assert 'auth login' in no(push, HF_TOKEN='')[0]
    assert Hub.asked==[]   # until here
    assert 'does not accept your token' in no(push, HF_TOKEN='hf_bad')[0]
    assert 'may not write' in no(push, HF_TOKEN='hf_read')[0]
    assert 'out of reach' in no(push, HF_ENDPOINT='http://127.0.0.1:9')[0]
