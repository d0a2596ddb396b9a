"""Files of all kinds: which are read, which are named, and what tells two sets of images
apart. And the data sets by name."""
import json, shutil, socket, struct, warnings, zipfile, zlib
from io import BytesIO
from itertools import product
from pathlib import Path
import numpy as np, pytest, torchvision
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo
from helpers import cache_home, data_dir, images
from ddpm_lit.data import Images
from ddpm_lit.workshop import files
from ddpm_lit.workshop.files import _listing, image_folder, image_sizes, load, read_image

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))

@pytest.fixture
def shared_cache(cache, tmp_path_factory, monkeypatch):
    "What is slow to decode is decoded once"
    monkeypatch.setenv('XDG_CACHE_HOME', cache_home(tmp_path_factory))

def forbid(monkeypatch, where, *names):
    def no(*a, **k): raise AssertionError('called')
    for name in names: monkeypatch.setattr(where, name, no)

def refusal(*args, **kw) -> str:
    with pytest.raises(ValueError) as e: image_folder(*args, **kw)
    return str(e.value)

# ---------------------------------------------------------------- bad files
HEIC = b'\0\0\0\x1cftypheic\0\0\0\0mif1heic' + bytes(40)
AVIF = b'\0\0\0\x20ftypavif\0\0\0\0avifmif1' + bytes(40)

def spoil(folder: Path) -> list[str]:
    "Bad files of all kinds beside good ones of 24 x 40"
    good = (folder/'0000.png').read_bytes()
    for k in range(6): (folder/f'text{k}.png').write_text('not a picture')
    for k in range(3): (folder/f'cut{k}.png').write_bytes(good[:len(good)//2])
    (folder/'empty.jpg').write_bytes(b'')
    (folder/'me.heic').write_bytes(HEIC)
    (folder/'sunset.nef').write_bytes(good)
    Image.new('F', (40, 24)).save(folder/'float.tif')
    return [*(f'text{k}.png' for k in range(6)), *(f'cut{k}.png' for k in range(3)),
        'empty.jpg', 'me.heic', 'sunset.nef', 'float.tif']

def test_all_bad_files_are_named_at_once(tmp_path):
    d = images(tmp_path/'d', 5)
    bad = spoil(d)
    Image.new('L', (8, 8)).save(d/'small.png')
    says = refusal(d)
    assert all(f'{name}: ' in says for name in [*bad, 'small.png'])
    assert '14 of 19 files' in says
    for words in ('pillow-heif', 'raw file of a camera', 'mode F', '8 x 8', '--size 24x40'):
        assert words in says
    assert '--skip-bad' in says
    assert '\n' not in says

def test_of_many_bad_files_twenty_are_named(tmp_path):
    d = images(tmp_path/'d', 2)
    for k in range(33): (d/f'{k:02}.jpg').write_text('')
    says = refusal(d)
    assert says.count('.jpg: ')==20 and '33 of 35 files' in says and 'and 13 more' in says

def test_bad_files_are_left_out(tmp_path, monkeypatch):
    d = tmp_path/'d'
    for k, kind in enumerate(('cat', 'dog', 'owl')): images(d/kind, 4, seed=k)
    bad = spoil(d/'dog')
    for f in (d/'owl').iterdir(): f.write_text('')     # a class without any image is no class
    clean = shutil.copytree(d, tmp_path/'clean')
    for f in bad: (clean/'dog'/f).unlink()
    shutil.rmtree(clean/'owl')
    x, y = image_folder(d, skip_bad=True), image_folder(clean)
    assert (x.images==y.images).all() and x.labels.tolist()==y.labels.tolist()
    assert x.classes==['cat', 'dog'] and x.files==y.files and x.fingerprint()==y.fingerprint()
    assert len(x.skipped)==len(bad)+4 and '17 files left out' in repr(x)
    assert {s.split(': ')[0] for s in x.skipped} >= {f'dog/{name}' for name in bad}
    assert load(d, skip_bad=True).skipped==x.skipped and y.skipped==[]
    forbid(monkeypatch, files, 'read_image', '_headers')
    forbid(monkeypatch, Images, 'hash_of_pixels')
    again = image_folder(d, skip_bad=True)              # from the cache
    assert again.skipped==x.skipped and again.files==x.files
    assert again.fingerprint()==x.fingerprint()

def test_labels_of_a_file_stay_when_others_are_left_out(tmp_path):
    d = images(tmp_path/'d', 4)
    labels = [[f'000{k}.png', k] for k in range(4)]
    (d/'dataset.json').write_text(json.dumps({'labels': labels}))
    (d/'0001.png').write_bytes((d/'0001.png').read_bytes()[:60])
    (d/'0002.png').write_text('')
    assert image_folder(d, skip_bad=True).labels.tolist()==[0, 3]

def test_nothing_is_left(tmp_path):
    d = images(tmp_path/'d', 2)
    for f in d.iterdir(): f.write_bytes(f.read_bytes()[:60])
    says = refusal(d, skip_bad=True)
    assert '2 of 2 files' in says and '0000.png: ' in says and '0001.png: ' in says
    assert '--skip-bad' not in says
    for f in d.iterdir(): f.write_text('')
    assert '0000.png: ' in refusal(d, skip_bad=True)

def test_another_size_is_not_left_out(tmp_path):
    d = images(tmp_path/'d', 3)
    Image.new('L', (8, 8)).save(d/'small.png')
    (d/'empty.png').write_text('')
    says = refusal(d, skip_bad=True)
    assert 'small.png: 8 x 8' in says and '--size 24x40' in says and 'empty.png' not in says
    assert len(image_folder(d, size=(8, 8), skip_bad=True))==4

def test_a_mended_file_is_read(tmp_path):
    d = images(tmp_path/'d', 3)
    good = (d/'0001.png').read_bytes()
    (d/'0001.png').write_bytes(good[:60])
    assert len(image_folder(d, skip_bad=True))==2
    (d/'0001.png').write_bytes(good)
    assert len(image_folder(d, skip_bad=True))==3 and len(image_folder(d))==3

def test_a_permission_that_is_mended_is_noticed(tmp_path):
    d = images(tmp_path/'d', 1)
    before = _listing(d).state
    (d/'0000.png').chmod(0o600)
    assert _listing(d).state!=before

def test_what_a_name_holds_stays_out_of_the_terminal(tmp_path):
    d = images(tmp_path/'d', 1)
    (d/'\x1b[31m.png').write_text('')
    assert all('\x1b' not in s for s in image_folder(d, skip_bad=True).skipped)

# ---------------------------------------------------------------- kinds of files
def png(w: int, h: int, bits: int, kind: int, rows: bytes, *chunks) -> bytes:
    "Chunks are (their kind, what is in them)"
    def chunk(kind, body):
        return struct.pack('>I', len(body))+kind+body+struct.pack('>I', zlib.crc32(kind+body))
    head = struct.pack('>2I5B', w, h, bits, kind, 0, 0, 0)
    parts = [(b'IHDR', head), *chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n'+b''.join(chunk(*part) for part in parts)

def png_of_grey(levels, bits: int, *chunks) -> bytes:
    "One row of levels, 8 bits each at most"
    row = ''.join(f'{level:0{bits}b}' for level in levels)
    row += '0'*(-len(row)%8)
    row = bytes(int(row[k:k+8], 2) for k in range(0, len(row), 8))
    return png(len(levels), 1, bits, 0, b'\0'+row, *chunks)

def png_of_16_bits(levels: np.ndarray, *chunks) -> bytes:
    "(height, width, 1 to 4) levels 0..65535"
    h, w, channels = levels.shape
    rows = b''.join(b'\0'+row.astype('>u2').tobytes() for row in levels)
    return png(w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, *chunks)

def tiff_of_16_bits(
        levels, order: str = '<', packed=False, zero_is_white=False, planes=False) -> bytes:
    "The like, in either order of bytes, as they are or deflated"
    h, w, channels = levels.shape
    body = levels.astype(order+'u2').tobytes()
    if packed: body = zlib.compress(body)
    photometric = 2 if channels>1 else 0 if zero_is_white else 1
    tags = {256: w, 257: h, 258: 16, 259: 8 if packed else 1, 262: photometric, 273: 0,
        277: channels, 278: h, 279: len(body)}
    if planes: tags[284] = 2
    if channels==4: tags[338] = 2
    start = 16+2+12*len(tags)+4
    out = b'II*\0' if order=='<' else b'MM\0*'
    out += struct.pack(order+'I4HH', 16, *[16]*4, len(tags))
    for tag, value in tags.items():
        if tag==258 and channels>1: out += struct.pack(order+'HHII', tag, 3, channels, 8)
        elif tag==273: out += struct.pack(order+'HHII', tag, 4, 1, start)
        elif tag in (258, 259, 262, 277, 338):
            out += struct.pack(order+'HHIHH', tag, 3, 1, value, 0)
        else: out += struct.pack(order+'HHII', tag, 4, 1, value)
    return out+bytes(4)+body

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
COLOUR = np.concatenate([RAMP, RAMP[::-1], RAMP.transpose(1, 0, 2)], 2)
OPAQUE = np.concatenate([COLOUR, np.full_like(RAMP, 65535)], 2)
FILES_OF_16_BITS = {
    'grey.png': (png_of_16_bits(RAMP), RAMP),
    'colour.png': (png_of_16_bits(COLOUR), COLOUR),
    'opaque.png': (png_of_16_bits(OPAQUE), COLOUR),
    'grey.pgm': (b'P5 256 256 65535\n'+RAMP.astype('>u2').tobytes(), RAMP),
    'colour.ppm': (b'P6 256 256 65535\n'+COLOUR.astype('>u2').tobytes(), COLOUR),
    'white.tif': (tiff_of_16_bits(65535-RAMP, zero_is_white=True), RAMP)}
for (name, levels), order, packed in product(
        dict(grey=RAMP, colour=COLOUR, opaque=OPAQUE).items(), '<>', (False, True)):
    file = tiff_of_16_bits(levels, order, packed)
    FILES_OF_16_BITS[f'{name}{order}{packed}.tif'] = file, levels[..., :3]

@pytest.mark.parametrize('name', FILES_OF_16_BITS)
def test_16_bits_become_8(name, tmp_path):
    "All 65,536 levels, where Pillow makes white of most of them, or cuts the lower byte off"
    file, levels = FILES_OF_16_BITS[name]
    grey = levels.shape[2]==1
    want = np.round(levels*(255/65535)).astype(np.uint8).transpose(2, 0, 1)
    assert (read_image(file, grey)==want).all()
    (tmp_path/'d').mkdir()
    (tmp_path/'d'/name).write_bytes(file)
    x = image_folder(tmp_path/'d')
    assert x.shape==want.shape and (x.images[0]==want).all()

def test_16_bits_upright_and_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = COLOUR[:40, :24]
    for levels in (turned, turned[..., :1]):
        file = png_of_16_bits(levels, (b'eXIf', exif.tobytes()[6:]))
        want = np.round(np.rot90(levels, -1)*(255/65535)).astype(np.uint8)
        assert (read_image(file, levels.shape[2]==1)==want.transpose(2, 0, 1)).all()
    clear = np.full((2, 2, 3), 40_000, np.uint16)
    clear[0, 0] = 1000
    file = png_of_16_bits(clear, (b'tRNS', struct.pack('>3H', 1000, 1000, 1000)))
    assert read_image(file, False)[0].tolist()==[[255, 156], [156, 156]]
    file = png_of_16_bits(clear[..., :1], (b'tRNS', struct.pack('>H', 1000)))
    assert read_image(file, True)[0].tolist()==[[255, 156], [156, 156]]

@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_a_grey_that_is_transparent_lies_on_white(bits):
    file = png_of_grey(range(min(2**bits, 8)), bits, (b'tRNS', struct.pack('>H', 1)))
    step = 255//(2**bits-1)
    want = [255 if k==1 else k*step for k in range(min(2**bits, 8))]
    assert read_image(file, True).ravel().tolist()==want

def test_what_has_more_than_16_bits_is_refused(tmp_path):
    d = images(tmp_path/'d', 1)
    Image.fromarray(np.full((24, 40), 70_000, np.int32)).save(d/'deep.tif')
    assert 'deep.tif: ' in refusal(d) and 'mode I;32' in refusal(d)

def test_planes_of_16_bits_are_refused():
    "Pillow would read them as if they had 8"
    file = tiff_of_16_bits(COLOUR, planes=True)
    with pytest.raises(ValueError, match='one plane of 16 bits after the other'):
        read_image(file, False)

def test_avif_is_read_where_pillow_can(tmp_path):
    d = images(tmp_path/'d', 2)
    if features.check('avif'):
        Image.open(d/'0000.png').convert('RGB').save(d/'photo.avif', quality=100)
        x = image_folder(d)
        assert len(x)==3 and image_sizes(d)=={(24, 40): 3}
        assert (x[2].int()-x[0].int()).abs().max()<=8
    (d/'photo.avif').write_bytes(AVIF)
    assert 'photo.avif: ' in refusal(d) and 'phones' not in refusal(d)
    assert len(image_folder(d, skip_bad=True))==2

def test_photos_of_phones(tmp_path, monkeypatch):
    d = images(tmp_path/'d', 2)
    for name in ('a.heic', 'b.HEIF', 'c.jpg'): (d/name).write_bytes(HEIC)
    monkeypatch.setattr(files, '_formats', lambda: files.FORMATS)
    assert refusal(d).count('pillow-heif')==3
    assert len(image_folder(d, skip_bad=True))==2 and image_sizes(d)=={(24, 40): 2}

def test_photos_of_phones_with_their_package(tmp_path):
    pytest.importorskip('pillow_heif')
    d = images(tmp_path/'d', 2)
    Image.open(d/'0000.png').convert('RGB').save(d/'photo.heic', quality=100)
    x = image_folder(d)
    assert len(x)==3 and (x[2].int()-x[0].int()).abs().max()<=8

def test_raw_files_of_cameras(tmp_path):
    d = images(tmp_path/'d', 2)
    for name in ('a.CR2', 'b.nef', 'c.dng', 'd.arw'):
        shutil.copy(d/'0000.png', d/name)   # Pillow would take a preview for the image
    says = refusal(d)
    assert says.count('a raw file of a camera')==4 and '4 of 6' in says
    assert len(image_folder(d, skip_bad=True))==2

def test_other_files_are_said_and_hidden_ones_are_not(tmp_path):
    d = images(tmp_path/'d', 2)
    for name in ('.hidden.png', '._0000.png', '.DS_Store', 'Thumbs.db', 'notes.txt'):
        (d/name).write_text('')
    (d/'__MACOSX').mkdir()
    (d/'__MACOSX'/'a.png').write_text('')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(image_folder(d))==2
    for name in ('logo.svg', 'old.psd', 'x.jxl', 'x.qoi', 'IMG_0001'): (d/name).write_text('')
    said = '5 files of a kind that is not read .*IMG_0001.*PNG or JPEG'
    with pytest.warns(UserWarning, match=said): image_folder(d)

# ---------------------------------------------------------------- links and zips
def test_linked_folders_are_read_once(tmp_path):
    d, out = tmp_path/'d', tmp_path/'elsewhere'
    images(d/'cat', 2)
    images(out/'dogs', 3)
    images(out/'more'/'owls', 1)
    (d/'dog').symlink_to(out/'dogs')
    (d/'owl').symlink_to(out/'more')
    (d/'again').symlink_to('cat')                     # both lead back into the folder,
    (d/'up').symlink_to('..')                         # or to one around it
    (out/'dogs'/'loop').symlink_to('.')
    (out/'more'/'home').symlink_to(d)
    x = image_folder(d)
    assert x.classes==['cat', 'dog', 'owl'] and x.labels.tolist()==[0, 0, 1, 1, 1, 2]
    Image.new('L', (40, 24)).save(out/'dogs'/'new.png')
    assert len(image_folder(d))==7                    # the cache knows of changes there

def test_a_link_to_nothing_is_named(tmp_path):
    d = images(tmp_path/'d', 2)
    (d/'lost.png').symlink_to(tmp_path/'gone.png')
    assert '1 of 3' in (said := refusal(d)) and 'lost.png' in said
    assert len(image_folder(d, skip_bad=True))==2

def test_names_that_lead_out_of_a_zip(tmp_path):
    "They are read like others, and lead nowhere: nothing is unpacked"
    good, inside = BytesIO(), tmp_path/'a'/'b'
    inside.mkdir(parents=True)
    Image.new('L', (8, 8)).save(good, 'PNG')
    names = ['../up.png', f'{tmp_path}/a.png', 'C:\\a.png', '..\\b.png', 'a/../../c.png',
        'good.png']
    with zipfile.ZipFile(inside/'d.zip', 'w') as z:
        for name in [*names, './fine.png', '.hidden.png', '__MACOSX/x.png']:
            z.writestr(name, good.getvalue())
    plain = [name.replace('\\', '/') for name in names]
    assert image_folder(inside/'d.zip').files==sorted([*plain, 'fine.png'])
    assert not [*(tmp_path/'a').rglob('*.png'), *tmp_path.glob('*.png')]

def test_a_zip_with_backslashes_has_classes(tmp_path):
    d = tmp_path/'d'
    for k, kind in enumerate(('cat', 'dog')): images(d/kind, 3, seed=k)
    with zipfile.ZipFile(tmp_path/'d.zip', 'w') as z:
        z.writestr('cat\\', b'')
        for file in sorted(d.rglob('*.png')):
            z.writestr(f'{file.parent.name}\\{file.name}', file.read_bytes())
    assert image_folder(tmp_path/'d.zip').fingerprint()==image_folder(d).fingerprint()

# ---------------------------------------------------------------- the fingerprint
def test_every_change_of_the_images_changes_the_fingerprint(tmp_path):
    d = tmp_path/'d'
    for k, kind in enumerate(('cat', 'dog')): images(d/kind, 3, seed=k)
    first = image_folder(d).fingerprint()
    assert json.loads(json.dumps(first))==first and first['classes']==['cat', 'dog']
    assert image_folder(shutil.copytree(d, tmp_path/'copy')).fingerprint()==first
    shutil.make_archive(str(tmp_path/'zipped'), 'zip', d)
    assert image_folder(tmp_path/'zipped.zip').fingerprint()==first

    def changed(how) -> set[str]:
        other = shutil.copytree(d, tmp_path/'other', dirs_exist_ok=True)
        how(other)
        found = image_folder(other).fingerprint()
        shutil.rmtree(other)
        return {k for k in first if first[k]!=found[k]}
    def recolour(d):
        f = d/'dog'/'0001.png'
        Image.open(f).point(lambda v: 255-v).save(f)
    def swap(d):
        (d/'cat'/'0000.png').rename(d/'x.png')
        (d/'cat'/'0001.png').rename(d/'cat'/'0000.png')
        (d/'x.png').rename(d/'cat'/'0001.png')
    def one_more(d): Image.new('L', (40, 24)).save(d/'dog'/'0003.png')
    def move(d): (d/'dog'/'0000.png').rename(d/'cat'/'0003.png')   # the order of images stays
    def rename(d): (d/'dog').rename(d/'hound')
    assert changed(recolour)==changed(swap)=={'pixels'}
    assert changed(one_more)=={'pixels', 'labels'}
    assert changed(move)=={'labels'} and changed(rename)=={'classes'}

def test_the_fingerprint_costs_nothing_on_the_next_start(tmp_path, monkeypatch):
    d, seen, hash_of_pixels = images(tmp_path/'d', 5, channels=3), [], Images.hash_of_pixels
    def counted(self):
        seen.append(self.images.nbytes)
        return hash_of_pixels(self)
    monkeypatch.setattr(Images, 'hash_of_pixels', counted)
    first = image_folder(d).fingerprint()
    assert seen==[5*3*24*40]
    x = image_folder(d)
    assert x.fingerprint()==first and x.fingerprint()==first and seen==[5*3*24*40]
    x.images = x.images[:, :1]                        # other images, though from the cache
    alike = Images(np.array(x.images)).fingerprint()
    assert x.fingerprint()['pixels']==alike['pixels']!=first['pixels']

# ---------------------------------------------------------------- pictures and their labels
def test_every_kind_of_file(tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8))
    d = tmp_path/'d'
    d.mkdir()
    for mode in ('RGB', 'L', '1', 'P', 'RGBA', 'LA'): rgb.convert(mode).save(d/f'{mode}.png')
    rgb.convert('CMYK').save(d/'cmyk.jpg')
    rgb.save(d/'x.webp', lossless=True)
    rgb.save(d/'x.bmp')
    rgb.quantize(16).save(d/'x.gif')
    sideways, exif = rgb.transpose(Image.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    for kind in ('jpg', 'png', 'tif', 'webp'): sideways.save(d/f'sideways.{kind}', exif=exif)
    x = image_folder(d)
    assert x.shape==(3, 16, 24) and len(x)==14
    for name in ('RGB.png', 'sideways.png', 'sideways.tif'):
        assert (x.images[x.files.index(name)].transpose(1, 2, 0)==np.asarray(rgb)).all(), name

def test_a_picture_that_is_turned_by_other_words(tmp_path):
    "XMP, as some programs write it: the size in the header is not that of the picture"
    words, picture = PngInfo(), Image.new('RGB', (40, 20))
    words.add_itxt('XML:com.adobe.xmp', '<x tiff:Orientation="6"/>')
    picture.save(tmp_path/'a.png', pnginfo=words)
    assert image_sizes(tmp_path)=={(40, 20): 1} and load(tmp_path).shape==(3, 40, 20)

def test_labels(tmp_path):
    d = images(tmp_path/'d', 4)
    said = d/'dataset.json'
    negative = [[f'000{k}.png', -k] for k in range(4)]
    shares = [[f'000{k}.png', k/2] for k in range(4)]
    twice = dict(labels=[[f'000{k}.png', k%2] for k in range(4)], class_names=['a', 'a'])
    for text, wrong in {
            '{"labels": [["0000.png", 1]]}': 'no label for .0001.png',
            json.dumps({'labels': negative}): 'dataset.json cannot be read .*count from 0',
            json.dumps({'labels': shares}): 'dataset.json cannot be read .*float',
            json.dumps(twice): 'dataset.json gives two classes one name',
            'nonsense': 'dataset.json cannot be read'}.items():
        said.write_text(text)
        with pytest.raises(ValueError, match=f'{wrong}.*or give it another name'):
            image_folder(d)
    said.write_text('{"labels": null}')
    images(d/'more', 1)
    assert image_folder(d).labels is None
    (d/'cat').mkdir()
    for k in range(4): (d/f'000{k}.png').rename(d/'cat'/f'{k}.png')
    assert image_folder(d).labels is None       # what the file says goes before the subfolders
    said.unlink()
    assert image_folder(d).classes==['cat', 'more']
    whole = tmp_path/'whole'/'pets'             # a folder around all of them is no class
    shutil.copytree(d, whole)
    assert image_folder(tmp_path/'whole').classes==['cat', 'more']
    (whole/'dataset.json').write_text('{"labels": null}')
    with pytest.raises(ValueError, match='pets/dataset.json says labels, and lies too deep'):
        image_folder(tmp_path/'whole')

def test_splits_are_no_classes(tmp_path):
    "Neither are training images those to test with"
    for split in ('train', 'test'): images(tmp_path/'pets'/split/'cat', 3)
    for split in ('train', 'val'): images(tmp_path/'animals'/split/'cat', 3)
    with pytest.raises(ValueError, match='test, train are splits'): load(tmp_path/'pets')
    with pytest.raises(ValueError, match='train, val are splits'): load(tmp_path/'animals')
    (tmp_path/'animals'/'train').rename(tmp_path/'animals'/'Training')
    with pytest.raises(ValueError, match='Training, val are splits'): load(tmp_path/'animals')
    assert len(load(tmp_path/'pets'/'test'))==3
    with pytest.raises(ValueError, match='your own'): load(tmp_path/'pets'/'train', 'test')
    images(tmp_path/'data', 3, (32, 32), 3)
    with zipfile.ZipFile(tmp_path/'data'/'cifar10-images.zip', 'w') as z:
        for path in sorted((tmp_path/'data').glob('*.png')): z.write(path, path.name)
    assert files._zip_of('cifar10', 'test', tmp_path/'data') is None

def test_a_film_is_no_image(tmp_path):
    d, grey = images(tmp_path/'d', 2), [Image.new('L', (24, 40), 9*k) for k in range(5)]
    grey[0].save(d/'stack.tif', save_all=True, append_images=grey[1:])
    assert 'stack.tif: not a readable image (5 pages' in refusal(d)

@pytest.mark.parametrize('names,classes', [
    (['a', 'b', 'c'], ['a', 'b', 'c']), (['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'd']),
    (['a', 'b'], ['0', '1', '2']), (['a', 'b', 3], ['0', '1', '2']), (None, ['0', '1', '2'])])
def test_names_of_classes(tmp_path, names, classes, recwarn):
    d = images(tmp_path/'d', 3)
    labels = [[f'000{k}.png', k] for k in range(3)]
    (d/'dataset.json').write_text(json.dumps({'labels': labels, 'class_names': names}))
    assert image_folder(d).classes==classes
    said = [str(w.message) for w in recwarn]
    lost = names and classes[0]=='0'
    assert said==(['class_names of dataset.json are not 3 words: left out'] if lost else [])

@pytest.mark.parametrize('size', [14, 22, 28, 30, 38, 100])
def test_any_size_can_be_cut(tmp_path, size):
    x = image_folder(images(tmp_path/'d', 2, size=(29, 29)), size=(size, size))
    assert x.shape==(1, size, size)

# ---------------------------------------------------------------- the cache
def test_changed_files_are_decoded_again(tmp_path):
    d = images(tmp_path/'d', 3)
    a = image_folder(d)[0]
    Image.fromarray(255-a[0].numpy()).save(d/'0000.png')
    assert (image_folder(d)[0]==255-a).all()
    images(d/'more', 2)
    assert len(image_folder(d))==5

def test_different_files_are_different_data(tmp_path):
    d = images(tmp_path/'d', 4)
    def first(name): return image_folder(d, only=lambda n: n in (name, '0003.png'))[0]
    assert (first('0000.png')!=first('0001.png')).any()

def test_nowhere_to_keep_what_is_decoded(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('no folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'file'))
    assert 'another place in XDG_CACHE_HOME' in refusal(images(tmp_path/'d', 2))

def test_a_damaged_cache_is_made_anew(tmp_path):
    d = images(tmp_path/'d', 3)
    a = image_folder(d)[0]
    for f in files.cache_dir().glob('images/d-*/images.npy'): f.write_bytes(b'')
    assert (image_folder(d)[0]==a).all()

def test_nothing_is_left_of_a_failure(tmp_path):
    d = images(tmp_path/'d', 2)
    (d/'0001.png').write_bytes((d/'0001.png').read_bytes()[:60])
    refusal(d)
    assert not [*files.cache_dir().rglob('*.npy')]

# ---------------------------------------------------------------- data sets by name
def test_cifar10_is_exact_and_decoded_once(shared_cache, monkeypatch):
    d = data_dir()
    x = load('cifar10', 'test', data_dir=d)
    assert (x.shape, len(x), x.classes[:2])==((3, 32, 32), 10_000, ['airplane', 'automobile'])
    assert x.flip and isinstance(x.images, np.memmap)
    assert np.bincount(x.labels).tolist()==[1000]*10
    with zipfile.ZipFile(d/'cifar10-test.zip') as z:
        labels = dict(json.loads(z.read('dataset.json'))['labels'])
        for i in (0, 4321, 9999):
            name = sorted(labels)[i]
            with z.open(name) as f: image = np.asarray(Image.open(f).convert('RGB'))
            assert (image.transpose(2, 0, 1)==x.images[i]).all() and labels[name]==x.labels[i]
    forbid(monkeypatch, files, 'read_image', '_headers')   # the second start decodes nothing
    assert (load('cifar10', 'test', data_dir=d).images[-1]==x.images[-1]).all()

def test_celeba_is_cut_as_usual(shared_cache):
    d = data_dir()
    x = load('celeba', data_dir=d)
    assert (x.shape, len(x), x.name)==((3, 64, 64), 9000, 'celeba')
    with zipfile.ZipFile(d/'celeba-89x109.zip') as z, z.open('celeba/000001.jpg') as f:
        face = Image.open(f).resize((64, 64), Image.BILINEAR, box=(7.5, 17.5, 81.5, 91.5))
    assert (np.asarray(face).transpose(2, 0, 1)==x.images[0]).all()
    with pytest.raises(ValueError, match='celeba'): load('cifar10', size=(8, 8), data_dir=d)

def test_mnist(shared_cache):
    x = load('mnist', data_dir=data_dir())
    assert (x.shape, len(x), x.flip, x.name)==((1, 28, 28), 60_000, False, 'mnist')
    assert x.labels[:3].tolist()==[5, 0, 4]

def test_a_path_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(tmp_path/'digits', 3)
    assert len(load(Path('./digits')))==len(load('./digits'))==3<len(load('digits'))
    for wrong in (['a.png'], np.zeros((3, 1, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r'say Images\(x\)'): load(wrong)
    with pytest.raises(ValueError, match='height, width'): load('celeba', size=64)

def test_the_digits_by_name():
    from ddpm_lit.data import digits
    assert load('digits', 'test').fingerprint()==digits('test').fingerprint()

OTHER_WAYS = dict(mnist='MNIST/raw', cifar10='cifar10-train.zip', celeba='celeba-aligned.zip')

@pytest.mark.parametrize('name,other_way', OTHER_WAYS.items())
def test_offline_says_what_else_can_be_done(tmp_path, monkeypatch, name, other_way):
    def unreachable(*a, **k): raise OSError('Network is unreachable')
    monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
    monkeypatch.setattr(socket, 'create_connection', unreachable)
    with pytest.raises(ValueError, match='cannot be downloaded|needs the package') as e:
        load(name, data_dir=tmp_path)
    says = str(e.value)
    assert (other_way in says or 'pip install' in says) and '\n' not in says

@pytest.mark.parametrize('content', [
    b'', b'x'*100, bytes.fromhex('00000803 80000000 0000001c 0000001c')])
def test_damaged_downloads(tmp_path, content):
    raw = tmp_path/'MNIST'/'raw'
    raw.mkdir(parents=True)
    for part, kind in product(('train', 't10k'), ('images-idx3', 'labels-idx1')):
        (raw/f'{part}-{kind}-ubyte').write_bytes(content)
    with pytest.raises(ValueError, match='damaged'): load('mnist', data_dir=tmp_path)

def test_celeba_quota(tmp_path, monkeypatch):
    def over(*a, **k): raise RuntimeError('The daily quota of the file is exceeded.')
    monkeypatch.setattr(torchvision.datasets, 'CelebA', over)
    with pytest.raises(ValueError, match='quota.*in a browser.*celeba-aligned.zip'):
        load('celeba', data_dir=tmp_path)

def test_cifar10_through_torchvision(tmp_path, monkeypatch):
    pixels = np.arange(2*32*32*3, dtype=np.uint8).reshape(2, 32, 32, 3)
    class Fake:
        def __init__(self, root, train, download):
            self.data, self.targets, self.classes = pixels, [3, 1], list('abcd')
    monkeypatch.setattr(torchvision.datasets, 'CIFAR10', Fake)
    x = load('cifar10', data_dir=tmp_path)
    assert x.labels.tolist()==[3, 1] and isinstance(x.images, np.memmap)
    assert (x.images==pixels.transpose(0, 3, 1, 2)).all()

@pytest.mark.parametrize('first,test', [
    (1, ['000010.png']), (182_634, ['182638.png', '182639.png'])])
def test_celeba_has_faces_for_testing(tmp_path, first, test):
    "The official ones, if they are in the zip; else its last tenth"
    pictures = images(tmp_path/'faces', 10 if first==1 else 6, size=(218, 178), channels=3)
    with zipfile.ZipFile(tmp_path/'celeba-aligned.zip', 'w') as z:
        for k, picture in enumerate(sorted(pictures.iterdir()), start=first):
            z.write(picture, f'{k:06}.png')
        everything = {*z.namelist()}
    splits = [load('celeba', split, data_dir=tmp_path).files for split in ('train', 'test')]
    assert splits[1]==test and {*splits[0]}==everything-{*test}

def test_celeba_through_torchvision(tmp_path, monkeypatch):
    "Of all faces, those of the split"
    images(tmp_path/'celeba'/'img_align_celeba', 3, size=(218, 178), channels=3)
    class Fake:
        def __init__(self, root, split, download): self.filename = ['0000.png', '0002.png']
    monkeypatch.setattr(torchvision.datasets, 'CelebA', Fake)
    x = load('celeba', data_dir=tmp_path)
    assert (x.shape, x.files)==((3, 64, 64), ['0000.png', '0002.png'])

@pytest.mark.parametrize('ending', ['tif', 'gif', 'webp', 'png'])
def test_no_page_is_left_out(tmp_path, ending):
    "In a folder, and where one picture is asked for"
    d = images(tmp_path/'d', 2)
    pages = [Image.new('L', (40, 24), level) for level in (0, 255)]
    pages[0].save(d/f'two.{ending}', save_all=True, append_images=pages[1:])
    assert f'two.{ending}: ' in refusal(d) and '2 pages: save each as a file' in refusal(d)
    with pytest.raises(ValueError, match='2 pages'):
        read_image((d/f'two.{ending}').read_bytes(), True)

def test_a_place_of_data_sets_is_for_them(tmp_path):
    with pytest.raises(ValueError, match='--data-dir.*is for digits.*leave it away'):
        load(images(tmp_path/'d', 2), data_dir=tmp_path)
