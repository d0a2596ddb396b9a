"The API reference: a page per module, and for each name the cell of the book that defines it and the first that uses it."
import ast,importlib,json,re
from functools import cache
from pathlib import Path
from typing import NamedTuple
from docutils import nodes
from fastcore.docments import docments
from nbdocs import directives
from reading import chapters, module_of, nbs
from sphinx import addnodes
from torch import Tensor

TORCH = 'https://docs.pytorch.org/docs/stable/'
ELSEWHERE = {'Tensor': 'tensors.html', 'torch.Tensor': 'tensors.html', 'torch.Generator': 'generated/torch.Generator.html', 'torch.dtype': 'tensor_attributes.html#torch.dtype',
    'torch.device': 'tensor_attributes.html#torch.device', 'torch.nn.modules.module.Module': 'generated/torch.nn.Module.html',
    'torch.distributions.normal.Normal': 'distributions.html#torch.distributions.normal.Normal', 'torch.distributions.distribution.Distribution': 'distributions.html#torch.distributions.distribution.Distribution',
    'torch.distributions.bernoulli.Bernoulli': 'distributions.html#torch.distributions.bernoulli.Bernoulli'}   # there is no network when the site is built

class Cell(NamedTuple):
    "A code cell of a chapter, and what is in it"
    chapter: str
    id: str
    source: str           # without directives
    output: str           # what it prints
    runs: bool            # in a test
    exports: bool
    used: set[str]        # names, and methods as `.method`
    imported: set[str]    # as `module.name`
    made: dict[str, set]  # what it exports, methods as `Class.method` -> the classes that it returns, or that its fields have

    @property
    def label(self) -> str: return f'{self.chapter}-{self.id}'
    @property
    def link(self) -> str: return f':ref:`{title(self.chapter)} <{self.label}>`'

def title(chapter: str) -> str:
    *floor, name = chapter.split('/')
    return f'{"workshop" if floor else "chapter"} {name[:2]}'

def _loads(tree): return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {w for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) for w in re.findall(r'\w+', n.value)}

def _definitions(body):
    "Of each definition at the top of a cell: its name, and the classes in its annotations"
    for s in body:
        if isinstance(s, ast.Assign): yield from ((n.id, set()) for t in s.targets for n in ast.walk(t) if isinstance(n, ast.Name))
        if isinstance(s, ast.FunctionDef):
            patch = any(getattr(getattr(d, 'func', d), 'id', '')=='patch' for d in s.decorator_list)
            yield (f'{s.args.args[0].annotation.id}.' if patch else '')+s.name, _loads(s.returns) if s.returns else set()
        if isinstance(s, ast.ClassDef):
            yield s.name, {n for f in s.body if isinstance(f, ast.AnnAssign) for n in _loads(f.annotation)}
            for f in s.body:
                if isinstance(f, ast.FunctionDef): yield f'{s.name}.{f.name}', _loads(f.returns) if f.returns else set()

def _output(outputs) -> str:
    shown = [o.get('data', {}) for o in outputs]
    text = [o.get('text', '') or ('' if {*d} - {'text/plain'} else d.get('text/plain', '')) for o,d in zip(outputs, shown) if o.get('name')!='stderr']
    return '\n'.join(''.join(t).rstrip('\n') for t in text if t)

@cache
def book() -> list[Cell]:
    "The code cells of all chapters, in order"
    cells = []
    for chapter in chapters():
        for c in json.loads((nbs/f'{chapter}.ipynb').read_text(encoding='utf-8'))['cells']:
            if c['cell_type']!='code': continue
            d,src = directives(''.join(c['source']))
            tree = ast.parse(re.sub(r'^[%!].*', 'pass', src, flags=re.M)); walk = [*ast.walk(tree)]
            made = dict(_definitions(tree.body)) if d.keys() & {'export', 'exporti'} else {}
            cells.append(Cell(chapter, c['id'], src, _output(c['outputs']), not d.keys() & {'hide', 'export', 'exporti', 'slow', 'notest'} and d.get('eval')!='false', bool(made),
                {n.id for n in walk if isinstance(n, ast.Name)} | {f'.{n.func.attr}' for n in walk if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)},
                {f'{n.module.removeprefix("ddpm_lit.")}.{a.name}' for n in walk if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith('ddpm_lit.') for a in n.names}, made))
    return cells

def definition(module: str, name: str) -> Cell|None:
    "The cell that exports a name"
    return next((c for c in reversed(book()) if module_of(c.chapter)==module and name in c.made), None)

def example(module: str, name: str) -> Cell|None:
    """The first cell that uses a name and is run by the tests: in its chapter, after its definition, else in a later chapter that imports it.
    A class is used where something that returns it is, or something that has it as a field"""
    home = definition(module, name)
    if not home: return
    own = [c for c in book() if c.chapter==home.chapter]; method = '.'+name.split('.')[1] if '.' in name else ''
    first = lambda cells: next((c for c in cells if c.runs and (method or name) in c.used), None)
    after = own[own.index(home)+1:]; importing = {c.chapter for c in book() if c.chapter>home.chapter and f'{module}.{name}' in c.imported}
    if method: return None if hasattr(Tensor, method[1:]) or sum(n.endswith(method) for c in own for n in c.made)>1 else first(after)   # whose method?
    makers = [m for c in own for m,classes in c.made.items() if name in classes and m.split('.')[0]!=name]
    return first(after) or next(filter(None, (example(module, m) for m in makers)), None) or first(c for c in book() if c.chapter in importing)

def modules() -> list[str]: return [*dict.fromkeys(module_of(c.chapter) for c in book() if c.exports)]
def public(module: str) -> list[str]: return importlib.import_module(f'ddpm_lit.{module}').__all__

def write_api(app):
    "One generated page per module, in `nbs/api/` (not committed)"
    d = Path(app.srcdir)/'api'; d.mkdir(exist_ok=True); keep = {'index.md'}
    def w(name, s):
        f = d/name; keep.add(name)
        if not f.exists() or f.read_text()!=s: f.write_text(s)
    chapter = {module_of(c.chapter): c.chapter for c in book()}
    names = lambda m: 'the command line' if m=='workshop.cli' else ', '.join(f'{{py:obj}}`{n} <ddpm_lit.{m}.{n}>`' for n in public(m))
    w('index.md', '# API reference\n\n```{toctree}\n:hidden:\n\n'+'\n'.join(modules())+'\n```\n\n| module | |\n| --- | --- |\n'+'\n'.join(f'| [`{m}`]({m}.md) | {names(m)} |' for m in modules())+'\n')
    for m in modules():
        what = '.. click:: ddpm_lit.workshop.cli:cli\n   :prog: ddpm_lit\n   :nested: full' if m=='workshop.cli' else f'.. automodule:: ddpm_lit.{m}'
        w(f'{m}.md', f'# {m}\n\n`ddpm_lit.{m}`, from [{title(chapter[m])}](../{chapter[m]}.ipynb).\n\n```{{eval-rst}}\n{what}\n```\n')
    for f in d.glob('*.md'):
        if f.name not in keep: f.unlink()

def _refs(s):
    "`eq. 5` and `eqs. 1, 7 and 11` of a docstring as links to the chapters; other papers' numbers stay as they are"
    link = lambda m: m[0] if m[1] not in (None, '2020') else (m[1]+', ' if m[1] else '')+re.sub(r'\d+', r':ref:`\g<0> <eq-\g<0>>`', m[2])
    return re.sub(r'(?:(\d{4}), )?\b(eqs?\. [\d, and]*\d)', link, s)
def _rst(s): return _refs(re.sub(r'\$([^$]+)\$', r':math:`\1`', re.sub(r'(?<!`)`([^`]+)`(?!`)', r'``\1``', s)))
def _block(lexer: str, text: str) -> list[str]: return ['', f'.. code-block:: {lexer}', '', *('   '+l for l in text.splitlines()), '']

def add_book(app, what, name, obj, options, lines):
    "Docstrings are Markdown-ish; parameter comments (docments) become fields; then where the book defines it, and the cell that uses it"
    lines[:] = [_rst(l) for l in lines]
    if what not in ('function', 'method', 'class', 'data'): return
    if lines and lines[-1]: lines.append('')
    if what!='data':
        for k,p in docments(obj, full=True).items():
            if k!='self' and p.docment: lines.append(f":{'returns' if k=='return' else 'param '+k}: " + _rst(' '.join(p.docment.split())))
    module = next(m for m in sorted(modules(), key=len, reverse=True) if name.startswith(f'ddpm_lit.{m}.'))
    name = name.removeprefix(f'ddpm_lit.{module}.')
    home,use = definition(module, name), example(module, name)
    if home is None and '.' in name:   # a method that another chapter adds
        module = obj.__module__.removeprefix('ddpm_lit.'); home,use = definition(module, name), example(module, name)
    if home: lines += ['', f'Defined in {home.link}.' + (f' Used in {use.link}:' if use else ''), '']
    if use and ('.' not in name or name==next(n for c in book() for n in c.made if '.' in n and example(module_of(c.chapter), n) is use)):   # not again for each method
        lines += _block('ipython3', use.source) + (_block('text', use.output) if use.output and use.output.count('\n')<12 else [])

def skip_fields(app, what, name, obj, skip, options):
    "Fields of a class stand in its signature"
    return what=='class' and not callable(obj) and not isinstance(obj, property) or None

def words_of_a_command(app, ctx, lines):
    "Help is Markdown-ish too; what is typed stays as it is"
    typed = lambda l: re.sub(r'((?:torchrun|ddpm_lit) .*)', r'``\1``', l)
    lines[:] = [l if '::' in l else typed(l) if l.startswith('| ') else re.sub(r'(?<![\w`-])(--[\w-]+)', r'``\1``', _rst(l)) for l in lines]

def finish(app, doctree):
    "Each code cell of a chapter can be linked to; a constant is shown by its name"
    for n in doctree.findall(lambda n: isinstance(n, addnodes.desc) and n['objtype']=='data'): n[0].children = [c for c in n[0] if not isinstance(c, addnodes.desc_annotation)]
    for n in doctree.findall(nodes.container):
        if n.get('nb_element')=='cell_code' and (i := n.get('cell_metadata', {}).get('id')):
            n['ids'].append(f'cell-{i}'); app.env.domains['std'].note_hyperlink_target(f'{app.env.docname}-{i}', app.env.docname, f'cell-{i}', i)

def elsewhere(app, env, node, content):
    "A name of torch leads to its documentation"
    if node['reftarget'] in ELSEWHERE: return nodes.reference('', '', content, internal=False, refuri=TORCH+ELSEWHERE[node['reftarget']])

def setup(app):
    for e,f in {'builder-inited': write_api, 'autodoc-process-docstring': add_book, 'autodoc-skip-member': skip_fields, 'doctree-read': finish, 'missing-reference': elsewhere,
        'sphinx-click-process-description': words_of_a_command, 'sphinx-click-process-options': words_of_a_command}.items(): app.connect(e, f)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
