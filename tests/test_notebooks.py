"Committed notebooks are clean, in step with the library; outputs belong to their code."
import ast, io, json, os, re, shutil, subprocess, symtable, sys
from contextlib import redirect_stdout
from pathlib import Path
import nbformat, pytest
from clocks import Clocked, impatient
from conftest import VIEW, code_hash, root, widget_states
from mutants import MUTANTS, edit, files_of, mutants
from nbdev.clean import nbdev_clean
from reading import chapters, module_of

nbs = [root/'nbs'/'index.ipynb', *(root/'nbs'/f'{name}.ipynb' for name in chapters())]
modules = sorted((root/'ddpm_lit').rglob('*.py'))

@pytest.mark.parametrize('p', nbs, ids=lambda p: p.name)
def test_outputs_fresh(p):
    nb = nbformat.read(p, 4)
    nbformat.validate(nb)
    says = 'code changed: pytest nbs --save --flags slow'
    assert nb.metadata.get('ran')==code_hash(nb), says
    states = widget_states(nb)
    for c in nb.cells:
        for o in c.get('outputs', []):
            assert o.output_type!='error', f'cell {c.id} holds an error'
            view = o.get('data', {}).get(VIEW)
            assert not view or view['model_id'] in states, f'cell {c.id}: a lost widget'

@pytest.mark.parametrize('p', nbs, ids=lambda p: p.name)
def test_clean(p, monkeypatch):
    monkeypatch.chdir(root)
    with redirect_stdout(io.StringIO()) as said: nbdev_clean(fname=str(p), disp=True)
    saved = p.read_text(encoding='utf-8')
    assert said.getvalue().rstrip('\n')==saved.rstrip('\n'), 'run nbdev-clean'

def texts(folder: Path) -> dict[str, str]:
    "Of the library's modules"
    files = (folder/'ddpm_lit').rglob('*.py')
    return {str(p.relative_to(folder)): p.read_text(encoding='utf-8') for p in files}

def test_library_in_step(tmp_path):
    leave = shutil.ignore_patterns('__pycache__')
    for name in ('nbs', 'ddpm_lit'): shutil.copytree(root/name, tmp_path/name, ignore=leave)
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(root/name, tmp_path)
    subprocess.run(['nbdev-export'], cwd=tmp_path, check=True)
    here, there = texts(root), texts(tmp_path)
    assert here.keys()==there.keys()
    assert not [p for p in here if here[p]!=there[p]], 'run nbdev-export'

def imported(path) -> set[str]:
    "The modules of this package that a module imports, wherever in its text"
    package, found = path.relative_to(root).parent.parts, set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        start = package[:len(package)+1-node.level] if node.level else ()
        module = '.'.join([*start, *([node.module] if node.module else [])])
        found |= {module} | {f'{module}.{a.name}' for a in node.names}
    return {m.removeprefix('ddpm_lit.') for m in found if f'{m}.'.startswith('ddpm_lit.')}

def test_imports_point_down():
    """A module imports only what is above it in the reading order: the book, chapter by
    chapter, then the workshop"""
    names = map(module_of, chapters())
    files = {m: root/'ddpm_lit'/f'{m.replace(".", "/")}.py' for m in names}
    order = [m for m, path in files.items() if path.exists()]
    arrows = {(m, used) for m in order for used in imported(files[m])}
    assert ('reverse', 'forward') in arrows and ('workshop.doctor', 'forward') in arrows
    for m, used in arrows:
        assert used not in order[order.index(m):], f'{m} imports {used}'

def test_index_in_step(monkeypatch):
    "The index in chapter 30 is what its cells make of the notebooks and tests as they are"
    monkeypatch.chdir(root/'nbs')
    nb, names = nbformat.read('30_errata.ipynb', 4), {'re': re}
    for c in nb.cells:
        if c.cell_type=='code' and re.search(r'^def (named|collect|index)\(', c.source, re.M):
            exec(c.source.replace('Markdown(index())', ''), names)
            if 'def index' in c.source: saved = c.outputs[0].data['text/markdown']
    assert saved==names['index'](), 'pytest nbs/30_errata.ipynb --save'
    lines = saved.splitlines()[2:]
    named = [re.match(r'\| \[(.*?)\]', l)[1] for l in lines]
    assert named==[*(f'eq. {n}' for n in range(1, 16)), 'Algorithm 1', 'Algorithm 2']
    for l in lines: assert all(cell.strip() for cell in l.strip('|').split(' | ')), l

@pytest.mark.parametrize('module', MUTANTS)
def test_mutants_fit(module):
    "Each wrong edit of tools/mutants.py can still be made, in one place, and changes the code"
    right = ast.dump(ast.parse(files_of(root, module)[0].read_text(encoding='utf-8')))
    for mutant in mutants(module):
        assert ast.dump(ast.parse(edit(root, module, mutant).module))!=right, mutant

def test_small_enough():
    for p in nbs:
        assert p.stat().st_size<1_000_000, f'{p.name} is larger than 1 MB'
        widgets = json.dumps(nbformat.read(p, 4).metadata.get('widgets', {}))
        assert len(widgets)<25_000, f'{p.name}: saved widgets take much room: hide their cell'

def test_readme_in_step():
    from readme import readme
    saved = (root/'README.md').read_text(encoding='utf-8')
    assert saved==readme(), 'run: python tools/readme.py'
    _, tests = re.findall(r'```sh\n(python3 -m venv .*)\n```', readme())
    assert tests.replace('pip install', 'pip install -q') in (root/'.ci'/'run').read_text()

DYING = """
import os, pytest
@pytest.mark.parametrize('k', range(6))
def test_one(k):
    if k==2: os._exit(1)
"""

HANGING = """
import pytest, threading
@pytest.mark.parametrize('k', range(6))
def test_one(k):
    if k==2: threading.Event().wait()
"""

def told_by(folder, tests: str, *options: str) -> str:
    "What pytest says of this file of tests, with our conftest.py"
    needed = 'warm.py', 'less.py', 'shapes.py'
    for name in ('conftest.py', 'pyproject.toml', *(f'tests/{name}' for name in needed)):
        (folder/name).parent.mkdir(exist_ok=True)
        shutil.copy(root/name, folder/name)
    (folder/'tests'/'test_these.py').write_text(tests)
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
    command = [sys.executable, '-m', 'pytest', '-q', '-n', '2', *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True).stdout

@pytest.mark.soak
def test_a_worker_that_dies(tmp_path):
    "The test that it was running fails, and all others are run"
    said = told_by(tmp_path, DYING, 'tests')
    assert '1 failed, 5 passed' in said and 'crashed while running' in said, said

@pytest.mark.soak
def test_what_hangs(tmp_path):
    "A test and a cell fail, and all others are run"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('while True: pass')])
    (tmp_path/'nbs').mkdir()
    nbformat.write(nb, tmp_path/'nbs'/'hanging.ipynb')
    said = told_by(tmp_path, HANGING, '--timeout', '60')
    assert '2 failed, 5 passed' in said and said.count('Timeout (>60.0s)')>=2, said

# ---------------------------------------------------------------- clocks
LOGGED = {'seconds', 'images_per_second'}   # columns of log.csv

def code(p) -> ast.Module:
    "What a test file says, or all cells of a notebook"
    if p.suffix=='.py': return ast.parse(p.read_text(encoding='utf-8'))
    cells = [c.source for c in nbformat.read(p, 4).cells if c.cell_type=='code']
    return ast.parse('\n'.join(cells))

def checks_of_time(tree: ast.Module, known: dict[str, set[str]] = {}) -> list[ast.AST]:
    "`known` says which functions of the library's modules return a time"
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names = {a.name for n in imports for a in n.names if a.name in known.get(n.module, ())}
    keys = Clocked(names, LOGGED).read(tree.body).keys   # those that are set further down, too
    return [*Clocked(names, keys).read(tree.body).found.values(), *impatient(tree)]

def test_no_check_reads_a_clock():
    """A slow machine fails no test. What is done can be counted; how long it takes is printed,
    and measured by `python -m bench`"""
    known = {}   # module -> its functions that return a time
    for p in modules:
        name = '.'.join(p.relative_to(root).with_suffix('').parts)
        known[name] = Clocked().read(code(p).body).names
    for p in [*nbs, *(root/'tests').glob('*.py')]:
        found = [ast.unparse(n) for n in checks_of_time(code(p), known)]
        assert not found, f'{p.name}: these depend on a clock:\n' + '\n'.join(found)

@pytest.mark.parametrize('checks, source', [
    (1, 'start = time.time()\nwork()\nassert time.time()-start<10'),
    (1, 'took = []\nfor v in values: s = time.process_time(); f(v); '
        'took.append(time.process_time()-s)\nassert sorted(took)[2]<200'),
    (1, 'def cost(f):\n    a = perf_counter(); f()\n    return sorted([perf_counter()-a])\n'
        'c = cost(f)\ntest_close(c[0], 1)'),
    (1, 'def cost(f): s = time.time(); f(); return time.time()-s\n'
        'd["x"] = dict(n=1, us=cost(f))\nassert d["x"]["us"]>10'),
    (1, 'class A:\n    def test(self): assert rows[-1]["images_per_second"]>100'),
    (1, 'a = time.monotonic()\nif time.monotonic()-a>5: raise Slow'),
    (1, 'p.communicate(timeout=60)'),
    (1, 'page.set_default_timeout(120_000)'),
    (1, 'def open(browser): return browser.new_page()'),
    (0, 'start = time.time()\nprint(f"{time.time()-start:.0f} s")\nstart = 3\nassert start<4'),
    (0, 'took = time.time()\nassert len(rows)==3\ndef f(took): assert took<4'),
    (0, 'd = dict(seconds=time.time(), n=3)\nassert d["n"]==3 and d["seconds"]>0'),
    (0, 'def test(monkeypatch):\n    monkeypatch.setattr(time, "time", lambda: 3)\n'
        '    assert time.time()==3'),
    (0, 'subprocess.run(command, timeout=900)')])
def test_a_check_of_time_is_found(checks, source):
    assert len(checks_of_time(ast.parse(source)))==checks

# ---------------------------------------------------------------- sliders
def bound(cell: str) -> set[str]:
    "The names that a cell leaves to those after it"
    top = symtable.symtable(cell, 'a cell', 'exec')
    return {s.get_name() for s in top.get_symbols() if s.is_assigned()}

def looked_up(table: symtable.SymbolTable) -> set[str]:
    "The names of the notebook that functions in here look up when they are called"
    names = {s.get_name() for s in table.get_symbols() if s.is_global()}
    nested = [looked_up(child) for child in table.get_children()]
    return (names if table.get_type()=='function' else set()).union(*nested)

def rebound(cells: list[str]) -> list[str]:
    "Names that a moved slider looks up, and that a cell further down gives to another thing"
    found = []
    for k, cell in enumerate(cells):
        if 'live(' not in cell: continue
        asked = looked_up(symtable.symtable(cell, 'a cell', 'exec'))
        found += [name for after in cells[k+1:] for name in asked & bound(after)]
    return found

@pytest.mark.parametrize('p', nbs, ids=lambda p: p.name)
def test_sliders_keep_their_names(p):
    cells = [c.source for c in nbformat.read(p, 4).cells if c.cell_type=='code']
    assert not rebound(cells)

@pytest.mark.parametrize('found, after', [
    (['seen'], 'seen = .5'), (['seen'], 'for seen in range(3): pass'),
    ([], 'fig = 3'), ([], 'def f(seen): seen = seen+1'), ([], 'print(seen)')])
def test_a_name_used_again_is_found(found, after):
    cell = 'fig, seen = plt.subplots()\nlive(fig, lambda t: seen.set_data(t), t=Slider())'
    assert rebound([cell, after])==found
