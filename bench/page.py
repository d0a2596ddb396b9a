"nbs/benchmark.md from bench/results.json."
TITLES = dict(train='A training step', sample='A sampling step', loop='What a run costs beyond its steps', overhead='A sampler around a network that does nothing',
    first='Until the first training step is done', limits='Limits of this machine')   # in the order of the page
NETWORK = dict(small='32 channels', cifar10="the paper's CIFAR-10 network", tiny='the network of the digits')

INTRO = """# Benchmark

> How fast this package trains and samples, beside diffusers, denoising-diffusion-pytorch and what the machine can do.

This page is written by `python -m bench`, from a clone with the `dev` requirements. Every number on it comes from that run; all repeats are in
`bench/results.json`. `python -m bench --quick` takes a few minutes. Run it on your own machine: other processors give other ratios.

{machine}

{summary}
The rows and the way they are measured are explained below the tables.
"""

ROWS = """## The rows

- **diffusers, as shipped**: `UNet2DModel` in float32. Training is a loop like that of its unconditional example: `DDPMScheduler`, MSE, gradient clipped
  to length 1, Adam, `EMAModel`. Sampling is `DDPMPipeline`.
- **diffusers, bf16 + channels_last**: the same network with bfloat16 autocast (training) or bfloat16 weights (sampling), pixels last in
  memory, the fused Adam and an EMA without a loop over weights.
- **diffusers, expert**: that, and `torch.compile`; for sampling also with frozen weights: what somebody who knows PyTorch gets out of
  diffusers in a few lines.
- **denoising-diffusion-pytorch, as shipped**: `Unet` and `GaussianDiffusion` as its README builds them, in float32. It averages the
  weights at every tenth step only.
- **ours, plain float32**: `Recipe(precision='float32')`, and `DDPM.sample` as it is. Nothing is compiled.
- **ours, fast float32**: `Recipe(precision='float32', fast=True)`, and `DDPM.fast('float32')` before sampling. No rounding beyond float32.
- **ours, fast**: `Recipe(fast=True)`, as in the presets `small` and `cifar10`, and `DDPM.fast()` before sampling: bfloat16 where the processor has units for
  it, compiled where there is a compiler. Training then also keeps freed memory for the next step (`keep_memory`). The peers could be given that
  by another allocator, and are not.
- **limit**: the convolutions of the network alone, without anything between them, through PyTorch, pixels last; for sampling with weights laid
  out beforehand. Whoever computes this network with these convolutions cannot be faster.

Ours and diffusers compute the same function with the same weights. The column *differs* of the sampling tables says how far a row's
output is from the first row's for the same input, root mean square, relative to the first row's. denoising-diffusion-pytorch has another network of the same
width and depth (other blocks, linear attention): compare its images per second only as those of a network of about that size. GFLOP/s
count each row's own network: two operations for each multiply-add, in convolutions and matrix products.

## How it is measured

A training step draws noise and times, runs the network forwards and backwards, clips the gradient, steps with Adam and averages the weights;
ours is `Training.update` after `draw`. A sampling step is one of a whole chain; ours is `DDPM.states`.

Each row is a process of its own, so that no row sees another's memory allocator, compiled code or threads. The rows take turns: one
repeat of each, then the next round. A repeat lasts half a second or one step, whichever is longer. If other processes used more than
about a tenth of one core during a repeat (Linux: `/proc/stat`), it is thrown away and tried again, up to three times. The tables
give the median of the repeats that were kept, half their range, and how many were kept of how many made (where none could be kept: of all).
Differences of a few per cent mean nothing, and ratios hold within one table only: they compare with its first row. *Memory* is the peak during
the repeats, the first step apart, above what the process had before it built the network.
"""

def ms(r: dict) -> str:
    digits = 0 if r['median']>=.1 else 1 if r['median']>=.01 else 2
    return f"{r['median']*1e3:,.{digits}f}" + (f" ± {r['spread']*1e3:,.{digits}f}" if r['spread'] is not None else '')

def compare(rows: dict) -> dict:
    "Drop the outputs, keep how much they differ from the first row's"
    rows = {n: dict(r) for n, r in rows.items()}; first = None
    for r in rows.values():
        y = r.pop('output', None)
        if y is None: continue
        if first is None: first = y
        r['differs'] = (sum((a-b)**2 for a, b in zip(y, first))/sum(b*b for b in first))**.5
    return rows

def markdown(head: list[str], body: list[list[str]]) -> str:
    line = lambda cells: '| '+' | '.join(cells)+' |'
    return '\n'.join([line(head), line(['---']+['---:']*(len(head)-1)), *map(line, body)])

def kept(r: dict) -> str: return f"{r['clean']} of {r['tried']}"

def table(key: str, made: dict) -> str:
    "The Markdown of one table"
    rows, (kind, *rest) = made['rows'], key.split('/')
    if kind=='first':
        return markdown(['seconds', 'empty cache', 'filled cache'], [[n, f"{r['empty']:.1f}", f"{r['filled']:.1f}"] for n, r in rows.items()])
    if kind=='limits': return markdown(['', 'speed', 'kept'], [[n, speed(r), kept(r)] for n, r in rows.items()])
    first = next(iter(rows.values()))['median']
    if kind=='overhead':
        return markdown(['', 'µs a step', 'times as fast', 'kept'],
            [[n, f"{r['median']*1e3:.1f}", f"{first/r['median']:.2f}", kept(r)] for n, r in rows.items()])   # chains of 1000
    if kind=='loop': return markdown(['', 'ms a step', 'time', 'kept'], [[n, ms(r), f"{r['median']/first:.3f}", kept(r)] for n, r in rows.items()])
    return steps(rows, first, int(rest[1]), kind=='train')

def speed(kernel: dict) -> str:
    work, unit = (kernel['flop'], 'GFLOP/s') if 'flop' in kernel else (kernel['bytes'], 'GB/s')
    return f"{work/kernel['median']/1e9:,.{unit=='GB/s':d}f} {unit}"

def steps(rows: dict, first: float, batch: int, train: bool) -> str:
    limits, body = {r['precision']: r['median'] for n, r in rows.items() if n.startswith('limit')}, []
    for n, r in rows.items():
        a_step, is_limit, limit = r['median'], n.startswith('limit'), limits.get(r.get('precision'))
        body.append([n, ms(r), f'{batch/a_step:.1f}' if train else f'{60*batch/a_step/1000:.1f}', f'{first/a_step:.2f}',
            f"{r['flop']*batch/a_step/1e9:,.0f}" if 'flop' in r else '', f'{limit/a_step:.0%}' if limit and not is_limit else '',
            '' if is_limit else f"{r['peak']:,.0f}", *([] if train else [f"{r['differs']:.0e}" if r.get('differs') else '']), kept(r)])
    return markdown(['', 'ms a step', 'images/s' if train else 'images/min (T = 1000)', 'times as fast', 'GFLOP/s', 'of its limit',
        'memory, MB', *([] if train else ['differs']), 'kept'], body)

def heading(key: str) -> str:
    kind, *rest = key.split('/')
    return TITLES[kind] + (f': {NETWORK[rest[0]]}' if rest else '') + (f', batch {rest[1]}' if rest[1:] else '')

def caption(key: str, made: dict) -> str:
    kind = key.split('/')[0]; own = next((r for n, r in made['rows'].items() if n.startswith('ours')), {}); lines = []
    if own.get('flop'): lines.append(f"{own['parameters']:,} weights and {own['flop']/1e9:.2f} GFLOP an image (ours and diffusers).")
    lucid = made['rows'].get('denoising-diffusion-pytorch, as shipped', {})
    if lucid.get('flop'): lines.append(f"denoising-diffusion-pytorch: {lucid['parameters']:,} and {lucid['flop']/1e9:.2f}.")
    if own.get('threads'): lines.append(f"{own['threads']} thread{'s'*(own['threads']>1)}.")
    if kind=='first': lines.append('From starting Python to the end of the first step, imports included, measured once; the cache is that of the compiler.')
    if kind=='limits': lines.append('One kernel at a time.')
    if kind=='loop': lines.append('The whole loop draws reproducibly, looks at every gradient, logs, tells TensorBoard, listens for Ctrl-C and holds a lock.')
    if kind=='overhead': lines.append('Images of 1 x 3 x 8 x 8, chains of 1000 steps.')
    if made.get('skipped'): lines.append(f"Not installed or not working here: {', '.join(made['skipped'])}.")
    return ' '.join([*lines, f"*{made['date']}, `{made['command']}`.*"])

def summary(tables: dict) -> str:
    "Ours against the first row and the fastest peer of each table"
    body = []
    for key, made in tables.items():
        rows, own = made['rows'], made['rows'].get('ours, fast')
        peers = {n: r for n, r in rows.items() if n.startswith(('diffusers', 'denoising')) and 'median' in r}
        if not own or not peers: continue
        times, best = lambda r: f"{r['median']/own['median']:.2f}", min(peers, key=lambda n: peers[n]['median'])
        shipped, least = rows.get('diffusers, as shipped'), min(r['peak'] for r in peers.values())
        body.append([heading(key), times(shipped) if shipped else '', f'{times(peers[best])} ({best})', f"{own['peak']/max(least, 1):.2f}"])
    return body and '"Ours, fast" is so many times as fast (below 1: the peer is faster):\n\n' + markdown(
        ['', 'as diffusers, as shipped', 'as the fastest peer', 'memory, times the leanest peer'], body) + '\n' or ''

def machine(m: dict) -> str:
    "One line about the computer and the versions"
    names = dict(torch='PyTorch', **{p: p for p in ('diffusers', 'denoising-diffusion-pytorch', 'ddpm_lit')})
    parts = [m['cpu'], f"{m['cores']} cores" + (f" ({', '.join(m['units'])})" if m['units'] else ''), m['memory_GiB'] and f"{m['memory_GiB']} GiB",
        m['system'], f"Python {m['python']}", *(m[p] and f'{name} {m[p]}' for p, name in names.items()), m['threads'] and f"`OMP_NUM_THREADS={m['threads']}`"]
    return f"**Machine**: {', '.join(filter(None, parts))}."

def page(results: dict) -> str:
    "The whole page"
    tables = {key: results['tables'][key] for kind in TITLES for key in results['tables'] if key.split('/')[0]==kind}
    parts = [INTRO.format(machine=machine(results['machine']), summary=summary(tables))]
    parts += [f'## {heading(key)}\n\n{table(key, made)}\n\n{caption(key, made)}\n' for key, made in tables.items()]
    return '\n'.join([*parts, *([] if tables else ['No table has been made yet.\n']), ROWS])
