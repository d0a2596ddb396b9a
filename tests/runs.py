"""Where two runs begin to differ, and runs that end at a known place.

As a script it is the command, ended: python tests/runs.py WHERE STEP SIGNAL train digits ...
"""
import os, signal, socket, sys, traceback
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial, wraps
from pathlib import Path
from collections.abc import Callable
import numpy as np, pytest, torch
from ddpm_lit import DDPM, UNet
from ddpm_lit.workshop.weights import load_tensors
from ddpm_lit.workshop import runs
from ddpm_lit.workshop.speed import can_compile
from ddpm_lit.workshop.runs import PRESETS, Recipe, Training, checkpoints, read_log, train

RUNS = Path(__file__)
CLOCK = 'images_per_second', 'seconds'   # columns of the log that are no part of the run

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """A forked process cannot use the threads of this one, and with other threads sums have
    another order"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

def small() -> tuple[DDPM, Recipe]:
    """The preset `small` with all its options but a smaller network, not compiled, and nine
    steps"""
    usual = PRESETS['small']
    torch.manual_seed(0)
    unet = UNet((8, 8), 1, channels=8, multipliers=(1, 2), attention=(), res_blocks=1)
    recipe = replace(usual.recipe.scaled(9), batch=8, fast=False)
    assert recipe.stratified and recipe.cooldown and recipe.precision=='auto'
    return DDPM(unet, usual.schedule()), recipe

def trained(digits, out: Path, ddpm: DDPM|None = None, **how) -> DDPM:
    "`small`, from the beginning or from where it stopped"
    new, recipe = small()
    how = dict(save_every=3, log_every=1, keep=99) | how
    return train(ddpm or new, digits, recipe, out, bool(checkpoints(out)), **how)

def step_of(checkpoint: Path) -> int: return int(checkpoint.stem.split('-')[1])
def newest(run: Path) -> int: return max(map(step_of, checkpoints(run)), default=0)
def weights(run: Path) -> dict: return load_tensors(checkpoints(run)[0])[0]

def rows(run: Path) -> dict[int, dict]:
    "By step, what the log says of the run itself"
    return {r['step']: {k: v for k, v in r.items() if k not in CLOCK}
        for r in read_log(run/'log.csv')}

def other_number(a: dict, b: dict, rtol: float) -> str|None:
    "The first column in which two rows of the log differ by more than a share of `rtol`"
    return next((f'{k} is {a[k]} and {b[k]}' for k in a
        if not np.isclose(a[k], b[k], rtol, 0, equal_nan=True)), None)

def other_tensor(a: Path, b: Path) -> str|None:
    "The first tensor in which two checkpoints differ"
    a, b = load_tensors(a)[0], load_tensors(b)[0]
    if a.keys()!=b.keys(): return f'{min(a.keys() ^ b.keys())} is in one of them only'
    return next((f'{k} differs' for k in sorted(a) if not torch.equal(a[k], b[k])), None)

def first_difference(
    a: Path, b: Path,
    rtol: float = 0.,   # more than 0: only the log is compared, to this share
    log: bool = True,   # False: only the checkpoints, if one was ended between two rows
) -> str|None:          # None: they are one run
    "The first step at which the logs or the checkpoints of two runs differ, and in what"
    rows_a, rows_b = (rows(r) if log else {} for r in (a, b))
    saved_a, saved_b = ({step_of(p): p for p in checkpoints(r)} for r in (a, b))
    for step in sorted(rows_a.keys() | rows_b.keys() | saved_a.keys() & saved_b.keys()):
        if (step in rows_a)!=(step in rows_b): return f'step {step}: in one log only'
        what = step in rows_a and other_number(rows_a[step], rows_b[step], rtol)
        if not what and not rtol and step in saved_a and step in saved_b:
            what = other_tensor(saved_a[step], saved_b[step])
        if what: return f'step {step}: {what}'
    if newest(a)!=newest(b): return f'step {min(newest(a), newest(b))}: one of them ends here'

@contextmanager
def ended(where: str, step: int, number: int):
    """While this is open, a run gets a signal in a 'step', while 'writing' the checkpoint of
    one, or when it is 'saved'"""
    update, save = Training.update, Training.save
    stops, save_tensors, sync = runs._stops, runs.save_tensors, os.fsync
    def end(): os.kill(os.getpid(), number)
    def begin(state):   # the steps of a trial before are none of the run
        Training.update = ending_update
        return stops(state)
    def ending_update(state, *drawn):
        if where=='step' and state.step==step-1: end()
        return update(state, *drawn)
    def ending_sync(file):
        os.fsync = sync   # once: the folder is synced after the file
        if number==signal.SIGKILL:
            os.ftruncate(file, os.fstat(file).st_size//2)   # half of it is on the disk
        end()
        sync(file)
    def ending_save_tensors(path, *given):
        if where=='writing' and step_of(path)==step: os.fsync = ending_sync
        save_tensors(path, *given)
        os.fsync = sync
    def ending_save(state, *given):
        save(state, *given)
        if where=='saved' and state.step==step: end()
    Training.save = ending_save
    runs._stops, runs.save_tensors = begin, ending_save_tensors
    try: yield
    finally:
        Training.update, Training.save = update, save
        runs._stops, runs.save_tensors = stops, save_tensors

def forked(work: Callable) -> int:
    "The id of a new process that does `work`"
    pid = os.fork()
    if pid: return pid
    try: work()
    except BaseException: traceback.print_exc()
    else: os._exit(0)
    os._exit(1)

def exit_code(pid: int) -> int:
    "Of a process that has ended; minus the signal if one has ended it"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def apart(test: Callable) -> Callable:
    """The test in a process of its own: one that has compiled anything has threads, and is no
    longer safe to fork"""
    @wraps(test)
    def run(*args, **kw): assert exit_code(forked(partial(test, *args, **kw)))==0
    return run

@cache
def _can_compile() -> bool:
    def ask(): os._exit(not can_compile('cpu'))
    return exit_code(forked(ask))==0

def compiled(test: Callable) -> Callable:
    "The test in a process of its own, if there is a compiler"
    @wraps(test)
    def run(*args, **kw):
        if not _can_compile(): pytest.skip('torch.compile finds no compiler')
        apart(test)(*args, **kw)
    return run

def in_two_processes(work: Callable) -> list[int]:
    "The exit codes of two processes that share `work`"
    from accelerate.state import AcceleratorState
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    def share(rank: int):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        AcceleratorState._reset_state(True)   # it is that of the process which forked
        work(rank)
    return [*map(exit_code, [forked(partial(share, rank)) for rank in range(2)])]

if __name__=='__main__':
    from ddpm_lit.workshop.cli import main
    where, step, name, *args = sys.argv[1:]
    # of several processes the second
    first = (os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')=='0'
        and os.environ.get('RANK', '1')=='1')
    with ended(where, int(step), signal.Signals[name]) if first else nullcontext():
        sys.exit(main(args))
