"A run that is killed again and again ends with the same weights, bit for bit, as one that never was."
import random, subprocess, time
import torch
from helpers import COMMAND, run
from ddpm_lit.checkpoints import load_tensors
from ddpm_lit.training import checkpoints, read_log

STEPS = 90
ARGS = ['train', 'digits', '--preset', 'tiny', '--batch', '16', '--save-every', '7', '--steps', str(STEPS)]

def killed(out, at: int, delay: float, resume: bool):
    "Start or go on, and SIGKILL a moment after step `at`"
    p = subprocess.Popen([*COMMAND, *ARGS, '--out', str(out), *['--resume']*resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    newest = lambda: int(checkpoints(out)[0].stem.split('-')[1]) if checkpoints(out) else 0
    while newest()<at:
        assert p.poll() is None, p.stderr.read().decode()
        time.sleep(.02)
    time.sleep(delay); p.kill(); p.wait()
    return newest()

def test_killed_and_resumed_is_bit_equal(tmp_path):
    rng = random.Random(time.time_ns()); reached = 0
    assert run(*ARGS, '--out', tmp_path/'whole').returncode==0
    for k in range(6):
        reached = killed(tmp_path/'killed', at=max(1, min(7*k, reached+7)), delay=rng.uniform(0, .6), resume=k>0)
        print(f'kill {k+1}: newest checkpoint at step {reached}'); assert reached<STEPS
    assert run(*ARGS, '--out', tmp_path/'killed', '--resume').returncode==0
    a, b = (load_tensors(checkpoints(tmp_path/d)[0])[0] for d in ('whole', 'killed'))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r['step'] for r in read_log(tmp_path/'killed'/'log.csv')]==list(range(10, STEPS+1, 10))
