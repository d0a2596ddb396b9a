"The README: its lines work as they stand there, for somebody who has the wheel, an empty folder, some pictures and no network."
import json, os, re, subprocess, sys, sysconfig, venv
from pathlib import Path
import pytest, yaml
from bench import first
from conftest import root
from helpers import images, wheel
from readme import beside, minutes, readme
from PIL import Image

LESS = {   # so that it takes a minute
    '--n 64': '--n 4', '--n 1000 --steps 50': '--n 20 --steps 2', 'steps=50': 'steps=2', 'train my_photos/': 'train my_photos/ --steps 20'}
BY_HAND = {   # line -> who tries it
    'jupyter lab book': 'tests/test_lab.py', 'sphinx-build -W -c docs nbs _docs': 'tests/test_docs.py', 'python -m http.server -d _docs': 'tests/test_docs.py'}

def blocks() -> list[tuple[str, str]]:
    "The language and the text of each block of code, but for the two commands that make an environment"
    return [(language, text) for language, text in re.findall(r'^```(\w+)\n(.*?)^```', readme(), re.M|re.S) if not text.startswith('python3 -m venv')]

def commands(text: str) -> list[str]: return [re.sub(r'\s+#.*', '', line) for line in text.splitlines()]

def less(text: str) -> str:
    for long, short in LESS.items(): text = text.replace(long, short)
    return text

@pytest.fixture
def newcomer(wheel, tmp_path):
    "Runs a shell line in an empty folder and a new environment, where what the wheel requires is installed already"
    env = tmp_path/'env'; venv.create(env, symlinks=os.name!='nt'); paths = sysconfig.get_paths('venv', vars=dict(base=str(env), platbase=str(env)))
    theirs = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'DDPM_LIT_DATA')} | dict(PATH=os.pathsep.join([paths['scripts'], os.environ['PATH']]),
        HF_HUB_OFFLINE='1', XDG_CACHE_HOME=str(tmp_path/'cache'), TORCH_COMPILE_DISABLE='1', MPLBACKEND='agg')
    subprocess.run([sys.executable, '-m', 'pip', f'--python={env}', 'install', '-q', '--no-deps', '--no-index', wheel], check=True, env=theirs)
    (Path(paths['purelib'])/'others.pth').write_text(sysconfig.get_path('purelib'))
    def run(line):
        r = subprocess.run(line, shell=isinstance(line, str), cwd=tmp_path/'empty', capture_output=True, text=True, env=theirs)
        assert r.returncode in (0, 'doctor' in line), f'{line}\n{r.stdout}{r.stderr}'   # 1: a fault was found, such as 40 images
        return r.stdout
    (tmp_path/'empty').mkdir(); return run

def test_quick_starts(newcomer, tmp_path):
    where = newcomer(['python', '-c', 'import ddpm_lit; print(ddpm_lit.__file__)']); assert where.startswith(str(tmp_path)), 'not the wheel'
    here, seen = tmp_path/'empty', set(); images(here/'my_photos', 40, (8, 8), 3)
    for language, text in blocks():
        if language=='py': (here/'lines.py').write_text(less(text)); newcomer('python lines.py'); seen |= {*LESS} & {w for w in LESS if w in text}; continue
        for line in commands(text):
            seen |= {w for w in LESS if w in line} | {line}
            if line not in BY_HAND: newcomer(less(line))
    assert {*LESS, *BY_HAND} <= seen, 'a line of this test is about nothing in the README'
    made = {p.relative_to(here).as_posix() for p in here.rglob('*')}
    assert {'faces.png', 'walk.png', 'steps.png', 'book/00_markov_chain.ipynb', 'grid.png', 'runs/photos/model_index.json', 'runs/photos/doctor.png'} <= made

def test_citation():
    "CITATION.cff is of this version"
    facts = dict(re.findall(r'^(\w+) = (.*)$', (root/'settings.ini').read_text(encoding='utf-8'), re.M)); cite = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    assert cite['version']==facts['version'] and cite['repository-code'].endswith('/'+facts['repo'])

def test_first_screen():
    "Title, promise, picture, a command and lines of Python come before anything else; the rest is short"
    above, below = readme().split('\n## ', 1)
    signs = '# ddpm_lit', '> ', 'docs/_static/first.webp', '```sh\npython3 -m venv', '```py', 'nbs/00_markov_chain.ipynb'
    places = [above.index(sign) for sign in signs]
    assert places==sorted(places) and len(above.splitlines())<45
    assert len(readme().split())<1200
    with Image.open(root/'docs'/'_static'/'first.webp') as picture: assert picture.width>1500
    assert (root/'docs'/'_static'/'first.webp').stat().st_size<300_000

def test_beside_in_step():
    assert (root/'nbs'/'beside.md').read_text(encoding='utf-8')==beside(), 'run: python tools/readme.py'

def test_minutes_only_where_they_were_measured(tmp_path, monkeypatch):
    "`python -m bench.first` times what stands in the README, in a clone of its own; nothing is written if a part fails"
    assert minutes({'as it is': None, 'held down': None})==''
    assert [[part.split()[-1] for part in c] for c in first.commands(readme())]==[['.venv', '.', 'demo'], ['.venv', "'.[dev]'", 'auto']]
    repository = tmp_path/'repository'
    repository.mkdir()
    (repository/'README.md').write_text('python3 -m venv x && one && two')
    for line in ('init -q', 'add .', '-c user.name=a -c user.email=a@b commit -qm one'): subprocess.run(['git', *line.split()], cwd=repository, check=True)
    monkeypatch.setattr(first, 'root', repository)
    monkeypatch.setattr(first, 'commands', lambda readme: [['test -e README.md -a ! -e "$HOME"/*', 'touch made', 'test -e made']]*2)
    monkeypatch.setattr(first, 'gflops', lambda env, prefix: 200)
    file = tmp_path/'first.json'
    file.write_text('{"as it is": null, "held down": null}')
    first.main([], file)
    measured = json.loads(file.read_text())
    assert measured['held down'] is None and measured['as it is']['gflops']==[200, 200, 200]
    said = minutes({'as it is': measured['as it is'] | dict(environment_s=4.6, install_s=60.5, demo_s=59.4, tests_s=600.)})
    assert '1 min 5 s to install and 59 s for the demo' in said and '10 min 0 s' in said and '200 GFLOP/s' in said
    monkeypatch.setattr(first, 'commands', lambda readme: [['true', 'false', 'true']]*2)
    before = file.read_text()
    with pytest.raises(SystemExit, match='false'): first.main([], file)
    assert file.read_text()==before
