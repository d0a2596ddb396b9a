"""Malformed input of every kind, made by hypothesis: pictures, zips, labels, configs, weights,
runs, words of the command line. No traceback, no hang, nothing written outside the output
folder, less than 2 GiB. A thousand inputs: `pytest tests/test_fuzz.py -m soak -s`; half of
them with FUZZ=.5; ten times as many, and others each time, with FUZZ=10. It happens in a
process of its own, so that even a crash is no more than a failed test."""
import io, json, math, os, re, shutil, signal, socket, stat, struct, subprocess, sys, time
import traceback, zlib
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from helpers import images

HANG = 600   # seconds after which an input is taken for a hang
MIB = 2048   # what it may take of memory
TIMES = float(os.environ.get('FUZZ', '1'))
WRITING = os.O_WRONLY|os.O_RDWR|os.O_CREAT

@pytest.mark.skipif(sys.platform!='linux',
    reason='devices, /proc and limits of memory as on Linux')
@pytest.mark.soak
@pytest.mark.timeout(0)   # how many there are is for FUZZ to say; a hang is found inside
def test_malformed_input(tmp_path):
    root = str(Path(__file__).parents[1])
    env = {
        **os.environ,
        'XDG_CACHE_HOME': str(tmp_path/'cache'),
        'HF_HUB_OFFLINE': '1',
        'HYPOTHESIS_STORAGE_DIRECTORY': str(tmp_path/'hypothesis'),
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
    p = subprocess.run(
        [sys.executable, '-X', 'faulthandler', __file__, tmp_path/'home'],
        capture_output=True, text=True, env=env)
    rows = [json.loads(l) for l in p.stdout.splitlines() if l.startswith('{"kind"')]
    for r in rows:
        print('{kind:<9}{n:>6} inputs, {refused:>6} refused, slowest {slowest:4.1f} s, '
            'at most {peak:>5,} MiB, {took:5.1f} s in all'.format(**r))
    faults = [r['fault'] for r in rows if r['fault']]
    assert not faults, '\n\n'.join(faults)
    assert p.returncode==0, p.stderr
    assert [r['kind'] for r in rows]==[k.__name__ for k in KINDS], p.stderr
    assert sum(r['n'] for r in rows)>=1000*TIMES
    assert max(r['peak'] for r in rows)<MIB
    assert all(0<r['refused'] for r in rows)

# -------------------------------------------------------------- what must hold for every input
class Hang(BaseException):
    "Not even `except Exception` stops it"

class Box:
    """Where an input lives: a home with precious files, `inp` for the input, `out` for the
    output; and the cache, beside the home"""
    def __init__(self, home: Path):
        self.home = home
        self.inp = home/'a'/'b'/'in'
        self.out = home/'a'/'b'/'out'
        self.cache = Path(os.environ['XDG_CACHE_HOME'])
        for d in (home, home/'a', home/'a'/'b'):
            d.mkdir()
            (d/'precious.png').write_bytes(b'mine')
        self.written = {}
        sys.addaudithook(self.spy)

    def spy(self, event, args):
        if event=='open' and isinstance(args[2], int) and args[2] & WRITING:
            self.written[args[0]] = event
        if event=='os.mkdir' and not os.path.lexists(args[0]):
            self.written[args[0]] = event
        if event in ('os.rename', 'os.symlink', 'os.link'):
            self.written[args[1]] = event

    def fresh(self):
        for d in (self.inp, self.out, self.cache/'ddpm_lit'):
            shutil.rmtree(d, ignore_errors=True)
        for d in (self.inp, self.out):
            d.mkdir()
        os.chdir(self.out)
        self.n += 1

    def copied(self): return shutil.copytree(self.run, self.out/'run')

    def watched(self) -> dict:
        "Everything in the home but the output"
        found = {}
        for d, folders, files in os.walk(self.home):
            if Path(d)==self.out:
                folders.clear()
                continue
            for p in [d, *(os.path.join(d, f) for f in files)]:
                s = os.lstat(p)
                small = stat.S_ISREG(s.st_mode) and s.st_size<100_000
                content = Path(p).read_bytes() if small else b''
                found[p] = s.st_mode, s.st_size, s.st_mtime_ns, content
        return found

    @contextmanager
    def guarded(self):
        """Fails if what is done inside hangs, or writes anywhere but to the output and the
        cache"""
        def alarm(*_): raise Hang
        signal.signal(signal.SIGALRM, alarm)
        before = self.watched()
        hung = ''
        start = time.process_time()
        self.written.clear()
        self.tried.add(self.n)
        signal.alarm(HANG)
        try:
            yield
        except Hang:
            hung = traceback.format_exc()
        finally:
            signal.alarm(0)
        self.slowest = max(self.slowest, time.process_time()-start)
        assert not hung, f'a hang:\n{hung}'
        assert self.watched()==before, 'something outside the output has changed'
        places = [os.path.realpath(p) for p in (self.out, self.cache)]
        written = [
            (os.path.realpath(os.fsdecode(p)), event)
            for p, event in self.written.items() if not isinstance(p, int)]
        for p, event in written:
            if event=='os.mkdir' and not os.path.isdir(p):
                continue   # it was tried in vain
            allowed = p=='/dev/null' or any(os.path.commonpath([p, q])==q for q in places)
            assert allowed, f'{p} was written'

    def call(self, f, *args, **kw):
        "What a function of the library returns, or None if it refuses with a `ValueError`"
        with self.guarded():
            try:
                return f(*args, **kw)
            except ValueError as e:
                assert str(e)
                self.refused.add(self.n)

    def command(self, *words):
        "`ddpm_lit` with these words succeeds, or refuses in one line"
        # as Python opens them
        out = io.TextIOWrapper(io.BytesIO(), 'utf-8', 'strict')
        err = io.TextIOWrapper(io.BytesIO(), 'utf-8', 'backslashreplace')
        with self.guarded(), redirect_stdout(out), redirect_stderr(err):
            code = main([str(w) for w in words])
        err.seek(0)
        said = err.read()
        assert code in (0, 2), (code, said)
        if code:
            assert said.startswith('ddpm_lit: ') and said.count('\n')==1, (code, said)
            assert said.strip().isprintable(), (code, said)
            self.refused.add(self.n)

# ---------------------------------------------------------------- the material
TINY = '--preset', 'tiny', '--steps', '2', '--batch', '2'
EXTREME = [
    b'\0'*4, b'\xff'*4, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'\0\1\0\0', b'\0\0\1\0']
NAMES = [
    'a.png', 'b.PNG', 'c.jpg', 'd.gif', 'e.tif', 'f.webp', 'g.bmp', 'h.pgm',
    '-rf.png', 'new\nline.png', 'ü ☃ \x1b[31m.png', 'x'*240+'.png', ' .png', '..png',
    '\udcff.png', '.hidden.png', 'cat/1.png', 'dog/1.png', '__MACOSX/c.png',
    'dataset.json', 'notes.txt', '0000.png']
HOSTILE = [
    '../../evil.png', '{home}/evil.png', '..\\..\\evil.png', 'C:\\evil.png',
    'a/../../../evil.png', '', '/', '.', '..', 'a//b.png', 'a.png/', 'nul\0.png',
    'x'*60_000+'.png']
NASTY = [
    None, True, False, 0, -1, 1, 2, 3, 8,
    10**4, 10**5, 10**6, 10**9, 2**63, 2**64, 10**400,
    .5, -1., 1., 8., 1e-300, 1e308, float('inf'), float('nan'),
    '', '8', 'x', '\0', '\ud800', 'linear', 'DownBlock2D', '../../evil', 'x'*10_000,
    [], [0], [8, 8], [8, 8, 8], [8, 16], [2**20, 2**20], [-8, 8], [[8], 8],
    ['DownBlock2D']*500, {}, {'labels': 0}, [['0000.png', 0]],
    [.1]*3, [[.1, .1]]*3, [.1, '.1', None], [10**6]*2]
# few letters: the table of all takes hypothesis seconds
TEXT = st.text('ab09é☃٣\0\n "\\[]{}:,.-', max_size=6)
VALUES = st.recursive(
    st.sampled_from(NASTY) | TEXT | st.integers() | st.floats(),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(TEXT, s, max_size=3),
    max_leaves=6)
TEXTS = VALUES.map(json.dumps) | st.sampled_from([
    '', '[', '['*10**5, '{"a":'*10**5, '{}{}', 'NaN', '\ufeff{}',
    '{"labels": {"a": 1, "a": 2}}', '9'*5000])

def encoded(im, fmt='PNG', **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()

def chunks(png: bytes) -> list[list[bytes]]:
    out, i = [], 8
    while i<len(png):
        n = int.from_bytes(png[i:i+4], 'big')
        out.append([png[i+4:i+8], png[i+8:i+8+n]])
        i += 12+n
    return out

def png_of(parts) -> bytes:
    "A PNG of any chunks, with the right lengths and checksums"
    out = b'\x89PNG\r\n\x1a\n'
    for k, d in parts:
        out += struct.pack('>I', len(d))+k+d+struct.pack('>I', zlib.crc32(k+d))
    return out

def png(width, height, depth, colour, rows=b'', *more) -> bytes:
    head = struct.pack('>2I5B', width, height, depth, colour, 0, 0, 0)
    return png_of([
        [b'IHDR', head],
        *more,
        [b'IDAT', zlib.compress(rows)],
        [b'IEND', b'']])

def make_pictures() -> list[bytes]:
    "Small ones of all kinds, and a few bytes that say they are huge"
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    good = [encoded(rgb.convert(m)) for m in ('RGB', 'L', 'RGBA', 'LA', 'P', '1')]
    good += [encoded(rgb.quantize(4), transparency=0)]
    good += [encoded(rgb.convert(m), 'JPEG', exif=turned) for m in ('RGB', 'L', 'CMYK')]
    tall = rgb.resize((8, 12))
    good += [encoded(tall, f, exif=turned) for f in ('PNG', 'TIFF', 'WEBP')]
    good += [encoded(rgb, f) for f in ('BMP', 'GIF', 'TIFF', 'PPM', 'WEBP')]
    good += [encoded(rgb, 'TIFF', compression='tiff_lzw')]
    turning = [rgb.rotate(90)]*3
    for f in ('GIF', 'PNG', 'TIFF', 'WEBP'):
        good += [encoded(rgb, f, save_all=True, append_images=turning)]
    deep = Image.fromarray(np.full((8, 8), 60_000, np.uint16))
    good += [encoded(deep, f) for f in ('PNG', 'TIFF')]
    good += [encoded(rgb.convert('F'), 'TIFF')]
    good += [b'P2 2 2 255 1 2 3 4', b'P5 2 2 65535 '+bytes(8)]
    good += [encoded(rgb.resize(s)) for s in ((1, 1), (1, 4000), (4000, 1), (9, 7))]

    gif, bmp, jpg = encoded(rgb, 'GIF'), encoded(rgb, 'BMP'), encoded(rgb, 'JPEG')
    at = jpg.index(b'\xff\xc0')+5
    webp = b'RIFF'+struct.pack('<I', 100)+b'WEBPVP8X'+struct.pack('<2I', 10, 0)
    tags = (256, 60_000), (257, 60_000), (258, 8), (273, 8)
    directory = b''.join(struct.pack('<2H2I', tag, 4, 1, v) for tag, v in tags)
    huge = [
        png(60_000, 60_000, 8, 2),
        png(60_000, 60_000, 1, 0),
        png(2**31-1, 2**31-1, 8, 6),
        png(13_000, 13_000, 1, 0),
        b'P5 60000 60000 255\n',
        b'P6 99999999999 1 255\n',
        gif[:6]+struct.pack('<2H', 60_000, 60_000)+gif[10:],
        bmp[:18]+struct.pack('<2i', 60_000, -60_000)+bmp[26:],
        jpg[:at]+struct.pack('>2H', 65_500, 65_500)+jpg[at+4:],
        webp+b'\xff'*6+bytes(80),
        b'II*\0\x08\0\0\0\4\0'+directory+bytes(4)]

    postscript = (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n'
        b'%%EndComments\n{} loop\n')
    return good*2 + huge + [b'', postscript, encoded(rgb)+bytes(1000)]

def member(name: bytes, data: bytes, **lies) -> tuple[bytes, dict, bytes]:
    """A file for `zip_of`; lies stand in the central directory, which is what readers look at
    first"""
    c = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = c.compress(data)+c.flush()
    true = dict(flags=0, method=8, crc=zlib.crc32(data), packed=len(packed), size=len(data),
        attr=0, local=name)
    return name, {**true, **lies}, packed

def zip_of(members, count: int|None = None) -> bytes:
    out = bytearray()
    central = bytearray()
    n = min(len(members), 65535) if count is None else count
    for name, f, packed in members:
        central += struct.pack('<4s6H3I5H2I', b'PK\1\2', 0x314, 20,
            f['flags'], f['method'], 0, 33, f['crc'], f['packed'], f['size'],
            len(name), 0, 0, 0, 0, f['attr'], f.get('at', len(out)))
        central += name
        out += struct.pack('<4s5H3I2H', b'PK\3\4', 20,
            f['flags'] & 0xfffe, 8, 0, 33, f['crc'], len(packed), f['size'],
            len(f['local']), 0)
        out += f['local']+packed
    end = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, n, n, len(central), len(out), 0)
    return bytes(out+central)+end

def spoiled(draw, data: bytes) -> bytes:
    "Some bytes are other ones, missing, doubled or too many"
    at = draw(st.integers(0, min(64, len(data))) | st.integers(0, len(data)))
    n = draw(st.integers(1, 64))
    how = draw(st.integers(0, 7))
    if how==0 and data.startswith(b'\x89PNG'):   # beneath its checksums
        parts = chunks(data)
        k = draw(st.integers(0, len(parts)-1))
        parts[k][1] = spoiled(draw, parts[k][1])
        return png_of(parts if n%8 else draw(st.permutations(parts)))
    return [
        data[:at],
        data[:at]+data[at+n:],
        data[:at]+data[at:at+n]*2+data[at+n:],
        data[:at]+draw(st.binary(max_size=8))+data[at:],
        b'',
        data[at:]+data[:at],
        data[:at]+draw(st.sampled_from(EXTREME))+data[at+4:],
        data[:at]+bytes(b^(1<<n%8) for b in data[at:at+1])+data[at+1:]][how]

def special(draw, path: Path, outside: Path):
    "Something that is not a file, or not only one"
    how = draw(st.integers(0, 10))
    if how==0:
        os.mkfifo(path)
    elif how==1:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif how==2:
        path.mkdir()
    elif how==3:
        path.touch()
        os.truncate(path, 2**40)   # a terabyte that takes no room
    elif how==4:
        path.write_bytes(b'secret')
        path.chmod(0)
    else:
        path.symlink_to(['/dev/zero', '/dev/tty', path.name, outside, 'nowhere', '..'][how-5])

# ---------------------------------------------------------------- the inputs
def take(draw, box, data: Path):
    "Load pictures, or train on them"
    size = draw(st.sampled_from([None, None, (8, 8), (12, 8), (1, 1), (10**5, 10**5)]))
    if draw(st.integers(0, 9)):
        x = box.call(load, data, size=size)
        assert x is None or x.images.dtype==np.uint8 and x[[0, -1]].shape==(2, *x.shape)
    else:
        resized = ['--size', f'{size[0]}x{size[1]}'] if size else []
        box.command('train', data, '--out', box.out, *TINY, *resized)

def pictures(draw, box):
    folder = box.inp/draw(st.sampled_from(['d', '-d', 'd.zip', 'ü\n', 'd\udcff', 'x'*250]))
    folder.mkdir()
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)):
        path = folder/name
        data = draw(st.sampled_from(PICTURES))
        how = draw(st.integers(0, 5))
        path.parent.mkdir(exist_ok=True)
        if how==0:
            special(draw, path, box.home/'precious.png')
        else:
            path.write_bytes(spoiled(draw, data) if how<3 else data)
    take(draw, box, folder)

LIES = st.lists(max_size=2, elements=st.sampled_from([
    ('flags', 1), ('crc', 0), ('packed', 2**31), ('size', 1), ('attr', 0xa1ff0000),
    ('local', b'other.png'), ('at', 2**31), ('size', 2**32-1), ('packed', 0),
    ('at', 0), ('flags', 0x800), *(('method', m) for m in (0, 1, 9, 12, 14, 95, 99))]))

def zips(draw, box):
    members = []
    for name in draw(st.lists(st.sampled_from(NAMES+HOSTILE), min_size=1, max_size=5)):
        how = draw(st.integers(0, 7))
        data = draw(st.sampled_from(PICTURES))
        name = name.format(home=box.home).encode(errors='surrogateescape')
        if how==0:
            data = spoiled(draw, data)
        elif how==1:
            data = zip_of(members)
        members.append(member(name, data, **dict(draw(LIES) if how<4 else [])))
    data = zip_of(members, draw(st.sampled_from([None]*6+[0, 1, 65535])))
    if draw(st.integers(0, 3))==0:
        data = spoiled(draw, data)
    path = box.inp/draw(st.sampled_from(['d.zip', 'd', 'd\udcff.zip']))
    path.write_bytes(draw(st.sampled_from([b'', b'', b'#!/bin/sh\n']))+data)
    take(draw, box, path)

def labels(draw, box):
    text = draw(TEXTS)
    how = draw(st.integers(0, 2))
    if how==0:
        text = f'{{"labels": {text}}}'
    if how==1:
        text = (f'{{"labels": [["0000.png", {text}], ["0001.png", 1]], '
            f'"class_names": {draw(TEXTS)}}}')
    files = {'0000.png': PICTURES[0], '0001.png': PICTURES[0], 'dataset.json': text.encode()}
    if draw(st.booleans()):
        (box.inp/'d').write_bytes(zip_of([member(n.encode(), b) for n, b in files.items()]))
    else:
        (box.inp/'d').mkdir()
        for n, b in files.items():
            (box.inp/'d'/n).write_bytes(b)
    take(draw, box, box.inp/'d')

def use(draw, box, run: Path):
    "What one does with the folder of a run"
    ways = ['info', 'load', 'sample', 'resume', 'log', 'demo', 'evaluate']
    how = draw(st.sampled_from(ways))
    if how=='log':
        box.call(read_log, run/'log.csv')
    elif how=='resume':
        box.command('train', box.data, '--out', run, '--resume', '--steps', '3')
    elif how=='demo':
        box.command('demo', '--out', run)
    elif how=='info':
        box.command('info', run)
    else:
        model = box.call(DDPM.from_pretrained, run)
        quick = model is None or model.schedule.T<100 and max(model.shape)<100
        if how=='sample' and quick:
            box.command('sample', run, '--out', box.out/'x.png', '--n', '1')
        elif how=='evaluate' and quick:
            box.command('evaluate', run, box.data, '--n', '20', '--out', box.out/'x.json')

def configs(draw, box):
    run = box.copied()
    how = draw(st.integers(0, 5))
    path = run/draw(st.sampled_from([
        'unet/config.json', 'scheduler/scheduler_config.json', 'train.json',
        'model_index.json', 'log.csv']))
    text = path.read_text()
    if how==0:
        path.write_bytes(spoiled(draw, text.encode()))
    elif how==1:
        path.write_text(draw(TEXTS))
    elif path.suffix=='.csv':
        cell = draw(st.sampled_from(text.replace('\n', ',').split(',')[:-1]))
        other = draw(st.sampled_from([
            '', '-1', 'nan', 'inf', '1e999', '9'*5000, 'x', 'x'*200_000,
            '\0', '"', '\n', ',']))
        path.write_text(text.replace(cell, other))
    else:
        d = json.loads(text)
        k = draw(st.sampled_from([*d, 'another']))
        d.pop(k, None)
        path.write_text(json.dumps(d if how==2 else {**d, k: draw(VALUES)}))
    use(draw, box, run)

PARTS = VALUES | st.sampled_from([
    'I32', 'F64', 'BF16', 'BOOL', 'F8_E4M3', 'F8_E8M0', 'F4', 'C64',
    [0], [2**40, 2**40], [0, 2**63], [8, 0]])
NUMBERS = st.sampled_from([
    lambda v: v*float('nan'),
    lambda v: v*1e38,
    lambda v: v[:0],
    lambda v: v.flatten(),
    lambda v: v.half(),
    lambda v: v.long(),
    lambda v: v.cfloat()])

def weights(draw, box):
    run = box.copied()
    how = draw(st.integers(0, 4))
    path = draw(st.sampled_from(sorted(run.rglob('*.safetensors'))))
    data = path.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    head = json.loads(data[8:8+n])
    if how==0:
        path.write_bytes(spoiled(draw, data))
    elif how==1:
        length = draw(st.sampled_from([0, 1, n-1, n+8, 10**8, 2**32, 2**63, 2**64-1]))
        path.write_bytes(length.to_bytes(8, 'little')+data[8:])
    elif how<4:
        if how==3:
            del head['__metadata__']   # no checksum, as others write it
        part = head[draw(st.sampled_from([*head]))]
        k = draw(st.sampled_from([*part]))
        part[k] = draw(PARTS)
        text = json.dumps(head).encode()
        path.write_bytes(len(text).to_bytes(8, 'little')+text+data[8+n:])
    else:   # other numbers, and the right checksum
        path = run/'unet'/'diffusion_pytorch_model.safetensors'
        tensors, meta = load_tensors(path)
        k = draw(st.sampled_from([*tensors]))
        tensors[k] = draw(NUMBERS)(tensors[k])
        save_tensors(path, tensors, meta)
    box.call(load_tensors, path)
    use(draw, box, run)

def runs(draw, box):
    run = box.copied()
    how = draw(st.integers(0, 5))
    places = sorted(run.rglob('*'))
    path = draw(st.sampled_from(places))
    if how==0:
        path = run/draw(st.sampled_from([
            'checkpoints/step-000000009.safetensors', 'checkpoints/step-best.safetensors',
            'checkpoints/.step-x', 'previews', 'notes.txt']))
    old = path.read_bytes() if path.is_file() else b''
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if how==1:
        path.write_bytes(b'')
    elif how==2:
        path.write_bytes(spoiled(draw, old))
    elif how==3:
        another = draw(st.sampled_from([p for p in places if p.is_file()]))
        path.write_bytes(another.read_bytes())
    elif how!=4:
        special(draw, path, box.home/'precious.png')
    use(draw, box, run)

WORDS = [
    '', ' ', '0', '-1', '1', '2', '3', '1e3', 'nan', '2.5', '٣', '9'*30, '9'*5000,
    str(2**63), '0x10', 'é', '\0', '\udcff', '-', '--', '--help', '[]', 'a\nb',
    '%s%n{0}', '../..', '8x8', '0x0', '1x1', '-8x8', '12x8', '8x8x8', 'x',
    '100000x100000', '1x4194305', 'digits', 'tiny', 'x'*5000]
FLAGS = ['--flip', '--resume', '--progressive', '--nonsense', 'more']
OPTIONS = [
    '--preset', '--steps', '--batch', '--seed', '--size', '--save-every', '--n', *FLAGS]
OUTS = [
    'new', 'x.png', 'x.webp', 'd/e/x.jpg', 'link', 'link/x.png', 'dangling', 'loop',
    'loop/x', 'file', 'file/x.png', 'pipe.png', '.', '', '\0', '\udcff.png', '\udcff',
    'ü ☃', 'x'*300, '-', '/dev/null', '/dev/null/x', '/proc/x/y']

def soon(word: str) -> bool:
    "Not a number of steps or samples that is all right and takes an hour"
    try:
        return int(word)<20
    except ValueError:
        return True

def words(draw, box):
    links = dict(link='target', dangling='nowhere', loop='loop', data=box.data)
    for link, to in links.items():
        (box.out/link).symlink_to(to)
    (box.out/'target').mkdir()
    (box.out/'file').write_bytes(b'mine too')
    os.mkfifo(box.out/'pipe.png')
    values = st.sampled_from(WORDS) | TEXT
    what = st.sampled_from([
        box.data, box.run, box.home/'precious.png', box.out/'loop', '/dev/zero',
        'digits', 'mnist', 'cifar10', 'celeba', 'owner/model', box.home/'nowhere'])
    rarely = ['evaluate', 'info', 'demo', 'trian', '', '--version', '-h']
    said = [draw(st.sampled_from(['train']*4+['sample']*4+rarely))]
    if said[0] in ('train', 'sample', 'evaluate', 'info') and draw(st.integers(0, 9)):
        said.append(draw(what | values))
    if said[0]=='train' and draw(st.integers(0, 2)):
        said += TINY
    if said[0]=='evaluate':
        said += [draw(what | values), '--n', '20']
    for o in draw(st.lists(st.sampled_from(OPTIONS), max_size=3)):
        said.append(o)
        if o not in FLAGS:
            said.append(draw(values.filter(soon) if o=='--steps' else values))
    if draw(st.integers(0, 9)):
        outs = OUTS
        if said[:2]==['train', box.data]:
            outs = OUTS+[box.data, box.data/'run', 'data/run']
        said += ['--out', draw(st.sampled_from(outs))]
    box.command(*said)

def bombs(box):
    "A megabyte that becomes a gigabyte, and the like"
    def packed(block, times=1):
        c = zlib.compressobj(9, zlib.DEFLATED, -15)
        return (c.compress(block)+c.flush(zlib.Z_FULL_FLUSH))*times+c.flush()
    def big(name, data, size):
        says = dict(flags=0, method=8, crc=0, packed=len(data), size=size, attr=0, local=name)
        return name, says, data
    def gigabyte(name, size): return big(name, packed(bytes(2**26), 16), size)
    def holes():
        return png(9400, 9400, 1, 3, bytes(9400*1176), [b'PLTE', bytes(6)],
            [b'tRNS', bytes(2)])
    good = member(b'0000.png', PICTURES[0])
    members = dict(
        zeros=lambda: [good, gigabyte(b'1.png', 2**30)],
        lie=lambda: [good, gigabyte(b'1.png', 100)],
        zero_labels=lambda: [good, gigabyte(b'dataset.json', 2**30)],
        labels=lambda: [good,
            big(b'dataset.json', packed(b'['+b'[],'*16_000_000+b'0]'), 48_000_003)],
        many=lambda: [member(b'%d.txt'%i, b'') for i in range(100_000)],
        empty=lambda: [member(b'%d.png'%i, b'') for i in range(20_000)],
        transparent=lambda: [member(b'0.png', holes())])
    files = [
        'model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json',
        'unet/diffusion_pytorch_model.safetensors', 'train.json',
        'checkpoints/step-000000002.safetensors']
    commands = ['info'], ['sample', '--out', 'x.png'], ['train', box.data, '--resume', '--out']
    for name, size in product(members, (None, (8, 8))):
        box.fresh()
        (box.inp/name).write_bytes(zip_of(members[name]()))
        box.call(load, box.inp/name, size=size)
    for name, command in product(files, commands):
        box.fresh()
        os.truncate(box.copied()/name, 2**40)
        box.command(*command, 'run')

KINDS = {
    pictures: 220, zips: 170, labels: 100, configs: 190, weights: 120, runs: 120, words: 180,
    bombs: 1}

def fuzz(kind, box):
    @settings(max_examples=math.ceil(KINDS[kind]*TIMES), derandomize=TIMES<=1,
        deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def each(data):
        box.fresh()
        kind(data.draw, box)
    bombs(box) if kind is bombs else each()

if __name__=='__main__':
    import resource, torch
    from ddpm_lit import DDPM
    from ddpm_lit.workshop import runs as house
    from ddpm_lit.workshop.weights import load_tensors, save_tensors
    from ddpm_lit.workshop.cli import main
    from ddpm_lit.workshop.files import load
    from ddpm_lit.forward import Schedule
    from ddpm_lit.workshop.runs import read_log
    # a mistake shall not take the machine along
    resource.setrlimit(resource.RLIMIT_AS, (16*2**30, 16*2**30))
    def unreachable(*a, **k): raise OSError('Network is unreachable')
    # no network, and no waiting for the disk
    socket.getaddrinfo = socket.create_connection = unreachable
    os.fsync = lambda fd: None
    # any preset is trained in a moment
    tiny = house.PRESETS['tiny']
    small = tiny._replace(net={**tiny.net, 'channels': 8}, schedule=lambda: Schedule.cosine(3),
        recipe=house.replace(tiny.recipe, steps=2, batch=2, warmup=0))
    house.PRESETS.update(dict.fromkeys(house.PRESETS, small))
    PICTURES = make_pictures()
    box = Box(Path(sys.argv[1]))
    box.data = images(box.home/'data', 3, (8, 8))
    box.run = box.home/'run'
    assert main(['train', str(box.data), '--out', str(box.run), *TINY, '--save-every', '1'])==0
    only = sys.argv[2:]
    for kind in [k for k in KINDS if k.__name__ in (only or [k.__name__])]:
        box.n, box.slowest = 0, 0
        box.tried, box.refused = set(), set()
        fault = ''
        start = time.perf_counter()
        Path('/proc/self/clear_refs').write_text('5')   # forget the peak of memory
        try:
            fuzz(kind, box)
        except Exception:
            fault = re.sub(r'(.{1,5}?)\1{40,}', r'\1[...]', traceback.format_exc())
        status = open('/proc/self/status')
        peak = next(int(l.split()[1])//1024 for l in status if l.startswith('VmHWM'))
        row = dict(
            kind=kind.__name__, n=len(box.tried), refused=len(box.refused),
            slowest=box.slowest, peak=peak, took=time.perf_counter()-start, fault=fault)
        print(json.dumps(row), flush=True)
