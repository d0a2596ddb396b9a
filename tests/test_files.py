"Files of all kinds: which are read, which are named, and what tells two sets of images apart."
import importlib.util, json, os, pty, re, shutil, struct, sys, warnings, zipfile, zlib
from io import BytesIO
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image, features
from helpers import images
from ddpm_lit import data
from ddpm_lit.data import Images, image_folder, image_sizes, load, progress, read_image

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))

def forbid(monkeypatch, *names):
    def no(*a, **k): raise AssertionError('called')
    for name in names: monkeypatch.setattr(data, name, no)

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
    assert all(f'{name}: ' in says for name in [*bad, 'small.png']) and '14 of 19 files' in says
    assert all(words in says for words in ('pillow-heif', 'raw file of a camera', 'mode F', '8 x 8', '--size 24x40', '--skip-bad'))
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
    assert (x.images==y.images).all() and x.labels.tolist()==y.labels.tolist() and x.classes==['cat', 'dog']
    assert x.files==y.files and x.fingerprint()==y.fingerprint()
    assert len(x.skipped)==len(bad)+4 and '17 files left out' in repr(x)
    assert {s.split(': ')[0] for s in x.skipped} >= {f'dog/{name}' for name in bad}
    assert load(d, skip_bad=True).skipped==x.skipped and y.skipped==[]
    forbid(monkeypatch, 'read_image', '_headers', '_hash_of_pixels')
    again = image_folder(d, skip_bad=True)              # from the cache
    assert again.skipped==x.skipped and again.fingerprint()==x.fingerprint() and again.files==x.files

def test_labels_of_a_file_stay_when_others_are_left_out(tmp_path):
    d = images(tmp_path/'d', 4)
    (d/'dataset.json').write_text(json.dumps({'labels': [[f'000{k}.png', k] for k in range(4)]}))
    (d/'0001.png').write_bytes((d/'0001.png').read_bytes()[:60])
    (d/'0002.png').write_text('')
    assert image_folder(d, skip_bad=True).labels.tolist()==[0, 3]

def test_nothing_is_left(tmp_path):
    d = images(tmp_path/'d', 2)
    for f in d.iterdir(): f.write_bytes(f.read_bytes()[:60])
    says = refusal(d, skip_bad=True)
    assert '2 of 2 files' in says and '0000.png: ' in says and '0001.png: ' in says and '--skip-bad' not in says
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

def test_what_a_name_holds_stays_out_of_the_terminal(tmp_path):
    d = images(tmp_path/'d', 1)
    (d/'\x1b[31m.png').write_text('')
    assert all('\x1b' not in s for s in image_folder(d, skip_bad=True).skipped)

# ---------------------------------------------------------------- kinds of files
def png_of_16_bits(levels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    "(height, width, 1 to 4) levels 0..65535"
    def chunk(kind, body): return struct.pack('>I', len(body))+kind+body+struct.pack('>I', zlib.crc32(kind+body))
    h, w, channels = levels.shape
    head = struct.pack('>2I5B', w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b''.join(b'\0'+row.astype('>u2').tobytes() for row in levels)
    parts = [(b'IHDR', head), *chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n'+b''.join(chunk(*part) for part in parts)

def tiff_of_16_bits(levels: np.ndarray, order: str = '<', packed: bool = False, zero_is_white: bool = False) -> bytes:
    "The like, in either order of bytes, as they are or deflated"
    h, w, channels = levels.shape
    body = levels.astype(order+'u2').tobytes()
    if packed: body = zlib.compress(body)
    photometric = 2 if channels>1 else 0 if zero_is_white else 1
    tags = {256: w, 257: h, 258: 16, 259: 8 if packed else 1, 262: photometric, 273: 0, 277: channels, 278: h, 279: len(body)}
    if channels==4: tags[338] = 2
    start = 16+2+12*len(tags)+4
    out = (b'II*\0' if order=='<' else b'MM\0*')+struct.pack(order+'I4HH', 16, *[16]*4, len(tags))
    for tag, value in tags.items():
        if tag==258 and channels>1: out += struct.pack(order+'HHII', tag, 3, channels, 8)
        elif tag==273: out += struct.pack(order+'HHII', tag, 4, 1, start)
        elif tag in (258, 259, 262, 277, 338): out += struct.pack(order+'HHIHH', tag, 3, 1, value, 0)
        else: out += struct.pack(order+'HHII', tag, 4, 1, value)
    return out+bytes(4)+body

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
COLOUR = np.concatenate([RAMP, RAMP[::-1], RAMP.transpose(1, 0, 2)], 2)
OPAQUE = np.concatenate([COLOUR, np.full_like(RAMP, 65535)], 2)
FILES_OF_16_BITS = {
    'grey.png': (png_of_16_bits(RAMP), RAMP), 'colour.png': (png_of_16_bits(COLOUR), COLOUR), 'opaque.png': (png_of_16_bits(OPAQUE), COLOUR),
    'grey.pgm': (b'P5 256 256 65535\n'+RAMP.astype('>u2').tobytes(), RAMP),
    'colour.ppm': (b'P6 256 256 65535\n'+COLOUR.astype('>u2').tobytes(), COLOUR),
    'white.tif': (tiff_of_16_bits(65535-RAMP, zero_is_white=True), RAMP),
    **{f'{name}{order}{packed}.tif': (tiff_of_16_bits(levels, order, packed), levels[..., :3])
        for name, levels in (('grey', RAMP), ('colour', COLOUR), ('opaque', OPAQUE)) for order in '<>' for packed in (False, True)}}

@pytest.mark.parametrize('name', FILES_OF_16_BITS)
def test_16_bits_become_8(name, tmp_path):
    "All 65,536 levels, where Pillow's own conversion makes white of most of them, or cuts the lower byte off"
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

def test_what_has_more_than_16_bits_is_refused(tmp_path):
    d = images(tmp_path/'d', 1)
    Image.fromarray(np.full((24, 40), 70_000, np.int32)).save(d/'deep.tif')
    assert 'deep.tif: ' in refusal(d) and 'mode I;32' in refusal(d)

def test_avif_is_read_where_pillow_can(tmp_path, monkeypatch):
    d = images(tmp_path/'d', 2)
    if 'avif' in features.modules and features.check('avif'):
        Image.open(d/'0000.png').convert('RGB').save(d/'photo.avif', quality=100)
        x = image_folder(d)
        assert len(x)==3 and image_sizes(d)=={(24, 40): 3}
        assert (x[2].int()-x[0].int()).abs().max()<=8
    (d/'photo.avif').write_bytes(AVIF)
    monkeypatch.setattr(data, '_formats', lambda: data.FORMATS)
    assert 'photo.avif: ' in refusal(d) and 'pillow>=11.3' in refusal(d)
    assert len(image_folder(d, skip_bad=True))==2

def test_photos_of_phones(tmp_path, monkeypatch):
    d = images(tmp_path/'d', 2)
    for name in ('a.heic', 'b.HEIF', 'c.jpg'): (d/name).write_bytes(HEIC)
    monkeypatch.setattr(data, '_formats', lambda: data.FORMATS)
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
    for name in ('a.CR2', 'b.nef', 'c.dng', 'd.arw'): shutil.copy(d/'0000.png', d/name)   # Pillow would take a preview for the image
    says = refusal(d)
    assert says.count('a raw file of a camera')==4 and '4 of 6' in says
    assert len(image_folder(d, skip_bad=True))==2

def test_other_files_are_said_and_hidden_ones_are_not(tmp_path):
    d = images(tmp_path/'d', 2)
    for name in ('.hidden.png', '._0000.png', '.DS_Store', 'Thumbs.db', 'notes.txt'): (d/name).write_text('')
    (d/'__MACOSX').mkdir()
    (d/'__MACOSX'/'a.png').write_text('')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(image_folder(d))==2
    for name in ('logo.svg', 'old.psd', 'x.jxl', 'x.tga'): (d/name).write_text('')
    with pytest.warns(UserWarning, match='4 files of a kind that is not read .*logo.svg.*PNG or JPEG'): image_folder(d)

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

def test_names_that_lead_out_of_a_zip(tmp_path):
    good = BytesIO()
    Image.new('L', (8, 8)).save(good, 'PNG')
    bad = [f'../{k:02}.png' for k in range(10)] + ['/home/you/a.png', 'C:\\a.png', '..\\b.png', 'a/../../c.png']
    with zipfile.ZipFile(tmp_path/'d.zip', 'w') as z:
        for name in [*bad, 'good.png', './fine.png', '.hidden.png', '__MACOSX/x.png']: z.writestr(name, good.getvalue())
    says = refusal(tmp_path/'d.zip')
    assert '14 of 16 files' in says and all(f'{name}: ' in says for name in bad)
    x = image_folder(tmp_path/'d.zip', skip_bad=True)
    assert x.files==['fine.png', 'good.png'] and len(x.skipped)==14

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
    def recolour(d): Image.open(d/'dog'/'0001.png').point(lambda v: 255-v).save(d/'dog'/'0001.png')
    def swap(d):
        (d/'cat'/'0000.png').rename(d/'x.png')
        (d/'cat'/'0001.png').rename(d/'cat'/'0000.png')
        (d/'x.png').rename(d/'cat'/'0001.png')
    def one_more(d): Image.new('L', (40, 24)).save(d/'dog'/'0003.png')
    def move(d): (d/'dog'/'0000.png').rename(d/'cat'/'0003.png')   # the order of all images stays
    def rename(d): (d/'dog').rename(d/'hound')
    assert changed(recolour)=={'pixels'} and changed(swap)=={'pixels'} and changed(one_more)=={'pixels', 'labels'}
    assert changed(move)=={'labels'} and changed(rename)=={'classes'}

def test_the_fingerprint_costs_nothing_on_the_next_start(tmp_path, monkeypatch):
    d, seen, hashes = images(tmp_path/'d', 5, channels=3), [], data._hash_of_pixels
    def counted(images):
        seen.append(images.nbytes)
        return hashes(images)
    monkeypatch.setattr(data, '_hash_of_pixels', counted)
    first = image_folder(d).fingerprint()
    assert seen==[5*3*24*40]
    x = image_folder(d)
    assert x.fingerprint()==first and x.fingerprint()==first and seen==[5*3*24*40]
    x.images = x.images[:, :1]                        # other images, though from the cache
    assert x.fingerprint()['pixels']==Images(np.array(x.images)).fingerprint()['pixels']!=first['pixels']

def test_the_fingerprint_of_an_array():
    x = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 6), dtype=np.uint8)
    pixels = lambda images: Images(images).fingerprint()['pixels']
    assert pixels(x)==pixels(x.copy())==pixels(np.ascontiguousarray(x[::-1])[::-1])
    assert len({pixels(y) for y in (x, x[::-1], x[:-1], x.reshape(200, 1, 6, 4), x.reshape(100, 2, 4, 6), x^(np.arange(200)==199)[:, None, None, None])})==6
    y = np.arange(200)
    assert Images(x, y).fingerprint()==Images(x, y.astype(np.uint8)).fingerprint()!=Images(x, y[::-1]).fingerprint()
    assert Images(x).fingerprint()|{'pixels': ''}=={'pixels': '', 'labels': '', 'classes': []}

# ---------------------------------------------------------------- Images
def test_images_are_checked_at_the_door():
    x = np.zeros((3, 1, 4, 4), np.uint8)
    for bad in (x/255, x.astype(np.int64), torch.zeros(3, 1, 4, 4)):
        with pytest.raises(ValueError, match='uint8 images with levels 0..255, not'): Images(bad)
    with pytest.raises(ValueError, match='channels, height, width'): Images(x[:, 0])
    for labels in ([0, 1], [0, 1, 2, 3], [.5, 1, 2], [[0], [1], [2]]):
        with pytest.raises(ValueError, match='3 images need as many whole numbers'): Images(x, labels)
    assert Images(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3)).labels.tolist()==[0, 1, 2]

@pytest.mark.parametrize('n,channels,says', [(1, 1, '1 image, 4 x 6, grey'), (2, 3, '2 images, 4 x 6, RGB'), (2, 4, '2 images, 4 x 6, 4 channels'), (2, 2, '2 images, 4 x 6, 2 channels')])
def test_images_say_what_they_are(n, channels, says): assert repr(Images(np.zeros((n, channels, 4, 6), np.uint8)))==f'images: {says}'

# ---------------------------------------------------------------- bars
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
    assert s.rows==[''] and any(row.startswith('drawing') for row in s.seen) and max(map(len, s.seen))<width
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
    assert s.rows==['step 0 of 3 saved', 'step 1 of 3 saved', 'a preview', 'a preview', 'a warning', 'step 2 of 3 saved', 'done', '']
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

def test_nothing_slow_is_imported(monkeypatch):
    for name in ('fastprogress', 'fastprogress.fastprogress', 'matplotlib', 'sklearn', 'scipy', 'torchvision', 'IPython', 'pillow_heif', 'anywidget', 'ipywidgets'):
        monkeypatch.setitem(sys.modules, name, None)   # an import of it fails
    spec = importlib.util.spec_from_file_location('data_alone', data.__file__)
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'data_alone', alone)
    spec.loader.exec_module(alone)
    assert alone.load.__module__=='data_alone'
