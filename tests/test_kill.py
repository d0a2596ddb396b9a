"A run that is killed again and again ends with the same weights, bit for bit, as one that never was."
import os, random, signal, subprocess, time
import torch
from helpers import COMMAND, run
from ddpm_lit.checkpoints import load_tensors
from ddpm_lit.training import checkpoints, read_log

STEPS, KILLS = 90, int(os.environ.get('KILLS', 3))
ARGS = ['train', 'digits', '--preset', 'tiny', '--batch', '16', '--accumulate', '2', '--workers', '2', '--save-every', '9', '--steps', str(STEPS)]

def newest(out) -> int: return int(checkpoints(out)[0].stem.split('-')[1]) if checkpoints(out) else 0

def stopped(out, at: int, when: str, delay: float, resume: bool):
    "Start or go on, and end it after step `at`: at any moment, in the middle of writing a checkpoint, or with Ctrl-C"
    p = subprocess.Popen([*COMMAND, *ARGS, '--out', str(out), *['--resume']*resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    def wait(for_what):
        while not for_what(): assert p.poll() is None, p.stderr.read().decode(); time.sleep(.001)
    wait(lambda: newest(out)>=at); time.sleep(delay)
    if when=='writing': wait(lambda: any(f.startswith('.step-') for f in os.listdir(out/'checkpoints')))
    p.send_signal(signal.SIGINT if when=='Ctrl-C' else signal.SIGKILL)
    assert p.wait(60)==(130 if when=='Ctrl-C' else -signal.SIGKILL), p.stderr.read().decode()
    return newest(out)

def test_killed_and_resumed_is_bit_equal(tmp_path):
    rng, reached = random.Random(time.time_ns()), 0
    assert run(*ARGS, '--out', tmp_path/'whole').returncode==0
    for k in range(KILLS):
        when = ('any', 'writing', 'Ctrl-C')[k%3]
        reached = stopped(tmp_path/'killed', min(reached+rng.randint(1, 2*STEPS//KILLS-1), STEPS-12), when, rng.uniform(0, .3), resume=k>0)
        print(f'kill {k+1} ({when}): newest checkpoint at step {reached}'); assert reached<STEPS
    assert run(*ARGS, '--out', tmp_path/'killed', '--resume').returncode==0
    a, b = (load_tensors(checkpoints(tmp_path/d)[0])[0] for d in ('whole', 'killed'))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r['step'] for r in read_log(tmp_path/'killed'/'log.csv')]==list(range(10, STEPS+1, 10))
