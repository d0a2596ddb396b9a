"Committed notebooks are clean, in step with the library, and their outputs belong to their code."
import ast, json, re, shutil, subprocess
import nbformat, pytest
from conftest import WS,WV,code_hash,root
from mutants import MUTANTS,locate

nbs = sorted((root/'nbs').glob('*.ipynb'))

@pytest.mark.parametrize('p', nbs, ids=lambda p: p.name)
def test_outputs_fresh(p):
    nb = nbformat.read(p, 4); nbformat.validate(nb)
    assert nb.metadata.get('ran')==code_hash(nb), f'{p.name}: code changed since its outputs were made: pytest nbs --save --flags slow'
    st = nb.metadata.get('widgets',{}).get(WS,{}).get('state',{})
    for c in nb.cells:
        for o in c.get('outputs',[]):
            assert o.output_type!='error', f'{p.name}: cell {c.id} holds an error'
            m = o.get('data',{}).get(WV)
            assert not m or m['model_id'] in st, f'{p.name}: cell {c.id} shows a widget whose state was not saved'

@pytest.mark.parametrize('p', nbs, ids=lambda p: p.name)
def test_clean(p):
    out = subprocess.run(['nbdev-clean','--fname',str(p),'--disp'], capture_output=True, text=True, cwd=root, check=True).stdout
    assert out.rstrip('\n')==p.read_text(encoding='utf-8').rstrip('\n'), f'{p.name}: run nbdev-clean'

def test_library_in_step(tmp_path):
    for n in ('nbs','settings.ini','ddpm_lit','pyproject.toml'):
        s = root/n; shutil.copytree(s, tmp_path/n, ignore=shutil.ignore_patterns('__pycache__')) if s.is_dir() else shutil.copy(s, tmp_path)
    subprocess.run(['nbdev-export'], cwd=tmp_path, check=True)
    for f in sorted({q.name for d in (root,tmp_path) for q in (d/'ddpm_lit').glob('*.py')}):
        a,b = (d/'ddpm_lit'/f for d in (root,tmp_path))
        assert a.exists() and b.exists() and a.read_text()==b.read_text(), f'ddpm_lit/{f} differs from what nbdev-export writes'

def test_imports_point_down():
    "A module imports only modules of lower-numbered chapters"
    number = {p.stem[3:]: int(p.stem[:2]) for p in nbs if (root/'ddpm_lit'/f'{p.stem[3:]}.py').exists()}
    for name, n in number.items():
        for node in ast.walk(ast.parse((root/'ddpm_lit'/f'{name}.py').read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('ddpm_lit.'):
                used = node.module.split('.')[1]
                assert number[used]<n, f'{name} ({n}) imports {used} ({number[used]})'

def test_index_in_step(monkeypatch):
    "The index in chapter 30 is what its cells make of the notebooks and tests as they are"
    monkeypatch.chdir(root/'nbs'); nb, names = nbformat.read('30_errata.ipynb', 4), {'re': re}
    for c in nb.cells:
        if c.cell_type=='code' and re.search(r'^def (named|collect|index)\(', c.source, re.M):
            exec(c.source.replace('Markdown(index())', ''), names)
            if 'def index' in c.source: saved = c.outputs[0].data['text/markdown']
    assert saved==names['index'](), 'the index is out of date: pytest nbs/30_errata.ipynb --save'
    lines = saved.splitlines()[2:]
    assert [re.match(r'\| \[(.*?)\]', l)[1] for l in lines]==[f'eq. {n}' for n in range(1, 16)]+['Algorithm 1', 'Algorithm 2']
    assert all(cell.strip() for l in lines for cell in l.strip('|').split(' | ')), 'a line of the index has a hole'

def test_mutants_fit():
    "Each wrong edit of tests/mutants.py can still be made"
    for module, _, right, wrong in MUTANTS: locate(root, module, right); assert wrong!=right

def test_small_enough():
    for p in nbs:
        assert p.stat().st_size<1_000_000, f'{p.name} is larger than 1 MB'
        assert len(json.dumps(nbformat.read(p, 4).metadata.get('widgets', {})))<25_000, f'{p.name}: saved widgets take much room: hide their cell'

def test_readme_in_step():
    from mkreadme import readme
    assert (root/'README.md').read_text(encoding='utf-8')==readme(), 'run: python docs/mkreadme.py'
    commands = re.findall(r'```sh\n(python3 -m venv .*)\n```', readme())
    assert len(commands)==2 and commands[1].replace('pip install', 'pip install -q') in (root/'.ci'/'run').read_text()
