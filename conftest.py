"Notebooks are tests: one pytest item per notebook, run in a fresh kernel, obeying nbdev's cell directives."
import hashlib,json,os,re,sys,nbformat,pytest,tomllib
import warm
from datetime import datetime
from jupyter_client.provisioning import local_provisioner
from less import shorten
from pathlib import Path
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError,CellTimeoutError,DeadKernelError
from unittest.mock import patch

root = Path(__file__).parent
if os.environ.get('PYTEST_XDIST_WORKER'): os.environ['OMP_NUM_THREADS'] = '1'   # the workers share the cores
os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])   # the tools of this environment
os.environ['IN_TEST'] = '1'                                                     # no progress bars
_cfg = tomllib.loads((root/'pyproject.toml').read_text())['tool']['nbdev']
skip_flags = set(_cfg['tst_flags'].split())
WS = 'application/vnd.jupyter.widget-state+json'; WV = WS.replace('state','view')

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='run the cells with these flags too: --flags "slow gpu"')
    parser.addoption('--cell-timeout', type=int, default=3600, help='seconds after which a cell is taken for a hang')
    parser.addoption('--whole', action='store_true', help='run the cells as they stand, without the short cuts of tests/less.py')
    parser.addoption('--save', action='store_true', help='write cleaned outputs back into each notebook that passes')

# with several processes, what takes longest comes first, so that none is left alone with it at the end
LONGEST = ['tests/test_docs.py', 'tests/test_doctor.py', 'tests/test_readme.py', 'tests/test_lab.py', 'nbs/12', 'nbs/13', 'nbs/11', 'tests/test_fuzz.py', 'tests/test_cli.py']

def pytest_collection_modifyitems(items):
    def place(item): return next((k for k, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))
    if os.environ.get('PYTEST_XDIST_WORKER'): items.sort(key=place)

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Of `pytest -n auto`: files whose tests share a fixture stay whole, so that it is made once; all other tests go where there is time"
    config.option.loadscopereorder = False   # not by how many tests there are
    from xdist.scheduler import LoadScopeScheduling
    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split('::')[0]
            return path if "scope='module'" in (root/path).read_text(encoding='utf-8') else nodeid

        def remove_node(self, node) -> str|None:
            "What a worker that died was running. xdist itself would run it again, and once more, and then stand still"
            work = self.assigned_work.pop(node)
            left = [(scope, test) for scope, tests in work.items() for test, done in tests.items() if not done]
            if not left: return None
            scope, crashed = left[0]
            work[scope][crashed] = True
            self.workqueue.update({scope: work[scope] for scope, _ in left if not all(work[scope].values())})
            for other in self.assigned_work: self._reschedule(other)
            return crashed
    return Scheduler(config, log) if config.option.dist=='load' else None

def pytest_collect_file(file_path, parent):
    if file_path.suffix=='.ipynb' and file_path.parent in (root/'nbs', root/'nbs'/'workshop'): return NbFile.from_parent(parent, path=file_path)

class NbFile(pytest.File):
    def collect(self): yield NbItem.from_parent(self, name='run')

class Client(NotebookClient):
    async def async_execute_cell(self, cell, i, **kw):
        self.at,d = i,dict(re.findall(r'^#\|[ \t]*(\w+)(?::[ \t]*(\S*))?', cell.source, re.M))
        if cell.cell_type!='code' or d.get('eval')=='false' or self.skip & d.keys() or 'nbdev_export(' in cell.source: return cell
        return await super().async_execute_cell(cell, i, **kw)

class NbItem(pytest.Item):
    def runtest(self):
        opt,nb = self.config.option,nbformat.read(self.path, 4)
        self.c = Client(nb, timeout=opt.cell_timeout, resources={'metadata':{'path':str(self.path.parent)}})
        self.c.skip = skip_flags-set(opt.flags.split())
        if not (opt.save or opt.whole): shorten(nb)
        env = {**os.environ, 'PYTHONPATH':str(root)}
        if opt.save:   # in a kernel as a reader starts it
            self.c.execute(env={**env, **warm.KEEP_MEMORY})
            return save(nb, self.path)
        env['DDPM_LIT_BUDGET'] = 'tiny'   # of chapters 20 and 21; what is saved is the largest budget
        if sys.platform!='linux': return self.c.execute(env=env)
        with patch.object(local_provisioner, 'launch_kernel', warm.kernel): self.c.execute(env=env)

    def repr_failure(self, excinfo):
        if not excinfo.errisinstance((CellExecutionError,CellTimeoutError,DeadKernelError)): return super().repr_failure(excinfo)
        return f'{self.path.name}, cell {self.c.at} (id {self.c.nb.cells[self.c.at].id}):\n' + re.sub(r'\x1b\[[0-9;]*m', '', str(excinfo.value))

    def reportinfo(self): return self.path,0,self.path.name

def code_hash(nb): return hashlib.sha256('\0'.join(c.source for c in nb.cells if c.cell_type=='code').encode()).hexdigest()[:16]

def stable_ids(nb):
    "Number random widget ids by first use, so that a re-run changes nothing"
    st,ids = nb.metadata.get('widgets',{}).get(WS,{}).get('state',{}),[]
    def visit(k):
        if k in ids or k not in st: return
        ids.append(k)
        for r in re.findall(r'IPY_MODEL_(\w+)', json.dumps(st[k], sort_keys=True)): visit(r)
    for c in nb.cells:
        for o in c.get('outputs',[]): visit(o.get('data',{}).get(WV,{}).get('model_id'))
    for k in set(st)-set(ids): del st[k]
    s = json.dumps(nb)
    for i,k in enumerate(ids): s = s.replace(k, f'{i:032x}')
    return nbformat.from_dict(json.loads(s))

def seconds(cell, before):
    "How long a cell ran, by the kernel's own messages; if it did not run, as long as before"
    at = cell.metadata.get('execution', {}); start, end = (at.get(k) for k in ('iopub.execute_input', 'shell.execute_reply'))
    return round((datetime.fromisoformat(end)-datetime.fromisoformat(start)).total_seconds()) if start and end else before

def save(nb, path):
    from nbdev.clean import clean_nb
    old = nb.metadata.pop('took', {}); took = {c.id: s for c in nb.cells if (s := seconds(c, old.get(c.id, 0)))>=10}
    for c in nb.cells:
        if '#| hide' in c.source: c.outputs = [o for o in c.outputs if WV not in o.get('data',{})]   # a widget that no page shows
    nb = stable_ids(nb); clean_nb(nb)
    for o in (o for c in nb.cells for o in c.get('outputs',[]) if 'text' in o): o.text = re.sub(r'\S*ipykernel_\d+/\d+\.py:\d+: ','',o.text)   # where a warning came from
    nb.metadata['ran'] = code_hash(nb)   # pyproject.toml allows these keys
    if took: nb.metadata['took'] = took  # seconds, of the cells that make a reader wait: `ddpm_lit notebooks` tells them
    nbformat.write(nb, path)
