"""The README: its lines work as they stand there, for somebody who has the wheel, an empty
folder, some pictures and no network."""
import json, os, re, subprocess, sys, sysconfig, venv
from pathlib import Path
import numpy as np, pytest, yaml
from PIL import Image
from bench import first
from conftest import root
from helpers import images, wheel
from first_picture import HOME, side_by_side
from readme import beside, minutes, readme

LESS = {   # so that it takes a minute
    '--n 64': '--n 4',
    '--n 1000 --steps 50': '--n 20 --steps 2',
    'train my_photos/': 'train my_photos/ --steps 20'}
BY_HAND = {   # line -> who tries it
    'jupyter lab book': 'tests/test_lab.py',
    'sphinx-build -W -c docs nbs _docs': 'tests/test_docs.py',
    'python -m http.server -d _docs': 'tests/test_docs.py'}
MADE = {
    'faces.png', 'things.png', 'book/00_markov_chain.ipynb', 'grid.png',
    'runs/photos/model_index.json', 'runs/photos/doctor.png'}

def blocks() -> list[tuple[str, str]]:
    """The language and the text of each block of code, but for the two commands that make an
    environment"""
    found = re.findall(r'^```(\w+)\n(.*?)^```', readme(), re.M|re.S)
    return [(language, text) for language, text in found
        if not text.startswith('python3 -m venv')]

def commands(text: str) -> list[str]:
    return [re.sub(r'\s+#.*', '', line) for line in text.splitlines()]

def less(text: str) -> str:
    for long, short in LESS.items(): text = text.replace(long, short)
    return text

def assert_alike(folder: Path):
    "The first picture is what the README's lines draw, but for compression and rounding"
    drawn = side_by_side([Image.open(folder/name) for name in ('faces.png', 'things.png')])
    with Image.open(HOME) as shown: shown = np.asarray(shown.convert('RGB'), float)
    difference = np.abs(np.asarray(drawn.convert('RGB'), float)-shown)
    assert difference.mean()<4, f'run tools/first_picture.py: {difference.mean():.1f} levels'

class Newcomer:
    """Somebody in an empty folder and a new environment, where what the wheel requires is
    installed already"""
    def __init__(self, wheel: Path, tmp: Path):
        self.folder = tmp/'empty'
        self.folder.mkdir()
        env = tmp/'env'
        venv.create(env, symlinks=os.name!='nt')
        paths = sysconfig.get_paths('venv', vars=dict(base=str(env), platbase=str(env)))
        inherited = {k: v for k, v in os.environ.items()
            if k not in ('PYTHONPATH', 'DDPM_LIT_DATA')}
        self.env = inherited | dict(
            PATH=os.pathsep.join([paths['scripts'], os.environ['PATH']]),
            XDG_CACHE_HOME=str(tmp/'cache'), HF_HUB_OFFLINE='1', TORCH_COMPILE_DISABLE='1',
            MPLBACKEND='agg')
        pip = [sys.executable, '-m', 'pip', f'--python={env}', 'install', '-q', '--no-deps',
            '--no-index']
        subprocess.run([*pip, wheel], check=True, env=self.env)
        (Path(paths['purelib'])/'others.pth').write_text(sysconfig.get_path('purelib'))

    def run(self, line: str|list[str]) -> str:
        "What a line of the shell prints"
        r = subprocess.run(line, shell=isinstance(line, str), cwd=self.folder,
            capture_output=True, text=True, env=self.env)
        fine = (0, 1) if 'doctor' in line else (0,)   # 1: a fault was found, such as 40 images
        assert r.returncode in fine, f'{line}\n{r.stdout}{r.stderr}'
        return r.stdout

@pytest.mark.soak
def test_quick_starts(wheel, tmp_path):
    newcomer, seen = Newcomer(wheel, tmp_path), ''
    where = newcomer.run(['python', '-c', 'import ddpm_lit; print(ddpm_lit.__file__)'])
    assert where.startswith(str(tmp_path)), 'not the wheel'
    images(newcomer.folder/'my_photos', 40, (8, 8), 3)
    for language, text in blocks():
        seen += text
        if language=='py':
            (newcomer.folder/'lines.py').write_text(less(text))
            newcomer.run('python lines.py')
            continue
        for line in commands(text):
            if line not in BY_HAND: newcomer.run(less(line))
    unused = [words for words in (*LESS, *BY_HAND) if words not in seen]
    assert not unused, f'these are not in the README: {unused}'
    assert_alike(newcomer.folder)
    assert MADE <= {p.relative_to(newcomer.folder).as_posix()
        for p in newcomer.folder.rglob('*')}

def test_citation():
    "CITATION.cff is of this version"
    facts = dict(re.findall(r'^(\w+) = (.*)$',
        (root/'settings.ini').read_text(encoding='utf-8'), re.M))
    cite = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    assert cite['version']==facts['version']
    assert cite['repository-code'].endswith('/'+facts['repo'])

def test_first_screen():
    """Title, promise, picture, a command and lines of Python come before anything else; the
    rest is short"""
    above, below = readme().split('\n## ', 1)
    signs = ('# ddpm_lit', '> ', 'docs/_static/first.webp', '```sh\npython3 -m venv', '```py',
        'nbs/00_markov_chain.ipynb')
    places = [above.index(sign) for sign in signs]
    assert places==sorted(places) and len(above.splitlines())<45
    assert len(readme().split())<1300
    with Image.open(root/'docs'/'_static'/'first.webp') as picture: assert picture.width>1000
    assert (root/'docs'/'_static'/'first.webp').stat().st_size<300_000

def test_beside_in_step():
    committed = (root/'nbs'/'beside.md').read_text(encoding='utf-8')
    assert committed==beside(), 'run: python tools/readme.py'

GIT = 'init -q', 'add .', '-c user.name=a -c user.email=a@b commit -qm one'
NEW_HOME = ['test -e README.md -a ! -e "$HOME"/*', 'touch made', 'test -e made']

@pytest.fixture
def repository(tmp_path, monkeypatch):
    "A small one, whose two commands `bench.first` times"
    folder = tmp_path/'repository'
    folder.mkdir()
    (folder/'README.md').write_text('python3 -m venv x && one && two')
    for line in GIT: subprocess.run(['git', *line.split()], cwd=folder, check=True)
    monkeypatch.setattr(first, 'root', folder)
    monkeypatch.setattr(first, 'gflops', lambda env: 200)

def test_the_two_commands():
    last = [[part.split()[-1] for part in parts] for parts in first.commands(readme())]
    assert last==[['.venv', '.', 'demo'], ['.venv', "'.[dev]'", 'auto']]

def test_minutes_are_measured(repository, tmp_path, monkeypatch):
    """`python -m bench.first` times what stands in the README, in a clone of its own; nothing
    is written if a part fails"""
    file = tmp_path/'first.json'
    monkeypatch.setattr(first, 'commands', lambda readme: [NEW_HOME]*2)
    first.main([], file)
    measured = json.loads(file.read_text())
    assert measured['gflops']==[200, 200, 200]
    known = dict(environment_s=4.6, install_s=60.5, demo_s=59.4, tests_s=600.)
    said = minutes(measured | known)
    assert '1 min 5 s to install and 59 s for the demo' in said
    assert '10 min 0 s' in said and '200 GFLOP/s' in said
    monkeypatch.setattr(first, 'commands', lambda readme: [['true', 'false', 'true']]*2)
    before = file.read_text()
    with pytest.raises(SystemExit, match='false'): first.main([], file)
    assert file.read_text()==before
