"""Which checks depend on a clock? A time is followed from `time.time()` and the like, line by
line, through names, lists, functions, attributes and keys, until something is asserted of it.
What is only printed is no matter."""
import ast
from collections.abc import Iterable

CLOCKS = {'time', 'perf_counter', 'process_time', 'monotonic', 'thread_time'}
CLOCKS |= {f'{c}_ns' for c in CLOCKS}
CHECKS = {'test_eq', 'test_ne', 'test_close', 'is_close'}   # fastcore's
PATIENCE = 600   # seconds; who waits less for another process fails on a slow machine

def called(node: ast.AST) -> str:
    "The last name of what is called; '' if this is no call"
    f = node.func if isinstance(node, ast.Call) else None
    return getattr(f, 'attr', getattr(f, 'id', ''))

def is_clock(node: ast.AST) -> bool:
    if called(node) not in CLOCKS: return False
    return isinstance(node.func, ast.Name) or getattr(node.func.value, 'id', '')=='time'

def is_zero(node: ast.AST) -> bool: return isinstance(node, ast.Constant) and node.value==0

def replaces_clock(function: ast.AST) -> bool:
    """monkeypatch.setattr(module.time, 'perf_counter', ...): then the test itself says what
    time it is"""
    calls = [n for n in ast.walk(function) if called(n)=='setattr']
    return any(isinstance(a, ast.Constant) and a.value in CLOCKS for c in calls
        for a in c.args)

def refuses(s: ast.If) -> bool:
    "Whether something fails or is raised in it"
    return any(isinstance(n, ast.Raise) or called(n)=='fail' for n in ast.walk(s))

class Clocked:
    """Reads statements one after the other: `names` and `keys` stand for times, `found` has
    the checks that depend on one"""
    def __init__(self, names: Iterable[str] = (), keys: Iterable[str] = ()):
        self.names, self.keys, self.found = {*names}, {*keys}, {}

    def holds(self, node: ast.AST|None) -> bool:
        "Is this a time, or made of one? A text, a length and a dict are not"
        if node is None: return False
        if is_clock(node): return True
        if isinstance(node, (ast.JoinedStr, ast.Dict)): return False
        if called(node) in ('len', 'dict', 'print'): return False
        if isinstance(node, ast.Compare) and is_zero(node.comparators[-1]):
            return False   # any time is more than 0
        if isinstance(node, ast.Name): return node.id in self.names
        if isinstance(node, ast.Attribute) and node.attr in self.keys: return True
        if isinstance(node, ast.Subscript) and getattr(node.slice, 'value', None) in self.keys:
            return True
        inner = self
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inner = self.copy()
            for g in node.generators: inner.assign(g.target, g.iter)
        elif isinstance(node, ast.Lambda): inner = self.copy(node.args)
        return any(inner.holds(child) for child in ast.iter_child_nodes(node))

    def copy(self, arguments: ast.arguments|None = None) -> 'Clocked':
        "For what has names of its own: the arguments of a function"
        own = set()
        if arguments: own = {a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)}
        inner = Clocked(self.names-own)
        inner.keys, inner.found = self.keys, self.found
        return inner

    def assign(self, target: ast.AST, value: ast.AST):
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        if both and len(target.elts)==len(value.elts):
            for t, v in zip(target.elts, value.elts): self.assign(t, v)
        else: self.mark(target, self.holds(value))

    def mark(self, target: ast.AST, time: bool):
        "What this place holds from now on"
        if isinstance(target, ast.Name):
            (self.names.add if time else self.names.discard)(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for t in target.elts: self.mark(t, time)
        elif isinstance(target, ast.Starred): self.mark(target.value, time)
        elif time and isinstance(target, ast.Attribute): self.keys.add(target.attr)
        elif time and isinstance(target, ast.Subscript):
            if isinstance(key := getattr(target.slice, 'value', None), str): self.keys.add(key)
            else: self.mark(target.value, True)

    def read(self, body: list[ast.stmt]) -> 'Clocked':
        for statement in body: self.statement(statement)
        return self

    def statement(self, s: ast.stmt):
        if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)): return self.function(s)
        for node in self.expressions(s): self.expression(node)
        if isinstance(s, ast.Assert) and self.holds(s.test): self.found[s.lineno] = s
        if isinstance(s, ast.Assign):
            for target in s.targets: self.assign(target, s.value)
        elif isinstance(s, ast.AnnAssign) and s.value: self.assign(s.target, s.value)
        elif isinstance(s, ast.AugAssign) and self.holds(s.value): self.mark(s.target, True)
        elif isinstance(s, ast.For): self.assign(s.target, s.iter)
        elif isinstance(s, ast.If) and self.holds(s.test) and refuses(s):
            self.found[s.lineno] = s
        bodies = [b for name in ('body', 'orelse', 'finalbody')
            if isinstance(b := getattr(s, name, None), list)]
        bodies += [h.body for h in getattr(s, 'handlers', [])]
        for body in bodies*2:
            self.read(body)   # twice: what one round of a loop finds out holds in the next

    def function(self, f: ast.FunctionDef|ast.AsyncFunctionDef):
        "Its name stands for a time if it returns one"
        if replaces_clock(f): return
        inner = self.copy(f.args).read(f.body)
        ends = [n.value for n in ast.walk(f) if isinstance(n, (ast.Return, ast.Yield))]
        self.mark(ast.Name(f.name), any(map(inner.holds, ends)))

    def expressions(self, s: ast.stmt) -> Iterable[ast.AST]:
        "The nodes of a statement that are in none of its bodies"
        for child in ast.iter_child_nodes(s):
            if not isinstance(child, (ast.stmt, ast.ExceptHandler)): yield from ast.walk(child)

    def expression(self, node: ast.AST):
        if isinstance(node, ast.NamedExpr): self.assign(node.target, node.value)
        elif isinstance(node, ast.Dict):
            self.keys |= {k.value for k, v in zip(node.keys, node.values)
                if isinstance(k, ast.Constant) and self.holds(v)}
        elif isinstance(node, ast.Call):
            self.keys |= {k.arg for k in node.keywords if k.arg and self.holds(k.value)}
            timed = any(map(self.holds, node.args))
            if timed and called(node) in ('append', 'extend', 'add'):
                self.mark(node.func.value, True)
            if timed and called(node) in CHECKS: self.found[node.lineno] = node

def impatient(tree: ast.AST) -> list[ast.Call]:
    "Calls that fail when something takes longer than so many seconds, if these are few"
    calls = []
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        limits = [k.value for k in node.keywords if k.arg=='timeout']
        if called(node) in ('wait', 'communicate', 'set_default_timeout'): limits += node.args
        numbers = [n.value for n in limits
            if isinstance(n, ast.Constant) and isinstance(n.value, (int, float))]
        if called(node)=='set_default_timeout':
            numbers = [n/1000 for n in numbers]   # playwright counts in ms
        if any(0<n<PATIENCE for n in numbers): calls.append(node)
    return calls+hasty_pages(tree)

def hasty_pages(tree: ast.AST) -> list[ast.Call]:
    "Where a function opens a page of a browser and leaves its limit at 30 seconds"
    pages = []
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
        if 'set_default_timeout' in map(called, calls): continue
        pages += [n for n in calls if called(n)=='new_page']
    return pages
