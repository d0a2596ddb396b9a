"nbs/benchmark.md from bench/results.json."
TITLES = dict(   # in the order of the page
    train='A training step',
    sample='A sampling step',
    loop='What a run costs beyond its steps',
    overhead='A sampler around a network that does nothing',
    first='Until the first training step is done',
    limits='Limits of this machine')
NETWORK = dict(
    small='32 channels',
    cifar10="the paper's CIFAR-10 network",
    tiny='the network of the digits')

INTRO = """# Benchmark

> How fast this package trains and samples, beside diffusers, denoising-diffusion-pytorch and
> what the machine can do.

This page is written by `python -m bench`, from a clone with the `dev` requirements. Every
number on it comes from it (a table of another day says so); all repeats are in
`bench/results.json`.
`python -m bench --quick` takes a few minutes. Run it on your own machine: other processors
give other ratios.

{machine}

{summary}
The rows and the way they are measured are explained below the tables.
"""

ROWS = """## The rows

- **diffusers, as shipped**: `UNet2DModel` in float32. Training is a loop like that of its
  unconditional example: `DDPMScheduler`, MSE, gradient clipped to length 1, Adam (the example:
  AdamW), `EMAModel`. Sampling is `DDPMPipeline`.
- **diffusers, bf16 + channels_last**: the same network with bfloat16 autocast (training) or
  bfloat16 weights (sampling), pixels last in memory, the fused Adam and an EMA without a loop
  over weights.
- **diffusers, expert**: that, and `torch.compile`; for sampling also with frozen weights: what
  somebody who knows PyTorch gets out of diffusers in a few lines.
- **denoising-diffusion-pytorch, as shipped**: `Unet` and `GaussianDiffusion` as its README
  builds them, in float32. It averages the weights at every tenth step only.
- **ours, plain float32**: `Recipe(precision='float32')`, and `DDPM.sample` as it is. Nothing
  is compiled.
- **ours, fast float32**: `Recipe(precision='float32', fast=True)`, and `DDPM.fast('float32')`
  before sampling. No rounding beyond float32.
- **ours, fast**: `Recipe(fast=True)`, as in all presets but `tiny`, and
  `DDPM.fast()` before sampling: bfloat16 where the processor has units for it, compiled where
  there is a compiler. In the two fast rows training also keeps freed memory for the next step
  (`keep_memory`), as `train` does with every recipe; the plain row is timed without it. The
  peers could be given that by another allocator, and are not.
- **limit**: the convolutions of the network alone, without anything between them, through
  PyTorch, pixels last; for sampling with weights laid out beforehand. Whoever computes this
  network with these convolutions cannot be faster.

Ours and diffusers compute the same function with the same weights. The column *differs* of the
sampling tables says how far a row's output is from the first row's for the same input, root
mean square, relative to the first row's. denoising-diffusion-pytorch has another network of
the same width and depth (other blocks, linear attention): compare its images per second only
as those of a network of about that size. GFLOP/s count each row's own network: two operations
for each multiply-add, in convolutions and matrix products.

## How it is measured

A training step draws noise and times, runs the network forwards and backwards, clips the
gradient, steps with Adam and averages the weights; ours is `Training.update` after `draw`. A
sampling step is one of a whole chain; ours is `DDPM.states`.

Each row is a process of its own, so that no row sees another's memory allocator, compiled code
or threads. The rows take turns: one repeat of each, then the next round. A repeat lasts half a
second (a fifth for the limits of the machine) or one step, whichever is longer. If other
processes used more than some 6 to 8 % of one core during a repeat, a tenth in the shortest
(Linux: `/proc/stat`), it is thrown away and tried again, up to three times. The tables give
the median of the repeats that were kept, half their range, and how many were kept of how many
made (where none could be kept: of all). Differences of a few per cent mean nothing, and ratios
hold within one table only: they compare with its first row. *Memory* is the peak during the
repeats, the first step apart, above what the process had before it built the
network.
"""

def ms(r: dict) -> str:
    "Milliseconds, and half the range of the repeats"
    if r['median']>=.1: digits = 0
    elif r['median']>=.01: digits = 1
    else: digits = 2
    median = f"{r['median']*1e3:,.{digits}f}"
    if r['spread'] is None: return median
    return f"{median} ± {r['spread']*1e3:,.{digits}f}"

def compare(rows: dict) -> dict:
    "Drop the outputs, keep how much they differ from the first row's"
    rows = {n: dict(r) for n, r in rows.items()}
    first = None
    for r in rows.values():
        y = r.pop('output', None)
        if y is None: continue
        if first is None: first = y
        error = sum((a-b)**2 for a, b in zip(y, first))
        r['differs'] = (error/sum(b*b for b in first))**.5
    return rows

def markdown(head: list[str], body: list[list[str]]) -> str:
    line = lambda cells: '| '+' | '.join(cells)+' |'
    return '\n'.join([line(head), line(['---']+['---:']*(len(head)-1)), *map(line, body)])

def kept(r: dict) -> str: return f"{r['clean']} of {r['tried']}"

def table(key: str, made: dict) -> str:
    "The Markdown of one table"
    rows, (kind, *rest) = made['rows'], key.split('/')
    if kind=='first':
        body = [[n, f"{r['empty']:.1f}", f"{r['filled']:.1f}"] for n, r in rows.items()]
        return markdown(['seconds', 'empty cache', 'filled cache'], body)
    if kind=='limits':
        body = [[n, speed(r), kept(r)] for n, r in rows.items()]
        return markdown(['', 'speed', 'kept'], body)
    first = next(iter(rows.values()))['median']
    if kind=='overhead':   # chains of 1000
        body = [[n, f"{r['median']*1e3:.1f}", f"{first/r['median']:.2f}", kept(r)]
            for n, r in rows.items()]
        return markdown(['', 'µs a step', 'times as fast', 'kept'], body)
    if kind=='loop':
        body = [[n, ms(r), f"{r['median']/first:.3f}", kept(r)] for n, r in rows.items()]
        return markdown(['', 'ms a step', 'time', 'kept'], body)
    return steps(rows, first, int(rest[1]), kind=='train')

def speed(kernel: dict) -> str:
    "Of a kernel: operations or bytes in a second"
    if 'flop' in kernel: return f"{kernel['flop']/kernel['median']/1e9:,.0f} GFLOP/s"
    return f"{kernel['bytes']/kernel['median']/1e9:,.1f} GB/s"

def steps(rows: dict, first: float, batch: int, train: bool) -> str:
    "The table of training steps, or of sampling steps"
    limits = {r['precision']: r['median'] for n, r in rows.items() if n.startswith('limit')}
    images = 'images/s' if train else 'images/min (T = 1000)'
    head = ['', 'ms a step', images, 'times as fast', 'GFLOP/s', 'of its limit', 'memory, MB']
    if not train: head.append('differs')
    body = []
    for n, r in rows.items():
        a_step, limit = r['median'], limits.get(r.get('precision'))
        is_limit = n.startswith('limit')
        rate = batch/a_step if train else 60*batch/a_step/1000
        flops = f"{r['flop']*batch/a_step/1e9:,.0f}" if 'flop' in r else ''
        share = f'{limit/a_step:.0%}' if limit and not is_limit else ''
        memory = '' if is_limit else f"{r['peak']:,.0f}"
        line = [n, ms(r), f'{rate:.1f}', f'{first/a_step:.2f}', flops, share, memory]
        if not train: line.append(f"{r['differs']:.0e}" if r.get('differs') else '')
        body.append([*line, kept(r)])
    return markdown([*head, 'kept'], body)

def heading(key: str) -> str:
    kind, *rest = key.split('/')
    heading = TITLES[kind]
    if rest: heading += f': {NETWORK[rest[0]]}'
    if rest[1:]: heading += f', batch {rest[1]}'
    return heading

SAYS = dict(   # below the tables of a kind
    first='From starting Python to the end of the first step, imports included, measured '
        'once; the cache is that of the compiler.',
    limits='One kernel at a time.',
    loop='The bare loop is steps and nothing else; the whole draws reproducibly, looks at '
        'every gradient, logs, tells TensorBoard, listens for Ctrl-C and holds a lock.',
    overhead='Images of 1 x 3 x 8 x 8, chains of 1000 steps.')

def caption(key: str, made: dict) -> str:
    "What stands below a table"
    kind, rows = key.split('/')[0], made['rows']
    own = next((r for n, r in rows.items() if n.startswith('ours')), {})
    lucid = rows.get('denoising-diffusion-pytorch, as shipped', {})
    lines = []
    if own.get('flop'):
        lines.append(f"{own['parameters']:,} weights and {own['flop']/1e9:.2f} GFLOP an image "
            '(ours and diffusers).')
    if lucid.get('flop'):
        lines.append(f"denoising-diffusion-pytorch: {lucid['parameters']:,} and "
            f"{lucid['flop']/1e9:.2f}.")
    if own.get('threads'):
        threads = 'threads' if own['threads']>1 else 'thread'
        lines.append(f"{own['threads']} {threads}.")
    if kind in SAYS: lines.append(SAYS[kind])
    if made.get('skipped'):
        lines.append(f"Not installed or not working here: {', '.join(made['skipped'])}.")
    return ' '.join([*lines, f"*{made['date']}, `{made['command']}`.*"])

def summary(tables: dict) -> str:
    "Ours against the first row and the fastest peer of each table"
    body = []
    for key, made in tables.items():
        rows, own = made['rows'], made['rows'].get('ours, fast')
        peers = {n: r for n, r in rows.items()
            if n.startswith(('diffusers', 'denoising')) and 'median' in r}
        if not own or not peers: continue
        times = lambda r: f"{r['median']/own['median']:.2f}"
        best = min(peers, key=lambda n: peers[n]['median'])
        shipped = rows.get('diffusers, as shipped')
        least = min(r['peak'] for r in peers.values())
        body.append([heading(key), times(shipped) if shipped else '',
            f'{times(peers[best])} ({best})', f"{own['peak']/max(least, 1):.2f}"])
    if not body: return ''
    head = ['', 'as diffusers, as shipped', 'as the fastest peer',
        'memory, times the leanest peer']
    says = '"Ours, fast" is so many times as fast (below 1: the peer is faster):'
    return f'{says}\n\n{markdown(head, body)}\n'

def machine(m: dict) -> str:
    "One line about the computer and the versions"
    others = 'diffusers', 'denoising-diffusion-pytorch', 'ddpm_lit'
    names = dict(torch='PyTorch', **{p: p for p in others})
    cores = f"{m['cores']} cores"
    if m['units']: cores += f" ({', '.join(m['units'])})"
    parts = [m['cpu'], cores]
    if m['memory_GiB']: parts.append(f"{m['memory_GiB']} GiB")
    parts += [m['system'], f"Python {m['python']}"]
    parts += [f'{name} {m[p]}' for p, name in names.items() if m[p]]
    if m['threads']: parts.append(f"`OMP_NUM_THREADS={m['threads']}`")
    return f"**Machine**: {', '.join(filter(None, parts))}."

def page(results: dict) -> str:
    "The whole page"
    made = results['tables']
    tables = {key: made[key] for kind in TITLES for key in made if key.split('/')[0]==kind}
    parts = [INTRO.format(machine=machine(results['machine']), summary=summary(tables))]
    for key, made in tables.items():
        parts.append(f'## {heading(key)}\n\n{table(key, made)}\n\n{caption(key, made)}\n')
    if not tables: parts.append('No table has been made yet.\n')
    return '\n'.join([*parts, ROWS])
