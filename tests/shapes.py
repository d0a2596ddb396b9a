"""While tests run, functions of the package refuse what their signatures do not say: types,
and shapes that do not fit together. In pytest's processes and in the kernels of chapters; each
function in its first calls of a test or chapter: a chain of a thousand steps would take
several times as long."""
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import cache, partial, wraps
from inspect import isclass
import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning

FIRST = 200        # calls of a function in a test that are looked at
CALLS = Counter()  # of each function so far; conftest.py clears it before a test
looking = True     # at all of them

@contextmanager
def unwatched():
    global looking
    looking = False
    try: yield
    finally: looking = True

def checked(f):
    "An int is a float; to fastcore's `patch`, `cls: Schedule` is the class itself"
    f.__annotations__ = {k: v for k, v in f.__annotations__.items() if k!='cls'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', BeartypeDecorHintPep585DeprecationWarning)
        return beartype(f, conf=BeartypeConf(is_pep484_tower=True))

def polite(f, jaxtyped):
    """What `f`, or what it calls, refuses with a sentence of its own, is no fault of the
    caller's. The checks are made when `f` is first called: an import makes none"""
    from torch.compiler import is_compiling   # after conftest.py has set the threads
    strict = cache(lambda: jaxtyped(f))
    @wraps(f)
    def g(*args, **kw):
        if is_compiling() or not looking or CALLS[f]>=FIRST: return f(*args, **kw)
        CALLS[f] += 1
        try: return strict()(*args, **kw)
        except jaxtyping.TypeCheckError as refused:
            try:
                with unwatched(): f(*args, **kw)
            except ValueError: raise
            except Exception: pass
            raise refused
    return g

def check_shapes():
    "Of the functions that are imported from now on; a class looks at its fields itself"
    jaxtyped = jaxtyping.jaxtyped
    def decorator(typechecker):
        def decorate(f):
            if isclass(f): return f
            return polite(f, partial(jaxtyped, typechecker=typechecker))
        return decorate
    jaxtyping.jaxtyped = decorator
    jaxtyping.install_import_hook('ddpm_lit', 'shapes.checked')
