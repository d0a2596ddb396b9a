"""Models by name from the Hugging Face hub and to it, and what their cards tell:
a server on this machine that answers like the hub, and its cache."""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import safetensors.torch
import torch
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from conftest import root
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.workshop.runs import PRESETS
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.hub import facts, model_card
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
    for name, files in dict(nested=nested, flat=flat).items():
        folder = home/'hub'/f'models--a--{name}'/'snapshots'/SHA
        there = {str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file()}
        assert there=={*files}
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
    assert told['loss (eq. 14)']=='0.0650, mean up to step 11'
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
    assert told['loss (eq. 14)']=='0.4000, mean up to step 20'

@pytest.mark.parametrize('step', ['nan', 'inf', 400*'9', '', 'x'])
def test_a_log_with_a_step_that_is_none(run, capsys, step):
    tell(run, 20, [(10, .5)])
    with open(run/'log.csv', 'a') as f: f.write(f'{step},1,1,1\n')
    assert main(['info', str(run)])==2
    assert capsys.readouterr().err.count('log.csv is not the log of a run')==1

# ---------------------------------------------------------------- to the hub

TOKEN = dict(HF_TOKEN='hf_good', HF_HUB_DISABLE_XET='1')

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A short run on images of one's own"
    home = tmp_path_factory.mktemp('trained')
    photos = images(home/'My | photos', 30, (16, 24), 3)
    net, *rest, _, recipe = PRESETS['tiny']
    small = {**net, 'channels': 8}, *rest, lambda: Schedule.cosine(10), recipe
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
    for part in ('"My / photos", 30 images', '| licence of the data | CC0 |',
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
