"A run that is killed again and again ends with the same weights, bit for bit, as one that never was."
import os, random, signal, subprocess, time
import torch
from helpers import COMMAND
from ddpm_lit.checkpoints import load_tensors
from ddpm_lit.cli import main
from ddpm_lit.training import checkpoints, read_log

KILLS = int(os.environ.get('KILLS', 3))   # more by hand
STEPS = max(105, 40*KILLS)
ARGS = ['train', 'digits', '--preset', 'tiny', '--batch', '16', '--accumulate', '2', '--workers', '2', '--save-every', '15', '--steps', str(STEPS)]

def newest(out) -> int: return int(checkpoints(out)[0].stem.split('-')[1]) if checkpoints(out) else 0

def stopped(out, when: str, delay: float, resume: bool):
    "Start or go on, and end it: at any moment, in the middle of writing a checkpoint, or with Ctrl-C after one"
    reached = newest(out)
    p = subprocess.Popen([*COMMAND, *ARGS, '--out', str(out), *['--resume']*resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    def wait(for_what):
        while not for_what(): assert p.poll() is None, p.stderr.read().decode(); time.sleep(.001)
    if when!='any': wait(lambda: newest(out)>reached)
    time.sleep(delay if when!='any' else 10*delay)
    if when=='writing': wait(lambda: any(f.startswith('.step-') for f in os.listdir(out/'checkpoints')))
    p.send_signal(signal.SIGINT if when=='Ctrl-C' else signal.SIGKILL)
    assert p.wait(60)==(130 if when=='Ctrl-C' else -signal.SIGKILL), p.stderr.read().decode()

def test_killed_and_resumed_is_bit_equal(tmp_path):
    rng, out = random.Random(time.time_ns()), tmp_path/'killed'
    assert main([*ARGS, '--out', str(tmp_path/'whole')])==0
    for k in range(KILLS):
        when = ('any', 'writing', 'Ctrl-C')[k%3]
        stopped(out, when, rng.uniform(0, .4), resume=(out/'train.json').exists())
        print(f'kill {k+1} ({when}): newest checkpoint at step {newest(out)}', flush=True); assert newest(out)<STEPS
    assert main([*ARGS, '--out', str(out), '--resume'])==0
    a, b = (load_tensors(checkpoints(d)[0])[0] for d in (tmp_path/'whole', out))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [r['step'] for r in read_log(out/'log.csv')]==list(range(10, STEPS+1, 10))
