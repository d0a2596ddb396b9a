"What q(x_0) is: images at the door, the digits, the toys; and the bar."
import importlib.util, os, pty, re, sys
import numpy as np, pytest, torch
from ddpm_lit import data
from ddpm_lit.data import Images, digits, progress
from ddpm_lit.workshop import files

# ---------------------------------------------------------------- Images
def blank(n, channels): return np.zeros((n, channels, 4, 6), np.uint8)

def test_images_are_checked_at_the_door():
    x = blank(3, 1)
    for bad in (x/255, x.astype(np.int64), torch.zeros(3, 1, 4, 4)):
        with pytest.raises(ValueError, match='uint8 images with levels 0..255'): Images(bad)
    with pytest.raises(ValueError, match='channels, height, width'): Images(x[:, 0])
    for labels in ([0, 1], [0, 1, 2, 3], [.5, 1, 2], [[0], [1], [2]]):
        with pytest.raises(ValueError, match='3 images need as many whole numbers'):
            Images(x, labels)
    with pytest.raises(ValueError, match='not finite'): Images(x, [[0.], [np.inf], [1.]])
    tensors = Images(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3))
    assert tensors.labels.tolist()==[0, 1, 2]

@pytest.mark.parametrize('n,channels,says', [
    (1, 1, '1 image, 4 x 6, grey'), (2, 3, '2 images, 4 x 6, RGB'),
    (2, 4, '2 images, 4 x 6, 4 channels'), (2, 2, '2 images, 4 x 6, 2 channels')])
def test_images_say_what_they_are(n, channels, says):
    assert repr(Images(blank(n, channels)))==f'images: {says}'

def test_classes_are_counted():
    x = Images(blank(2, 1), [0, 1], ['a', 'b'], name='letters')
    assert repr(x)=='letters: 2 images, 4 x 6, grey, 2 classes'

def test_the_fingerprint_of_an_array():
    x = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 6), dtype=np.uint8)
    def pixels(images): return Images(images).fingerprint()['pixels']
    assert pixels(x)==pixels(x.copy())==pixels(np.ascontiguousarray(x[::-1])[::-1])
    last_changed = x.copy()
    last_changed[-1] ^= 1
    others = x[::-1], x[:-1], x.reshape(200, 1, 6, 4), x.reshape(100, 2, 4, 6), last_changed
    assert len({pixels(y) for y in (x, *others)})==6
    y = np.arange(200)
    same, other = Images(x, y.astype(np.uint8)), Images(x, y[::-1])
    assert Images(x, y).fingerprint()==same.fingerprint()!=other.fingerprint()
    bare = Images(x).fingerprint()
    assert bare=={'pixels': bare['pixels'], 'labels': '', 'classes': []}

# ---------------------------------------------------------------- the digits and the toys
def test_the_digits_are_split_once_and_for_all():
    train, test = digits(), digits('test')
    assert (len(train), len(test), train.flip, train.name)==(1257, 540, False, 'digits')
    assert {*np.unique(train.labels)}=={*np.unique(test.labels)}=={*range(10)}
    assert digits().fingerprint()==train.fingerprint()!=test.fingerprint()
    assert sorted(np.unique(train.images))==sorted(np.round(np.arange(17)*255/16))
    with pytest.raises(ValueError, match="'train' or 'test', not 'all'"): digits('all')

def test_points_are_never_mirrored():
    from ddpm_lit.training import draw
    points = torch.arange(20.).reshape(10, 2)
    x = draw(points, 0, batch=10, T=10).x_0
    assert (x[:, 1]-x[:, 0]==1).all()

# ---------------------------------------------------------------- the bar
class Screen:
    "What a terminal of `width` columns shows of what was written to it"
    def __init__(self, written: str, width: int):
        self.rows, self.row, self.column, self.width, self.seen = [''], 0, 0, width, set()
        for part in re.findall(r'\x1b\[K|.', written, re.S): self.take(part)
    def take(self, c: str):
        if c=='\r': self.column = 0
        elif c=='\n': self.next()
        elif c=='\x1b[K': self.rows[self.row] = self.rows[self.row][:self.column]
        else:
            if self.column==self.width: self.next()
            old = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = old[:self.column]+c+old[self.column+1:]
            self.column += 1
        self.seen.add(self.rows[self.row])
    def next(self):
        self.row, self.column = self.row+1, 0
        if self.row==len(self.rows): self.rows.append('')

class Terminal:
    "A pseudo-terminal as standard output, and what has been written to it"
    def __init__(self, monkeypatch, width: int):
        self.master, slave = pty.openpty()
        self.stream, self.width = open(slave, 'w', encoding='utf-8'), width
        monkeypatch.setattr(sys, 'stdout', self.stream)
        monkeypatch.setattr(sys, 'stderr', self.stream)
        monkeypatch.setenv('COLUMNS', str(width))
        monkeypatch.delenv('IN_TEST')
    def screen(self) -> Screen:
        self.stream.write('\x04\n')
        self.stream.flush()
        written = b''
        while b'\x04' not in written: written += os.read(self.master, 65536)
        return Screen(written.decode().split('\x04')[0], self.width)

@pytest.mark.skipif(sys.platform=='win32', reason='no pseudo-terminals')
@pytest.mark.parametrize('width', [20, 60, 200])
def test_a_bar_has_a_caption_and_is_cleared(monkeypatch, width):
    terminal = Terminal(monkeypatch, width)
    for _ in progress(range(5), caption='drawing'): pass
    s = terminal.screen()
    assert s.rows==[''] and any(row.startswith('drawing') for row in s.seen)
    assert max(map(len, s.seen))<width
    assert width<60 or any(row.startswith('drawing |') and '[5/5' in row for row in s.seen)

@pytest.mark.skipif(sys.platform=='win32', reason='no pseudo-terminals')
@pytest.mark.parametrize('width', [30, 100])
def test_what_is_printed_beside_a_bar_has_a_line_of_its_own(monkeypatch, width):
    import click
    terminal = Terminal(monkeypatch, width)
    for k in (bar := progress(range(3), caption='training')):
        bar.comment = 'loss .5, and more than fits into a line of this terminal'
        print(f'step {k} of 3 saved')
        if k==1:
            for _ in progress(range(2), caption='drawing'): click.echo('a preview')
            print('a warning', file=sys.stderr)
        if k==2: break
    assert sys.stdout is terminal.stream
    print('done')
    s = terminal.screen()
    assert s.rows==['step 0 of 3 saved', 'step 1 of 3 saved', 'a preview', 'a preview',
        'a warning', 'step 2 of 3 saved', 'done', '']
    assert any('training' in row for row in s.seen) and any('drawing' in row for row in s.seen)

@pytest.mark.skipif(sys.platform=='win32', reason='no pseudo-terminals')
def test_a_bar_goes_when_its_loop_fails(monkeypatch):
    terminal = Terminal(monkeypatch, 80)
    def fails():
        for _ in progress(range(9), caption='drawing'): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fails()
    assert sys.stdout is terminal.stream and terminal.screen().rows==['']

def test_no_bar_without_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv('IN_TEST')
    items = range(3)
    assert progress(items, caption='drawing') is items
    monkeypatch.setattr(sys, 'stdout', None)          # as after `>&-`
    assert progress(items, caption='drawing') is items

SLOW = ('fastprogress', 'fastprogress.fastprogress', 'matplotlib', 'sklearn', 'scipy',
    'torchvision', 'IPython', 'pillow_heif', 'anywidget', 'ipywidgets')

@pytest.mark.parametrize('module', [data, files], ids=['data', 'files'])
def test_nothing_slow_is_imported(monkeypatch, module):
    for name in SLOW: monkeypatch.setitem(sys.modules, name, None)   # an import of it fails
    alone = f'{module.__package__}.alone'
    spec = importlib.util.spec_from_file_location(alone, module.__file__)
    monkeypatch.setitem(sys.modules, alone, again := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(again)
    assert again.__name__==alone
