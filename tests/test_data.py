"The data sets by name, the cache, and what happens without a network."
import json, zipfile
import numpy as np, pytest, torch
from PIL import Image
from helpers import cache_home, data_dir, images
from ddpm_lit import data
from ddpm_lit.data import image_folder, load

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))

def forbid(monkeypatch, name):
    def no(*a, **k): raise AssertionError(f'{name} was called')
    monkeypatch.setattr(data, name, no)

def test_cifar10_is_exact_and_decoded_once(monkeypatch):
    d = data_dir(); x = load('cifar10', 'test', data_dir=d)
    assert (x.shape, len(x), x.classes[:2], x.flip)==((3, 32, 32), 10_000, ['airplane', 'automobile'], True) and isinstance(x.images, np.memmap)
    assert np.bincount(x.labels).tolist()==[1000]*10
    with zipfile.ZipFile(d/'cifar10-test.zip') as z:
        labels = dict(json.loads(z.read('dataset.json'))['labels'])
        for i in (0, 4321, 9999):
            name = sorted(labels)[i]
            with z.open(name) as f: assert (np.asarray(Image.open(f).convert('RGB')).transpose(2, 0, 1)==x.images[i]).all() and labels[name]==x.labels[i]
    forbid(monkeypatch, 'read_image'); forbid(monkeypatch, '_headers')
    assert (load('cifar10', 'test', data_dir=d).images[-1]==x.images[-1]).all()   # the second start decodes nothing

def test_celeba_is_cut_as_usual():
    d = data_dir(); x = load('celeba', data_dir=d); assert (x.shape, len(x), x.name)==((3, 64, 64), 10_000, 'celeba')
    with zipfile.ZipFile(d/'celeba-89x109.zip') as z, z.open('celeba/000001.jpg') as f:
        assert (np.asarray(Image.open(f).resize((64, 64), Image.BILINEAR, box=(7.5, 17.5, 81.5, 91.5))).transpose(2, 0, 1)==x.images[0]).all()
    with pytest.raises(ValueError, match='celeba'): load('cifar10', size=(8, 8), data_dir=d)

def test_mnist(): x = load('mnist', data_dir=data_dir()); assert (x.shape, len(x), x.flip, x.labels[:3].tolist())==((1, 28, 28), 60_000, False, [5, 0, 4])

@pytest.mark.parametrize('name,other_way', dict(mnist='MNIST/raw', cifar10='cifar10-train.zip', celeba='celeba-aligned.zip').items())
def test_offline_says_what_else_can_be_done(tmp_path, monkeypatch, name, other_way):
    import socket
    def unreachable(*a, **k): raise OSError('Network is unreachable')
    monkeypatch.setattr(socket, 'getaddrinfo', unreachable); monkeypatch.setattr(socket, 'create_connection', unreachable)
    with pytest.raises(ValueError, match='cannot be downloaded|needs the package') as e: load(name, data_dir=tmp_path)
    assert (other_way in str(e.value) or 'pip install' in str(e.value)) and '\n' not in str(e.value)

@pytest.mark.parametrize('data', [b'', b'x'*100, bytes.fromhex('00000803 80000000 0000001c 0000001c')])
def test_damaged_downloads(tmp_path, data):
    raw = tmp_path/'MNIST'/'raw'; raw.mkdir(parents=True)
    for part in ('train', 't10k'):
        for f in ('images-idx3', 'labels-idx1'): (raw/f'{part}-{f}-ubyte').write_bytes(data)
    with pytest.raises(ValueError, match='damaged'): load('mnist', data_dir=tmp_path)

def test_celeba_quota(tmp_path, monkeypatch):
    import torchvision
    def over(*a, **k): raise RuntimeError('The daily quota of the file img_align_celeba.zip is exceeded and it cannot be downloaded.')
    monkeypatch.setattr(torchvision.datasets, 'CelebA', over)
    with pytest.raises(ValueError, match='quota.*in a browser.*celeba-aligned.zip'): load('celeba', data_dir=tmp_path)

def test_cifar10_through_torchvision(tmp_path, monkeypatch):
    import torchvision
    class Fake:
        def __init__(self, root, train, download): self.data, self.targets, self.classes = np.arange(2*32*32*3, dtype=np.uint8).reshape(2, 32, 32, 3), [3, 1], list('abcd')
    monkeypatch.setattr(torchvision.datasets, 'CIFAR10', Fake); x = load('cifar10', data_dir=tmp_path)
    assert x.labels.tolist()==[3, 1] and (x[1].permute(1, 2, 0).numpy()==Fake(0, 0, 0).data[1]).all() and isinstance(x.images, np.memmap)

def test_changed_files_are_decoded_again(tmp_path):
    d = images(tmp_path/'d', 3); a = image_folder(d)[0]
    Image.fromarray(255-a[0].numpy()).save(d/'0000.png'); assert (image_folder(d)[0]==255-a).all()
    images(d/'more', 2); assert len(image_folder(d))==5

def test_every_kind_of_file(tmp_path):
    rng = np.random.default_rng(0); rgb = Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)); d = tmp_path/'d'; d.mkdir()
    for mode in ('RGB', 'L', '1', 'P', 'RGBA', 'LA'): rgb.convert(mode).save(d/f'{mode}.png')
    rgb.convert('CMYK').save(d/'cmyk.jpg'); rgb.save(d/'x.webp', lossless=True); rgb.save(d/'x.bmp'); rgb.quantize(16).save(d/'x.gif')
    sideways = rgb.transpose(Image.ROTATE_90); exif = Image.Exif(); exif[0x0112] = 6; [sideways.save(d/f'sideways.{s}', exif=exif) for s in ('jpg', 'png', 'tif', 'webp')]
    x = image_folder(d); assert x.shape==(3, 16, 24) and len(x)==14; names = sorted(p.name for p in d.iterdir())
    for name in ('RGB.png', 'sideways.png', 'sideways.tif'): assert (x[names.index(name)].permute(1, 2, 0).numpy()==np.asarray(rgb)).all(), name

def test_labels(tmp_path):
    d = images(tmp_path/'d', 4); (d/'dataset.json').write_text('{"labels": [["0000.png", 1]]}')
    with pytest.raises(ValueError, match='no label for .0001.png'): image_folder(d)
    (d/'dataset.json').write_text('nonsense')
    with pytest.raises(ValueError, match='dataset.json cannot be read'): image_folder(d)
    (d/'dataset.json').write_text('{"labels": null}'); assert image_folder(d).labels is None

@pytest.mark.parametrize('size', [14, 22, 28, 30, 38, 100])
def test_any_size_can_be_cut(tmp_path, size): assert image_folder(images(tmp_path/'d', 2, size=(29, 29)), size=(size, size)).shape==(1, size, size)

def test_different_files_are_different_data(tmp_path):
    d = images(tmp_path/'d', 4); a, b = (image_folder(d, only=lambda n, k=k: n in (f'000{k}.png', '0003.png'))[0] for k in (0, 1)); assert (a!=b).any()

def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache')); d = images(tmp_path/'d', 3); a = image_folder(d)[0]
    for f in data.cache_dir().glob('images/d-*/images.npy'): f.write_bytes(b'')
    assert (image_folder(d)[0]==a).all()

def test_points_are_never_mirrored():
    from ddpm_lit.training import draw
    points = torch.arange(20.).reshape(10, 2); x = draw(points, 0, batch=10, T=10).x_0
    assert (x[:, 1]-x[:, 0]==1).all()
