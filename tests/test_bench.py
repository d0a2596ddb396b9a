"""The benchmark runs and writes its page, and its rows compute what they say. Nothing is timed
here."""
import json, multiprocessing, os, sys
import pytest, torch, warm
from bench import candidates, page
from bench.__main__ import LIMITS, PLAIN, SHIPPED, machine
from bench.measure import Worker, call, take_turns
from conftest import root
NET = dict(size=(8, 8), channels=8, multipliers=(1, 2), attention=(4,), groups=4)

@pytest.fixture(autouse=True)
def warm_workers(monkeypatch):
    if sys.platform=='linux':
        monkeypatch.setattr(multiprocessing, 'get_context', lambda kind: warm.forks())

def test_workers_take_turns_and_the_page_is_written(tmp_path):
    said, task = [], dict(net=NET, batch=2)
    rows = {'broken': call('ours_train', net=dict(NET, groups=3), batch=2),
        SHIPPED: call('diffusers_train', **task),
        PLAIN: call('ours_train', **task, precision='float32', fast=False),
        LIMITS[False]: call('convolutions', **task, train=True, bf16=False)}
    if not machine()['diffusers']: del rows[SHIPPED]
    made = take_turns(rows, 1, min_time=.01, tries=1, say=said.append)
    assert [*made]==[*rows][1:]
    assert any('broken: skipped' in s and 'divisible' in s for s in said)
    for r in made.values(): assert r['median']>0 and r['tried']==1 and r['threads']>0
    assert made[PLAIN]['peak']>0
    weights = sum(p.numel() for p in candidates.our_unet(NET).parameters())
    assert made[PLAIN]['parameters']==weights
    one = dict(date='2020-06-19', command='python -m bench', rows=page.compare(made))
    results = dict(machine=machine(), tables={'train/small/2': one})
    text = page.page(json.loads(json.dumps(results)))
    assert "32 channels, batch 2" in text
    line = next(l for l in text.splitlines() if l.startswith(f'| {PLAIN} |'))
    assert page.ms(made[PLAIN]) in line and f"{2/made[PLAIN]['median']:.1f}" in line
    if SHIPPED in made: assert f"{made[SHIPPED]['median']/made[PLAIN]['median']:.2f}" in line

def test_a_dead_worker_is_noticed():
    with pytest.raises(RuntimeError, match='ended'): Worker(exit_at_once)
def exit_at_once(): os._exit(1)

def test_diffusers_rows_compute_our_function():
    pytest.importorskip('diffusers')
    run, theirs = candidates.diffusers_sample(NET, 1)
    _, bf16 = candidates.diffusers_sample(NET, 1, bf16=True)
    run(1)
    ours = candidates.our_unet(NET).eval()
    mine = candidates.answer(lambda x: ours(x, torch.tensor([500])), NET, 1)
    rows = page.compare(dict(ours=dict(mine), theirs=theirs, bf16=bf16))
    assert rows['theirs']['differs']<1e-5<rows['bf16']['differs']<.1

def test_page_in_step():
    "The page is what the last run's numbers make of it"
    results = json.loads((root/'bench'/'results.json').read_text())
    committed = (root/'nbs'/'benchmark.md').read_text(encoding='utf-8')
    assert committed==page.page(results), 'run: python -m bench'

@pytest.mark.parametrize('train', [False, True])
def test_the_limit_holds_all_convolutions(train):
    "As many operations as the network's own convolutions, and no others"
    from torch.utils.flop_counter import FlopCounterMode
    def convolution_flop(f):
        with FlopCounterMode(display=False) as c: f()
        return sum(v for k, v in c.get_flop_counts()['Global'].items() if 'conv' in str(k))
    unet = candidates.our_unet(NET)
    x = candidates.images(NET, 2)
    # with weights laid out beforehand it cannot be counted
    run, _ = candidates.convolutions(NET, 2, True, False)
    if train:
        t = torch.tensor([1, 2])
        whole = convolution_flop(lambda: unet(x, t).sum().backward())
        assert convolution_flop(lambda: run(1))==whole>0
    else:
        run, facts = candidates.convolutions(NET, 2, False, False)
        run(1)
        assert facts['precision']=='float32'
