"A model as ONNX and a table: the same answers, the same images, in batches of any size"
import json, re
from dataclasses import replace
from pathlib import Path
import numpy as np, onnx, onnxruntime, pytest, torch
from ddpm_lit import DDPM, Schedule, workshop
from ddpm_lit.denoiser import DiT
from ddpm_lit.sampling import SAMPLERS, sample
from ddpm_lit.unet import UNet, kinds_of
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.export import Bare, export, halved, inputs_of, table_of
from ddpm_lit.workshop.speed import fuse

def given_to(ddpm, n: int) -> dict[str, torch.Tensor]:
    "Something of everything that it takes, with times from 1 to T"
    g, shapes = torch.Generator().manual_seed(n), inputs_of(ddpm.unet)
    x = {k: torch.randn(n, *v.shape[1:], generator=g) for k, v in shapes.items()}
    x['t'] = torch.linspace(1, ddpm.schedule.T, n).long()
    if 'classes' in x: x['classes'] = torch.arange(n)%(ddpm.unet.config['classes']+1) - 1
    return x

def answers(path, ddpm, n: int) -> tuple[np.ndarray, np.ndarray]:
    "Of the exported network, and of the network"
    x = given_to(ddpm, n)
    net = onnxruntime.InferenceSession(path)
    got, = net.run(None, {k: v.numpy() for k, v in x.items()})
    told = {k: x[k] for k in kinds_of(ddpm.unet)}
    with torch.inference_mode(): want = ddpm.unet(x['x_t'], x['t'], told or None)
    return got, want.numpy()

def test_the_page_asks_for_what_the_table_holds():
    "The drawing itself takes a browser: tests/test_docs.py"
    holds = {*table_of(DDPM.from_pretrained('digits-class')), 'ways'}   # docs/models.py
    home = Path(workshop.__file__).parents[1]/'living'
    asked = {name for file in ('worker.js', 'sampler.js')
        for name in re.findall(r'\btable\.(\w+)', (home/file).read_text())}
    assert {'told', 'ways'} <= asked <= holds

@pytest.mark.soak   # the chapter does it with the digits
@pytest.mark.parametrize('name', ['mnist', 'cifar10-class', 'celeba-quarter'])
def test_shipped_models_answer_the_same(name, tmp_path):
    ddpm = DDPM.from_pretrained(name)
    path = export(ddpm, tmp_path)
    for n in (1, 5):
        got, want = answers(path, ddpm, n)
        assert np.abs(got-want).max()<1e-4
    # what ships is stored in float16: nothing is lost
    half = export(ddpm, tmp_path/'half', half=True)
    assert np.abs(answers(half, ddpm, 5)[0]-want).max()<1e-4
    assert half.stat().st_size<.55*path.stat().st_size
    assert b'ddpm_lit/' not in path.read_bytes()   # no file of the machine that wrote it

@pytest.mark.soak
@pytest.mark.parametrize('told', [dict(vector=3), dict(classes=4, picture=2)])
def test_whatever_it_is_told_is_an_input(told, tmp_path):
    net = UNet((8, 8), 1, 16, (1, 2), attention=(4,), res_blocks=1, **told)
    for p in net.parameters(): torch.nn.init.normal_(p, std=.1)
    ddpm = DDPM(net.eval(), Schedule.cosine(100))
    got, want = answers(export(ddpm, tmp_path), ddpm, 3)
    assert want.std()>.01 and np.abs(got-want).max()<1e-4
    rounded, _ = answers(export(ddpm, tmp_path/'half', half=True), ddpm, 3)
    assert np.abs(rounded-want).max()<.02*want.std()+1e-3
    assert json.loads((tmp_path/'sampler.json').read_text())['told']==kinds_of(ddpm.unet)

def test_a_half_keeps_what_is_multiplied_by_t(tmp_path):
    "With the width of the paper's network, and weights that float16 has exactly"
    net = UNet((8, 8), 1, 128, (1,), attention=(), res_blocks=1).eval()
    for p in net.parameters(): p.data = torch.randn(p.shape).mul(.1).half().float()
    ddpm = DDPM(net, Schedule.cosine(1000))
    given = given_to(ddpm, 6)
    whole = export(ddpm, tmp_path)
    half = whole.with_name('half.onnx')
    onnx.save(halved(onnx.load(whole)), half)
    a, b = (onnxruntime.InferenceSession(path).run(None, {k: v.numpy() for k, v in
        given.items()})[0] for path in (whole, half))
    assert half.stat().st_size<.6*whole.stat().st_size and np.array_equal(a, b)

def test_however_it_was_trained_it_is_written_plain():
    ddpm = DDPM.from_pretrained('digits')
    def kinds() -> list: return [type(part) for part in Bare(ddpm.unet).modules()]
    plain = kinds()
    fuse(ddpm.unet)   # as in a run with `fast`
    assert kinds()==plain

def test_a_program_is_told_what_nothing_is():
    net = UNet((8, 8), 1, 16, (1,), attention=(), res_blocks=1, picture=1).eval()
    table = table_of(DDPM(net, Schedule.cosine(5), picture='half'))
    assert table['picture']=='half' and 'nan for each number' in table['how']

def by_table(table: dict, ask, noise) -> np.ndarray:
    "As any program would draw that has read `how`"
    x, guesses = noise(), []
    for t, _, a, b, c, d, e, f, s in table['steps']:
        z = noise() if s else 0.
        if b:
            guess = a*x + b*ask(x, t)
            guesses = [guess.clip(-1, 1) if table['clip_x0'] else guess, *guesses[:2]]
        x = d*x + s*z + sum(w*g for w, g in zip((c, e, f), guesses))
    return x

@pytest.mark.parametrize('sampler', SAMPLERS)
def test_the_table_is_the_sampler(sampler, tmp_path):
    "Read back from JSON, in float64, with a network that answers by a formula"
    ddpm = DDPM.from_pretrained('digits').using(sampler, 12)
    table = json.loads(json.dumps(table_of(ddpm)))
    noise = np.random.default_rng(0).normal(size=(99, 4, *ddpm.shape))
    got = by_table(table, lambda x, t: np.tanh(x)*(t/100), iter(noise).__next__)
    again = iter(torch.tensor(noise))
    def net(x, t): return x.tanh()*(t.double()/100).reshape(-1, 1, 1, 1)
    *_, end = sample(net, ddpm.plan(), again.__next__, clip_x0=ddpm.clip_x0)
    assert np.abs(got-end.x_t.numpy()).max()<1e-9

def test_the_command(tmp_path, capsys):
    words = 'export digits --sampler dpm++ --steps 5 --half --out'.split()
    assert main([*words, str(tmp_path/'web')])==0
    assert 'dpm++, 5 steps' in capsys.readouterr().out
    onnx.checker.check_model(onnx.load(tmp_path/'web'/'unet.onnx'))
    table = json.loads((tmp_path/'web'/'sampler.json').read_text())
    assert len(table['steps'])==5 and table['shape']==[1, 8, 8] and table['T']==100
    before = (tmp_path/'web'/'unet.onnx').read_bytes()
    assert main([*words, str(tmp_path/'web')])==2
    assert 'is already there' in capsys.readouterr().err
    assert (tmp_path/'web'/'unet.onnx').read_bytes()==before

def test_refused_by_name(tmp_path, monkeypatch):
    ddpm = DDPM.from_pretrained('digits')
    other = replace(ddpm, unet=DiT((8, 8), 1, width=16, depth=1, heads=2))
    with pytest.raises(ValueError, match='only the U-Net'): export(other, tmp_path/'x')
    with pytest.raises(ValueError, match='before `fast'):
        export(ddpm.fast('float32'), tmp_path/'x')
    with pytest.raises(ValueError, match='or `measured'):
        export(ddpm.measured(torch.zeros(1, 4, 8), lambda x: x[:, :, :4]), tmp_path/'x')
    monkeypatch.setattr(workshop.export, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'ddpm_lit\[onnx\]'): export(ddpm, tmp_path/'x')
    assert not (tmp_path/'x').exists()
