"Models by name from the Hugging Face hub and to it: a server on this machine that answers like it, and its cache."
import base64, json, os, re, shutil, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import huggingface_hub, pytest, safetensors.torch, torch
from conftest import root
from helpers import awake, fingerprint, images
from ddpm_lit import DDPM, Schedule, UNet
from ddpm_lit.checkpoints import model_card
from ddpm_lit.workshop.cli import main
from ddpm_lit.training import PRESETS

SHA, WEIGHTS = 40*'a', 'diffusion_pytorch_model.safetensors'

class Hub(BaseHTTPRequestHandler):
    "The few addresses of the hub that a download or an upload asks for"
    models, asked = {}, []   # name: {file: bytes}, or the status and error code that it answers with
    made, blobs, private = {}, {}, set()   # name: what was asked for; the large files by their checksum
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        path = self.path.partition('?')[0].strip('/').removeprefix('api/models/').split('/')
        name, files = '/'.join(path[:2]), self.models.get('/'.join(path[:2]), (404, 'RepoNotFound')); self.asked.append('/'.join(path))
        if isinstance(files, tuple): return self.answer(files[0], b'{}', {'X-Error-Code': files[1]})
        if path[2:3]==['resolve']:
            file = '/'.join(path[4:]); body = files.get(file)
            if body is None: return self.answer(404, b'', {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': SHA})
            return self.answer(200, body, {'ETag': f'"{abs(hash((name, file)))}"', 'X-Repo-Commit': SHA})
        if path[2:3]==['tree']: return self.answer(200, [dict(type='file', path=f, size=len(b), oid=f) for f, b in files.items()])
        self.answer(200, dict(_id=name, id=name, modelId=name, sha=SHA, private=name in self.private, siblings=[dict(rfilename=f) for f in files]))
    def do_PUT(self):
        self.blobs[self.path.split('/')[-1]] = self.rfile.read(int(self.headers['Content-Length'])); self.answer(200, b'')
    def do_POST(self):
        body, path = self.rfile.read(int(self.headers['Content-Length'] or 0)), self.path.partition('?')[0]; self.asked.append('POST '+path); lines = [json.loads(l) for l in body.splitlines()]
        if status := {'Bearer hf_bad': 401, 'Bearer hf_read': 403}.get(self.headers['Authorization']): return self.answer(status, dict(error='no'))
        if path=='/api/validate-yaml': return self.answer(200, dict(errors=[], warnings=[]))
        if path=='/api/repos/create':
            name = f"{lines[0]['organization']}/{lines[0]['name']}"; self.made[name] = lines[0]; self.models.setdefault(name, {})
            if 'private' in (lines[0].get('visibility'), lines[0].get('private') and 'private') and name not in ('a/nested',): self.private.add(name)
            return self.answer(200, dict(url=f"http://{self.headers['Host']}/{name}"))
        if '/preupload/' in path: return self.answer(200, dict(files=[dict(path=f['path'], uploadMode='lfs' if f['path'].endswith('.safetensors') else 'regular', shouldIgnore=False) for f in lines[0]['files']]))
        if path.endswith('/objects/batch'):
            return self.answer(200, dict(transfer='basic', objects=[{**o, 'actions': dict(upload=dict(href=f"http://{self.headers['Host']}/put/{o['oid']}"))} for o in lines[0]['objects']]))
        name = '/'.join(path.split('/')[3:5]); assert '/commit/' in path
        for l in lines[1:]: self.models[name][l['value']['path']] = self.blobs[l['value']['oid']] if l['key']=='lfsFile' else base64.b64decode(l['value']['content'])
        self.answer(200, dict(success=True, commitUrl=f"http://{self.headers['Host']}/{name}/commit/{SHA}", commitOid=SHA, pullRequestUrl=None))
    def answer(self, status, body, headers={}):
        body = body if isinstance(body, bytes) else json.dumps(body).encode(); self.send_response(status)
        for k, v in {**headers, 'Content-Length': len(body), 'Content-Type': 'application/json'}.items(): self.send_header(k, v)
        self.end_headers(); self.command=='HEAD' or self.wfile.write(body)
    def log_message(self, *args): "No log"

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A small model, and its files in both layouts"
    ddpm, d = DDPM(awake(UNet((8, 8), channels=8, multipliers=(1, 2), attention=(4,), res_blocks=1)), Schedule.cosine(20)), tmp_path_factory.mktemp('model')
    ddpm.save_pretrained(d); nested = {str(f.relative_to(d)): f.read_bytes() for f in d.rglob('*') if f.is_file()}
    old = lambda k: k.replace('to_q', 'query').replace('to_k', 'key').replace('to_v', 'value').replace('to_out.0', 'proj_attn')
    flat = {f.split('/')[-1]: b for f, b in nested.items()}; flat[WEIGHTS] = safetensors.torch.save({old(k): v for k, v in ddpm.unet.state_dict().items()})
    return ddpm, nested, flat

@pytest.fixture(scope='module')
def hub(model):
    _, nested, flat = model; without = {f: b for f, b in flat.items() if f!=WEIGHTS}; other = json.dumps(dict(_class_name='StableDiffusionPipeline')).encode()
    Hub.models |= {'a/nested': {**nested, 'README.md': b'x', 'unet/diffusion_pytorch_model.bin': b'x', 'samples.zip': b'x'}, 'a/flat': flat,
        'a/pickle': {**without, 'diffusion_pytorch_model.bin': b'x'}, 'a/split': {**without, WEIGHTS+'.index.json': b'{}'}, 'a/half': {**without, WEIGHTS.replace('.s', '.fp16.s'): b'x'},
        'a/stable': {**nested, 'model_index.json': other}, 'a/bare': {f: b for f, b in flat.items() if f!='model_index.json'}, 'a/bert': {'config.json': b'{}', 'weights.h5': b'x'},
        'a/gated': (403, 'GatedRepo')}
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub); threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

def say(home, *commands, cwd=None, **env) -> list:
    "Exit code, output and complaint of each command, in one process with these variables"
    script = """import contextlib, io, json, sys
from ddpm_lit.workshop.cli import main
for c in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as o, contextlib.redirect_stderr(io.StringIO()) as e: code = main(c.split())
    print(json.dumps([code, o.getvalue(), e.getvalue()]))"""
    env = {**{k: v for k, v in os.environ.items() if not k.startswith('HF_')}, 'HF_HOME': str(home), 'NO_PROXY': '127.0.0.1', 'PYTHONPATH': str(root), 'HF_HUB_DISABLE_PROGRESS_BARS': '1', **env}
    r = subprocess.run([sys.executable, '-c', script, *commands], capture_output=True, text=True, cwd=cwd, env=env); assert r.returncode==0, r.stderr
    return [json.loads(l) for l in r.stdout.splitlines()]

def test_a_model_is_fetched_once(hub, model, tmp_path):
    ddpm, nested, flat = model; home, here = tmp_path/'hf', tmp_path/'here'; Hub.asked.clear()
    assert [c for c, *_ in say(home, 'info a/nested', 'info a/flat', HF_ENDPOINT=hub)]==[0, 0]
    assert [a for a in Hub.asked if 'README' in a or '.bin' in a or '.zip' in a]==[]   # nothing that is not needed
    for name, files in dict(nested=nested, flat=flat).items():
        d = home/'hub'/f'models--a--{name}'/'snapshots'/SHA; assert {str(f.relative_to(d)) for f in d.rglob('*') if f.is_file()}=={*files}
        back = DDPM.from_pretrained(d)
        for k, v in ddpm.unet.state_dict().items(): assert torch.equal(v, back.unet.state_dict()[k])
    made = home/'hub'/'models--b--made'; ddpm.save_pretrained(made/'snapshots'/SHA); (made/'refs').mkdir(); (made/'refs'/'main').write_text(SHA)   # as the cache is laid out
    ddpm.save_pretrained(here/'b'/'local'); (here/'b'/'other').mkdir(); Hub.asked.clear()
    said = say(home, 'sample a/flat --n 2 --out x.png', 'info b/made', 'info b/local', 'info b/other', 'info b/none', cwd=here, HF_ENDPOINT=hub, HF_HUB_OFFLINE='1')
    assert [c for c, *_ in said]==[0, 0, 0, 2, 2] and Hub.asked==[] and '45,259' in said[1][1] and (here/'x.png').exists()
    assert 'folder               b/local\n' in said[2][1] and 'b/other is not a model' in said[3][2]   # a folder always wins
    assert 'out of reach or switched off' in said[4][2]

def test_refusals_speak(hub, tmp_path):
    says = {'a/pickle': 'a pickle.*from_pretrained..a/pickle..', 'a/split': 'split over several', 'a/half': 'variant=.fp16.', 'a/stable': 'StableDiffusionPipeline, not a DDPMPipeline',
        'a/bare': 'no model_index.json', 'a/bert': 'no model_index.json', 'a/gated': 'consent.*huggingface.co/a/gated', 'a/none': 'does not exist, or is private', 'a/two--lines': 'a/two--lines'}
    Hub.asked.clear(); said = say(tmp_path/'hf', *(f'sample {n} --out x.png' for n in says), cwd=tmp_path, HF_ENDPOINT=hub)
    for (n, words), (code, out, err) in zip(says.items(), said, strict=True): assert code==2 and err.count('\n')==1 and re.search(words, err), (n, err)
    assert not any(a.endswith(('.bin', '.fp16.safetensors')) for a in Hub.asked) and not any(WEIGHTS in a for a in Hub.asked if 'stable' in a)

def test_without_a_network(tmp_path):
    [[code, _, err]] = say(tmp_path/'hf', 'sample a/nested --out x.png', cwd=tmp_path, HF_ENDPOINT='http://127.0.0.1:9')
    assert code==2 and err.count('\n')==1 and 'out of reach' in err, err

@pytest.mark.parametrize('name', ['nothing', 'a/b/c', './a/b', '../a', '/a/b', '~/a', 'a/', 'digit', 'a b/c'])
def test_other_names_never_touch_the_network(name, monkeypatch):
    def no(*a, **k): raise AssertionError('the network was asked')
    for f in ('hf_hub_download', 'snapshot_download', 'list_repo_files'): monkeypatch.setattr(huggingface_hub, f, no)
    with pytest.raises(ValueError, match='there is no model'): DDPM.from_pretrained(name)

# ---------------------------------------------------------------- publish
@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A short run on images of one's own"
    home = tmp_path_factory.mktemp('trained'); images(home/'My | photos', 30, (16, 24), 3)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('XDG_CACHE_HOME', str(home/'cache')); net, *rest, _, recipe = PRESETS['tiny']; m.setitem(PRESETS, 'tiny', ({**net, 'channels': 8}, *rest, lambda: Schedule.cosine(10), recipe))
        assert main(['train', str(home/'My | photos'), '--preset', 'tiny', '--steps', '20', '--batch', '4', '--out', str(home/'run')])==0
    return home/'run'

TOKEN = dict(HF_TOKEN='hf_good', HF_HUB_DISABLE_XET='1')

def test_push(hub, trained, tmp_path):
    "Exactly the model, the card and the picture arrive, and the lines on the card run"
    before = fingerprint(trained); Hub.asked.clear()
    said = say(tmp_path/'hf', f'push {trained} jo/photos --data-licence CC0', 'info jo/photos', HF_ENDPOINT=hub, **TOKEN)
    assert [c for c, *_ in said]==[0, 0] and f'{hub}/jo/photos' in said[0][1] and '16 x 24 pixels, RGB' in said[1][1], said
    there = Hub.models['jo/photos']; card = there['README.md'].decode(); assert fingerprint(trained)==before
    assert {*there}=={'model_index.json', 'unet/config.json', 'unet/'+WEIGHTS, 'scheduler/scheduler_config.json', 'samples.png', 'README.md'}
    assert all(there[f]==(trained/f).read_bytes() for f in there if f!='README.md')
    for part in ('"My / photos", 30 images', '| licence of the data | CC0 |', '16 x 24 pixels, RGB', '20 of 20 steps of 4 images |', '![samples](samples.png)', 'T = 10,'): assert part in card, card
    assert str(trained.parent) not in card and 'not finished' not in card
    data = huggingface_hub.ModelCard(card).data; assert data.library_name=='diffusers' and data.pipeline_tag in data.tags and 'ddpm' in data.tags
    shell, ours, theirs = re.findall(r'~~~\w+\n(.*?)~~~', card, re.S)
    [[code, *_]] = say(tmp_path/'hf', shell.strip().removeprefix('ddpm_lit '), cwd=tmp_path, HF_ENDPOINT=hub); assert code==0 and (tmp_path/'grid.png').exists()
    a, b = {}, {}; exec(ours.replace('jo/photos', str(trained)), a); exec(theirs.replace('jo/photos', str(trained)), b)
    assert a['x'].shape==(4, 3, 16, 24) and [i.size for i in b['images']]==[(24, 16)]*4

def test_the_card_of_an_unfinished_run(hub, trained, tmp_path):
    d = tmp_path/'run'; shutil.copytree(trained, d); told = json.loads((d/'train.json').read_text())
    (d/'train.json').write_text(json.dumps({**told, 'steps': 5000, 'data': 'celeba'})); (d/'samples.png').unlink()
    card = model_card(d, 'jo/x'); assert '20 of 5,000 steps of 4 images: **not finished**' in card and 'samples.png' not in card and 'non-commercial research only' in card and 'CelebA' in card
    for f in ('train.json', 'log.csv'): (d/f).unlink()
    shutil.rmtree(d/'checkpoints'); card = model_card(d, 'jo/x'); assert '| data | not stated |' in card and 'training' not in card

def test_a_private_model_stays_private(hub, trained, tmp_path):
    said = say(tmp_path/'hf', f'push {trained} jo/secret --private', f'push {trained} a/nested --private', f'push {trained} jo/open', HF_ENDPOINT=hub, **TOKEN)
    assert [c for c, *_ in said]==[0, 2, 0] and 'is public' in said[1][2] and 'jo/secret' in Hub.private and 'jo/open' not in Hub.private and 'README.md' in Hub.models['jo/open'] and Hub.models['a/nested']['README.md']==b'x'

def test_push_refuses(hub, trained, tmp_path):
    def no(*commands, **env):
        said = say(tmp_path/'hf', *commands, **{'HF_ENDPOINT': hub, **TOKEN, **env}); assert all(c==2 and err.count('\n')==1 for c, _, err in said), said
        return [err for *_, err in said]
    push = f'push {trained} jo/photos'; Hub.asked.clear(); a, b, c, d, e = no(f'push {trained} photos', push+'/of-me', push+'--x', f'push {tmp_path} jo/photos', 'push runs/none jo/photos')
    assert 'owner/model' in a and 'owner/model' in b and 'jo/photos--x' in c and 'holds no model' in d and 'holds no model' in e
    assert 'auth login' in no(push, HF_TOKEN='')[0] and Hub.asked==[]
    assert 'does not accept your token' in no(push, HF_TOKEN='hf_bad')[0] and 'may not write' in no(push, HF_TOKEN='hf_read')[0] and 'out of reach' in no(push, HF_ENDPOINT='http://127.0.0.1:9')[0]
