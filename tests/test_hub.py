"Models by name from the Hugging Face hub: a server on this machine that answers like it, and its cache."
import json, os, re, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import huggingface_hub, pytest, safetensors.torch, torch
from conftest import root
from helpers import awake
from ddpm_lit import DDPM, Schedule, UNet

SHA, WEIGHTS = 40*'a', 'diffusion_pytorch_model.safetensors'

class Hub(BaseHTTPRequestHandler):
    "The few addresses of the hub that a download asks for"
    models, asked = {}, []   # name: {file: bytes}, or the status and error code that it answers with
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
        self.answer(200, dict(_id=name, id=name, modelId=name, sha=SHA, private=False, siblings=[dict(rfilename=f) for f in files]))
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
from ddpm_lit.cli import main
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
    assert 'folder    b/local\n' in said[2][1] and 'b/other is not a model' in said[3][2]   # a folder always wins
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
