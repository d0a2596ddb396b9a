"""Time ddpm_lit beside diffusers, denoising-diffusion-pytorch and this machine's limits; write
bench/results.json and nbs/benchmark.md.

Takes about half an hour on two cores and 12 GB of memory; leave the machine alone meanwhile. A
table made before on the same machine and with the same versions stays if it is not made
again."""
import argparse, datetime, json, os, platform, shutil, sys, tempfile, time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from bench import page
from bench.measure import Worker, call, take_turns
here = Path(__file__).parent

NETWORKS = dict(
    # the paper's
    cifar10=dict(channels=128, multipliers=(1, 2, 2, 2), groups=32),
    # what two cores can train in an evening
    small=dict(channels=32, multipliers=(1, 2, 2, 2), groups=32),
    # of the digits
    tiny=dict(size=(8, 8), image_channels=1, channels=32, multipliers=(1, 2), res_blocks=1,
        attention=(4,)))
LOOP = [('small', 64, True), ('tiny', 64, False)]
TRAIN = [('small', 64), ('cifar10', 16)]
SAMPLE = [(net, batch) for net in ('small', 'cifar10') for batch in (16, 1)]
SHIPPED, BF16, EXPERT = (
    f'diffusers, {how}' for how in ('as shipped', 'bf16 + channels_last', 'expert'))
LUCID = 'denoising-diffusion-pytorch, as shipped'
PLAIN, EXACT, OURS = 'ours, plain float32', 'ours, fast float32', 'ours, fast'
LIMITS = {   # by whether it is bfloat16
    False: 'limit: its convolutions alone, float32',
    True: 'limit: its convolutions alone, bfloat16'}
PACKAGES = 'torch', 'diffusers', 'denoising-diffusion-pytorch', 'ddpm_lit'
KINDS = ['limits', 'overhead', 'first', 'train', 'loop', 'sample']

# ---- the rows of each table

def contest(kind: str, net: dict, batch: int) -> dict:
    "The rows of a table; kind is 'train' or 'sample'"
    c = lambda who, **kw: call(f'{who}_{kind}', net=net, batch=batch, **kw)
    rows = {
        SHIPPED: c('diffusers'),
        BF16: c('diffusers', bf16=True),
        EXPERT: c('diffusers', bf16=True, compiled=True),
        LUCID: c('lucidrains'),
        PLAIN: c('ours', precision='float32', fast=False),
        EXACT: c('ours', precision='float32'),
        OURS: c('ours')}
    train = kind=='train'
    for bf16, name in LIMITS.items():
        rows[name] = call('convolutions', net=net, batch=batch, train=train, bf16=bf16)
    return rows

def empty() -> dict:
    return {
        'diffusers, DDPMScheduler.step': call('diffusers_empty'),
        'denoising-diffusion-pytorch, p_sample': call('lucidrains_empty'),
        'ours, sample': call('ours_empty'),
        'limit: coefficients known, all in place': call('floor_empty')}

def loops(net: str, batch: int, fast: bool) -> dict:
    task = dict(net=NETWORKS[net], batch=batch, fast=fast)
    return {
        'bare loop': call('bare_loop', **task),
        'whole loop, `train`': call('whole_loop', **task)}

def kernels() -> dict:
    rows = {}
    for c, s in ((128, 32), (256, 8)):
        for d, l in (('float32', 'contiguous_format'), ('float32', 'channels_last'),
                ('bfloat16', 'channels_last')):
            name = f'convolution 3 x 3, {c} channels, 16 x {s} x {s}, {d}, {l}'
            rows[name] = call('convolution', dtype=d, c=c, side=s, layout=l)
    for d in ('float32', 'bfloat16'):
        rows[f'matrix product 2048 x 2048, {d}'] = call('matmul', dtype=d)
    rows['copy of 144 MB'] = call('copy')
    return rows

# ---- this computer

def installed(name: str) -> str|None:
    try: return version(name)
    except PackageNotFoundError: return None

def machine() -> dict:
    "What the numbers depend on: the processor, the memory, the versions"
    cpu, flags, memory = platform.processor() or platform.machine(), '', None
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        info = dict(l.split(':', 1) for l in lines if ':' in l)
        info = {k.strip(): v.strip() for k, v in info.items()}
        cpu, flags = info.get('model name', cpu), info.get('flags', '').split()
        memory = round(os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30)
    except (OSError, ValueError): pass
    if hasattr(os, 'sched_getaffinity'): cores = len(os.sched_getaffinity(0))
    else: cores = os.cpu_count()
    units = dict(
        avx2='AVX2', avx512f='AVX-512', avx512_bf16='AVX-512 bf16', amx_bf16='AMX bf16')
    return dict(cpu=cpu, cores=cores, memory_GiB=memory,
        units=[name for flag, name in units.items() if flag in flags],
        system=platform.system(), python=platform.python_version(),
        threads=os.environ.get('OMP_NUM_THREADS'),
        **{p: installed(p) for p in PACKAGES})

def present(rows: dict) -> dict:
    "Without the rows of peers that are not installed"
    missing = tuple(p+',' for p in PACKAGES if not installed(p))
    return {n: b for n, b in rows.items() if not n.startswith(missing)}

# ---- the tables

def first_steps(rows: dict, cache: callable) -> dict:
    "Start each row twice: with an empty and with a filled compiler cache"
    got = {}
    for name, build in rows.items():
        shutil.rmtree(cache(name)['TORCHINDUCTOR_CACHE_DIR'], ignore_errors=True)
        try:
            for key in 'empty', 'filled':
                w = Worker(build, 1e-3, cache(name))
                w.close()
                got.setdefault(name, {})[key] = w.facts['first']
        except RuntimeError as e:
            print(f'  {name}: skipped\n{e}')
            got.pop(name, None)
    return got

def tables(quick: bool, only: list[str], caches: Path):
    "Make the tables one by one: key, the rows there should be, and those there are"
    repeats, train, sample = (3, TRAIN[:1], SAMPLE[:1]) if quick else (7, TRAIN, SAMPLE)
    def cache(kind, net):
        "For each row of a table a folder for what it compiles"
        def env(name):
            d = caches/f'{kind}-{net}-{"".join(filter(str.isalnum, name))}'
            d.mkdir(parents=True, exist_ok=True)
            return dict(TORCHINDUCTOR_CACHE_DIR=str(d))
        return env

    # The machine, and samplers without a network.
    if 'limits' in only: yield 'limits', kernels(), take_turns(kernels(), repeats, .2)
    if 'overhead' in only: yield 'overhead', empty(), take_turns(present(empty()), repeats)

    # Training: the first step, the others, and the loop around them.
    for net, batch in train:
        rows, env = contest('train', NETWORKS[net], batch), cache('train', net)
        some = {n: rows[n] for n in (SHIPPED, EXPERT, PLAIN, OURS)}
        if 'first' in only:
            yield f'first/{net}', some, first_steps(present(some), env)
        if 'train' in only:
            yield f'train/{net}/{batch}', rows, take_turns(present(rows), repeats, env=env)
    for net, batch, fast in LOOP:
        if 'loop' not in only: continue
        rows, env = loops(net, batch, fast), cache('loop', net)
        yield f'loop/{net}/{batch}', rows, take_turns(rows, 5*repeats, env=env)

    # Drawing.
    for net, batch in sample:
        if 'sample' not in only: continue
        rows, env = contest('sample', NETWORKS[net], batch), cache('sample', net)
        yield f'sample/{net}/{batch}', rows, take_turns(present(rows), repeats, env=env)

def main(
    argv: list[str]|None = None,
    json_file: Path = here/'results.json',
    page_file: Path = here.parent/'nbs'/'benchmark.md',
):
    # What is wanted.
    ap = argparse.ArgumentParser(prog='python -m bench', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--quick', action='store_true',
        help='one small training and one small sampling table, three repeats: a few minutes')
    ap.add_argument('--only', default=','.join(KINDS), metavar='TABLES',
        help=f'some of {",".join(KINDS)}')
    a = ap.parse_args(argv)
    only = a.only.split(',')
    if not {*only} <= {*KINDS}: ap.error(f'--only takes some of {",".join(KINDS)}')
    command = ' '.join(['python -m bench', *(sys.argv[1:] if argv is None else argv)])

    # What is here: packages, and tables that were made on this machine.
    start, here_now = time.time(), machine()
    for p in PACKAGES:
        if not here_now[p]: print(f'{p} is not installed: its rows are left out')
    try: old = json.loads(json_file.read_text())
    except (OSError, ValueError): old = {}
    made = old.get('tables', {}) if old.get('machine')==here_now else {}
    results = dict(machine=here_now, tables=made)

    # Each table is written as soon as it is made.
    with tempfile.TemporaryDirectory(prefix='bench-') as caches:
        for key, wanted, rows in tables(a.quick, only, Path(caches)):
            if not rows:
                print(f'{key}: no row could be made')
                continue
            made[key] = dict(date=datetime.date.today().isoformat(), command=command,
                rows=page.compare(rows), skipped=[n for n in wanted if n not in rows])
            json_file.write_text(json.dumps(results, indent=1)+'\n')
            page_file.write_text(page.page(results))
            print(f'\n{page.table(key, made[key])}')
            print(f'({time.time()-start:.0f} s so far)', flush=True)
    print(f'written: {json_file} and {page_file}')

if __name__=='__main__': main()
