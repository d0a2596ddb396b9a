"""One process per candidate, turns over all of them; a repeat during which the machine did
something else is thrown away."""
import multiprocessing, os, resource, statistics, sys, time, traceback
from functools import partial
from collections.abc import Callable

# ---- in the candidate's process

def busy() -> float|None:
    """CPU seconds that all processes together have used since the machine started, stolen ones
    too; None if it does not say"""
    try:
        with open('/proc/stat') as f:
            user, nice, system, idle, wait, *rest = map(int, f.readline().split()[1:9])
    except OSError: return None
    return (user+nice+system+sum(rest))/os.sysconf('SC_CLK_TCK')

def own() -> float:
    "CPU seconds of this process, with its children"
    return time.process_time() + sum(os.times()[2:4])

def peak() -> float:
    "The most memory that this process has had since `forget_peak`, in MB"
    try:
        with open('/proc/self/status') as f:
            return next(int(l.split()[1]) for l in f if l.startswith('VmHWM'))/1024
    except OSError:
        unit = 2**20 if sys.platform=='darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit

def forget_peak():
    try:
        with open('/proc/self/clear_refs', 'w') as f: f.write('5')
    except OSError: pass   # then it is the peak of the whole life of the process

before = 0.
def begin():
    "A candidate calls this when its imports are done: its memory counts from here"
    global before
    forget_peak()
    before = peak()

def repeat(run: Callable, n: int) -> dict:
    "Time `run(n)`"
    forget_peak()
    b, o, t = busy(), own(), time.perf_counter()
    run(n)
    dt = time.perf_counter()-t
    others = 0 if b is None else (busy()-b-(own()-o))/dt
    clean = others < .06+.011/dt   # /proc/stat counts in 10 ms
    return dict(seconds=dt/n, others=round(others, 3), clean=clean, peak=max(0, peak()-before))

def enough(run: Callable, min_time: float) -> int:
    "How many steps take `min_time` seconds; at most 1000, which is the longest chain"
    n, dt = 1, 0
    while dt<min_time/3 and n<1000:
        n = min(1000, max(2*n, int(n*min_time/2/dt)) if dt else n)
        t = time.perf_counter()
        run(n)
        dt = time.perf_counter()-t
    return min(1000, max(1, round(n*min_time/dt)))

def serve(pipe, build: Callable, min_time: float, born: float):
    """The life of a candidate's process: build, first step, then one repeat for each message
    until the pipe closes"""
    try:
        import torch
        torch.manual_seed(0)
        begin()
        run, facts = build()
        run(1)
        first = time.time()-born
        n = enough(run, min_time)
        pipe.send(dict(facts, first=first, threads=torch.get_num_threads()))
        while pipe.recv()=='go': pipe.send(repeat(run, n))
    except (EOFError, KeyboardInterrupt): pass
    except Exception: pipe.send(dict(error=traceback.format_exc()))

def call(name: str, **kw) -> Callable:
    """The candidate `bench.candidates.name` with these arguments, imported by the process that
    runs it"""
    return partial(_call, name, kw)
def _call(name, kw):
    from bench import candidates
    return getattr(candidates, name)(**kw)

# ---- in the parent, which never loads torch

class Worker:
    """A candidate in a process of its own, ready for `repeat`; `facts` is what it says of
    itself"""
    def __init__(self,
        # () -> (run, facts); run(n) does n steps; must be importable in another process
        build: Callable,
        min_time: float = .5,   # seconds that a repeat should take at least
        env: dict = {},         # environment variables of the process
    ):
        context, old = multiprocessing.get_context('spawn'), dict(os.environ)
        self.pipe, theirs = context.Pipe()
        args = theirs, build, min_time, time.time()
        self.process = context.Process(target=serve, args=args)
        os.environ.update(env)
        try: self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(old)
        theirs.close()
        self.facts = self.answer()

    def answer(self) -> dict:
        try:
            if not self.pipe.poll(900): raise RuntimeError('no answer in 15 minutes')
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            answer = dict(error=f'the process ended ({self.process.exitcode})')
        except RuntimeError as e: answer = dict(error=str(e))
        if 'error' in answer:
            self.close()
            raise RuntimeError(answer['error'])
        return answer

    def repeat(self) -> dict:
        self.pipe.send('go')
        return self.answer()

    def close(self):
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

def take_turns(
    builds: dict[str, Callable],   # by name, in the order of the table
    repeats: int,                  # clean ones wanted of each
    min_time: float = .5,
    env: Callable = lambda name: {},   # environment of a candidate's process
    tries: int = 4,                # for each repeat
    say: Callable = print,
) -> dict[str, dict]:   # by name: facts and `summary`; of those that work
    "Start a process per candidate, go round them `repeats` times, and sum up"
    workers, got = {}, {}
    try:
        for name, build in builds.items():
            try:
                workers[name], got[name] = Worker(build, min_time, env(name)), []
                say(f'  {name}: first step after {workers[name].facts["first"]:.1f} s')
            except RuntimeError as e: say(f'  {name}: skipped\n{e}')
        for _ in range(repeats):
            for name in [*workers]:
                try:
                    for _ in range(tries):
                        time.sleep(.1)   # threads of the one before stop spinning
                        got[name].append(workers[name].repeat())
                        if got[name][-1]['clean']: break
                except RuntimeError as e:
                    say(f'  {name}: dropped\n{e}')
                    del workers[name], got[name]
        return {name: dict(workers[name].facts, **summary(got[name])) for name in workers}
    finally:
        for w in workers.values(): w.close()

def summary(repeats: list[dict]) -> dict:
    "`median` seconds a step and `peak` MB of the clean repeats; if there is none, of all"
    clean = [r for r in repeats if r['clean']] or repeats
    seconds = [r['seconds'] for r in clean]
    half_range = (max(seconds)-min(seconds))/2 if seconds[1:] else None
    return dict(median=statistics.median(seconds), spread=half_range,
        peak=max(r['peak'] for r in clean), clean=sum(r['clean'] for r in repeats),
        tried=len(repeats), repeats=repeats)
