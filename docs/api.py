"""The API reference: a page per module, and for each name the cell of the book that defines it
and the first that uses it."""
import ast, importlib, json, re
from functools import cache
from pathlib import Path
from typing import NamedTuple
from collections.abc import Iterator
from docutils import nodes
from fastcore.docments import docments
from sphinx import addnodes
from torch import Tensor
from nbdocs import directives
from reading import chapters, module_of, nbs

# ---------------------------------------------------------------- the cells of the book
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
    # what it exports, methods as `Class.method` -> the classes that it returns, or that its
    # fields have
    made: dict[str, set]

    @property
    def label(self) -> str: return f'{self.chapter}-{self.id}'
    @property
    def link(self) -> str: return f':ref:`{title(self.chapter)} <{self.label}>`'

def title(chapter: str) -> str:
    *floor, name = chapter.split('/')
    return f'{"workshop" if floor else "chapter"} {name[:2]}'

def names_in(tree: ast.AST|None) -> set[str]:
    "Names in an annotation, also in one that is a string"
    if tree is None: return set()
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    texts = [n.value for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return names.union(*(re.findall(r'\w+', text) for text in texts))

def patched_class(f: ast.FunctionDef) -> str:
    "'Class.' for a function that fastcore's `patch` makes a method of a class, else ''"
    marks = [getattr(getattr(d, 'func', d), 'id', '') for d in f.decorator_list]
    return f'{f.args.args[0].annotation.id}.' if 'patch' in marks else ''

def class_definitions(c: ast.ClassDef) -> Iterator[tuple[str, set[str]]]:
    fields = [f for f in c.body if isinstance(f, ast.AnnAssign)]
    yield c.name, set().union(*(names_in(f.annotation) for f in fields))
    for f in c.body:
        if isinstance(f, ast.FunctionDef): yield f'{c.name}.{f.name}', names_in(f.returns)

def definitions(body: list[ast.stmt]) -> Iterator[tuple[str, set[str]]]:
    "Of each definition at the top of a cell: its name, and the classes in its annotations"
    for s in body:
        if isinstance(s, ast.Assign):
            targets = [n for t in s.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            yield from ((n.id, set()) for n in targets)
        if isinstance(s, ast.FunctionDef): yield patched_class(s)+s.name, names_in(s.returns)
        if isinstance(s, ast.ClassDef): yield from class_definitions(s)

def used_in(tree: ast.Module) -> set[str]:
    "Names, and methods that are called as `.method`"
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return names | {f'.{f.attr}' for f in calls if isinstance(f, ast.Attribute)}

def imported_in(tree: ast.Module) -> set[str]:
    "What is imported from this package, as `module.name`"
    ours = [n for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('ddpm_lit.')]
    return {f'{n.module.removeprefix("ddpm_lit.")}.{a.name}' for n in ours for a in n.names}

def printed(outputs: list[dict]) -> str:
    "What a cell prints, or the text of what it returns; nothing of figures and warnings"
    texts = []
    for o in outputs:
        if o.get('name')=='stderr': continue
        data = o.get('data', {})
        only_text = not data.keys()-{'text/plain'}
        texts.append(o.get('text', '') or (data.get('text/plain', '') if only_text else ''))
    return '\n'.join(''.join(text).rstrip('\n') for text in texts if text)

def read_cell(chapter: str, c: dict) -> Cell:
    marks, source = directives(''.join(c['source']))
    tree = ast.parse(re.sub(r'^[%!].*', 'pass', source, flags=re.M))
    exported = marks.keys() & {'export', 'exporti'}
    made = dict(definitions(tree.body)) if exported else {}
    skipped = exported or marks.keys() & {'hide', 'slow', 'notest'}
    runs = not skipped and marks.get('eval')!='false'
    return Cell(chapter, c['id'], source, printed(c['outputs']), runs, bool(made),
        used_in(tree), imported_in(tree), made)

@cache
def book() -> list[Cell]:
    "The code cells of all chapters, in order"
    cells = []
    for chapter in chapters():
        nb = json.loads((nbs/f'{chapter}.ipynb').read_text(encoding='utf-8'))
        cells += [read_cell(chapter, c) for c in nb['cells'] if c['cell_type']=='code']
    return cells

# --------------------------------------------------------------- where a name is made and used
def definition(module: str, name: str) -> Cell|None:
    "The cell that exports a name"
    return next((c for c in reversed(book())
        if module_of(c.chapter)==module and name in c.made), None)

def first_use(cells: list[Cell], name: str) -> Cell|None:
    return next((c for c in cells if c.runs and name in c.used), None)

def example_of_method(method: str, own: list[Cell], after: list[Cell]) -> Cell|None:
    "None where it cannot be told whose method is called"
    makers = [n for c in own for n in c.made if n.endswith(method)]
    return None if hasattr(Tensor, method[1:]) or len(makers)>1 else first_use(after, method)

def example(module: str, name: str) -> Cell|None:
    """The first cell that uses a name and is run by the tests: in its chapter, after its
    definition, else in a later chapter that imports it. A class is used where something
    that returns it is, or something that has it as a field"""
    home = definition(module, name)
    if not home: return None
    own = [c for c in book() if c.chapter==home.chapter]
    after = own[own.index(home)+1:]
    if '.' in name: return example_of_method('.'+name.split('.')[1], own, after)
    if found := first_use(after, name): return found
    makers = [m for c in own for m, classes in c.made.items()
        if name in classes and m.split('.')[0]!=name]
    for maker in makers:
        if found := example(module, maker): return found
    later = book()[book().index(own[-1])+1:]
    importing = {c.chapter for c in later if f'{module}.{name}' in c.imported}
    return first_use([c for c in later if c.chapter in importing], name)

def modules() -> list[str]:
    return [*dict.fromkeys(module_of(c.chapter) for c in book() if c.exports)]
def public(module: str) -> list[str]:
    return importlib.import_module(f'ddpm_lit.{module}').__all__

# ---------------------------------------------------------------- the pages
INDEX = '''# API reference

```{{toctree}}
:hidden:

{pages}
```

| module | |
| --- | --- |
{rows}
'''
PAGE = '''# {module}

`ddpm_lit.{module}`, from [{chapter}](../{notebook}.ipynb).

```{{eval-rst}}
{what}
```
'''
COMMANDS = '.. click:: ddpm_lit.workshop.cli:cli\n   :prog: ddpm_lit\n   :nested: full'

def links_to(module: str) -> str:
    if module=='workshop.cli': return 'the command line'
    return ', '.join(f'{{py:obj}}`{name} <ddpm_lit.{module}.{name}>`'
        for name in public(module))

def page(module: str, notebook: str) -> str:
    what = COMMANDS if module=='workshop.cli' else f'.. automodule:: ddpm_lit.{module}'
    return PAGE.format(module=module, chapter=title(notebook), notebook=notebook, what=what)

def write_api(app):
    "One generated page per module, in `nbs/api/` (not committed)"
    folder = Path(app.srcdir)/'api'
    folder.mkdir(exist_ok=True)
    notebook = {module_of(name): name for name in chapters()}
    rows = [f'| [`{m}`]({m}.md) | {links_to(m)} |' for m in modules()]
    pages = {f'{m}.md': page(m, notebook[m]) for m in modules()}
    pages['index.md'] = INDEX.format(pages='\n'.join(modules()), rows='\n'.join(rows))
    for name, text in pages.items():
        file = folder/name
        if not file.exists() or file.read_text()!=text: file.write_text(text)
    for file in folder.glob('*.md'):
        if file.name not in pages: file.unlink()

# ---------------------------------------------------------------- docstrings
def with_references(text: str) -> str:
    """`eq. 5` and `eqs. 1, 7 and 11` as links to the chapters; other papers' numbers stay as
    they are"""
    def linked(m):
        year, numbers = m.groups()
        if year not in (None, '2020'): return m[0]
        before = f'{year}, ' if year else ''
        return before+re.sub(r'\d+', r':ref:`\g<0> <eq-\g<0>>`', numbers)
    return re.sub(r'(?:(\d{4}), )?\b(eqs?\. [\d, and]*\d)', linked, text)

def as_rst(text: str) -> str:
    "Docstrings are Markdown-ish"
    text = re.sub(r'(?<!`)`([^`]+)`(?!`)', r'``\1``', text)
    return with_references(re.sub(r'\$([^$]+)\$', r':math:`\1`', text))

def code_block(lexer: str, text: str) -> list[str]:
    lines = ['   '+line for line in text.splitlines()]
    return ['', f'.. code-block:: {lexer}', '', *lines, '']

def fields(obj) -> list[str]:
    "The comments of parameters (docments), as Sphinx writes them"
    lines = []
    for name, p in docments(obj, full=True).items():
        if name=='self' or not p.docment: continue
        field = 'returns' if name=='return' else f'param {name}'
        lines.append(f':{field}: {as_rst(" ".join(p.docment.split()))}')
    return lines

def split_name(name: str) -> tuple[str, str]:
    "ddpm_lit.workshop.cli.main -> workshop.cli, main"
    module = next(m for m in sorted(modules(), key=len, reverse=True)
        if name.startswith(f'ddpm_lit.{m}.'))
    return module, name.removeprefix(f'ddpm_lit.{module}.')

def is_shown(name: str, use: Cell) -> bool:
    "A cell that shows several methods is shown for the first of them"
    if '.' not in name: return True
    methods = [(c, n) for c in book() for n in c.made if '.' in n]
    return name==next(n for c, n in methods if example(module_of(c.chapter), n) is use)

def from_the_book(module: str, name: str) -> list[str]:
    "Where the book defines a name, and the cell that uses it"
    home, use = definition(module, name), example(module, name)
    if not home: return []
    used = f' Used in {use.link}:' if use else ''
    lines = ['', f'Defined in {home.link}.{used}', '']
    if not use or not is_shown(name, use): return lines
    lines += code_block('ipython3', use.source)
    if use.output and use.output.count('\n')<12: lines += code_block('text', use.output)
    return lines

def add_book(app, what, name, obj, options, lines):
    "Docstrings become reStructuredText; then parameters, definition and use"
    lines[:] = [as_rst(line) for line in lines]
    if what not in ('function', 'method', 'class', 'data'): return
    if lines and lines[-1]: lines.append('')
    if what!='data': lines += fields(obj)
    module, name = split_name(name)
    if definition(module, name) is None and '.' in name:   # a method that another chapter adds
        module = obj.__module__.removeprefix('ddpm_lit.')
    lines += from_the_book(module, name)

def skip_fields(app, what, name, obj, skip, options):
    "Fields of a class stand in its signature"
    return what=='class' and not callable(obj) and not isinstance(obj, property) or None

def words_of_a_command(app, ctx, lines):
    "Help is Markdown-ish too; what is typed stays as it is"
    def written(line: str) -> str:
        if '::' in line: return line
        if line.startswith('| '): return re.sub(r'((?:torchrun|ddpm_lit) .*)', r'``\1``', line)
        return re.sub(r'(?<![\w`-])(--[\w-]+)', r'``\1``', as_rst(line))
    lines[:] = [written(line) for line in lines]

# ---------------------------------------------------------------- finishing touches
def finish(app, doctree):
    "Each code cell of a chapter can be linked to; a constant is shown by its name"
    for n in doctree.findall(addnodes.desc):
        if n['objtype']=='data':
            n[0].children = [c for c in n[0] if not isinstance(c, addnodes.desc_annotation)]
    for n in doctree.findall(nodes.container):
        id = n.get('cell_metadata', {}).get('id') if n.get('nb_element')=='cell_code' else None
        if not id: continue
        n['ids'].append(f'cell-{id}')
        app.env.domains['std'].note_hyperlink_target(f'{app.env.docname}-{id}',
            app.env.docname, f'cell-{id}', id)

TORCH = 'https://docs.pytorch.org/docs/stable/'
ELSEWHERE = {   # there is no network when the site is built
    'Tensor': 'tensors.html',
    'torch.Tensor': 'tensors.html',
    'torch.Generator': 'generated/torch.Generator.html',
    'torch.dtype': 'tensor_attributes.html#torch.dtype',
    'torch.device': 'tensor_attributes.html#torch.device',
    'torch.nn.modules.module.Module': 'generated/torch.nn.Module.html',
    'torch.distributions.normal.Normal':
        'distributions.html#torch.distributions.normal.Normal',
    'torch.distributions.distribution.Distribution':
        'distributions.html#torch.distributions.distribution.Distribution',
    'torch.distributions.bernoulli.Bernoulli':
        'distributions.html#torch.distributions.bernoulli.Bernoulli'}

def elsewhere(app, env, node, content):
    "A name of torch leads to its documentation"
    page = ELSEWHERE.get(node['reftarget'])
    if page: return nodes.reference('', '', content, internal=False, refuri=TORCH+page)

def setup(app):
    app.connect('builder-inited', write_api)
    app.connect('autodoc-process-docstring', add_book)
    app.connect('autodoc-skip-member', skip_fields)
    app.connect('doctree-read', finish)
    app.connect('missing-reference', elsewhere)
    app.connect('sphinx-click-process-description', words_of_a_command)
    app.connect('sphinx-click-process-options', words_of_a_command)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
