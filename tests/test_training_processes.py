"Several processes are one run: the losses and the weights of one; and a process that is killed costs nothing but time."
import os, subprocess, sys, time
import psutil, pytest, torch
from PIL import Image
from helpers import COMMAND
from ddpm_lit.checkpoints import load_tensors
from ddpm_lit.cli import main
from ddpm_lit.training import checkpoints, read_log

TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--max-restarts', '2', '--monitor-interval', '.1', '--no-python', '--', *COMMAND]
ARGS = ['train', 'digits', '--preset', 'tiny', '--steps', '30', '--batch', '8', '--save-every', '10', '--accumulate', '2', '--mixed-precision', 'no', '--tracker', 'none', '--out']
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='no gloo')

def weights(run): return load_tensors(checkpoints(run)[0])[0]
def start(*args): return subprocess.Popen([*TWO, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    "A run by two processes"
    p = start(*ARGS, out := tmp_path_factory.mktemp('pair')/'run'); said = p.communicate(timeout=120)[0]
    assert p.returncode==0, said
    assert said.count('weights, T = 100')==said.count('step 30 of 30 saved')==1   # one of them speaks
    return out

def test_two_processes_are_one(pair, tmp_path):
    assert main([*ARGS, str(tmp_path/'one')])==0
    for a, b in zip(read_log(tmp_path/'one'/'log.csv'), read_log(pair/'log.csv'), strict=True):
        assert a['step']==b['step'] and abs(a['loss']-b['loss'])<1e-5*a['loss'], (a, b)
    for f in ('samples.png', 'previews/step-000000010.png'): assert Image.open(pair/f).size==Image.open(tmp_path/'one'/f).size

def test_a_killed_process_costs_nothing(pair, tmp_path):
    p = start(*ARGS, out := tmp_path/'run')
    while not checkpoints(out): time.sleep(.02); assert p.poll() is None, p.communicate()[0]
    second = [c for c in psutil.Process(p.pid).children() if c.environ().get('RANK')=='1']
    assert len(second)==1; second[0].kill(); at = checkpoints(out)[0].stem
    said = p.communicate(timeout=180)[0]
    assert p.returncode==0 and at!='step-000000030', said
    a, b = weights(out), weights(pair); assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r['step'] for r in read_log(out/'log.csv')]==[10, 20, 30]

def test_samples_are_shared_out_by_seed(tmp_path):
    args = ['sample', 'digits', '--n', '70', '--steps', '10', '--out']; p = start(*args, tmp_path/'two'); said = p.communicate(timeout=120)[0]
    assert p.returncode==0, said
    assert main([*args, str(tmp_path/'one')])==0
    one, two = ({f.name: f.read_bytes() for f in (tmp_path/d).iterdir()} for d in ('one', 'two')); assert one==two and len(one)==70
