"""Data of any kind: what has items, what never ends, arrays, and files of them. A run that was
killed sees what it would have seen, whatever dice its data roll."""
import itertools
import os
import random
import signal
import warnings
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from ddpm_lit.data import Images, Items, Stream, to_model
from ddpm_lit.training import draw
from ddpm_lit.workshop.doctor import diagnose
from ddpm_lit.workshop.files import load
from ddpm_lit.workshop import runs as module
from ddpm_lit.workshop.runs import design
from runs import (
    ended, exit_code, first_difference, forked, in_two_processes, newest, one_thread, small,
    trained)

@pytest.fixture(scope='module')
def digits(): return load('digits')

class Rolling(Dataset):
    "Digits that are moved by dice of all three kinds, in the data set and in its transform"
    def __init__(self, transform=None): self.digits, self.transform = load('digits'), transform
    def __len__(self): return len(self.digits)
    def __getitem__(self, i):
        x = to_model(self.digits[i])
        x = x.roll(random.randint(-1, 1), -1).roll(int(np.random.randint(-1, 2)), -2)
        x = x + .01*torch.randn(x.shape).clamp(-1, 1)
        return x.clamp(-1, 1), int(self.digits.labels[i])

def states(seed: int) -> list:
    "Of all dice, after a step was drawn. (Those of Python are also rolled by beartype.)"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    draw(Items(Rolling()), 3, batch=8, T=50)
    return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]

# ---------------------------------------------------------------- what has items

def test_what_is_drawn_follows_from_seed_and_step():
    "Twice the same, another step other numbers, and nobody's dice have moved"
    data = Items(Rolling())
    a, b = (draw(data, 3, batch=8, T=50) for _ in range(2))
    assert all(torch.equal(u, v) for u, v in zip(a[:3], b))
    assert all(one!=other for one, other in zip(states(1), states(2)))
    torch.manual_seed(2)
    assert states(2)[2]==torch.get_rng_state().tolist()
    c = draw(data, 3, batch=8, T=50, part=slice(1, None, 4))
    assert torch.equal(c.x_0, a.x_0[1::4])
    assert torch.equal(c.y['classes'], a.y['classes'][1::4])
    # one image in two epochs moves differently
    one = Items([to_model(load('digits')[0])], lambda x: x.roll(random.randint(0, 7), -1))
    assert len({repr(draw(one, k, batch=1, T=9).x_0.tolist()) for k in range(20)})>3

def test_the_dice_are_put_back_when_reading_fails():
    def fails(x):
        torch.rand(5)
        raise OSError('gone')
    before = torch.get_rng_state()
    with pytest.raises(OSError, match='gone'): Items([torch.zeros(1, 8, 8)], fails)[[0]]
    assert torch.equal(torch.get_rng_state(), before)

def plain(digits, kind: str):
    x = to_model(digits[:])
    return dict(
        array=digits.images, floats=x.numpy(), doubles=x.double().numpy(), tensor=x,
        tuples=[*zip(digits[:], digits.labels)], dataset=TensorDataset(digits[:]),
        labelled=TensorDataset(x, torch.tensor(digits.labels)), items=Items(digits))[kind]

@pytest.fixture(scope='module')
def whole(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    trained(digits, out)
    return out

@pytest.mark.parametrize('kind', [
    'array', 'floats', 'doubles', 'tensor', 'tuples', 'dataset', 'labelled', 'items'])
def test_the_same_images_are_the_same_run(digits, whole, tmp_path, kind):
    trained(plain(digits, kind), tmp_path/'run')
    assert first_difference(whole, tmp_path/'run') is None

def test_labels_come_along(digits):
    y = draw(digits, 2, batch=16, T=50, label_dropout=.2).y['classes']
    for kind in ('tuples', 'labelled', 'items'):
        data = module.as_data(plain(digits, kind))
        also = draw(data, 2, batch=16, T=50, label_dropout=.2).y['classes']
        assert torch.equal(also, y), kind
    numbers, rows = torch.rand(len(digits)), torch.rand(len(digits), 3)
    assert draw(Items(TensorDataset(digits[:], numbers)), 2, 16, 50).y=={}
    told = draw(Items(TensorDataset(digits[:], rows)), 2, 16, 50).y['vector']
    assert told.shape==(16, 3)

def test_labels_that_are_missing_or_none():
    "A missing one says nothing; one that the network does not know is refused"
    x = torch.zeros(1, 8, 8)
    def told(*ys): return Items([(x, y) for y in ys]).read(range(len(ys)), [0]*len(ys))[1]
    assert told(1, None, 0).tolist()==[1, -1, 0] and told(None, None) is None
    rows = told(None, torch.tensor([.5]))
    assert rows[0].isnan().all() and rows[1]==.5
    for wrong in ((torch.zeros(1), torch.zeros(2)), (1, torch.zeros(1))):
        with pytest.raises(ValueError, match='whole numbers, or rows of as many'): told(*wrong)
    ddpm, _ = design('tiny', (1, 8, 8), classes=['a', 'b'], channels=8)
    with pytest.raises(ValueError, match='labels go from 0 to 1, and these'):
        module.train(ddpm, [(x, 1), (x, 2)]*4, module.Recipe(steps=1, batch=8, warmup=1))

def test_the_times_of_a_stream_that_comes_round():
    "Stratified, each of its images still meets all of them"
    def begin(first, every):
        return itertools.islice(itertools.cycle(torch.arange(4.)/4), first, None, every)
    stream = Stream(begin, lambda v: v.expand(1, 2, 2))
    met = torch.stack([draw(stream, k, batch=4, T=100, stratified=True).t for k in range(40)])
    assert (met.sort(1).values-torch.tensor([1, 26, 51, 76])<25).all()
    assert (met.amax(0)-met.amin(0)>60).all()

def test_pictures_of_pillow_and_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    from helpers import images
    for k in range(2): images(tmp_path/'d'/f'kind{k}', 3, (12, 16), channels=3, seed=k)
    bare = Items(ImageFolder(tmp_path/'d'))
    x, y = bare.read(range(6), range(6))
    assert (x.dtype, x.shape, y.tolist())==(torch.uint8, (6, 3, 12, 16), [0, 0, 0, 1, 1, 1])
    assert torch.equal(x, load(tmp_path/'d')[:]) and bare.classes==['kind0', 'kind1']
    cut = v2.Compose([v2.PILToTensor(), v2.RandomCrop(8), v2.RandomHorizontalFlip()])
    data = Items(ImageFolder(tmp_path/'d', cut))
    a, b, c = (data.read(range(6), [s]*6)[0] for s in (1, 1, 2))
    assert a.shape==(6, 3, 8, 8) and torch.equal(a, b) and not torch.equal(a, c)
    # it may also be given to the adapter
    assert torch.equal(Items(ImageFolder(tmp_path/'d'), cut).read(range(6), [1]*6)[0], a)

def test_what_cannot_be_taken_is_said(digits, tmp_path):
    sizes = [torch.zeros(1, 8, 8), torch.zeros(1, 8, 9)]
    with pytest.raises(ValueError, match=r'item 0 has shape .*item 1 .*1, 8, 9'):
        trained(sizes, tmp_path/'a')
    class Flow(IterableDataset):
        def __iter__(self): return rings(0, 1)
        def __len__(self): return 5
    for nothing in (Flow(), 5, iter([])):
        with pytest.raises(ValueError, match=r'no length.*Stream\(begin\)'):
            trained(nothing, tmp_path/'a')
    for wrong in ([torch.zeros(1, 8, 8)], 40*[torch.full((1, 8, 8), 2.)]):
        with pytest.raises(ValueError, match=r'numbers from|-1 for black'):
            trained(Items(wrong, lambda x: x+.5), tmp_path/'a')
    with pytest.raises(ValueError, match='uint8'):
        trained(digits.images.astype(np.int64), tmp_path/'a')
    with pytest.raises(ValueError, match='uint8'):
        trained(digits.images.astype(np.uint16), tmp_path/'a')
    with pytest.raises(ValueError, match=r"say load\('photos'\)"):
        trained('photos', tmp_path/'a')
    deep = Image.fromarray(np.full((8, 8), 30_000, np.uint16))
    with pytest.raises(ValueError, match='256 levels'): Items([deep])[[0]]

def test_a_memory_mapped_array_is_read_where_it_is_needed(digits, tmp_path, monkeypatch):
    np.save(tmp_path/'x.npy', to_model(digits[:]).numpy())
    mapped = np.load(tmp_path/'x.npy', mmap_mode='r')
    assert np.shares_memory(module.as_data(mapped).numpy(), mapped)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        trained(mapped, tmp_path/'run')

def test_the_doctor_takes_them_too(digits):
    ddpm, _ = small()
    with torch.no_grad():
        for p in ddpm.unet.parameters(): p.normal_(std=.05)
    said = {kind: str(diagnose(ddpm.using('ddpm', 5), plain(digits, kind), n=64, samples=2))
        for kind in ('tensor', 'tuples', 'labelled')}
    assert said['tensor']==said['tuples']==said['labelled']

# ---------------------------------------------------------------- a run goes on

def rings(first, every):
    for i in itertools.count(first, every):
        yield torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(i)).clamp(-1, 1)

def source():
    "It cannot jump"
    return (x + .01*random.random() for x in rings(0, 1))

KINDS = dict(
    items=lambda: Rolling(),
    augmented=lambda: Items(load('digits'), lambda x: x.roll(random.randint(-1, 1), -1)),
    stream=lambda: Stream(rings, lambda x: (x*random.random()).clamp(-1, 1)),
    slow=lambda: Stream(lambda first, every: itertools.islice(source(), first, None, every),
        lambda x: x.clamp(-1, 1)))

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
@pytest.mark.parametrize('kind', [k for k in KINDS if k!='slow'])
def test_a_killed_run_goes_on_bit_for_bit(kind, tmp_path):
    trained(KINDS[kind](), tmp_path/'whole')
    def killed():
        with ended('step', 5, signal.SIGKILL): trained(KINDS[kind](), tmp_path/'run')
    assert exit_code(forked(killed))==-signal.SIGKILL and newest(tmp_path/'run')==3
    random.seed(99)
    torch.manual_seed(99)
    trained(KINDS[kind](), tmp_path/'run')
    assert first_difference(tmp_path/'whole', tmp_path/'run') is None

@pytest.mark.parametrize('kind', ['items', 'stream'])
def test_workers_change_nothing(kind, tmp_path):
    trained(KINDS[kind](), tmp_path/'one')
    trained(KINDS[kind](), tmp_path/'two', workers=2)
    assert first_difference(tmp_path/'one', tmp_path/'two') is None

class Counted(Rolling):
    def __init__(self):
        super().__init__()
        self.read = []
    def __getitem__(self, i):
        self.read.append(i)
        return super().__getitem__(i)

@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='no gloo')
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
@pytest.mark.parametrize('kind', ['items', 'stream'])
def test_each_process_reads_its_share(kind, tmp_path):
    "and together they are one run, to the last digits"
    def share(rank):
        begun, made = [], []
        if kind=='items':
            data = Counted()
            trained(data, tmp_path/'two')
            # after what is looked at before the first step, 4 of 8 images in each
            n = len(range(0, len(data), len(data)//64))
            assert len(data.read)==n+3+n+9*4, len(data.read)
        else:
            def begin(first, every):
                begun.append((first, every))
                for x in rings(first, every):
                    made.append(first)
                    yield x
            trained(Stream(begin), tmp_path/'two')
            assert begun[-1]==(rank, 2) and len(begun)==4
            assert made.count(rank)>=36 and len(made)<=64+4+2+36
    trained(KINDS['items']() if kind=='items' else Stream(rings), tmp_path/'one')
    assert in_two_processes(share)==[0, 0]
    assert first_difference(tmp_path/'one', tmp_path/'two', rtol=1e-3) is None

def test_other_items_are_other_data(tmp_path):
    how = dict(save_every=9)
    trained(Stream(rings), tmp_path/'s', **how)
    with pytest.raises(ValueError, match='the images are not those'):
        trained(Stream(lambda first, every: rings(first+1, every)), tmp_path/'s', **how)
    trained(Rolling(), tmp_path/'r', **how)
    other = Rolling()
    other.digits.images = 255-other.digits.images
    with pytest.raises(ValueError, match='the images are not those'):
        trained(other, tmp_path/'r', **how)
    half = torch.utils.data.Subset(Rolling(), range(600))
    with pytest.raises(ValueError, match='the number of images was 1257 and is now 600'):
        trained(half, tmp_path/'r', **how)

def test_a_stream_that_cannot_be_repeated_is_said(tmp_path):
    """It trains and goes on, with a sentence: one that begins anew each time, and one that
    knows nothing of `every`"""
    g = torch.Generator().manual_seed(0)
    def numbers(first, every):
        while True: yield torch.rand(1, 8, 8, generator=g)*2-1
    def shuffled(first, every):
        order = torch.randperm(8)
        for i in itertools.count(first, every): yield torch.full((1, 2, 2), order[i%8]/8)
    with pytest.warns(UserWarning, match='other items when it begins'):
        Stream(shuffled).fingerprint()
    fresh = Stream(numbers)
    with pytest.warns(UserWarning, match='will not be, bit for bit'):
        trained(fresh, tmp_path/'a')
    with pytest.warns(UserWarning, match='will not be, bit for bit'):
        trained(Stream(fresh.begin), tmp_path/'a')
    with pytest.warns(UserWarning, match='will not be, bit for bit'):
        Stream(lambda first, every: rings(first, 1)).fingerprint()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Stream(rings).fingerprint()

def test_a_stream_that_ends_is_said(tmp_path):
    def begin(first, every): return itertools.islice(rings(0, 1), first, 70, every)
    with pytest.raises(ValueError, match='the data end before item 70.*itertools.cycle'):
        trained(Stream(begin), tmp_path/'a')
