"""A run that is ended, in whatever way, and goes on is the run that never was ended, bit for
bit."""
import os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from ddpm_lit import DDPM
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop.runs import Interrupted, checkpoints
from runs import (RUNS, ended, exit_code, first_difference, forked, newest, one_thread, rows,
    small, step_of, trained)

POLITE = ['SIGINT', 'SIGTERM', 'SIGHUP']
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'),
    reason='signals and forks of another kind')

@pytest.fixture(scope='module')
def digits(): return load('digits')

@pytest.fixture
def hangup():
    "SIGHUP as in a terminal, whoever runs the tests under nohup"
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, old)

@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    trained(digits, out)
    return out

def test_the_first_difference_is_named(digits, whole, tmp_path):
    ddpm, _ = small()
    def spoil(_, step):
        if step==6: ddpm.unet.conv_in.bias.data[0] += 1e-3
    trained(digits, tmp_path/'other', ddpm, on_save=spoil)
    assert first_difference(whole, tmp_path/'other').startswith('step 7: ')
    trained(digits, tmp_path/'same', save_every=4)   # saved at other steps
    assert first_difference(whole, tmp_path/'same') is None

@pytest.mark.parametrize('name', POLITE)
def test_a_polite_end(digits, whole, tmp_path, hangup, name):
    "Between two checkpoints: the step is finished and saved"
    number = getattr(signal, name)
    def twice(*_):   # a shell sends SIGHUP again
        assert callable(signal.getsignal(number)), f'{name} ends a run at once'
        os.kill(os.getpid(), number)
        if name=='SIGHUP': os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match='stopped at step 5 of 9') as e:
        trained(digits, tmp_path/'run', first_save=4,
            on_save=lambda _, step: step==4 and twice())
    assert [step_of(p) for p in checkpoints(tmp_path/'run')]==[5, 4, 3]
    saved = DDPM.from_pretrained(tmp_path/'run').unet.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in e.value.model.unet.state_dict().items())
    trained(digits, tmp_path/'run')
    assert first_difference(whole, tmp_path/'run') is None

def test_nohup(digits, tmp_path, hangup):
    "Who ignores SIGHUP does not want to stop"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended('step', 5, signal.SIGHUP): trained(digits, tmp_path/'run')
    assert newest(tmp_path/'run')==9

@pytest.mark.parametrize('where,step,kept',
    [('step', 5, 3), ('writing', 6, 3), ('saved', 6, 6)])
def test_killed(digits, whole, tmp_path, where, step, kept):
    def run():
        with ended(where, step, signal.SIGKILL): trained(digits, tmp_path/'run')
    assert exit_code(forked(run))==-signal.SIGKILL
    assert newest(tmp_path/'run')==kept
    files = [p.name for p in (tmp_path/'run'/'checkpoints').iterdir()]
    assert any(name.startswith('.step-') for name in files)==(where=='writing')
    trained(digits, tmp_path/'run')
    assert first_difference(whole, tmp_path/'run') is None

def test_killed_before_the_first_checkpoint(digits, whole, tmp_path, capsys):
    def run():
        with ended('step', 2, signal.SIGKILL): trained(digits, tmp_path/'run')
    assert exit_code(forked(run))==-signal.SIGKILL
    trained(digits, tmp_path/'run')
    assert 'no checkpoint: the run begins at step 0' in capsys.readouterr().out
    assert first_difference(whole, tmp_path/'run') is None

def test_a_terminal_that_is_closed(digits, whole, tmp_path, monkeypatch):
    """As when a connection breaks: SIGHUP, and nowhere to write to. The bar does not end the
    run before it has saved"""
    import pty
    monkeypatch.delenv('IN_TEST')   # there is a bar
    pid, terminal = pty.fork()
    if not pid:
        sys.stdout, sys.stderr = (open(fd, 'w', buffering=1, closefd=False) for fd in (1, 2))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        closed = tmp_path/'closed'
        def wait(_, step):
            if step==4:
                print('step 4', flush=True)
                while not closed.exists(): time.sleep(.01)
        try: trained(digits, tmp_path/'run', first_save=4, on_save=wait)
        except Interrupted: os._exit(5)
        finally: os._exit(1)
    said = b''
    while b'step 4' not in said: said += os.read(terminal, 1000)
    assert b'4/9' not in said and b'3/9' in said   # the bar
    os.close(terminal)
    (tmp_path/'closed').touch()
    assert exit_code(pid)==5
    trained(digits, tmp_path/'run')
    assert first_difference(whole, tmp_path/'run') is None

# ---------------------------------------------------------------- the command

def command(out: Path, *args) -> list[str]:
    return ['train', 'digits', '--out', str(out), '--keep', '99', '--tracker', 'none',
        *map(str, args)]

def goes_on(out: Path, args: list, where: str, step: int, name: str):
    "Start or go on with a run, and end it at a known place"
    resume = ['--resume'] if (out/'train.json').exists() else []
    line = [sys.executable, RUNS, where, str(step), name, *command(out, *args, *resume)]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}   # as here: see `one_thread`
    p = subprocess.run(line, env=env, capture_output=True, text=True)
    number = getattr(signal, name)
    assert p.returncode==(-number if name=='SIGKILL' else 130), p.stderr

@pytest.mark.soak
def test_killed_again_and_again(tmp_path, hangup):
    "By chance, at a known place: `KILLS` says how often"
    kills, seed = int(os.environ.get('KILLS', 8)), random.randrange(10**6)
    print(f'{kills} kills with seed {seed}')
    rng, out, steps = random.Random(seed), tmp_path/'killed', 15*kills+15
    stops = set()
    args = ['--preset', 'tiny', '--batch', 16, '--accumulate', 2, '--workers', 2,
        '--steps', steps, '--save-every', 15]
    assert main(command(tmp_path/'whole', *args))==0
    for k in range(kills):
        where = rng.choice(['step', 'writing', 'saved'])
        name = rng.choice([*POLITE, 'SIGKILL', 'SIGKILL'])
        step = 15*(k+1) if where!='step' else newest(out)+rng.randrange(1, 16)
        print(f'from step {newest(out)}: {name}, {where} {step}', flush=True)
        goes_on(out, args, where, step, name)
        if name in POLITE: stops.add(newest(out))   # ends with a row of its own
    assert main([*command(out, *args), '--resume'])==0
    assert first_difference(tmp_path/'whole', out, log=False) is None
    assert [*rows(out)]==sorted(stops.union(rows(tmp_path/'whole')))

@pytest.mark.soak
def test_the_preset_as_a_user_gets_it(tmp_path, hangup):
    """Compiled, by Muon, with stratified times and a cooldown, in bfloat16 where the machine
    has it; ended by each signal"""
    # no previews
    args = ['--preset', 'laptop', '--steps', 40, '--batch', 8, '--compile', '--save-every', 40]
    assert main(command(tmp_path/'whole', *args))==0
    for k, name in enumerate([*POLITE, 'SIGKILL']):
        goes_on(tmp_path/'ended', args, 'step', 7+7*k, name)
    assert main([*command(tmp_path/'ended', *args), '--resume'])==0
    assert first_difference(tmp_path/'whole', tmp_path/'ended', log=False) is None
