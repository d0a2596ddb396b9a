"The README: its lines work as they stand there, for somebody who has the wheel, an empty folder, some pictures and no network."
import os, re, subprocess, sys, sysconfig, venv
from pathlib import Path
import pytest, yaml
from conftest import root
from helpers import images, wheel
from mkreadme import readme

LESS = {'--n 64': '--n 4', '--n 1000 --steps 50': '--n 20 --steps 2', '--steps 50': '--steps 2', '(1000)': '(4)', 'train my_photos/': 'train my_photos/ --steps 20'}   # so that it takes a minute
BY_HAND = {'jupyter lab book': 'a browser', 'sphinx-build -W -c docs nbs _docs': 'tests/test_docs.py', 'python -m http.server -d _docs': 'tests/test_docs.py'}   # line -> who tries it

def blocks() -> list[tuple[str, str]]:
    "The language and the text of each block of code under `Quick start`"
    return re.findall(r'^```(\w+)\n(.*?)^```', re.search(r'^## Quick start$.*?(?=^## )', readme(), re.M|re.S)[0], re.M|re.S)

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
    assert {'chain.png', 'cifar10.png', 'grid.png', 'steps.png', 'runs/photos/model_index.json', 'runs/photos/doctor.png'} <= made

def test_citation_and_film():
    "CITATION.cff is of this version; the film is there, and small"
    facts = dict(re.findall(r'^(\w+) = (.*)$', (root/'settings.ini').read_text(encoding='utf-8'), re.M)); cite = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    assert cite['version']==facts['version'] and cite['repository-code'].endswith('/'+facts['repo'])
    assert '](docs/film.webp)' in readme() and (root/'docs'/'film.webp').stat().st_size<500_000
