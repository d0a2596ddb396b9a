"Notebooks are tests: one item each, run in a fresh kernel, obeying nbdev's cell directives."
import hashlib, io, json, os, re, sys, tomllib
from base64 import b64decode, b64encode
from datetime import datetime
from pathlib import Path
from unittest.mock import patch
sys.modules['rfc3987_syntax'] = None   # seconds of import, and nobody asks for it
import nbformat, pytest
from jupyter_client.provisioning import local_provisioner
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image
import warm
from less import shorten
from shapes import CALLS, check_shapes

check_shapes()
root = Path(__file__).parent
IS_WORKER = 'PYTEST_XDIST_WORKER' in os.environ
if IS_WORKER:   # they share the cores
    os.environ['OMP_NUM_THREADS'] = '1'
    os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '1'
tools = str(Path(sys.executable).parent)   # of this environment
os.environ['PATH'] = os.pathsep.join([tools, os.environ['PATH']])
os.environ['IN_TEST'] = '1'   # no progress bars
settings = tomllib.loads((root/'pyproject.toml').read_text())['tool']['nbdev']
SKIPPED = {*settings['tst_flags'].split()}
STATE = 'application/vnd.jupyter.widget-state+json'   # of all widgets, in the metadata
VIEW = 'application/vnd.jupyter.widget-view+json'     # of one, in an output

def pytest_addoption(parser):
    parser.addoption('--flags', default='',
        help='run the cells with these flags too: --flags "slow gpu"')
    parser.addoption('--whole', action='store_true',
        help='run the cells as they stand, without the short cuts of tests/less.py')
    parser.addoption('--save', action='store_true',
        help='write cleaned outputs back into each notebook that passes')

# ---------------------------------------------------------------- several processes
# What takes longest comes first, so that none is left alone with it at the end.
LONGEST = [
    'tests/test_docs.py', 'tests/test_readme.py', 'tests/test_doctor.py', 'tests/test_lab.py',
    'nbs/workshop/05', 'nbs/12', 'nbs/11', 'nbs/13', 'nbs/workshop/10',
    'nbs/20', 'nbs/workshop/03', 'nbs/17', 'tests/test_cli.py', 'tests/test_fast.py']

def pytest_collection_modifyitems(items):
    def place(item) -> int:
        places = [k for k, start in enumerate(LONGEST) if item.nodeid.startswith(start)]
        return places[0] if places else len(LONGEST)
    if IS_WORKER: items.sort(key=place)

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of `pytest -n auto`: files whose tests share a fixture stay whole, so that it is made
    once; all other tests go where there is time"""
    config.option.loadscopereorder = False   # not by how many tests there are
    from xdist.scheduler import LoadScopeScheduling
    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split('::')[0]
            shares = "scope='module'" in (root/path).read_text(encoding='utf-8')
            return path if shares else nodeid

        def remove_node(self, node) -> str|None:
            """What a worker that died was running. xdist itself would run it again, and once
            more, and then stand still"""
            work = self.assigned_work.pop(node)
            left = [tests for tests in work.values() if not all(tests.values())]
            if not left: return None
            crashed = next(test for test, done in left[0].items() if not done)
            left[0][crashed] = True
            for scope, tests in work.items():
                if not all(tests.values()): self.workqueue[scope] = tests
            for other in self.assigned_work: self._reschedule(other)
            return crashed
    return Scheduler(config, log) if config.option.dist=='load' else None

@pytest.fixture(autouse=True, scope='session')
def few_steps():
    "What the command draws of a run takes three steps"
    from ddpm_lit.workshop import cli
    with patch.object(cli, '_in_few_steps', lambda model, steps: model.using('ddpm', 3)): yield

def pytest_runtest_setup(item):
    CALLS.clear()   # whatever ran before: the same calls are looked at

# ---------------------------------------------------------------- notebooks
def pytest_collect_file(file_path, parent):
    if file_path.suffix=='.ipynb' and file_path.parent in (root/'nbs', root/'nbs'/'workshop'):
        return NbFile.from_parent(parent, path=file_path)

CAN_WAIT = {   # nothing is built on them
    '14_swiss_roll.ipynb', '15_heartbeat.ipynb', '16_generative_models.ipynb',
    '21_celeba.ipynb', '22_detail_and_colour.ipynb', '30_errata.ipynb'}

class NbFile(pytest.File):
    def collect(self):
        item = NbItem.from_parent(self, name='run')
        was_asked_for = any(name.endswith(self.path.name) for name in self.config.args)
        if self.path.name in CAN_WAIT and not was_asked_for: item.add_marker('soak')
        if self.config.option.save: item.add_marker(pytest.mark.timeout(0))   # it may train
        yield item

class Client(NotebookClient):
    "Runs a notebook, except cells with a flag in `skip`"
    def __init__(self, nb, skip: set[str], **kw):
        super().__init__(nb, **kw)
        self.skip = skip

    async def async_execute_cell(self, cell, i, **kw):
        self.at = i
        flags = dict(re.findall(r'^#\|[ \t]*(\w+)(?::[ \t]*(\S*))?', cell.source, re.M))
        is_off = flags.get('eval')=='false' or 'nbdev_export(' in cell.source
        if cell.cell_type!='code' or is_off or self.skip & flags.keys(): return cell
        return await super().async_execute_cell(cell, i, **kw)

FAILURES = CellExecutionError, DeadKernelError

class NbItem(pytest.Item):
    def runtest(self):
        options, nb = self.config.option, nbformat.read(self.path, 4)
        skip, folder = SKIPPED-{*options.flags.split()}, str(self.path.parent)
        self.client = Client(nb, skip, timeout=None,
            resources={'metadata': {'path': folder}})
        if not (options.save or options.whole): shorten(nb)
        env = {**os.environ, 'PYTHONPATH': str(root)}
        if options.save:   # in a kernel as a reader starts it, but for fine screens
            self.client.extra_arguments = ["--InlineBackend.figure_formats={'retina'}"]
            self.client.execute(env={**env, **warm.KEEP_MEMORY})
            return save(nb, self.path)
        env['DDPM_LIT_BUDGET'] = 'tiny'   # of chapters 20 and 21; else `laptop`
        if sys.platform!='linux': return self.client.execute(env=env)
        with patch.object(local_provisioner, 'launch_kernel', warm.kernel):
            self.client.execute(env=env)

    def repr_failure(self, excinfo):
        if not excinfo.errisinstance(FAILURES): return super().repr_failure(excinfo)
        cell = self.client.nb.cells[self.client.at]
        said = re.sub(r'\x1b\[[0-9;]*m', '', str(excinfo.value))
        return f'{self.path.name}, cell {self.client.at} (id {cell.id}):\n{said}'

    def reportinfo(self): return self.path, 0, self.path.name

# ---------------------------------------------------------------- saved outputs
def code_hash(nb) -> str:
    "Of all code cells: outputs belong to them"
    sources = [c.source for c in nb.cells if c.cell_type=='code']
    return hashlib.sha256('\0'.join(sources).encode()).hexdigest()[:16]

def widget_states(nb) -> dict:
    return nb.metadata.get('widgets', {}).get(STATE, {}).get('state', {})

def widgets_in_order(nb) -> list[str]:
    "The widgets that outputs show, and those that these refer to, by first use"
    states, found = widget_states(nb), []
    def visit(id):
        if id in found or id not in states: return
        found.append(id)
        text = json.dumps(states[id], sort_keys=True)
        for other in re.findall(r'IPY_MODEL_(\w+)', text): visit(other)
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            visit(output.get('data', {}).get(VIEW, {}).get('model_id'))
    return found

def stable_ids(nb):
    "Number random widget ids by first use, so that a re-run changes nothing"
    ids, states = widgets_in_order(nb), widget_states(nb)
    for id in states.keys()-{*ids}: del states[id]
    text = json.dumps(nb)
    for k, id in enumerate(ids): text = text.replace(id, f'{k:032x}')
    return nbformat.from_dict(json.loads(text))

def seconds(cell, before: int) -> int:
    "How long a cell ran, by the kernel's own messages; if it did not run, as long as before"
    at = cell.metadata.get('execution', {})
    start, end = at.get('iopub.execute_input'), at.get('shell.execute_reply')
    if not (start and end): return before
    return round((datetime.fromisoformat(end)-datetime.fromisoformat(start)).total_seconds())

def in_few_colours(png: str) -> str:
    "A picture, as base64, in 256 colours of its own: a third of the bytes"
    few = io.BytesIO()
    picture = Image.open(io.BytesIO(b64decode(png))).convert('RGB')
    picture.quantize(256, dither=Image.Dither.NONE).save(few, 'png', optimize=True)
    return b64encode(few.getvalue()).decode()

WHERE_A_WARNING_CAME_FROM = r'\S*ipykernel_\d+/\d+\.py:\d+: '

def save(nb, path: Path):
    """Write a notebook that has run: clean, its widgets numbered, with the time of the cells
    that make a reader wait"""
    from nbdev.clean import clean_nb
    before = nb.metadata.pop('took', {})
    took = {c.id: seconds(c, before.get(c.id, 0)) for c in nb.cells}
    took = {id: s for id, s in took.items() if s>=10}
    for cell in nb.cells:
        for output in cell.get('outputs', []):   # it stands on a page without its widget
            if 'class="living"' in output.get('data', {}).get('text/html', ''):
                output.data = {'text/html': output.data['text/html']}
        if '#| hide' not in cell.source: continue
        # a widget that no page shows
        cell.outputs = [o for o in cell.outputs if VIEW not in o.get('data', {})]
    nb = stable_ids(nb)
    clean_nb(nb, allowed_out_metadata_keys=settings['allowed_out_metadata_keys'])
    for output in [o for c in nb.cells for o in c.get('outputs', [])]:
        png = output.get('data', {}).get('image/png')
        if png: output.data['image/png'] = in_few_colours(png)
    for output in [o for c in nb.cells for o in c.get('outputs', []) if 'text' in o]:
        output.text = re.sub(WHERE_A_WARNING_CAME_FROM, '', output.text)
    nb.metadata['ran'] = code_hash(nb)   # pyproject.toml allows these keys
    if took: nb.metadata['took'] = took  # `ddpm_lit notebooks` tells them
    nbformat.write(nb, path)
