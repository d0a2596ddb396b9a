"""A data set of the Hugging Face hub, which a few lines stand for here."""
import sys
from io import BytesIO
from types import ModuleType
import numpy as np
import pytest
from PIL import Image as Picture
from ddpm_lit.workshop import files
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.files import image_sizes, load

class Image:
    def __init__(self, decode=True): self.decode = decode
class ClassLabel:
    def __init__(self, names): self.names = names
class Value: pass

class Table:
    "As `datasets.Dataset` is"
    def __init__(self, columns, features):
        self.columns, self.features, self._fingerprint = columns, features, 'f'
        self.read = []
    def __len__(self): return len(next(iter(self.columns.values())))
    def __getitem__(self, k):
        if isinstance(k, str): return self.columns[k]
        self.read.append(k)
        assert not self.features['img'].decode
        return {name: column[k] for name, column in self.columns.items()}
    def cast_column(self, name, kind):
        self.features = self.features | {name: kind}
        return self

def encoded(seed: int, size=(24, 40)) -> bytes:
    x, f = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8), BytesIO()
    Picture.fromarray(x).save(f, 'png')
    return f.getvalue()

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Its tables by name and split"
    tables = {}
    def load_dataset(name, split):
        if (name, split) not in tables: raise FileNotFoundError(f'no {split} of {name}\n here')
        return tables[name, split]
    fake = ModuleType('datasets')
    vars(fake).update(load_dataset=load_dataset, Image=Image)
    monkeypatch.setitem(sys.modules, 'datasets', fake)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    files._on_hub.cache_clear()
    yield tables
    files._on_hub.cache_clear()

def pets(tmp_path, n=6, labels=(0, 1, 1, 0, 1, 0), seed=0) -> Table:
    "The first is a file, the others are bytes"
    images = [dict(bytes=encoded(seed+k), path=None) for k in range(n)]
    (tmp_path/'first').write_bytes(images[0]['bytes'])
    images[0] = dict(bytes=None, path=str(tmp_path/'first'))
    columns = dict(img=images, name=['x']*n, kind=list(labels))
    return Table(columns, dict(img=Image(), name=Value(), kind=ClassLabel(['cat', 'dog'])))

def test_images_and_labels(hub, tmp_path):
    hub['jo/pets', 'train'] = table = pets(tmp_path)
    x = load('hf:jo/pets')
    assert (x.name, x.shape, x.classes)==('pets', (3, 24, 40), ['cat', 'dog'])
    assert x.labels.tolist()==[0, 1, 1, 0, 1, 0]
    for k in range(6):
        theirs = np.asarray(Picture.open(BytesIO(encoded(k)))).transpose(2, 0, 1)
        assert np.array_equal(x[k], theirs)
    table.read.clear()
    assert load('hf:jo/pets').fingerprint()==x.fingerprint() and not table.read
    assert image_sizes('hf:jo/pets')=={(24, 40): 6}
    assert load('hf:jo/pets', size=(8, 16)).shape==(3, 8, 16)

def test_splits(hub, tmp_path):
    hub['jo/pets', 'test'] = pets(tmp_path, labels=[-1]*6)
    hub['jo/pets', 'valid'] = pets(tmp_path, 3, [1, 0, 1], seed=9)
    test = load('hf:jo/pets', 'test')
    assert len(test)==6 and test.labels is None   # -1: not told
    assert load('hf:jo/pets@valid').labels.tolist()==[1, 0, 1]
    with pytest.raises(ValueError, match='cannot be loaded .no train of jo/pets here'):
        load('hf:jo/pets')

def test_what_is_wrong_is_said(hub, tmp_path, monkeypatch):
    hub['jo/words', 'train'] = Table(dict(text=['a']), dict(text=Value()))
    with pytest.raises(ValueError, match='holds no images: its columns are text'):
        load('hf:jo/words')
    hub['jo/pets', 'train'] = table = pets(tmp_path)
    table.columns['img'][2]['bytes'] = b'no picture'
    with pytest.raises(ValueError, match='1 of 6 files cannot be used: 00000002.png'):
        load('hf:jo/pets')
    x = load('hf:jo/pets', skip_bad=True)
    assert x.labels.tolist()==[0, 1, 0, 1, 0] and len(x.skipped)==1
    monkeypatch.setitem(sys.modules, 'datasets', None)   # not installed
    with pytest.raises(ValueError, match=r'pip install "ddpm_lit\[hub\]"'): load('hf:jo/other')

def test_the_command(hub, tmp_path, capsys):
    hub['jo/pets', 'train'] = pets(tmp_path, 12, [0, 1]*6)
    out = tmp_path/'run'
    args = ['train', 'hf:jo/pets', '--out', str(out), '--steps', '2', '--batch', '2',
        '--preset', 'tiny', '--labels', '--size', '8x8', '--tracker', 'none']
    assert main(args)==0 and '12 images, 8 x 8' in capsys.readouterr().out
    assert main(['train', 'hf:jo/pets', '--out', str(out), '--resume', '--steps', '3',
        '--tracker', 'none'])==0
    assert main(['info', str(out)])==0 and 'hf:jo/pets, 12 images' in capsys.readouterr().out
