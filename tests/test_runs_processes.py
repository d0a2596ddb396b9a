"""Several processes are one run: the losses and the weights of one; and a process that is
killed costs nothing but time."""
import os, re, signal, subprocess, sys
import pytest, torch
from PIL import Image
from helpers import COMMAND
from ddpm_lit.data import Images
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import load
from ddpm_lit.training import as_often, draw
from ddpm_lit.workshop import runs as module
from ddpm_lit.workshop.runs import HELD_OUT_FIELDS, Interrupted, read_log
from runs import RUNS, first_difference, in_two_processes, newest, one_thread, trained

TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
    '--max-restarts', '2', '--monitor-interval', '.1', '--no-python', '--']
ARGS = ['train', 'digits', '--preset', 'tiny', '--steps', '20', '--batch', '8', '--lr', '4e-4',
    '--save-every', '10', '--accumulate', '2', '--validate', '.05',
    '--mixed-precision', 'no', '--tracker', 'none', '--out']
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='no gloo')

def said_by_two(*command) -> str:
    "What two processes with this command say"
    p = subprocess.run([*TWO, *map(str, command)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert p.returncode==0, p.stdout
    return p.stdout

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    "A run by two processes"
    out = tmp_path_factory.mktemp('pair')/'run'
    said = said_by_two(*COMMAND, *ARGS, out)
    # one of them speaks
    assert said.count('weights, T = 100')==said.count('step 20 of 20 saved')==1
    return out

def test_two_processes_are_one(pair, tmp_path):
    assert main([*ARGS, str(tmp_path/'one')])==0
    for a, b in zip(read_log(tmp_path/'one'/'log.csv'), read_log(pair/'log.csv'), strict=True):
        assert a['step']==b['step'] and abs(a['loss']-b['loss'])<1e-5*a['loss'], (a, b)
    one, two = (
        read_log(run/'held_out.csv', HELD_OUT_FIELDS) for run in (tmp_path/'one', pair))
    for a, b in zip(one, two, strict=True):
        assert all(abs(a[k]-b[k])<=1e-4*a[k] for k in ('step', 'trained_on', 'held_out'))
    for f in ('samples.png', 'previews/step-000000010.png'):
        assert Image.open(pair/f).size==Image.open(tmp_path/'one'/f).size

class Counted(Images):
    "Images that count how many of them are read"
    read = 0
    @classmethod
    def of(cls, data: Images): return cls(data.images, data.labels, flip=data.flip)
    def __getitem__(self, i):
        self.read += len(i)
        return super().__getitem__(i)

@pytest.mark.parametrize('often', [None, as_often(torch.arange(51.))])
@pytest.mark.parametrize('stratified', [False, True])
@pytest.mark.parametrize('world', [2, 4])
def test_parts_are_the_whole_and_each_image_is_read_once(world, stratified, often):
    digits, how = load('digits'), dict(batch=8, T=50, stratified=stratified, often=often)
    whole = draw(digits, 7, **how)
    for rank in range(world):
        data, part = Counted.of(digits), slice(rank, None, world)
        mine = draw(data, 7, **how, part=part)
        for a, b in zip(mine[:3], whole): assert torch.equal(a, b[part])
        assert torch.equal(mine.y['classes'], whole.y['classes'][part])
        assert data.read==8//world

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_from_one_to_two_and_back(tmp_path, monkeypatch):
    """The number of processes may change: exact while one trains, then but for rounding.
    Each reads its own images only"""
    digits, read = load('digits'), []
    def counted(data, step, **how):
        x = draw(data := Counted.of(data), step, **how)
        read.append(data.read)
        return x
    def stopped(at: int):
        def stop(_, step):
            if step==at: signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted): trained(digits, tmp_path/'run', on_save=stop)
    def share(rank: int):
        monkeypatch.setattr(module, 'draw', counted)
        stopped(6)
        assert read==[8//2]*3
    trained(digits, tmp_path/'whole')
    stopped(3)
    assert newest(tmp_path/'run')==4   # the flag is looked at after the next step
    assert in_two_processes(share)==[0, 0] and newest(tmp_path/'run')==7
    trained(digits, tmp_path/'run')
    assert first_difference(tmp_path/'whole', tmp_path/'run', rtol=1e-2) is None
    exact = first_difference(tmp_path/'whole', tmp_path/'run')
    assert exact is None or int(re.match(r'step (\d+)', exact)[1])>4, exact

@pytest.mark.soak
def test_a_killed_process_costs_nothing(pair, tmp_path):
    "The second is killed in its 14th step: both go on from the 10th"
    said = said_by_two(sys.executable, RUNS, 'step', 14, 'SIGKILL', *ARGS, tmp_path/'run')
    assert said.count('step 10 of 20 saved')==said.count('step 20 of 20 saved')==1
    assert first_difference(pair, tmp_path/'run') is None

@pytest.mark.soak
def test_samples_are_shared_out_by_seed(tmp_path):
    args = ['sample', 'digits', '--n', '70', '--steps', '10', '--out']
    said_by_two(*COMMAND, *args, tmp_path/'two')
    assert main([*args, str(tmp_path/'one')])==0
    one, two = ({f.name: f.read_bytes() for f in (tmp_path/d).iterdir()}
        for d in ('one', 'two'))
    assert one==two and len(one)==70
